"""A broker's memory alarm, on and off. What must stay true: afterwards the limit is what it was before."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

import anyio
import anyio.to_thread

ALMOST_NOTHING = "0.000001"  # of the machine's memory


class Administered(Protocol):
    """What an alarm needs of a node."""

    @property
    def is_running(self) -> bool:
        """Whether the broker runs."""
        ...

    def rabbitmqctl(self, *arguments: str) -> str:
        """Run `rabbitmqctl` against the node, and return what it printed."""
        ...


class MemoryAlarm:
    """`with node.memory_alarm():` or `async with node.memory_alarm():` - the alarm is on in the block.

    Entering and leaving take about a second each and raise NodeError if rabbitmqctl fails. A broker that does not run
    when the block ends needs nothing: its next life has the limit of rabbitmq.conf. Cancelling waits for the step under
    way, and leaving is shielded, so the alarm is never left on.
    """

    def __init__(self, node: Administered) -> None:
        self._node = node
        self._before = ""

    def __enter__(self) -> None:
        self._before = self._node.rabbitmqctl("eval", "vm_memory_monitor:get_vm_memory_high_watermark().").strip()
        try:
            self._node.rabbitmqctl("set_vm_memory_high_watermark", ALMOST_NOTHING)
        except BaseException:
            self._put_back()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._put_back()

    async def __aenter__(self) -> None:
        await anyio.to_thread.run_sync(self.__enter__)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.__exit__, kind, error, traceback)

    def _put_back(self) -> None:
        if self._node.is_running:
            self._node.rabbitmqctl("eval", f"vm_memory_monitor:set_vm_memory_high_watermark({self._before}).")
