"""Users, and what each may do in a virtual host: RabbitMQ's three patterns, for names of entities."""

from __future__ import annotations

import re
from collections.abc import Mapping
from hmac import compare_digest
from typing import Literal, NamedTuple, TypeAlias

from rabbitry.broker.compat import Compat
from rabbitry.protocol.server.refusals import Refusal

__all__ = ["Access", "Permissions", "User"]

Access: TypeAlias = Literal["configure", "write", "read"]


class Permissions(NamedTuple):
    """Regular expressions; a name is permitted where one is found in it."""

    configure: str
    write: str
    read: str


class User:
    """A user, its password hidden, and its permissions by virtual host."""

    __slots__ = ("_password", "name", "permissions")

    def __init__(self, name: str, password: str) -> None:
        self.name: str = name
        self._password = password.encode()
        self.permissions: dict[str, Permissions] = {}

    def __repr__(self) -> str:
        return f"User({self.name!r})"

    def has_password(self, password: bytes) -> bool:
        """Whether this is its password."""
        return compare_digest(self._password, password)

    def check(self, access: Access, kind: str, name: str, virtual_host: str, compat: Compat) -> None:
        """Raise the `Refusal` of access to what it may not use."""
        permissions = self.permissions.get(virtual_host)
        # RabbitMQ has the default exchange checked as amq.default
        asked = name if name or kind != "exchange" else "amq.default"
        if permissions is not None:
            pattern: str = getattr(permissions, access)
            # an empty pattern permits nothing, RabbitMQ's reading of it
            if re.search(pattern or "^$", asked):
                return
        what = f"{access} access to" if compat.names_access else "access to"
        text = f"{what} {kind} '{asked}' in vhost '{virtual_host}' refused for user '{self.name}'"
        raise Refusal(403, text)


Users: TypeAlias = Mapping[str, User]
