"""`Prometheus`: an instrumentation that counts and times in the metrics of `prometheus_client`. Needs
`pip install prometheus-client`.

What must stay true: names and labels are what becomes of OpenTelemetry's metrics in Prometheus, so that a dashboard
shows either: those of the semantic conventions for messaging, version 1.44, by the rules of "Prometheus and OpenMetrics
Compatibility" (dots are underscores, the unit is a suffix, a counter ends in `_total`). No label has more values than
was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
except ImportError as _error:
    raise ImportError("rabbitry.prometheus needs prometheus_client: pip install prometheus-client") from _error

from rabbitry import (
    CallOperation,
    Event,
    GetOperation,
    Operation,
    ProcessOperation,
    PublishOperation,
)
from rabbitry._conventions import DURATION_BUCKETS, Attributes, of_event, of_operation, text
from rabbitry._values.arguments import check_flag, whole

__all__ = ["DURATION_BUCKETS", "OTHER", "Prometheus"]

OTHER = "(other)"
"""The label value of all exchanges and queues beyond the first `max_destinations`."""

NAME, ROUTING_KEY = "messaging.destination.name", "messaging.rabbitmq.destination.routing_key"

COUNTED = (
    "messaging.system",
    "messaging.operation.name",
    "messaging.operation.type",
    NAME,
    "messaging.destination.template",
)
MEASURED = (*COUNTED, "server.address", "server.port", "error.type")
RECONNECTED = ("messaging.system", "rabbitry.connection")


class Prometheus:
    """The instrumentation to give to `open_client(…, instrumentation=Prometheus())` or to `connect`: one for all
    clients and connections of a program.

    `registry` is the one that `prometheus_client` exposes unless told otherwise; `ValueError` where it has these
    metrics already. `buckets` are the upper bounds of the histograms, in seconds: those of the conventions unless
    given.

    Metrics: the histograms `messaging_client_operation_duration_seconds` (publishes, until their confirm, gets and
    calls) and `messaging_process_duration_seconds` (handlers); the counters `messaging_client_sent_messages_total`
    (published, and requests), `messaging_client_consumed_messages_total` (handed out),
    `rabbitry_client_settled_messages_total` (acknowledged, nacked, rejected), and `rabbitry_client_reconnections_total`
    (connections made again, by `rabbitry_connection`).

    Labels: `messaging_system`, `messaging_operation_name`, `messaging_operation_type`, `messaging_destination_name`,
    `messaging_destination_template`, and of what takes time, or is sent, `server_address`, `server_port` and
    `error_type`, which is "" where nothing failed.

    Destinations are exchanges and queues; a name that the broker made up is in `…_template` instead (`amq.gen-*`). The
    first `max_destinations` (1,000; at least 1) different ones have their names, all others are "(other)". With
    `routing_keys` there is `messaging_rabbitmq_destination_routing_key`, too, of what is published, called and handled:
    then there are as many series as there are routing keys, without a bound.
    """

    def __init__(
        self,
        registry: CollectorRegistry = REGISTRY,
        *,
        buckets: Sequence[float] = DURATION_BUCKETS,
        routing_keys: bool = False,
        max_destinations: int = 1000,
    ) -> None:
        if not isinstance(registry, CollectorRegistry):
            raise TypeError(f"registry is a prometheus_client.CollectorRegistry, not {registry!r:.100}")
        check_flag("routing_keys", routing_keys)
        self._max_destinations = whole(max_destinations, "max_destinations", 1)
        self._destinations: set[str] = set()
        self._measured = (*MEASURED, ROUTING_KEY) if routing_keys else MEASURED
        self._has_routing_keys = routing_keys
        measured, counted = _labels(self._measured), _labels(COUNTED)
        self._operation_duration = Histogram(
            "messaging_client_operation_duration_seconds",
            "Duration of messaging operation initiated by a producer or consumer client.",
            measured,
            registry=None,
            buckets=buckets,
        )
        self._process_duration = Histogram(
            "messaging_process_duration_seconds",
            "Duration of processing operation.",
            measured,
            registry=None,
            buckets=buckets,
        )
        self._sent = Counter(
            "messaging_client_sent_messages",
            "Number of messages producer attempted to send to the broker.",
            measured,
            registry=None,
        )
        self._counters: Mapping[Event, Counter] = {
            "consumed": Counter(
                "messaging_client_consumed_messages",
                "Number of messages that were delivered to the application.",
                counted,
                registry=None,
            ),
            "settled": Counter(
                "rabbitry_client_settled_messages",
                "Number of deliveries acknowledged, nacked or rejected.",
                counted,
                registry=None,
            ),
            "reconnected": Counter(
                "rabbitry_client_reconnections",
                "Number of connections made again after a loss.",
                _labels(RECONNECTED),
                registry=None,
            ),
        }
        _register(registry, self._operation_duration, self._process_duration, self._sent, *self._counters.values())

    # --- the instrumentation ------------------------------------------------------------------------------------------

    def begin(self, operation: Operation) -> None:
        """Nothing: an operation is counted when it ends."""

    def end(self, operation: Operation) -> None:
        """Measure the operation."""
        attributes = of_operation(operation)
        if not attributes:
            return
        if self._has_routing_keys:
            attributes[ROUTING_KEY] = _routing_key(operation)
        values = self._values(attributes, self._measured)
        if isinstance(operation, ProcessOperation):
            self._process_duration.labels(*values).observe(operation.seconds)
            return
        self._operation_duration.labels(*values).observe(operation.seconds)
        if operation.outcome != "unsent" and not isinstance(operation, GetOperation):
            self._sent.labels(*values).inc()

    def count(self, event: Event, labels: Mapping[str, str]) -> None:
        """Count one more of this event."""
        attributes = of_event(event, labels)
        names = RECONNECTED if event == "reconnected" else COUNTED
        self._counters[event].labels(*self._values(attributes, names)).inc()

    def _values(self, attributes: Attributes, names: Sequence[str]) -> list[str]:
        """The values of these labels, in this order; "" for what is not there, as is usual in Prometheus."""
        destination = attributes.get(NAME)
        if destination is not None and destination not in self._destinations:
            if len(self._destinations) < self._max_destinations:
                self._destinations.add(destination)
            else:
                attributes[NAME] = OTHER
        return [str(attributes.get(name, "")) for name in names]


def _labels(names: Sequence[str]) -> list[str]:
    return [name.replace(".", "_") for name in names]


def _routing_key(operation: Operation) -> str:
    match operation:
        case PublishOperation() | CallOperation():
            return text(operation.routing_key)
        case ProcessOperation():
            return text(operation.delivery.routing_key)
    return ""


def _register(registry: CollectorRegistry, *metrics: Any) -> None:
    """All of them, or none."""
    registered: list[Any] = []
    try:
        for metric in metrics:
            registry.register(metric)
            registered.append(metric)
    except ValueError as error:
        for metric in registered:
            registry.unregister(metric)
        raise ValueError(
            "the registry has metrics of these names already: give one Prometheus() to all clients and connections, or "
            "each a registry of its own"
        ) from error
