"""Every flag of a run, as it is written, explained and read: a module for each group of them.

It owns the fixed names of the flags, and turns a command line into complete settings, or into a message and exit code
2. A flag that would do nothing does not exist. What goes together is decided in `loadtest.scenarios.completing`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from loadtest.commands.flags.answer import add_answer
from loadtest.commands.flags.broker import add_broker, check_broker
from loadtest.commands.flags.clients import add_clients
from loadtest.commands.flags.fleet import add_fleet, check_fleet
from loadtest.commands.flags.load import add_load
from loadtest.commands.flags.measuring import add_measuring, check_expressions, check_measuring
from loadtest.commands.flags.phases import add_phases
from loadtest.commands.flags.results import add_results
from loadtest.commands.flags.scenes import Layers, add_scenes, find_layers
from loadtest.commands.flags.traffic import add_answers, add_existing, add_messages, read_traffic
from loadtest.commands.flags.trials import add_trials
from loadtest.commands.flags.way import add_way, check_driver
from loadtest.commands.parsing import Parser, pairs, read_value
from loadtest.scenarios.completing import Asked, complete, refuse
from loadtest.scenarios.settings import Settings
from loadtest.scenarios.workloads import join_workloads


def make_parser() -> Parser:
    """The parser behind `--help`."""
    parser = Parser(
        prog="loadtest",
        usage="python -m loadtest [options]",
        description="Load-test RabbitMQ: clients connect, warm up, are measured, drain; each message is accounted for.",
        epilog="Exit codes: 0 all well, 1 messages lost, connections failed or a load not put on, 2 wrong usage, 3 a "
        "requirement not reached, 4 no broker, 5 incomplete (a worker was lost, or trials could not run), 130 "
        "interrupted (and what was measured is reported). Numbers take k and m, sizes kB and KiB, durations ms, s, m "
        "and h.",
        allow_abbrev=False,
    )
    add_scenes(parser)
    add_clients(parser)
    add_answer(parser)
    add_phases(parser)
    add_load(parser)
    add_messages(parser)
    add_answers(parser)
    add_broker(parser)
    add_existing(parser)
    add_way(parser)
    add_fleet(parser)
    add_trials(parser)
    add_measuring(parser)
    add_results(parser)
    return parser


def parse_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """The settings of a command line. SystemExit(2), with a message on stderr, if it makes no sense; 0 for --help."""
    parser = make_parser()
    parser.words = (*arguments, environment.get("RABBITMQ_URL", ""))
    try:
        of_workloads = Parser(allow_abbrev=False)
        for add_group in (add_clients, add_load, add_messages, add_answers):
            add_group(of_workloads)
        layers = find_layers(arguments, make_parser().flags, {*of_workloads.flags, "--backlog"})
        settings = _parse_layers(parser, layers, arguments, environment)
        check_expressions(settings)
        return settings
    except ValueError as error:
        parser.error(str(error))


def _parse_layers(parser: Parser, layers: Layers, arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """The settings of the run, or of several workloads together."""
    if not layers.workloads:
        return _complete(parser, layers.words(arguments), environment)
    refuse(layers.name == "sweep", "--scenario: a sweep takes no [[workload]]")
    workloads = [
        replace(_complete(parser, layers.words(arguments, name), environment), workload=name)
        for name in layers.workloads
    ]
    refuse(workloads[0].calibrate, "--calibrate with [[workload]]s: each is a load of its own; calibrate one alone")
    return join_workloads(workloads)


def _complete(parser: Parser, words: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """The settings of all words. ValueError if they make no sense together."""
    parser.words = (*parser.words, *words)
    given = vars(parser.parse_args(words))
    given["queue_arguments"] = {key: read_value(text) for key, text in pairs("--queue-arg", given.pop("queue_arg"))}
    given["labels"] = dict(pairs("--label", given.pop("label")))
    given["urls"] = given.pop("url")
    read_traffic(given)
    settings = complete(Asked(**given), environment)
    check_broker(settings)
    check_driver(settings)
    check_fleet(settings)
    check_measuring(settings)
    return settings
