"""`--repeat` and `--vary`: the same load test several times, each in a process of its own, in turns.

All trials meet the same broker: the one that was named, or one private node, where each has a virtual host of its own.
The embedded broker each of them starts for itself: all that it has would be as new in any case.
Whoever interrupts the whole interrupts the trial that runs: what was measured until then is the result, as it is where
a trial can't run any more.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from loadtest.analysis.failures import failures
from loadtest.analysis.trials import join_trials, keep
from loadtest.analysis.workloads import with_failures
from loadtest.commands.exits import FAILED, INCOMPLETE, INTERRUPTED, NO_BROKER, NOT_REACHED, USAGE
from loadtest.commands.flags import make_parser, parse_settings
from loadtest.commands.sweeping import Performed, make_vhost
from loadtest.machine.preflight import ADMINISTRATION
from loadtest.output.console import Speaker
from loadtest.output.files import as_json, write_whole
from loadtest.scenarios.brokers import EMBEDDED
from loadtest.scenarios.completing import refuse
from loadtest.scenarios.layers import Takes
from loadtest.scenarios.settings import Settings
from loadtest.scenarios.variations import (
    NO,
    Cell,
    drop_flags,
    make_cells,
    name_cell,
    order_trials,
    parse_variation,
    write_cell,
)
from loadtest.urls import redact, redact_in, with_vhost
from rabbitry.testing import NodeError, PrivateNode

FIXED = {
    "abort-on", "broker", "consume-url", "help", "json", "label", "list-drivers", "list-scenarios", "management",
    "metrics", "output", "publish-url", "quiet", "repeat", "require", "seed", "url", "vary", "vhost", "yes",
}  # fmt: skip
"""What is the same in all trials: where they run and what becomes of the result."""
_OURS = {"json", "output", "quiet", "repeat", "seed", "vary"}
"""What a trial's own command line is without."""
_GOES_ON = (0, FAILED, NOT_REACHED, INCOMPLETE)
"""A trial's exit codes after which the next one may run."""


class VariationRefused(Exception):
    """What is to be varied makes no sense."""


class TrialEnded(Exception):
    """A trial could not run, so that the others need not try."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


def plan_trials(settings: Settings, words: Sequence[str]) -> dict[Cell, Settings]:
    """The cells, each with the settings of its trials. VariationRefused, or SystemExit(2) with a message on stderr, if
    one of them makes no sense.
    """
    try:
        variations = [parse_variation(text) for text in settings.vary]
        for flag in (variation.flag for variation in variations):
            _check_flag(flag)
            refuse(flag in FIXED, f"--vary {flag}: this can't differ between the trials of one result")
        cells = {cell: _words_of(cell, words) for cell in make_cells(variations)}
    except ValueError as error:
        raise VariationRefused(str(error)) from None
    asked = {cell: parse_settings(own, os.environ) for cell, own in cells.items()}
    for cell, each in asked.items():
        for flag, value in cell:
            if value == NO and getattr(each, flag.replace("-", "_"), None) is True:
                raise VariationRefused(f"--vary {flag}: the scenario has it, and nothing says that it shall not")
    return asked


def _words_of(cell: Cell, words: Sequence[str]) -> list[str]:
    """The command line of a cell's trials, but for where they run: what it varies is not in it twice."""
    switches = _switches()
    return [*drop_flags(words, _OURS | {flag for flag, _ in cell}, switches), *write_cell(cell, switches)]


def _switches() -> set[str]:
    """The names of the flags that are there or not."""
    return {flag.removeprefix("--") for flag, takes in make_parser().flags.items() if takes is Takes.NOTHING}


def _check_flag(flag: str) -> None:
    """Refuses what is no flag, with the nearest one."""
    known = [each.removeprefix("--") for each in make_parser().flags]
    near = get_close_matches(flag.replace("_", "-"), known, 1)
    hint = f" (is it --{near[0]}?)" if near else ""
    refuse(flag not in known, f"--vary {flag}: there is no flag --{flag}{hint}")


def try_all(settings: Settings, words: Sequence[str], cells: Mapping[Cell, Settings], console: Speaker) -> Performed:
    """Runs all trials. TrialEnded or NodeError if the first can't run; KeyboardInterrupt if it was interrupted before
    one had measured. What ends it later leaves the trials that had run: they are the result.
    """
    trials = order_trials(list(cells), settings.repeat, settings.seed)
    done: list[tuple[dict[str, Any], dict[str, Any]]] = []
    is_interrupted, ended, unsaved = False, "", list[str]()
    try:
        with _broker(settings, cells.values(), console) as node:
            for number, trial in enumerate(trials, 1):
                what = f"trial {number} of {len(trials)}"
                if not settings.quiet:
                    which = f"round {trial.round + 1} of {settings.repeat}, {name_cell(trial.cell)}"
                    console.print(f"{what}: {which}", markup=False, soft_wrap=True)
                with _place(settings, node, number) as place:
                    own = [*_words_of(trial.cell, words), *place, "--seed", str(settings.seed + trial.round)]
                    result, is_interrupted = _run(own)
                    if result is not None:  # kept before anything else can fail, or be interrupted
                        if node is not None:
                            result["environment"]["broker"]["private_node"] = True
                        done.append((keep(trial, result, failures(result)), result))
                        unsaved += _save(result, settings.output)
                        if not settings.quiet:
                            console.print(f"          {_short(result)}", markup=False, soft_wrap=True)
                if is_interrupted:
                    break
    except KeyboardInterrupt:  # between two trials
        is_interrupted = True
    except (TrialEnded, NodeError, OSError, subprocess.TimeoutExpired) as error:
        if not done and isinstance(error, OSError):  # of the system: no place for a result, no process to be had
            raise TrialEnded(f"no trial could run: {error}", FAILED) from None
        if not done:
            raise
        ended = f"the trials ended after {len(done)} of {len(trials)}: {redact_in(str(error), words)}"
    if not done:
        raise KeyboardInterrupt
    order = list(cells)
    done.sort(key=lambda trial: (trial[0]["round"], order.index(tuple(trial[0]["cell"].items()))))
    asked = {
        "repeat": settings.repeat,
        "vary": list(settings.vary),
        "command": shlex.join(["python", "-m", "loadtest", *map(redact, words)]),
    }
    joined = with_failures(join_trials(done, asked, interrupted=is_interrupted, ended=ended), unsaved)
    found = [f"{name_cell(tuple(each['cell'].items()))}: {text}" for each, _ in done for text in each["failures"]]
    return Performed(joined, list(dict.fromkeys([*unsaved, *found])), is_interrupted)


@contextmanager
def _broker(settings: Settings, cells: Iterable[Settings], console: Speaker) -> Iterator[PrivateNode | None]:
    """A private node that bears the largest cell, unless a broker was named, or each trial starts its own."""
    if settings.urls or settings.broker == EMBEDDED:
        yield None
        return
    if not settings.quiet:
        console.print("starting a private RabbitMQ node", markup=False)
    with PrivateNode(connections=max(cell.connections + cell.servers for cell in cells) + ADMINISTRATION) as node:
        yield node


@contextmanager
def _place(settings: Settings, node: PrivateNode | None, number: int) -> Iterator[list[str]]:
    """The words that name a trial's broker, on a private node in a virtual host of its own."""
    if node is None:
        yield ["--broker", EMBEDDED] if settings.broker == EMBEDDED else []
        return
    vhost = f"trial-{number}"
    make_vhost(node, vhost)
    try:
        yield ["--url", with_vhost(node.url, vhost)]
    finally:
        node.rabbitmqctl("delete_vhost", vhost)


def _run(words: Sequence[str]) -> tuple[dict[str, Any] | None, bool]:
    """One trial's result, None if it was interrupted too early, and whether it was interrupted."""
    with tempfile.TemporaryDirectory(prefix="loadtest-trial-") as folder:
        file = Path(folder, "result.json")
        ours = ["--json", str(file), "--quiet", "--yes"]  # who had to be asked was
        child = subprocess.Popen(  # in a session of its own: what the terminal tells all at once reaches it but once
            [sys.executable, "-m", "loadtest.commands.trial", *words, *ours],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        is_interrupted = False
        while True:
            try:
                _, said = child.communicate()
                break
            except KeyboardInterrupt:
                child.send_signal(signal.SIGINT)
                is_interrupted = True
        is_interrupted |= child.returncode == INTERRUPTED
        is_written = file.exists()
        if not is_interrupted and not (is_written and child.returncode in _GOES_ON):
            code = child.returncode if child.returncode in (USAGE, NO_BROKER, INCOMPLETE) else FAILED
            ended = f"a trial ended with {child.returncode}" + ("" if is_written else ", and without a result")
            raise TrialEnded(said.strip().removeprefix("loadtest: ") or ended, code)
        return json.loads(file.read_text(encoding="utf-8")) if is_written else None, is_interrupted


def _save(result: Mapping[str, Any], folder: Path | None) -> list[str]:
    """Writes a trial's whole result beside that of all: its timeline and histograms are in none other. Why it could not
    be written, if it could not.
    """
    if folder is None:
        return []
    try:
        write_whole(Path(folder, f"{result['run_id']}.json"), as_json(result))
    except OSError as error:
        return [f"the whole result of a trial could not be written: {error}"]
    return []


def _short(result: Mapping[str, Any]) -> str:
    publish, rpc = result["publish"] or {}, result["rpc"] or {}
    rate = publish.get("rate") or rpc.get("rate")
    told = "nothing was measured" if rate is None else f"{rate:,.0f}/s"
    return f"{told}, {result['verdict']['status']}"
