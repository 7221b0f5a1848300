"""`Confirmation`: how one publish ended. It ends exactly once, whatever happens to the connection.

Doubles as the protocol's token for the publish, so a confirmed publish costs one object.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from rabbitry._concurrency.waiting import Listener, Signal, new_signal
from rabbitry._errors import Nacked, PublishFailed, RabbitryError, Unroutable
from rabbitry._values.culprit import failure_of
from rabbitry._values.message import Message
from rabbitry._values.options import Loss, Outcome

__all__ = ["Confirmation"]


class Confirmation:
    """The outcome of one publish on a confirm channel.

    `outcome` is "pending" until the broker answered, then "confirmed" (it has taken responsibility), "nacked" (it
    answered with a nack), "unroutable" (mandatory, and no queue bound), "refused" (it closed the channel, or the
    connection, over this message), "unknown" (it was on its way when the connection or channel ended) or "unsent" (it
    never left this process, or came behind a refused one, where the broker takes nothing any more). `tag` is what
    `submit` was given. `message`, `exchange` and `routing_key` are what was published.
    """

    __slots__ = (
        "_error",
        "_on_settled",
        "_returned",
        "_signals",
        "exchange",
        "message",
        "outcome",
        "routing_key",
        "tag",
    )

    def __init__(
        self,
        message: Message | bytes,
        exchange: str,
        routing_key: str,
        tag: Any = None,
        on_settled: Callable[[Confirmation], None] | None = None,
    ) -> None:
        self.message: Message | bytes = message
        self.exchange: str = exchange
        self.routing_key: str = routing_key
        self.tag: Any = tag
        self.outcome: Outcome = "pending"
        self._on_settled = on_settled  # called once, while reading
        self._returned: tuple[int, str] | None = None
        self._error: RabbitryError | None = None
        self._signals: tuple[Listener, ...] = ()  # one for each task that waits, mostly one or none

    def __repr__(self) -> str:
        tag = f" tag={self.tag!r}" if self.tag is not None else ""
        return f"<Confirmation {self.outcome}{tag} exchange={self.exchange!r} routing_key={self.routing_key!r}>"

    async def wait(self) -> None:
        """Return once the broker confirmed; otherwise raise `Nacked`, `Unroutable`, `Refused`, `OutcomeUnknown` or
        `NotSent`.

        Any number of tasks may wait, before and after the end. Cancelling stops the waiting only: the outcome still
        comes.
        """
        if self.outcome == "pending":
            signal = new_signal()
            try:
                await self.told(signal)
            except BaseException:
                self._signals = tuple(other for other in self._signals if other is not signal)
                raise
        self.check()

    def told(self, signal: Signal) -> Awaitable[object]:
        """What to await until the outcome is there; `signal` is one of the running event loop's."""
        self._signals += (signal,)
        return signal.wait()

    def tell(self, listener: Listener) -> None:
        """Have `listener.set()` called once the outcome is there, while reading: it must be quick, and not raise."""
        if self.outcome == "pending":
            self._signals += (listener,)
        else:
            listener.set()

    def check(self) -> None:
        """Raise what `wait` raises, now that the outcome is there."""
        if self.outcome != "confirmed":
            failure = self.failure()
            if failure is not None:
                raise failure

    def failure(self) -> PublishFailed | None:
        """The error that `wait` raises, None while pending or when confirmed."""
        arguments = self.message, self.exchange, self.routing_key
        match self.outcome:
            case "pending" | "confirmed":
                return None
            case "nacked":
                return Nacked(*arguments)
            case "unroutable":
                return Unroutable(*arguments, reply=self._returned or (312, "NO_ROUTE"))
            case lost:
                return failure_of(self, lost, self._error)

    def mark_returned(self, code: int, text: str) -> None:
        """basic.return came; the broker's ack follows and makes it final."""
        self._returned = code, text

    def forget_return(self) -> None:
        """The message will be published again, and may then reach a queue."""
        self._returned = None

    def settle(self, acked: bool) -> None:
        """The broker answered."""
        if not acked:
            self.outcome = "nacked"
        elif self._returned is not None:
            self.outcome = "unroutable"
        else:
            self.outcome = "confirmed"
        # hot: `_finish` without the call
        if self._signals:
            for signal in self._signals:
                signal.set()
            self._signals = ()
        if self._on_settled is not None:
            self._on_settled(self)

    def lose(self, outcome: Loss, error: RabbitryError) -> None:
        """The channel ended before the broker answered."""
        self.outcome = outcome
        self._error = error
        self._finish()

    def _finish(self) -> None:
        for signal in self._signals:
            signal.set()
        self._signals = ()
        if self._on_settled is not None:
            self._on_settled(self)
