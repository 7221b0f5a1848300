"""The program: arguments, one command, exit code.

0 ok, 1 failed, 2 wrong usage, 3 no broker, 130 interrupted. The first Ctrl-C or SIGTERM ends in order what can be ended
so: what is under way is confirmed, settled or put back. The second drops everything, but a Python function that runs in
a thread; the third waits for nothing.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from rabbitry._cli.arguments import parse
from rabbitry._cli.flags.parser import Parser
from rabbitry._cli.output import FAILED, INTERRUPTED, UNREACHABLE, USAGE, CommandError, printable, say
from rabbitry._cli.values import DEFAULT_URL, redact_in, with_vhost

if TYPE_CHECKING:
    from rabbitry._cli.session import Session

Command = Callable[[argparse.Namespace, "Session"], Awaitable[int]]


def main(words: Sequence[str] | None = None) -> int:
    """Runs a command line, that of the process by default; returns the exit code."""
    if sys.stderr is None:  # closed: what is said is for nobody, and not for stdout, where print would have it
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives
    try:
        try:
            return _main(list(sys.argv[1:] if words is None else words))
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where it can still be told that it fails
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read stdout has enough
        _abandon_stdout()
        return FAILED
    except CommandError as error:
        say(redact_in(str(error), _words_of_urls()))
        return error.code
    except OSError as error:  # of stdin or stdout: a full disk, say
        _abandon_stdout()
        say(str(error))
        return FAILED


def _main(words: list[str]) -> int:
    try:
        arguments = parse(words)
    except SystemExit as end:  # argparse has said why
        return int(end.code or 0)
    arguments.url = arguments.url or os.environ.get("RABBITMQ_URL") or DEFAULT_URL
    with _logging():
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    """Run the command that was chosen; what is wrong with its arguments is a CommandError."""
    module, _, name = arguments.run.partition(":")
    command = getattr(import_module(module), name)
    try:
        arguments.url = with_vhost(arguments.url, arguments.vhost)
        if module == "rabbitry._cli.commands.lists":  # they ask over HTTP: no event loop, and nothing of the client
            return int(command(arguments))
        return _run_async(command, arguments)
    except (TypeError, ValueError) as error:
        raise CommandError(str(error), USAGE) from None


def _run_async(command: Command, arguments: argparse.Namespace) -> int:
    import anyio

    from rabbitry import ConnectFailed, ConnectionClosed, LocalProtocolError, NotConnected, RabbitryError
    from rabbitry._cli.session import Session

    if arguments.backend == "trio" and find_spec("trio") is None:
        raise CommandError("--backend trio needs trio: pip install trio", USAGE)
    session = Session(arguments)
    try:
        code: int = anyio.run(partial(session.run, command, arguments), backend=arguments.backend)
    except (ConnectFailed, ConnectionClosed, NotConnected) as error:
        is_refused = isinstance(error, ConnectionClosed) and error.blame in ("this", "perhaps")
        raise CommandError(str(error), FAILED if is_refused else UNREACHABLE) from None
    except (LocalProtocolError, ValueError) as error:
        raise CommandError(str(error), USAGE) from None
    except RabbitryError as error:
        raise CommandError(str(error), FAILED) from None
    return code


@contextmanager
def _logging() -> Iterator[None]:
    """The library's warnings as lines on stderr."""
    logger = logging.getLogger("rabbitry")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("rabbitry: %(message)s"))
    level, propagates = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagates


def _words_of_urls() -> Sequence[str]:
    """What may have passwords: the words of the command line, and the URLs of the environment."""
    return (*Parser.words, *(os.environ.get(name, "") for name in ("RABBITMQ_URL", "RABBITRY_MANAGEMENT_URL")))


class _Formatter(logging.Formatter):
    """Shows a traceback unless the error is one of the command line's own. Texts of errors and messages are a peer's,
    or a handler's: they steer no terminal, and begin no line, as those of a traceback are indented.
    """

    def format(self, record: logging.LogRecord) -> str:
        record.exc_text = None  # the library's has line breaks of a peer's
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        if isinstance(ei[1], CommandError):
            return printable(str(ei[1]))
        text = "".join(_shown_item(item) for item in traceback.TracebackException(*ei).format())
        return textwrap.indent(text.rstrip("\n"), "  ")


def _shown_item(item: str) -> str:
    """A part of a traceback: a frame, whose lines are code, or the text of an error."""
    if re.match(r'[ |+-]*File "', item):
        return printable(item, but="\n")
    bare = item.strip("\n")
    return item.replace(bare, printable(bare), 1) if bare else item


def _abandon_stdout() -> None:
    """Python flushes stdout when it ends, and would complain."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        pass
