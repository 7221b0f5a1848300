"""The side that answers: a broker's end of a connection as a state machine over the octets of `wire`. Provisional.

connection = ServerConnection(properties={})
for event in connection.receive_data(sock.recv(65536)):  # never raises; act on each before the next is asked for
    ...                                                  # `accept_login`, `accept_virtual_host`, `send`, `refuse`
sock.sendall(connection.data_to_send())
"""

from __future__ import annotations

from rabbitry.protocol.server.connection import ServerConnection, State
from rabbitry.protocol.server.events import Closing, Command, Ended, Event, Login, Opening
from rabbitry.protocol.server.refusals import Refusal

__all__ = ["Closing", "Command", "Ended", "Event", "Login", "Opening", "Refusal", "ServerConnection", "State"]
