from __future__ import annotations

import socket
import urllib.request
from collections import Counter

import pytest
from prometheus_client.parser import text_string_to_metric_families

from loadtest.metrics.histogram import Histogram
from loadtest.metrics.latencies import Latencies
from loadtest.metrics.tally import Tally
from loadtest.output.exporter import BUCKETS, MetricsRefused, cumulate, serve_metrics


class Source:
    def __init__(self, **labels: str) -> None:
        self.labels = labels
        self.tally = Tally()
        self.errors = Counter({"ConnectionLost": 2})
        self.phase = "measure"
        self.latencies = (Latencies(), Latencies())


def read(url: str) -> dict[str, float]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    return {
        f"{sample.name} {sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_counters_and_latencies_are_those_of_the_moment() -> None:
    source = Source(run_id="x", stage='a "quoted" one')
    with serve_metrics(("127.0.0.1", 0), [source]) as url:
        assert url is not None
        source.tally.confirmed = 7
        source.latencies[0].confirm.record(3_000_000)
        source.latencies[1].confirm.record(7_000_000_000)
        found = read(url)
        labels = [("run_id", "x"), ("stage", 'a "quoted" one')]
        assert found[f"loadtest_messages_confirmed_total {labels}"] == 7
        assert found[f"loadtest_errors_total {sorted([*labels, ('error', 'ConnectionLost')])}"] == 2
        assert found[f"loadtest_phase {sorted([*labels, ('phase', 'measure')])}"] == 1
        counts = {
            limit: found[f"loadtest_latency_seconds_bucket {sorted([*labels, ('kind', 'confirm'), ('le', limit)])}"]
            for limit in ("0.002", "0.005", "5.0", "10.0", "+Inf")
        }
        assert counts == {"0.002": 0, "0.005": 1, "5.0": 1, "10.0": 2, "+Inf": 2}
        assert found[f"loadtest_latency_seconds_sum {sorted([*labels, ('kind', 'confirm')])}"] == pytest.approx(
            7.003, rel=1e-3
        )
        source.tally.confirmed = 8
        assert read(url)[f"loadtest_messages_confirmed_total {labels}"] == 8
    with pytest.raises(OSError):
        read(url)


def test_all_that_may_grow_is_there_from_the_beginning() -> None:
    with serve_metrics(("127.0.0.1", 0), [Source(run_id="x")]) as url:
        assert url is not None
        found = read(url)
    for kind in ("connect", "confirm", "end_to_end", "rpc", "lag"):
        assert found[f"loadtest_latency_seconds_count [('kind', '{kind}'), ('run_id', 'x')]"] == 0
    assert found["loadtest_messages_unconfirmed_total [('run_id', 'x')]"] == 0


def test_each_bucket_holds_what_is_no_longer_than_its_limit() -> None:
    histogram = Histogram()
    for limit in BUCKETS:
        histogram.record(int(limit * 0.998e9))
        histogram.record(int(limit * 1.02e9))
    buckets, _ = cumulate([histogram])
    assert [count for _, count in buckets] == [*range(1, 2 * len(BUCKETS), 2), 2 * len(BUCKETS)]


def test_nothing_is_served_unasked() -> None:
    with serve_metrics(None, [Source()]) as url:
        assert url is None


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(MetricsRefused, match=f"--metrics 127.0.0.1:{port}: "),
            serve_metrics(("127.0.0.1", port), [Source()]),
        ):
            pass


def test_labels_that_prometheus_would_call_alike_stay_apart() -> None:
    source = Source(**{"label_a-b": "1", "label_a_b": "2", "label_ä_b": "3"})
    with serve_metrics(("127.0.0.1", 0), [source]) as url:
        assert url is not None
        found = [name for name in read(url) if name.startswith("loadtest_messages_sent_total")]
    assert found == ["loadtest_messages_sent_total [('label___b', '3'), ('label_a_b', '1'), ('label_a_b_', '2')]"]


def test_an_address_of_ipv6_is_told_as_a_url_has_it() -> None:
    with serve_metrics(("::1", 0), [Source(run_id="x")]) as url:
        assert url is not None and url.startswith("http://[::1]:")
        assert read(url)


@pytest.mark.parametrize("host", ["..", "a" * 64, "no.such.host.invalid"])
def test_what_is_no_address_is_refused(host: str) -> None:
    with pytest.raises(MetricsRefused, match="--metrics"), serve_metrics((host, 0), [Source()]):
        pass
