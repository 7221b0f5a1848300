"""The client libraries that can be tested: one table, and a module for each behind `loadtest.drivers.base`.

Nothing else names a driver. A driver's library is imported only when it is asked for: aiormq is no part of the core's
needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

from loadtest.drivers.base import Driver
from loadtest.drivers.blocking import Connect

EVERYTHING = frozenset(
    {
        "window",  # more than one publish in flight on a channel
        "no-confirm",  # publishing without confirms
        "exchange",  # publishing elsewhere than to the default exchange
        "priorities",
        "headers",
        "ack-every",  # acknowledging several deliveries together
        "auto-ack",
        "requeue",
        "reject",
        "work",  # working on a delivery before it is answered
        "stream",
        "rpc",
    }
)
"""What a driver may be asked for beside publishing with confirms, one at a time, and consuming."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """What is known of a driver's library without importing it."""

    module: str
    """The module that has it as its `DRIVER`."""
    packages: tuple[str, ...]
    """The distributions whose versions belong into the result."""
    backends: tuple[str, ...]
    """The event loops it runs on."""
    has_tls: bool
    """Whether the driver takes amqps:// URLs, with their options."""
    can: frozenset[str] = EVERYTHING
    """Which of these things, asked for by flags, the driver does: `EVERYTHING` has their names."""
    lasting: str | None = None
    """The module that has, as its `DRIVER`, the way in which its connections are outlived, if there is one."""
    client_bytes: int
    """Memory one client takes, with its connection, channel and task: what the preflight reckons with."""
    extra: str = "loadtest"
    """What of rabbitry to install for it."""
    has_threads: bool = False
    """Whether it blocks, so that each client has a thread and a connection of its own."""


ONE_AT_A_TIME = EVERYTHING - {"window"}
"""Of libraries whose publish returns with its confirm."""

LIBRARIES: Mapping[str, Library] = MappingProxyType(
    {
        "rabbitry": Library(
            module="loadtest.drivers.rabbitry",
            lasting="loadtest.drivers.lasting",
            packages=("rabbitry", "anyio"),
            backends=("asyncio", "uvloop", "trio"),
            has_tls=True,
            client_bytes=20_000,
        ),
        "rabbitry-blocking": Library(
            module="loadtest.drivers.rabbitry_blocking",
            packages=("rabbitry", "anyio"),
            backends=("asyncio", "uvloop"),
            has_tls=True,
            client_bytes=350_000,
            has_threads=True,
        ),
        "aiormq": Library(
            module="loadtest.drivers.aiormq",
            packages=("aiormq", "pamqp", "anyio"),
            backends=("asyncio", "uvloop"),
            has_tls=True,
            client_bytes=60_000,
        ),
        "aio-pika": Library(
            module="loadtest.drivers.aio_pika",
            packages=("aio-pika", "aiormq", "pamqp", "anyio"),
            backends=("asyncio", "uvloop"),
            has_tls=True,
            client_bytes=80_000,
            extra="loadtest-drivers",
        ),
        "pika": Library(
            module="loadtest.drivers.pika",
            packages=("pika", "anyio"),
            backends=("asyncio", "uvloop"),
            has_tls=True,
            can=ONE_AT_A_TIME,
            client_bytes=80_000,
            extra="loadtest-drivers",
            has_threads=True,
        ),
        "amqpstorm": Library(
            module="loadtest.drivers.amqpstorm",
            packages=("amqpstorm", "pamqp", "anyio"),
            backends=("asyncio", "uvloop"),
            has_tls=True,
            can=ONE_AT_A_TIME,
            client_bytes=100_000,
            extra="loadtest-drivers",
            has_threads=True,
        ),
    }
)
BACKENDS = tuple(dict.fromkeys(backend for library in LIBRARIES.values() for backend in library.backends))


def load_blocking(name: str) -> Connect:
    """How a library that blocks opens a connection: for those who bring their own threads. DriverMissing as above."""
    load_driver(name)
    connect: Connect = import_module(LIBRARIES[name].module).connect
    return connect


def event_loop(backend: str) -> dict[str, Any]:
    """What `anyio.run` takes for a backend of ours. DriverMissing if its event loop is not installed."""
    if backend != "uvloop":
        return {"backend": backend}
    if find_spec("uvloop") is None:
        raise DriverMissing("--backend uvloop needs the package 'uvloop': pip install uvloop")
    return {"backend": "asyncio", "backend_options": {"use_uvloop": True}}


def describe_libraries() -> list[str]:
    """The table of drivers as lines of text."""
    lines = []
    for name, library in LIBRARIES.items():
        lacks = sorted(EVERYTHING - library.can) + ([] if library.has_tls else ["tls"])
        way = "a thread and a connection for each client" if library.has_threads else "tasks"
        without = f"; not: {', '.join(lacks)}" if lacks else ""
        lines.append(f"{name:<18} {', '.join(library.backends):<22} {way}{without}")
    return lines


class DriverMissing(Exception):
    """The driver's library is not installed."""


def load_driver(name: str, *, is_lasting: bool = False) -> Driver:
    """The driver of that name, or what outlives its connections.

    DriverMissing, with what to install, if its library is not there.
    """
    library = LIBRARIES[name]
    module = library.lasting if is_lasting and library.lasting else library.module
    try:
        driver: Driver = import_module(module).DRIVER
    except ModuleNotFoundError as error:
        extra = LIBRARIES[name].extra
        raise DriverMissing(
            f"--driver {name} needs the package {error.name!r}: in a clone of rabbitry, pip install '.[{extra}]'"
        ) from error
    return driver
