"""All parts of one run, added up to the record of the whole: counts, histograms, accounts, never percentiles.

A message that one worker sent and another received counts once, as the accounts are of producers, whoever heard of
their messages. It is the same function for what comes over the bus and for files read later, so both give one result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from loadtest.fleet.crossing import Crossing
from loadtest.fleet.parts import CoordinatorPart, MemberPart, PartRefused, WorkerPart, record_of
from loadtest.metrics.record import Record, Stock
from loadtest.metrics.tally import Errors

MOST_WORKERS = 10_000


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
    def of_lost_workers(self) -> int:
        """How many messages arrived at the workers whose parts are here, from producers of those whose are not."""
        return sum(len(account.arrived) for account in self.record.ledger.accounts if not account.sent)

    @property
    def is_complete(self) -> bool:
        """Whether all workers were there to the end."""
        return all(member.status == "finished" for member in self.members)


def pool(workers: Sequence[WorkerPart], own: CoordinatorPart | None) -> Pooled:
    """Adds up the parts of one run. PartRefused if they are of several, or two of them are one worker's."""
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
        _tell_of_the_whole(whole, own, parts)
    members = own.members if own is not None else _members_of(workers)
    return Pooled(whole, crossing, members, records, parts, None if own is None else dict(own.control))


def _tell_of_the_whole(whole: Record, own: CoordinatorPart, parts: Mapping[int, WorkerPart]) -> None:
    """What the coordinator alone knows. PartRefused if that can't be read."""
    try:
        whole.broker = dict(own.broker)
        whole.is_interrupted = own.is_interrupted
        whole.capacity = None if own.capacity is None else dict(own.capacity)
        whole.management = None if own.management is None else dict(own.management)
        whole.aborted = None if own.aborted is None else dict(own.aborted)
        whole.stock = None if own.stock is None else Stock(**own.stock)
        if own.errors:
            whole.errors.merge(Errors.from_plain(dict(own.errors)))
    except (ValueError, TypeError, KeyError) as error:
        raise PartRefused(f"the coordinator's part: {error!r}") from None
    came_later = any(member.status == "lost" and member.number in parts for member in own.members)
    if whole.stock is not None and came_later:
        # it was counted without what such a one knows: then only nothing missing says that nothing is lost
        whole.stock.lost = None if whole.ledger.balance().missing else 0


def _by_number(workers: Sequence[WorkerPart]) -> dict[int, WorkerPart]:
    parts: dict[int, WorkerPart] = {}
    for part in sorted(workers, key=lambda part: part.number):
        if not 0 <= part.number < part.of <= MOST_WORKERS or part.of != workers[0].of:
            raise PartRefused(f"there is no worker {part.number} of {part.of} beside one of {workers[0].of}")
        if parts.get(part.number, part) != part:
            raise PartRefused(f"there are two parts of worker {part.number}, and they are not the same")
        parts[part.number] = part  # (who has it twice, from the worker and from the coordinator, counts it once)
    return parts


def _own_record(part: WorkerPart) -> Record:
    record = record_of(part)
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
