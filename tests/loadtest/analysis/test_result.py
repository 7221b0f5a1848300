"""What becomes of a record, or of several: no run, no broker, values alone."""

from __future__ import annotations

import json
from dataclasses import replace

from loadtest.analysis.facts import gather_facts
from loadtest.analysis.result import build_result
from loadtest.drivers.base import Outcome
from loadtest.metrics.ledger import Ledger
from loadtest.metrics.record import Cost, Phase, Planned, Record, Stock, Weighed, Work
from loadtest.metrics.tally import Tally
from loadtest.metrics.timeline import Timeline
from loadtest.scenarios.completing import Asked, complete

SETTINGS = complete(Asked(producers=2, consumers=2, rate=100.0, seed=3), {})
COST = Cost(
    client_cpu_seconds=1.0,
    client_rss_peak_bytes=10**8,
    broker_cpu_seconds=3.0,
    broker_rss_peak_bytes=10**9,
    machine_busy_seconds=5.0,
    machine_stolen_seconds=0.1,
    machine_cores=4,
    broker_cores=4,
    shared_cores=1.0,
    collector_longest_ms=2.0,
    collector_total_ms=20.0,
)


def record_of(producer: int, cpu: float = 1.0) -> Record:
    """Half of a run: one producer of two, which consumes what it has published."""
    record = Record(run_id="a", started_at="2026-01-01T00:00:00+00:00", ledger=Ledger(2))
    record.phases = [Phase("connect", 0.0, 1.0), Phase("measure", 1.0, 4.0)]
    record.tally.connected = 2
    timeline = Timeline(record.timeline)
    timeline.add(1.0, "connect", record.tally, [record.latencies])
    for second in range(4):
        for _ in range(100):
            record.tally.sent += 1
            record.tally.count_outcome(Outcome.CONFIRMED)
            record.tally.received += 1
            record.ledger.receive(producer, record.ledger.accounts[producer].send())
            record.latencies.confirm.record(1_000_000 * (second + 1))
        timeline.add(second + 2.0, "measure", record.tally, [record.latencies])
    record.tally.waited = 40
    record.work = Work(4.0, record.tally.to_plain())
    record.published_as_planned = Planned(410, 10)
    record.weighed = Weighed(1000, 12_000_000)
    record.costs = [replace(COST, client_cpu_seconds=cpu)]
    return record


def test_a_record_alone_makes_a_result() -> None:
    record = record_of(0)
    record.stock = Stock(0, 0)
    result = build_result(SETTINGS, Record.from_plain(record.to_plain()), {"cores": 4}, ["--rate", "100"])
    assert result == build_result(SETTINGS, record, {"cores": 4}, ["--rate", "100"])
    assert (result["publish"]["confirmed"], result["publish"]["rate"], result["publish"]["planned"]) == (400, 100, 410)
    assert (result["consume"]["unique"], result["consume"]["lost"], result["rpc"]) == (400, 0, None)
    assert result["connect"]["client_bytes_per_connection"] == 12_000
    assert result["resources"]["client_cpu_us_per_message"] == 1250
    assert result["scenario"]["command"] == "python -m loadtest --rate 100"


def test_records_of_two_processes_make_one_result() -> None:
    record, other = record_of(0), record_of(1, cpu=3.0)
    record.merge(other)
    result = build_result(SETTINGS, record, {}, [])
    publish, resources = result["publish"], result["resources"]
    assert (publish["confirmed"], publish["rate"], publish["planned"], publish["skipped"]) == (800, 200, 820, 20)
    assert (publish["fairness"], publish["confirm_latency_ms"]["count"]) == (1.0, 800)
    assert result["consume"]["duplicates"] == 0
    assert result["consume"]["lost"] is None, "nobody has looked into the queues"
    assert (resources["client_cpu_seconds"], resources["client_rss_peak_bytes"]) == (4.0, 2 * 10**8)
    assert (resources["broker_cpu_seconds"], resources["broker_rss_peak_bytes"]) == (3.0, 10**9), "it is one broker"
    assert [row["confirmed"] for row in result["timeline"]] == [0, 200, 200, 200, 200]
    assert [phase["seconds"] for phase in result["phases"]] == [1.0, 4.0]


def test_facts_of_several_processes() -> None:
    record = record_of(0)
    record.merge(record_of(1, cpu=3.0))
    facts = gather_facts(SETTINGS, record)
    assert facts is not None
    assert facts.client_share == 0.75, "the busiest process is the limit"
    assert (facts.broker_share, facts.broker_cores) == (0.75, 4 - 0.25 - 0.75)
    assert (facts.machine_share, facts.cores) == (5 / 4 / 4, 4)
    assert (facts.waiting_share, facts.planned, facts.skipped) == (0.1, 820, 20)
    assert facts.rates == [400.0] * 4
    assert facts.in_flight is None
    closed = gather_facts(replace(SETTINGS, rate=None, mode="closed"), record)
    assert closed is not None and (closed.in_flight, closed.waiting_share) == (2, None)


def test_where_nothing_was_measured_there_are_no_facts() -> None:
    record = Record(run_id="a", started_at="", ledger=Ledger(2))
    assert gather_facts(SETTINGS, record) is None
    record.costs, record.work = [COST], Work(0.0, Tally().to_plain())
    assert gather_facts(SETTINGS, record) is None
    result = build_result(SETTINGS, record, {}, [])
    assert (result["verdict"]["status"], result["publish"]["rate"]) == ("failed", None)


def test_a_result_has_no_secret() -> None:
    """It is made to be passed on."""
    url = "amqps://me:secret@host/?cacertfile=/ca.pem&password=secret"
    words = ["--url", url, f"--label=broker={url}", "--queue-arg", f"x={url}"]
    asked = Asked(urls=[url], labels={"broker": url}, queue_arguments={"x": url, "n": 1})
    record = record_of(0)
    record.errors.counts["ConnectFailed"] = 1
    record.errors.examples["ConnectFailed"] = f"no answer from {url!r}: {url}"
    result = build_result(complete(asked, {}), record, {}, words)
    text = json.dumps(result)
    assert "secret" not in text
    assert result["scenario"]["urls"] == ["amqps://me@host/?cacertfile=/ca.pem&password=***"]
    assert (result["scenario"]["queue_arguments"]["n"], "confirmed" in result["scenario"]) == (1, False)
