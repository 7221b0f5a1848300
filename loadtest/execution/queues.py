"""The run's queues: declared before its first client connects, deleted after its stock was taken.

Should the run be killed, they expire by themselves, and an exchange goes with the last of them. Streams can't expire:
they keep their names, which begin with the run's prefix, and lose what is old in them but for their last segment. Where
the broker doesn't answer, both end in bounded time. Of queues that are there already nothing is changed: it is looked
whether they are there, and empty where nobody said that others' messages may be taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from time import monotonic_ns
from typing import Any

import anyio

from loadtest.drivers.base import Administrator, Connection
from loadtest.execution.state import Run
from loadtest.scenarios.brokers import RABBITMQ, kind_of

DECLARE_BOUND = 60.0
"""Seconds until all queues must be declared."""
EXPIRY_MARGIN = 600.0
"""Seconds by which queues outlive their run at most, should it be killed."""
LONGEST_EXPIRY_MS = 2**32 - 1
"""RabbitMQ takes no longer times."""


class QueueRefused(Exception):
    """The broker doesn't declare such a queue."""


class Queues:
    """The queues of clients and servers, and the connection that administers them."""

    def __init__(
        self, run: Run, connect: Callable[[], AbstractAsyncContextManager[Connection]], *, longest: float
    ) -> None:
        self._errors = run.record.errors
        self._timings = run.record.scene.timings
        self._connect = connect
        self._plan, self._settings = run.plan, run.settings
        self._age = {"x-max-age": f"{int(longest + EXPIRY_MARGIN)}s"}
        expiry = {"x-expires": min(int((longest + EXPIRY_MARGIN) * 1000), LONGEST_EXPIRY_MS)}
        kind = {"x-queue-type": run.settings.queue_type, **run.settings.queue_arguments}
        if run.settings.priorities and run.settings.queue_type == "classic":
            kind = {"x-max-priority": run.settings.priorities} | kind
        own: Mapping[str, Any] = (self._age if run.settings.is_stream else expiry) | kind
        self._arguments: dict[str, Mapping[str, Any]] = {}
        if not run.settings.existing:
            self._arguments = dict.fromkeys(run.plan.queues, own)
        self._arguments |= dict.fromkeys(run.plan.server_queues, expiry)

    async def declare(self) -> Mapping[str, Any]:
        """Declares all; returns what the broker says of itself. OSError if it can't be reached, or QueueRefused."""
        with anyio.move_on_after(DECLARE_BOUND):
            try:
                async with self._connect() as connection:
                    self._check_kind(connection.server_properties)
                    async with connection.administrator() as administrator:
                        await self._declare_each(administrator)
                    return connection.server_properties
            except (OSError, QueueRefused):
                raise
            except Exception as error:
                raise ConnectionError(str(error) or repr(error)) from error
        raise TimeoutError(
            f"it did not answer, or not declare {len(self._arguments)} queues, within {DECLARE_BOUND:g} s"
        )

    def _check_kind(self, server_properties: Mapping[str, Any]) -> None:
        if self._settings.broker == RABBITMQ and kind_of(server_properties) != RABBITMQ:
            told = ", ".join(str(server_properties.get(name)) for name in ("product", "platform"))
            raise QueueRefused(f"--broker rabbitmq: this is none, and says that it is {told}")

    async def _declare_each(self, administrator: Administrator) -> None:
        try:
            for queue, arguments in self._arguments.items():
                began = monotonic_ns()
                await administrator.declare_queue(queue, arguments)
                self._timings["queues.declare"].record(monotonic_ns() - began)
            if self._plan.exchange_kind is not None:
                await administrator.declare_exchange(self._plan.exchange, self._plan.exchange_kind)
            for queue, key in self._plan.bindings:
                await administrator.bind(queue, self._plan.exchange, key)
            for queue in self._settings.existing:
                await self._look_at(administrator, queue)
        except (OSError, QueueRefused):
            raise
        except Exception as error:
            raise QueueRefused(f"the broker refuses the queues: {error}") from error

    async def _look_at(self, administrator: Administrator, queue: str) -> None:
        count = await administrator.count_messages(queue)
        if count is None:
            raise QueueRefused(f"there is no queue {queue!r}")
        if count and self._settings.consumers and not self._settings.consume_foreign:
            raise QueueRefused(
                f"queue {queue!r} has {count:,} messages that are not this run's: say --consume-foreign if they may be "
                "taken and acknowledged"
            )

    async def delete(self) -> None:
        """Deletes all, the last one first, so that what an interrupted run leaves is found by its numbers; notes an
        error if that fails.
        """
        try:
            async with self._connect() as connection, connection.administrator() as administrator:
                for queue in reversed(self._arguments):
                    began = monotonic_ns()
                    await administrator.delete_queue(queue)
                    self._timings["queues.delete"].record(monotonic_ns() - began)
                if self._plan.exchange_kind is not None:
                    await administrator.delete_exchange(self._plan.exchange)
        except Exception as error:
            self._errors.note(error, " (deleting queues)")
