"""Was the load put on, and was all of it counted? If not, the run failed: exit code 1, and the reasons.

A run that was interrupted fails only by what went wrong until then. Small shares of refused or late messages fail no
run; they are blemishes, which the summary tells. Pure: from the result's sections alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from loadtest.analysis.scenes import scene_failures
from loadtest.analysis.traffic import find_failures, is_beside_others, is_done

PUT_ON = 0.99
"""Share of a plan that must have been sent, and of what was sent that must have been taken, or answered."""
MOMENT = 0.25
"""Seconds by which who sends may be behind the plan at its very end."""
MEASURED = 0.98
"""Share of the time asked for that must have been measured."""

Result = Mapping[str, Any]
Section = Mapping[str, Any]

_REFUSED = {"nacked": "were nacked", "returned": "were returned"}
_UNANSWERED = {"timeouts": "got no reply in time", "errors": "failed"}


def failures(result: Result) -> list[str]:
    """Why a run was not all right; empty if it was."""
    found = [*_connections(result), *_losses(result), *find_failures(result), *scene_failures(result)]
    if not result["interrupted"] and not result.get("aborted"):
        found += [*_time(result), *_publishing(result), *_consuming(result), *_calling(result)]
    return found


def blemishes(result: Result) -> list[str]:
    """What else did not end well, too little to fail the run."""
    publish, rpc = result["publish"] or {}, result["rpc"] or {}
    is_cut_short = result["interrupted"] or result.get("aborted")
    found = [
        f"{publish[name]:,} of {publish['sent']:,} publishes {text}"
        for name, text in _REFUSED.items()
        if publish.get(name) and (is_cut_short or not _is_much(publish[name], publish["sent"]))
    ]
    if is_cut_short and publish.get("unknown"):
        found.append(f"{publish['unknown']:,} of {publish['sent']:,} publishes ended unknown")
    found += [
        f"{rpc[name]:,} of {rpc['calls']:,} calls {text}"
        for name, text in _UNANSWERED.items()
        if rpc.get(name) and (is_cut_short or not _is_much(rpc[name], rpc["calls"]))
    ]
    return found


def _is_much(number: int, of: int) -> bool:
    return number > (1 - PUT_ON) * of


def _connections(result: Result) -> Iterator[str]:
    connect, rpc, consume = result["connect"], result["rpc"], result["consume"]
    if connect["failed"]:
        yield f"{connect['failed']:,} connections failed"
    if connect["dropped"]:
        yield f"{connect['dropped']:,} connections dropped"
    if rpc and rpc["servers_lost"]:
        yield f"{rpc['servers_lost']:,} RPC servers lost"
    if consume and consume.get("cancelled"):
        yield f"{consume['cancelled']:,} consumers cancelled by the broker"


def _losses(result: Result) -> Iterator[str]:
    consume = result["consume"]
    if not consume:
        return
    if consume["lost"]:
        yield f"{consume['lost']:,} messages lost"
    if result["interrupted"] or result.get("aborted") or result.get("incomplete"):
        # (of a lost worker's messages nothing is known)
        return
    if is_beside_others(result):
        return
    if consume["lost"] is None:
        yield "whether messages were lost could not be counted"
    elif consume["backlog"] is None:
        yield "what is left in the queues could not be counted"


def _time(result: Result) -> Iterator[str]:
    asked = result["scenario"].get("duration")
    measured = sum(phase["seconds"] for phase in result["phases"] if phase["name"] == "measure")
    if asked and measured < MEASURED * asked and not is_done(result):
        yield f"only {measured:.1f} of {asked:.1f} s were measured: nobody was left to go on"


def _publishing(result: Result) -> Iterator[str]:
    publish = result["publish"]
    if not publish:
        return
    yield from _plan(result, publish, "messages were sent")
    if publish["unknown"]:
        yield f"{publish['unknown']:,} of {publish['sent']:,} publishes ended unknown, without an answer"
    for name, text in _REFUSED.items():
        if _is_much(publish[name], publish["sent"]):
            yield f"the load was not put on: {publish[name]:,} of {publish['sent']:,} publishes {text}"
    if publish["rate"] == 0 and publish["planned"] != 0:
        yield "the load was not put on: nothing was confirmed while it was measured"


def _consuming(result: Result) -> Iterator[str]:
    consume, publish = result["consume"], result["publish"]
    is_told = result["connect"]["dropped"] or (consume and consume.get("cancelled"))
    if consume and consume["rate"] == 0 and publish and publish["rate"] and not is_told:
        yield "nothing was received while it was measured"


def _calling(result: Result) -> Iterator[str]:
    rpc = result["rpc"]
    if not rpc:
        return
    yield from _plan(result, rpc, "calls were made")
    for name, text in _UNANSWERED.items():
        if _is_much(rpc[name], rpc["calls"]):
            yield f"the load was not put on: {rpc[name]:,} of {rpc['calls']:,} calls {text}"
    if rpc.get("unanswered"):
        yield f"{rpc['unanswered']:,} calls had no answer when the run ended"
    if rpc["rate"] == 0 and rpc["planned"] != 0:
        yield "the load was not put on: nothing was replied while it was measured"


def _plan(result: Result, section: Section, text: str) -> Iterator[str]:
    planned, skipped = section["planned"], section["skipped"]
    phases = {phase["name"]: phase["seconds"] for phase in result["phases"]}
    seconds = phases.get("settle", phases.get("warmup", 0.0)) + phases.get("measure", 0.0)
    if planned and _is_much(skipped, planned) and skipped * seconds > planned * MOMENT:
        yield f"the load was not put on: {planned - skipped:,} of {planned:,} planned {text}"
