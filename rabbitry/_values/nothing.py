"""`NOTHING`: what is returned by that which needs no waiting, to whoever awaits it all the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["NOTHING"]


class _Nothing:
    """`await delivery.ack()` is a habit from clients whose `ack` is a coroutine, and harmless here; so it is with
    `stop` and the others that are none. Type checkers are told None, so that they say so where somebody awaits it.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "<done: nothing to await>"

    def __await__(self) -> Iterator[None]:
        return _NO_STEPS


_NO_STEPS: Iterator[None] = iter(())

NOTHING: Any = _Nothing()
