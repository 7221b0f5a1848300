"""A consumer: takes everything from its queue, enters it in the ledger, and acknowledges it.

It is subscribed before the first message is sent and stops when the run is over, not before: during the drain it takes
what the producers left. The end-to-end latency counts from the intended time that the message carries. Each consumer of
a stream reads all of it: the ledger hears of the first one, the others' copies are only counted. One that the broker
cancels stays connected until the run is over.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import monotonic_ns

from loadtest.drivers.base import Answer, Connection, ConsumerCancelled
from loadtest.execution.body import Stamp
from loadtest.execution.state import Attendance, Run
from loadtest.metrics.latencies import Measurement
from loadtest.metrics.ledger import Ledger
from loadtest.metrics.tally import Tally
from loadtest.scenarios.plan import Place


async def consume(run: Run, place: Place, connection: Connection, attendance: Attendance) -> None:
    """Consumes until the conductor stops it."""
    settings, tally = run.settings, run.record.tally
    options = run.consumer_options(prefetch=settings.prefetch, ack_every=settings.ack_every)
    is_first = not settings.is_stream or place.index < settings.queues
    take = (
        partial(receive, run.bodies.read, tally, run.record.ledger, run.measurement)
        if is_first
        else partial(receive_copy, run.bodies.owns, tally)
    )
    if settings.backlog:  # consumers were away: they come back when the work begins
        attendance.arrive()
        await run.begin.wait()
    async with connection.consumer(place.queue, options) as consumer:
        run.consumers.add(consumer)
        try:
            if not settings.backlog:
                attendance.arrive()
            if run.over.is_set():  # it arrived too late for the conductor to stop it
                consumer.stop()
            await consumer.run(take)
        except ConsumerCancelled as error:
            tally.cancelled += 1
            run.record.errors.note(error)
        finally:
            run.consumers.discard(consumer)
        await attendance.leave()


def receive(
    read: Callable[[bytes], Stamp | None],
    tally: Tally,
    ledger: Ledger,
    measurement: Measurement,
    body: bytes,
    redelivered: bool,
) -> Answer:
    """Every delivery of the run passes here, before it is acknowledged."""
    now = monotonic_ns()
    stamp = read(body)
    if stamp is None:
        tally.foreign += 1
        return Answer.ACK
    _, producer, number, intended = stamp
    tally.received += 1
    if redelivered:
        tally.redelivered += 1
    if ledger.receive(producer, number) and intended:
        measurement.latencies(intended, now).end_to_end.record(now - intended)
    return Answer.ACK


def receive_copy(owns: Callable[[bytes], bool], tally: Tally, body: bytes, redelivered: bool) -> Answer:
    """What another consumer of the same stream answers for."""
    if owns(body):
        tally.copies += 1
    else:
        tally.foreign += 1
    return Answer.ACK
