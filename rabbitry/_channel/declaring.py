"""`Declaring`: the operations on exchanges, queues and bindings, each one request and one reply.

What must stay true: a declaration carries what the caller said and nothing else, so that it is equal to the one that
exists already; cancelled, one may have taken effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import anyio

from rabbitry._channel.life import ChannelLife
from rabbitry._errors import NotFound
from rabbitry._values.arguments import as_others_write_them, check_exchange_type, check_queue_arguments, table_of
from rabbitry._values.topology import Entity, Exchange, Queue, in_order, name_of, server_name_of
from rabbitry.protocol.wire import methods

__all__ = ["Declaring", "QueueInfo", "unbind"]


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """What the broker says of a queue: its name, messages ready to be delivered, consumers."""

    name: str
    message_count: int
    consumer_count: int


class Declaring:
    """The base of `Channel` that knows exchanges, queues and bindings."""

    __slots__ = ("_life",)

    def __init__(self, life: ChannelLife) -> None:
        self._life = life

    # --- exchanges -------------------------------------------------------------------------------------------------

    async def declare(self, *entities: Entity) -> None:
        """Declare these values, each of which may exist already as it is: exchanges, then queues, then bindings.

        A temporary queue that the broker has named on this connection already is looked for by that name, and declared
        anew only if it is gone. Raises as `declare_queue`; cancelled or failed, some may have been declared.
        """
        life = self._life.endpoint.opened  # (an object of this connection alone, and small: the queue keeps it)
        for entity in in_order(entities):
            if isinstance(entity, Queue) and (server_name := server_name_of(entity)) is not None:
                async with server_name.lock(life, anyio.Lock):
                    if not (server_name.is_of(life) and await self._is_there(entity)):
                        reply = await self._life.call(entity.declaration())
                        server_name.keep(reply.queue, life)
            else:
                await self._life.call(entity.declaration())

    async def _is_there(self, queue: Queue) -> bool:
        """Whether the broker has the queue, asked on a channel that it may close over the question."""
        look = ChannelLife(self._life.endpoint, confirm=False, prefetch=0)
        try:
            await look.enter()
            await look.call(methods.QueueDeclare(queue=queue.current_name, passive=True))
        except NotFound:
            return False
        finally:
            await look.close()
        return True

    async def declare_exchange(
        self,
        exchange: str,
        type: str = "direct",
        *,
        durable: bool = True,
        auto_delete: bool = False,
        internal: bool = False,
        passive: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Declare an exchange: "direct", "fanout", "topic", "headers" or a plugin's type. `passive` only checks that
        it exists.

        `PreconditionFailed` if it exists otherwise, `NotFound` if passive and missing. Cancelled, it may have been
        declared.
        """
        if not passive:
            check_exchange_type(type)
        await self._life.call(
            methods.ExchangeDeclare(
                exchange=exchange,
                type=type,
                passive=passive,
                durable=durable,
                auto_delete=auto_delete,
                internal=internal,
                arguments=table_of(arguments),
            )
        )

    async def delete_exchange(self, exchange: str | Exchange, *, if_unused: bool = False) -> None:
        """Delete an exchange; one that does not exist is fine. Cancelled, it may have been deleted."""
        await self._life.call(methods.ExchangeDelete(exchange=name_of(exchange, Exchange), if_unused=if_unused))

    async def bind_exchange(
        self,
        destination: str | Exchange,
        source: str | Exchange,
        routing_key: str = "",
        *,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Have `source` pass matching messages on to `destination`. Cancelled, it may have been bound."""
        await self._life.call(
            methods.ExchangeBind(
                destination=name_of(destination, Exchange),
                source=name_of(source, Exchange),
                routing_key=routing_key,
                arguments=table_of(arguments),
            )
        )

    async def unbind_exchange(
        self,
        destination: str | Exchange,
        source: str | Exchange,
        routing_key: str = "",
        *,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Remove a binding between exchanges, as `unbind_queue` does. Cancelled, it may have been removed."""
        await unbind(
            self._life,
            methods.ExchangeUnbind(
                destination=name_of(destination, Exchange),
                source=name_of(source, Exchange),
                routing_key=routing_key,
                arguments=table_of(arguments),
            ),
        )

    # --- queues ----------------------------------------------------------------------------------------------------

    async def declare_queue(
        self,
        queue: str = "",
        *,
        durable: bool = True,
        exclusive: bool = False,
        auto_delete: bool = False,
        passive: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> QueueInfo:
        """Declare a queue; "" has the broker choose a name. `passive` only checks that it exists.

        `PreconditionFailed` if it exists otherwise, `ResourceLocked` if it is another connection's exclusive one,
        `NotFound` if passive and missing. Cancelled, it may have been declared; a server-named one is deleted again.
        """
        table = table_of(arguments)
        if not passive:
            check_queue_arguments(table)
        reply = await self._life.call(
            methods.QueueDeclare(
                queue=queue,
                passive=passive,
                durable=durable,
                exclusive=exclusive,
                auto_delete=auto_delete,
                arguments=table,
            )
        )
        return QueueInfo(reply.queue, reply.message_count, reply.consumer_count)

    async def delete_queue(self, queue: str | Queue, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """Delete a queue (one that does not exist is fine) and return how many messages went with it.

        Cancelled, it may have been deleted.
        """
        reply = await self._life.call(
            methods.QueueDelete(queue=name_of(queue, Queue), if_unused=if_unused, if_empty=if_empty)
        )
        count: int = reply.message_count
        return count

    async def purge_queue(self, queue: str | Queue) -> int:
        """Drop the messages ready in a queue and return how many there were. Cancelled, it may have been purged."""
        reply = await self._life.call(methods.QueuePurge(queue=name_of(queue, Queue)))
        count: int = reply.message_count
        return count

    async def bind_queue(
        self,
        queue: str | Queue,
        exchange: str | Exchange,
        routing_key: str = "",
        *,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Have `exchange` route matching messages to `queue`. Cancelled, it may have been bound."""
        await self._life.call(
            methods.QueueBind(
                queue=name_of(queue, Queue),
                exchange=name_of(exchange, Exchange),
                routing_key=routing_key,
                arguments=table_of(arguments),
            )
        )

    async def unbind_queue(
        self,
        queue: str | Queue,
        exchange: str | Exchange,
        routing_key: str = "",
        *,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Remove a binding of a queue; one that does not exist is fine. Cancelled, it may have been removed.

        To RabbitMQ the size of an integer in `arguments` is part of what the binding is. So one that another client
        made with the same integers is removed, too, where it gave them a size of its own.
        """
        await unbind(
            self._life,
            methods.QueueUnbind(
                queue=name_of(queue, Queue),
                exchange=name_of(exchange, Exchange),
                routing_key=routing_key,
                arguments=table_of(arguments),
            ),
        )


async def unbind(life: ChannelLife, method: methods.QueueUnbind | methods.ExchangeUnbind) -> None:
    """Remove a binding, with its integers in whatever types they were written."""
    await life.call(method)
    for arguments in as_others_write_them(method.arguments):
        fields = {field.name: getattr(method, field.name) for field in method.fields}
        await life.call(type(method)(**{**fields, "arguments": arguments}))
