"""Deliveries: settled once, in any order; coalesced acknowledgements never settle more than was asked."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rabbitry
from rabbitry._channel.delivery import log_failure
from rabbitry._concurrency.repeated import Repeated
from tests.support.helpers import check_channel, drain, exclusive_queue, has_counts, open_channel, unique

Settle = Callable[[rabbitry.Delivery], None]

SETTLERS: list[Settle] = [
    rabbitry.Delivery.ack,
    rabbitry.Delivery.nack,
    rabbitry.Delivery.reject,
    lambda delivery: delivery.nack(requeue=False),
    lambda delivery: delivery.reject(requeue=True),
]


async def take(channel: rabbitry.Channel, queue: str) -> rabbitry.Delivery:
    delivery = await channel.get(queue)
    assert delivery is not None
    return delivery


# --- once ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("again", SETTLERS)
@pytest.mark.parametrize("first", SETTLERS)
async def test_settled_twice(amqp_url: str, first: Settle, again: Settle) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel, [b"1"])
        delivery = await take(channel, queue)
        assert not delivery.is_settled
        first(delivery)
        assert delivery.is_settled and not delivery.is_stale
        with pytest.raises(rabbitry.AlreadySettled):
            again(delivery)
        await check_channel(channel)  # nothing was sent: the broker would have closed the channel
        with pytest.raises(rabbitry.AlreadySettled):
            again(delivery)


@pytest.mark.parametrize("settle", SETTLERS)
async def test_awaiting_it_is_harmless(amqp_url: str, settle: Settle) -> None:
    """As who comes from a client whose `ack` is a coroutine writes it: it is done once called, and awaiting goes on."""
    async with open_channel(amqp_url) as channel:
        delivery = await take(channel, await exclusive_queue(channel, [b"1"]))
        returned: Any = settle(delivery)
        assert delivery.is_settled
        assert await returned is None
        assert await returned is None
        with pytest.raises(rabbitry.AlreadySettled, match="settled once"):
            await settle(delivery)  # type: ignore[func-returns-value]


@pytest.mark.parametrize("settle", [rabbitry.Batch.ack, rabbitry.Batch.nack, rabbitry.Batch.reject])
async def test_awaiting_what_settles_a_batch_is_harmless(
    amqp_url: str, settle: Callable[[rabbitry.Batch], None]
) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel, [b"1", b"2"])
        async with channel.consume(queue) as deliveries:
            batch = await anext(deliveries.batches(2, within=60))
            await settle(batch)  # type: ignore[func-returns-value]
            assert all(delivery.is_settled for delivery in batch)


async def test_a_process_block_in_which_an_ack_was_awaited(amqp_url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel, [b"1"])
        with (await take(channel, queue)).process() as delivery:
            await delivery.ack()  # type: ignore[func-returns-value]
        assert await has_counts(channel, queue, 0)
    assert not caplog.records


@pytest.mark.parametrize("settle", SETTLERS)
async def test_stale_after_the_channel(amqp_url: str, settle: Settle) -> None:
    async with rabbitry.connect(amqp_url, channel_max=1) as connection:
        async with connection.channel() as channel:
            number = channel.number
            queue = await exclusive_queue(channel, [b"message"])
            delivery = await take(channel, queue)
        assert delivery.is_stale and not delivery.is_settled
        async with connection.channel() as other:  # the same number: a tag sent there would settle a stranger's message
            assert await has_counts(other, queue, 1)
            again = await take(other, queue)
            assert (other.number, again.delivery_tag) == (number, delivery.delivery_tag)
            with pytest.raises(rabbitry.StaleDelivery, match="put it back"):
                settle(delivery)
            await check_channel(other)
            assert not again.is_settled
            again.ack()
            assert again.redelivered
    assert delivery.is_stale and again.is_settled and not again.is_stale
    with pytest.raises(rabbitry.StaleDelivery):
        settle(delivery)
    with pytest.raises(rabbitry.AlreadySettled):
        settle(again)


async def test_stale_after_the_broker_closed_the_channel(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        delivery = await take(channel, await exclusive_queue(channel, [b"message"]))
        with pytest.raises(rabbitry.NotFound):
            await channel.get(unique())
        with pytest.raises(rabbitry.StaleDelivery, match="404"):
            delivery.ack()


async def test_without_ack_it_is_settled_from_the_start(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel, [b"1", b"2"])
        delivery = await channel.get(queue, no_ack=True)
        assert delivery is not None and delivery.is_settled
        with pytest.raises(rabbitry.AlreadySettled):
            delivery.ack()
        async with channel.consume(queue, no_ack=True) as deliveries:
            delivery = await anext(deliveries)
            assert delivery.is_settled
            with delivery.process():  # settles nothing
                pass
        await check_channel(channel)


# --- what each does --------------------------------------------------------------------------------------------------


async def test_where_a_message_goes(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        dead = await exclusive_queue(channel)
        queue = await exclusive_queue(channel, x_dead_letter_exchange="", x_dead_letter_routing_key=dead)
        expected = [("queue", 1), (None, 0), ("queue", 1), ("dead", 0), ("queue", 1), ("dead", 0)]
        acts: list[Settle] = [
            lambda delivery: delivery.nack(),
            lambda delivery: delivery.ack(),
            lambda delivery: delivery.nack(requeue=True),
            lambda delivery: delivery.nack(requeue=False),
            lambda delivery: delivery.reject(requeue=True),
            lambda delivery: delivery.reject(),
        ]
        for act, (where, left) in zip(acts, expected, strict=True):
            await channel.publish(b"message", routing_key=queue)
            act(await take(channel, queue))
            assert await has_counts(channel, queue, left)
            await channel.purge_queue(queue)
            if where == "dead":
                assert await has_counts(channel, dead, 1)
                letter = await take(channel, dead)
                letter.ack()
                [death] = letter.deaths
                assert (death.queue, death.reason, death.count, death.exchange) == (queue, "rejected", 1, "")
                assert death.routing_keys == (queue,)
                assert death.time is not None
        assert await has_counts(channel, dead, 0)


async def test_what_it_says_of_itself(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel)
        await channel.bind_queue(queue, "amq.topic", f"{queue}.*")
        await channel.publish(rabbitry.Message.json([1]), exchange="amq.topic", routing_key=f"{queue}.ž")
        delivery = await take(channel, queue)
        assert (delivery.exchange, delivery.routing_key, delivery.body) == ("amq.topic", f"{queue}.ž", b"[1]")
        assert (delivery.delivery_tag, delivery.redelivered, delivery.delivery_count) == (1, False, 0)
        assert (delivery.headers, delivery.deaths, delivery.stream_offset) == ({}, (), None)
        assert delivery.decode() == [1]
        assert "unsettled" in repr(delivery) and "[1]" not in repr(delivery)
        delivery.nack()
        again = await take(channel, queue)
        assert (again.delivery_tag, again.redelivered, again.delivery_count) == (2, True, 1)


# --- process ---------------------------------------------------------------------------------------------------------


class _Stop(BaseException):
    pass


@pytest.mark.parametrize(
    ("on_error", "error", "raises", "where"),
    [
        ("requeue", None, False, None),
        ("requeue", ValueError, False, "queue"),
        ("reject", ValueError, False, "dead"),
        ("raise", ValueError, True, "queue"),
        (lambda delivery, error: "reject", ValueError, False, "dead"),
        (lambda delivery, error: "requeue" if delivery.body else "reject", ValueError, False, "queue"),
        ("reject", _Stop, True, "queue"),
    ],
)
async def test_process(
    amqp_url: str, on_error: rabbitry.Delivery, error: type[BaseException] | None, raises: bool, where: str | None
) -> None:
    async with open_channel(amqp_url) as channel:
        dead = await exclusive_queue(channel)
        queue = await exclusive_queue(channel, [b"message"], x_dead_letter_exchange="", x_dead_letter_routing_key=dead)
        delivery = await take(channel, queue)
        caught = None
        try:
            with delivery.process(on_error=on_error) as same:  # type: ignore[arg-type]
                assert same is delivery
                if error is not None:
                    raise error("mine")
        except (ValueError, _Stop) as exc:
            caught = exc
        assert (caught is not None) == raises
        assert delivery.is_settled
        assert await has_counts(channel, queue, where == "queue")
        assert await has_counts(channel, dead, where == "dead")


async def test_process_cancelled_puts_back(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel, [b"message"])
        with anyio.move_on_after(0.01) as scope:
            with (await take(channel, queue)).process(on_error="reject"):
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert await has_counts(channel, queue, 1)


async def test_process_respects_what_the_block_settled(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel, [b"1", b"2"])
        with (await take(channel, queue)).process() as delivery:
            delivery.nack(requeue=False)
        with (await take(channel, queue)).process() as delivery:
            delivery.ack()
            raise ValueError("after the ack")
        assert await has_counts(channel, queue, 0)


async def test_process_logs_the_failure_but_not_the_body(amqp_url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel, [b"secret body"])
        with caplog.at_level(logging.DEBUG, "rabbitry"), (await take(channel, queue)).process(on_error="reject"):
            raise ValueError("mine")
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None and "mine" in str(record.exc_info[1])
    assert "secret" not in caplog.text


async def test_process_logs_which_delivery_and_what_became_of_it(
    amqp_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_channel(amqp_url) as channel:
        dead = await exclusive_queue(channel)
        queue = await exclusive_queue(channel, x_dead_letter_exchange="", x_dead_letter_routing_key=dead)
        await channel.publish(rabbitry.Message(b"x", message_id="order\n7"), routing_key=queue)
        async with channel.consume(queue) as deliveries:
            with (await anext(deliveries)).process():
                raise ValueError("the first time")
            with (await anext(deliveries)).process(on_error="reject"):
                raise KeyError("again")
        async with channel.consume(dead) as deliveries:
            with (await anext(deliveries)).process() as delivery:
                delivery.ack()
                raise ValueError("after the ack")
    first, second, third = [record.getMessage() for record in caplog.records]
    assert "ValueError: the first time (put back)" in first and "delivered for the first time" in first
    assert "KeyError: 'again' (rejected)" in second and second.endswith("redelivered")
    for line in (first, second):
        assert f"queue '{queue}', exchange '', routing key '{queue}', message id 'order\\n7'" in line
    assert f"queue '{dead}'" in third and "(it was settled before)" in third and "put back" not in third


async def test_a_thousand_failures_are_a_few_lines(amqp_url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel)
        for number in range(500):
            channel.publish_nowait(b"%d" % number, routing_key=queue)
        began = anyio.current_time()
        async with channel.consume(queue) as deliveries:
            for number in range(500):
                with (await anext(deliveries)).process(on_error="reject"):
                    raise (KeyError if number % 2 else ValueError)(number)
        took = anyio.current_time() - began
    assert 2 <= len(caplog.records) <= 2 + 2 * took
    assert [record.exc_info is not None for record in caplog.records[:3]] == [True, True, False][: len(caplog.records)]


async def test_properties_that_cannot_be_read_do_not_hide_a_failure(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rabbitry._channel.delivery.FAILURES", Repeated())  # the other backend's test may be just over
    log_failure(Malformed(), ValueError("mine"), "rejected")
    assert "ValueError: mine (rejected)" in caplog.text and "properties that can't be read" in caplog.text


class Malformed(rabbitry.Delivery):
    """A delivery whose publisher sent rubbish."""

    def __init__(self) -> None:
        self.consumer = None
        self.redelivered = False
        self._route = b"\0\0"
        self._header = b"\xff\xff"


async def test_process_of_a_stale_delivery_is_logged(amqp_url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with rabbitry.connect(amqp_url) as connection:
        async with connection.channel() as channel:
            delivery = await take(channel, await exclusive_queue(channel, [b"1"]))
        with delivery.process():
            pass
    assert "after its channel had ended" in caplog.text


async def test_process_wants_a_known_verdict(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel, [b"1"])
        delivery = await take(channel, queue)
        with pytest.raises(ValueError, match="requeue"):
            delivery.process(on_error="retry")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="requeue"), delivery.process(lambda *_: "retry"):  # type: ignore[arg-type, return-value]
            raise KeyError
        assert await has_counts(channel, queue, 1)


async def test_process_whose_verdict_function_raises(amqp_url: str) -> None:
    def broken(delivery: rabbitry.Delivery, error: Exception) -> rabbitry.Delivery:
        raise KeyError("broken")

    async with open_channel(amqp_url) as channel:
        queue = await exclusive_queue(channel, [b"1"])
        delivery = await take(channel, queue)
        with pytest.raises(KeyError, match="broken"), delivery.process(broken):  # type: ignore[arg-type]
            raise ValueError("mine")
        assert delivery.is_settled
        assert await has_counts(channel, queue, 1)


# --- coalescing ------------------------------------------------------------------------------------------------------

COUNT = 12
settlements = st.lists(
    st.tuples(st.sampled_from(["ack", "ack", "ack", "nack", "drop", "reject", "requeue"]), st.booleans()),
    max_size=COUNT,
)


SAME_BROKER = [HealthCheck.function_scoped_fixture]
"""The fixture `amqp_url` is made for each test, and is one broker for all examples: each of these has its own queue."""


@settings(max_examples=25, deadline=None, suppress_health_check=SAME_BROKER)
@given(settlements, st.permutations(range(COUNT)), st.integers(0, 2))
async def test_any_order_of_settling(
    amqp_url: str, acts: list[tuple[str, bool]], order: list[int], no_ack_gets: int
) -> None:
    """What the broker has afterwards is just what was left unsettled or put back; flushes fall anywhere between."""
    async with rabbitry.connect(amqp_url) as connection, connection.channel(prefetch=0) as watcher:
        queue = await exclusive_queue(watcher, [b"%d" % number for number in range(COUNT)])
        side = await exclusive_queue(watcher, [b"side"] * (no_ack_gets + COUNT))
        async with connection.channel(prefetch=0) as channel:
            deliveries = []
            for number in range(COUNT):
                deliveries.append(await take(channel, queue))
                if number < no_ack_gets:  # takes a number of its own that is never acknowledged
                    await channel.get(side, no_ack=True)
            deliveries = [deliveries[number] for number in order]
            kept = {delivery.body for delivery in deliveries[len(acts) :]}
            for delivery, (act, flush) in zip(deliveries, acts, strict=False):
                match act:
                    case "ack":
                        delivery.ack()
                    case "drop":
                        delivery.nack(requeue=False)
                    case "reject":
                        delivery.reject()
                    case "nack":
                        delivery.nack()
                        kept.add(delivery.body)
                    case "requeue":
                        delivery.reject(requeue=True)
                        kept.add(delivery.body)
                if flush:
                    await anyio.lowlevel.checkpoint()
                    await anyio.lowlevel.checkpoint()
            await channel.declare_queue(queue, passive=True)  # still open: the broker knew every tag
        assert await has_counts(watcher, queue, len(kept))
        assert set(await drain(watcher, queue)) == kept


@settings(max_examples=20, deadline=None, suppress_health_check=SAME_BROKER)
@given(st.lists(st.sampled_from(["ack", "drop", "nack", "keep"]), max_size=COUNT), st.permutations(range(COUNT)))
async def test_leaving_a_consumer_amid_settling(amqp_url: str, acts: list[str], order: list[int]) -> None:
    """What was never iterated goes back in the same turn in which others are settled, and what was kept stays."""
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as watcher:
        queue = await exclusive_queue(watcher, [b"%d" % number for number in range(COUNT)])
        async with connection.channel() as channel:
            async with channel.consume(queue) as deliveries:
                assert await has_counts(watcher, queue, 0, 1)
                taken = [await anext(deliveries) for _ in acts]
                for number in order:
                    if number >= len(acts) or acts[number] == "keep":
                        continue
                    match acts[number]:
                        case "ack":
                            taken[number].ack()
                        case "drop":
                            taken[number].reject()
                        case "nack":
                            taken[number].nack()
            kept = [delivery for delivery, act in zip(taken, acts, strict=True) if act == "keep"]
            # A nacked one may have come back to this consumer before it was left, and goes back again.
            assert await has_counts(watcher, queue, COUNT - len(acts) + acts.count("nack"))
            for delivery in kept:
                assert not delivery.is_settled
                delivery.ack()
            await check_channel(channel)
        back = {b"%d" % number for number in range(COUNT) if number >= len(acts) or acts[number] == "nack"}
        assert await has_counts(watcher, queue, len(back))
        assert set(await drain(watcher, queue)) == back


async def test_acks_alone_reach_the_broker(amqp_url: str) -> None:
    """Nothing else is sent on the channel: they leave when the turn ends."""
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as watcher:
        queue = await exclusive_queue(watcher, [b"x"] * 20)
        async with connection.channel(prefetch=5) as channel, channel.consume(queue) as deliveries:
            assert await has_counts(watcher, queue, 15, 1)
            taken = [await anext(deliveries) for _ in range(5)]
            for delivery in reversed(taken):
                delivery.ack()
            assert await has_counts(watcher, queue, 10, 1)
            (await anext(deliveries)).ack()
            assert await has_counts(watcher, queue, 9, 1)


async def test_what_was_settled_stays_settled_when_the_channel_ends(
    amqp_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with rabbitry.connect(amqp_url) as connection:
        async with connection.channel() as channel:
            queue = await exclusive_queue(channel, [b"1", b"2", b"3", b"4"])
            async with channel.consume(queue) as deliveries:
                batch = await anext(deliveries.batches(2, within=60))
                batch.ack()
                processed = await anext(deliveries)
            free = await channel.get(queue, no_ack=True)
            assert free is not None
            with processed.process():
                processed.ack()
                with pytest.raises(rabbitry.NotFound):
                    await channel.declare_queue("no such queue", passive=True)
        batch.ack()  # nothing is left to do
        assert all(delivery.is_settled and not delivery.is_stale for delivery in (*batch, processed, free))
        with free.process():
            pass
        assert connection._endpoint.protocol.stale_settlements == 0
        assert not caplog.records


def test_forged_deaths() -> None:
    forged = {"queue": 5, "reason": None, "count": "many", "routing-keys": None, "time": 0}
    message = Forged([forged, "no table"])
    assert message.deaths == (rabbitry.Death("5", "None", 1, "", (), None),)
    assert Forged("no list").deaths == ()


class Forged(rabbitry.Delivery):
    """A delivery whose x-death a publisher wrote."""

    def __init__(self, deaths: object) -> None:
        self._deaths = deaths

    @property
    def headers(self) -> dict[str, object]:
        return {"x-death": self._deaths}
