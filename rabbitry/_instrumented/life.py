"""`InstrumentedLife`: every publish of a channel passes here, so here its operation begins, gets its headers and ends.

What must stay true: what is queued carries the operation's headers, the caller's message stays as it is; an operation
that a caller of `publish` waits for is ended by that call, any other by its confirmation.
"""

from __future__ import annotations

from collections.abc import Callable

from rabbitry._channel.confirmation import Confirmation
from rabbitry._channel.life import ChannelLife
from rabbitry._endpoint import Endpoint
from rabbitry._instrumentation import Instruments, PublishOperation
from rabbitry._values.message import Message

__all__ = ["InstrumentedLife", "Observer"]


class Observer:
    """A confirmation's callback that knows the operation, and what else is to be called. It ends the operation,
    unless that ends with the call of `publish` that it belongs to (`is_awaited`).
    """

    __slots__ = ("_instruments", "_is_awaited", "_then", "operation")

    def __init__(
        self,
        instruments: Instruments,
        operation: PublishOperation,
        is_awaited: bool,
        then: Callable[[Confirmation], None] | None = None,
    ) -> None:
        self._instruments = instruments
        self.operation = operation
        self._is_awaited = is_awaited
        self._then = then

    def __call__(self, confirmation: Confirmation) -> None:
        if not self._is_awaited:
            self._instruments.end(self.operation, confirmation.outcome, confirmation.failure())
        elif confirmation.outcome == "unsent":
            self.operation.attempts -= 1
        if self._then is not None:
            self._then(confirmation)

    def refused(self, error: Exception) -> None:
        """The message can't be sent at all, or no more."""
        if not self._is_awaited:
            self._instruments.end(self.operation, "unsent", error)


class InstrumentedLife(ChannelLife):
    """The life of an instrumented channel."""

    __slots__ = ("instruments",)

    def __init__(self, endpoint: Endpoint, confirm: bool, prefetch: int, instruments: Instruments) -> None:
        super().__init__(endpoint, confirm, prefetch)
        self.instruments = instruments

    def operation(self, message: Message | bytes, exchange: str, routing_key: str) -> PublishOperation:
        """A publish at this broker, to be begun."""
        operation = PublishOperation(message, exchange, routing_key)
        operation.located(self.endpoint.host, self.endpoint.port)
        return operation

    def awaited(self, operation: PublishOperation, then: Callable[[Confirmation], None] | None = None) -> Observer:
        """What a confirmation calls whose operation ends with the call that waits for it."""
        return Observer(self.instruments, operation, True, then)

    def queue_confirmed(self, message: Message | bytes, confirmation: Confirmation, mandatory: bool) -> bool:
        observer = confirmation._on_settled
        if not isinstance(observer, Observer):  # submitted: it begins as it is queued, in the first life that it has
            if not self._is_ready():
                return super().queue_confirmed(message, confirmation, mandatory)
            operation = self.operation(message, confirmation.exchange, confirmation.routing_key)
            self.instruments.begin(operation)
            observer = confirmation._on_settled = Observer(self.instruments, operation, False, observer)
        operation = observer.operation
        try:
            queued = super().queue_confirmed(operation.carried, confirmation, mandatory)
        except Exception as error:
            observer.refused(error)
            raise
        if queued:
            operation.attempts += 1
            operation.located(self.endpoint.host, self.endpoint.port)
        return queued

    def queue_plain(self, message: Message | bytes, exchange: str, routing_key: str, mandatory: bool) -> bool:
        if mandatory or not self._is_ready():
            return super().queue_plain(message, exchange, routing_key, mandatory)
        operation = self.operation(message, exchange, routing_key)
        with self.instruments.around(operation, "queued"):
            return super().queue_plain(operation.carried, exchange, routing_key, mandatory)

    def queue_within(self, operation: PublishOperation, mandatory: bool) -> bool:
        """Queue without confirm what an operation that has begun publishes; False if there is no room."""
        queued = super().queue_plain(operation.carried, operation.exchange, operation.routing_key, mandatory)
        operation.attempts += queued
        return queued

    def _is_ready(self) -> bool:
        """Whether a message will be queued now: an operation begins only then."""
        return self.is_open and not self.live.is_committing and self.endpoint.make_room()
