"""The counters of a run: everything that happened, from the first connection to the end of the drain.

Shared by all clients of the process and read by the sampler: whole numbers only, changed without an await in between.
The ledger says *which* messages; this says how many.
"""

from __future__ import annotations

from collections import Counter

from loadtest.drivers.base import Outcome


class Tally:
    """How often each thing happened. ``sent`` is ``confirmed + nacked + returned + unknown`` and what is in flight."""

    __slots__ = (
        "calls",
        "confirmed",
        "connected",
        "dropped",
        "failed",
        "foreign",
        "nacked",
        "received",
        "redelivered",
        "replies",
        "returned",
        "rpc_errors",
        "rpc_timeouts",
        "sent",
        "servers_lost",
        "unknown",
        "waited",
    )

    def __init__(self) -> None:
        self.connected = 0
        self.failed = 0
        self.dropped = 0
        self.sent = 0
        self.confirmed = 0
        self.nacked = 0
        self.returned = 0
        self.unknown = 0
        self.waited = 0  # messages that were due while the window was full
        self.received = 0
        self.redelivered = 0
        self.foreign = 0
        self.calls = 0
        self.replies = 0
        self.rpc_timeouts = 0
        self.rpc_errors = 0
        self.servers_lost = 0

    def count_outcome(self, outcome: Outcome) -> None:
        """Counts how a publish ended."""
        if outcome is Outcome.CONFIRMED:
            self.confirmed += 1
        elif outcome is Outcome.NACKED:
            self.nacked += 1
        elif outcome is Outcome.RETURNED:
            self.returned += 1
        else:
            self.unknown += 1

    @property
    def messages(self) -> int:
        """Work done: messages confirmed, messages received and RPC replies, added up."""
        return self.confirmed + self.received + self.replies


class Errors:
    """What went wrong, by name, with the first text of each name."""

    __slots__ = ("counts", "examples")

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    def note(self, error: BaseException, suffix: str = "") -> None:
        """Counts an exception under its class's name."""
        self.note_name(type(error).__name__ + suffix, str(error) or repr(error))

    def note_name(self, name: str, text: str) -> None:
        """Counts an error that is no exception."""
        self.counts[name] += 1
        self.examples.setdefault(name, text[:300])
