"""Whole runs, small ones, whose traffic is as users' is: the ledger stays exact whatever is asked for."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest

import rabbitry
from loadtest.commands.flags import parse_settings
from loadtest.commands.run import main
from loadtest.execution import leftovers
from loadtest.execution.queues import Queues
from loadtest.execution.state import start_run
from rabbitry.testing import open_proxy

Result = dict[str, Any]
Runs = Callable[..., Result]
SHORT = ("--duration", "0.6", "--warmup", "0.2", "--drain", "10")
SO_MANY = "--rate 300 --messages 240 --duration 60 --warmup 0"
"""As many messages on a busy machine, which takes longer for them than the second that they need."""
Way = tuple[str, str]
WAYS: list[Way] = [("trio", "rabbitry"), ("asyncio", "aiormq")]
"""Each backend and each driver once: what depends on both is in test_run."""


def by_way(*ways: Way) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("way", ways, ids="-".join, indirect=True)


on_asyncio, on_trio = by_way(("asyncio", "rabbitry")), by_way(("trio", "rabbitry"))
"""For what no driver has a part in: every part below has some of it on each backend."""


@pytest.fixture(params=WAYS, ids="-".join)
def way(request: pytest.FixtureRequest) -> Way:
    way: Way = request.param
    return way


@pytest.fixture
def perform(way: Way, amqp_url: str, capsys: pytest.CaptureFixture[str]) -> Runs:
    """Runs a line against the broker; its result, once the ledger was found to add up."""
    backend, driver = way

    def run(line: str, *, code: int = 0, url: str | None = amqp_url) -> Result:
        words = [*SHORT, "--quiet", "--json", "-", "--backend", backend, "--driver", driver, *line.split()]
        ended = main([*words, *(() if url is None else ("--url", url))])
        captured = capsys.readouterr()
        assert captured.err == ""
        result: Result = json.loads(captured.out)
        failed = [text for text in result["verdict"]["evidence"] if text.startswith("failed: ")]
        is_behind = bool(failed) and all("the load was not put on" in text for text in failed)  # a busy machine
        assert ended in (code, code or int(is_behind)), (result["errors"], failed, result["publish"], result["consume"])
        add_up(result)
        return result

    return run


def add_up(result: Result) -> None:
    publish, consume = result["publish"], result["consume"]
    if publish:
        ends = ("confirmed", "unconfirmed", "nacked", "returned", "unknown")
        assert publish["sent"] == sum(publish[name] for name in ends)
    if consume:
        assert consume["received"] == consume["unique"] + consume["duplicates"] + consume["requeued"]
    if publish and consume and consume["backlog"] is not None:
        taken = publish["confirmed"] + publish["unconfirmed"]
        arrived = consume["unique"] + consume["lost"] + consume["backlog"]
        assert taken * consume["copies_per_message"] + consume["resurrected"] == arrived


@contextmanager
def declared(url: str, *queues: str, exchange: str | None = None, messages: int = 0) -> Iterator[None]:
    """Queues of another party, bound to an exchange of that party, with some messages in the first; they stay after
    the run, and go then.
    """

    async def declare() -> None:
        async with rabbitry.connect(url) as connection, connection.channel(confirm=True) as channel:
            if exchange is not None:
                await channel.declare_exchange(exchange, "direct")
            for queue in queues:
                await channel.declare_queue(queue)
                if exchange is not None:
                    await channel.bind_queue(queue, exchange, "key")
            for _ in range(messages):
                await channel.publish(b"another's", routing_key=queues[0])

    async def delete() -> None:
        async with rabbitry.connect(url) as connection, connection.channel() as channel:
            for queue in queues:
                await channel.declare_queue(queue, passive=True)  # it is still there
                await channel.delete_queue(queue)
            if exchange is not None:
                await channel.declare_exchange(exchange, "direct", passive=True)
                await channel.delete_exchange(exchange)

    anyio.run(declare)
    try:
        yield
    finally:
        anyio.run(delete)


def count(url: str, queue: str) -> int:
    async def ask() -> int:
        async with rabbitry.connect(url) as connection, connection.channel() as channel:
            return (await channel.declare_queue(queue, passive=True)).message_count

    return anyio.run(ask)


# --- how much and how fast ------------------------------------------------------------------------------------------


@on_asyncio
def test_a_rate_that_changes_is_told_by_segments(perform: Runs) -> None:
    result = perform("--producers 5 --consumers 5 --rate 50:0.2,300:0.2 --duration 1")
    low, high = result["publish"]["segments"]
    assert (low["rate"], high["rate"]) == ("50:0.2", "300:0.2")
    assert low["seconds"] == pytest.approx(0.6, abs=0.01)  # the third begins with 0.8 s
    assert (low["planned"], high["planned"]) == (pytest.approx(30, abs=5), pytest.approx(120, abs=30))
    assert (low["sent"], high["sent"]) == (pytest.approx(low["planned"], abs=5), pytest.approx(high["planned"], abs=25))
    assert result["publish"]["planned"] == 10 + low["planned"] + high["planned"]
    assert result["loop"] == "open"
    assert result["scenario"]["rate"] == 175
    assert result["scenario"]["shape"] == "50:0.2,300:0.2"


@on_trio
def test_a_number_of_messages_ends_the_run(perform: Runs) -> None:
    result = perform("--producers 3 --consumers 2 --messages 100 --warmup 0 --duration 60")
    assert result["publish"]["sent"] == result["consume"]["unique"] == 100
    assert result["complete"] is True
    assert result["phases"][2]["seconds"] < 30
    paced = perform("--producers 3 --consumers 2 --messages 100 --warmup 0 --rate 200 --duration 60")
    assert (paced["publish"]["planned"], paced["publish"]["skipped"]) == (100, 0)


@on_asyncio
def test_messages_that_were_not_all_sent_in_time_fail_the_run(perform: Runs) -> None:
    result = perform("--producers 1 --consumers 1 --messages 1000 --rate 50", code=1)
    assert any("of 1,000 messages were sent in the time there was" in text for text in result["verdict"]["evidence"])
    assert result["complete"] is False


@on_trio
def test_idleness_ends_the_run(perform: Runs, amqp_url: str) -> None:
    with declared(amqp_url, "test.idle", messages=30):
        result = perform("--consumers 2 --queue test.idle --consume-foreign --until-idle 0.3 --duration 60 --warmup 0")
        assert count(amqp_url, "test.idle") == 0
    assert result["complete"] is True
    assert result["consume"]["foreign"] == 30
    assert result["publish"] is None


# --- what consumers do ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ack_every", ["1", "4"])
def test_deliveries_put_back_and_rejected(perform: Runs, ack_every: str) -> None:
    result = perform(f"{SO_MANY} --producers 3 --consumers 3 --requeue 20% --reject 10% --ack-every {ack_every}")
    consume = result["consume"]
    assert consume["unique"] == result["publish"]["confirmed"] == 240
    assert consume["requeued"] > 10
    assert consume["rejected"] > 5
    assert (consume["lost"], consume["backlog"], consume["duplicates"]) == (0, 0, 0)
    assert consume["redelivered"] == consume["requeued"]


@on_asyncio
def test_work_bounds_the_rate(perform: Runs) -> None:
    result = perform("--producers 4 --consumers 2 --work 20ms --rate 200 --drain 0")
    assert 0 < result["consume"]["rate"] <= 105  # two consumers, 50 a second each
    assert result["consume"]["backlog"] > 20
    assert result["consume"]["lost"] == 0


def test_automatic_acknowledgement(perform: Runs) -> None:
    result = perform(f"{SO_MANY} --producers 3 --consumers 3 --auto-ack")
    assert result["consume"]["unique"] == result["publish"]["confirmed"] == 240
    assert (result["consume"]["lost"], result["consume"]["backlog"]) == (0, 0)


def test_without_confirms_what_is_lost_is_counted_against_what_was_sent(perform: Runs) -> None:
    result = perform("--producers 3 --consumers 3 --rate 300 --no-confirm")
    publish, consume = result["publish"], result["consume"]
    assert (publish["confirmed"], publish["confirms"], consume["lost_of"]) == (0, False, "sent")
    assert publish["unconfirmed"] == publish["sent"] == consume["unique"] > 100
    assert publish["rate"] > 100
    assert publish["confirm_latency_ms"]["count"] == 0


# --- what is sent, and where to -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("way", "kind"), list(zip(WAYS, ("fanout", "topic"), strict=True)), indirect=["way"])
def test_each_queue_gets_its_copy(perform: Runs, kind: str) -> None:
    result = perform(f"--producers 3 --consumers 6 --rate 100 --{kind} 3 --window 5")
    assert result["consume"]["copies_per_message"] == 3
    assert result["consume"]["unique"] == 3 * result["publish"]["confirmed"] > 150
    assert (result["consume"]["lost"], result["consume"]["duplicates"]) == (0, 0)


@on_trio
def test_copies_that_are_left_are_found(perform: Runs) -> None:
    result = perform("--producers 2 --consumers 3 --rate 200 --fanout 3 --work 30ms --drain 0 --prefetch 1")
    assert result["consume"]["backlog"] > 50
    assert result["consume"]["lost"] == 0


def test_bodies_of_several_sizes_arrive_as_they_were_sent(perform: Runs) -> None:
    result = perform("--producers 3 --consumers 3 --rate 200 --size 100,20KiB:10% --body random")
    assert result["consume"]["corrupted"] == 0
    assert result["consume"]["unique"] == result["publish"]["confirmed"] > 50


@on_asyncio
def test_queues_are_chosen_unevenly(perform: Runs) -> None:
    result = perform("--producers 3 --consumers 3 --queues 3 --rate 200 --skew 80% --window 3")
    assert result["consume"]["unique"] == result["publish"]["confirmed"] > 50
    assert result["consume"]["lost"] == 0


def test_priorities_headers_and_shared_sockets(perform: Runs) -> None:
    line = "--producers 4 --consumers 4 --rate 200 --priorities 5 --header tenant=a --header n=1"
    result = perform(f"{line} --channels-per-connection 3")
    assert result["connect"]["connections"] == 3
    assert result["consume"]["unique"] == result["publish"]["confirmed"] > 50


@on_trio
def test_producers_and_consumers_connect_where_they_are_told_to(perform: Runs, amqp_url: str) -> None:
    other = amqp_url.replace("127.0.0.1", "localhost")
    line = f"--producers 2 --consumers 2 --rate 100 --publish-url {other} --consume-url {amqp_url}"
    result = perform(line, url=None)
    assert result["consume"]["unique"] == result["publish"]["confirmed"] > 20
    assert result["scenario"]["publish_urls"][0].startswith("amqp://guest@")


# --- what is there already ------------------------------------------------------------------------------------------


@on_asyncio
def test_a_queue_that_is_there_is_used_and_stays(perform: Runs, amqp_url: str) -> None:
    with declared(amqp_url, "test.there.1", "test.there.2"):
        result = perform("--producers 2 --consumers 2 --rate 100 --queue test.there.1 --queue test.there.2")
    assert result["consume"]["unique"] == result["publish"]["confirmed"] > 20
    assert (result["consume"]["lost"], result["consume"]["foreign"]) == (0, 0)


def test_an_exchange_that_is_there_is_published_to(perform: Runs, amqp_url: str) -> None:
    with declared(amqp_url, "test.bound", exchange="test.theirs"):
        line = "--producers 2 --rate 100 --exchange test.theirs --routing-key key"
        blind = perform(line)
        assert blind["consume"] is None
        assert count(amqp_url, "test.bound") == blind["publish"]["confirmed"] > 20
    with declared(amqp_url, "test.bound", exchange="test.theirs"):
        seen = perform(f"{line} --consumers 1 --queue test.bound")
        assert seen["consume"]["unique"] == seen["publish"]["confirmed"] > 20


@on_trio
def test_publishing_alone_to_a_queue_that_is_there(perform: Runs, amqp_url: str) -> None:
    with declared(amqp_url, "test.filled"):
        result = perform("--producers 2 --rate 100 --queue test.filled")
        assert count(amqp_url, "test.filled") == result["publish"]["confirmed"] == result["consume"]["backlog"]
    assert result["consume"]["lost"] == 0


def test_messages_of_another_party_come_while_the_run_goes_on(
    perform: Runs, amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are put back, and are still there: however often the queue is counted, it has what is not the run's."""
    monkeypatch.setattr(leftovers, "RECOUNT_BOUND", 3 * leftovers.RECOUNT_INTERVAL)

    async def intrude() -> None:
        async with rabbitry.connect(amqp_url) as connection, connection.channel(confirm=True) as channel:
            while True:
                if (await channel.declare_queue("test.shared", passive=True)).consumer_count:
                    break
                await anyio.sleep(0.01)
            await channel.publish(b"another's", routing_key="test.shared")

    with declared(amqp_url, "test.shared"):
        intruder = threading.Thread(target=anyio.run, args=[intrude])
        intruder.start()
        line = "--producers 1 --consumers 1 --rate 50 --queue test.shared --duration 30 --drain 1"
        result = perform(line, code=1)
        intruder.join()
        assert count(amqp_url, "test.shared") >= 1
    assert (result["consume"]["foreign"], result["consume"]["backlog"]) == (1, None)
    assert "ForeignMessage" in result["errors"]
    assert sum(phase["seconds"] for phase in result["phases"]) < 20


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("--producers 1 --consumers 1 --queue test.full", "has 3 messages that are not this run's"),
        ("--producers 1 --consumers 1 --queue test.missing", "there is no queue 'test.missing'"),
    ],
)
def test_a_run_that_must_not_begin(line: str, why: str, amqp_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with declared(amqp_url, "test.full", messages=3):
        assert main([*SHORT, *line.split(), "--url", amqp_url]) == 2
        assert count(amqp_url, "test.full") == 3
    assert why in capsys.readouterr().err.replace("\n", " ")


# --- the broker -----------------------------------------------------------------------------------------------------


@on_asyncio
def test_a_broker_that_is_still_starting_is_waited_for(perform: Runs, amqp_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    async def start() -> None:
        await anyio.sleep(1.2)
        async with open_proxy(amqp_url, ("127.0.0.1", port)):
            while not ended.is_set():
                await anyio.sleep(0.05)

    ended = threading.Event()
    broker = threading.Thread(target=anyio.run, args=[start])
    broker.start()
    try:
        result = perform("--producers 1 --consumers 1 --rate 50 --wait-broker 30", url=f"amqp://127.0.0.1:{port}")
        assert result["consume"]["unique"] > 5
    finally:
        ended.set()
        broker.join()


def test_a_broker_is_waited_for_no_longer_than_was_said(way: Way, capsys: pytest.CaptureFixture[str]) -> None:
    backend, driver = way
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"amqp://127.0.0.1:{free.getsockname()[1]}"
    began = time.monotonic()
    assert main([*SHORT, "--url", url, "--wait-broker", "1", "--backend", backend, "--driver", driver]) == 4
    assert 0.5 < time.monotonic() - began < 10
    assert "no broker to test" in capsys.readouterr().err


def test_a_stream_that_a_killed_run_leaves_loses_what_is_old() -> None:
    run = start_run(parse_settings(["--producers", "1", "--queue-type", "stream"], {}))
    arguments = Queues(run, lambda: None, longest=100)._arguments  # type: ignore[arg-type, return-value]
    (queue, declared_with) = next(iter(arguments.items()))
    assert queue.startswith("loadtest.")
    assert declared_with == {"x-queue-type": "stream", "x-max-age": "700s"}
