"""The parser, and what the flags of all commands have in common.

What must stay true: a refusal shows no password; flags stand anywhere among the other arguments, ahead of a `--`.
"""

from __future__ import annotations

import argparse
import re
import shutil
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from rabbitry._cli.output import printable
from rabbitry._cli.values import DEFAULT_URL, parse_duration, redact_in

EXIT_CODES = (
    "Exit codes: 0 ok; 1 failed (unroutable, nacked, not found, refused, nothing to get, no reply, --check found "
    "something); 2 wrong usage; 3 the broker or its management can't be reached, refuses the credentials, or was lost; "
    "130 interrupted."
)

VALUED = ("--url", "--vhost", "--wait", "--backend")
"""The flags of all commands that have a value."""

T = TypeVar("T")


class Parser(argparse.ArgumentParser):
    """A parser whose refusals show no password, and that takes flags between and after the other arguments.

    argparse's own `parse_intermixed_args` has no way to say, by `--`, that what follows is no flag.
    """

    words: Sequence[str] = ()

    def parse_known_args(self, *args: Any, **options: Any) -> Any:
        """As argparse does it, with the flags first."""
        if self._subparsers is None and args:
            args = (self._flags_first(list(args[0])), *args[1:])
        return super().parse_known_args(*args, **options)

    def _flags_first(self, words: list[str]) -> list[str]:
        flags: list[str] = []
        others: list[str] = []
        while words:
            word = words.pop(0)
            action = self._option_string_actions.get(word)
            if word == "--":
                others += words
                break
            if action is None and not _is_flag(word):
                others.append(word)
                continue
            flags.append(word)
            if action is not None and action.nargs in (None, "?") and words and not _is_flag(words[0]):
                flags.append(words.pop(0))
        return [*flags, "--", *others] if others else flags

    def error(self, message: str) -> NoReturn:
        """End the program with code 2, saying why, without a password."""
        super().error(printable(redact_in(message, Parser.words)))


def _is_flag(word: str) -> bool:
    return word.startswith("-") and re.fullmatch(r"-(\d+|\d*\.\d+)?", word) is None


def add_group(commands: Any, name: str, text: str) -> Any:
    """A command that others stand under, such as `declare` of `declare queue`; what `add_command` takes for them."""
    parser = commands.add_parser(
        name,
        prog=f"rabbitry {name}",
        usage=f"rabbitry {name} KIND NAME …",
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=f"`rabbitry {name} KIND --help` tells of each, with examples.",
        allow_abbrev=False,
    )
    return parser.add_subparsers(metavar="KIND", required=True, dest="kind", parser_class=Parser)


def add_command(
    commands: Any, name: str, run: str, text: str, examples: str, *, notes: str = "", prog: str | None = None
) -> argparse.ArgumentParser:
    """A command, run by `module:function`, with the flags that all have. The text is one clause, without capital and
    full stop.
    """
    add: argparse.ArgumentParser = commands.add_parser(
        name,
        prog=f"rabbitry {prog or name}",
        help=text,
        description=wrapped(f"{text[0].upper()}{text[1:]}." + (f" {notes}" if notes else "")),
        epilog=f"examples:{examples}\n\n{wrapped(EXIT_CODES)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add.set_defaults(run=run)
    common = add.add_argument_group("broker")
    common.add_argument(
        "--url",
        help=f"(default $RABBITMQ_URL or {DEFAULT_URL}; in the variable a password stays out of the list of processes)",
    )
    common.add_argument("--vhost", metavar="NAME", help="the virtual host, instead of the URL's")
    text = "keep trying to connect, and to connect again, for so long (default: once)"
    add_value(common, "--wait", parse_duration, "S", text, None)
    common.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio", help="(default %(default)s)")
    common.add_argument("--json", action="store_true", help="results as JSON, one object a line")
    return add


def add_value(
    group: Any,
    flag: str,
    parse: Callable[[str], T],
    metavar: str,
    text: str,
    default: T | None = None,
) -> None:
    """Add to a command, or to a group of its flags, one whose value `parse` converts, or refuses by ValueError."""

    def convert(value: str) -> T:
        try:
            return parse(value)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    shown = "" if default is None else f" (default {default:g})"
    group.add_argument(flag, type=convert, metavar=metavar, default=default, help=text + shown)


def add_header(add: argparse.ArgumentParser) -> None:
    """Add the flag `--header`."""
    text = "a header; JSON values are themselves, everything else is text (repeatable)"
    add.add_argument("--header", action="append", default=[], metavar="K=V", help=text)


def wrapped(text: str) -> str:
    """The text in lines of the terminal's width."""
    return textwrap.fill(text, max(40, min(100, shutil.get_terminal_size().columns - 2)))
