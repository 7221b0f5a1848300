"""What `ServerConnection.receive_data` tells: a login to judge, a virtual host to open, commands, the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from rabbitry.protocol.wire.methods import Method

__all__ = ["Closing", "Command", "Ended", "Event", "Login", "Opening"]


class Login:
    """Who the client says it is. Answer by `accept_login` or `refuse_login`."""

    __slots__ = ("client_properties", "mechanism", "response")

    def __init__(self, mechanism: str, response: bytes, client_properties: Mapping[str, Any]) -> None:
        self.mechanism: str = mechanism
        self.response: bytes = response
        self.client_properties: Mapping[str, Any] = client_properties

    def __repr__(self) -> str:
        return f"Login({self.mechanism!r}, ...)"  # what is left out may be a password


class Opening(NamedTuple):
    """The client enters a virtual host. Answer by `accept_virtual_host`, or `refuse` it on channel 0."""

    virtual_host: str
    ids: tuple[int, int]


class Command:
    """A whole method on a channel, its content with it. `excess` is the size of a body that is too large, and dropped.

    channel.open comes once it is answered; channel.close before it is. connection.update-secret comes as one, too, on
    channel 0.
    """

    __slots__ = ("body", "excess", "method", "number", "properties")

    def __init__(
        self, number: int, method: Method, properties: bytes = b"", body: bytes = b"", excess: int = 0
    ) -> None:
        self.number: int = number
        self.method: Method = method
        self.properties: bytes = properties
        self.body: bytes = body
        self.excess: int = excess


class Closing(NamedTuple):
    """The connection is ending, by either side: its channels are gone. What has been sent may still have to leave."""


class Ended(NamedTuple):
    """Nothing more will be read: the transport can close once what is queued has left. A client that `is_by_client`
    asked for it expects to close the transport itself.
    """

    is_by_client: bool = False


Event: TypeAlias = Login | Opening | Command | Closing | Ended
