"""Which scenario: its name or its file, what happens to the broker meanwhile, and what survives it."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from textwrap import fill
from typing import Any

from loadtest.commands.parsing import typed
from loadtest.scenarios.catalogue import COMMAND, DEFAULT, QUESTION_OF_COMMAND, SCENARIOS
from loadtest.scenarios.completing import parse_backlog, refuse
from loadtest.scenarios.faults import parse_fault
from loadtest.scenarios.layers import Known, Layer, make_layer, named_in, read_file, stack


def add_scenes(parser: argparse.ArgumentParser) -> None:
    """Adds the group's flags."""
    add = parser.add_argument_group("scenario (defaults for the flags, which the command line overrides)").add_argument
    text = "a name from --list-scenarios, or a TOML file with flags as keys (default %(default)s)"
    add("--scenario", metavar="NAME", default=DEFAULT, help=text)
    text = "the scenarios, and which question each answers"
    add("--list-scenarios", action=_ListScenarios, nargs=0, default=argparse.SUPPRESS, help=text)
    text = (
        "messages that are in the queues before the first consumer subscribes, or a size of all their bodies "
        "(100k; 64MiB)"
    )
    add("--backlog", type=typed(_check_backlog), metavar="N", help=text)
    text = "producers and callers connect, publish or call once, close, and begin again"
    add("--churn", action="store_true", help=text)
    text = (
        "'AT ACTION', AT in seconds after measuring began (repeatable): kill-sockets 10%%, pause-consumers 5s, "
        "slow-consumers 5s 10ms; on a private node also stop 5s, restart, alarm 5s"
    )
    form = "'AT ACTION'"
    add("--fault", dest="faults", type=typed(parse_fault), action="append", default=[], metavar=form, help=text)
    text = "clients outlive their connections (rabbitry's Client): what was unknown is published again"
    add("--reconnect", action=argparse.BooleanOptionalAction, default=False, help=text)


class _ListScenarios(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        print(list_scenarios())
        parser.exit()


def list_scenarios() -> str:
    """Each scenario with its question."""
    indent = 12
    questions = {name: scenario.question for name, scenario in SCENARIOS.items()} | {COMMAND: QUESTION_OF_COMMAND}
    return "\n".join(
        fill(f"{name:<{indent}}{question}", 100, subsequent_indent=" " * indent) for name, question in questions.items()
    )


def _check_backlog(text: str) -> str:
    """As it was written: a size of all bodies is a number of messages once their own size is known."""
    parse_backlog(text, 1)
    return text


@dataclass(frozen=True, slots=True)
class Layers:
    """What is below the command line."""

    layers: tuple[Layer, ...]
    workloads: Mapping[str, Layer]
    name: str
    """The scenario's name in the catalogue."""

    def words(self, arguments: Sequence[str], workload: str | None = None) -> list[str]:
        """All of a command line with what is below it, for one workload if there are several."""
        if workload is None:
            return [*stack(self.layers, arguments), f"--scenario={self.name}"]
        closed = {"--mode": ["--mode=closed"]}  # two that seek a rate at once would find each other
        return [*stack((closed, *self.layers, self.workloads[workload]), arguments), f"--scenario={self.name}"]


def find_layers(arguments: Sequence[str], known: Known, of_workloads: Collection[str]) -> Layers:
    """The layers of the scenario that the arguments name. ValueError if there is none such, or it makes no sense."""
    asked_for = _scenario_named(arguments)
    if not asked_for.endswith(".toml"):
        _check_name(asked_for)
        return Layers((make_layer(SCENARIOS[asked_for].flags, known),), {}, asked_for)
    try:
        return _read_layers(Path(asked_for), known, of_workloads)
    except OSError as error:
        raise ValueError(f"--scenario {asked_for}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"--scenario {asked_for}: {error}") from None


def _read_layers(path: Path, known: Known, of_workloads: Collection[str]) -> Layers:
    file = read_file(path.read_text(encoding="utf-8"))
    name = file.flags.get("scenario", DEFAULT)
    _check_name(name)
    workloads = {each: make_layer(flags, known) for each, flags in file.workloads.items()}
    for each, layer in workloads.items():
        for flag in layer:
            refuse(flag not in of_workloads, f"{flag[2:]!r} is for all workloads alike: not in [[workload]] {each!r}")
    flags = {key: value for key, value in file.flags.items() if key != "scenario"}
    return Layers((make_layer(SCENARIOS[name].flags, known), make_layer(flags, known)), workloads, name)


def _scenario_named(arguments: Sequence[str]) -> str:
    """The last one counts, as for every flag."""
    if "--scenario" not in named_in(arguments):
        return DEFAULT
    name = ""
    for number, word in enumerate(arguments):
        flag, equals, value = word.partition("=")
        if flag == "--scenario":
            name = value if equals else next(iter(arguments[number + 1 : number + 2]), "")
    return name


def _check_name(name: object) -> None:
    refuse(name == COMMAND, f"--scenario {name} has flags of its own: python -m loadtest {name} --help")
    near = get_close_matches(str(name), SCENARIOS, 1)
    hint = f" (is it {near[0]}?)" if near else ""
    refuse(
        not isinstance(name, str) or name not in SCENARIOS,
        f"--scenario {name!r} is none{hint}: --list-scenarios has them; a file ends in .toml",
    )
