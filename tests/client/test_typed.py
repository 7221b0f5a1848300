"""`client.process(…, convert=…)`: handlers of payloads, and what becomes of those that are none."""

import logging
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import pytest

import rabbitry
from rabbitry import Delivery, Message, Queue, convert
from tests.support.clients import some_queue
from tests.support.helpers import drain, exclusive_queue, has_counts, open_channel, unique


@dataclass
class Order:
    id: int
    amount: float


GOOD = (Message.json(Order(1, 2.5)), Message.msgpack({"id": 2, "amount": 3}))
BAD = (
    Message(b"{", content_type="application/json"),
    Message.json({"id": "x", "amount": 1}),
    Message.json([]),
    Message(b"\xc1", content_type="application/msgpack"),
    Message(b"x"),  # of which nothing says what it is
    Message(b"x", content_type="application/unknown"),
    Message(b"x", content_type="application/json", content_encoding="br"),
    Message.json({"id": 1}),
)


class Seen:
    """A handler that sets an event when it has seen so many."""

    def __init__(self, count: int) -> None:
        self.seen: list[Any] = []
        self.count = count
        self.all = anyio.Event()

    def add(self, *values: Any) -> None:
        self.seen.append(values if len(values) > 1 else values[0])
        if len(self.seen) == self.count:
            self.all.set()


async def test_a_handler_gets_what_its_parameter_says(amqp_url: str) -> None:
    seen = Seen(len(GOOD))

    async def handler(order: Order) -> None:
        seen.add(order)

    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        for message in GOOD:
            await client.publish(message, routing_key=queue)
        async with anyio.create_task_group() as tg, open_channel(amqp_url) as channel:
            await tg.start(partial(client.process, queue, handler, convert=convert))
            with anyio.fail_after(20):
                await seen.all.wait()
            client.stop_consuming()
            assert await has_counts(channel, queue, 0)
    assert seen.seen == [Order(1, 2.5), Order(2, 3.0)]


async def test_the_delivery_comes_too_and_may_be_settled(amqp_url: str) -> None:
    seen = Seen(2)

    async def handler(order: Order, delivery: Delivery) -> None:
        assert isinstance(delivery, Delivery)
        delivery.reject()
        seen.add(order.id, delivery.properties.content_type)

    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        async with anyio.create_task_group() as tg, open_channel(amqp_url) as channel:
            await tg.start(partial(client.process, queue, handler, convert=convert))
            for message in GOOD:
                await client.publish(message, routing_key=queue)
            with anyio.fail_after(20):
                await seen.all.wait()
            assert await has_counts(channel, queue, 0, 1)
            tg.cancel_scope.cancel()
    assert seen.seen == [(1, "application/json"), (2, "application/msgpack")]


async def test_what_is_no_payload_is_dead_lettered_at_once_and_the_handler_not_run(
    amqp_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Seen(2)

    async def handler(order: Order) -> None:
        seen.add(order)

    async with some_queue(amqp_url) as dead, rabbitry.open_client(amqp_url) as client:
        queue = Queue(unique(), expires=60, dead_letter_exchange="", dead_letter_routing_key=dead)
        await client.declare(queue)
        for message in (*BAD, *GOOD):
            await client.publish(message, routing_key=queue.name)
        async with anyio.create_task_group() as tg, open_channel(amqp_url) as channel:
            await tg.start(partial(client.process, queue, handler, convert=convert))
            with anyio.fail_after(20):
                await seen.all.wait()
            assert await has_counts(channel, dead, len(BAD))
            assert await drain(channel, dead) == [message.body for message in BAD]
            assert await has_counts(channel, queue.name, 0, 1)
            tg.cancel_scope.cancel()
        await client.delete(queue)
    assert seen.seen == [Order(1, 2.5), Order(2, 3.0)]
    assert "failed with DecodeError: the body, sent as 'application/json', is not valid json" in caplog.text
    assert "(rejected)" in caplog.text


async def test_what_the_handler_itself_can_not_decode_comes_again(amqp_url: str) -> None:
    """Its own error says nothing of the delivery."""
    seen = Seen(2)

    async def handler(order: Order) -> None:
        seen.add(order)
        if len(seen.seen) == 1:
            convert(int, "x")

    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        await client.publish(GOOD[0], routing_key=queue)
        async with anyio.create_task_group() as tg, open_channel(amqp_url) as channel:
            await tg.start(partial(client.process, queue, handler, convert=convert))
            with anyio.fail_after(20):
                await seen.all.wait()
            assert await has_counts(channel, queue, 0, 1)
            tg.cancel_scope.cancel()
    assert seen.seen == [Order(1, 2.5)] * 2


async def test_on_error_decides_of_them_too(amqp_url: str) -> None:
    asked = []

    def decide(delivery: Delivery, error: Exception) -> Any:
        asked.append(error)
        return "requeue" if not delivery.redelivered else "reject"

    async def handler(order: Order) -> None:
        raise AssertionError("called")

    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        await client.publish(BAD[1], routing_key=queue)
        async with anyio.create_task_group() as tg, open_channel(amqp_url) as channel:
            await tg.start(partial(client.process, queue, handler, on_error=decide, convert=convert))
            assert await has_counts(channel, queue, 0, 1)
            with anyio.fail_after(20):
                while len(asked) < 2:
                    await anyio.sleep(0.005)
            tg.cancel_scope.cancel()
        assert [(isinstance(error, rabbitry.DecodeError), str(error)) for error in asked] == [
            (True, "order.id: 'x' is no int")
        ] * 2
        await client.publish(BAD[1], routing_key=queue)
        with pytest.raises(rabbitry.DecodeError, match=r"order.id: 'x' is no int"):
            await client.process(queue, handler, on_error="raise", convert=convert)
        async with open_channel(amqp_url) as channel:
            assert await has_counts(channel, queue, 1)


async def test_a_stream_goes_on_with_the_next(amqp_url: str) -> None:
    seen = Seen(2)

    async def handler(order: Order) -> None:
        seen.add(order)

    async with rabbitry.open_client(amqp_url) as client:
        queue = Queue.stream(unique()) if hasattr(Queue, "stream") else Queue(unique(), type="stream")
        await client.declare(queue)
        try:
            for message in (GOOD[0], *BAD, GOOD[1]):
                await client.publish(message, routing_key=queue.name)
            async with anyio.create_task_group() as tg:
                process = partial(client.process, queue, handler, on_error="reject", offset="first", convert=convert)
                await tg.start(process)
                with anyio.fail_after(20):
                    await seen.all.wait()
                tg.cancel_scope.cancel()
        finally:
            await client.delete(queue)
    assert seen.seen == [Order(1, 2.5), Order(2, 3.0)]


async def test_a_hook_of_the_users_own_gets_the_annotation(amqp_url: str) -> None:
    seen = Seen(1)

    def hook(annotation: Any, value: Any) -> Any:
        if value == "bad":
            raise ZeroDivisionError
        return annotation, value

    async def handler(order: Order) -> None:
        seen.add(order)

    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        for value in ("bad", "good"):
            await client.publish(Message.json(value), routing_key=queue)
        async with anyio.create_task_group() as tg, open_channel(amqp_url) as channel:
            await tg.start(partial(client.process, queue, handler, convert=hook))
            with anyio.fail_after(20):
                await seen.all.wait()
            assert await has_counts(channel, queue, 0, 1)
            tg.cancel_scope.cancel()
    assert seen.seen == [(Order, "good")]


async def test_without_an_annotation_it_is_what_was_decoded(amqp_url: str) -> None:
    seen = Seen(1)

    async def handler(order, delivery=None):  # type: ignore[no-untyped-def]
        seen.add(order, type(delivery))

    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        await client.publish(GOOD[0], routing_key=queue)
        async with anyio.create_task_group() as tg:
            await tg.start(partial(client.process, queue, handler, convert=convert))
            with anyio.fail_after(20):
                await seen.all.wait()
            tg.cancel_scope.cancel()
    assert seen.seen == [({"id": 1, "amount": 2.5}, Delivery)]


async def test_an_instrumented_client_tells_of_the_failure(amqp_url: str) -> None:
    ended = []

    class Told:
        def begin(self, operation: rabbitry.Operation) -> None: ...
        def count(self, event: Any, labels: Any) -> None: ...
        def end(self, operation: rabbitry.Operation) -> None:
            if isinstance(operation, rabbitry.ProcessOperation):
                ended.append(operation.error)

    seen = Seen(1)

    async def handler(order: Order, delivery: Delivery) -> None:
        seen.add(order)

    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url, instrumentation=Told()) as client:
        for message in (BAD[1], GOOD[0]):
            await client.publish(message, routing_key=queue)
        async with anyio.create_task_group() as tg, open_channel(amqp_url) as channel:
            await tg.start(partial(client.process, queue, handler, convert=convert))
            with anyio.fail_after(20):
                await seen.all.wait()
            assert await has_counts(channel, queue, 0, 1)
            tg.cancel_scope.cancel()
    assert [type(error) is not type(None) and isinstance(error, rabbitry.DecodeError) for error in ended] == [
        True,
        False,
    ]


class Opaque:
    pass


async def test_what_can_never_work_is_refused_at_once(amqp_url: str) -> None:
    async def awaited(annotation: Any, value: Any) -> Any:
        return value

    async def opaque(x: Opaque) -> None: ...
    async def unresolved(x: "NoSuchName") -> None: ...  # type: ignore[name-defined]  # noqa: F821
    async def none() -> None: ...
    async def three(a: Any, b: Any, c: Any) -> None: ...
    async def fine(order: Order) -> None: ...

    async with rabbitry.open_client(amqp_url) as client:
        for handler in (opaque, unresolved, none, three, 5, fine(Order(1, 1))):
            with pytest.raises(TypeError):
                await client.process("x", handler, convert=convert)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="convert is a plain function"):
            await client.process("x", fine, convert="msgspec")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="convert is a plain function"):  # its coroutines would be the payloads
            await client.process("x", fine, convert=awaited)
        with pytest.raises(TypeError):
            await client.process("x", three)


async def test_a_payload_that_does_not_fit_is_put_into_no_log_whole(
    amqp_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def handler(order: Order) -> None: ...

    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        await client.publish(Message.json({"id": "x" * 10_000, "amount": 1}), routing_key=queue)
        async with anyio.create_task_group() as tg, open_channel(amqp_url) as channel:
            await tg.start(partial(client.process, queue, handler, convert=convert))
            assert await has_counts(channel, queue, 0, 1)
            own = await exclusive_queue(channel)  # what is done before is logged by then
            assert own
            client.stop_consuming()
    assert "x" * 100 not in caplog.text
