"""The sentences and the page of `strategies`, from figures made up."""

from __future__ import annotations

from typing import Any

from loadtest.analysis.strategies import build_strategies_result, findings, medians, rows
from loadtest.output.strategies import render_page


def cell(
    strategy: str, clients: int, trial: int, rate: float | None, gave_up: str | None = None, busy: float = 3.1
) -> dict[str, Any]:
    latency = {"p50": 1.5, "p99": None, "max": 9.0, "mean": 2.0}
    resources = {
        "client_rss_bytes": rate and 2**20 * rate,
        "client_cpu_us_per_message": 10.0,
        "client_threads": 1,
        "client_cpu_seconds": 1.0,
        "broker_cpu_seconds": 2.0,
        "machine_busy_seconds": busy,
        "broker_cpu_us_per_message": 20.0,
        "broker_rss_peak_bytes": 2**27,
    }
    return {
        "strategy": strategy,
        "clients": clients,
        "trial": trial,
        "order": 1,
        "gave_up": None if gave_up is None else {"reason": "memory", "text": gave_up, "number": 1},
        "connect": {"connected": clients, "failed": 0, "seconds": 0.25},
        "publish": None if rate is None else {"rate": rate, "fairness": 0.9, "confirm_latency_ms": latency},
        "consume": {"end_to_end_latency_ms": latency},
        "resources": None if rate is None else resources,
        "measured_seconds": None if rate is None else 6.0,
        "errors": {},
    }


CELLS = [
    *[cell("a", 10, trial, rate) for trial, rate in enumerate((100.0, 300.0, 200.0))],
    *[cell("b", 10, trial, rate) for trial, rate in enumerate((50.0, 50.0, 40.0))],
    *[cell("a", 100, trial, 400.0) for trial in range(3)],
    cell("b", 100, 0, 60.0),
    *[cell("b", 100, trial, None, "its process took 7 MiB") for trial in (1, 2)],
]


def result(cells: list[dict[str, Any]] = CELLS, *, is_finished: bool = True) -> dict[str, Any]:
    return build_strategies_result(
        started_at="2026-01-01T00:00:00+00:00",
        plan={
            "clients": [10, 100, 1000],
            "trials": 3,
            "seconds": 6.0,
            "warmup": 1.0,
            "size": 128,
            "prefetch": 100,
            "memory_bound_bytes": 1,
            "seed": 5,
        },
        rule="Given up if it takes too much.",
        strategies={
            name: {"title": f"way {name}", "driver": "rabbitry", "way": "own", "source": "a page"} for name in "ab"
        },
        environment={"python": "CPython 3", "cores": 2},
        broker={"product": "RabbitMQ", "version": "4"},
        cells=cells,
        not_tried=[{"strategy": "b", "clients": 1000, "because": {"clients": 100, "text": "its process took 7 MiB"}}],
        is_finished=is_finished,
    )


def test_rows_have_every_cell_and_medians_every_number_of_clients() -> None:
    assert len(rows(result())) == len(CELLS)
    table = {(row["strategy"], row["clients"]): row for row in medians(result())}
    assert (table["a", 10]["rate"], table["a", 10]["rate_least"], table["a", 10]["rate_most"]) == (200.0, 100.0, 300.0)
    assert table["b", 100]["rate"] is None  # most of its trials were given up
    assert table["b", 100]["gave_up"] == "its process took 7 MiB"
    assert table["b", 1000]["gave_up"] == "not tried: given up with 100 clients"
    assert table["a", 1000]["gave_up"] == "not tried: interrupted before"


def test_findings_are_made_from_the_figures() -> None:
    told = findings(result())
    assert "10 clients: 2 of 2 strategies got through." in told
    assert (
        "10 clients: the most was confirmed with way a, 200 messages/s, 4.0 times as many as with way b (50/s)." in told
    )
    assert "10 clients: memory of the client's process: 50 MiB with way b, 200 MiB with way a." in told
    assert "100 clients: the most was confirmed with way a, 400 messages/s." in told
    assert "1,000 clients: nothing was tried." in told
    assert "With 100 clients way b was given up: its process took 7 MiB." in told


def test_a_machine_that_was_not_quiet_is_told_of() -> None:
    assert not [finding for finding in findings(result()) if "Other processes" in finding]
    told = findings(result([cell("a", 10, 0, 5.0, busy=12.0)]))
    assert "Other processes took 1.5 of 2 cores while cells were measured (the median): rates and latencies" in told[-1]


def test_who_starves_its_clients_is_told_of() -> None:
    unfair = cell("a", 10, 0, 5.0)
    unfair["publish"]["fairness"] = 0.25
    assert any("Jain's index of fairness is 0.25" in finding for finding in findings(result([unfair])))
    assert not any("fairness" in finding for finding in findings(result()))


def test_the_page_has_the_figures_the_rule_and_the_reasons() -> None:
    page = render_page(result(is_finished=False))
    assert "Given up if it takes too much." in page
    assert "It was not finished" in page
    assert "| 100 | its process took 7 MiB |" in page
    assert "| 10 | 200 | 2.0 | 1.5 | – | 0.2 |" in page
    for line in page.splitlines():
        assert line.count("|") in (0, 12)
