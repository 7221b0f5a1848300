"""Whole runs, small ones, against a real broker: what comes out, with which exit code, whatever happens meanwhile."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import psutil
import pytest
from hdrh.histogram import HdrHistogram

from loadtest.analysis.failures import failures
from loadtest.commands.run import main
from loadtest.execution.conductor import Conductor
from loadtest.machine.preflight import Demand
from rabbitry.testing import PrivateNode, RabbitMQNotFound
from tests.support.lines import without_search

Result = dict[str, Any]
SECONDS = 0.6
SHORT = ("--duration", f"{SECONDS}", "--warmup", "0.3", "--drain", "10")
BACKENDS = ("asyncio", "trio")
WAYS = [("asyncio", "rabbitry"), ("trio", "rabbitry"), ("asyncio", "aiormq")]
FEWER_WAYS = WAYS[1:]
"""Each backend and each driver once, for what is not a matter of both."""

pytestmark = pytest.mark.usefixtures("_no_broker_from_outside")


@pytest.fixture
def _no_broker_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RABBITMQ_URL", raising=False)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    backend: str = request.param
    return backend


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Result]:
    """A run's exit code and its result, which must be all there is on the standard output."""
    code = main(without_search(*SHORT, "--quiet", "--json", "-", *words))
    captured = capsys.readouterr()
    assert captured.err == ""
    result: Result = json.loads(captured.out)
    return code, result


def add_up(result: Result) -> None:
    """The ledger's identities, which hold however a run went."""
    publish, consume, rpc = result["publish"], result["consume"], result["rpc"]
    if publish:
        assert publish["sent"] == sum(publish[name] for name in ("confirmed", "nacked", "returned", "unknown"))
        assert consume["received"] == consume["unique"] + consume["duplicates"]
        if consume["lost"] is not None and not result["connect"]["dropped"]:
            arrived = consume["unique"] + consume["lost"] + consume["backlog"]
            assert publish["confirmed"] + consume["resurrected"] == arrived
    if rpc:
        assert rpc["calls"] == rpc["replies"] + rpc["timeouts"] + rpc["errors"]
    for section in filter(None, (publish, rpc)):
        assert (section["planned"] is None) == (section["skipped"] is None) == (result["loop"] == "closed")


def is_what_fell_due(planned: int, rate: int, result: Result) -> bool:
    """Whether so much was due in the warmup and in what was measured, which begins once the meters were read: a busy
    machine takes a part of the phase for that."""
    warmup, measured = (phase["seconds"] for phase in result["phases"][1:3])
    return 0.95 * rate * (warmup + SECONDS) - 8 <= planned <= 1.05 * rate * (warmup + measured) + 8


@pytest.mark.parametrize(("backend", "driver"), WAYS)
def test_a_closed_loop(backend: str, driver: str, amqp_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--clients", "40", "--seed", "7", "--label", "why=test")
    code, result = run(capsys, *words, "--url", amqp_url, "--backend", backend, "--driver", driver)
    assert code == 0, (failures(result), result["errors"])
    add_up(result)
    assert set(result) >= {
        *("schema", "run_id", "started_at", "loop", "verdict", "scenario", "environment", "phases", "connect"),
        *("publish", "consume", "rpc", "resources", "errors", "timeline", "histograms", "trials"),
    }
    assert (result["schema"], result["loop"], result["trials"], result["errors"]) == (1, "closed", None, {})
    assert [phase["name"] for phase in result["phases"]] == ["connect", "warmup", "measure", "drain", "close"]
    assert result["verdict"]["evidence"]
    connect, publish, consume, rpc = (result[name] for name in ("connect", "publish", "consume", "rpc"))
    assert (connect["connections"], connect["failed"], connect["dropped"]) == (40, 0, 0)
    assert (publish["planned"], publish["skipped"], publish["lag_ms"]) == (None, None, None)
    assert publish["confirmed"] == publish["sent"] == consume["unique"] > 20
    assert (consume["duplicates"], consume["lost"], consume["backlog"], consume["foreign"]) == (0, 0, 0, 0)
    assert rpc["replies"] == rpc["calls"] > 0
    for rate in (publish["rate"], consume["rate"], rpc["rate"]):
        assert rate > 0
    latency = publish["confirm_latency_ms"]
    assert set(latency) == {"count", "min", "mean", "p50", "p90", "p95", "p99", "p999", "p9999", "max"}
    rising = [latency[name] for name in ("min", "p50", "p90", "max") if latency[name] is not None]
    assert rising[0] > 0 and rising == sorted(rising)
    assert len(rising) == 4 or latency["count"] < 1000
    assert latency["p999"] is None or latency["count"] >= 10_000
    assert HdrHistogram.decode(result["histograms"]["confirm"]).get_total_count() == latency["count"]
    assert result["histograms"]["lag"] is None
    assert sum(row["confirmed"] for row in result["timeline"]) == publish["confirmed"]
    assert result["resources"]["client_cpu_us_per_message"] > 0
    environment, scenario = result["environment"], result["scenario"]
    assert (environment["seed"], environment["backend"], scenario["driver"]) == (7, backend, driver)
    assert environment["broker"]["product"] == "RabbitMQ"
    assert driver in environment["packages"]
    assert scenario["labels"] == {"why": "test"}
    assert "guest:guest" not in json.dumps(result)


@pytest.mark.parametrize(("backend", "driver"), FEWER_WAYS)
def test_the_default_run_answers(backend: str, driver: str, amqp_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--clients", "40", "--mode", "both", "--search", "3", "--share", "0.4")
    code, result = run(capsys, *words, "--url", amqp_url, "--backend", backend, "--driver", driver)
    publish, capacity = result["publish"], result["capacity"]
    add_up(result)
    assert publish["confirmed"] == publish["sent"] == result["consume"]["unique"]
    assert [phase["name"] for phase in result["phases"]][-5:] == ["search", "settle", "measure", "drain", "close"]
    assert capacity["closed_rate"] > 20 and capacity["steps"]
    assert 0 < publish["planned"] < publish["sent"]
    if publish["confirm_latency_ms"]["max"] < 100:  # else the machine may have been too busy for any rate
        assert code == 0, result["verdict"]
        assert publish["rate"] == pytest.approx(capacity["paced_rate"], rel=0.25)
    held = [step["rate"] for step in capacity["steps"] if step["is_verification"] and step["held"]]
    assert capacity["sustainable_rate"] == (held[0] if held else None)


@pytest.mark.parametrize(("backend", "driver"), WAYS)
def test_an_open_loop(backend: str, driver: str, amqp_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--producers", "20", "--consumers", "16", "--callers", "4", "--rate", "400", "--warmup", "1")
    code, result = run(capsys, *words, "--url", amqp_url, "--backend", backend, "--driver", driver)
    add_up(result)
    publish, rpc = result["publish"], result["rpc"]
    if publish["confirm_latency_ms"]["max"] < 50 and rpc["latency_ms"]["max"] < 50:  # else it may not meet the plan
        assert code == 0, result["verdict"]
        assert result["verdict"]["status"] != "failed"
    assert result["loop"] == "open"
    late = result["phases"][2]["seconds"] - SECONDS  # a busy machine makes it longer
    assert is_what_fell_due(publish["planned"], 400, result)
    if publish["confirm_latency_ms"]["max"] < 50:  # each producer had room for its next message before that was due
        assert publish["skipped"] == 0
    assert publish["planned"] == publish["sent"] + publish["skipped"]
    assert rpc["planned"] == rpc["calls"] + rpc["skipped"]
    if rpc["latency_ms"]["max"] < 50:  # each caller was ready for its next call before that was due
        assert rpc["skipped"] == 0
    response, service, lag = (publish[name] for name in ("confirm_latency_ms", "confirm_service_ms", "lag_ms"))
    assert response["count"] == lag["count"] >= service["count"] > 100
    if not publish["skipped"]:
        assert response["count"] == service["count"]
        assert response["mean"] == pytest.approx(service["mean"] + lag["mean"], rel=0.05, abs=0.01)
    assert is_what_fell_due(rpc["planned"], 80, result)  # each caller as often as each producer: 20 a second
    assert rpc["calls"] == rpc["replies"] <= rpc["planned"] + 40 + 80 * late
    assert rpc["latency_ms"]["mean"] >= rpc["service_ms"]["mean"] > 0


def test_callers_alone_keep_a_schedule(backend: str, amqp_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--callers", "5", "--rate", "100", "--url", amqp_url, "--backend", backend)
    code, result = run(capsys, *words)
    assert code == 0, result["errors"]
    assert result["publish"] is None
    planned = result["rpc"]["planned"]
    assert is_what_fell_due(planned, 100, result)
    if result["rpc"]["latency_ms"]["max"] < 100:  # else the machine paused for longer than a caller's turn
        assert result["rpc"]["skipped"] < planned / 4


@pytest.mark.parametrize(("backend", "driver"), WAYS)
def test_windows_shared_sockets_and_batches_of_acks(
    backend: str, driver: str, amqp_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "--clients 30 --connections 4 --window 20 --ack-every 7 --size 1KiB --transient --mandatory --ramp 0.3"
    words = line.split()
    code, result = run(capsys, *words, "--url", amqp_url, "--backend", backend, "--driver", driver)
    assert code == 0, result["errors"]
    add_up(result)
    assert result["connect"]["connections"] == 4
    assert result["publish"]["confirmed"] == result["consume"]["unique"] > 100


def test_a_quorum_queue_that_counts_late_loses_nothing(
    backend: str, amqp_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What consumers give back it counts a quarter of a second later; and what they have acknowledged just before it
    doesn't come back.
    """
    line = "--producers 30 --consumers 10 --queues 5 --window 100 --drain 0 --queue-type quorum"
    holding = "--prefetch 0 --work 20ms"
    code, result = run(capsys, *line.split(), *holding.split(), "--url", amqp_url, "--backend", backend)
    add_up(result)
    assert code == 0, result["consume"]
    assert result["consume"]["backlog"] > 0


@pytest.mark.parametrize(
    ("backend", "driver", "size"), [(*way, size) for way, size in zip(WAYS, ("10", "23", "10"), strict=True)]
)
def test_small_bodies(backend: str, driver: str, size: str, amqp_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--clients", "20", "--size", size, "--url", amqp_url, "--backend", backend, "--driver", driver)
    code, result = run(capsys, *words)
    add_up(result)
    assert code == 0, result["verdict"]
    assert result["consume"]["end_to_end_latency_ms"]["count"] > 20
    assert (result["consume"]["duplicates"], result["consume"]["foreign"]) == (0, 0)


def test_calls_need_no_stamp(amqp_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, result = run(capsys, "--callers", "3", "--size", "0", "--url", amqp_url)
    assert code == 0, result["verdict"]
    assert result["rpc"]["replies"] > 0


@pytest.mark.parametrize(
    ("backend", "driver", "readers"), [(*way, readers) for way, readers in zip(WAYS, ("4", "6", "6"), strict=True)]
)
def test_streams(backend: str, driver: str, readers: str, amqp_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What was consumed stays, and further readers of a stream get copies."""
    line = f"--producers 8 --consumers {readers} --queues 4 --queue-type stream --window 10"
    words = (*line.split(), "--url", amqp_url, "--backend", backend, "--driver", driver)
    code, result = run(capsys, *words)
    add_up(result)
    assert code == 0, result["verdict"]
    consume = result["consume"]
    assert consume["unique"] == consume["received"] == result["publish"]["confirmed"] > 20
    assert (consume["lost"], consume["backlog"], consume["foreign"]) == (0, 0, 0)
    assert (consume["copies"] > 0) == (readers == "6")


def test_what_a_stream_has_and_nobody_got_is_its_backlog(
    backend: str, amqp_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--producers", "3", "--queue-type", "stream", "--url", amqp_url, "--backend", backend)
    code, result = run(capsys, *words)
    add_up(result)
    assert code == 0, result["verdict"]
    assert result["consume"]["backlog"] == result["publish"]["confirmed"] > 0


@pytest.mark.parametrize(("backend", "driver"), WAYS)
def test_a_cancelled_consumer_is_no_dropped_connection(
    backend: str, driver: str, amqp_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = Conductor._measure

    async def delete_one_and_measure(self: Conductor) -> None:
        async with self._open_connection() as connection, connection.administrator() as administrator:
            await administrator.delete_queue(self._run.plan.queues[0])
        await measure(self)

    monkeypatch.setattr(Conductor, "_measure", delete_one_and_measure)
    words = ("--producers", "10", "--consumers", "10", "--queues", "5", "--mandatory", "--url", amqp_url)
    code, result = run(capsys, *words, "--backend", backend, "--driver", driver)
    add_up(result)
    assert code == 1
    assert (result["connect"]["connections"], result["connect"]["dropped"]) == (20, 0)
    assert result["consume"]["cancelled"] == 2
    assert result["errors"]["ConsumerCancelled"] == 2
    assert "failed: 2 consumers cancelled by the broker" in result["verdict"]["evidence"]


def test_calls_without_a_reply_count_with_their_wait(
    backend: str, amqp_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--callers", "20", "--rpc-timeout", "1ms", "--url", amqp_url, "--backend", backend)
    code, result = run(capsys, *words)
    add_up(result)
    assert (code, result["verdict"]["status"]) == (1, "failed")
    assert "calls got no reply in time" in result["verdict"]["evidence"][0]
    assert result["rpc"]["timeouts"] > 100
    latency = result["rpc"]["latency_ms"]
    assert (latency["p90"] or latency["max"]) >= 1  # a busy machine may make too few calls for percentiles


def test_messages_the_broker_drops_are_lost(backend: str, amqp_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--producers", "3", "--queue-arg", "x-max-length=10", "--drain", "0")
    code, result = run(capsys, *words, "--url", amqp_url, "--backend", backend)
    add_up(result)
    assert code == 1
    assert result["consume"]["backlog"] == 10
    assert result["consume"]["lost"] == result["publish"]["confirmed"] - 10 > 0
    assert result["consume"]["rate"] is None


@pytest.mark.parametrize(
    ("backend", "driver", "window"),
    [("asyncio", "rabbitry", "5"), ("trio", "rabbitry", "1"), ("asyncio", "aiormq", "1"), ("asyncio", "aiormq", "5")],
)
def test_refused_messages_are_not_lost(
    backend: str, driver: str, window: str, amqp_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--producers", "3", "--queue-arg", "x-max-length=10", "--queue-arg", "x-overflow=reject-publish")
    code, result = run(capsys, *words, "--window", window, "--url", amqp_url, "--backend", backend, "--driver", driver)
    add_up(result)
    assert (code, result["verdict"]["status"]) == (1, "failed"), "the load was not put on"
    assert "publishes were nacked" in result["verdict"]["evidence"][0]
    assert result["publish"]["nacked"] > 10
    assert result["consume"]["lost"] == 0
    assert result["consume"]["backlog"] == result["publish"]["confirmed"]


@pytest.mark.parametrize(
    ("backend", "driver", "window"),
    [("asyncio", "rabbitry", "5"), ("trio", "rabbitry", "1"), ("asyncio", "aiormq", "1"), ("asyncio", "aiormq", "5")],
)
def test_dropped_connections_are_counted_and_end_the_run(
    backend: str,
    driver: str,
    window: str,
    node: PrivateNode,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    sign, begin_phase = tmp_path / "measuring", Conductor._begin_phase

    def begin_and_tell(self: Conductor, name: str) -> None:
        begin_phase(self, name)
        if name == "measure":
            sign.touch()

    monkeypatch.setattr(Conductor, "_begin_phase", begin_and_tell)
    # the node waits for it by itself: rabbitmqctl would take seconds to tell it, for which the run goes on at full rate
    closing = f"""spawn(fun() -> (fun
        Wait(0) -> late;
        Wait(Left) -> case filelib:is_file("{sign}") of
            false -> timer:sleep(20), Wait(Left - 1);
            true -> timer:sleep(300), rabbit_networking:close_connections(rabbit_networking:connections(), "test")
        end
    end)(3000) end)."""
    node.rabbitmqctl("eval", closing)
    began = time.monotonic()
    words = ("--clients", "30", "--window", window, "--duration", "60")
    code, result = run(capsys, *words, "--url", node.url, "--backend", backend, "--driver", driver)
    add_up(result)
    assert code == 1
    assert time.monotonic() - began < 50
    assert result["connect"]["connections"] == 30
    assert result["connect"]["dropped"] >= 30
    assert sum(result["errors"].values()) >= 30
    assert result["consume"]["lost"] == 0
    assert not result["interrupted"]


@pytest.mark.parametrize("backend", ["asyncio"])  # (each driver tells of it in tests of its own)
def test_an_alarm_is_seen(backend: str, node: PrivateNode, capsys: pytest.CaptureFixture[str]) -> None:
    # from before the run until well into what is measured: rabbitmqctl may take seconds to get to a node, so it is the
    # node that waits, and the drain that makes up for it
    node.rabbitmqctl("set_vm_memory_high_watermark", "0")
    ending = "timer:sleep(4000), vm_memory_monitor:set_vm_memory_high_watermark(0.4)."
    relief = threading.Thread(target=node.rabbitmqctl, args=("eval", ending))
    relief.start()
    words = ("--clients", "20", "--duration", "5", "--drain", "60", "--url", node.url, "--backend", backend)
    code, result = run(capsys, *words)
    relief.join()
    add_up(result)
    assert code == (0 if result["publish"]["rate"] else 1), "the latter where it took until the end of what is measured"
    assert result["publish"]["blocked_seconds"] > 0
    assert any("an alarm" in text for text in result["verdict"]["evidence"])


@pytest.mark.parametrize(
    ("requirement", "code", "told"),
    [
        ("publish.rate > 1", 0, "✓ publish.rate > 1 ("),
        ("publish.rate > 10m", 3, "✗ publish.rate > 10m ("),
        ("confirm.p99.9 < 1h", 3, "✗ confirm.p99.9 < 1h (too few samples: "),
    ],
)
def test_what_is_required(
    requirement: str, code: int, told: str, amqp_url: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ("--producers", "10", "--consumers", "1", "--rate", "100", "--require", requirement)
    assert main(without_search(*SHORT, *words, "--url", amqp_url, "--json", str(tmp_path / "result.json"))) == code
    assert told in capsys.readouterr().out
    (finding,) = json.loads((tmp_path / "result.json").read_text())["requirements"]
    assert (finding["requirement"], finding["holds"]) == (requirement, code == 0)


@pytest.mark.parametrize(("backend", "driver"), WAYS)
def test_no_broker(backend: str, driver: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main([*SHORT, "--url", "amqp://guest:secret@127.0.0.1:1", "--backend", backend, "--driver", driver])
    captured = capsys.readouterr()
    assert code == 4
    assert "no broker to test" in captured.err
    assert "secret" not in captured.out + captured.err


@pytest.mark.parametrize(("backend", "driver"), WAYS)
def test_a_queue_that_the_broker_refuses(
    backend: str, driver: str, amqp_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--clients", "5", "--queue-arg", "x-max-length=-1", "--url", amqp_url)
    assert main([*SHORT, *words, "--backend", backend, "--driver", driver]) == 2
    assert "the broker refuses the queues" in capsys.readouterr().err


def test_no_rabbitmq_on_this_machine(
    backend: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Missing(PrivateNode):
        async def __aenter__(self) -> PrivateNode:
            raise RabbitMQNotFound("install it, or use --url")

    monkeypatch.setattr("loadtest.commands.performing.PrivateNode", Missing)
    assert main([*SHORT, "--backend", backend]) == 4
    assert capsys.readouterr().err == "loadtest: install it, or use --url\n"


def test_a_result_that_can_not_be_written_is_refused_at_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for words in (
        ["--json", "/nowhere/at/all.json"],
        ["--json", str(tmp_path)],
        ["--output", "/proc/nowhere"],
        ["--output", "/proc"],
    ):
        assert main(words) == 2
        assert f"{words[0]}: the result could not be written there: " in capsys.readouterr().err


def test_a_result_that_can_not_be_written_after_all_is_saved_elsewhere(
    amqp_url: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, refuge = tmp_path / "wanted", tmp_path / "refuge"
    refuge.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(refuge))

    def vanish(demand: Demand) -> None:
        """It comes once the folder was tried out: before, the run would be refused."""
        wanted.rmdir()
        wanted.touch()

    monkeypatch.setattr("loadtest.commands.performing.prepare", vanish)
    assert main(without_search(*SHORT, "--clients", "5", "--url", amqp_url, "--output", str(wanted))) == 1
    told = capsys.readouterr()
    (saved,) = refuge.iterdir()
    assert json.loads(saved.read_text())["publish"]["confirmed"] > 0
    assert "the result could not be written" in told.err and str(saved) in told.err
    assert "nothing was lost" in told.out  # the summary came first


@pytest.mark.parametrize(
    ("encoding", "suffixes"), [("ascii", [".hlog", ".html", ".json", ".md", ".svg"]), ("latin-1", [".json"])]
)
def test_an_encoding_that_lacks_a_sign_loses_nothing(
    encoding: str, suffixes: list[str], amqp_url: str, tmp_path: Path
) -> None:
    words = ("--clients", "5", "--url", amqp_url, *where_to(tmp_path, suffixes))
    process = start(*SHORT, *words, environment={"PYTHONIOENCODING": encoding})
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "verdict" in out and "written" in out and re.search(r"\d (us|µs|ms)", out) and "?" not in out
    assert sorted(path.suffix for path in tmp_path.iterdir()) == suffixes


@pytest.mark.parametrize(
    ("is_full", "suffixes"), [(False, [".hlog", ".html", ".json", ".md", ".svg"]), (True, [".json"])]
)
def test_nobody_who_listens_loses_nothing(is_full: bool, suffixes: list[str], amqp_url: str, tmp_path: Path) -> None:
    """A closed pipe, a full disk behind the standard output: the results are written, the rest is said to nobody."""
    words = ("--clients", "5", "--url", amqp_url, *where_to(tmp_path, suffixes))
    with closed_pipe() if not is_full else open("/dev/full", "w") as nowhere:
        process = start(*SHORT, *words, stdout=nowhere)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert sorted(path.suffix for path in tmp_path.iterdir()) == suffixes


def test_json_that_nobody_takes_is_saved_elsewhere(amqp_url: str, tmp_path: Path) -> None:
    words = ("--clients", "5", "--url", amqp_url, "--json", "-", "--output", str(tmp_path / "results"))
    with closed_pipe() as nowhere:
        process = start(*SHORT, *words, environment={"TMPDIR": str(tmp_path)}, stdout=nowhere)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "the result could not be written: [Errno 32] Broken pipe; it is in" in told
    assert "Traceback" not in told and "Exception" not in told
    (saved,) = tmp_path.glob("loadtest-*.json")
    assert json.loads(saved.read_text())["publish"]["confirmed"] > 0
    assert sorted(path.suffix for path in (tmp_path / "results").iterdir()) == [".hlog", ".json", ".md"]


def test_the_impossible_is_refused_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    assert main(["--clients", "10m"]) == 2
    assert time.monotonic() - began < 20
    assert "10,000,008 connections + 64 others" in capsys.readouterr().err


@pytest.mark.broker
@pytest.mark.parametrize("backend", ["trio"])  # (nodes that are started on each backend have tests of their own)
def test_a_private_node_is_started_and_gone_afterwards(
    backend: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ("--clients", "20", "--backend", backend, "--vhost", "a b", "--output", str(tmp_path))
    code, result = run(capsys, *words)
    assert code == 0, result["errors"]
    assert result["environment"]["broker"]["private_node"]
    assert result["resources"]["broker_cpu_seconds"] > 0
    files = sorted(path.suffix for path in tmp_path.iterdir())
    assert files == [".hlog", ".html", ".json", ".md", ".svg"]
    written = json.loads((tmp_path / f"{result['run_id']}.json").read_text())
    assert written == result
    assert (tmp_path / f"{result['run_id']}.svg").read_text().startswith("<svg ")


def test_the_summary_is_for_people(backend: str, amqp_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(without_search(*SHORT, "--clients", "20", "--url", amqp_url, "--backend", backend)) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    for part in (
        "20 clients",
        "ok: no connection failed, nothing was lost",
        "confirmed",
        "end to end",
        "RPC",
        "verdict",
        "0 lost",
    ):
        assert part in captured.out


@pytest.mark.parametrize(
    ("backend", "driver", "number"),
    [(*way, number) for way, number in zip(FEWER_WAYS, (signal.SIGTERM, signal.SIGINT), strict=True)],
)
def test_an_interrupted_run_reports_what_was_measured(
    backend: str, driver: str, number: signal.Signals, amqp_url: str
) -> None:
    words = [
        "--clients",
        "20",
        "--duration",
        "60",
        "--warmup",
        "0.2",
        "--url",
        amqp_url,
        "--json",
        "-",
        "--driver",
        driver,
    ]
    process = start(*words, "--backend", backend)
    wait_for_connections(process, 20)
    time.sleep(2)
    process.send_signal(number)
    out, err = process.communicate(timeout=45)
    assert process.returncode == 130, err
    result = json.loads(out)
    add_up(result)
    assert result["interrupted"]
    assert 0.3 < result["phases"][2]["seconds"] < 20
    assert result["publish"]["rate"] > 0
    assert result["consume"]["lost"] == 0
    assert "interrupted" in err


@pytest.mark.parametrize(("backend", "connections"), [("trio", 1), ("asyncio", 5), ("trio", 50), ("asyncio", 100)])
def test_interrupted_at_any_time_it_ends_cleanly(backend: str, connections: int, amqp_url: str) -> None:
    """While declaring, while connecting, just after: never a traceback, always 130."""
    process = start("--clients", "100", "--duration", "60", "--url", amqp_url, "--backend", backend)
    wait_for_connections(process, connections)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=45)
    assert process.returncode == 130, err
    assert "Traceback" not in out + err


def test_a_second_interrupt_drops_everything_and_still_reports(backend: str, amqp_url: str) -> None:
    process = start("--producers", "5", "--duration", "60", "--url", amqp_url, "--backend", backend, "--json", "-")
    wait_for_connections(process, 5)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=45)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    if out:  # it may have been interrupted before it began
        assert json.loads(out)["interrupted"]


def where_to(folder: Path, suffixes: list[str]) -> tuple[str, str]:
    """The flag with which a run writes such files. The process that draws some of them takes longer than the run."""
    return ("--json", str(folder / "result.json")) if suffixes == [".json"] else ("--output", str(folder))


def wait_for_connections(process: subprocess.Popen[str], connections: int) -> None:
    """Waits until it has so many connections to the broker."""
    child = psutil.Process(process.pid)
    deadline = time.monotonic() + 30
    while len(child.net_connections("tcp")) < connections:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def closed_pipe() -> IO[str]:
    """The end of a pipe to write to, whose reader is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w")


def start(
    *words: str, environment: Mapping[str, str] | None = None, stdout: IO[str] | int = subprocess.PIPE
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "loadtest", *without_search(*words)],
        env={**os.environ, **(environment or {})},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        cwd=Path(__file__).parents[3],
    )
