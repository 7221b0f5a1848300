"""The scenario `sweep`: a closed loop tells the capacity, then open-loop runs at rising shares of it make the curve.

Each step is a run of its own, on one broker for all, so that no step inherits the backlog of the one before. It ends
after two steps that did not put their rate on. The result's sections are those of the step at the knee. An interrupt,
also between two steps, a broker that is gone, and what was to end a run (`--abort-on`) end it with the steps that there
were.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from loadtest.analysis.knee import find_knees
from loadtest.analysis.result import describe_scenario
from loadtest.analysis.thresholds import check_thresholds, parse_threshold
from loadtest.analysis.workloads import with_failures
from loadtest.commands.exits import Unreachable
from loadtest.commands.interrupts import held
from loadtest.execution.queues import QueueRefused
from loadtest.machine.embedded import EmbeddedBroker
from loadtest.machine.preflight import ADMINISTRATION
from loadtest.output.progress import Progress
from loadtest.scenarios.brokers import EMBEDDED
from loadtest.scenarios.settings import Settings
from loadtest.urls import with_vhost
from rabbitry.testing import NodeError, PrivateNode

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1)
"""Of what the closed loop got through."""
PUT_ON = 0.97
"""Share of a step's rate that must have been answered for it to count as put on."""
KNEE_OF = "p90"
"""The percentile of the response whose curve is looked at: a short step has too few samples for a steady p99."""
BEYOND = "the load was not put on"
"""What a step beyond the capacity fails by."""
OVERLOADED = 2
"""Steps in a row that were not put on, after which no higher one is tried."""

Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Performed:
    """What came of a run."""

    result: Result
    failures: list[str]
    """Why it was not all right; empty if it was."""
    is_interrupted: bool


Perform = Callable[[Settings], Performed]


def sweep(settings: Settings, words: Sequence[str], progress: Progress, perform: Perform) -> Performed:
    """All steps, each of them performed."""
    with held() as hold:
        with _a_broker(settings, progress) as urls:
            curve = _make_curve(replace(settings, urls=urls, require=(), mode="closed", rate=None), progress, perform)
            hold.begin()  # the broker takes a moment to end, in which nothing is to be lost
        curve.is_interrupted |= hold.came
        return _join(settings, words, curve)


def _make_curve(base: Settings, progress: Progress, perform: Perform) -> _Curve:
    """The closed loop, and all steps that come of it."""
    progress.say("sweep: a closed loop tells the capacity")
    curve = _Curve(perform(base))
    capacity = curve.closed_rate or 0.0
    try:
        for share in SHARES if capacity and not curve.closed.failures else ():
            if curve.is_over:
                break
            rate = share * capacity
            progress.say(f"sweep: {share:.0%} of {capacity:,.0f}/s")
            rate = round(rate, 1) or rate  # (a rate of 0 would be none)
            curve.add(share, rate, perform(replace(base, mode="paced", rate=rate)))
    except KeyboardInterrupt:  # what was measured until then is the result
        curve.is_interrupted = True
    except (Unreachable, NodeError, QueueRefused) as error:
        curve.ended_by = f"the sweep ended after {len(curve.steps)} steps: {error}"
    return curve


class _Curve:
    """The steps so far, and what ended them."""

    def __init__(self, closed: Performed) -> None:
        self.closed = closed
        self.closed_rate: float | None = _section(closed.result)["rate"]
        self.runs: list[Performed] = []
        self.steps: list[dict[str, Any]] = []
        self.is_interrupted = closed.is_interrupted
        self.aborted: dict[str, Any] | None = None
        """What was true that was not to be, and ended it."""
        self.kept: dict[str, dict[str, Any]] = {}
        """What became of each expression that was to end it, by how it is told: of the first run in which it was true.
        """
        self.ended_by: str | None = None
        """Why no further step could be made, if that is so."""
        self._heed(closed.result, "in the closed loop")

    def add(self, share: float, rate: float, step: Performed) -> None:
        """A step was made."""
        self.runs.append(step)
        self.steps.append(_describe_step(share, rate, step.result))
        self.is_interrupted |= step.is_interrupted
        self._heed(step.result, f"at {rate:,g}/s")

    def _heed(self, result: Result, where: str) -> None:
        """A run, for which nothing else is required than what was not to be true of it."""
        for each in result["requirements"]:
            known = self.kept.get(each["requirement"])
            if known is None or known["holds"]:
                note = each["note"] if each["holds"] else f"{each['note']}, {where}"
                self.kept[each["requirement"]] = {**each, "note": note}
        if self.aborted is None and (aborted := result["aborted"]) is not None:
            self.aborted = {**aborted, "note": f"{aborted['note']}, {where}"}

    @property
    def is_over(self) -> bool:
        """Whether a higher rate is no use, or is not to be tried."""
        missed = [step["put_on"] for step in self.steps[-OVERLOADED:]] == [False] * OVERLOADED
        return missed or self.is_interrupted or not all(each["holds"] for each in self.kept.values())

    @property
    def failures(self) -> list[str]:
        """Why it was not all right: that a step's rate was too much for the broker is what a sweep is to find, where a
        lower one was not.
        """
        found, was_put_on = list(self.closed.failures), False
        for run, step in zip(self.runs, self.steps, strict=True):
            found += [text for text in run.failures if not (was_put_on and BEYOND in text)]
            was_put_on |= step["put_on"]
        return list(dict.fromkeys([*found, *filter(None, (self.ended_by,))]))


@contextmanager
def _a_broker(settings: Settings, progress: Progress) -> Iterator[tuple[str, ...]]:
    """The broker named, or one of our own for all steps."""
    if settings.urls:
        yield settings.urls
        return
    connections = settings.connections + settings.servers
    if settings.broker == EMBEDDED:
        progress.say("starting the embedded broker")
        with EmbeddedBroker(connections=connections, vhost=settings.vhost) as broker:
            yield (with_vhost(broker.url, settings.vhost),)
        return
    progress.say("starting a private RabbitMQ node")
    with PrivateNode(connections=connections + ADMINISTRATION) as node:
        if settings.vhost is not None:
            make_vhost(node, settings.vhost)
        yield (with_vhost(node.url, settings.vhost),)


def make_vhost(node: PrivateNode, vhost: str) -> None:
    """Makes a virtual host of our own broker. NodeError if it doesn't."""
    try:
        node.rabbitmqctl("add_vhost", vhost)
        node.rabbitmqctl("set_permissions", "-p", vhost, "guest", ".*", ".*", ".*")
    except subprocess.TimeoutExpired as error:
        raise NodeError(f"the virtual host {vhost!r} could not be made within {error.timeout:g} s") from None


# --- what came of it ----------------------------------------------------------------------------------------------


def _section(result: Result) -> dict[str, Any]:
    """What the steps are about: publishing, or RPC where nobody publishes."""
    section: dict[str, Any] = result["publish"] or result["rpc"]
    return section


def _response(result: Result) -> dict[str, Any]:
    publish, rpc = result["publish"], result["rpc"]
    response: dict[str, Any] | None = publish["confirm_latency_ms"] if publish else rpc["latency_ms"]
    return response or {}


def _describe_step(share: float, rate: float, result: Result) -> dict[str, Any]:
    achieved, resources = _section(result)["rate"] or 0.0, result["resources"]
    return {
        "share": share,
        "rate": rate,
        "achieved_rate": achieved,
        "put_on": achieved >= PUT_ON * rate,
        "response_ms": _response(result),
        "end_to_end_ms": (result["consume"] or {}).get("end_to_end_latency_ms"),
        "client_cpu_seconds": resources["client_cpu_seconds"],
        "broker_cpu_seconds": resources["broker_cpu_seconds"],
        "verdict": result["verdict"]["status"],
    }


def _join(settings: Settings, words: Sequence[str], curve: _Curve) -> Performed:
    """The result of the step at the knee, or of the highest that was put on, with the `sweep` section."""
    closed, runs, steps = curve.closed, curve.runs, curve.steps
    points = [(step["rate"], step["response_ms"].get(KNEE_OF)) for step in steps]
    knees = find_knees([(rate, latency) for rate, latency in points if latency is not None])
    put_on = [number for number, step in enumerate(steps) if step["put_on"]]
    chosen = next(
        (number for number in put_on if knees and steps[number]["rate"] == knees[0].rate), max(put_on, default=None)
    )
    result = dict((closed if chosen is None else runs[chosen]).result)
    found = [asdict(check) for check in check_thresholds(result, [parse_threshold(text) for text in settings.require])]
    result |= {
        "scenario": describe_scenario(settings, words),
        "interrupted": curve.is_interrupted,
        "aborted": curve.aborted,
        "requirements": [*found, *curve.kept.values()],
        "sweep": {
            "closed_rate": curve.closed_rate,
            "steps": steps,
            "knees": [asdict(knee) for knee in knees],
            "knee_of": KNEE_OF,
            "shown_rate": None if chosen is None else steps[chosen]["rate"],
        },
    }
    return Performed(with_failures(result, curve.failures), curve.failures, curve.is_interrupted)
