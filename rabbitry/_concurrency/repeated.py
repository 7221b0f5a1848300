"""`Repeated`: log lines that may come thousands of times a second, of which one a second is written.

What must stay true: the first of its kind is written at once and whole, and each that is written says how many were
left out before it; what is remembered is bounded, whatever the kinds are. Called from one thread or several: a line
more or less is no harm.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable

from rabbitry._concurrency.clock import monotonic

__all__ = ["AGAIN_AFTER", "Repeated"]

logger = logging.getLogger("rabbitry")

AGAIN_AFTER = 1.0
"""Seconds from one line of a kind to the next."""

TRACEBACK_AFTER = 60.0
"""Seconds from one traceback of a kind to the next: the lines between have the error's type and text alone."""

KINDS = 1000
"""How many kinds are remembered. Beyond that, who was first is first again."""


class _Kind:
    __slots__ = ("left_out", "traced_at", "written_at")

    def __init__(self) -> None:
        self.written_at = self.traced_at = float("-inf")
        self.left_out = 0


class Repeated:
    """Writes to the logger "rabbitry"; one object for each place whose lines may repeat. A kind of line is the `name`
    of what it is about, a queue say, and what else must be equal for one line to stand for another.
    """

    __slots__ = ("_kinds",)

    def __init__(self) -> None:
        self._kinds: dict[tuple[Hashable, Hashable], _Kind] = {}

    def log(
        self,
        level: int,
        name: Hashable,
        what: Hashable,
        text: str,
        *args: object,
        error: BaseException | None = None,
    ) -> None:
        """Write the line, unless one of the same kind was written less than a second ago. `error` has its traceback
        written with the first of them, and once a minute.
        """
        kind, now = (name, what), monotonic()
        known = self._kinds.get(kind)
        if known is None:
            if len(self._kinds) >= KINDS:
                self._kinds.pop(list(self._kinds)[0], None)  # noqa: RUF015 - whole, as others may add to it
            known = self._kinds[kind] = _Kind()
        if 0 <= now - known.written_at < AGAIN_AFTER:
            known.left_out += 1
            return
        known.written_at, left_out, known.left_out = now, known.left_out, 0
        if left_out:
            text += " (and %d more like it since the last such line)"
            args = (*args, left_out)
        is_traced = error is not None and not 0 <= now - known.traced_at < TRACEBACK_AFTER
        if is_traced:
            known.traced_at = now
        logger.log(level, text, *args, exc_info=error if is_traced else None)

    def finish(self, level: int, name: Hashable, text: str, *args: object) -> None:
        """There will be no more about `name`: write `text`, to which their number is added, where lines were left out
        since the last that was written.
        """
        kinds = [kind for kind in list(self._kinds) if kind[0] == name]  # a copy, as others may add to it
        left_out = sum(self._kinds.pop(kind, _Kind()).left_out for kind in kinds)
        if left_out:
            logger.log(level, text, *args, left_out)
