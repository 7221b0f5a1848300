"""`Registry`: what a client declared, and how it is put back in each new life.

What must stay true: an entity is known by its full identity, arguments included, and of one name by the latest that the
broker took: an earlier one would be refused in the next life; what the broker removes with another (the bindings of a
queue, an auto-delete exchange without bindings) is forgotten with it, or it would be brought back; the name that the
broker gives a queue in a new life is the one used everywhere from then on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import chain

import anyio

from rabbitry._channel.channel import Channel, life_of
from rabbitry._channel.declaring import unbind
from rabbitry._concurrency.clock import loop_time
from rabbitry._connection.connection import Connection
from rabbitry._errors import ChannelClosed, ConsumingStopped, LocalProtocolError, NotFound, ResourceLocked
from rabbitry._values.topology import Binding, Entity, Exchange, ExchangeBinding, Queue, in_order, is_another, name_of
from rabbitry.protocol.wire import methods

__all__ = ["FLEETING_PAUSE", "FLEETING_TRIES", "LOCKED_PAUSE", "Registry", "held_bound", "is_node_down"]

logger = logging.getLogger("rabbitry")

LOCKED_PAUSE = 0.5
LOCKED_BOUND = 30.0
"""Seconds between attempts, and in all at least (see `held_bound`), to get what the broker holds for a former life."""

FLEETING_PAUSE = 0.1
FLEETING_TRIES = 5
"""Seconds between attempts, and how many more, to bind to auto-delete exchanges that go as they are declared again."""

NAMES_KEPT = 1000
"""Names of temporary queues, of former lives too, by which somebody may still ask for them."""


class Registry:
    """The entities of one client."""

    def __init__(self) -> None:
        self._entities: dict[Entity, None] = {}  # in the order of declaring, each once
        self._named: dict[
            tuple[type[Entity], str], Exchange | Queue
        ] = {}  # those of them that have a name of their own
        self._given: dict[str, Queue] = {}  # by each name that the broker ever gave it

    def __len__(self) -> int:
        return len(self._entities)

    @property
    def is_lasting(self) -> bool:
        """Whether all that was declared outlives our connections, and the broker's restart."""
        return all(
            entity.durable and not entity.auto_delete and not (isinstance(entity, Queue) and entity.exclusive)
            for entity in self._entities
            if isinstance(entity, Queue | Exchange)
        )

    def type_of(self, queue: str | Queue) -> str | None:
        """The type of a queue that is told, or was declared here: "classic", "quorum", …; None if it is not known."""
        found: Entity | None = queue if isinstance(queue, Queue) else self._given.get(queue)
        if found is None and isinstance(queue, str):
            found = self._named.get((Queue, queue))
        if found is None:
            return None
        kind: str = found.declaration().arguments.get("x-queue-type", "classic")
        return kind

    def name_of(self, queue: str | Queue) -> str:
        """What the queue is called now, also if it is asked for by a name of a former life."""
        return name_of(self._given.get(queue, queue) if isinstance(queue, str) else queue, Queue)

    # --- declaring ----------------------------------------------------------------------------------------------------

    async def declare(
        self,
        connection: Connection,
        entities: Iterable[Entity],
        *,
        may_be_ours: bool = False,
        is_awaited: Callable[[], bool] = lambda: True,
    ) -> None:
        """Declare these, and remember them. `may_be_ours`: a former life may have declared them, unanswered. Where that
        has to be waited for, `is_awaited` says whether anybody is to wait.
        """
        ordered = in_order(entities)
        await self._declare(connection, ordered, may_be_ours=may_be_ours, is_awaited=is_awaited)
        for entity in map(self._identified, ordered):
            self._remember(entity)

    async def restore(self, connection: Connection) -> None:
        """Declare everything again, in a new life."""
        await self._declare(connection, in_order(self._entities), restoring=True, may_be_ours=True)

    async def try_to_declare(self, connection: Connection, entities: Iterable[Entity]) -> None:
        """Declare these on a connection that ends after it, each for itself, and learn nothing of it: only whether that
        connection bears it.
        """
        for entity in in_order(entities):
            with suppress(ChannelClosed, LocalProtocolError):  # (a temporary queue has no name there)
                async with connection.channel(confirm=False) as channel:
                    await life_of(channel).call(self._identified(entity).declaration())

    async def _declare(
        self,
        connection: Connection,
        entities: list[Entity],
        *,
        restoring: bool = False,
        may_be_ours: bool,
        is_awaited: Callable[[], bool] = lambda: True,
    ) -> None:
        """On a channel of its own, which a refusal ends. A queue that the broker holds for a former life of ours, whose
        end it has not noticed yet, is asked for again. So is an auto-delete exchange that goes with such a queue just
        after it was declared.
        """
        rest: Iterator[Entity] = iter(entities)
        entity = next(rest, None)
        fleeting = [each for each in entities if isinstance(each, Exchange) and each.auto_delete]
        tries = FLEETING_TRIES if restoring and fleeting else 0
        began, bound = loop_time(), LOCKED_BOUND
        has_told = False
        while entity is not None:
            try:
                async with connection.channel(confirm=False) as channel:
                    bound = held_bound(channel)
                    while entity is not None:
                        await channel.declare(self._identified(entity))
                        if isinstance(entity, Queue) and entity.is_temporary:
                            is_new = self._learn(entity)
                            if is_new and not restoring:  # it went, and is made anew with what was bound to it
                                rest = chain(self._lost_with(entity), rest)
                        elif not restoring and isinstance(entity, Exchange | Queue):
                            self._replace(entity)
                        entity = next(rest, None)
            except ResourceLocked as error:
                if not may_be_ours or loop_time() >= began + bound:
                    raise
                if not has_told:
                    has_told = True
                    logger.warning(
                        "%r is held, perhaps for a former life of ours, and asked for again: %s", entity, error
                    )
                await anyio.sleep(LOCKED_PAUSE)
                if not is_awaited():
                    raise ConsumingStopped(
                        f"client.stop_consuming() was called: nothing waits any more for {entity!r}, which is held"
                    ) from error
            except NotFound as error:
                if tries and not is_node_down(error) and isinstance(entity, Binding | ExchangeBinding):
                    # An exchange went, and its bindings with it: only bindings are left to declare, so all of them.
                    tries -= 1
                    await anyio.sleep(FLEETING_PAUSE)
                    bindings = (each for each in entities if isinstance(each, Binding | ExchangeBinding))
                    rest = chain(fleeting, bindings)
                    entity = next(rest)
                    continue
                if not restoring or not is_node_down(error):
                    raise
                logger.warning("%r is out of reach until its node is back: %s", entity, error)
                entity = next(rest, None)

    def _learn(self, queue: Queue) -> bool:
        """Note the name that a temporary queue has now; whether it is another than before."""
        name = queue.current_name
        if name in self._given:
            return False
        self._given[name] = queue
        if len(self._given) > NAMES_KEPT:
            del self._given[next(iter(self._given))]
        return True

    def _remember(self, entity: Entity) -> None:
        if isinstance(entity, Exchange | Queue) and not _is_temporary(entity):
            self._replace(entity)
            self._named[type(entity), entity.name] = entity
        self._entities.setdefault(entity)

    def _replace(self, entity: Exchange | Queue) -> None:
        """The broker took this declaration: what was remembered by its name is this from now on. Where it can't be the
        same for the broker, the former one went meanwhile, and what was bound to it.
        """
        former = self._named.get((type(entity), entity.name))
        if former is None or former == entity:
            return
        if is_another(former, entity):
            self.forget(former)
        else:
            del self._entities[former]
        self._named[type(entity), entity.name] = entity
        self._entities[entity] = None

    def _lost_with(self, queue: Queue) -> list[Entity]:
        """What the broker may have removed with a temporary queue, in the order to declare it: its bindings, exchanges
        that were bound to nothing else, and what was bound to these.
        """
        bindings = [each for each in self._entities if isinstance(each, Binding) and each.queue == queue]
        sources = {name_of(each.exchange) for each in bindings}
        exchanges = [each for each in self._entities if isinstance(each, Exchange) and each.name in sources]
        between = [
            each
            for each in self._entities
            if isinstance(each, ExchangeBinding) and name_of(each.destination) in sources
        ]
        return [*exchanges, *between, *bindings]

    def _identified(self, entity: Entity) -> Entity:
        """The same entity told the same way: bindings by the names of what they bind, but for temporary queues."""
        match entity:
            case Binding():
                queue = self._given.get(entity.queue, entity.queue) if isinstance(entity.queue, str) else entity.queue
                is_named = isinstance(queue, Queue) and not queue.is_temporary
                return replace(entity, queue=name_of(queue) if is_named else queue, exchange=name_of(entity.exchange))
            case ExchangeBinding():
                return replace(entity, destination=name_of(entity.destination), source=name_of(entity.source))
        return entity

    # --- deleting -----------------------------------------------------------------------------------------------------

    def forget_all(self, entities: Iterable[Entity]) -> None:
        """Declare these no more, nor what is bound to them; they may stay at the broker."""
        for entity in [self._identified(entity) for entity in in_order(entities, "forget")]:
            self.forget(entity, is_gone=False)

    def take_all(self, entities: Iterable[Entity]) -> list[methods.Method]:
        """Declare these no more; gives the requests that delete them at the broker, bindings first."""
        ordered = [self._identified(entity) for entity in in_order(entities, "delete")[::-1]]
        requests: list[methods.Method] = [entity.deletion() for entity in ordered]
        for entity in ordered:
            self.forget(entity)
        return requests

    async def delete(self, connection: Connection, requests: Iterable[methods.Method]) -> None:
        """Send the deletions."""
        async with connection.channel(confirm=False) as channel:
            for request in requests:
                if isinstance(request, methods.QueueUnbind | methods.ExchangeUnbind):
                    await unbind(life_of(channel), request)
                else:
                    await life_of(channel).call(request)

    def forget(self, entity: Entity, *, is_gone: bool = True) -> None:
        """The entity is gone, and so is what goes with it; or it is only declared no more, with what is bound to it."""
        match entity:
            case Queue():
                self._drop((found for found in self._entities if self._is_queue(found, entity)), is_gone)
                self._given = {name: queue for name, queue in self._given.items() if queue is not entity}
            case Exchange():
                self._drop((found for found in self._entities if _is_exchange(found, entity.name)), is_gone)
            case _:
                self._drop([entity], is_gone)

    def went_with_its_consumer(self, queue: str | Queue) -> list[Entity]:
        """An auto-delete queue of ours, and its bindings: gone when the broker ended its last consumer."""
        name = self.name_of(queue)
        found = [
            entity
            for entity in self._entities
            if isinstance(entity, Queue) and entity.auto_delete and entity.name == name
        ]
        return [entity for entity in self._entities for each in found if self._is_queue(entity, each)]

    def consumer_left(self, queue: str) -> None:
        """The last consumer that this client had there was cancelled: with it goes an auto-delete queue."""
        for entity in list(self._entities):
            if isinstance(entity, Queue) and entity.auto_delete and name_of(entity) == queue:
                self.forget(entity)

    def _drop(self, entities: Iterable[Entity], is_gone: bool) -> None:
        dropped = list(entities)
        for entity in dropped:
            self._entities.pop(entity, None)
            if isinstance(entity, Exchange | Queue):
                self._named.pop((type(entity), entity.name), None)
        if not is_gone:
            return
        for source in {_source(entity) for entity in dropped} - {None}:
            if not any(_source(entity) == source for entity in self._entities):
                for entity in self._exchanges(source):
                    if entity.auto_delete:
                        self.forget(entity)

    def _exchanges(self, name: str | None) -> Iterator[Exchange]:
        return iter([entity for entity in self._entities if isinstance(entity, Exchange) and entity.name == name])

    def _is_queue(self, entity: Entity, queue: Queue) -> bool:
        """Whether the entity is this queue, or a binding of it."""
        found = entity.queue if isinstance(entity, Binding) else entity
        if isinstance(found, str):
            found = self._given.get(found, found)
        if isinstance(found, Queue) and (queue.is_temporary or found.is_temporary):
            return found == queue
        return isinstance(found, str | Queue) and name_of(found) == queue.name


def _is_temporary(entity: Exchange | Queue) -> bool:
    return isinstance(entity, Queue) and entity.is_temporary


def _source(entity: Entity) -> str | None:
    """The exchange that a binding is from."""
    if isinstance(entity, Binding):
        return name_of(entity.exchange)
    return name_of(entity.source) if isinstance(entity, ExchangeBinding) else None


def _is_exchange(entity: Entity, name: str) -> bool:
    """Whether the entity is this exchange, or a binding from or to it."""
    match entity:
        case Exchange():
            return entity.name == name
        case Binding():
            return name_of(entity.exchange) == name
        case ExchangeBinding():
            return name in (name_of(entity.source), name_of(entity.destination))
    return False


def held_bound(channel: Channel) -> float:
    """Seconds that the broker may hold queues and consumers for a connection of which only we know that it is lost. It
    ends one when two of its checks in a row, a heartbeat's interval apart, have found that nothing came: within three.
    """
    return max(LOCKED_BOUND, 3.0 * life_of(channel).endpoint.protocol.heartbeat + 5.0)


def is_node_down(error: ChannelClosed) -> bool:
    """Whether a queue exists, but its node of the cluster is down: RabbitMQ answers 404 for both."""
    return isinstance(error, NotFound) and "down or inaccessible" in str(error)
