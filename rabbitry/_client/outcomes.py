"""What a failure means for the operation: whether it may be done again, and how. The only place that answers this.

What must stay true: what certainly was not taken is done again; what may have arrived only where its caller has said
that twice does no harm; what the broker refused never. What it closed a channel or a connection over, without that it
is known which of several it was, is suspect, and so is what is like the one that it refused: it is done again alone, so
that it can't take others with it, and a suspect that fails so once more has failed for good. Only what has failed
comes here: nothing of this runs for a message that is confirmed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias, TypeVar

import anyio

from rabbitry._client.link import Link
from rabbitry._client.refusals import is_refusal
from rabbitry._concurrency.clock import Chance
from rabbitry._connection.connection import Connection
from rabbitry._errors import (
    Closed,
    ConnectFailed,
    ConnectionBlocked,
    ConnectionClosed,
    ConsumerCancelled,
    NotSent,
    OutcomeUnknown,
    RabbitryError,
)
from rabbitry._values.culprit import Published, is_like_refused
from rabbitry._values.options import WhileDown
from rabbitry.protocol.wire.constants import CONNECTION_FORCED

__all__ = ["Attempts", "Step", "check_policies", "in_a_life", "is_lost", "next_step"]

Step: TypeAlias = Literal["again", "alone", "never"]

T = TypeVar("T")

SUSPICIONS = 5
"""Times that an operation may be under way as the broker ends the connection over what may have been it."""

_RANDOM = Chance()


def check_policies(while_down: str, on_unknown: str = "raise") -> None:
    """Refuse what is no policy for a connection that is down, or an outcome that is unknown."""
    if while_down not in ("wait", "fail"):
        raise ValueError(f"while_down is 'wait' or 'fail', not {while_down!r}")
    if on_unknown not in ("raise", "republish"):
        raise ValueError(f"on_unknown is 'raise' or 'republish', not {on_unknown!r}")


# --- the rule ---------------------------------------------------------------------------------------------------------


def next_step(
    published: Published,
    outcome: Literal["unknown", "unsent"],
    end: BaseException | None,
    *,
    may_repeat: bool,
    is_last: bool = False,
) -> Step:
    """What to do with a publish that its channel's or connection's `end` has struck.

    `may_repeat`: its caller has said that it may be done twice. `is_last`: it was suspected before, often enough.
    """
    if outcome == "unsent":
        return "alone" if is_like_refused(published, end) else "again"
    if not may_repeat:
        return "never"
    if is_lost(end) or (isinstance(end, Closed) and end.is_explained):
        return "again"
    return "never" if is_last else "alone"


def is_lost(end: BaseException | None) -> bool:
    """Whether a connection was lost, and not closed by the broker for something that this side sent: the message may
    have been that, and must not be sent again.
    """
    return isinstance(end, ConnectionClosed) and (end.code in (0, CONNECTION_FORCED) or end.blame == "another")


class Attempts:
    """What one operation knows of its attempts: `unknown` is the last that may have arrived; it `is_suspect` once the
    broker has closed something for it, or for what was under way beside it, or refused what is like it.
    """

    __slots__ = ("_may_repeat", "_suspicions_left", "is_suspect", "unknown")

    def __init__(self, *, may_repeat: bool, suspicions: int) -> None:
        """`suspicions` is how often the broker may close something over it until that is final."""
        self._may_repeat = may_repeat
        self._suspicions_left = suspicions
        self.is_suspect = False
        self.unknown: OutcomeUnknown | None = None

    def next_step(self, error: RabbitryError) -> Step:
        """What to do after the attempt that raised this."""
        if isinstance(error, OutcomeUnknown):
            is_last = self._suspicions_left == 1
            step = next_step(error, "unknown", error.__cause__, may_repeat=self._may_repeat, is_last=is_last)
            self._suspicions_left -= step == "alone"
            if step != "never":
                self.unknown = error
        elif isinstance(error, NotSent):
            step = next_step(error, "unsent", error.__cause__, may_repeat=self._may_repeat)
        else:  # it was not even queued, as the channel, its connection or its reply consumer had ended before
            return "again" if isinstance(error, Closed | ConsumerCancelled) else "never"
        self.is_suspect = self.is_suspect or step == "alone"
        return step


# --- in a life --------------------------------------------------------------------------------------------------------


async def in_a_life(
    link: Link,
    while_down: WhileDown,
    operation: Callable[[Connection], Awaitable[T]],
    *,
    before: Callable[[], Awaitable[None]] | None = None,
    trial: Callable[[Connection], Awaitable[object]] | None = None,
    was_accepted: bool = False,
) -> T:
    """What `operation` returns or raises on the connection of now, or of a later life where that is lost meanwhile.
    `ConnectionBlocked` where the broker has blocked it and `while_down` is "fail".

    `before` is awaited ahead of each attempt. Where the broker ends the connection over this very operation, that is
    raised. Where it may have been this one, or another under way, `trial` is made of it, alone on a connection apart,
    and the same end there is raised; unless given it opens a channel, as every operation begins. It must leave nothing
    behind. `was_accepted`: the broker did the same in a former life.
    """
    suspicion: ConnectionClosed | None = None
    suspicions = 0
    while True:
        if before is not None:
            await before()
        connection = await link.connection(while_down)
        try:
            if suspicion is not None:
                if suspicions > 1:
                    await anyio.sleep(link.backoff.delay(suspicions - 1, _RANDOM))
                if await _is_cleared(link, trial or _open_channel):
                    suspicion = None
                connection = await link.connection(while_down)
            if while_down == "fail" and (reason := connection.blocked_reason) is not None:
                raise ConnectionBlocked(reason)  # the broker reads nothing there, so that it would wait as well
            return await operation(connection)
        except ConnectionClosed as error:
            if is_refusal(error, suspicion, was_accepted=was_accepted, times=suspicions):
                raise
            if error.blame == "perhaps":
                suspicion = error
                suspicions += 1
                if suspicions == SUSPICIONS and not was_accepted:  # the trial did not show it, but others are cut too
                    raise


async def _is_cleared(link: Link, trial: Callable[[Connection], Awaitable[object]]) -> bool:
    """Whether a suspect did no harm to a connection on which it was alone; raises the end of that which it is the
    reason of. False where it could not be tried there: it has to be tried where it would be done.
    """
    try:
        await link.apart(trial)
    except ConnectionClosed as error:
        if error.blame:
            raise
        return False
    except RabbitryError as error:  # what it is told on a channel it will be told again, where it is done
        return not isinstance(error, ConnectFailed)
    except OSError:
        return False
    return True


async def _open_channel(connection: Connection) -> None:
    async with connection.channel(confirm=False):
        pass
