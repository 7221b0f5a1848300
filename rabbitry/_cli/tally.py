"""`Tally`: what became of the messages that `publish` sent, and of the lines that were none.

What must stay true: each is counted once; each failure is told by its number, the first of them one by one; and kept
where that was asked for.
"""

from __future__ import annotations

from collections import Counter
from typing import BinaryIO

from rabbitry import AccessRefused, Confirmation, Message, NotFound
from rabbitry._cli.messages import record_of
from rabbitry._cli.output import FAILED, OK, USAGE, as_json, plural, say

MOST_TOLD = 10
"""Failures that are told one by one."""


class Tally:
    """What became of the messages."""

    def __init__(self, noun: str, *, is_one_exchange: bool, is_one_route: bool) -> None:
        self.published = 0
        self.outcomes = Counter(confirmed=0, nacked=0, unroutable=0, unknown=0, unsent=0)
        self.invalid = 0
        self.left = 0
        self.republished = 0
        self.is_hopeless = False
        self.failed_file: BinaryIO | None = None
        self.noun = noun
        self._is_one_exchange = is_one_exchange
        self._is_one_route = is_one_route
        self._told = 0
        self._untold = 0

    def ended(self, confirmation: Confirmation) -> None:
        """Count a message that has its outcome, and tell of a failure."""
        self.outcomes[confirmation.outcome] += 1
        if (failure := confirmation.failure()) is None:
            return
        if self._is_one_exchange and isinstance(failure.__cause__, NotFound | AccessRefused):
            self.is_hopeless = (
                True  # there is no such exchange, or it is not for this user: the next would fail as well
            )
        if self._is_one_route and confirmation.outcome == "unroutable" and self.published <= 1:
            self.is_hopeless = True  # no queue is bound for the first, nor so for the others
        self._tell(confirmation.tag, failure)
        message = failure.message if isinstance(failure.message, Message) else Message(failure.message)
        self._keep(as_json(record_of(message, failure.exchange, failure.routing_key)).encode())

    def leave(self, line: bytes) -> None:
        """Count one that was read and will not be published."""
        self.left += 1
        self._keep(line)

    def _keep(self, line: bytes) -> None:
        if self.failed_file is not None:
            self.failed_file.write(line + b"\n")

    def is_no_message(self, number: int, error: object, line: bytes) -> None:
        """Count a line that can't be published, and tell of it."""
        self.invalid += 1
        self._keep(line)
        self._tell(number, error)

    def _tell(self, number: int, error: object) -> None:
        if self._told < MOST_TOLD:
            self._told += 1
            say(f"{self.noun} {number}: {error}")
        else:
            self._untold += 1

    @property
    def code(self) -> int:
        """The exit code."""
        if self.outcomes["confirmed"] < self.published or self.left:
            return FAILED
        return USAGE if self.invalid else OK

    def record(self) -> dict[str, int]:
        """What became of the messages; what the latter names say, only where there is some."""
        rest = {"invalid": self.invalid, "left": self.left, "republished": self.republished}
        return {"published": self.published, **self.outcomes, **{name: count for name, count in rest.items() if count}}

    def summary(self) -> str:
        """What became of the messages, in words."""
        parts = [f"{count:,} {name}" for name, count in self.outcomes.items() if count or name == "confirmed"]
        if pending := self.published - sum(self.outcomes.values()):
            parts.append(f"{pending:,} of which nothing is known")
        text = f"{plural(self.published, 'message')} published: {', '.join(parts)}"
        if self.invalid:
            text += f"; {plural(self.invalid, self.noun)} that can't be"
        if self.left:
            text += f"; {plural(self.left, self.noun)} read, and left"
        if self.republished:
            text += f"; {self.republished:,} sent again, which may have arrived twice"
        return text

    def progress(self) -> str:
        """How far it is, in fewer words."""
        return f"{self.published:,} published, {self.outcomes['confirmed']:,} confirmed"

    def tell_rest(self) -> None:
        """Say how many failures were not told one by one."""
        if self._untold:
            say(f"and {plural(self._untold, 'failure')} more")
