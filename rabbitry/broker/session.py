"""One client of the broker: its connection's events to its channels, their refusals to closes, over any transport.

What must stay true: whatever a client does ends its connection at most; what belongs to it (channels, exclusive queues)
goes with it, however it ends. Everything here is synchronous.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from rabbitry._concurrency.clock import monotonic
from rabbitry._errors import RemoteProtocolError
from rabbitry._transport import Transport
from rabbitry.broker.channel import Channel
from rabbitry.broker.peer import ROOM, Peer
from rabbitry.broker.users import User
from rabbitry.broker.world import World
from rabbitry.protocol.server.connection import ServerConnection, State
from rabbitry.protocol.server.events import Closing, Command, Ended, Event, Login, Opening
from rabbitry.protocol.server.refusals import Refusal
from rabbitry.protocol.wire import methods

__all__ = ["Session"]

logger = logging.getLogger("rabbitry")

LOOK_SECONDS = 0.02
"""How often it is looked whether the last words have left."""
LINGER_SECONDS = 5.0
"""How long the last words may take to leave."""
GOODBYE_SECONDS = 30.0
"""How long a client that has closed its connection may take to close the socket."""


class Session:
    """What a transport calls (see `_transport.contracts.Endpoint`)."""

    __slots__ = (
        "_channels",
        "_connection",
        "_is_by_client",
        "_on_end",
        "_patience",
        "_peer",
        "_user",
        "_world",
        "transport",
    )

    awaiting = 0

    def __init__(self, world: World, on_end: Callable[[Session], None]) -> None:
        self._world = world
        self._on_end = on_end
        self._connection = ServerConnection(properties=world.properties, unknown_protocol=world.compat.unknown_protocol)
        self._channels: dict[int, Channel] = {}
        self._user: User | None = None
        self._peer: Peer | None = None
        self._is_by_client = False
        self._patience = 0.0  # until when an ended connection's transport is kept
        self.transport: Transport | None = None

    # --- what the transport calls ----------------------------------------------------------------------------------

    def receive_data(self, data: bytes, now: float) -> None:
        """Everything that a chunk sets off."""
        connection = self._connection
        for event in connection.receive_data(data):
            try:
                self._take(event, now)
            except Refusal as refusal:
                self._refuse(event, refusal, now)
            except RemoteProtocolError:  # properties that are none, over which RabbitMQ stumbles
                self._refuse(event, Refusal(541, "", (0, 0)), now)
            except Exception:
                logger.exception("the embedded broker failed at %r", event)
                self._refuse(event, Refusal(541, "the embedded broker failed"), now)
        for channel in self._channels.values():
            channel.flush_confirms()
        self._wake()
        if connection.out_size > 2 * ROOM and self.transport is not None:
            self.transport.pause_reading()

    def data_to_send(self) -> bytes:
        """What is queued. There is room again, for what waits in queues."""
        data = self._connection.data_to_send()
        transport, peer = self.transport, self._peer
        if transport is not None and transport.is_reading_paused:
            transport.resume_reading()
        if peer is not None and peer.was_full:
            peer.was_full = False
            now = monotonic()
            for channel in self._channels.values():
                channel.go_on(now)
        return data

    def handle_timer(self, now: float) -> float | None:
        """Heartbeats, and clients that have gone silent."""
        transport, connection = self.transport, self._connection
        if connection.is_over and transport is not None and now < self._patience:
            if self._is_by_client:
                return self._patience
            if connection.out_size or transport.is_stalled:
                return now + LOOK_SECONDS
        following, is_over = connection.handle_timer(now)
        if is_over or connection.is_over:
            if transport is not None:
                transport.abort()
            self._finish()
            return None
        self._wake()
        return following

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone."""
        self._finish()

    # --- within ----------------------------------------------------------------------------------------------------

    def start(self, transport: Transport, now: float) -> None:
        """The client is there; it has to say something within the time of a handshake."""
        self.transport = transport
        following, _ = self._connection.handle_timer(now)
        if following is not None:
            transport.start_timer(following)

    def close(self, code: int, text: str) -> None:
        """Close the connection for a reason of the broker's own."""
        self._connection.close(code, text)
        self._release(monotonic())
        self._wake()

    def _wake(self) -> None:
        transport = self.transport
        if transport is not None and not transport.scheduled and self._connection.out_size:
            transport.send_later()

    def _take(self, event: Event, now: float) -> None:
        match event:
            case Command():
                self._command(event, now)
            case Login():
                self._user = self._world.login(event.mechanism, event.response)
                self._connection.accept_login()
            case Opening():
                assert self._user is not None
                vhost = self._world.enter(event.virtual_host, self._user)
                self._peer = Peer(self._connection, self._user, vhost, self._world.compat, self._wake)
                self._connection.accept_virtual_host()
                if self.transport is not None and self._connection.heartbeat:
                    self.transport.start_timer(now + self._connection.heartbeat / 2)
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
        channel = self._channels.get(number)
        connection.refuse(number, refusal, ids)  # what came just ahead is not confirmed any more, as in RabbitMQ
        if connection.state is not State.OPEN:
            self._release(now)
        elif channel is not None:
            del self._channels[number]
            channel.release(now)

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
        self._release(monotonic())
        self._on_end(self)
