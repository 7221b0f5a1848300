"""Whole runs: what is measured besides rates, and what is left of it when a run is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

from loadtest.commands.run import main
from loadtest.metrics.histogram import LONGEST

Result = dict[str, Any]
ROOT = Path(__file__).parents[3]
BACKENDS = ("asyncio", "trio")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("RABBITMQ_URL", raising=False)
    backend: str = request.param
    return backend


def run(capsys: pytest.CaptureFixture[str], line: str, *words: str) -> tuple[int, Result]:
    code = main([*line.split(), "--quiet", "--json", "-", *words])
    result: Result = json.loads(capsys.readouterr().out)
    return code, result


def samples(path: Path) -> dict[str, int]:
    """How many of each kind there are in a log, as HdrHistogram's reader finds them."""
    found: dict[str, int] = {}
    with closing(HistogramLogReader(str(path), HdrHistogram(1, LONGEST, 3))) as log:
        while (histogram := log.get_next_interval_histogram()) is not None:
            found[histogram.get_tag()] = found.get(histogram.get_tag(), 0) + histogram.get_total_count()
    return found


def test_a_response_is_lag_and_service_for_each_kind(
    backend: str, amqp_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "--producers 6 --consumers 3 --callers 3 --rate 120 --duration 2 --warmup 0.5 --drain 10"
    _, result = run(capsys, line, "--url", amqp_url, "--backend", backend)
    publish, consume, rpc = result["publish"], result["consume"], result["rpc"]
    for response, service, lag, section in (
        ("confirm_latency_ms", "confirm_service_ms", "lag_ms", publish),
        ("latency_ms", "service_ms", "lag_ms", rpc),
    ):
        if not section["skipped"]:  # or they have a lag and no service
            assert section[response]["count"] == section[service]["count"] == section[lag]["count"] > 0
            mean = section[service]["mean"] + section[lag]["mean"]
            assert section[response]["mean"] == pytest.approx(mean, rel=0.05, abs=0.02)
    end_to_end, once_sent = consume["end_to_end_latency_ms"], consume["end_to_end_service_ms"]
    assert end_to_end["count"] == once_sent["count"] > 100
    assert once_sent["mean"] <= end_to_end["mean"]
    if not publish["skipped"]:
        difference = end_to_end["mean"] - once_sent["mean"]
        assert difference == pytest.approx(publish["lag_ms"]["mean"], rel=0.2, abs=0.2)
    for name in ("confirm_latency_ms", "lag_ms"):
        assert {"p95", "p9999"} <= set(publish[name]) and publish[name]["p9999"] is None


def test_in_a_closed_loop_one_latency_is_the_other(
    backend: str, amqp_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "--producers 2 --consumers 2 --queues 2 --callers 1 --mode closed --duration 1 --warmup 0.2 --drain 10"
    _, result = run(capsys, line, "--url", amqp_url, "--backend", backend)
    assert result["consume"]["end_to_end_service_ms"] == result["consume"]["end_to_end_latency_ms"]
    assert result["rpc"]["lag_ms"] is None
    assert 0 < result["publish"]["longest_gap_ms"] <= result["publish"]["longest_gap_total_ms"] * 1.5
    assert result["consume"]["longest_gap_ms"] > 0
    assert result["connect"]["connected_share"] == 1.0
    assert result["consume"]["gaps"] == result["consume"]["reordered"] == 0
    sizes = result["publish"]["confirms_per_frame"]
    assert (sizes["count"], sizes["max"]) == (result["publish"]["confirmed"], 1), "one at a time is in flight"


def test_small_bodies_have_no_room_for_the_lag(backend: str, amqp_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = "--producers 2 --consumers 2 --rate 50 --size 10 --duration 1 --warmup 0.2 --drain 10"
    _, result = run(capsys, line, "--url", amqp_url, "--backend", backend)
    assert result["consume"]["lost"] == 0 and result["consume"]["foreign"] == 0
    assert result["consume"]["end_to_end_latency_ms"]["count"] > 10
    assert result["consume"]["end_to_end_service_ms"]["count"] == 0


@pytest.mark.usefixtures("undrawn")
def test_the_log_adds_up_to_the_result(
    backend: str, amqp_url: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = "--clients 20 --mode closed --duration 2.2 --warmup 0.5 --drain 10"
    _, result = run(capsys, line, "--output", str(tmp_path), "--url", amqp_url, "--backend", backend)
    (log,) = tmp_path.glob("*.hlog")
    assert log.stem == result["run_id"]
    found = samples(log)
    assert found["connect"] == 20
    assert found["confirm"] == result["publish"]["confirmed"]
    assert found["end_to_end"] == result["consume"]["unique"]
    assert found["rpc"] == result["rpc"]["replies"]
    assert {line.split()[1] for line in log.read_text().splitlines() if line.startswith("#[Phase")} >= {"measure"}


def test_a_run_that_is_killed_leaves_all_but_its_last_seconds(backend: str, amqp_url: str, tmp_path: Path) -> None:
    line = "--producers 3 --consumers 2 --rate 100 --duration 60 --warmup 0.5 --quiet"
    words = (*line.split(), "--output", str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-m", "loadtest", *words, "--url", amqp_url, "--backend", backend],
        cwd=ROOT,
        env=os.environ,
    )
    try:
        deadline = time.monotonic() + 60
        while not any(samples(log).get("confirm", 0) > 250 for log in tmp_path.glob("*.hlog")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        began = time.monotonic()
        while time.monotonic() < began + 1.5:
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait()
    assert not list(tmp_path.glob("*.json"))
    (log,) = tmp_path.glob("*.hlog")
    found = samples(log)
    assert found["confirm"] > 300 and found["end_to_end"] > 300
    times = [float(line.split(",")[1]) for line in log.read_text().splitlines() if line.startswith("Tag=confirm,")]
    assert len(times) >= 3


def test_a_percentile_of_too_few_samples_is_a_cross_and_3(
    backend: str, amqp_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "--producers 2 --rate 20 --duration 1 --warmup 0.2 --drain 10"
    words = ("--url", amqp_url, "--backend", backend, "--require", "confirm.p99 < 1h", "--require", "errors == 0")
    assert main([*line.split(), *words]) == 3
    out = " ".join(capsys.readouterr().out.split())
    assert "✗ confirm.p99 < 1h (too few samples:" in out
    assert "✓ errors == 0 (0)" in out


def test_confirms_that_come_together(backend: str, amqp_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = "--producers 2 --window 100 --consumers 2 --mode closed --duration 1 --warmup 0.2 --drain 10"
    _, result = run(capsys, line, "--url", amqp_url, "--backend", backend)
    sizes = result["publish"]["confirms_per_frame"]
    assert sizes["count"] * sizes["mean"] == pytest.approx(result["publish"]["confirmed"], rel=1e-3)
    assert 1 < sizes["mean"] <= sizes["max"] <= 100
