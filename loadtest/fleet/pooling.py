"""All parts of one run, added up to the record of the whole: counts, histograms, accounts, never percentiles.

A message that one worker sent and another received counts once, as the accounts are of producers, whoever heard of
their messages. It is the same function for what comes over the bus and for files read later, so both give one result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from loadtest.fleet.crossing import Crossing
from loadtest.fleet.parts import CoordinatorPart, MemberPart, PartRefused, WorkerPart
from loadtest.metrics.record import Record, Stock
from loadtest.metrics.tally import Errors


@dataclass(frozen=True, slots=True)
class Pooled:
    """What all parts come to."""

    record: Record
    crossing: Crossing
    members: Sequence[MemberPart]
    """Each worker that there should have been, by its number."""
    records: dict[int, Record]
    """Each worker's own record, where it is known."""
    parts: dict[int, WorkerPart]
    control: dict[str, Any] | None

    @property
    def is_complete(self) -> bool:
        """Whether all workers were there to the end."""
        return all(member.status == "finished" for member in self.members)


def pool(workers: Sequence[WorkerPart], own: CoordinatorPart | None) -> Pooled:
    """Adds up the parts of one run. PartRefused if they are of several, or one of them comes twice."""
    if not workers and own is None:
        raise PartRefused("there is nothing to put together")
    parts = _by_number(workers)
    run_id = own.run_id if own is not None else workers[0].run_id
    if strange := {part.run_id for part in workers} - {run_id}:
        raise PartRefused(f"parts of several runs don't add up: {', '.join(sorted({run_id, *strange}))}")
    records = {number: _own_record(part) for number, part in parts.items()}
    _know_the_brokers_host(records, parts)
    started_at = own.started_at if own is not None else min(record.started_at for record in records.values())
    whole = Record(run_id=run_id, started_at=started_at)
    crossing = Crossing()
    for number, record in records.items():
        whole.merge(record)
        if parts[number].crossing:
            crossing.merge_plain(parts[number].crossing)
    settings = own.settings if own is not None else workers[0].settings
    whole.ledger.spread(settings["producers"])
    if own is not None:
        whole.broker = dict(own.broker)
        whole.is_interrupted = own.is_interrupted
        whole.capacity = None if own.capacity is None else dict(own.capacity)
        whole.stock = None if own.stock is None else Stock(**own.stock)
        if own.errors:
            whole.errors.merge(Errors.from_plain(dict(own.errors)))
    members = own.members if own is not None else _members_of(workers)
    return Pooled(whole, crossing, members, records, parts, None if own is None else dict(own.control))


def _by_number(workers: Sequence[WorkerPart]) -> dict[int, WorkerPart]:
    parts: dict[int, WorkerPart] = {}
    for part in sorted(workers, key=lambda part: part.number):
        if part.number in parts:
            raise PartRefused(f"the part of worker {part.number} is there twice")
        parts[part.number] = part
    return parts


def _own_record(part: WorkerPart) -> Record:
    try:
        record = Record.from_plain(dict(part.record))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise PartRefused(f"the record of worker {part.number}: {error}") from None
    record.is_interrupted &= part.status == "finished"  # who left has not interrupted the others
    return record


def _know_the_brokers_host(records: dict[int, Record], parts: dict[int, WorkerPart]) -> None:
    """Where a worker saw the broker's process, workers on other hosts share no cores with it."""
    hosts = {
        parts[number].host
        for number, record in records.items()
        if any(cost.broker_cpu_seconds is not None for cost in record.costs)
    }
    for number, record in records.items():
        if hosts and parts[number].host not in hosts:
            record.costs = [replace(cost, shared_cores=0.0) for cost in record.costs]


def _members_of(workers: Sequence[WorkerPart]) -> list[MemberPart]:
    """What can be said without the coordinator: who is here, and who isn't."""
    known = {
        part.number: MemberPart(
            number=part.number, name=part.name, host=part.host, pid=0, cores=0, status=part.status, reason=part.reason
        )
        for part in workers
    }
    missing = "its part is not among the files"
    return [
        known.get(number)
        or MemberPart(number=number, name="", host="", pid=0, cores=0, status="missing", reason=missing)
        for number in range(max(part.of for part in workers))
    ]
