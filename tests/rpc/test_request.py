"""`rpc.request`: a request with properties of its own, and its reply with its properties."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest

import rabbitry
from rabbitry import Delivery, Message
from rabbitry.opentelemetry import OpenTelemetry
from tests.support.clients import noticed, some_queue, through_proxy
from tests.support.helpers import unique

KINDS = ["client", "connection", "instrumented client", "instrumented connection"]


class Silent:
    """An instrumentation that adds a header."""

    def begin(self, operation: rabbitry.Operation) -> None:
        if isinstance(operation, rabbitry.CallOperation):
            operation.headers["traced"] = "yes"

    def end(self, operation: rabbitry.Operation) -> None: ...

    def count(self, event: Any, attributes: Any) -> None: ...


@asynccontextmanager
async def open_rpc(url: str, kind: str, **options: Any) -> AsyncIterator[Any]:
    instrumentation: Any = Silent() if kind.startswith("instrumented") else None
    if kind.endswith("client"):
        async with rabbitry.open_client(url, instrumentation=instrumentation) as client, client.rpc(**options) as rpc:
            yield rpc
    else:
        async with rabbitry.connect(url, instrumentation=instrumentation) as connection:
            async with connection.rpc(**options) as rpc:
                yield rpc


@asynccontextmanager
async def serving(url: str, handler: Any, **options: Any) -> AsyncIterator[str]:
    async with some_queue(url) as queue, rabbitry.open_client(url) as client, anyio.create_task_group() as tg:
        await tg.start(partial(client.serve, queue, handler, **options))
        yield queue
        client.stop_consuming()


async def mirror(delivery: Delivery) -> Message:
    """Everything of the request, as a reply; its delivery mode, which a reply has none of its own of, as a header."""
    properties = delivery.properties
    told = {"replied": properties.reply_to is not None, "mode": properties.delivery_mode}
    return delivery.message.replace(body=delivery.body[::-1], headers={**delivery.headers, **told})


@pytest.mark.parametrize("kind", KINDS)
async def test_properties_go_there_and_come_back(amqp_url: str, kind: str) -> None:
    message = Message(
        b"\x00abc",
        content_type="application/x-own",
        content_encoding="own",
        headers={"a": [1, {"b": None}], "x-rabbitry-remaining": 1},  # of a request that is passed on
        priority=7,
        message_id="m1",
        type="kind",
        app_id="app",
        delivery_mode=1,
        expiration=30,
    )
    async with serving(amqp_url, mirror, raw=True) as queue, open_rpc(amqp_url, kind) as rpc:
        with anyio.fail_after(20):
            reply = await rpc.request(message, queue)
        assert type(reply) is Message
        assert reply.body == b"cba\x00"
        for name in ("content_type", "content_encoding", "priority", "message_id", "type", "app_id"):
            assert getattr(reply, name) == getattr(message, name), name
        assert reply.headers is not None and reply.headers["a"] == [1, {"b": None}] and reply.headers["replied"]
        assert reply.headers["mode"] == 1
        assert 15_000 < reply.headers["x-rabbitry-remaining"] <= 20_000
        assert 15 < (reply.expiration or 0) <= 20  # of the deadline, which is earlier
        assert ("traced" in reply.headers) == kind.startswith("instrumented")
        assert message.headers == {"a": [1, {"b": None}], "x-rabbitry-remaining": 1}

        with anyio.fail_after(60):
            reply = await rpc.request(message, routing_key=queue)
        assert reply.expiration == 30  # its own
        with anyio.CancelScope():
            former = {"x-rabbitry-remaining": 1, "x-rabbitry-deadline": 1, "x-rabbitry-reply-exchange": "x"}
            reply = await rpc.request(Message(b"", headers=former), queue)
        assert (reply.body, reply.expiration) == (b"", None)
        assert reply.headers is not None and reply.headers["mode"] == 2
        assert set(reply.headers) <= {"replied", "mode", "traced"}


@pytest.mark.parametrize("kind", KINDS)
async def test_many_at_once_get_each_their_own(amqp_url: str, kind: str) -> None:
    async with serving(amqp_url, mirror, raw=True) as queue, open_rpc(amqp_url, kind) as rpc:
        replies: dict[int, Message] = {}

        async def ask(number: int) -> None:
            replies[number] = await rpc.request(Message(b"%d!" % number), queue)

        async with anyio.create_task_group() as tg:
            for number in range(50):
                tg.start_soon(ask, number)
        assert [replies[number].body for number in range(50)] == [(b"%d!" % number)[::-1] for number in range(50)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reply_to", ["direct", "exclusive"])
async def test_errors_are_those_of_a_call(amqp_url: str, kind: str, reply_to: str) -> None:
    async def fail(delivery: Delivery) -> None:
        raise LookupError("no such order")

    async with serving(amqp_url, fail, raw=True) as queue, open_rpc(amqp_url, kind, reply_to=reply_to) as rpc:
        with pytest.raises(rabbitry.RemoteError, match="no such order") as caught:
            await rpc.request(Message(b"x"), queue)
        assert caught.value.type_name == "LookupError"
        with pytest.raises(rabbitry.Unroutable) as unroutable:
            await rpc.request(Message(b"x", app_id="a"), unique())
        assert unroutable.value.message.app_id == "a"
        with anyio.move_on_after(0.1) as scope:
            await rpc.request(Message(b"x"), unique(), mandatory=False)
        assert scope.cancelled_caught
        with pytest.raises(rabbitry.Refused):
            await rpc.request(Message(b"x", user_id="somebody else"), queue)


@pytest.mark.parametrize("kind", KINDS)
async def test_what_makes_it_a_request_is_the_rpcs_own(amqp_url: str, kind: str) -> None:
    async with open_rpc(amqp_url, kind) as rpc:
        for message in (Message(b"x", correlation_id="1"), Message(b"x", reply_to="q")):
            with pytest.raises(ValueError, match="RPC's own"):
                await rpc.request(message, "x")
        for wrong in (b"x", "x", None, {"a": 1}):
            with pytest.raises(TypeError, match="takes a Message"):
                await rpc.request(wrong, "x")
        with pytest.raises((TypeError, ValueError)):
            await rpc.request(Message(b"x", headers={"a": object()}), "x")
        with pytest.raises(ValueError, match="expiration"):
            await rpc.request(Message(b"x", expiration=-1), "x")
        with pytest.raises(ValueError):
            await rpc.request(Message(b"x", app_id="x" * 256), "x")
        assert rpc.is_open if hasattr(rpc, "is_open") else True


@pytest.mark.parametrize("idempotent", [True, False])
async def test_one_in_flight_when_the_connection_is_lost(amqp_url: str, idempotent: bool) -> None:
    seen = []
    arrived, go_on = anyio.Event(), anyio.Event()

    async def slow(delivery: Delivery) -> Message:
        seen.append(delivery.properties.app_id)
        arrived.set()
        await go_on.wait()
        return Message(b"done", app_id=delivery.properties.app_id)

    async with serving(amqp_url, slow, raw=True, concurrency=5) as queue:
        async with through_proxy(amqp_url) as (client, proxy), client.rpc() as rpc, anyio.create_task_group() as tg:

            async def lose() -> None:
                await arrived.wait()
                await noticed(client, proxy.cut)
                go_on.set()

            tg.start_soon(lose)
            with anyio.fail_after(30):
                if idempotent:
                    reply = await rpc.request(Message(b"x", app_id="mine"), queue, idempotent=True)
                    assert (reply.body, reply.app_id) == (b"done", "mine")
                else:
                    with pytest.raises(rabbitry.OutcomeUnknown):
                        await rpc.request(Message(b"x", app_id="mine"), queue)
    assert seen == ["mine"] * (2 if idempotent else 1)


async def test_it_is_one_operation_for_an_instrumentation(amqp_url: str) -> None:
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    telemetry = OpenTelemetry(tracer_provider=provider)
    async with serving(amqp_url, mirror, raw=True) as queue:
        for open_it in (rabbitry.open_client, rabbitry.connect):
            async with open_it(amqp_url, instrumentation=telemetry) as it:  # type: ignore[operator]
                rpc_of: Any = it.rpc()
                async with rpc_of as rpc:
                    reply = await rpc.request(Message(b"x", headers={"own": 1}), queue)
            assert reply.headers["own"] == 1 and "traceparent" in reply.headers
            (span,) = exporter.get_finished_spans()
            assert queue in span.name
            exporter.clear()
