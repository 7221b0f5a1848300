"""What a channel publishes: checked in RabbitMQ's order, routed, returned where nobody gets it, and confirmed.

What must stay true: a message is published wholly or refused (`Refusal`) with nothing changed; a return goes ahead of
its confirm. Queues the answers, sends nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

from rabbitry.broker.arguments import not_here
from rabbitry.broker.exchanges import Exchange
from rabbitry.broker.messages import Message, checked_expiration, message_facts, published_message
from rabbitry.broker.peer import Peer
from rabbitry.broker.queues import Queue
from rabbitry.broker.replies import REPLY_PREFIX, REPLY_TO
from rabbitry.protocol.server.events import Command
from rabbitry.protocol.server.refusals import Refusal
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.properties import decode_properties, encode_properties

__all__ = ["Publishing"]

_NOTHING = nullcontext()


class Publishing:
    """The publisher's side of one channel. Full quorum queues know it again."""

    __slots__ = ("__weakref__", "_confirmed", "_met", "_number", "_peer", "_published", "_writable", "is_confirmed")

    def __init__(self, number: int, peer: Peer) -> None:
        self._number = number
        self._peer = peer
        self.is_confirmed: bool = False
        """Whether what is published is confirmed."""
        self._published = 0
        self._confirmed: list[tuple[int, bool]] = []
        self._writable: set[str] = set()  # exchanges this user may write to
        self._met: dict[Queue, None] = {}  # queues to which the channel's end means something

    def release(self, now: float) -> None:
        """The channel is over."""
        for queue in self._met:
            queue.go_on(now)

    def check(self, command: Command, reply_address: str) -> tuple[Exchange, Message]:
        """The message of a publish, and the exchange that it is for; `reply_address` is where this channel gets
        replies, if it does. Raises `Refusal`."""
        method: methods.BasicPublish = command.method  # type: ignore[assignment]
        peer = self._peer
        vhost = peer.vhost
        if method.immediate:
            raise Refusal(540, "immediate=true")
        if command.excess:
            most = peer.connection.max_message_size
            raise Refusal(406, f"message size {command.excess} is larger than configured max size {most}")
        name = method.exchange
        if name not in self._writable:
            peer.check("write", "exchange", name)
            self._writable.add(name)
        exchange = vhost.exchange(name)
        if exchange.internal:
            raise Refusal(403, f"cannot publish to internal {vhost.called('exchange', name)}")
        properties = command.properties
        facts = message_facts(properties)
        if facts.reply_to == REPLY_TO:
            properties = _with_reply_to(properties, reply_address)
            facts = message_facts(properties)
        if facts.user_id is not None and peer.compat.checks_user_id_first:
            self._check_user_id(facts.user_id)
        if facts.expiration is not None:
            checked_expiration(facts.expiration)
        if facts.user_id is not None:
            self._check_user_id(facts.user_id)
        return exchange, published_message(name, method.routing_key, properties, command.body, facts)

    def _check_user_id(self, user_id: str) -> None:
        name = self._peer.user.name
        if user_id != name:
            raise Refusal(406, f"user_id property set to '{user_id}' but authenticated user was '{name}'")

    def publish(
        self,
        exchange: Exchange,
        message: Message,
        mandatory: bool,
        now: float,
        queues: Sequence[Queue] | None = None,
    ) -> bool:
        """Route a message that is checked, if it has not been: to `queues`. Whether all of them have taken it."""
        tag = 0
        if self.is_confirmed:
            tag = self._published = self._published + 1
        peer = self._peer
        vhost, world = peer.vhost, peer.world
        if queues is None:
            queues = vhost.route(exchange, message)
        if world.faults.is_armed:
            if tag and world.faults.take_nack():
                self._confirmed.append((tag, False))
                return False
            if mandatory and world.faults.take_return():
                queues = ()
        is_prioritised = message.facts.priority is not None and peer.compat.quorum_priorities
        if is_prioritised and any(queue.is_quorum for queue in queues):
            raise not_here("priorities of quorum queues are")
        if not exchange.name and message.routing_keys[0].startswith(REPLY_PREFIX):
            mandatory = self._reply(message, mandatory)
        if not queues and mandatory:
            self._return(message)
        if world.history.most:
            world.history.add(message, peer.user.name, vhost.name, queues)
        with vhost.burials.behind(now) if len(queues) > 1 else _NOTHING:
            accepted = True
            for queue in queues:
                accepted = queue.publish(message, now, self) and accepted
                if queue.consumers.may_stall:
                    self._met[queue] = None
        if tag:
            self._confirmed.append((tag, accepted))
        return accepted

    def _reply(self, message: Message, mandatory: bool) -> bool:
        """Give a reply to who called. Whether it is still mandatory that somebody gets it."""
        replies, address = self._peer.vhost.replies, message.routing_keys[0]
        caller = replies.find(address)
        if caller is not None:
            caller.deliver_reply(message)
        elif replies.stumbles_over(address):
            raise Refusal(541, "", (0, 0))
        return mandatory and not (self._peer.compat.replies_are_routed and replies.has_made(address))

    def _return(self, message: Message) -> None:
        method = methods.BasicReturn(
            reply_code=312, reply_text="NO_ROUTE", exchange=message.exchange, routing_key=message.routing_keys[0]
        )
        self._peer.connection.send_content(self._number, method.encode(), message.properties, message.body)

    def flush_confirms(self) -> None:
        """Confirm what was published since the last time: runs of the same answer in one frame."""
        confirmed, self._confirmed = self._confirmed, []
        for index, (tag, accepted) in enumerate(confirmed):
            if index + 1 < len(confirmed) and confirmed[index + 1][1] is accepted:
                continue
            run = index
            while run and confirmed[run - 1][1] is accepted:
                run -= 1
            multiple = run < index
            if accepted:
                self._peer.connection.send(self._number, methods.BasicAck(delivery_tag=tag, multiple=multiple))
            else:
                nack = methods.BasicNack(delivery_tag=tag, multiple=multiple, requeue=False)
                self._peer.connection.send(self._number, nack)


def _with_reply_to(properties: bytes, address: str) -> bytes:
    if not address:
        raise Refusal(406, "fast reply consumer does not exist")
    decoded = decode_properties(properties)
    decoded.reply_to = address
    return encode_properties(decoded)
