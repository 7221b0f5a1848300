"""Whether time is virtual here, and what follows from it. It is on asyncio with a loop of this library's own
(`virtual_asyncio`); trio has a clock for this, `trio.testing.MockClock(autojump_threshold=0)`, which this library
follows (`virtual_trio`).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rabbitry._concurrency.clock import clock
from rabbitry._concurrency.waiting import running_loop
from rabbitry._errors import LocalProtocolError
from rabbitry._later import Later

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = Later("asyncio")

__all__ = ["check_virtual_time", "follow_loop", "is_virtual", "refuse_real_sockets"]


def follow_loop() -> None:
    """Have this thread go by the clock of the event loop that runs in it, where that is virtual.

    `VirtualTimeLoop` sees to it by itself; trio with its `MockClock` does not, and is followed from here to the end of
    its run. To be called where something begins that will ask for the time.
    """
    if "trio.testing" in sys.modules:  # where that clock comes from
        from rabbitry._concurrency.virtual_trio import follow_trio

        follow_trio()


def is_virtual() -> bool:
    """Whether time is virtual on the event loop that runs here."""
    follow_loop()
    return clock().is_virtual


def check_virtual_time() -> None:
    """Raise `LocalProtocolError` where the running event loop's time is real, and say how it becomes virtual."""
    if is_virtual():
        return
    loop = running_loop()
    if loop is None:
        reason = "no event loop runs here"
    elif isinstance(loop, asyncio.AbstractEventLoop):
        kind = type(loop)
        reason = f"the event loop is a {kind.__module__}.{kind.__qualname__}, whose time is the machine's"
        if kind.__module__.partition(".")[0] in ("uvloop", "winloop"):
            reason += " and can't be exchanged"
    else:
        reason = "trio runs with the machine's clock"
    raise LocalProtocolError(
        f"time is not virtual: {reason}. On asyncio use loop_factory=rabbitry.testing.VirtualTimeLoop, on trio "
        "clock=trio.testing.MockClock(autojump_threshold=0) (pytest-trio's fixture autojump_clock)"
    )


def refuse_real_sockets(what: str) -> None:
    """Raise `LocalProtocolError` where time is virtual."""
    if is_virtual():
        raise LocalProtocolError(
            f"{what} needs a real socket, and time is virtual here: it would leap over whatever is on its way. Use the "
            "in-memory ways, broker.connect(), broker.open_client() or dial=broker.dial, or an event loop in real time"
        )
