"""Metrics for Prometheus against a real broker: those of OpenTelemetry, by the names that they have there; bounds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from prometheus_client import REGISTRY, CollectorRegistry, Counter, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import rabbitry
from rabbitry.opentelemetry import OpenTelemetry
from rabbitry.prometheus import OTHER, Prometheus
from tests.support.clients import ready_again, some_queue, through_proxy
from tests.support.helpers import unique

Sample = tuple[str, frozenset[tuple[str, str]]]

DURATION, PROCESS = "messaging_client_operation_duration_seconds", "messaging_process_duration_seconds"
SENT, CONSUMED = "messaging_client_sent_messages_total", "messaging_client_consumed_messages_total"


class Both:
    """Tells two instrumentations."""

    def __init__(self, *instrumentations: rabbitry.Instrumentation) -> None:
        self.both = instrumentations
        self.states: dict[rabbitry.Operation, list[Any]] = {}

    def begin(self, operation: rabbitry.Operation) -> None:
        states = self.states[operation] = []
        for each in self.both:
            operation.state = None
            each.begin(operation)
            states.append(operation.state)

    def end(self, operation: rabbitry.Operation) -> None:
        for each, state in zip(self.both, self.states.pop(operation), strict=True):
            operation.state = state
            each.end(operation)

    def count(self, event: rabbitry.Event, labels: Mapping[str, str]) -> None:
        for each in self.both:
            each.count(event, labels)


def scraped(registry: CollectorRegistry) -> dict[Sample, float]:
    """What Prometheus would see: each sample by its name and its labels, of which "" is none."""
    text = generate_latest(registry).decode()
    return {
        (sample.name, frozenset((name, value) for name, value in sample.labels.items() if value)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def translated(reader: InMemoryMetricReader) -> dict[Sample, float]:
    """OpenTelemetry's metrics as "Prometheus and OpenMetrics Compatibility" has them become Prometheus's: dots to
    underscores; the unit as a suffix, unless in braces; `_total` for counters; cumulative buckets."""
    data = reader.get_metrics_data()
    assert data is not None
    found: dict[Sample, float] = {}
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                name = metric.name.replace(".", "_") + ("_seconds" if metric.unit == "s" else "")
                for point in metric.data.data_points:
                    labels = {key.replace(".", "_"): str(value) for key, value in (point.attributes or {}).items()}
                    key = frozenset(labels.items())
                    if not isinstance(point, HistogramDataPoint):
                        found[f"{name}_total", key] = point.value
                        continue
                    found[f"{name}_count", key] = point.count
                    found[f"{name}_sum", key] = pytest.approx(point.sum)
                    seen = 0
                    for bound, count in zip((*point.explicit_bounds, float("inf")), point.bucket_counts, strict=True):
                        seen += count
                        le = "+Inf" if bound == float("inf") else str(float(bound))
                        found[f"{name}_bucket", key | {("le", le)}] = seen
    return found


def labels_of(samples: Mapping[Sample, float], name: str) -> list[dict[str, str]]:
    return [dict(labels) for found, labels in samples if found == name]


async def test_they_are_those_of_opentelemetry(amqp_url: str) -> None:
    """Of all that there is to tell: publishes, gets, calls, handlers, settlements, failures, a lost connection."""
    registry, reader = CollectorRegistry(), InMemoryMetricReader()
    both = Both(OpenTelemetry(meter_provider=MeterProvider([reader])), Prometheus(registry))

    async def handle(delivery: rabbitry.Delivery) -> None:
        if delivery.body == b"bad":
            raise ValueError
        client.stop_consuming()

    async def double(number: int) -> int:
        return 2 * number

    async with some_queue(amqp_url) as queue, some_queue(amqp_url) as requests:
        async with through_proxy(amqp_url, instrumentation=both) as (client, proxy):
            for body in (b"bad", b"got", b"read", b"good"):
                await client.publish(body, routing_key=queue)
            with pytest.raises(rabbitry.Unroutable):
                await client.publish(b"", routing_key=unique(), mandatory=True)
            with pytest.raises(rabbitry.Refused):
                await client.publish(b"", exchange=unique())
            with pytest.raises(rabbitry.NotFound):
                await client.get(unique())
            got = await client.get(queue)
            assert got is not None
            got.reject()
            async with client.consume(queue, prefetch=1) as deliveries:
                with (await anext(deliveries)).process():
                    pass
            async with anyio.create_task_group() as tg:
                tg.start_soon(client.serve, requests, double)
                async with client.rpc() as rpc:
                    assert await rpc.call(requests, 21) == 42
                    with pytest.raises(rabbitry.RemoteError):
                        await rpc.call(requests, "text", idempotent=True)
                tg.cancel_scope.cancel()
            temporary = rabbitry.Queue.temporary()
            await client.declare(temporary)
            await client.publish(b"", routing_key=temporary.current_name)
            await client.get(temporary)
            lives = client.statistics()["consuming_lives"]
            proxy.cut()
            with anyio.fail_after(30):
                while client.statistics()["consuming_lives"] == lives:
                    await anyio.sleep(0.005)
            await ready_again(client)
            await client.publish(b"bad", routing_key=queue)
            await client.publish(b"good", routing_key=queue)
            await client.process(queue, handle, on_error="reject")
    samples = scraped(registry)
    assert samples == translated(reader)
    names = {name for name, _ in samples}
    expected = {SENT, CONSUMED, "rabbitry_client_settled_messages_total", "rabbitry_client_reconnections_total"}
    expected |= {f"{histogram}_{part}" for histogram in (DURATION, PROCESS) for part in ("bucket", "count", "sum")}
    assert names == expected
    assert {labels.get("error_type") for labels in labels_of(samples, SENT)} == {
        *(None, "rabbitry.Unroutable", "rabbitry.Refused", "rabbitry.RemoteError")
    }
    templates = {labels.get("messaging_destination_template") for labels in labels_of(samples, CONSUMED)}
    assert templates == {None, "amq.gen-*"}


async def test_what_a_dashboard_finds(amqp_url: str) -> None:
    """Word for word: names, labels, and of a label that has nothing to say the empty value."""
    registry = CollectorRegistry()
    async with some_queue(amqp_url) as queue:
        async with rabbitry.connect(amqp_url, instrumentation=Prometheus(registry, buckets=(0.1, 10))) as connection:
            async with connection.channel() as channel:
                await channel.publish(b"x", routing_key=queue)
                async with channel.consume(queue) as deliveries:
                    (await anext(deliveries)).ack()
    samples = scraped(registry)
    (labels,) = labels_of(samples, SENT)
    address = labels.pop("server_address"), labels.pop("server_port")
    assert f"@{':'.join(address)}" in amqp_url
    common = {"messaging_system": "rabbitmq"}
    assert labels == {
        **common,
        "messaging_operation_name": "publish",
        "messaging_operation_type": "send",
        "messaging_destination_name": "amq.default",
    }
    of_the_queue = {**common, "messaging_destination_name": queue, "messaging_destination_template": ""}
    consumed = {**of_the_queue, "messaging_operation_name": "consume", "messaging_operation_type": "receive"}
    settled = {**of_the_queue, "messaging_operation_name": "ack", "messaging_operation_type": "settle"}
    assert registry.get_sample_value(CONSUMED, consumed) == 1
    assert registry.get_sample_value("rabbitry_client_settled_messages_total", settled) == 1
    assert {labels["le"] for labels in labels_of(samples, f"{DURATION}_bucket")} == {"0.1", "10.0", "+Inf"}


async def test_there_are_no_more_destinations_than_asked_for(amqp_url: str) -> None:
    registry = CollectorRegistry()
    instrumentation = Prometheus(registry, max_destinations=3)
    async with rabbitry.connect(amqp_url, instrumentation=instrumentation) as connection:
        async with connection.channel() as channel:
            names = [(await channel.declare_queue(unique(), exclusive=True, durable=False)).name for _ in range(5)]
            for name in names * 2:
                await channel.publish(b"", routing_key=name)  # to "amq.default", which is the first
                assert await channel.get(name, no_ack=True)
    destinations = {
        labels["messaging_destination_name"]: value
        for (name, found), value in scraped(registry).items()
        if name in (CONSUMED, SENT) and (labels := dict(found))
    }
    assert destinations == {"amq.default": 10, names[0]: 2, names[1]: 2, OTHER: 6}


async def test_routing_keys_where_they_are_asked_for(amqp_url: str) -> None:
    registry = CollectorRegistry()

    async def handle(delivery: rabbitry.Delivery) -> None:
        client.stop_consuming()

    async with some_queue(amqp_url) as queue:
        async with rabbitry.open_client(amqp_url, instrumentation=Prometheus(registry, routing_keys=True)) as client:
            await client.publish(b"x", routing_key=queue)
            await client.publish(b"x", exchange="amq.topic", routing_key="to.\udcffnobody")
            await client.process(queue, handle)
    name, samples = "messaging_rabbitmq_destination_routing_key", scraped(registry)
    assert {labels[name] for labels in labels_of(samples, SENT)} == {queue, "to.?nobody"}
    assert [labels[name] for labels in labels_of(samples, f"{PROCESS}_count")] == [queue]
    assert not [labels for labels in labels_of(samples, CONSUMED) if name in labels]


# --- the registry -----------------------------------------------------------------------------------------------------


async def test_one_serves_all_clients_and_another_needs_another_registry(amqp_url: str) -> None:
    registry = CollectorRegistry()
    instrumentation = Prometheus(registry)
    async with some_queue(amqp_url) as queue:
        for _ in range(2):
            async with rabbitry.open_client(amqp_url, instrumentation=instrumentation) as client:
                await client.publish(b"x", routing_key=queue)
        with pytest.raises(ValueError, match=r"give one Prometheus\(\) to all clients"):
            Prometheus(registry)
        Prometheus(CollectorRegistry())
    assert [value for (name, _), value in scraped(registry).items() if name == SENT] == [2]


def test_a_registry_that_has_one_of_them_already_gets_none_of_the_others() -> None:
    registry = CollectorRegistry()
    Counter("rabbitry_client_settled_messages", "somebody else's", registry=registry)
    with pytest.raises(ValueError):
        Prometheus(registry)
    assert not [name for name, _ in scraped(registry) if name.startswith("messaging")]
    assert [family.name for family in registry.collect()] == ["rabbitry_client_settled_messages"]


PROGRAM = """
import os, prometheus_client
from prometheus_client.multiprocess import MultiProcessCollector
from rabbitry import Queue, blocking
from rabbitry.prometheus import Prometheus

with blocking.open_client(os.environ["URL"], instrumentation=Prometheus()) as client:
    queue = Queue("prometheus.blocking", expires=60)
    client.declare(queue)
    client.publish(b"x", routing_key=queue.name)
    client.process(queue, lambda delivery: client.stop_consuming())
registry = prometheus_client.REGISTRY
if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
    registry = prometheus_client.CollectorRegistry()
    MultiProcessCollector(registry)
print(prometheus_client.generate_latest(registry).decode())
"""


@pytest.mark.parametrize("multiprocess", [False, True])
def test_the_registry_that_is_exposed(amqp_url: str, tmp_path: Path, multiprocess: bool) -> None:
    """Unless another is given; in a process of its own, as there it stays. Without async; and from several processes,
    which is the library's own affair.
    """
    environment = {**os.environ, "URL": amqp_url, "PYTHONPATH": os.getcwd()}
    if multiprocess:
        environment["PROMETHEUS_MULTIPROC_DIR"] = str(tmp_path)
    command = [sys.executable, "-c", PROGRAM]
    for times in (1, 2) if multiprocess else (1, 1):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert not done.stderr
        (sent,) = [line for line in done.stdout.splitlines() if line.startswith(f"{SENT}{{")]
        assert float(sent.split()[-1]) == times
        assert 'messaging_destination_name="prometheus.blocking"' in done.stdout


# --- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "arguments"),
    [
        (TypeError, {"registry": None}),
        (TypeError, {"registry": CollectorRegistry}),
        (TypeError, {"routing_keys": "no"}),
        (TypeError, {"max_destinations": 1.5}),
        (ValueError, {"max_destinations": 0}),
        (ValueError, {"buckets": (2, 1)}),
        (ValueError, {"buckets": ()}),
    ],
)
def test_arguments_that_can_not_be(error: type[Exception], arguments: dict[str, Any]) -> None:
    before = {family.name for family in REGISTRY.collect()}
    with pytest.raises(error):
        Prometheus(**arguments)
    assert {family.name for family in REGISTRY.collect()} == before


async def test_the_class_itself_is_none() -> None:
    with pytest.raises(TypeError, match="an instrumentation is an object"):
        async with rabbitry.open_client(instrumentation=Prometheus):  # type: ignore[arg-type]
            pass


def test_names_that_are_no_text_do_not_break_the_exposition() -> None:
    """A queue's name may be octets that are not UTF-8."""
    registry = CollectorRegistry()
    Prometheus(registry).count("consumed", {"queue": "letters\udcff"})
    assert [labels["messaging_destination_name"] for labels in labels_of(scraped(registry), CONSUMED)] == ["letters?"]


def test_without_prometheus_client_it_says_what_to_install() -> None:
    script = "import sys; sys.modules['prometheus_client'] = None; import rabbitry.prometheus"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50)
    assert "ImportError: rabbitry.prometheus needs prometheus_client: pip install prometheus-client" in done.stderr
