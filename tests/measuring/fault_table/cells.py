"""What may become of each operation under each fault, and the run that finds out what did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import anyio

from rabbitry.testing import PrivateNode, open_proxy
from tests.measuring.fault_table.faults import FAULTS, Scene
from tests.measuring.fault_table.operations import OPERATIONS, Operation, World

PATIENCE = 40.0
"""Seconds within which every operation must be at work again. Most are within one; a broker's start takes several."""
CLOSE_BOUND = 5.5


@dataclass(frozen=True)
class Rule:
    """What a user is told, and how rounds may end; `promises`: nothing that was confirmed may be missing."""

    says: str
    allowed: frozenset[str]
    needed: frozenset[str] = frozenset()
    promises: bool = True


def rule(says: str, allowed: str, needed: str = "", promises: bool = True) -> Rule:
    return Rule(says, frozenset(allowed.split()), frozenset(needed.split()), promises)


LOST = {  # the connection is
    "publish": rule("goes on; what was under way: OutcomeUnknown", "confirmed OutcomeUnknown", "confirmed"),
    "submit": rule("goes on, the unsent first; what was under way: unknown", "confirmed unknown", "confirmed"),
    "consume": rule("goes on; the unsettled are delivered again", "received", "received"),
    "ack": rule("StaleDelivery, nothing is sent; delivered again", "acked StaleDelivery", "acked"),
    "get": rule("ConnectionClosed; a new channel works", "got ConnectionClosed StaleDelivery ChannelClosed", "got"),
    "declare": rule("waits, then done; all is there again", "declared", "declared"),
    "rpc": rule("goes on; calls under way: OutcomeUnknown", "answered OutcomeUnknown", "answered"),
    "serve": rule("goes on; requests are answered", "answered OutcomeUnknown", "answered"),
    "close": rule("bounded; process: NotConnected", "closed process:_NotConnected", "closed"),
}
NO_LOSS_AT_ALL = {
    "publish": rule("waits until it clears", "confirmed", "confirmed"),
    "submit": rule("waits until it clears", "confirmed", "confirmed"),
    "consume": rule("goes on", "received", "received"),
    "ack": rule("acknowledged", "acked", "acked"),
    "get": rule("waits until it clears, as on any connection that has published", "got", "got"),
    "declare": rule("goes on", "declared", "declared"),
    "rpc": rule("waits until it clears", "answered", "answered"),
    "serve": rule("waits until it clears", "answered", "answered"),
    "close": rule("bounded; process: NotConnected", "closed process:_NotConnected", "closed"),
}
QUEUE_DELETED = {
    "publish": rule("Unroutable, as it is mandatory", "confirmed Unroutable", "Unroutable", False),
    "submit": rule("unroutable, as it is mandatory", "confirmed unroutable", "unroutable", False),
    "consume": rule("ConsumerCancelled", "received ConsumerCancelled", "ConsumerCancelled", False),
    "ack": rule(
        "acknowledged, or StaleDelivery as the queue is gone; then ConsumerCancelled",
        "acked StaleDelivery ConsumerCancelled",
        "ConsumerCancelled",
        False,
    ),
    "get": rule("NotFound", "got NotFound", "NotFound", False),
    "declare": rule("declares it again", "declared", "declared"),
    "rpc": rule("Unroutable", "answered Unroutable TimeoutError server:_ConsumerCancelled", "Unroutable", False),
    "serve": rule(
        "ConsumerCancelled; callers: Unroutable",
        "answered Unroutable TimeoutError server:_ConsumerCancelled",
        "server:_ConsumerCancelled",
        False,
    ),
    "close": rule(
        "at once; process: ConsumerCancelled, or NotConnected as the client was left",
        "closed process:_ConsumerCancelled process:_NotFound process:_NotConnected",
        "",
        False,
    ),
}
RULES: dict[str, dict[str, Rule]] = dict.fromkeys(FAULTS, LOST) | {
    "memory alarm": NO_LOSS_AT_ALL,
    "queue deleted": QUEUE_DELETED,
}


@dataclass
class Cell:
    """What became of one operation under one fault, on one backend."""

    seen: Counter[str]
    lost: int
    duplicates: int
    recovery: float | None
    slowest_close: float
    is_hanging: bool

    def failures(self, rule: Rule) -> list[str]:
        """What is against the rule."""
        found: list[str] = []
        kinds = {kind.replace(" ", "_") for kind in self.seen}
        if self.is_hanging:
            found.append(f"hangs: nothing for {PATIENCE:g} s")
        if kinds - rule.allowed:
            found.append(f"ended otherwise: {sorted(kinds - rule.allowed)}")
        if rule.needed - kinds:
            found.append(f"never: {sorted(rule.needed - kinds)}")
        if rule.promises and self.lost:
            found.append(f"{self.lost} lost")
        if self.slowest_close > CLOSE_BOUND:
            found.append(f"closing took {self.slowest_close:.1f} s")
        return found


async def run_fault(name: str, nodes: list[PrivateNode]) -> dict[str, Cell]:
    """All operations at once, while the fault strikes the first of the nodes or the way to it."""
    async with AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(open_proxy(node.url)) for node in nodes]
        for proxy in proxies[1:]:
            proxy.refuse()  # so that all begin at the node that the fault will meet
        calm_urls = [node.url for node in nodes[1:]] or [nodes[0].url]
        world = World([proxy.url for proxy in proxies], calm_urls, "quorum" if proxies[1:] else "classic")
        operations = [operation(world) for operation in OPERATIONS]
        world.calm = await stack.enter_async_context(world.client(world.calm_urls))
        async with anyio.create_task_group() as tg:
            for operation in operations:
                tg.start_soon(operation.run)
            await _until(lambda: all(operation.rounds for operation in operations))
            for proxy in proxies[1:]:
                proxy.accept()
            world.is_armed = True
            await _until(lambda: all(operation.is_holding for operation in operations))
            async with FAULTS[name](Scene(proxies[0], nodes[0], world, operations)):
                world.healed_at = anyio.current_time()
                wanted = {operation: operation.rounds + 2 for operation in operations}
                await _until(lambda: not _behind(wanted))
            hanging = _behind(wanted)
            world.over.set()
            await _until(lambda: all(operation.has_ended for operation in operations))
            hanging |= {operation for operation in operations if not operation.has_ended}
            tg.cancel_scope.cancel()
        for operation in set(operations) - hanging:
            await operation.verify()
        await world.calm.delete(*[operation.queue for operation in operations])
    return {operation.name: _cell(operation, operation in hanging) for operation in operations}


async def _until(condition: Callable[[], bool]) -> None:
    with anyio.move_on_after(PATIENCE):
        while not condition():
            await anyio.sleep(0.01)


def _behind(wanted: dict[Operation, int]) -> set[Operation]:
    return {operation for operation, rounds in wanted.items() if operation.rounds < rounds and not operation.has_ended}


def _cell(operation: Operation, is_hanging: bool) -> Cell:
    recovered, healed = operation.recovered_at, operation.world.healed_at
    return Cell(
        operation.seen,
        operation.lost,
        operation.duplicates,
        recovered - healed if recovered is not None else None,
        operation.slowest_close,
        is_hanging,
    )
