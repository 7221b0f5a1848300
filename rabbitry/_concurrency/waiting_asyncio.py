"""A signal on asyncio that tells of a cancellation. Imported only when asyncio runs: to import that takes a while."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

__all__ = ["TellingSignal"]


class TellingSignal(asyncio.Future[None]):
    """Cancelling a task cancels, in that very call, the future that it awaits; and AnyIO's scopes cancel their waiting
    tasks as `Task.cancel` does, before their `cancel` returns.
    """

    def __init__(self, on_cancel: Callable[[], None]) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self._on_cancel = on_cancel

    def cancel(self, msg: Any = None) -> bool:
        """Tell of it, and cancel."""
        self._on_cancel()
        return super().cancel(msg)

    def set(self) -> None:
        """Wake who waits."""
        if not self.done():
            self.set_result(None)

    def wait(self) -> asyncio.Future[None]:
        """What to await."""
        return self
