"""Whether a client has what it needs to work, and waiting for that: what a probe asks and a program begins with.

What must stay true: a client that never reached its broker is not ready, however little was asked of it; asking waits
for nothing and connects nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rabbitry._client.link import Link
from rabbitry._client.running import Running
from rabbitry._concurrency.waiting import checkpoint_if_cancelled
from rabbitry._errors import NotConnected
from rabbitry._values.options import State

__all__ = ["blocked_reason_of", "state_of", "wait_ready"]

_WORST_FIRST: Sequence[State] = ("closed", "recovering", "connecting", "connected")


def state_of(links: Iterable[Link]) -> State:
    """The worst of their states; "idle" where none was needed so far."""
    states = {link.state for link in links}
    for state in _WORST_FIRST:
        if state in states:
            return state
    return "idle"


def blocked_reason_of(links: Iterable[Link]) -> str | None:
    """Why the broker has blocked one of them; None where it has not."""
    return next((reason for link in links if (reason := link.blocked_reason) is not None), None)


async def wait_ready(running: Running) -> None:
    """Return once all links are connected, each asked to be; raise what ended the client, if that did."""
    running.publishing.check_loop()
    await checkpoint_if_cancelled()
    try:
        for link in running.links:
            link.want()
        while True:
            await running.consuming.connection("wait")  # first: `stop_consuming` ends this waiting
            await running.publishing.connection("wait")
            if state_of(running.links) == "connected":
                return
    except NotConnected:
        if running.fate.failure is not None:
            raise running.fate.failure from None
        raise
