"""The result of several workloads that ran at once on one broker: a section set for each, and their sum above them.

What can't be summed is null: the loop, where they differ. What a process or the broker used is told once, for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loadtest.analysis.failures import failures
from loadtest.analysis.result import build_result
from loadtest.metrics.ledger import Ledger
from loadtest.metrics.record import Record
from loadtest.scenarios.settings import Settings

_OF_EACH = (
    *("run_id", "loop", "scenario", "connect", "publish", "consume", "rpc", "backlog", "faults", "requirements"),
    *("errors", "error_examples", "timeline", "histograms"),
)
_OF_ONE_LOOP = {
    "publish": ("planned", "skipped", "confirm_service_ms", "lag_ms"),
    "rpc": ("planned", "skipped", "service_ms"),
}


def join_results(
    settings: Settings, records: Sequence[Record], environment: Mapping[str, Any], arguments: Sequence[str]
) -> dict[str, Any]:
    """The whole result. `records` are those of `settings.workloads`; those given are changed."""
    workloads = []
    for asked, record in zip(settings.workloads, records, strict=True):
        own = build_result(asked, record, environment, arguments)
        workloads.append({"name": asked.workload, **{key: own[key] for key in _OF_EACH}, "failures": failures(own)})
    result = build_result(settings, join_records(records), environment, arguments)
    loops = {asked.loop for asked in settings.workloads}
    result["loop"] = loops.pop() if len(loops) == 1 else None
    result["workloads"] = workloads
    if result["loop"] is None:  # some of the messages alone have these
        for section, names in _OF_ONE_LOOP.items():
            if result[section]:
                result[section] = {**result[section], **dict.fromkeys(names)}
    return with_failures(result, failures(result))


def with_failures(result: dict[str, Any], found: Sequence[str]) -> dict[str, Any]:
    """The result, whose verdict also tells of what failed in a part of it."""
    verdict = result["verdict"]
    missing = [text for text in (f"failed: {each}" for each in found) if text not in verdict["evidence"]]
    if missing:
        result["verdict"] = {**verdict, "status": "failed", "evidence": [*missing, *verdict["evidence"]]}
    return result


def join_records(records: Sequence[Record]) -> Record:
    """One record of all: their messages are different ones, so that accounts stand side by side."""
    first = records[0]
    total = Record(run_id=first.run_id.rpartition(".")[0], started_at=first.started_at)
    accounts, calls = Ledger(0), list[int]()
    for record in records:
        accounts.accounts += record.ledger.accounts
        accounts.unique += record.ledger.unique
        accounts.found += record.ledger.found
        calls += record.calls_made
        plain = Record.from_plain(record.to_plain())
        plain.run_id, plain.ledger, plain.calls_made = total.run_id, Ledger(0), []
        plain.costs = plain.costs if record is first else []
        total.merge(plain)
    total.ledger, total.calls_made = accounts, calls
    return total
