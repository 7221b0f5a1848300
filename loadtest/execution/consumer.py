"""A consumer: takes everything from its queue, works on it if asked to, and answers it; `receiving` says what is done.

It is subscribed before the first message is sent and stops when the run is over, not before: during the drain it takes
what the producers left. The end-to-end latency counts from the intended time that the message carries. Each consumer of
a stream reads all of it: the ledger hears of the first one, the others' copies are only counted. One that the broker
cancels stays connected until the run is over.
"""

from __future__ import annotations

from dataclasses import replace

from loadtest.drivers.base import Connection, ConsumerCancelled
from loadtest.execution.receiving import make_receive, make_work
from loadtest.execution.state import Attendance, Run
from loadtest.scenarios.plan import Place


async def consume(run: Run, place: Place, connection: Connection, attendance: Attendance) -> None:
    """Consumes until the conductor stops it."""
    settings, tally = run.settings, run.record.tally
    options = replace(
        run.consumer_options(prefetch=settings.prefetch, ack_every=settings.ack_every),
        auto_ack=settings.auto_ack,
        work=make_work(run, place),
    )
    async with connection.consumer(place.queue, options) as consumer:
        run.consumers.add(consumer)
        try:
            attendance.arrive()
            if run.over.is_set():  # it arrived too late for the conductor to stop it
                consumer.stop()
            await consumer.run(make_receive(run, place, consumer.stop))
        except ConsumerCancelled as error:
            tally.cancelled += 1
            run.record.errors.note(error)
        finally:
            run.consumers.discard(consumer)
        await attendance.leave()
