"""Faults on a timeline: what is done to the broker or the clients, and when, as one line of text each.

Pure: it reads ``'60s kill-sockets 10%'``, and says which faults need a broker of one's own.
"""

from __future__ import annotations

from dataclasses import dataclass

from loadtest import units

FORMS = {
    "kill-sockets": "kill-sockets 10%",
    "stop": "stop 5s",
    "restart": "restart, or restart 5s (down for that long)",
    "alarm": "alarm 5s",
    "pause-consumers": "pause-consumers 5s",
    "slow-consumers": "slow-consumers 5s 10ms (for how long, and how long each message then takes)",
}
"""How each action is written."""
NEED_OUR_BROKER = frozenset({"stop", "restart", "alarm"})
"""What can be done to a private node alone."""
OF_CONSUMERS = frozenset({"pause-consumers", "slow-consumers"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault. `at` is seconds after the measured phase began."""

    at: float
    action: str
    share: float | None = None
    """Of `kill-sockets`: which part of all sockets, from 0 to 1."""
    seconds: float = 0.0
    """How long it lasts; 0 for what is done in a moment."""
    each: float = 0.0
    """Of `slow-consumers`: seconds that a message takes."""

    def __str__(self) -> str:
        parts = [f"{self.at:g}s", self.action]
        parts += [f"{self.share * 100:g}%"] if self.share is not None else []
        parts += [f"{seconds:g}s" for seconds in (self.seconds, self.each) if seconds]
        return " ".join(parts)


def parse_fault(text: str) -> Fault:
    """Reads ``'AT ACTION'``. ValueError, saying how it is written."""
    at, *rest = text.split() or [""]
    action = rest[0] if rest else ""
    if action not in FORMS:
        ways = ", ".join(FORMS)
        raise ValueError(f"{text!r}: write it as 'AT ACTION', such as '60s kill-sockets 10%'; the actions are {ways}")
    counts = {"kill-sockets": (1,), "restart": (0, 1), "slow-consumers": (2,)}.get(action, (1,))
    values = rest[1:]
    if len(values) not in counts:
        raise ValueError(f"{text!r}: write it as '{at} {FORMS[action]}'")
    if action == "kill-sockets":
        return Fault(at=units.parse_duration(at), action=action, share=_parse_share(values[0]))
    durations = [units.parse_duration(value) for value in values]
    if 0 in durations:
        raise ValueError(f"{text!r}: a time of 0 would do nothing")
    return Fault(at=units.parse_duration(at), action=action, **dict(zip(("seconds", "each"), durations, strict=False)))


def _parse_share(text: str) -> float:
    number, percent = text.removesuffix("%"), text.endswith("%")
    try:
        share = float(number) / 100
    except ValueError:
        share = 0.0
    if not percent or not 0 < share <= 1:
        raise ValueError(f"{text!r} is no share (write for example 10%, at most 100%)")
    return share
