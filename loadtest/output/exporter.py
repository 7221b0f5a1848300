"""`--metrics HOST:PORT`: a run's counters and latencies for Prometheus, while it goes on.

They are read when somebody asks, from the run's own counters, by a thread of the library's server: whole numbers, which
no lock guards. What nobody asks for costs nothing. Each counter and each kind of latency is there from the beginning,
at 0: whoever asks how much one grew knows nothing of what was in it when it came.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Protocol

from loadtest.metrics.histogram import Counts, Histogram, bucket_limits
from loadtest.metrics.latencies import Latencies
from loadtest.metrics.tally import Tally

BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Upper bounds of the histograms' buckets, in seconds."""

_COUNTERS = {
    "messages_sent": ("sent", "messages published"),
    "messages_confirmed": ("confirmed", "publishes that the broker confirmed"),
    "messages_unconfirmed": ("unconfirmed", "publishes that no confirm was asked for"),
    "messages_nacked": ("nacked", "publishes that the broker did not take"),
    "messages_returned": ("returned", "publishes that no queue took"),
    "messages_unknown": ("unknown", "publishes whose outcome will not be known"),
    "messages_received": ("received", "deliveries of this run's messages"),
    "messages_redelivered": ("redelivered", "deliveries that the broker says are not the first"),
    "messages_foreign": ("foreign", "deliveries of others' messages"),
    "rpc_calls": ("calls", "RPC calls"),
    "rpc_replies": ("replies", "RPC calls that were answered"),
    "rpc_timeouts": ("rpc_timeouts", "RPC calls that were not answered in time"),
    "rpc_errors": ("rpc_errors", "RPC calls that failed"),
    "connections_opened": ("connected", "connections that were opened"),
    "connections_failed": ("failed", "connections that could not be opened"),
    "connections_dropped": ("dropped", "connections that were lost"),
}
_LATENCIES = {
    "connect": "connect",
    "confirm": "confirm",
    "confirm_service": "service",
    "lag": "lag",
    "end_to_end": "end_to_end",
    "rpc": "rpc",
    "rpc_service": "rpc_service",
}


class MetricsRefused(Exception):
    """Nothing can be served there, or not with what is installed."""


class Source(Protocol):
    """What is exported of a run, as it is at the moment of asking."""

    @property
    def labels(self) -> Mapping[str, str]:
        """What is on every sample of it; of all runs the same names."""
        ...

    @property
    def tally(self) -> Tally: ...
    @property
    def errors(self) -> Mapping[str, int]: ...
    @property
    def phase(self) -> str: ...
    @property
    def latencies(self) -> tuple[Latencies, ...]:
        """Those of the measured window, and those outside it; none if nothing is known of them."""
        ...


@contextmanager
def serve_metrics(address: tuple[str, int] | None, sources: Sequence[Source]) -> Iterator[str | None]:
    """Serves them while the block lasts, at the URL it yields; does nothing without an address. MetricsRefused if the
    address can't be listened on.
    """
    if address is None:
        yield None
        return
    try:
        from prometheus_client import CollectorRegistry, start_http_server
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
    except ModuleNotFoundError as error:
        raise MetricsRefused(
            f"--metrics needs the package {error.name!r}: in a clone of rabbitry, pip install '.[loadtest]'"
        ) from None
    names = _label_names(sources[0].labels)

    class Collector:
        """Makes the samples of the moment."""

        def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]:
            for name, (count, text) in _COUNTERS.items():
                counter = CounterMetricFamily(f"loadtest_{name}", text, labels=names)
                for source in sources:
                    counter.add_metric(list(source.labels.values()), getattr(source.tally, count))
                yield counter
            errors = CounterMetricFamily("loadtest_errors", "errors by their name", labels=[*names, "error"])
            phase = GaugeMetricFamily("loadtest_phase", "1 for the phase that the run is in", labels=[*names, "phase"])
            text = "latencies, from when something was due"
            latency = HistogramMetricFamily("loadtest_latency_seconds", text, labels=[*names, "kind"])
            for source in sources:
                values = list(source.labels.values())
                phase.add_metric([*values, source.phase], 1)
                for error, number in dict(source.errors).items():
                    errors.add_metric([*values, error], number)
                for kind, field in _LATENCIES.items() if source.latencies else ():
                    buckets, total = cumulate([getattr(each, field) for each in source.latencies])
                    latency.add_metric([*values, kind], buckets, total)
            yield from (errors, phase, latency)

    registry = CollectorRegistry()
    registry.register(Collector())
    host, port = address
    try:
        server, thread = start_http_server(port, host, registry)
    except (OSError, UnicodeError) as error:  # the latter of what can be no host's name
        raise MetricsRefused(f"--metrics {host}:{port}: {getattr(error, 'strerror', None) or error}") from None
    try:
        yield f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _label_names(labels: Iterable[str]) -> list[str]:
    """Prometheus's names for them: letters, digits and underscores, and each only once."""
    names: list[str] = []
    for label in labels:
        name = re.sub(r"\W", "_", label, flags=re.ASCII)
        while name in names:
            name += "_"
        names.append(name)
    return names


def cumulate(histograms: list[Histogram]) -> tuple[list[tuple[str, float]], float]:
    """How many samples of these histograms are no longer than each of the buckets' limits, in seconds, and the sum of
    all samples, to the three digits that a histogram keeps.
    """
    counts, total = [0] * (len(BUCKETS) + 1), 0.0
    for histogram in histograms:
        found: Counts = dict(histogram.counts)  # at once, as the run goes on meanwhile
        for index, number in found.items():
            seconds = sum(bucket_limits(index)) / 2e6
            counts[bisect_left(BUCKETS, seconds)] += number
            total += number * seconds
    limits = [*map(str, BUCKETS), "+Inf"]
    return list(zip(limits, accumulate(counts), strict=True)), total
