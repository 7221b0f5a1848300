"""From a host's name to the one of its addresses that answers.

Names are resolved by AnyIO, in a thread, and literal addresses by nobody. What leaves is an OSError of the class that
fits, saying which address failed and how; what connecting means is the caller's.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Awaitable, Callable
from math import inf
from typing import TypeVar

import anyio

ADDRESS_SECONDS = 5.0  # for each address of a name but the last: one that swallows packets leaves time for the next

Result = TypeVar("Result")
Address = tuple[str, int] | tuple[str, int, int, int]  # IPv6 adds flow info and scope id


async def first_to_answer(host: str, port: int, connect: Callable[[int, Address, str], Awaitable[Result]]) -> Result:
    """What `connect(family, address, peer)` gives for the first address, in the resolver's order, for which it works.

    Raises OSError, of the class that fits the last failure and naming every address tried.
    """
    addresses = await _resolve(host, port)
    errors: list[OSError] = []
    for family, address in addresses:
        limit = ADDRESS_SECONDS if len(errors) + 1 < len(addresses) else inf
        peer = peer_name(address)
        with anyio.move_on_after(limit):
            try:
                return await connect(family, address, peer)
            except OSError as error:
                errors.append(error)
                continue
        errors.append(os_error(errno.ETIMEDOUT, peer))
    if len(errors) == 1:
        raise errors[0]
    raise OSError(errors[-1].errno, "; ".join(str(error.strerror) for error in errors))


async def _resolve(host: str, port: int) -> list[tuple[int, Address]]:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        return [(family, (host, port))]
    try:
        found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise socket.gaierror(error.errno, f"{host}: {error.strerror}") from error
    except UnicodeError as error:  # from the IDNA codec
        raise socket.gaierror(socket.EAI_NONAME, f"{host}: not a host name: {error}") from error
    return [(family, address) for family, _, _, _, address in found]


def peer_name(address: str | tuple[str | int, ...]) -> str:
    """For messages: `127.0.0.1:5672`, `[::1]:5672`, or the path of a Unix socket."""
    if isinstance(address, str):
        return address
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"


def os_error(code: int, peer: str) -> OSError:
    """The OSError, of the subclass that fits the code, that says what failed with whom."""
    return OSError(code, f"{peer}: {os.strerror(code)}")
