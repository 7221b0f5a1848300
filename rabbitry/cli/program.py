"""The program: arguments, one command, exit code.

0 ok, 1 failed, 2 wrong usage, 3 no broker, 130 interrupted. The first Ctrl-C or SIGTERM ends in order what can be ended
so: what is under way is confirmed, settled or put back. The second drops everything.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rabbitry.cli.arguments import DEFAULT_URL, parse
from rabbitry.cli.output import FAILED, INTERRUPTED, UNREACHABLE, USAGE, CommandError, say
from rabbitry.cli.values import with_vhost

if TYPE_CHECKING:
    from rabbitry.cli.session import Session

Command = Callable[[argparse.Namespace, "Session"], Awaitable[int]]


def main(words: Sequence[str] | None = None) -> int:
    """Runs a command line, that of the process by default; returns the exit code."""
    try:
        arguments = parse(list(sys.argv[1:] if words is None else words))
    except SystemExit as end:  # argparse has said why
        return int(end.code or 0)
    arguments.url = arguments.url or os.environ.get("RABBITMQ_URL") or DEFAULT_URL
    try:
        with _logging():
            return _run(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read stdout has enough
        _abandon_stdout()
        return FAILED
    except CommandError as error:
        say(str(error))
        return error.code
    except OSError as error:  # of stdin or stdout: a full disk, say
        _abandon_stdout()
        say(str(error))
        return FAILED


def _run(arguments: argparse.Namespace) -> int:
    """The command; what it raises as CommandError."""
    from rabbitry import ConnectFailed, ConnectionClosed, LocalProtocolError, NotConnected, RabbitryError

    module, _, name = arguments.run.partition(":")
    command = getattr(import_module(module), name)
    try:
        arguments.url = with_vhost(arguments.url, arguments.vhost)
        if module == "rabbitry.cli.lists":  # they ask over HTTP: no event loop
            return int(command(arguments))
        return _run_async(command, arguments)
    except (ConnectFailed, ConnectionClosed, NotConnected) as error:
        raise CommandError(str(error), UNREACHABLE) from None
    except (LocalProtocolError, ValueError) as error:
        raise CommandError(str(error), USAGE) from None
    except RabbitryError as error:
        raise CommandError(str(error), FAILED) from None
    except ModuleNotFoundError as error:
        if error.name == "trio":
            raise CommandError("--backend trio needs trio: pip install 'rabbitry[trio]'", USAGE) from None
        raise


def _run_async(command: Command, arguments: argparse.Namespace) -> int:
    import anyio

    from rabbitry.cli.session import Session

    session = Session(arguments)
    code: int = anyio.run(partial(session.run, command, arguments), backend=arguments.backend)
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


class _Formatter(logging.Formatter):
    """Shows a traceback unless the error is one of the command line's own."""

    def formatException(self, ei: Any) -> str:
        return str(ei[1]) if isinstance(ei[1], CommandError) else super().formatException(ei)


def _abandon_stdout() -> None:
    """Python flushes stdout when it ends, and would complain."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        pass
