"""Each service gets its own copy of an event, its instances share them, and none is missed while they are away."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from rabbitry import Exchange, Queue
from tests.recipes.harness import Onlooker, Starter, runnable, without
from tests.support.programs import wait_until


@pytest.fixture(autouse=True)
def clean(onlooker: Onlooker) -> Iterator[None]:
    queues = [Queue(f"recipes.events.{name}", type="quorum") for name in ("billing", "audit")]
    with without(onlooker, *queues, Exchange("recipes.events", "topic")):
        yield


@pytest.mark.parametrize("recipe", runnable("event_fan_out.py", "others/event_fan_out_faststream.py"))
def test_services_get_copies_and_instances_share(recipe: str, start: Starter, onlooker: Onlooker) -> None:
    nobody = start(recipe, "publish", "order.placed", "before any service")
    nobody.wait_for("no service wants order.placed")
    assert nobody.process.wait(30) == 1

    billing = [start(recipe, "service", "billing", "order.*", backend=backend) for backend in ("asyncio", "trio")]
    audit = start(recipe, "service", "audit", "#", "order.*", backend="trio")
    onlooker.wait_for_consumers("recipes.events.billing", 2)
    onlooker.wait_for_consumers("recipes.events.audit", 1)
    events = [start(recipe, "publish", "order.placed", str(number)) for number in range(2)]
    events.append(start(recipe, "publish", "mail.sent", "hello"))
    for event in events:
        event.result()
    audit.wait_for("audit got", 3)
    wait_until(lambda: sum(service.count("billing got") for service in billing) >= 2)
    got = sorted(line for service in billing for line in service.matching("billing got"))
    assert got == [f"billing got order.placed {number}" for number in range(2)]
    assert "audit got mail.sent hello" in audit.lines

    for service in (*billing, audit):
        assert service.end(signal.SIGTERM) == 0
    start(recipe, "publish", "order.placed", "while all are away").result()
    for name in ("billing", "audit"):
        start(recipe, "service", name, "#").wait_for(f"{name} got order.placed while all are away")
