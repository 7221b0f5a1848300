"""What is still in the queues when a run is over, and so whether anything is lost.

A count is cheap and nearly always enough: when it equals what is missing, nothing is lost. But a broker may count late
(a quorum queue reports what consumers gave back up to a quarter of a second later), and after lost connections the
queues hold messages that had arrived, or whose publish ended unknown. So where the numbers differ, the queues are
counted until that settles, and then emptied, each message being entered in the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from time import monotonic

import anyio

from loadtest.drivers.base import Answer, Connection, Consumer
from loadtest.execution.body import NUMBER
from loadtest.execution.state import Run
from loadtest.metrics.record import Stock

RECOUNT_INTERVAL = 0.4
RECOUNT_BOUND = 6.0
"""Seconds until the counts must agree."""
STALL = 1.5
"""Seconds without a message after which a queue is believed to be empty, whatever was counted."""
SILENCE_BOUND = 8.0
"""Seconds for a new connection, and for each of its answers, after which the broker is believed to answer no more."""
_QUEUES_AT_A_TIME = 200
_PREFETCH = 1000


class Leftovers:
    """Takes stock of what is left. It may be cancelled at any time; what is known by then stays in the record."""

    def __init__(self, run: Run, connect: Callable[[], AbstractAsyncContextManager[Connection]]) -> None:
        self._record = run.record
        self._read = run.bodies.read
        self._shifts = {queue: run.ledger_shift(number) for number, queue in enumerate(run.plan.queues)}
        self._queues = run.plan.queues
        self._run = run
        self._connect = connect
        self._options = run.consumer_options(prefetch=_PREFETCH, ack_every=1)
        self._counts: dict[str, int | None] = {}
        self._looked_at = 0
        self.is_silent = False
        """Whether the broker answered nothing at all, so that there is no use in asking it for more."""

    async def recount(self) -> int | None:
        """How many messages are ready in the queues; None, and an error noted, if the broker doesn't say."""
        self.is_silent = False
        with anyio.CancelScope() as patience:
            patience.deadline = anyio.current_time() + SILENCE_BOUND
            return await self._count_each(patience)
        self.is_silent = True
        self._record.errors.note_name("BrokerSilent (counting)", f"it did not answer within {SILENCE_BOUND:g} s")
        return None

    async def _count_each(self, patience: anyio.CancelScope) -> int | None:
        """Has the patience begin anew with each answer."""
        try:
            async with self._connect() as connection, connection.administrator() as administrator:
                for queue in self._queues:
                    patience.deadline = anyio.current_time() + SILENCE_BOUND
                    count = await administrator.count_messages(queue)
                    if count is None and self._counts.get(queue, 0) is not None:
                        self._record.errors.note_name("QueueGone", f"{queue} was deleted, and what was in it is gone")
                    self._counts[queue] = count
        except Exception as error:
            self._record.errors.note(error, " (counting)")
            return None
        return sum(filter(None, self._counts.values()))

    async def take_stock(self) -> None:
        """Counts, and looks closer where the count leaves a doubt."""
        missing = self._record.ledger.balance().missing
        stock = self._record.stock = Stock()
        if self._run.settings.is_stream:
            return await self._take_stock_of_streams(stock, missing)
        if not missing:
            stock.lost = 0
        if not self._queues:  # of producers alone, to an exchange, it isn't known who takes their messages
            stock.backlog = None if self._run.settings.producers else 0
            return None
        if self._run.settings.is_existing:
            return await self._take_stock_of_others(stock, missing)
        give_up_at = monotonic() + RECOUNT_BOUND
        before, stock.backlog = None, await self.recount()
        while stock.backlog not in (None, before) and not self._explains(stock, missing) and monotonic() < give_up_at:
            await anyio.sleep(RECOUNT_INTERVAL)
            before, stock.backlog = stock.backlog, await self.recount()
        if self._explains(stock, missing):
            stock.lost = 0
        elif missing and stock.backlog is not None:
            await self._look_everywhere(stock)

    async def _take_stock_of_streams(self, stock: Stock, missing: int) -> None:
        """A stream keeps what was consumed, so that a count says nothing: left is what it has and nobody got."""
        if await self.recount() is None:
            stock.lost = None if missing else 0
        elif missing:
            await self._look_everywhere(stock)
            stock.backlog = None if stock.lost is None else missing - stock.lost
        else:
            stock.lost = stock.backlog = 0

    async def _take_stock_of_others(self, stock: Stock, missing: int) -> None:
        """Queues that are there already are counted and no more: if they have what is missing, it is that; otherwise
        it can't be told whose it is, and what others took.
        """
        stock.lost = None if missing else 0
        count = await self.recount()
        for _ in range(int(RECOUNT_BOUND / RECOUNT_INTERVAL)):
            if count is None or count == missing:
                break
            await anyio.sleep(RECOUNT_INTERVAL)
            count = await self.recount()
        if count == missing and not self._record.tally.foreign:
            stock.lost, stock.backlog = 0, missing

    async def _look_everywhere(self, stock: Stock) -> None:
        """Empties all queues there are, and so knows what is lost. Queues of others are left as they are."""
        if self._run.settings.is_existing:
            text = (
                "queues that this run didn't declare are not looked through, and what is counted there may be others'"
            )
            return self._record.errors.note_name("NotLookedThrough", text)
        queues = [queue for queue, count in self._counts.items() if count is not None]
        for start in range(0, len(queues), _QUEUES_AT_A_TIME):
            if not await self._look_through(queues[start : start + _QUEUES_AT_A_TIME]):
                return
        stock.backlog = self._looked_at
        stock.lost = self._record.ledger.balance().missing - self._record.ledger.found

    def _explains(self, stock: Stock, missing: int) -> bool:
        """The count is what is missing, and no other messages can be in the queues: none of unknown outcome, none that
        had arrived before a connection was lost, and none of another party.
        """
        tally = self._record.tally
        is_doubtful = tally.unknown or tally.dropped or tally.reconnected or tally.foreign
        return stock.backlog == missing and not is_doubtful

    async def _look_through(self, queues: Sequence[str]) -> bool:
        """Empties these queues; False, and an error noted, if that failed."""
        consumers: list[Consumer] = []
        failed = False

        async def empty(connection: Connection, queue: str) -> None:
            nonlocal failed
            try:
                async with connection.consumer(queue, self._options) as consumer:
                    consumers.append(consumer)
                    await consumer.run(partial(self._find, self._shifts[queue]))
            except Exception as error:
                failed = True
                self._record.errors.note(error, " (looking through a queue)")

        async with self._connect() as connection, anyio.create_task_group() as tg:
            for queue in queues:
                tg.start_soon(empty, connection, queue)
            seen, stalled_at = -1, 0.0
            while self._looked_at != seen or monotonic() < stalled_at:
                if self._looked_at != seen:
                    seen, stalled_at = self._looked_at, monotonic() + STALL
                await anyio.sleep(0.05)
            for consumer in consumers:
                consumer.stop()
        return not failed

    def _find(self, shift: int, body: bytes, redelivered: bool) -> Answer:
        self._looked_at += 1
        if (stamp := self._read(body)) is not None:
            self._record.ledger.find(stamp[1] + shift, stamp[2] & NUMBER)
        return Answer.ACK
