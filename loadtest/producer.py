"""A producer: numbered, stamped messages to one queue, each confirmed, with `window` of them in flight at most.

In a closed loop the next message leaves when a confirm makes room; in an open loop when the schedule says so, and then
the latency counts from that time, however late the message left. Nothing planned is shed silently: what was not sent
by the end is `planned - sent`. With a window above 1 a message counts as sent when it asks for its place in the
window.
"""

from __future__ import annotations

from time import monotonic_ns

from loadtest.drivers.base import Connection, Outcome, Producer
from loadtest.plan import Place
from loadtest.run import Attendance, Run
from loadtest.schedule import Schedule

Token = tuple[int, int, int]
"""Of one message in flight: its number, when it was intended, when it was sent."""


async def produce(run: Run, place: Place, connection: Connection, attendance: Attendance) -> None:
    """Publishes from the begin until the run stops, then stays connected until it is over."""
    production = _Production(run, place.index)
    try:
        async with connection.producer(place.queue, run.producer_options, production.settle) as producer:
            run.publishing[place.index] = connection
            attendance.arrive()
            await run.begin.wait()
            await run.timetable.sleep_until(run.start_of(place.index))
            if run.schedules is None:
                await production.publish_freely(producer)
            else:
                await production.publish_on_schedule(producer, run.schedules[place.index])
            await producer.flush()
            await attendance.leave()
    finally:
        run.publishing.pop(place.index, None)
        production.abandon()


class _Production:
    """One producer's messages in flight, and how each of them ended."""

    __slots__ = ("_account", "_in_flight", "_index", "_run")

    def __init__(self, run: Run, index: int) -> None:
        self._run = run
        self._index = index
        self._account = run.ledger.accounts[index]
        self._in_flight: set[int] = set()

    async def publish_freely(self, producer: Producer) -> None:
        """The closed loop."""
        while not self._run.is_stopping:
            await self._publish(producer, monotonic_ns())

    async def publish_on_schedule(self, producer: Producer, schedule: Schedule) -> None:
        """The open loop."""
        run = self._run
        start = run.start_of(self._index)
        number = 0
        while not run.is_stopping:
            intended = schedule.due(start, number)
            if monotonic_ns() >= intended:
                run.tally.waited += 1
            else:
                await run.timetable.sleep_until(intended)
                if run.is_stopping:
                    return
                now = monotonic_ns()
                run.latencies(intended, now).wake.record(now - intended)
            await self._publish(producer, intended)
            number += 1

    async def _publish(self, producer: Producer, intended: int) -> None:
        run = self._run
        number = self._account.send()
        run.tally.sent += 1
        self._in_flight.add(number)
        body = run.make_body(self._index, number, intended)
        token = (number, intended, monotonic_ns())
        try:
            if run.producer_options.window == 1:
                self.settle(token, await producer.publish(body))
            else:
                await producer.submit(body, token)
        except Exception:  # certainly not sent; but cancelled, it stays in flight
            self._in_flight.discard(number)
            self._account.disown(number)
            run.tally.sent -= 1
            raise

    def settle(self, token: Token, outcome: Outcome) -> None:
        """A publish ended."""
        number, intended, sent = token
        if number not in self._in_flight:
            return  # it was abandoned
        now = monotonic_ns()
        self._in_flight.remove(number)
        self._run.tally.count_outcome(outcome)
        if outcome is not Outcome.CONFIRMED:
            self._account.disown(number)
            return
        latencies = self._run.latencies(intended, now)
        latencies.confirm.record(now - intended)
        if self._run.schedules is not None:
            latencies.service.record(now - sent)
            latencies.lag.record(sent - intended)

    def abandon(self) -> None:
        """The producer ends: of what is still in flight the outcome stays unknown."""
        for number in self._in_flight:
            self._account.disown(number)
        self._run.tally.unknown += len(self._in_flight)
        self._in_flight.clear()
