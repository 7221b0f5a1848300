"""The client libraries that can be tested, each behind the interface of `loadtest.drivers.base`.

A driver's library is imported only when it is asked for: aiormq is no part of the core's needs.
"""

from __future__ import annotations

from loadtest.drivers.base import Driver


class DriverMissing(Exception):
    """The driver's library is not installed."""


def load_driver(name: str) -> Driver:
    """The driver of that name. DriverMissing, with what to install, if its library is not there."""
    try:
        if name == "aiormq":
            from loadtest.drivers.aiormq import AiormqDriver

            return AiormqDriver()
        from loadtest.drivers.rabbitry import RabbitryDriver

        return RabbitryDriver()
    except ModuleNotFoundError as error:
        raise DriverMissing(
            f"--driver {name} needs the package {error.name!r}: pip install 'rabbitry[loadtest]'"
        ) from error
