"""A producer: numbered, stamped messages to one queue, each confirmed, with `window` of them in flight at most.

In a closed loop the next message leaves when a confirm makes room; in an open loop when the schedule says so, and then
the latency counts from that time, however late the message left. Nothing planned is shed silently: what was not sent
by the end is `planned - sent`. What ends unknown counts among the latencies with the time it was waited for. With a
window above 1 a message counts as sent when it asks for its place in the window.
"""

from __future__ import annotations

from time import monotonic_ns

from loadtest.drivers.base import Connection, Outcome, Producer, ProducerOptions
from loadtest.execution.body import LAG_SHIFT, LONGEST_LAG, SmallBodyMaker
from loadtest.execution.routing import RoutedProducer, make_pace, make_priority
from loadtest.execution.state import Attendance, Run
from loadtest.scenarios.plan import Place

Token = tuple[int, int, int]
"""What a message in flight is known by: its number, when it was intended, when it was sent."""


async def produce(run: Run, place: Place, connection: Connection, attendance: Attendance) -> None:
    """Publishes from the begin until the run stops, then stays connected until it is over."""
    options = _options(run, place)
    production = _Production(run, place.index)
    pace = make_pace(run, place)
    tally = run.record.tally
    confirm_sizes = None
    try:
        async with connection.producer(place.queue, options, production.settle) as producer:
            confirm_sizes = getattr(producer, "confirm_sizes", None)  # which few libraries tell
            run.publishing[place.index] = connection
            attendance.arrive()
            run.at_work += 1
            keys = run.plan.keys
            sender = producer if keys is None else RoutedProducer(producer, keys, place.index)
            try:
                await pace.begin()
                while (intended := await pace.next()) is not None:
                    tally.waited += pace.was_due
                    tally.bunched += pace.slept_over
                    await production.publish(sender, intended)
            finally:
                run.at_work -= 1
            await producer.flush()
            await attendance.leave()
    finally:
        run.publishing.pop(place.index, None)
        if confirm_sizes is not None:
            run.record.confirm_sizes.update(confirm_sizes())
        production.abandon()


class _Production:
    """One producer's messages in flight, and how each of them ended."""

    __slots__ = (
        "_account",
        "_carries_lag",
        "_in_flight",
        "_index",
        "_is_one_by_one",
        "_is_paced",
        "_make_body",
        "_measurement",
        "_silence",
        "_tally",
    )

    def __init__(self, run: Run, index: int) -> None:
        self._index = index
        self._account = run.record.ledger.accounts[index]
        self._tally = run.record.tally
        self._measurement = run.measurement
        self._make_body = run.bodies
        self._is_one_by_one = run.settings.window == 1
        self._is_paced = run.settings.loop == "open"
        self._carries_lag = self._is_paced and not isinstance(run.bodies, SmallBodyMaker)
        self._silence = run.record.confirm_silence
        self._in_flight: dict[int, Token] = {}

    async def publish(self, producer: Producer, intended: int) -> None:
        """Sends the next message; with a window of 1 it is confirmed, or has failed, on return."""
        number = self._account.send()
        self._tally.sent += 1
        sent = monotonic_ns()
        sequence = number
        if self._carries_lag:  # at least a microsecond, as 0 says that there is none
            lag = (sent - intended) // 1000 + 1
            sequence |= (lag if lag < LONGEST_LAG else LONGEST_LAG) << LAG_SHIFT
        body = self._make_body(self._index, sequence, intended)
        token = self._in_flight[number] = (number, intended, sent)
        try:
            if self._is_one_by_one:
                self.settle(token, await producer.publish(body))
            else:
                await producer.submit(body, token)
        except Exception:  # certainly not sent; but cancelled, it stays in flight
            self._in_flight.pop(number, None)
            self._account.take_back()
            self._tally.sent -= 1
            raise

    def settle(self, token: Token, outcome: Outcome) -> None:
        """A publish ended."""
        number = token[0]
        if self._in_flight.pop(number, None) is None:
            return  # it was abandoned
        now = monotonic_ns()
        if outcome is Outcome.CONFIRMED:
            self._tally.confirmed += 1  # hot: what `count_outcome` does with nearly all
            silence = self._silence
            if now - silence.last > silence.least:
                silence.found(now)
            silence.last = now
        else:
            self._tally.count_outcome(outcome)
            if outcome is Outcome.SENT:  # nothing more will be known of it: it counts as if it had been confirmed
                return self._time_lag(token, now)
            self._account.disown(number)
            if outcome is not Outcome.UNKNOWN:
                return
        self._time(token, now)

    def _time(self, token: Token, now: int) -> None:
        _, intended, sent = token
        latencies = self._measurement.latencies(intended, now)
        latencies.confirm.record(now - intended)
        if self._is_paced:
            latencies.service.record(now - sent)
            latencies.lag.record(sent - intended)

    def _time_lag(self, token: Token, now: int) -> None:
        """Of a message that nobody confirms, how late it left is all that can be told."""
        _, intended, sent = token
        if self._is_paced:
            self._measurement.latencies(intended, now).lag.record(sent - intended)

    def abandon(self) -> None:
        """The producer ends: of what is still in flight the outcome stays unknown."""
        for number, token in self._in_flight.items():
            self._account.disown(number)
            self._time(token, monotonic_ns())
        self._tally.unknown += len(self._in_flight)
        self._in_flight.clear()


async def produce_once(run: Run, place: Place, connection: Connection, intended: int) -> None:
    """Opens a channel, publishes one message, and closes the channel."""
    production, keys = _Production(run, place.index), run.plan.keys
    sent = run.record.ledger.accounts[place.index].sent
    try:
        async with connection.producer(place.queue, _options(run, place), production.settle) as producer:
            sender = producer if keys is None else RoutedProducer(producer, keys, place.index, sent)
            await production.publish(sender, intended)
    finally:
        production.abandon()


def _options(run: Run, place: Place) -> ProducerOptions:
    settings = run.settings
    return ProducerOptions(
        window=settings.window,
        persistent=not settings.transient,
        mandatory=settings.mandatory,
        exchange=run.plan.exchange,
        confirms=not settings.no_confirm,
        priority=make_priority(run, place),
        headers=settings.headers or None,
    )
