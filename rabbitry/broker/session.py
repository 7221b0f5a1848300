"""One client of the broker: its connection's events to its channels, their refusals to closes, over any transport.

What must stay true: whatever a client does ends its connection at most; what belongs to it (channels, exclusive queues)
goes with it, however it ends. Everything here is synchronous.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from math import inf

from rabbitry._concurrency.clock import monotonic
from rabbitry._errors import RemoteProtocolError
from rabbitry._transport import Transport
from rabbitry.broker.backlog import Backlog
from rabbitry.broker.channel import Channel
from rabbitry.broker.faults import FrameCut
from rabbitry.broker.peer import ROOM, Peer
from rabbitry.broker.users import User
from rabbitry.broker.world import World
from rabbitry.protocol.server.connection import ServerConnection, State
from rabbitry.protocol.server.events import Closing, Command, Ended, Event, Login, Opening
from rabbitry.protocol.server.handshake import MECHANISMS
from rabbitry.protocol.server.refusals import Refusal
from rabbitry.protocol.wire import methods

__all__ = ["Session"]

logger: logging.Logger = logging.getLogger("rabbitry")

LOOK_SECONDS = 0.02
"""How often it is looked whether the last words have left."""
LINGER_SECONDS = 5.0
"""How long the last words may take to leave."""
SELDOM_SECONDS = 30.0
"""How often a connection without heartbeats is looked at."""
GOODBYE_SECONDS = 30.0
"""How long a client that has closed its connection may take to close the socket."""


class Session:
    """What a transport calls (see `_transport.contracts.Endpoint`)."""

    __slots__ = (
        "_backlog",
        "_beats_at",
        "_certificate",
        "_channels",
        "_connection",
        "_cut",
        "_is_blocked",
        "_is_by_client",
        "_is_stalled",
        "_looks_at",
        "_on_end",
        "_patience",
        "_peer",
        "_user",
        "_world",
        "transport",
    )

    awaiting = 0

    def __init__(
        self,
        world: World,
        on_end: Callable[[Session], None],
        *,
        is_tls: bool = False,
        certificate: str | None = None,
    ) -> None:
        """`certificate` is whom the client's certificate names, if it has one."""
        self._world = world
        self._on_end = on_end
        self._certificate = certificate
        self._connection = ServerConnection(
            properties=world.properties,
            unknown_protocol=world.compat.unknown_protocol,
            mechanisms=(*MECHANISMS, "EXTERNAL") if is_tls else MECHANISMS,
        )
        self._channels: dict[int, Channel] = {}
        self._user: User | None = None
        self._peer: Peer | None = None
        self._is_by_client = False
        self._patience = 0.0  # until when an ended connection's transport is kept
        self._beats_at = -inf  # when the connection's own timer is due
        self._looks_at = inf  # when channels are looked at for deliveries that are held too long
        self._backlog = Backlog()  # nothing is read while it holds something
        self._is_blocked = False  # by an alarm
        self._is_stalled = False  # by command
        self._cut: FrameCut | None = None
        self.transport: Transport | None = None
        world.clients[self] = None

    # --- what the transport calls ----------------------------------------------------------------------------------

    def receive_data(self, data: bytes, now: float) -> None:
        """Everything that a chunk sets off."""
        if self._cut is not None:
            data = self._cut.take(data)
        if self._backlog.is_holding:
            self._backlog.add(data)
        else:
            self._go_through(self._connection.receive_data(data), now)
        self._world.take_in(len(data), now)
        if self._cut is not None and self._cut.is_over:
            self.drop()

    def data_to_send(self) -> bytes:
        """What is queued. There is room again, for what waits in queues."""
        data = self._connection.data_to_send()
        transport, peer = self.transport, self._peer
        if self._backlog.is_holding and transport is not None:
            transport.start_timer(monotonic())
        if peer is not None and peer.was_full:
            peer.was_full = False
            now = monotonic()
            for channel in self._channels.values():
                channel.go_on(now)
        return data

    def handle_timer(self, now: float) -> float | None:
        """Heartbeats, clients that have gone silent, deliveries that are held too long, and what was put off."""
        self._go_on(now)
        transport, connection = self.transport, self._connection
        if connection.is_over and transport is not None and now < self._patience:
            if self._is_by_client:
                return self._patience
            if connection.out_size or transport.is_stalled:
                return now + LOOK_SECONDS
        if connection.is_over:
            self.drop()
            return None
        if now >= self._beats_at:
            if self._is_blocked or self._is_stalled:
                connection.forgive_silence()
            following, is_over = connection.handle_timer(now)
            if is_over:
                self.drop()
                return None
            self._beats_at = inf if following is None else following
        if now >= self._looks_at:
            self._look_at_channels(now)
        self._wake()
        return min(self._beats_at, self._looks_at)

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone."""
        self._finish()

    # --- what is asked of it ---------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """What the client calls its connection; empty if it does not."""
        name = self._connection.client_properties.get("connection_name")
        return name if isinstance(name, str) else ""

    @property
    def is_open(self) -> bool:
        """Whether its handshake is over, and its end has not begun."""
        return self._peer is not None

    @property
    def user(self) -> str:
        """Who it is; empty before it has said so."""
        return "" if self._user is None else self._user.name

    @property
    def virtual_host(self) -> str:
        """Where it is; empty before it has said so."""
        return "" if self._peer is None else self._peer.vhost.name

    @property
    def is_blocked(self) -> bool:
        """Whether it has published while there was an alarm, and now waits."""
        return self._is_blocked

    @property
    def channels(self) -> dict[int, Channel]:
        """Its channels by their numbers. Not to be changed."""
        return self._channels

    @property
    def held_octets(self) -> int:
        """Messages that were delivered and are not settled, and what waits to be sent."""
        held = sum(each.entry.message.octets for channel in self._channels.values() for each in channel.held)
        return held + self._connection.out_size

    def drop(self) -> None:
        """End it now, without a word."""
        if self.transport is not None:
            self.transport.abort()
        self._finish()

    def cut_after(self, frames: int) -> None:
        """End it without a word once so many more frames of the client's have been dealt with."""
        if self._cut is None:
            self._cut = FrameCut(frames, begun=self._connection.unfinished)
        else:
            self._cut.begin_again(frames)
        if self._cut.is_over:
            self.drop()

    def stall(self) -> None:
        """Read nothing more, until `resume`. Heartbeats go on, and the client's silence is forgiven."""
        self._is_stalled = True
        if not self._backlog.is_holding:
            self._hold(iter(()))

    def resume(self, now: float) -> None:
        """Read again."""
        self._is_stalled = False
        self._go_on(now)

    def unblock(self, now: float) -> None:
        """There is no alarm any more."""
        if self._is_blocked:
            self._is_blocked = False
            if self._connection.has_capability("connection.blocked"):
                self._connection.send(0, methods.ConnectionUnblocked())
            self._go_on(now)
            self._wake()

    def close(self, code: int, text: str, now: float) -> None:
        """Close the connection for a reason of the broker's own."""
        self._connection.close(code, text)
        self._release(now)
        self._wake()

    def close_channel(self, number: int, code: int, text: str, now: float) -> None:
        """Close a channel, or the connection where the code means that, for a reason of the broker's own."""
        self._refuse_channel(number, Refusal(code, text, (0, 0)), (0, 0), now)
        self._wake()

    # --- within ----------------------------------------------------------------------------------------------------

    def start(self, transport: Transport, now: float) -> None:
        """The client is there; it has to say something within the time of a handshake."""
        self.transport = transport
        following, _ = self._connection.handle_timer(now)
        if following is not None:
            self._beats_at = following
            transport.start_timer(following)

    def _go_through(self, events: Iterable[Event], now: float) -> None:
        """Deal with one after the other, until the client has to wait."""
        connection, events = self._connection, iter(events)
        for event in events:
            if self._world.alarms and type(event) is Command and type(event.method) is methods.BasicPublish:
                self._block()
                self._hold(chain((event,), events))
                break
            try:
                self._take(event, now)
            except Refusal as refusal:
                self._refuse(event, refusal, now)
            except RemoteProtocolError:  # properties that are none, over which RabbitMQ stumbles
                self._refuse(event, Refusal(541, "", (0, 0)), now)
            except Exception:
                logger.exception("the embedded broker failed at %r", event)
                self._refuse(event, Refusal(541, "the embedded broker failed"), now)
            if connection.out_size > 2 * ROOM and not connection.is_over:
                self._hold(events)
                break
        for channel in self._channels.values():
            channel.flush_confirms()
        self._wake()

    def _hold(self, events: Iterator[Event]) -> None:
        self._backlog.hold(events)
        if self.transport is not None:
            self.transport.pause_reading()

    def _go_on(self, now: float) -> None:
        """Deal with what was put off, if there is no reason any more."""
        if not self._backlog.is_holding or self._is_stalled or self._is_blocked or self._connection.out_size > ROOM:
            return
        events = self._backlog.take(self._connection.receive_data)
        if self.transport is not None:
            self.transport.resume_reading()
        self._go_through(events, now)

    def _block(self) -> None:
        """An alarm is up: the client is told once, and nothing more is read of it."""
        self._is_blocked = True
        if self._connection.has_capability("connection.blocked"):
            reason = f"low on {' & '.join(self._world.alarms)}"
            self._connection.send(0, methods.ConnectionBlocked(reason=reason))

    def _watch(self, when: float) -> None:
        if when < self._looks_at:
            self._looks_at = when
            if self.transport is not None:
                self.transport.start_timer(when)

    def _look_at_channels(self, now: float) -> None:
        self._looks_at = inf
        for number, channel in list(self._channels.items()):
            try:
                following = channel.look_at_time(now)
            except Refusal as refusal:
                self._refuse_channel(number, refusal, (0, 0), now)
            else:
                self._looks_at = min(self._looks_at, inf if following is None else following)

    def _wake(self) -> None:
        transport = self.transport
        if transport is not None and not transport.scheduled and self._connection.out_size:
            transport.send_later()

    def _take(self, event: Event, now: float) -> None:
        match event:
            case Command():
                self._command(event, now)
            case Login():
                self._user = self._world.login(event.mechanism, event.response, self._certificate)
                self._connection.accept_login()
            case Opening():
                assert self._user is not None
                vhost = self._world.enter(event.virtual_host, self._user)
                self._peer = Peer(self._connection, self._user, vhost, self._world, wake=self._wake, watch=self._watch)
                self._connection.accept_virtual_host()
                self._beats_at = now + (self._connection.heartbeat / 2 or SELDOM_SECONDS)
                if self.transport is not None:
                    self.transport.start_timer(self._beats_at)
            case Closing():
                self._release(now)
            case Ended(is_by_client):
                self._release(now)
                self._end(now, is_by_client)

    def _command(self, command: Command, now: float) -> None:
        channel = self._channels.get(command.number)
        if channel is not None:
            if type(command.method) is methods.ChannelClose:
                channel.flush_confirms()
                del self._channels[command.number]
                channel.release(now)
            else:
                channel.handle(command, now)
        elif type(command.method) is methods.ChannelOpen:
            assert self._peer is not None
            self._channels[command.number] = Channel(command.number, self._peer)
        elif type(command.method) is methods.ConnectionUpdateSecret:
            self._connection.send(0, methods.ConnectionUpdateSecretOk())

    def _refuse(self, event: Event, refusal: Refusal, now: float) -> None:
        connection = self._connection
        if isinstance(event, Login):
            connection.refuse_login(refusal)
            return
        if isinstance(event, Opening):
            connection.refuse(0, refusal, event.ids)
            return
        number, ids = 0, (0, 0)
        if isinstance(event, Command):
            number, ids = event.number, (event.method.class_id, event.method.method_id)
        self._refuse_channel(number, refusal, ids, now)

    def _refuse_channel(self, number: int, refusal: Refusal, ids: tuple[int, int], now: float) -> None:
        """Close the channel, or the connection."""
        connection, channel = self._connection, self._channels.get(number)
        connection.refuse(number, refusal, ids)  # what came just ahead is not confirmed any more, as in RabbitMQ
        if channel is not None:  # it goes ahead of others, also where it is the connection that ends over it
            del self._channels[number]
            channel.release(now)
        if connection.state is not State.OPEN:
            self._release(now)

    def _release(self, now: float) -> None:
        """What belongs to the connection goes."""
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.release(now)
        peer, self._peer = self._peer, None
        if peer is not None:
            for queue in [queue for queue in peer.vhost.queues.values() if queue.owner is peer]:
                peer.vhost.delete_owned(queue, now)

    def _end(self, now: float, is_by_client: bool) -> None:
        """Close the transport once everything has left; a client that has said goodbye closes it itself."""
        self._is_by_client = is_by_client
        self._patience = now + (GOODBYE_SECONDS if is_by_client else LINGER_SECONDS)
        if self.transport is not None:
            self.transport.start_timer(self._patience if is_by_client else now + LOOK_SECONDS)

    def _finish(self) -> None:
        self._backlog.clear()
        self._world.clients.pop(self, None)
        self._release(monotonic())
        self._on_end(self)
