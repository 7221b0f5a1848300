"""The scenarios: the question each of them answers, and the flags that ask it.

A scenario is data: defaults for flags, spelled as a scenario file spells them, which the command line overrides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

DEFAULT = "c10k"
COMMAND = "strategies"
"""The scenario that is a command: what it runs is no run of these flags, and so it has flags of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One entry of the catalogue."""

    question: str
    """What it answers, in one line."""
    flags: Mapping[str, Any] = field(default_factory=dict)
    """Defaults for flags: numbers, texts, true or false, or lists for flags that may be repeated."""


SCENARIOS: Mapping[str, Scenario] = MappingProxyType(
    {
        "c10k": Scenario(
            question="What do so many clients get through when they publish, consume and call at once, how fast is "
            "each answered, and who is the limit?",
        ),
        "publish": Scenario(
            question="How many confirmed messages a second does the broker take from these publishers?",
            flags={"clients": 100, "consumers": 0, "callers": 0},
        ),
        "consume": Scenario(
            question="How fast do consumers empty queues that were filled before they came?",
            flags={"clients": 100, "producers": 0, "callers": 0, "backlog": "200k", "warmup": 0},
        ),
        "rpc": Scenario(
            question="How many calls a second are answered, and how long does a caller wait?",
            flags={"clients": 100, "producers": 0, "consumers": 0},
        ),
        "fanout": Scenario(
            question="How many messages a second reach ten queues each, and how late are the copies?",
            flags={"clients": 100, "producers": 10, "callers": 0, "fanout": 10},
        ),
        "work-queue": Scenario(
            question="At which rate do consumers keep up that share one queue and work on each message?",
            flags={"clients": 100, "producers": 10, "callers": 0, "queues": 1, "prefetch": 10, "work": "exp:5ms"},
        ),
        "storm": Scenario(
            question="When all clients connect at once, how long does each wait, how many fail, and what does it cost?",
            flags={"handshakes": "1m", "rate-each": 1, "warmup": "1s", "duration": "5s"},
        ),
        "churn": Scenario(
            question="How many clients a second can connect, publish or call once, and close again, and which step "
            "takes the time?",
            flags={"churn": True, "clients": 100, "consumers": 10, "warmup": "2s"},
        ),
        "backlog": Scenario(
            question="Consumers were away: how long until they have taken all that was left for them, while publishing "
            "goes on?",
            flags={"clients": 100, "callers": 0, "backlog": "100k", "rate": 1000, "warmup": 0, "duration": "30s"},
        ),
        "queues": Scenario(
            question="What does it cost to have so many queues: to declare, to use, and to delete each?",
            flags={
                "queues": 1000,
                "producers": 1000,
                "consumers": 1000,
                "callers": 0,
                "connections": 100,
                "rate-each": 1,
                "duration": "10s",
            },
        ),
        "soak": Scenario(
            question="Does it stay right for as long as --duration says, across killed sockets and consumers that "
            "pause?",
            flags={
                "reconnect": True,
                "clients": 100,
                "callers": 0,
                "rate-each": 10,
                "duration": "10m",
                "fault": ["60s kill-sockets 10%", "180s pause-consumers 10s", "300s kill-sockets 50%"],
            },
        ),
        "sweep": Scenario(
            question="How does latency grow with the rate, and at which rate does it turn up?",
            flags={"clients": 100, "callers": 0, "warmup": "1s", "duration": "4s", "drain": "10s"},
        ),
    }
)
QUESTION_OF_COMMAND = (
    "Of the ways in which programs serve so many clients (a thread, a channel, a connection for each), which gets "
    "through how much, at what cost, and where can't it go on? It has flags of its own: python -m loadtest strategies "
    "--help"
)
