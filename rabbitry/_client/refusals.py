"""When the end of a connection is the broker's refusal of one operation, and when it is a loss to be spanned.

RabbitMQ closes the whole connection over some requests: an exchange type that it does not know (503), what a stream
can't do (540), arguments that crash the channel's process (541). Whoever repeats such a request in each new life ends
them one after the other, and everything else on them, for ever. What must stay true: this is the only place that tells
a refusal from a loss. What the broker blames on one operation for certain is its refusal; what may be blamed on several
is each one's loss once, and a refusal where the same comes of it again.
"""

from __future__ import annotations

from rabbitry._errors import ConnectionClosed

__all__ = ["is_refusal", "was_told"]


CRASHES = 5
"""Times in a row that something must end connections by a failure of the broker's own, though the broker did the same
in a former life: just after a restart, a quorum queue may crash two consumers' channels on 3.10 before it works.
"""


def is_refusal(
    error: ConnectionClosed, former: BaseException | None = None, *, was_accepted: bool = False, times: int = 1
) -> bool:
    """Whether the broker refuses what met this end, and would again. `former` is the end that it met before, if any,
    and `times` how many such ends there were.

    `was_accepted`: the broker did the same in a former life. Then a failure of the broker's own is one that passes:
    always where the 541 by which it is reported names the method (a quorum queue without its quorum, say), else for a
    while.
    """
    if error.blame == "this":
        return True
    if error.blame != "perhaps" or (was_accepted and (error.method or times < CRASHES - 1)):
        return False
    return isinstance(former, ConnectionClosed) and former.blame == "perhaps" and former.code == error.code


def was_told(error: BaseException | None) -> bool:
    """Whether a connection ended over an operation that is told, or tried elsewhere: dialling again is not in vain."""
    return isinstance(error, ConnectionClosed) and error.blame != ""
