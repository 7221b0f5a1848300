"""The pump for trio, on trio's own primitives. Imported only when trio runs: it is an optional dependency."""

from __future__ import annotations

import trio
from trio.lowlevel import Abort

from rabbitry._transport.contracts import Turn
from rabbitry._transport.pump import TaskPump
from rabbitry._transport.socket import SocketTransport

__all__ = ["TrioPump"]

# Ctrl-C is for the program's main task. Raised here, it would end the pump before connections could close, or lose the
# rest of a message that the kernel took in part.
for function in (TaskPump.reading, TaskPump.flushing, TaskPump.keeping_time, SocketTransport.send_queued):
    trio.lowlevel.enable_ki_protection(function)


class TrioPump(TaskPump):
    """A task that waits for the selector, one that flushes, one that keeps time."""

    def __init__(self, poller: Turn) -> None:
        super().__init__(poller)
        self._parked_task: trio.lowlevel.Task | None = None

    def wake(self) -> None:
        if self._parked_task is not None and not self._spins:
            trio.lowlevel.reschedule(self._parked_task)
            self._parked_task = None

    async def wait_readable(self, descriptor: int) -> None:
        await trio.lowlevel.wait_readable(descriptor)

    async def end_of_turn(self) -> None:
        await trio.lowlevel.checkpoint()

    async def park(self) -> None:
        def abort(_: object) -> Abort:
            self._parked_task = None
            return Abort.SUCCEEDED

        self._parked_task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)
