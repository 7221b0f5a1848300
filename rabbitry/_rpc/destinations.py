"""`Destinations`: where a server's replies may go. A request names the place, and who may send requests need not be one
who may publish there: the broker sees the server alone.

What must stay true: an exchange that the server did not name is never published to; what may not be answered is not
worked on.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from rabbitry._errors import shown, shown_error
from rabbitry._rpc.envelope import DIRECT_PREFIX, Request
from rabbitry._rpc.requests import LINES
from rabbitry._values.options import ReplyToAllowed
from rabbitry._values.topology import Exchange, name_of

__all__ = ["Destinations"]

GENERATED_PREFIX = "amq.gen-"
"""What the names of queues begin with that RabbitMQ has named; nobody can declare such a name."""


class Destinations:
    """`exchanges` are the names of those that replies may go to, where a request asks for that. `is_any`: so may those
    to any queue.
    """

    __slots__ = ("_allowed", "exchanges", "is_any")

    def __init__(self, allowed: ReplyToAllowed, exchanges: Collection[str | Exchange]) -> None:
        if allowed not in ("any", "generated") and not callable(allowed):
            raise ValueError(
                f'reply_to_allowed is "any", "generated" or a function of a queue\'s name, not {allowed!r}'
            )
        if isinstance(exchanges, str | Exchange):
            raise TypeError(f"reply_exchanges is a collection of exchanges, such as {{{exchanges!r}}}, not one alone")
        self._allowed = allowed
        self.is_any = allowed == "any"
        self.exchanges = frozenset(map(name_of, exchanges))
        if "" in self.exchanges:
            raise ValueError("reply_exchanges has the default exchange, which is that of all other replies")

    def allow(self, request: Request) -> bool:
        """Whether the reply to this request may go where it asks for."""
        allowed, reply_to = self._allowed, request.key[0]
        if self.is_any or not reply_to or request.reply_exchange or reply_to.startswith(DIRECT_PREFIX):
            return True
        if not callable(allowed):
            return reply_to.startswith(GENERATED_PREFIX)
        try:
            return bool(allowed(reply_to))
        except Exception as error:
            LINES.log(
                logging.ERROR,
                "reply_to_allowed",
                type(error).__name__,
                "reply_to_allowed failed for %s: %s",
                shown(reply_to),
                shown_error(error),
                error=error,
            )
            return False
