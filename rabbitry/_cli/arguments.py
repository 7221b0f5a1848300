"""The commands and their flags, as argparse sees them: what `--help` says, and what it refuses.

Nothing here connects. Each command names what runs it; that module is imported when the command is chosen. Flags may
stand ahead of the command, too.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from rabbitry._cli.flags import broker, lists, messages, rpc, topology
from rabbitry._cli.flags.parser import EXIT_CODES, VALUED, Parser, wrapped

EXAMPLES = """examples:
  python -m rabbitry publish --routing-key jobs 'hello'
  python -m rabbitry consume jobs --count 10 --json
  python -m rabbitry queues --check

`python -m rabbitry COMMAND --help` tells of each, with examples. The broker is $RABBITMQ_URL, or --url."""

GROUPS = ("declare", "delete", "bind", "unbind")
"""The commands whose second word says of what."""


def make_parser() -> argparse.ArgumentParser:
    """The parser behind `--help`."""
    parser = Parser(
        prog="rabbitry",
        usage="python -m rabbitry COMMAND …",
        description="Use a RabbitMQ broker from the shell.",
        epilog=f"{EXAMPLES}\n\n{wrapped(EXIT_CODES)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=Version, nargs=0, help="show the version, and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, dest="command", parser_class=Parser)
    for group in (messages, topology, rpc, lists, broker):
        group.add_to(commands)
    return parser


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command and its arguments. SystemExit(2), with a message on stderr, if they make no sense; 0 for --help."""
    Parser.words = tuple(words)
    return make_parser().parse_args(_command_first(words))


def _command_first(words: Sequence[str]) -> list[str]:
    """The words with the flags that stand ahead of the command, or within its name, behind it."""
    names: list[str] = []
    flags: list[str] = []
    rest = list(words)
    while rest and rest[0] != "--" and len(names) < (2 if names and names[0] in GROUPS else 1):
        word = rest.pop(0)
        if not word.startswith("-"):
            names.append(word)
            continue
        flags.append(word)
        if word in VALUED and rest:
            flags.append(rest.pop(0))
    if not names or "--version" in flags:  # these are the program's own
        return [flag for flag in flags if flag in ("-h", "--help", "--version")]
    return [*names, *flags, *rest]


class Version(argparse.Action):
    """Shows the version when asked, which takes a moment to find."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> NoReturn:
        """Ends the program."""
        from importlib.metadata import PackageNotFoundError, version

        try:
            found = version("rabbitry")
        except PackageNotFoundError:  # run from a folder that was not installed
            found = "(not installed: the version is in pyproject.toml)"
        print(f"rabbitry {found}")
        parser.exit()
