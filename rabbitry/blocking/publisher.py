"""`Publisher` and its `Confirmation`s: publishing ahead of the confirms, one message at a time.

`submit` puts a message into a queue, which the event loop empties in one go: to hand each over would cost more than to
publish it. What must stay true: counts and outcomes are the async publisher's, and those of what was queued and could
not be sent; the messages of one thread leave in its order; no more are queued and under way than the window takes; who
leaves the block without an error has waited for every confirm, and who is interrupted there leaves at once.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import TracebackType
from typing import Any

import anyio

import rabbitry
from rabbitry import (
    Exchange,
    LocalProtocolError,
    Message,
    NotConnected,
    PublishesFailed,
    PublishFailed,
    RabbitryError,
)
from rabbitry._values.options import Outcome, check_on_outcome
from rabbitry._values.topology import name_of
from rabbitry.blocking.block import Block
from rabbitry.blocking.portal import Deadline, Portal, Timeout
from rabbitry.blocking.threads import caught

__all__ = ["Confirmation", "OnOutcome", "Publisher", "with_portal"]

logger: logging.Logger = logging.getLogger("rabbitry")


FAILURES_KEPT = 1000

LAST_SECONDS = 0.05
"""That who leaves the block by an error gives the messages that are queued to be sent, where there is room for them."""

SHORT = 63
"""Characters of a name that fits into an AMQP short string (255 octets) whatever they are."""


class Confirmation:
    """The outcome of one publish: a `rabbitry.Confirmation` that threads can wait for."""

    __slots__ = ("_async", "_portal", "_send")

    def __init__(
        self, confirmation: rabbitry.Confirmation, portal: Portal, send: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """`send`: what it stands for is queued, and this sends it; then another confirmation takes the place."""
        self._async = confirmation
        self._portal = portal
        self._send = send

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
            self._portal.run(self._wait, timeout)
        else:
            self._async.check()

    async def _wait(self) -> None:
        if self._send is not None:
            await self._send()
        await self._async.wait()

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

    For messages as they come. Where many are at hand, `publish_many` takes them faster.
    """

    _what = "the publisher"
    _call = "publisher()"

    def __init__(
        self,
        portal: Portal,
        make: Callable[[], AbstractAsyncContextManager[rabbitry.Publisher]],
        timeout: Timeout,
        *,
        exchange: str | Exchange,
        window: int,
        on_outcome: Callable[[rabbitry.Confirmation], None] | None,
    ) -> None:
        """`make` makes the async one, of the same exchange, window and `on_outcome`."""
        super().__init__(portal, make, timeout)
        self._exchange = exchange
        self._window = window
        self._on_outcome = on_outcome
        self._has_failed = False
        self._queue: deque[tuple[Confirmation, bool]] = deque()  # with whether it is mandatory
        self._is_told = False  # the loop, that something is queued
        self._sending = anyio.Lock()
        self._emptying: anyio.CancelScope | None = None
        self._unsent = 0  # of what was queued
        self._failures: list[PublishFailed] = []

    @property
    def sent(self) -> int:
        """Messages published."""
        return self._async.sent + len(self._queue) + self._unsent

    @property
    def confirmed(self) -> int:
        """Messages that the broker has taken responsibility for."""
        return self._async.confirmed

    @property
    def failed(self) -> int:
        """Messages with any other outcome."""
        return self._async.failed + self._unsent

    @property
    def pending(self) -> int:
        """Publishes whose outcome is not known yet."""
        return self._async.pending + len(self._queue)

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
                self._portal.run(self._flush)
        except BaseException:
            self._has_failed = True
            raise
        finally:
            super().__exit__(kind, error, traceback)

    async def _leave(self) -> None:
        manager, self._manager = self._manager, None
        if manager is None:
            return
        with anyio.move_on_after(LAST_SECONDS):  # else it is empty, or somebody has interrupted the emptying
            await self._empty()
        if self._emptying is not None:
            self._emptying.cancel()
        error = LocalProtocolError("the block was left by an error") if self._has_failed else None
        failed: PublishesFailed | None = None
        try:
            await manager.__aexit__(type(error) if error is not None else None, error, None)
        except PublishesFailed as failure:
            failed = failure
        finally:
            self._drop_all()
        if error is None and self._on_outcome is None and self._unsent:
            failures = [*(failed.failures if failed is not None else ()), *self._failures]
            failed = PublishesFailed(
                failures[:FAILURES_KEPT], (failed.count if failed is not None else 0) + self._unsent
            )
        if failed is not None:
            raise failed

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

        It returns before the message is sent, which is done within some milliseconds, together with others. Wrong
        arguments are refused here, as by the async `submit`. What can't be sent is told by its confirmation, which ends
        as "unsent", and as any failure; from then on `submit` itself waits until the message is sent, or raises what
        the async one raises. Timed out: not sent. Interrupted, it may have been sent.
        """
        publisher = self._async
        if exchange is None:
            exchange = self._exchange
        name = exchange if type(exchange) is str else name_of(exchange, Exchange)
        if (
            (type(message) is bytes or type(message) is Message)
            and type(routing_key) is str
            and len(routing_key) <= SHORT
            and len(name) <= SHORT
            and self._manager is not None
            and not self._unsent
            and publisher.sent - publisher.confirmed - publisher.failed + len(self._queue) < self._window
            and (timeout is None or (Deadline(timeout).rest or 0) > 0)
        ):
            self._portal.check_thread()
            if type(message) is Message:
                message.encoded_properties()  # refuses what can't be
            placeholder = rabbitry.Confirmation(message, name, routing_key, tag)
            confirmation = Confirmation(placeholder, self._portal, self._empty)
            self._queue.append((confirmation, mandatory))
            if not self._is_told:
                self._is_told = True
                try:
                    self._portal.submit_soon(self._begin_emptying)
                except BaseException:
                    self._is_told = False
                    raise
            return confirmation
        sent = self._portal.run(partial(self._submit, message, routing_key, name, mandatory, tag), timeout)
        return Confirmation(sent, self._portal)

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

        async def publish() -> None:
            await self._empty()
            await publisher.publish(message, routing_key=routing_key, exchange=exchange, mandatory=mandatory)

        self._portal.run(publish, timeout)

    def flush(self, *, timeout: Timeout = None) -> None:
        """Return once nothing is pending. Timed out or interrupted, what is pending stays so."""
        self._async  # noqa: B018 - raises outside the block
        self._portal.run(self._flush, timeout)

    # --- on the loop --------------------------------------------------------------------------------------------------

    async def _flush(self) -> None:
        await self._empty()
        await self._async.flush()

    async def _submit(
        self, message: Message | bytes, routing_key: str, exchange: str, mandatory: bool, tag: Any
    ) -> rabbitry.Confirmation:
        await self._empty()
        return await self._async.submit(
            message, routing_key=routing_key, exchange=exchange, mandatory=mandatory, tag=tag
        )

    def _begin_emptying(self) -> None:
        self._is_told = False  # first: who adds something from now on tells again
        if self._queue and self._emptying is None:
            self._portal.spawn(self._empty_in_background())

    async def _empty_in_background(self) -> None:
        with anyio.CancelScope() as self._emptying:
            await self._empty()
        self._emptying = None

    async def _empty(self) -> None:
        """Send what is queued, in order. Cancelling it leaves the rest in the queue."""
        if not (self._queue or self._sending.locked()):
            return
        async with self._sending:
            while self._queue:
                confirmation, mandatory = self._queue[0]
                queued = confirmation._async
                try:
                    confirmation._async = await self._async.submit(
                        queued.message,
                        routing_key=queued.routing_key,
                        exchange=queued.exchange,
                        mandatory=mandatory,
                        tag=queued.tag,
                    )
                except Exception as error:
                    self._drop(error)
                else:
                    self._queue.popleft()
                    confirmation._send = None

    def _drop(self, error: Exception) -> None:
        """The first in the queue can't be sent."""
        confirmation, _ = self._queue.popleft()
        confirmation._send = None
        queued = confirmation._async
        self._unsent += 1
        queued.lose("unsent", error if isinstance(error, RabbitryError) else LocalProtocolError(str(error)))
        if self._on_outcome is not None:
            try:
                self._on_outcome(queued)
            except Exception:  # as the async publisher has it
                logger.exception("on_outcome failed for %r", queued)
        elif len(self._failures) < FAILURES_KEPT and (failure := queued.failure()) is not None:
            self._failures.append(failure)

    def _drop_all(self) -> None:
        while self._queue:
            self._drop(NotConnected("the publisher was left before the message could be sent"))
