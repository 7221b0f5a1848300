"""The commands and their flags, as argparse sees them: what `--help` says, and what it refuses.

Nothing here connects. Each command names what runs it; that module is imported when the command is chosen.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rabbitry._cli.flags import lists, messages, rpc, topology
from rabbitry._cli.flags.parser import EXIT_CODES, Parser, wrapped

EXAMPLES = """examples:
  python -m rabbitry publish --routing-key jobs 'hello'
  python -m rabbitry consume jobs --count 10 --json
  python -m rabbitry queues --check

`python -m rabbitry COMMAND --help` tells of each, with examples. The broker is $RABBITMQ_URL, or --url."""


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
    commands = parser.add_subparsers(metavar="COMMAND", required=True, dest="command", parser_class=Parser)
    for group in (messages, topology, rpc, lists):
        group.add_to(commands)
    return parser


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command and its arguments. SystemExit(2), with a message on stderr, if they make no sense; 0 for --help."""
    Parser.words = tuple(words)
    return make_parser().parse_args(words)
