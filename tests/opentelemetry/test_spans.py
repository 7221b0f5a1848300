"""Spans and metrics by the messaging conventions, and the trace that travels with a message, against a real broker."""

from __future__ import annotations

import asyncio
import importlib
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
import anyio
import anyio.lowlevel
import anyio.to_thread
import pika
import pytest
from opentelemetry import baggage, trace
from opentelemetry import context as contexts
from opentelemetry.instrumentation.aio_pika import AioPikaInstrumentor
from opentelemetry.instrumentation.pika import PikaInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import rabbitry
from rabbitry._channel.channel import life_of
from rabbitry.opentelemetry import DURATION_BUCKETS, SCHEMA_URL, OpenTelemetry
from tests.support.clients import QUICK, ready_again, refuse, some_queue, through_proxy
from tests.support.helpers import exclusive_queue, unique, until

SYSTEM = {"messaging.system": "rabbitmq"}
DURATION = "messaging.client.operation.duration"
SENT = "messaging.client.sent.messages"


class Telemetry:
    """The SDK in memory, and the instrumentation that feeds it."""

    def __init__(self, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()
        self.provider = provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = provider.get_tracer("test")
        self.meters = MeterProvider([self.reader])
        self.instrumentation = OpenTelemetry(tracer_provider=provider, meter_provider=self.meters, **options)

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span

    def points(self, name: str) -> list[Any]:
        data = self.reader.get_metrics_data()
        found = []
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    if metric.name == name:
                        assert scope.schema_url == SCHEMA_URL
                        found.extend(metric.data.data_points)
        return found


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    telemetry = Telemetry()
    yield telemetry
    telemetry.meters.shutdown()


@asynccontextmanager
async def open_channel(url: str, telemetry: Telemetry, **options: Any) -> AsyncIterator[rabbitry.Channel]:
    async with rabbitry.connect(url, instrumentation=telemetry.instrumentation) as connection:
        async with connection.channel(**options) as channel:
            yield channel


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def context(span: ReadableSpan) -> trace.SpanContext:
    found = span.get_span_context()
    assert found is not None
    return found


def server(url: str) -> dict[str, Any]:
    address = importlib.import_module("rabbitry._values.address").parse_uri(url)
    return {"server.address": address.host, "server.port": address.port}


# --- spans ------------------------------------------------------------------------------------------------------------


async def test_a_publish_and_its_processing_are_one_trace(amqp_url: str, telemetry: Telemetry) -> None:
    inside: list[trace.SpanContext] = []

    async def handle(delivery: rabbitry.Delivery) -> None:
        inside.append(trace.get_current_span().get_span_context())
        await anyio.lowlevel.checkpoint()
        inside.append(trace.get_current_span().get_span_context())
        client.stop_consuming()

    message = rabbitry.Message(b"body", message_id="m-1", correlation_id="c-1", headers={"mine": 1})
    async with (
        some_queue(amqp_url) as queue,
        rabbitry.open_client(amqp_url, instrumentation=telemetry.instrumentation) as client,
    ):
        with telemetry.tracer.start_as_current_span("request") as request:
            await client.publish(message, routing_key=queue)
        await client.process(queue, handle)

    assert dict(message.headers or {}) == {"mine": 1}
    publish, process = telemetry.one(f"publish {queue}"), telemetry.one(f"process {queue}")
    assert publish.kind is SpanKind.PRODUCER and process.kind is SpanKind.CONSUMER
    assert publish.parent is not None and publish.parent.span_id == request.get_span_context().span_id
    # no span is current where it is processed, so the message's context is the parent, and a link
    assert process.parent is not None and process.parent.span_id == context(publish).span_id
    assert [link.context.span_id for link in process.links] == [context(publish).span_id]
    assert context(process).trace_id == request.get_span_context().trace_id
    assert [each.span_id for each in inside] == [context(process).span_id] * 2
    common = SYSTEM | server(amqp_url) | {
        "messaging.destination.name": queue,
        "messaging.rabbitmq.destination.routing_key": queue,
        "messaging.message.id": "m-1",
        "messaging.message.conversation_id": "c-1",
    }  # fmt: skip
    assert attributes(publish) == common | {
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "rabbitry.outcome": "confirmed",
    }
    assert attributes(process) == common | {
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.rabbitmq.message.delivery_tag": 1,
        "rabbitry.outcome": "returned",
    }
    assert publish.status.status_code is process.status.status_code is StatusCode.UNSET
    assert publish.instrumentation_scope is not None and publish.instrumentation_scope.schema_url == SCHEMA_URL


async def test_destinations_have_the_conventions_names(amqp_url: str) -> None:
    telemetry = Telemetry(body_size=True)
    async with open_channel(amqp_url, telemetry) as channel:
        exchange, generated = unique("exchange"), await exclusive_queue(channel)
        await channel.declare_exchange(exchange, "fanout", auto_delete=True)
        await channel.bind_queue(generated, exchange)
        await channel.publish(b"12345", exchange=exchange, routing_key="key")
        await channel.publish(b"", exchange=exchange)
        await channel.publish(b"", routing_key=generated)
        await channel.publish(b"")
        async with channel.consume(generated) as deliveries:
            for _ in range(3):
                with (await anext(deliveries)).process():
                    pass
    assert [span.name for span in telemetry.exporter.get_finished_spans()] == [
        f"publish {exchange}:key",
        f"publish {exchange}",
        "publish amq.gen-*",
        "publish amq.default",
        "process amq.gen-*",
        "process amq.gen-*",
        "process amq.gen-*",
    ]
    first, _, to_generated, _, got, _, direct = map(attributes, telemetry.exporter.get_finished_spans())
    assert first["messaging.message.body.size"] == got["messaging.message.body.size"] == 5
    assert "messaging.destination.temporary" not in first
    assert got["messaging.destination.name"] == f"{exchange}:key:{generated}"
    assert direct["messaging.destination.name"] == to_generated["messaging.destination.name"] == generated
    for each in (to_generated, got, direct):
        assert each["messaging.destination.template"] == "amq.gen-*"
        assert each["messaging.destination.temporary"] and each["messaging.destination.anonymous"]


async def test_a_get_links_to_what_it_got(amqp_url: str, telemetry: Telemetry) -> None:
    async with open_channel(amqp_url, telemetry) as channel:
        exchange, queue = unique("exchange"), (await channel.declare_queue(unique(), exclusive=True)).name
        await channel.declare_exchange(exchange, "fanout", auto_delete=True)
        await channel.bind_queue(queue, exchange)
        await channel.publish(rabbitry.Message(b"x", message_id="m-1"), exchange=exchange, routing_key="key")
        with telemetry.tracer.start_as_current_span("poll") as poll:
            assert await channel.get(queue)
            assert await channel.get(queue) is None
    got, empty = telemetry.named(f"get {queue}")
    common = SYSTEM | server(amqp_url) | {
        "messaging.operation.name": "get",
        "messaging.operation.type": "receive",
    }  # fmt: skip
    assert attributes(got) == common | {
        "messaging.destination.name": f"{exchange}:key:{queue}",
        "messaging.rabbitmq.destination.routing_key": "key",
        "messaging.rabbitmq.message.delivery_tag": 1,
        "messaging.message.id": "m-1",
        "rabbitry.outcome": "received",
    }
    assert attributes(empty) == common | {"messaging.destination.name": queue, "rabbitry.outcome": "empty"}
    publish = telemetry.one(f"publish {exchange}:key")
    assert [link.context.span_id for link in got.links] == [context(publish).span_id] and not empty.links
    for span in (got, empty):
        assert span.kind is SpanKind.CLIENT
        assert span.parent is not None and span.parent.span_id == poll.get_span_context().span_id
    durations = {p.attributes["messaging.operation.name"]: p for p in telemetry.points(DURATION)}
    assert durations["get"].count == 2 and durations["publish"].count == 1
    assert sum(point.value for point in telemetry.points(SENT)) == 1


async def test_where_a_span_is_current_processing_is_its_child_and_links(amqp_url: str, telemetry: Telemetry) -> None:
    async with open_channel(amqp_url, telemetry) as channel:
        queue = (await channel.declare_queue(unique(), exclusive=True)).name
        token = contexts.attach(baggage.set_baggage("tenant", "blue"))
        try:
            await channel.publish(b"x", routing_key=queue)
        finally:
            contexts.detach(token)
        assert baggage.get_baggage("tenant") is None
        async with channel.consume(queue) as deliveries:
            delivery = await anext(deliveries)
        with telemetry.tracer.start_as_current_span("job") as job:
            with delivery.process():
                assert baggage.get_baggage("tenant") == "blue"
            assert trace.get_current_span() is job
    process = telemetry.one(f"process {queue}")
    assert process.parent is not None and process.parent.span_id == job.get_span_context().span_id
    assert [link.context.span_id for link in process.links] == [context(telemetry.one(f"publish {queue}")).span_id]


async def test_a_context_of_the_publishers_own_is_kept_and_linked(amqp_url: str, telemetry: Telemetry) -> None:
    with telemetry.tracer.start_as_current_span("made earlier") as earlier:
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier)
    async with open_channel(amqp_url, telemetry) as channel:
        queue = (await channel.declare_queue(unique(), exclusive=True)).name
        await channel.publish(rabbitry.Message(b"x", headers=carrier), routing_key=queue)
        delivery = await channel.get(queue)
    assert delivery is not None and delivery.headers == carrier
    (link,) = telemetry.one(f"publish {queue}").links
    assert link.context.span_id == earlier.get_span_context().span_id


async def test_the_trace_is_a_plain_header_of_text_or_bytes(amqp_url: str, telemetry: Telemetry) -> None:
    """AMQP clients may write text as bytes, too."""
    async with open_channel(amqp_url, telemetry) as channel, rabbitry.connect(amqp_url) as other:
        async with other.channel() as plain:
            queue = (await channel.declare_queue(unique())).name
            await channel.publish(b"x", routing_key=queue)
            delivery = await plain.get(queue)
            assert delivery is not None
            span = context(telemetry.one(f"publish {queue}"))
            traceparent = f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
            assert delivery.headers == {"traceparent": traceparent}
            await plain.publish(rabbitry.Message(b"", headers={"traceparent": traceparent.encode()}), routing_key=queue)
            again = await plain.get(queue)
            assert again is not None
            with telemetry.instrumentation.processing(again, queue):  # of a connection without instrumentation
                inner = trace.get_current_span().get_span_context()
            delivery.ack()
            again.ack()
            await channel.delete_queue(queue)
    process = telemetry.one(f"process {queue}")
    assert context(process).span_id == inner.span_id
    assert process.parent is not None and process.parent.span_id == span.span_id


@pytest.mark.parametrize("is_instrumented", [False, True])
async def test_each_of_a_batch_has_its_span(amqp_url: str, telemetry: Telemetry, is_instrumented: bool) -> None:
    """Where it came from is known also without an instrumentation."""
    instrumentation = telemetry.instrumentation if is_instrumented else None
    async with (
        rabbitry.connect(amqp_url, instrumentation=instrumentation) as connection,
        connection.channel(prefetch=3) as channel,
        open_channel(amqp_url, telemetry) as publishing,
    ):
        exchange, queue = unique("exchange"), (await channel.declare_queue(unique(), exclusive=True)).name
        await channel.declare_exchange(exchange, "fanout", auto_delete=True)
        await channel.bind_queue(queue, exchange)
        async with channel.consume(queue) as deliveries:
            for _ in range(3):
                await publishing.publish(b"x", exchange=exchange)
            batch = await anext(deliveries.batches(3, within=60))
            for delivery in batch:
                with telemetry.instrumentation.processing(delivery):
                    pass
            batch.ack()
    processed, published = telemetry.named(f"process {exchange}:{queue}"), telemetry.named(f"publish {exchange}")
    assert [link.context.span_id for span in processed for link in span.links] == [
        context(span).span_id for span in published
    ]
    assert len(processed) == 3 and all(server(amqp_url).items() <= attributes(span).items() for span in processed)


def use_pika(url: str, queue: str) -> None:
    """Handle the message that is there, and publish another."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()

    def handle(_: Any, method: Any, __: Any, ___: bytes) -> None:
        channel.basic_ack(method.delivery_tag)
        channel.stop_consuming()

    channel.basic_consume(queue, handle)
    channel.start_consuming()
    channel.basic_publish("", queue, b"from pika")
    connection.close()


async def use_aio_pika(url: str, queue: str) -> None:
    """The same."""
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        handled = asyncio.Event()

        async def handle(message: Any) -> None:
            await message.ack()
            handled.set()

        source = await channel.get_queue(queue)
        consumer_tag = await source.consume(handle)
        await handled.wait()
        await source.cancel(consumer_tag)
        await channel.default_exchange.publish(aio_pika.Message(b"from aio-pika"), queue)


@pytest.mark.parametrize("client", ["pika", "aio_pika"])
async def test_the_trace_goes_on_in_other_clients_and_comes_from_them(
    client: str, amqp_url: str, telemetry: Telemetry, anyio_backend: str
) -> None:
    """With OpenTelemetry's own instrumentations of these."""
    if client == "aio_pika" and anyio_backend == "trio":
        pytest.skip("aio-pika is for asyncio")
    instrumentor: Any = PikaInstrumentor() if client == "pika" else AioPikaInstrumentor()
    instrumentor.instrument(tracer_provider=telemetry.provider)
    try:
        async with open_channel(amqp_url, telemetry) as channel:
            queue = (await channel.declare_queue(unique())).name
            await channel.publish(b"to the other", routing_key=queue)
            with anyio.fail_after(20):
                if client == "pika":
                    await anyio.to_thread.run_sync(use_pika, amqp_url, queue)
                else:
                    await use_aio_pika(amqp_url, queue)
                async with channel.consume(queue) as deliveries:
                    with (await anext(deliveries)).process():
                        pass
            await channel.delete_queue(queue)
    finally:
        instrumentor.uninstrument()
    spans = {context(span).span_id: span for span in telemetry.exporter.get_finished_spans()}
    ours, process = telemetry.one(f"publish {queue}"), telemetry.one(f"process {queue}")
    assert process.parent is not None
    theirs = spans[process.parent.span_id]
    assert theirs.kind is SpanKind.PRODUCER and theirs is not ours
    children = [span.kind for span in spans.values() if span.parent and span.parent.span_id == context(ours).span_id]
    assert children == [SpanKind.CONSUMER]


async def test_failed_publishes_and_handlers_are_errors(amqp_url: str, telemetry: Telemetry) -> None:
    queue = rabbitry.Queue(unique(), max_length=1, overflow="reject-publish", expires=60)
    nowhere = unique()

    async def handle(delivery: rabbitry.Delivery) -> None:
        client.stop_consuming()
        raise KeyError("broken")

    async with rabbitry.open_client(amqp_url, instrumentation=telemetry.instrumentation) as client:
        await client.declare(queue)
        await client.publish(b"fits", routing_key=queue.name)
        with pytest.raises(rabbitry.Nacked):
            await client.publish(b"is one too many", routing_key=queue.name)
        with pytest.raises(rabbitry.Unroutable) as unroutable:
            await client.publish(b"nobody's", routing_key=nowhere, mandatory=True)
        assert unroutable.value.message == b"nobody's"
        await client.process(queue, handle, on_error="reject")
    nacked = telemetry.named(f"publish {queue.name}")[1]
    for span, kind in (
        (nacked, "rabbitry.Nacked"),
        (telemetry.one(f"publish {nowhere}"), "rabbitry.Unroutable"),
        (telemetry.one(f"process {queue.name}"), "KeyError"),
    ):
        assert attributes(span)["error.type"] == kind
        assert span.status.status_code is StatusCode.ERROR
    (event,) = telemetry.one(f"process {queue.name}").events
    assert event.name == "exception"


async def test_a_cancelled_publish_is_unknown_and_no_error(node: Any, amqp_url: str, telemetry: Telemetry) -> None:
    async with through_proxy(amqp_url, instrumentation=telemetry.instrumentation) as (client, proxy):
        key = unique()
        await client.publish(b"opens the channel", routing_key=key)
        proxy.stall()
        async with anyio.create_task_group() as tg:
            tg.start_soon(lambda: client.publish(b"x", routing_key=key))
            await anyio.wait_all_tasks_blocked()
            tg.cancel_scope.cancel()
        cancelled = telemetry.named(f"publish {key}")[1]
        proxy.resume()
    assert attributes(cancelled)["rabbitry.outcome"] == "unknown"
    assert "error.type" not in attributes(cancelled)
    assert cancelled.status.status_code is StatusCode.UNSET and not cancelled.events


async def test_one_publish_through_an_outage_is_one_span(amqp_url: str, telemetry: Telemetry) -> None:
    async with through_proxy(amqp_url, instrumentation=telemetry.instrumentation) as (client, proxy):
        key = unique()
        await client.publish(b"first", routing_key=key)
        async with client.publisher(on_unknown="republish") as publisher:
            proxy.stall()
            await publisher.submit(b"submitted", routing_key=key)
            async with anyio.create_task_group() as tg:
                tg.start_soon(lambda: client.publish(b"published", routing_key=key, on_unknown="republish"))
                await until(lambda: life_of(client._senders.ready("")).unconfirmed)  # type: ignore[arg-type]
                refuse(proxy)
                proxy.resume()
                proxy.accept()
        await ready_again(client)
        assert client.statistics()["republished"] == 2
    spans = telemetry.named(f"publish {key}")
    assert [attributes(span)["rabbitry.outcome"] for span in spans] == ["confirmed"] * 3


async def test_a_span_ends_though_its_error_has_no_text(amqp_url: str, telemetry: Telemetry) -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError("there is none")

    async with open_channel(amqp_url, telemetry) as channel:
        queue = (await channel.declare_queue(unique(), exclusive=True)).name
        await channel.publish(b"x", routing_key=queue)
        delivery = await channel.get(queue)
        assert delivery is not None
        with delivery.process(on_error="reject"):
            raise Odd
    process = telemetry.one(f"process {queue}")
    assert process.status.status_code is StatusCode.ERROR
    assert attributes(process)["error.type"].endswith("Odd") and attributes(process)["rabbitry.outcome"] == "failed"
    assert sum(point.count for point in telemetry.points("messaging.process.duration")) == 1


async def test_what_a_stranger_wrote_as_text_can_be_exported_and_passed_on(amqp_url: str, telemetry: Telemetry) -> None:
    """Octets that are not UTF-8 are lone surrogates in a delivery. An exporter that encodes a span's name fails at one,
    and loses the spans of others; so does what writes baggage into headers.
    """
    odd = b"\xff".decode("utf-8", "surrogateescape")
    async with open_channel(amqp_url, telemetry) as channel, rabbitry.connect(amqp_url) as other:
        async with other.channel() as stranger:
            exchange, queue = unique("exchange"), (await channel.declare_queue(unique(), exclusive=True)).name
            await channel.declare_exchange(exchange, "fanout", auto_delete=True)
            await channel.bind_queue(queue, exchange)
            message = rabbitry.Message(b"x", message_id=odd, correlation_id=odd, headers={"baggage": f"a={odd},b=1"})
            await stranger.publish(message, exchange=exchange, routing_key=odd)
        delivery = await channel.get(queue)
        assert delivery is not None and delivery.routing_key == delivery.properties.message_id == odd
        with delivery.process():
            await channel.publish(b"x", routing_key=queue)
        passed_on = await channel.get(queue)
        with pytest.raises(rabbitry.Unroutable):
            await channel.publish(b"x", routing_key=odd, mandatory=True)
    process, publish = telemetry.one(f"process {exchange}:?:{queue}"), telemetry.one(f"publish {queue}")
    assert passed_on is not None and passed_on.headers.keys() == {"traceparent", "baggage"}
    assert context(publish).trace_id == context(process).trace_id
    for span in telemetry.exporter.get_finished_spans():
        for text in (span.name, span.status.description or "", *attributes(span).values()):
            str(text).encode()  # fails at a lone surrogate


# --- RPC --------------------------------------------------------------------------------------------------------------


async def test_a_call_its_processing_and_its_reply_are_one_trace(amqp_url: str, telemetry: Telemetry) -> None:
    async def double(number: int) -> int:
        return 2 * number

    queue = rabbitry.Queue(unique(), expires=60)
    async with (
        rabbitry.open_client(amqp_url, instrumentation=telemetry.instrumentation) as client,
        anyio.create_task_group() as tg,
    ):
        await client.declare(queue)
        tg.start_soon(client.serve, queue, double)
        async with client.rpc() as rpc:
            with telemetry.tracer.start_as_current_span("request"):
                assert await rpc.call(queue.name, 21) == 42
        client.stop_consuming()
    call, process = telemetry.one(f"call {queue.name}"), telemetry.one(f"process {queue.name}")
    reply = telemetry.one("publish amq.rabbitmq.reply-to.*")
    assert call.kind is SpanKind.CLIENT
    assert attributes(call)["rabbitry.outcome"] == "answered"
    assert process.parent is not None and process.parent.span_id == context(call).span_id
    assert reply.parent is not None and reply.parent.span_id == context(process).span_id
    assert attributes(process)["messaging.message.conversation_id"]
    assert attributes(reply)["messaging.destination.temporary"]
    assert len({context(span).trace_id for span in telemetry.exporter.get_finished_spans()}) == 1


async def test_a_context_of_the_callers_own_is_kept_and_linked(amqp_url: str, telemetry: Telemetry) -> None:
    """As a whole: nothing of another context comes with it."""
    received: list[dict[str, Any]] = []

    async def handle(request: rabbitry.Delivery) -> bytes:
        received.append(request.headers)
        return b""

    with telemetry.tracer.start_as_current_span("made earlier") as earlier:
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier)
    async with (
        rabbitry.connect(amqp_url, instrumentation=telemetry.instrumentation) as connection,
        connection.channel() as channel,
        anyio.create_task_group() as tg,
    ):
        queue = (await channel.declare_queue(unique(), exclusive=True)).name
        tg.start_soon(lambda: connection.serve(queue, handle, raw=True))
        token = contexts.attach(baggage.set_baggage("tenant", "blue"))
        try:
            async with connection.rpc() as rpc:
                await rpc.call(queue, headers={"mine": 1, **carrier}, raw=True)
                await rpc.call(queue, headers={"mine": 1}, raw=True)
        finally:
            contexts.detach(token)
        tg.cancel_scope.cancel()
    first, second = telemetry.named(f"call {queue}")
    assert received[0] == {"mine": 1} | carrier
    assert received[1].keys() == {"mine", "traceparent", "baggage"}
    assert [link.context.span_id for link in first.links] == [earlier.get_span_context().span_id]
    assert not second.links


async def test_a_failed_request_is_an_error_of_the_server_and_of_the_caller(
    amqp_url: str, telemetry: Telemetry
) -> None:
    """Served in one connection life."""

    async def broken(payload: Any) -> None:
        assert trace.get_current_span().is_recording()
        raise KeyError(payload)

    async with (
        rabbitry.connect(amqp_url, instrumentation=telemetry.instrumentation) as connection,
        connection.channel() as channel,
        anyio.create_task_group() as tg,
    ):
        queue = (await channel.declare_queue(unique(), exclusive=True)).name
        tg.start_soon(connection.serve, queue, broken)
        async with connection.rpc() as rpc:
            with pytest.raises(rabbitry.RemoteError):
                await rpc.call(queue, 21)
        await until(lambda: telemetry.named(f"process {queue}"))
        tg.cancel_scope.cancel()
    call, process = telemetry.one(f"call {queue}"), telemetry.one(f"process {queue}")
    assert process.parent is not None and process.parent.span_id == context(call).span_id
    assert attributes(process)["error.type"] == "KeyError" and attributes(process)["rabbitry.outcome"] == "failed"
    assert attributes(call)["error.type"] == "rabbitry.RemoteError" and attributes(call)["rabbitry.outcome"] == "failed"
    assert telemetry.one("publish amq.rabbitmq.reply-to.*").status.status_code is StatusCode.UNSET
    assert sum(point.value for point in telemetry.points("messaging.client.consumed.messages")) == 1


# --- metrics ----------------------------------------------------------------------------------------------------------


async def test_metrics_are_the_conventions(amqp_url: str, telemetry: Telemetry) -> None:
    async def handle(delivery: rabbitry.Delivery) -> None:
        if delivery.body == b"bad":
            client.stop_consuming()
            raise ValueError

    async with (
        some_queue(amqp_url) as queue,
        rabbitry.open_client(amqp_url, instrumentation=telemetry.instrumentation, reconnect=QUICK) as client,
    ):
        async with client.publisher() as publisher:
            for body in (b"good", b"good", b"bad"):
                await publisher.submit(body, routing_key=queue)
        with pytest.raises(rabbitry.Unroutable):
            await client.publish(b"", routing_key=unique(), mandatory=True)
        await client.process(queue, handle, on_error="reject")
    where = server(amqp_url)

    published = SYSTEM | where | {"messaging.operation.name": "publish", "messaging.operation.type": "send"}
    published["messaging.destination.name"] = "amq.default"
    unroutable = published | {"error.type": "rabbitry.Unroutable"}
    sent = {frozenset(point.attributes.items()): point.value for point in telemetry.points(SENT)}
    assert sent == {frozenset(published.items()): 3, frozenset(unroutable.items()): 1}
    durations = {frozenset(p.attributes.items()): p for p in telemetry.points(DURATION)}
    assert {key: point.count for key, point in durations.items()} == sent
    assert all(point.explicit_bounds == DURATION_BUCKETS for point in durations.values())

    processed = SYSTEM | where | {"messaging.operation.name": "process", "messaging.operation.type": "process"}
    processed["messaging.destination.name"] = queue
    counts = {frozenset(p.attributes.items()): p.count for p in telemetry.points("messaging.process.duration")}
    assert counts == {
        frozenset(processed.items()): 2,
        frozenset((processed | {"error.type": "ValueError"}).items()): 1,
    }
    (consumed,) = telemetry.points("messaging.client.consumed.messages")
    assert consumed.value == 3 and consumed.attributes["messaging.destination.name"] == queue
    settled = {
        point.attributes["messaging.operation.name"]: point.value
        for point in telemetry.points("rabbitry.client.settled.messages")
    }
    assert settled == {"ack": 2, "reject": 1}


async def test_names_that_the_broker_makes_up_share_a_series(amqp_url: str, telemetry: Telemetry) -> None:
    """By their template, which stands in the place of the name."""
    async with open_channel(amqp_url, telemetry) as channel:
        for _ in range(2):
            queue = await exclusive_queue(channel, [b"x"])
            delivery = await channel.get(queue)
            assert delivery is not None
            with delivery.process():
                pass
    consumed, settled = "messaging.client.consumed.messages", "rabbitry.client.settled.messages"
    for name in (consumed, settled, "messaging.process.duration"):
        (point,) = telemetry.points(name)
        assert point.attributes["messaging.destination.template"] == "amq.gen-*"
        assert "messaging.destination.name" not in point.attributes


async def test_the_sampler_of_a_clients_publish_knows_the_server(amqp_url: str) -> None:
    """Once its connection is open."""
    telemetry, begun = Telemetry(), []
    on_start: Any = lambda span, parent_context=None: begun.append(attributes(span))  # noqa: E731
    telemetry.provider.add_span_processor(type("Starts", (SpanProcessor,), {"on_start": staticmethod(on_start)})())
    async with rabbitry.open_client(amqp_url, instrumentation=telemetry.instrumentation) as client:
        for _ in range(2):
            await client.publish(b"x", routing_key=unique())
    assert "server.address" not in begun[0]
    assert server(amqp_url).items() <= begun[1].items()
    assert all(server(amqp_url).items() <= attributes(s).items() for s in telemetry.exporter.get_finished_spans())


# --- the package ------------------------------------------------------------------------------------------------------


async def test_the_names_are_those_of_the_conventions_own_package(amqp_url: str, telemetry: Telemetry) -> None:
    """It comes with the SDK, generated from the conventions."""
    names: set[str] = set()
    for kind in ("messaging", "server", "error"):
        module = importlib.import_module(f"opentelemetry.semconv._incubating.attributes.{kind}_attributes")
        names |= {value for value in vars(module).values() if isinstance(value, str)}
    async with open_channel(amqp_url, telemetry) as channel:
        queue = await exclusive_queue(channel, [b"x"])
        message = rabbitry.Message(b"x", message_id="1", correlation_id="2")
        with pytest.raises(rabbitry.Unroutable):
            await channel.publish(message, routing_key=unique(), mandatory=True)
        delivery = await channel.get(queue)
        assert delivery is not None
        with delivery.process():
            pass
    used = {name for span in telemetry.exporter.get_finished_spans() for name in attributes(span)}
    assert used - names == {"rabbitry.outcome"}


def test_without_the_api_it_says_what_to_install() -> None:
    script = "import sys; sys.modules['opentelemetry'] = None\nimport rabbitry\nimport rabbitry.opentelemetry"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "needs the OpenTelemetry API: pip install opentelemetry-api" in ended.stderr
