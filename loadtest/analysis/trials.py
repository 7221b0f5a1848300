"""Several trials' results made one: each trial's sections, and at the top those of the one in the middle.

Trials don't add up: what was lost is the sum of all, but a rate or a percentile is of one run. So the top has the trial
whose rate is the median where all trials are of one kind, and null where they aren't. Pure: results in, a result out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from loadtest.scenarios.brokers import EMBEDDED, NOTICE, recorded_kind
from loadtest.scenarios.variations import Trial, name_cell

Result = Mapping[str, Any]

_KEPT = (
    "run_id",
    "started_at",
    "loop",
    "interrupted",
    "connect",
    "publish",
    "consume",
    "rpc",
    "resources",
    "capacity",
    "requirements",
)
"""What of a result a trial keeps: neither its timeline nor its histograms, which its own file has."""
_OF_ONE_RUN = ("loop", "connect", "publish", "consume", "rpc", "resources", "capacity")
_MAIN = (("capacity", "sustainable_rate"), ("publish", "rate"), ("consume", "rate"), ("rpc", "rate"))
"""What a trial is placed by, among others: the first that there is."""


def keep(trial: Trial, result: Result, failures: Sequence[str]) -> dict[str, Any]:
    """What is kept of one trial."""
    kept = {name: result[name] for name in _KEPT if name in result}
    environment, scenario = result["environment"], result["scenario"]
    return {
        "round": trial.round,
        "cell": dict(trial.cell),
        "seed": environment.get("seed"),
        "verdict": result["verdict"],
        "failures": list(failures),
        "environment": {name: environment.get(name) for name in ("broker", "backend", "cpu", "cores", "commit")},
        "command": scenario.get("command"),
        **kept,
    }


def join_trials(
    trials: Sequence[tuple[dict[str, Any], Result]], asked: Mapping[str, Any], *, interrupted: bool, ended: str = ""
) -> dict[str, Any]:
    """One result of all trials, of which there is one at least: what `keep` kept, each with its whole result.

    `asked` is what the scenario says of them all, `ended` why there are fewer than it asks for.
    """
    kept = [each for each, _ in trials]
    cells = {tuple(each["cell"].items()) for each in kept}
    middle = sorted(trials, key=lambda trial: _main_rate(trial[1]))[len(trials) // 2][1]
    first = min(kept, key=lambda each: (each["started_at"], each["run_id"]))
    joined = dict(middle) | {
        "run_id": f"{first['run_id']}.trials",  # the trials have files of their own
        "started_at": first["started_at"],
        "interrupted": interrupted,
        "incomplete": [*_incomplete(trials), *([ended] if ended else [])],
        "trials": kept,
    }
    joined["scenario"] = {**middle["scenario"], **asked}
    joined["errors"] = dict(sum((Counter(result["errors"]) for _, result in trials), Counter()))
    joined["requirements"] = [_in_cell(trial, each) for trial in kept for each in trial["requirements"]]
    joined["verdict"] = _join_verdicts(kept)
    if len(cells) > 1:
        joined |= dict.fromkeys(_OF_ONE_RUN) | {"phases": [], "timeline": [], "histograms": {}}
    return joined


def _incomplete(trials: Sequence[tuple[dict[str, Any], Result]]) -> list[str]:
    """What is missing from any of them."""
    return list(dict.fromkeys(text for _, result in trials for text in result.get("incomplete") or ()))


def _in_cell(trial: Mapping[str, Any], finding: Mapping[str, Any]) -> dict[str, Any]:
    """What became of a requirement in a trial, which its note names."""
    where = f"round {trial['round'] + 1}, {name_cell(tuple(trial['cell'].items()))}"
    return {**finding, "note": f"{finding['note']}; {where}", "trial": where}


def _main_rate(result: Result) -> float:
    for section, name in _MAIN:
        value = (result.get(section) or {}).get(name)
        if value is not None:
            return float(value)
    return 0.0


def _join_verdicts(trials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`failed` if a trial did, else the verdict of most; and how many had which."""
    counts = Counter(str(trial["verdict"]["status"]) for trial in trials).most_common()
    status = "failed" if "failed" in dict(counts) else counts[0][0]
    evidence = [f"{number} of {len(trials)} trials: {name}" for name, number in counts]
    if any(recorded_kind(trial["environment"]["broker"]) == EMBEDDED for trial in trials):
        evidence.append(f"broker: {NOTICE}")
    return {"status": status, "evidence": evidence}
