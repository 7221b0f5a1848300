"""The places of requests in the order of their replies. A place stays until its reply came, also when nobody waits.

What must stay true: replies answer requests in their order, but for those that RabbitMQ answers late; a reply that
answers none is the broker's fault. Knows requests and replies, no frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from rabbitry._errors import RemoteProtocolError
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.constants import COMMAND_INVALID
from rabbitry.protocol.wire.methods import Method

__all__ = ["Slot", "Slots", "Undoes", "suspects"]

_ANSWERED_LATE = (methods.BasicConsume, methods.BasicCancel)
"""RabbitMQ answers these from the queue's process through the channel's mailbox (rabbit_channel's handle_cast of
`command`): the replies to requests behind them may come before. tx.commit is late, too, but nothing may follow it.
"""


class Undoes(Protocol):
    """Who made a request and can take it back: a channel."""

    def undo(self, request: Method) -> None:
        """Take back what an abandoned request asks for, where that can't wait for its reply."""
        ...

    def undo_late(self, request: Method, reply: Any) -> None:
        """Take back what an abandoned request did, now that its reply is here."""
        ...


class Slot:
    """The place of one request in the order of replies. `token` None means nobody waits any more."""

    __slots__ = ("abandoned", "channel", "request", "token")

    def __init__(self, channel: Undoes | None, request: Method, token: Any) -> None:
        self.channel: Undoes | None = channel
        self.request: Method = request
        self.token: Any = token
        self.abandoned: bool = False

    def abandon(self, reply: Any = None) -> None:
        """The waiter was cancelled: keep the place, and undo what the request did. `reply`: it came, but too late."""
        if self.abandoned:
            return
        self.abandoned = True
        self.token = None
        if self.channel is not None:
            self.channel.undo(self.request)
            if reply is not None:
                self.channel.undo_late(self.request, reply)


class Slots(list[Slot]):
    """The unanswered requests of one channel, oldest first."""

    __slots__ = ()

    def answered_by(self, reply: Method, number: int) -> int:
        """The index of the slot that a reply on channel `number` answers: the oldest, but for what is answered late."""
        name, tag = type(reply).__name__, _tag_of(reply)
        for index, slot in enumerate(self):
            request = slot.request
            if name in type(request).replies and _tag_of(request) == tag:
                return index
            if type(request) not in _ANSWERED_LATE:
                break
        raise RemoteProtocolError(f"unexpected {reply.name} on channel {number}", COMMAND_INVALID)


def suspects(slots: Sequence[Slot], class_id: int, method_id: int) -> list[Slot]:
    """Where a channel's requests wait that the broker may mean by what a close names: those of this method, or all
    where it names none. Who sends two together (an open and confirm.select, a prefetch and a consume) waits for the
    second alone.
    """
    return [
        slot
        if slot.token is not None or slot.abandoned
        else next((later for later in slots[index:] if later.token is not None), slot)
        for index, slot in enumerate(slots)
        if not class_id or (slot.request.class_id == class_id and slot.request.method_id == method_id)
    ]


def _tag_of(method: Method) -> str | None:
    """The consumer tag that ties consume-ok and cancel-ok to their requests; None for everything else."""
    return getattr(method, "consumer_tag", None)
