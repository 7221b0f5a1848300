"""Which publishes of a channel still wait for their confirm.

What must stay true: tags rise by one with each publish, in step with the broker's own count; each is settled once; a
`multiple` confirm settles all up to its tag; what is sent along to know a message by tells nobody how many there were.
Pure bookkeeping: it knows no frames.
"""

from __future__ import annotations

from os import urandom
from typing import Any

__all__ = ["PublishTags"]


class PublishTags:
    """The tokens of unconfirmed publishes by tag, oldest first."""

    __slots__ = ("_marked", "_oldest", "_together", "following", "pending", "singles")

    def __init__(self) -> None:
        self.following: int = 1
        self._oldest = 1  # every tag below is settled; it only rises, so a `multiple` looks at each tag once
        self.pending: dict[int, Any] = {}
        self.singles: int = 0  # confirms that answered one publish each
        self._together: dict[int, int] | None = None  # of the others, how many answered so many
        self._marked: dict[int, int] | None = None  # tags by mark, of those pending and of some that are not any more

    def mark(self) -> int:
        """A number to know the following message by, if it is returned. Receivers see it, so it is no count."""
        marked = self._marked
        if marked is None:
            marked = self._marked = {}
        elif len(marked) > 2 * len(self.pending) + 64:
            marked = self._marked = {mark: tag for mark, tag in marked.items() if tag in self.pending}
        mark = int.from_bytes(urandom(8)) >> 1  # signed, on the wire
        marked[mark] = self.following
        return mark

    def marked(self, mark: object) -> Any:
        """The token of the pending publish that has this mark; None if there is none."""
        if self._marked is None or type(mark) is not int:
            return None
        tag = self._marked.get(mark)
        return None if tag is None else self.pending.get(tag)

    def add(self, token: Any) -> None:
        """The next message was published."""
        self.pending[self.following] = token
        self.following += 1

    def settle(self, tag: int, multiple: bool) -> list[Any]:
        """Take the tokens that a confirm of `tag` answers; an unknown tag answers none."""
        pending = self.pending
        if not multiple:
            token = pending.pop(tag, None)
            if token is None:
                return []
            self.singles += 1
            return [token]
        # Tag 0 means "all messages so far" (specification 1.8.3.13).
        last = self.following - 1
        tag = last if tag == 0 else min(tag, last)
        if tag - self._oldest > 2 * len(pending) + 64:  # single confirms leave `_oldest` behind
            tags = [each for each in pending if each <= tag]
        else:
            tags = [each for each in range(self._oldest, tag + 1) if each in pending]
        self._oldest = max(self._oldest, tag + 1)
        if tags:
            together = self._together = self._together or {}
            together[len(tags)] = together.get(len(tags), 0) + 1
        return [pending.pop(each) for each in tags]

    def sizes(self) -> dict[int, int]:
        """How many confirms answered how many publishes each."""
        found = dict(self._together or ())
        if self.singles:
            found[1] = found.get(1, 0) + self.singles
        return found

    def take_all(self, unsent: int) -> tuple[list[Any], list[Any]]:
        """At the end: the tokens of publishes that may have arrived, and of the last `unsent` that never left."""
        tokens = list(self.pending.values())
        self.pending.clear()
        boundary = len(tokens) - min(unsent, len(tokens))
        return tokens[:boundary], tokens[boundary:]
