"""From a host's name to its addresses, and from an address to what messages call it.

Names are resolved by AnyIO, in a thread, and literal addresses by nobody. What leaves is an OSError of the class that
fits; what connecting means is the caller's.
"""

from __future__ import annotations

import os
import socket
import threading
from itertools import chain, zip_longest
from typing import Any

import anyio

Address = tuple[str, int] | tuple[str, int, int, int]  # IPv6 adds flow info and scope id


async def resolve(host: str, port: int) -> list[Address]:
    """The addresses of `host`, each once, in the resolver's order but with the families taking turns (RFC 8305,
    section 4): where one family leads nowhere, the other's turn comes second. `socket.gaierror` if there is none.
    """
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        return [(host, port)]
    try:
        found = await _look_up(host, port)
    except socket.gaierror as error:
        raise socket.gaierror(error.errno, f"{host}: {error.strerror}") from error
    except UnicodeError as error:  # from the IDNA codec
        raise socket.gaierror(socket.EAI_NONAME, f"{host}: not a host name: {error}") from error
    if not found:
        raise socket.gaierror(socket.EAI_NONAME, f"{host}: no address")
    addresses: list[Address] = list(dict.fromkeys(entry[4] for entry in found))
    first = [each for each in addresses if (":" in each[0]) == (":" in addresses[0][0])]
    others = [each for each in addresses if each not in first]
    return [each for each in chain.from_iterable(zip_longest(first, others)) if each is not None]


async def _look_up(host: str, port: int) -> list[Any]:
    # Without a thread for it, better block this one than leave the caller without its last words: in `atexit` none is
    # to be had, and asyncio, asked for one, can't even close its loop then (Python 3.12).
    if threading.main_thread().is_alive():
        try:
            return await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except RuntimeError:  # there are too many threads
            pass
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


def peer_name(address: str | tuple[str | int, ...]) -> str:
    """For messages: `127.0.0.1:5672`, `[::1]:5672`, or the path of a Unix socket."""
    if isinstance(address, str):
        return address
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"


def os_error(code: int, peer: str) -> OSError:
    """The OSError, of the subclass that fits the code, that says what failed with whom."""
    return OSError(code, f"{peer}: {os.strerror(code)}")
