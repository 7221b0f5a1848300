"""What is done with a delivery before it is answered: entered in the ledger, checked, put back or rejected by share.

What a run doesn't ask for isn't there: `make_receive` puts together, once for each consumer, what each delivery passes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from time import monotonic_ns

from loadtest.drivers.base import Answer, Receive
from loadtest.execution.body import LAG_SHIFT, LONGEST_LAG, NUMBER, Stamp
from loadtest.execution.filling import FilledBodyMaker
from loadtest.execution.state import Read, Run
from loadtest.metrics.latencies import Measurement
from loadtest.metrics.ledger import Ledger
from loadtest.metrics.order import Seen
from loadtest.metrics.silence import Silence
from loadtest.metrics.tally import Tally
from loadtest.scenarios.distributions import parse_work
from loadtest.scenarios.plan import Place

_ACK = Answer.ACK  # hot: looked up in a class of its kind, it would cost each delivery 0.1 us


def make_receive(run: Run, place: Place, stop: Callable[[], None]) -> Receive:
    """What a consumer's deliveries pass; `stop` ends the consumer, where another's messages must not be taken."""
    settings, tally, bodies = run.settings, run.record.tally, run.bodies
    if settings.is_stream and place.index >= settings.queues:
        take: Receive = partial(receive_copy, bodies.owns, tally)
    else:
        read = shifted(bodies.read, run.ledger_shift(place.index % settings.queues))
        read = read if run.reading is None else run.reading(read)
        take = partial(receive, read, tally, run.record.ledger, run.record.delivery_silence, run.measurement, {})
    if isinstance(bodies, FilledBodyMaker):
        take = partial(check, bodies, tally, take)
    if settings.requeue or settings.reject:
        draw = Random(f"{settings.seed} answers {place.index}").random
        take = partial(answer_by_share, draw, settings.requeue, settings.requeue + settings.reject, tally, take)
    if settings.is_existing and not settings.consume_foreign:
        take = partial(spare_foreign, bodies.owns, partial(_tell_of_foreign, run, place.queue, stop), take)
    return take


def make_work(run: Run, place: Place) -> Callable[[], float] | None:
    """How long a consumer works on each delivery, in seconds; None if it doesn't."""
    if run.settings.work is None:
        return None
    return parse_work(run.settings.work).sampler(Random(f"{run.settings.seed} work {place.index}"))


def receive(
    read: Read,
    tally: Tally,
    ledger: Ledger,
    silence: Silence,
    measurement: Measurement,
    seen: Seen,
    body: bytes,
    redelivered: bool,
) -> Answer:
    """Every delivery of the run passes here, before it is acknowledged. `seen` is the consumer's own."""
    now = monotonic_ns()
    stamp = read(body)
    if stamp is None:
        tally.foreign += 1
        return _ACK
    _, producer, number, intended = stamp
    lag = 0
    if number > NUMBER:
        lag = number >> LAG_SHIFT
        number &= NUMBER
    if now - silence.last > silence.least:
        silence.found(now)
    silence.last = now
    tally.received += 1
    if redelivered:
        tally.redelivered += 1
    if ledger.receive(producer, number, redelivered, seen) and intended:
        latencies = measurement.latencies(intended, now)
        latencies.end_to_end.record(now - intended)
        if 0 < lag < LONGEST_LAG:
            latencies.end_to_end_service.record(now - intended - lag * 1000)
    return _ACK


def receive_copy(owns: Callable[[bytes], bool], tally: Tally, body: bytes, redelivered: bool) -> Answer:
    """What another consumer of the same stream answers for."""
    if owns(body):
        tally.copies += 1
    else:
        tally.foreign += 1
    return _ACK


def shifted(read: Read, shift: int) -> Read:
    """The same for a queue whose copies of the messages have accounts of their own."""
    if not shift:
        return read

    def read_shifted(body: bytes) -> Stamp | None:
        stamp = read(body)
        return stamp if stamp is None else (stamp[0], stamp[1] + shift, stamp[2], stamp[3])

    return read_shifted


def check(bodies: FilledBodyMaker, tally: Tally, take: Receive, body: bytes, redelivered: bool) -> Answer:
    """Counts what didn't arrive as it was sent. Where the stamp is spoilt, too, it is nobody's: foreign."""
    if bodies.owns(body) and not bodies.is_intact(body):
        tally.corrupted += 1
    return take(body, redelivered)


def answer_by_share(
    draw: Callable[[], float], put_back: float, not_taken: float, tally: Tally, take: Receive, body: bytes, again: bool
) -> Answer:
    """Puts some deliveries back, which then have not arrived as far as the ledger knows, and rejects others, which
    have.
    """
    drawn = draw()
    if drawn < put_back:
        tally.received += 1
        tally.redelivered += again
        tally.requeued += 1
        return Answer.REQUEUE
    answer = take(body, again)
    if drawn < not_taken:
        tally.rejected += 1
        return Answer.REJECT
    return answer


def spare_foreign(
    owns: Callable[[bytes], bool], tell: Callable[[], None], take: Receive, body: bytes, redelivered: bool
) -> Answer:
    """Puts back what another party has sent, and takes nothing any more."""
    if owns(body):
        return take(body, redelivered)
    tell()
    return Answer.REQUEUE


def _tell_of_foreign(run: Run, queue: str, stop: Callable[[], None]) -> None:
    run.record.tally.foreign += 1
    run.record.errors.note_name(
        "ForeignMessage", f"{queue} has messages that are not this run's: put back; say --consume-foreign to take them"
    )
    run.enough.set()
    stop()
