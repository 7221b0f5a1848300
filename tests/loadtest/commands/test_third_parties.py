"""Another party at the run's queues, which steals, purges, copies, holds back: each is counted, and exactly."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

import rabbitry
from loadtest.commands.run import main
from loadtest.execution.conductor import Conductor
from loadtest.execution.state import Run
from tests.support.helpers import until

Result = dict[str, Any]
Deed = Callable[[Run, rabbitry.Channel, str], Awaitable[None]]
"""What the other party does on a channel of its own, with the run's only queue."""

BOTH = "--producers 1 --window 4 --consumers 1 --queues 1 --prefetch 50 --rate 150"
ALONE = "--producers 2 --consumers 0 --queues 1 --mode closed"


@pytest.fixture(params=("asyncio", "trio"))
def backend(request: pytest.FixtureRequest) -> str:
    backend: str = request.param
    return backend


@pytest.fixture
def perform(
    backend: str, amqp_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, Result]]:
    """Runs with the other party at work once a hundred messages were confirmed."""
    monkeypatch.delenv("RABBITMQ_URL", raising=False)
    original = Conductor._work

    def run(deed: Deed, line: str) -> tuple[int, Result]:
        async def intrude(run: Run) -> None:
            await until(lambda: run.record.tally.confirmed > 100)
            async with rabbitry.connect(amqp_url) as connection, connection.channel(prefetch=20) as channel:
                await deed(run, channel, run.plan.queues[0])

        async def work(self: Conductor) -> None:
            async with anyio.create_task_group() as tg:
                tg.start_soon(intrude, self._run)
                await original(self)

        monkeypatch.setattr(Conductor, "_work", work)
        words = (*line.split(), "--duration", "3", "--warmup", "0.3", "--drain", "15", "--backend", backend)
        code = main([*words, "--url", amqp_url, "--quiet", "--json", "-"])
        result: Result = json.loads(capsys.readouterr().out)
        return code, result

    return run


async def take(channel: rabbitry.Channel, queue: str, number: int) -> list[rabbitry.Delivery]:
    """So many messages that the run's own consumer doesn't get; the channel's prefetch is the number."""
    taken: list[rabbitry.Delivery] = []
    async with channel.consume(queue) as deliveries:
        async for delivery in deliveries:
            taken.append(delivery)
            if len(taken) == number:
                break
    return taken


def test_what_was_stolen_is_lost(perform: Callable[..., tuple[int, Result]]) -> None:
    async def steal(run: Run, channel: rabbitry.Channel, queue: str) -> None:
        for _ in range(17):
            delivery = await channel.get(queue)
            assert delivery is not None
            delivery.ack()

    code, result = perform(steal, ALONE)
    consume = result["consume"]
    assert (code, consume["lost"]) == (1, 17)
    assert consume["backlog"] == result["publish"]["confirmed"] - 17


def test_what_was_purged_is_lost(perform: Callable[..., tuple[int, Result]]) -> None:
    purged: list[int] = []

    async def purge(run: Run, channel: rabbitry.Channel, queue: str) -> None:
        purged.append(await channel.purge_queue(queue))

    code, result = perform(purge, ALONE)
    assert code == 1
    assert result["consume"]["lost"] == purged[0] > 50
    assert result["verdict"]["evidence"][0] == f"failed: {purged[0]:,} messages lost"


def test_what_was_stolen_under_the_consumers_eyes_is_lost(perform: Callable[..., tuple[int, Result]]) -> None:
    async def steal(run: Run, channel: rabbitry.Channel, queue: str) -> None:
        for delivery in await take(channel, queue, 20):
            delivery.ack()

    code, result = perform(steal, BOTH)
    consume = result["consume"]
    assert (code, consume["lost"], consume["backlog"], consume["duplicates"]) == (1, 20, 0, 0)
    assert consume["unique"] == result["publish"]["confirmed"] - 20
    assert 1 <= consume["gaps"] <= 20 and consume["gaps_redelivered"] == consume["reordered"] == 0


def test_copies_are_duplicates_and_strangers_are_foreign(perform: Callable[..., tuple[int, Result]]) -> None:
    async def copy(run: Run, channel: rabbitry.Channel, queue: str) -> None:
        await until(lambda: run.record.ledger.unique > 30)
        for number in (5, 7, 7, 9):
            await channel.publish(run.bodies(0, number, 1), routing_key=queue)
        await channel.publish(b"somebody else's, and long enough for a stamp", routing_key=queue)

    code, result = perform(copy, BOTH)
    consume = result["consume"]
    assert (code, consume["lost"], consume["duplicates"], consume["foreign"]) == (0, 0, 4, 1)
    assert (consume["duplicates_redelivered"], consume["redelivered"], consume["reordered"]) == (0, 0, 0)
    assert consume["received"] == consume["unique"] + 4


def test_what_was_held_back_and_sent_again_is_out_of_order(perform: Callable[..., tuple[int, Result]]) -> None:
    async def hold_back(run: Run, channel: rabbitry.Channel, queue: str) -> None:
        held = await take(channel, queue, 20)
        received = run.record.tally.received
        await until(lambda: run.record.tally.received > received + 20)
        for delivery in held:
            await channel.publish(delivery.body, routing_key=queue)
            delivery.ack()

    code, result = perform(hold_back, BOTH)
    consume = result["consume"]
    assert (code, consume["lost"], consume["duplicates"]) == (0, 0, 0), result["verdict"]
    assert (consume["reordered"], consume["reordered_redelivered"], consume["redelivered"]) == (20, 0, 0)
    assert 1 <= consume["gaps"] <= 20


def test_what_was_given_back_comes_late_and_says_so(perform: Callable[..., tuple[int, Result]]) -> None:
    async def give_back(run: Run, channel: rabbitry.Channel, queue: str) -> None:
        held = await take(channel, queue, 20)
        received = run.record.tally.received
        await until(lambda: run.record.tally.received > received + 20)
        for delivery in held:
            delivery.nack(requeue=True)

    code, result = perform(give_back, BOTH)
    consume = result["consume"]
    assert (code, consume["lost"], consume["duplicates"]) == (0, 0, 0), result["verdict"]
    assert (consume["reordered"], consume["reordered_redelivered"], consume["redelivered"]) == (20, 20, 20)
