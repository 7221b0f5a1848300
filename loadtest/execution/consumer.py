"""A consumer: takes everything from its queue, enters it in the ledger, and acknowledges it.

It is subscribed before the first message is sent and stops when the run is over, not before: during the drain it takes
what the producers left. The end-to-end latency counts from the intended time that the message carries.
"""

from __future__ import annotations

from functools import partial
from time import monotonic_ns

from loadtest.drivers.base import Connection, ConsumerOptions
from loadtest.execution.body import read_stamp
from loadtest.execution.state import Attendance, Run
from loadtest.metrics.latencies import Measurement
from loadtest.metrics.ledger import Ledger
from loadtest.metrics.tally import Tally
from loadtest.scenarios.plan import Place


async def consume(run: Run, place: Place, connection: Connection, attendance: Attendance) -> None:
    """Consumes until the conductor stops it."""
    options = ConsumerOptions(prefetch=run.settings.prefetch, ack_every=run.settings.ack_every)
    take = partial(receive, run.plan.tag, run.record.tally, run.record.ledger, run.measurement)
    async with connection.consumer(place.queue, options) as consumer:
        run.consumers.add(consumer)
        try:
            attendance.arrive()
            if run.over.is_set():  # it arrived too late for the conductor to stop it
                consumer.stop()
            await consumer.run(take)
        finally:
            run.consumers.discard(consumer)
        await attendance.leave()


def receive(tag: int, tally: Tally, ledger: Ledger, measurement: Measurement, body: bytes, redelivered: bool) -> None:
    """Every delivery of the run passes here, before it is acknowledged."""
    now = monotonic_ns()
    stamp = read_stamp(body)
    if stamp is None or stamp[0] != tag:
        tally.foreign += 1
        return
    _, producer, number, intended = stamp
    tally.received += 1
    if redelivered:
        tally.redelivered += 1
    if ledger.receive(producer, number):
        measurement.latencies(intended, now).end_to_end.record(now - intended)
