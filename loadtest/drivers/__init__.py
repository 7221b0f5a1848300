"""The client libraries that can be tested: one table, and a module for each behind `loadtest.drivers.base`.

Nothing else names a driver. A driver's library is imported only when it is asked for: aiormq is no part of the core's
needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType

from loadtest.drivers.base import Driver

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
    client_bytes: int
    """Memory one client takes, with its connection, channel and task: what the preflight reckons with."""


LIBRARIES: Mapping[str, Library] = MappingProxyType(
    {
        "rabbitry": Library(
            module="loadtest.drivers.rabbitry",
            packages=("rabbitry", "anyio"),
            backends=("asyncio", "trio"),
            has_tls=True,
            client_bytes=20_000,
        ),
        "aiormq": Library(
            module="loadtest.drivers.aiormq",
            packages=("aiormq", "pamqp", "anyio"),
            backends=("asyncio",),
            has_tls=False,
            client_bytes=60_000,
        ),
    }
)
BACKENDS = tuple(dict.fromkeys(backend for library in LIBRARIES.values() for backend in library.backends))


class DriverMissing(Exception):
    """The driver's library is not installed."""


def load_driver(name: str) -> Driver:
    """The driver of that name. DriverMissing, with what to install, if its library is not there."""
    try:
        driver: Driver = import_module(LIBRARIES[name].module).DRIVER
    except ModuleNotFoundError as error:
        raise DriverMissing(
            f"--driver {name} needs the package {error.name!r}: pip install 'rabbitry[loadtest]'"
        ) from error
    return driver
