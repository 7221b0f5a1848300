"""`OpenTelemetry`: an instrumentation that makes spans and metrics, by version 1.44 of the semantic conventions for
messaging, and has the trace travel with each message. Needs the extra `opentelemetry`, which is its API:
`pip install opentelemetry-api`.

What must stay true: names, kinds and attributes are the conventions'; the span of a handler is current while it runs; a
message whose publisher gave it a context of its own keeps that. Nothing here touches a message: the context is headers
that the client adds (`traceparent`, as other instrumentations of RabbitMQ clients write and read it).
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from contextlib import AbstractContextManager
from contextvars import Token
from typing import Any

try:
    from opentelemetry import context as contexts
    from opentelemetry import metrics, propagate, trace
    from opentelemetry.context import Context
    from opentelemetry.metrics import Counter, MeterProvider
    from opentelemetry.propagators.textmap import Getter, TextMapPropagator
    from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, TracerProvider
except ImportError as _error:
    raise ImportError("rabbitry.opentelemetry needs the OpenTelemetry API: pip install opentelemetry-api") from _error

from rabbitry import (
    CallOperation,
    DecodeError,
    Delivery,
    Event,
    GetOperation,
    Message,
    Operation,
    ProcessOperation,
    PublishOperation,
)
from rabbitry._conventions import (
    DURATION_BUCKETS,
    Attributes,
    common,
    encodable,
    error_type,
    of_event,
    of_operation,
    server,
    template,
    text,
)
from rabbitry._instrumentation import Instruments
from rabbitry._instrumented.delivery import process_operation

__all__ = ["SCHEMA_URL", "OpenTelemetry"]

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
"""The version of the conventions."""


class OpenTelemetry:
    """The instrumentation to give to `open_client(…, instrumentation=OpenTelemetry())` or to `connect`.

    `tracer_provider`, `meter_provider` and `propagator` are the global ones unless given. `body_size` adds
    `messaging.message.body.size` to the spans.

    Spans: `publish {destination}` (PRODUCER), whose context travels in the message's headers; `process {destination}`
    (CONSUMER), for each delivery in a handler of `client.process` or `serve` or in a block of `delivery.process()`, and
    current there; `get {queue}` (CLIENT), for `channel.get`; `call {destination}` (CLIENT), for an RPC until its
    answer. What was received is linked to its message's context. A process span is a child of the span that is current;
    where there is none, of the message's context. A message or request that came with a `traceparent` of its own keeps
    it, and its span links to that. Each span has a `rabbitry.outcome`, as the operations have it; a cancelled one is no
    error. Settlements have no spans: they are queued, and have no answer.

    Metrics: `messaging.client.operation.duration` (publishes, until the confirm, gets and calls),
    `messaging.client.sent.messages`, `messaging.client.consumed.messages`, `messaging.process.duration`, and two that
    the conventions lack, `rabbitry.client.settled.messages` and `rabbitry.client.reconnections`. Their destinations are
    exchanges and queues, without routing keys, which may be too many; a name that the broker made up is there as its
    template (`amq.gen-*`).
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        propagator: TextMapPropagator | None = None,
        body_size: bool = False,
    ) -> None:
        self._instruments = Instruments(self)
        self._propagator = propagator
        self._body_size = body_size
        self._tracer = trace.get_tracer("rabbitry", tracer_provider=tracer_provider, schema_url=SCHEMA_URL)
        meter = metrics.get_meter("rabbitry", meter_provider=meter_provider, schema_url=SCHEMA_URL)
        self._operation_duration = meter.create_histogram(
            "messaging.client.operation.duration",
            "s",
            "Duration of messaging operation initiated by a producer or consumer client.",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )
        self._process_duration = meter.create_histogram(
            "messaging.process.duration",
            "s",
            "Duration of processing operation.",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )
        self._sent = meter.create_counter(
            "messaging.client.sent.messages",
            "{message}",
            "Number of messages producer attempted to send to the broker.",
        )
        self._counters: Mapping[Event, Counter] = {
            "consumed": meter.create_counter(
                "messaging.client.consumed.messages",
                "{message}",
                "Number of messages that were delivered to the application.",
            ),
            "settled": meter.create_counter(
                "rabbitry.client.settled.messages",
                "{message}",
                "Number of deliveries acknowledged, nacked or rejected.",
            ),
            "reconnected": meter.create_counter(
                "rabbitry.client.reconnections", "{connection}", "Number of connections made again after a loss."
            ),
        }

    def processing(self, delivery: Delivery, queue: str = "") -> AbstractContextManager[object]:
        """A `with` block that processes a delivery, without settling it: its span is current there. `queue` is needed
        only for a delivery that a connection without instrumentation has from `get`.

        For deliveries of a connection without instrumentation, and for those that you settle in another way than
        `with delivery.process()` does, which has a span already where there is an instrumentation.
        """
        return self._instruments.processing(process_operation(delivery, queue))

    # --- the instrumentation ------------------------------------------------------------------------------------------

    def begin(self, operation: Operation) -> None:
        """Start the operation's span."""
        match operation:
            case PublishOperation():
                self._begin_publish(operation)
            case GetOperation():
                self._begin_get(operation)
            case ProcessOperation():
                self._begin_process(operation)
            case CallOperation():
                self._begin_call(operation)

    def end(self, operation: Operation) -> None:
        """End the operation's span, and measure the operation."""
        if isinstance(operation.state, _Current):
            contexts.detach(operation.state.token)
            span = operation.state.span
        else:
            span = operation.state or trace.INVALID_SPAN
        try:
            self._measure(operation, span)
            if isinstance(operation, GetOperation):
                self._end_get(operation, span)
            span.set_attributes(server(operation))  # which a client may know only by now
            span.set_attribute("rabbitry.outcome", operation.outcome)
            if operation.error is not None:
                span.set_attribute("error.type", error_type(operation.error))
                span.set_status(Status(StatusCode.ERROR, _told(operation.error)))
                if isinstance(operation, ProcessOperation):
                    span.record_exception(operation.error)
        finally:
            span.end()

    def count(self, event: Event, labels: Mapping[str, str]) -> None:
        """Count one more of this event."""
        self._counters[event].add(1, of_event(event, labels))

    # --- spans --------------------------------------------------------------------------------------------------------

    def _begin_publish(self, operation: PublishOperation) -> None:
        message = operation.message
        attributes = _sent_to(operation, "publish")
        if isinstance(message, Message):
            _describe(attributes, message.message_id, message.correlation_id)
        if self._body_size:
            attributes["messaging.message.body.size"] = len(message.body if isinstance(message, Message) else message)
        own = self._context_of(message.headers if isinstance(message, Message) else None)
        span = self._start(SpanKind.PRODUCER, attributes, own)
        operation.state = span
        if own is None:
            self._inject(operation.headers, span)

    def _begin_call(self, operation: CallOperation) -> None:
        attributes = _sent_to(operation, "call")
        own = self._context_of(operation.given)
        span = self._start(SpanKind.CLIENT, attributes, own)
        operation.state = span
        if own is None:
            self._inject(operation.headers, span)

    def _begin_get(self, operation: GetOperation) -> None:
        attributes = common("get", "receive", operation.queue) | server(operation)
        _name(attributes, operation.queue)
        operation.state = self._start(SpanKind.CLIENT, attributes)

    def _end_get(self, operation: GetOperation, span: Span) -> None:
        if operation.delivery is not None:
            attributes, headers = self._received(operation.delivery, operation.queue)
            span.set_attributes(encodable(attributes))
            context = self._context_of(headers)
            if context is not None:
                span.add_link(context)

    def _received(self, delivery: Delivery, queue: str) -> tuple[Attributes, Mapping[str, Any]]:
        """What to say of a delivery, and its headers."""
        attributes: Attributes = {"messaging.rabbitmq.message.delivery_tag": delivery.delivery_tag}
        destination = _joined(delivery.exchange, delivery.routing_key, queue if queue != delivery.routing_key else "")
        if destination:
            attributes["messaging.destination.name"] = destination
        _name(attributes, queue or delivery.routing_key)
        if delivery.routing_key:
            attributes["messaging.rabbitmq.destination.routing_key"] = delivery.routing_key
        if self._body_size:
            attributes["messaging.message.body.size"] = len(delivery.body)
        try:
            _describe(attributes, delivery.properties.message_id, delivery.properties.correlation_id)
        except DecodeError:
            return attributes, {}  # the handler may look at its body nevertheless
        return attributes, delivery.headers

    def _begin_process(self, operation: ProcessOperation) -> None:
        attributes, headers = self._received(operation.delivery, operation.queue)
        attributes |= common("process", "process", "") | server(operation)
        ambient = trace.get_current_span()
        parent = self._extract(headers, trace.set_span_in_context(trace.INVALID_SPAN))
        own = _span_context(parent)
        if ambient.get_span_context().is_valid:
            parent = trace.set_span_in_context(ambient, parent)
        span = self._start(SpanKind.CONSUMER, attributes, own, parent)
        operation.state = _Current(span, contexts.attach(trace.set_span_in_context(span, parent)))

    def _start(
        self, kind: SpanKind, attributes: Attributes, linked: SpanContext | None = None, parent: Context | None = None
    ) -> Span:
        attributes = encodable(attributes)
        links = [] if linked is None else [Link(linked)]
        return self._tracer.start_span(_span_name(attributes), parent, kind=kind, attributes=attributes, links=links)

    @property
    def _propagator_now(self) -> TextMapPropagator:
        """The propagator that was given, or else the global one, which may be set later than this is made."""
        return self._propagator or propagate.get_global_textmap()

    def _inject(self, headers: dict[str, str], span: Span) -> None:
        carrier: MutableMapping[str, list[str] | str] = {}
        self._propagator_now.inject(carrier, trace.set_span_in_context(span))
        headers.update((name, value) for name, value in carrier.items() if isinstance(value, str))

    def _extract(self, headers: Mapping[str, Any], context: Context) -> Context:
        return self._propagator_now.extract(headers, context, _GETTER)

    def _context_of(self, headers: Mapping[str, Any] | None) -> SpanContext | None:
        """The context in which the message was made, if its headers carry one."""
        return _span_context(self._extract(headers, Context())) if headers else None

    # --- metrics ------------------------------------------------------------------------------------------------------

    def _measure(self, operation: Operation, span: Span) -> None:
        attributes = of_operation(operation)
        if not attributes:
            return
        context = trace.set_span_in_context(span)  # of which the histogram keeps an example
        if isinstance(operation, ProcessOperation):
            self._process_duration.record(operation.seconds, attributes, context)
            return
        self._operation_duration.record(operation.seconds, attributes, context)
        if operation.outcome != "unsent" and not isinstance(operation, GetOperation):
            self._sent.add(1, attributes, context)


class _Current:
    """A span that is current, and what makes it so no more."""

    __slots__ = ("span", "token")

    def __init__(self, span: Span, token: Token[Context]) -> None:
        self.span = span
        self.token = token


class _HeadersGetter(Getter[Mapping[str, Any]]):
    """Reads headers as any client may have written them: text or bytes, the rest is none of ours."""

    def get(self, carrier: Mapping[str, Any], key: str) -> list[str] | None:
        value = carrier.get(key)
        if isinstance(value, bytes):
            value = value.decode("ascii", "replace")
        return [text(value)] if isinstance(value, str) else None

    def keys(self, carrier: Mapping[str, Any]) -> list[str]:
        return list(carrier)


_GETTER = _HeadersGetter()


def _span_context(context: Context) -> SpanContext | None:
    found = trace.get_current_span(context).get_span_context()
    return found if found.is_valid else None


# --- attributes -------------------------------------------------------------------------------------------------------


def _sent_to(operation: PublishOperation | CallOperation, name: str) -> Attributes:
    exchange, routing_key = operation.exchange, operation.routing_key
    attributes = common(name, "send", _joined(exchange, routing_key) or "amq.default")
    if not exchange:
        _name(attributes, routing_key)
    if routing_key:
        attributes["messaging.rabbitmq.destination.routing_key"] = routing_key
    return attributes | server(operation)


def _joined(*names: str) -> str:
    return ":".join(filter(None, names))


def _name(attributes: Attributes, queue: str) -> None:
    """Say that a queue's name is the broker's invention, so that it does not get into the span's name."""
    made_up = template(queue)
    if made_up:
        attributes["messaging.destination.template"] = made_up
        attributes["messaging.destination.temporary"] = True
        attributes["messaging.destination.anonymous"] = True


def _span_name(attributes: Attributes) -> str:
    operation = attributes["messaging.operation.name"]
    destination = attributes.get("messaging.destination.template") or attributes.get("messaging.destination.name")
    return f"{operation} {destination}" if destination else operation


def _describe(attributes: Attributes, message_id: str | None, correlation_id: str | None) -> None:
    if message_id is not None:
        attributes["messaging.message.id"] = message_id
    if correlation_id is not None:
        attributes["messaging.message.conversation_id"] = correlation_id


def _told(error: BaseException) -> str:
    """What an error says, if it can."""
    try:
        return text(str(error))
    except Exception:
        return ""
