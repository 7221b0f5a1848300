"""`run(send, receive)`: the command line of a tutorial, whose programs are coroutine functions.

The first parameter is the broker's URL. Those after it are the program's arguments, and the keyword-only ones its
options, each of the type of its annotation. An error of rabbitry ends the program with its text, Ctrl-C in order.
"""

import argparse
import functools
import inspect
import os
import sys
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from io import TextIOWrapper

import anyio

import rabbitry

__all__ = ["run"]

Program = Callable[..., Awaitable[None]]


def run(*programs: Program) -> None:
    """Run the one that the command line names."""
    given = _parser(programs).parse_args()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # also into a pipe
    program, backend = given.program, given.backend
    _, *parameters = inspect.signature(program).parameters.values()
    arguments: list[object] = [given.url]
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            arguments += getattr(given, parameter.name)
        elif parameter.kind is not parameter.KEYWORD_ONLY:
            arguments.append(getattr(given, parameter.name))
    options = {each.name: getattr(given, each.name) for each in parameters if each.kind is each.KEYWORD_ONLY}
    try:
        anyio.run(functools.partial(program, *arguments, **options), backend=backend)
    except KeyboardInterrupt:
        sys.exit(130)
    except rabbitry.RabbitryError as error:
        sys.exit(f"{type(error).__name__}: {error}")


def _parser(programs: tuple[Program, ...]) -> argparse.ArgumentParser:
    main = sys.modules["__main__"]
    parser = argparse.ArgumentParser(
        prog=f"python -m {main.__spec__.name}" if main.__spec__ else None,
        description=main.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shared = argparse.ArgumentParser(add_help=False)
    url = os.environ.get("RABBITMQ_URL") or "amqp://guest:guest@localhost"
    shared.add_argument("--url", default=url, help="the broker, else $RABBITMQ_URL, else amqp://guest:guest@localhost")
    shared.add_argument("--backend", choices=[name for name in ("asyncio", "trio") if find_spec(name)])
    shared.set_defaults(backend="asyncio")
    choice = parser.add_subparsers(required=True, metavar="|".join(each.__name__ for each in programs))
    for program in programs:
        command = choice.add_parser(
            program.__name__, parents=[shared], help=program.__doc__, description=program.__doc__
        )
        command.set_defaults(program=program)
        _, *parameters = inspect.signature(program).parameters.values()
        for parameter in parameters:
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
