"""Each scenario of the catalogue, run for real in small: its section answers its question, and the ledger closes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loadtest.commands import sweeping
from loadtest.commands.run import main
from rabbitry.testing import PrivateNode

Result = dict[str, Any]
on_asyncio, on_trio = (pytest.mark.parametrize("backend", [backend]) for backend in ("asyncio", "trio"))
"""A scenario sets flags and reads figures, and has no part in how a run waits: so one backend for each. What clients do
for it is run on both: here by another scenario, or in test_run and test_traffic.
"""


@pytest.fixture(autouse=True)
def _no_broker_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RABBITMQ_URL", raising=False)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Result]:
    code = main(["--quiet", "--json", "-", *words])
    captured = capsys.readouterr()
    assert captured.err == ""
    result: Result = json.loads(captured.out)
    return code, result


def is_all_right(code: int, result: Result) -> bool:
    """Nothing lost, failed or wrong; a plan that a busy machine did not meet is no matter here."""
    consume = result["consume"]
    assert code in (0, 1)
    assert code == 0 or all("the load was not put on" in text for text in _failed(result)), result["verdict"]
    assert result["errors"] == {}
    assert consume is None or (consume["lost"], consume["backlog"], consume["duplicates"]) == (0, 0, 0)
    return True


def _failed(result: Result) -> list[str]:
    return [text for text in result["verdict"]["evidence"] if text.startswith("failed: ")]


@on_asyncio
def test_publish_only_publishes(backend: str, amqp_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--clients 8 --duration 1 --warmup 0.2 --drain 0.1 --mode closed"
    code, result = run(capsys, "--scenario", "publish", *words.split(), "--url", amqp_url, "--backend", backend)
    assert code == 0, result["verdict"]
    assert (result["rpc"], result["scenario"]["scenario"]) == (None, "publish")
    assert result["publish"]["confirmed"] == result["consume"]["backlog"] > 8


@on_trio
def test_rpc_only_calls(backend: str, amqp_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--clients 6 --duration 1 --warmup 0.2 --mode closed"
    code, result = run(capsys, "--scenario", "rpc", *words.split(), "--url", amqp_url, "--backend", backend)
    assert code == 0, result["verdict"]
    assert (result["publish"], result["consume"]) == (None, None)
    assert result["rpc"]["replies"] == result["rpc"]["calls"] > 6


@on_trio
def test_consume_empties_what_was_there_before(backend: str, amqp_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--clients 6 --queues 3 --backlog 2000 --duration 30"
    code, result = run(capsys, "--scenario", "consume", *words.split(), "--url", amqp_url, "--backend", backend)
    assert code == 0, result["verdict"]
    assert is_all_right(code, result)
    backlog, consume = result["backlog"], result["consume"]
    assert (backlog["asked"], backlog["built"], backlog["built_bytes"]) == (2000, 2000, 2000 * 128)
    assert consume["unique"] == consume["received"] == 2000
    assert 0 < backlog["drain_seconds"] < 30
    assert backlog["drain_rate"] == pytest.approx(2000 / backlog["drain_seconds"], rel=0.01)
    assert [phase["name"] for phase in result["phases"]] == ["fill", "connect", "warmup", "measure", "drain", "close"]
    assert result["publish"] is None
    assert consume["end_to_end_latency_ms"]["count"] == 0  # how long they lay there is no latency
    assert result["phases"][3]["seconds"] < 30  # it ends when there is nothing left to take


@on_asyncio
def test_a_backlog_is_drained_while_publishing_goes_on(
    backend: str, amqp_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "--clients 8 --queues 2 --backlog 3000 --rate 100 --duration 2"
    code, result = run(capsys, "--scenario", "backlog", *words.split(), "--url", amqp_url, "--backend", backend)
    assert is_all_right(code, result)
    backlog, publish, consume = (result[name] for name in ("backlog", "publish", "consume"))
    assert backlog["built"] == 3000
    assert 0 < backlog["drain_seconds"] < 5
    assert 0 <= backlog["published_meanwhile"] <= publish["confirmed"] <= publish["sent"] <= 210
    assert publish["planned"] == publish["sent"] + publish["skipped"]
    assert publish["confirmed"] + backlog["built"] == consume["unique"]
    assert publish["fairness"] > 0.9  # who filled the queues is no producer


@pytest.mark.parametrize("driver", ["pika", "amqpstorm", "aio-pika", "rabbitry-blocking"])
def test_every_driver_puts_a_backlog_there(driver: str, amqp_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Also those that have no window."""
    words = "--producers 1 --consumers 2 --backlog 40 --duration 1 --warmup 0 --mode closed"
    code, result = run(capsys, *words.split(), "--url", amqp_url, "--driver", driver)
    assert is_all_right(code, result)
    assert result["backlog"]["built"] == 40
    assert result["publish"]["confirmed"] + 40 == result["consume"]["unique"]
    assert result["publish"]["sent"] == result["publish"]["confirmed"]


def test_a_backlog_that_does_not_fit_fails_the_run(amqp_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--clients 2 --backlog 100 --duration 1 --queue-arg x-max-length=10 --queue-arg x-overflow=reject-publish"
    code, result = run(capsys, "--scenario", "consume", *words.split(), "--url", amqp_url)
    assert code == 1
    built = result["backlog"]["built"]
    assert 0 < built < 100
    assert f"failed: only {built} of the backlog's 100 messages were put there" in _failed(result)
    assert result["consume"]["lost"] == 0


@on_asyncio
def test_a_storm_tells_what_connecting_costs(backend: str, amqp_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--clients 60 --duration 1 --warmup 0.2"
    code, result = run(capsys, "--scenario", "storm", *words.split(), "--url", amqp_url, "--backend", backend)
    assert is_all_right(code, result)
    connect, cost = result["connect"], result["connect_cost"]
    assert (connect["connections"], connect["failed"], connect["latency_ms"]["count"]) == (60, 0, 60)
    assert cost["client_cpu_seconds"] > 0 and cost["broker_cpu_seconds"] >= 0
    assert cost["client_cpu_ms_per_connection"] == pytest.approx(cost["client_cpu_seconds"] / 60 * 1000, abs=0.02)
    assert result["scenario"]["handshakes"] >= 60  # all at once


@on_trio
def test_churn_times_each_step_of_a_round(backend: str, amqp_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--clients 12 --consumers 2 --callers 3 --duration 1.2 --warmup 0.3"
    code, result = run(capsys, "--scenario", "churn", *words.split(), "--url", amqp_url, "--backend", backend)
    assert code == 0, result["verdict"]
    assert is_all_right(code, result)
    churn, publish, rpc = result["churn"], result["publish"], result["rpc"]
    assert churn["failed"] == 0
    assert 0 < churn["rounds"] <= publish["confirmed"] + rpc["replies"]
    for name in ("connect", "work", "close", "round"):
        assert churn[f"{name}_ms"]["count"] == churn["rounds"]
    parts = sum(churn[f"{name}_ms"]["mean"] for name in ("connect", "work", "close"))
    assert churn["round_ms"]["mean"] == pytest.approx(parts, rel=0.01)
    assert publish["confirmed"] == result["consume"]["unique"] > 0
    assert rpc["replies"] == rpc["calls"] > 0
    assert result["connect"]["connections"] == 12


def test_churn_on_a_schedule(amqp_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--producers 4 --consumers 1 --rate 20 --duration 1 --warmup 0.2"
    code, result = run(capsys, "--scenario", "churn", *words.split(), "--url", amqp_url)
    assert is_all_right(code, result)
    publish = result["publish"]
    assert publish["planned"] == publish["sent"] + publish["skipped"]
    assert result["loop"] == "open"


@on_trio
def test_queues_tells_what_each_costs(backend: str, amqp_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--queues 40 --producers 40 --consumers 40 --connections 8 --duration 1 --warmup 0.2"
    code, result = run(capsys, "--scenario", "queues", *words.split(), "--url", amqp_url, "--backend", backend)
    assert is_all_right(code, result)
    queues = result["queues"]
    assert (queues["declared"], queues["declare_ms"]["count"], queues["delete_ms"]["count"]) == (40, 40, 40)
    assert queues["declare_ms"]["mean"] > 0


@on_trio
def test_a_sweep_makes_a_curve(
    backend: str, amqp_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "SHARES", (0.05, 0.1, 20.0, 25.0, 30.0))
    words = "--clients 6 --duration 1 --warmup 0.2 --drain 3 --require publish.rate>0"
    code, result = run(capsys, "--scenario", "sweep", *words.split(), "--url", amqp_url, "--backend", backend)
    assert code == 0, result["verdict"]
    steps = result["sweep"]["steps"]
    assert [step["share"] for step in steps] == [0.05, 0.1, 20.0, 25.0]  # two were not put on: no further one is tried
    assert [step["put_on"] for step in steps][-2:] == [False, False]
    for step in steps:
        assert step["rate"] == pytest.approx(step["share"] * result["sweep"]["closed_rate"], abs=0.1)
        assert step["response_ms"]["count"] > 0
    assert result["loop"] == "open"
    assert result["sweep"]["shown_rate"] in (steps[0]["rate"], steps[1]["rate"])
    assert result["requirements"][0]["holds"]
    assert result["scenario"]["scenario"] == "sweep"


def test_a_sweep_starts_one_node_for_all_its_steps(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "SHARES", (0.1, 0.2))
    started: list[PrivateNode] = []
    start = PrivateNode.start
    monkeypatch.setattr(PrivateNode, "start", lambda node: (started.append(node), start(node))[1])
    words = "--clients 4 --duration 0.5 --warmup 0 --drain 3 --vhost sweep"
    code, result = run(capsys, "--scenario", "sweep", *words.split())
    assert code == 0, result["verdict"]
    assert len(started) == 1
    assert len(result["sweep"]["steps"]) == 2


# --- several workloads --------------------------------------------------------------------------------------------


@on_trio
def test_several_workloads_run_at_once_and_add_up(
    backend: str, amqp_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = tmp_path / "two.toml"
    scene.write_text(
        """
        duration = 1
        warmup = "0.3s"
        [[workload]]
        name = "quiet"
        producers = 3
        consumers = 2
        callers = 2
        rate = 30
        [[workload]]
        name = "loud"
        producers = 4
        consumers = 4
        window = 10
        """
    )
    code, result = run(capsys, "--scenario", str(scene), "--url", amqp_url, "--backend", backend)
    assert is_all_right(code, result)
    quiet, loud = result["workloads"]
    assert (quiet["name"], loud["name"], quiet["loop"], loud["loop"], result["loop"]) == (
        *("quiet", "loud", "open", "closed", None),
    )
    for section in ("publish", "consume"):
        for key in {"sent", "confirmed", "received", "unique"} & set(result[section]):
            assert result[section][key] == quiet[section][key] + loud[section][key]
    assert quiet["publish"]["sent"] <= 30 * 3 < loud["publish"]["sent"]
    assert result["publish"]["rate"] == pytest.approx(quiet["publish"]["rate"] + loud["publish"]["rate"], rel=0.1)
    assert loud["rpc"] is None and quiet["rpc"]["replies"] == result["rpc"]["replies"] > 0
    assert (result["publish"]["lag_ms"], result["publish"]["planned"]) == (None, None)
    assert quiet["publish"]["lag_ms"]["count"] > 0
    assert result["connect"]["connections"] == 15
    counts = [own["publish"]["confirm_latency_ms"]["count"] for own in (quiet, loud)]
    assert result["publish"]["confirm_latency_ms"]["count"] == sum(counts)
    assert quiet["run_id"] == f"{result['run_id']}.quiet"
    assert quiet["consume"]["foreign"] == loud["consume"]["foreign"] == 0
    assert "guest:guest" not in json.dumps(result)


def test_workloads_begin_to_work_together(amqp_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = tmp_path / "two.toml"
    scene.write_text(
        "duration = 1\nwarmup = 0\n[[workload]]\nproducers = 1\n[[workload]]\nproducers = 40\nconsumers = 40"
    )
    code, result = run(capsys, "--scenario", str(scene), "--url", amqp_url)
    assert code in (0, 1)
    begins = [
        next(row["t_seconds"] - row["seconds"] for row in own["timeline"] if row["phase"] == "measure")
        for own in result["workloads"]
    ]
    assert abs(begins[0] - begins[1]) < 0.15
    assert all(own["publish"]["confirmed"] for own in result["workloads"])


def test_a_workload_of_callers_alone_leaves_nothing_in_the_queues_of_another(
    amqp_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = tmp_path / "two.toml"
    scene.write_text(
        "duration = 1\nwarmup = 0\n[[workload]]\nproducers = 2\nconsumers = 2\nrate = 50\n[[workload]]\ncallers = 2"
    )
    code, result = run(capsys, "--scenario", str(scene), "--url", amqp_url)
    assert is_all_right(code, result)
    assert (result["consume"]["lost"], result["consume"]["backlog"]) == (0, 0)
    assert result["rpc"]["replies"] > 0


def test_what_concerns_all_workloads_is_done_once(
    amqp_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sockets are killed once, and each workload tells what became of itself."""
    scene = tmp_path / "two.toml"
    scene.write_text(
        """
        duration = 3
        warmup = 0.2
        fault = ["1s kill-sockets 50%"]
        [[workload]]
        name = "one"
        producers = 5
        consumers = 5
        rate = 100
        [[workload]]
        name = "other"
        producers = 5
        consumers = 5
        rate = 100
        """
    )
    code, result = run(capsys, "--scenario", str(scene), "--url", amqp_url)
    assert code == 1
    one, other = result["faults"]
    assert (one["workload"], other["workload"]) == ("one", "other")
    assert (one["killed"], other.get("killed")) == (10, None)
    assert one["dropped"] + other["dropped"] == result["connect"]["dropped"] == 10
    assert one["dropped"] == result["workloads"][0]["connect"]["dropped"]


def test_workloads_take_nothing_that_is_of_one_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = tmp_path / "two.toml"
    scene.write_text("[[workload]]\nproducers = 1\n[[workload]]\nproducers = 1")
    with pytest.raises(SystemExit) as ended:
        main(["--scenario", str(scene), "--calibrate"])
    assert ended.value.code == 2
    assert "--calibrate with [[workload]]s" in capsys.readouterr().err


def test_a_workload_that_fails_fails_the_run(amqp_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = tmp_path / "two.toml"
    scene.write_text(
        """
        duration = 1
        warmup = 0.2
        [[workload]]
        producers = 50
        window = 50
        consumers = 10
        [[workload]]
        name = "full"
        producers = 1
        queue-arg = {x-max-length = 1, x-overflow = "reject-publish"}
        """
    )
    code, result = run(capsys, "--scenario", str(scene), "--url", amqp_url)
    assert code == 1
    assert result["verdict"]["status"] == "failed"
    assert any(text.startswith("failed: full: the load was not put on") for text in _failed(result))


def test_a_workload_whose_queues_are_refused_ends_the_run(
    amqp_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = tmp_path / "two.toml"
    scene.write_text("[[workload]]\nproducers = 1\n[[workload]]\nproducers = 1\nqueue-arg = {x-max-length = 'much'}")
    assert main(["--quiet", "--scenario", str(scene), "--url", amqp_url]) == 2
    assert "the broker refuses the queues" in capsys.readouterr().err


@on_asyncio
def test_fanout_copies_each_message(backend: str, amqp_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--clients 8 --producers 2 --fanout 3 --duration 1 --warmup 0.2 --mode closed"
    code, result = run(capsys, "--scenario", "fanout", *words.split(), "--url", amqp_url, "--backend", backend)
    assert is_all_right(code, result)
    assert result["consume"]["unique"] == 3 * result["publish"]["confirmed"] > 0


@on_trio
def test_a_work_queue_is_shared_by_consumers_that_work(
    backend: str, amqp_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "--clients 8 --producers 2 --duration 1 --warmup 0.2 --mode closed --work 2ms --drain 60"
    code, result = run(capsys, "--scenario", "work-queue", *words.split(), "--url", amqp_url, "--backend", backend)
    assert code in (0, 1)
    assert result["consume"]["lost"] == 0
    assert result["scenario"]["queues"] == 1
    assert 0 < result["consume"]["rate"] <= 6 / 0.002


def test_rounds_that_fail_are_counted_and_go_on(node: PrivateNode, capsys: pytest.CaptureFixture[str]) -> None:
    """A virtual host that takes fewer connections than there are clients refuses some rounds, and takes others."""
    node.rabbitmqctl("add_vhost", "narrow")
    try:
        node.rabbitmqctl("set_permissions", "-p", "narrow", "guest", ".*", ".*", ".*")
        node.rabbitmqctl("set_vhost_limits", "-p", "narrow", '{"max-connections": 3}')
        words = "--producers 10 --consumers 0 --duration 1.5 --warmup 0.2 --vhost narrow --url"
        code, result = run(capsys, "--scenario", "churn", *words.split(), node.url)
    finally:
        node.rabbitmqctl("delete_vhost", "narrow")
    churn = result["churn"]
    assert code == 1
    assert churn["failed"] > 0 and churn["rounds"] > 0
    assert sum(number for name, number in result["errors"].items() if name.endswith(" (churning)")) == churn["failed"]
    assert any("rounds of connecting, sending and closing failed" in text for text in _failed(result))
    assert result["connect"]["dropped"] == 0
    assert result["publish"]["unknown"] == 0
