"""`run(send, receive)`: the command line of a tutorial, whose programs are coroutine functions.

The first parameter is the broker's URL. Those after it are the program's arguments, and the keyword-only ones its
options, each of the type of its annotation. An error of rabbitry, or in the URL, ends the program with its text, Ctrl-C
in order.
"""

import argparse
import functools
import inspect
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from importlib.util import find_spec
from io import TextIOWrapper
from typing import TextIO

import anyio

import rabbitry

__all__ = ["run"]

Program = Callable[..., Awaitable[None]]

DEFAULT_URL: str = inspect.signature(rabbitry.connect).parameters["url"].default

NO_BROKER = "It goes on trying. Without a RabbitMQ, `python -m rabbitry broker` in another terminal is enough."


def run(*programs: Program) -> None:
    """Run the program that the command line names."""
    given = _parser(programs).parse_args()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # also into a pipe
    arguments: list[object] = [given.url]
    options: dict[str, object] = {}
    for parameter in _parameters(given.program):
        if parameter.kind is parameter.VAR_POSITIONAL:
            arguments += getattr(given, parameter.name)
        elif parameter.kind is parameter.KEYWORD_ONLY:
            options[parameter.name] = getattr(given, parameter.name)
        else:
            arguments.append(getattr(given, parameter.name))
    status: int | str = 0
    logging.getLogger("rabbitry").addHandler(_Warnings(tells_more=given.url == DEFAULT_URL))
    try:
        anyio.run(functools.partial(given.program, *arguments, **options), backend=given.backend)
    except* KeyboardInterrupt:  # trio has it in a group where the program has tasks
        status = 130
    except* rabbitry.RabbitryError as errors:
        status = "\n".join(f"{type(error).__name__}: {error}" for error in errors.exceptions)
    sys.exit(status)


class _Warnings(logging.StreamHandler[TextIO]):
    """Shows warnings as lines, and once, where nobody named a broker and none is there, what can be done."""

    def __init__(self, *, tells_more: bool) -> None:
        super().__init__()
        self.setLevel(logging.WARNING)
        self._tells_more = tells_more

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        values = record.args.values() if isinstance(record.args, Mapping) else record.args or ()
        failures = [each for each in values if isinstance(each, rabbitry.ConnectFailed)]
        if self._tells_more and failures and not isinstance(failures[0], rabbitry.AuthenticationFailed):
            self._tells_more = False
            self.stream.write(f"{NO_BROKER}\n")


def _broker_url(text: str) -> str:
    """The URL itself, if it is a broker's; else argparse tells what is wrong with it, without its password."""
    try:
        rabbitry.connect(text)  # opens nothing before it is entered
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _backend(name: str) -> str:
    """An event loop's name, if that is installed."""
    if name not in ("asyncio", "trio"):
        raise argparse.ArgumentTypeError(f"there are asyncio and trio, and no {name!r}")
    if find_spec(name) is None:
        raise argparse.ArgumentTypeError("trio is not installed: pip install trio")
    return name


def _parameters(program: Program) -> list[inspect.Parameter]:
    """The program's parameters, all but the URL."""
    return list(inspect.signature(program, eval_str=True).parameters.values())[1:]


def _parser(programs: tuple[Program, ...]) -> argparse.ArgumentParser:
    main = sys.modules["__main__"]
    parser = argparse.ArgumentParser(
        prog=f"python -m {main.__spec__.name}" if main.__spec__ else None,
        description=main.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shared = argparse.ArgumentParser(add_help=False)
    url = os.environ.get("RABBITMQ_URL") or DEFAULT_URL
    shared.add_argument(
        "--url", type=_broker_url, default=url, help=f"the broker, else $RABBITMQ_URL, else {DEFAULT_URL}"
    )
    shared.add_argument(
        "--backend", type=_backend, metavar="asyncio|trio", default="asyncio", help="(default %(default)s)"
    )
    choice = parser.add_subparsers(required=True, metavar="|".join(each.__name__ for each in programs))
    for program in programs:
        command = choice.add_parser(
            program.__name__, parents=[shared], help=program.__doc__, description=program.__doc__
        )
        command.set_defaults(program=program)
        for parameter in _parameters(program):
            kind, default = parameter.annotation, parameter.default
            if parameter.kind is parameter.KEYWORD_ONLY:
                command.add_argument(f"--{parameter.name}", type=kind, default=default, help=f"(default {default})")
            elif parameter.kind is parameter.VAR_POSITIONAL:
                command.add_argument(parameter.name, type=kind, nargs="+")
            elif default is parameter.empty:
                command.add_argument(parameter.name, type=kind)
            else:
                command.add_argument(
                    parameter.name, type=kind, nargs="?", default=default, help=f"(default {default!r})"
                )
    return parser
