"""`Publisher` and its `Confirmation`s: publishing ahead of the confirms, one message at a time.

What must stay true: counts and outcomes are the async publisher's; who leaves the block without an error has waited for
every confirm, and who is interrupted there leaves at once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import TracebackType
from typing import Any

import rabbitry
from rabbitry import Exchange, LocalProtocolError, Message, PublishFailed
from rabbitry._values.options import Outcome, check_on_outcome
from rabbitry.blocking.block import Block
from rabbitry.blocking.portal import Portal, Timeout
from rabbitry.blocking.threads import caught

__all__ = ["Confirmation", "OnOutcome", "Publisher", "with_portal"]


class Confirmation:
    """The outcome of one publish: a `rabbitry.Confirmation` that threads can wait for."""

    __slots__ = ("_async", "_portal")

    def __init__(self, confirmation: rabbitry.Confirmation, portal: Portal) -> None:
        self._async = confirmation
        self._portal = portal

    def __repr__(self) -> str:
        return f"<blocking {self._async!r}>"

    @property
    def outcome(self) -> Outcome:
        """What became of the publish: "pending" at first, then "confirmed", "nacked", "unroutable", "refused",
        "unknown" or "unsent", as `rabbitry.Confirmation` explains.
        """
        return self._async.outcome

    @property
    def tag(self) -> Any:
        """The tag that `submit` was given."""
        return self._async.tag

    @property
    def message(self) -> Message | bytes:
        """The message that was published."""
        return self._async.message

    @property
    def exchange(self) -> str:
        """The exchange that it was published to."""
        return self._async.exchange

    @property
    def routing_key(self) -> str:
        """The routing key it was published with."""
        return self._async.routing_key

    def wait(self, *, timeout: Timeout = None) -> None:
        """Return once the broker confirmed; otherwise raise `Nacked`, `Unroutable`, `Refused`, `OutcomeUnknown`
        or `NotSent`.

        Any number of threads may wait, before and after the end. Timed out or interrupted, the outcome still comes.
        """
        if self._async.outcome == "pending":
            self._portal.run(self._async.wait, timeout)
        else:
            self._async.check()

    def failure(self) -> PublishFailed | None:
        """The error that `wait` raises, None while pending or when confirmed."""
        return self._async.failure()


OnOutcome = Callable[[Confirmation], None]


def with_portal(on_outcome: OnOutcome | None, portal: Portal) -> Callable[[rabbitry.Confirmation], None] | None:
    """What the async publisher calls instead of the user's function, which gets a `Confirmation` for threads."""
    check_on_outcome(on_outcome)
    if on_outcome is None:
        return None
    return lambda confirmation: caught(partial(on_outcome, Confirmation(confirmation, portal)))


class Publisher(Block[rabbitry.Publisher]):
    """Publishes up to `window` messages ahead of their confirms; made by `client.publisher()` or `channel.publisher()`,
    and used inside its `with` block, by any number of threads at once.

    Leaving the block waits for all of them and raises `PublishesFailed` if any `submit` failed, unless `on_outcome`
    was given, which then has been told. A body that raises, and Ctrl-C while it waits, leave at once. `sent`,
    `confirmed`, `failed` and `pending` are live counts.

    For messages as they come: each costs two changes of thread, which `publish_many` saves where many are at hand.
    """

    _what = "the publisher"
    _call = "publisher()"

    def __init__(
        self,
        portal: Portal,
        make: Callable[[], AbstractAsyncContextManager[rabbitry.Publisher]],
        timeout: Timeout,
    ) -> None:
        super().__init__(portal, make, timeout)
        self._has_failed = False

    @property
    def sent(self) -> int:
        """Messages published."""
        return self._async.sent

    @property
    def confirmed(self) -> int:
        """Messages that the broker has taken responsibility for."""
        return self._async.confirmed

    @property
    def failed(self) -> int:
        """Messages with any other outcome."""
        return self._async.failed

    @property
    def pending(self) -> int:
        """Publishes whose outcome is not known yet."""
        return self._async.pending

    @property
    def republished(self) -> int:
        """Messages that a client has sent again because their outcome was unknown; 0 on a channel."""
        publisher = self._async
        return publisher.republished if isinstance(publisher, rabbitry.ClientPublisher) else 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for what is pending, unless the body raised, and raise `PublishesFailed` if any of it failed."""
        self._has_failed = error is not None
        try:
            if error is None and not self._portal.is_gone:
                self._portal.run(self._async.flush)
        except BaseException:
            self._has_failed = True
            raise
        finally:
            super().__exit__(kind, error, traceback)

    async def _leave(self) -> None:
        manager, self._manager = self._manager, None
        if manager is not None:
            error = LocalProtocolError("the block was left by an error") if self._has_failed else None
            await manager.__aexit__(type(error) if error is not None else None, error, None)

    def submit(
        self,
        message: Message | bytes,
        *,
        routing_key: str = "",
        exchange: str | Exchange | None = None,
        mandatory: bool = False,
        tag: Any = None,
        timeout: Timeout = None,
    ) -> Confirmation:
        """Publish and return as soon as there is room in the window; `tag` is yours, kept on the `Confirmation`.

        Raises as the async `submit`. Timed out: not sent. Interrupted, it may have been sent.
        """
        publisher = self._async
        confirmation = self._portal.run(
            lambda: publisher.submit(message, routing_key=routing_key, exchange=exchange, mandatory=mandatory, tag=tag),
            timeout,
        )
        return Confirmation(confirmation, self._portal)

    def publish(
        self,
        message: Message | bytes,
        *,
        routing_key: str = "",
        exchange: str | Exchange | None = None,
        mandatory: bool = False,
        timeout: Timeout = None,
    ) -> None:
        """Publish within the window and return once confirmed; raises as `publish` of the client or channel. Timed
        out, it may have been sent.
        """
        publisher = self._async
        self._portal.run(
            lambda: publisher.publish(message, routing_key=routing_key, exchange=exchange, mandatory=mandatory),
            timeout,
        )

    def flush(self, *, timeout: Timeout = None) -> None:
        """Return once nothing is pending. Timed out or interrupted, what is pending stays so."""
        self._portal.run(self._async.flush, timeout)
