"""Chooses the pump for whatever event loop runs the current task. Alone knows all of them."""

from __future__ import annotations

import sys

from rabbitry._transport.contracts import Pump, Turn
from rabbitry._transport.pump import AsyncioPump, TaskPump

__all__ = ["pump_for_backend"]


def pump_for_backend(poller: Turn) -> Pump:
    """The fastest pump here. trio is looked at first: as a guest it runs inside asyncio."""
    if "trio.lowlevel" in sys.modules:
        import trio

        if trio.lowlevel.in_trio_task():
            from rabbitry._transport.pump_trio import TrioPump  # which needs trio, and that is optional

            return TrioPump(poller)
    try:
        return AsyncioPump(poller)
    except RuntimeError:  # no asyncio loop is running
        return TaskPump(poller)
