"""The commands and their flags, as argparse sees them: what `--help` says, and what it refuses.

Nothing here connects. Each command names what runs it; that module is imported when the command is chosen.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from rabbitry.cli.values import parse_count, parse_duration, parse_number, redact_in

DEFAULT_URL = "amqp://guest:guest@localhost"
CODECS = ("json", "msgpack", "text", "raw")

EXIT_CODES = (
    "Exit codes: 0 ok; 1 failed (unroutable, nacked, not found, refused, nothing to get, no reply, --check found "
    "something); 2 wrong usage; 3 the broker or its management can't be reached, refuses the credentials, or was lost; "
    "130 interrupted."
)
EXAMPLES = """examples:
  python -m rabbitry publish --routing-key jobs 'hello'
  python -m rabbitry consume jobs --count 10 --json
  python -m rabbitry queues --check

`python -m rabbitry COMMAND --help` tells of each, with examples. The broker is $RABBITMQ_URL, or --url."""

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
        """End with code 2."""
        super().error(redact_in(message, Parser.words))


def make_parser() -> argparse.ArgumentParser:
    """The parser behind `--help`."""
    parser = Parser(
        prog="rabbitry",
        usage="python -m rabbitry COMMAND …",
        description="Use a RabbitMQ broker from the shell.",
        epilog=f"{EXAMPLES}\n\n{_wrapped(EXIT_CODES)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True, dest="command", parser_class=Parser)
    for add in (
        *(_publish, _consume, _get, _declare, _delete, _bind, _unbind, _purge),
        *(_call, _serve, _ping, _queues, _exchanges, _bindings, _connections),
    ):
        add(commands)
    return parser


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command and its arguments. SystemExit(2), with a message on stderr, if they make no sense; 0 for --help."""
    Parser.words = tuple(words)
    return make_parser().parse_args(words)


# --- messages -------------------------------------------------------------------------------------------------------


def _publish(commands: Any) -> None:
    add = _command(
        commands,
        "publish",
        "rabbitry.cli.publish:publish",
        "publish messages, and wait until the broker has confirmed them",
        """
  rabbitry publish --routing-key jobs 'hello'
  rabbitry publish --exchange events --routing-key job.new --property content_type=application/json < event.json
  tail -f access.log | rabbitry publish --routing-key log --lines
  rabbitry consume old --json --timeout 1 | rabbitry publish --json-lines --routing-key new""",
    )
    add.add_argument("body", nargs="?", metavar="BODY", help="the body (default: all of stdin)")
    add.add_argument("--exchange", metavar="NAME", help="(default: the default exchange, whose keys are queues' names)")
    add.add_argument("--routing-key", metavar="KEY")
    _properties(add)
    add.add_argument("--mandatory", action="store_true", help="fail where no queue is bound")
    _typed(add, "--repeat", parse_count, "N", "publish the body so often", 1)
    many = add.add_mutually_exclusive_group()
    many.add_argument("--lines", action="store_true", help="a message for each line of stdin")
    many.add_argument(
        "--json-lines",
        action="store_true",
        help="each line is a message with its properties, as `consume --json` writes it; flags given here win over it",
    )
    add.add_argument("-0", "--null", action="store_true", help="lines end with NUL, not with a line feed")
    _typed(add, "--window", parse_count, "N", "publish so many ahead of their confirms", 1000)


def _consume(commands: Any) -> None:
    add = _command(
        commands,
        "consume",
        "rabbitry.cli.consume:consume",
        "write the bodies of a queue's messages to stdout, and acknowledge each once it is written",
        """
  rabbitry consume jobs --count 10
  rabbitry consume jobs --json | jq .properties.headers
  rabbitry consume jobs --requeue --timeout 1           look at what is there, and put it back
  rabbitry consume --exchange events --routing-key 'job.#'
  rabbitry consume audit --offset first --timeout 5     a stream, from its beginning""",
        notes="It goes on until --count, --timeout, Ctrl-C, or until the queue is deleted. What was not written "
        "whole by then goes back to the queue. To a terminal, bodies are written without control characters.",
    )
    add.add_argument("queue", nargs="?", metavar="QUEUE")
    add.add_argument("--exchange", metavar="NAME", help="instead of QUEUE: a temporary queue, bound to this exchange")
    add.add_argument(
        "--routing-key", action="append", metavar="KEY", help="of that binding (repeatable; default: the empty one)"
    )
    _typed(add, "--count", parse_count, "N", "end after so many messages; with fewer of them the exit code is 1")
    _typed(add, "--timeout", parse_duration, "S", "end when no message has come for so long")
    add.add_argument(
        "--requeue", action="store_true", help="keep each message unacknowledged, and put all of them back in the end"
    )
    add.add_argument(
        "--no-ack",
        action="store_true",
        help="the broker forgets each message as it sends it: what is under way when this ends is lost",
    )
    _typed(add, "--prefetch", parse_number, "N", "messages sent ahead, 0 is unlimited", 100)
    add.add_argument("--exclusive", action="store_true", help="fail if the queue has another consumer")
    add.add_argument("--offset", metavar="WHERE", help="of a stream: first, last, next, a number, or a time")
    _output(add)


def _get(commands: Any) -> None:
    add = _command(
        commands,
        "get",
        "rabbitry.cli.consume:get",
        "take what is in a queue now, one message unless told otherwise, without waiting",
        """
  rabbitry get jobs > body
  rabbitry get jobs --requeue --json                    look at the first one, and put it back
  rabbitry get jobs --count 100 --null | xargs -0 -n 1 work""",
        notes="A single body is written as it is, byte for byte; several as `consume` writes them. "
        "The exit code is 1 if there is nothing to get.",
    )
    add.add_argument("queue", metavar="QUEUE")
    _typed(add, "--count", parse_count, "N", "take so many at most", 1)
    add.add_argument("--requeue", action="store_true", help="put them back in the end")
    add.add_argument("--no-ack", action="store_true", help="the broker forgets each message as it sends it")
    _output(add)


def _output(add: argparse.ArgumentParser) -> None:
    either = add.add_mutually_exclusive_group()
    either.add_argument("-0", "--null", action="store_true", help="a NUL after each body, not a line feed")
    either.add_argument("--bare", action="store_true", help="nothing after each body")


def _properties(add: argparse.ArgumentParser) -> None:
    add.add_argument(
        "--property",
        action="append",
        default=[],
        metavar="K=V",
        help="content_type, priority, expiration (5s), delivery_mode (1 transient, 2 persistent), correlation_id, "
        "timestamp (or now) and so on (repeatable)",
    )
    _header(add)


def _header(add: argparse.ArgumentParser) -> None:
    text = "a header; JSON values are themselves, everything else is text (repeatable)"
    add.add_argument("--header", action="append", default=[], metavar="K=V", help=text)


# --- topology -------------------------------------------------------------------------------------------------------


def _declare(commands: Any) -> None:
    kinds = _group(commands, "declare", "declare a queue or an exchange")
    add = _command(
        kinds,
        "queue",
        "rabbitry.cli.topology:declare_queue",
        "declare a queue, or check that it exists",
        """
  rabbitry declare queue jobs --type quorum --dead-letter-exchange dead
  rabbitry declare queue jobs --passive                 fails if there is none""",
        prog="declare queue",
    )
    add.add_argument("name", metavar="NAME")
    add.add_argument("--type", choices=("classic", "quorum", "stream"), default="classic", help="(default %(default)s)")
    add.add_argument("--auto-delete", action="store_true", help="it goes with its last consumer")
    _typed(add, "--max-length", parse_number, "N", "messages it holds at most")
    _typed(add, "--max-length-bytes", parse_number, "N", "bytes of bodies it holds at most")
    text = "what happens beyond that"
    add.add_argument("--overflow", choices=("drop-head", "reject-publish", "reject-publish-dlx"), help=text)
    _typed(add, "--message-ttl", parse_duration, "S", "how long a message waits")
    _typed(add, "--expires", parse_duration, "S", "how long the queue lives unused")
    _typed(add, "--max-age", parse_duration, "S", "how long a stream keeps messages")
    add.add_argument("--dead-letter-exchange", metavar="NAME", help="gets what is rejected or expired")
    add.add_argument("--dead-letter-routing-key", metavar="KEY")
    add.add_argument("--single-active-consumer", action="store_true")
    _typed(add, "--max-priority", parse_number, "N", "1 to 255")
    _typed(add, "--delivery-limit", parse_number, "N", "how often a quorum queue delivers a message again")
    _declared(add)

    add = _command(
        kinds,
        "exchange",
        "rabbitry.cli.topology:declare_exchange",
        "declare an exchange, or check that it exists",
        """
  rabbitry declare exchange events --type topic""",
        prog="declare exchange",
    )
    add.add_argument("name", metavar="NAME")
    add.add_argument("--type", default="direct", help="direct, fanout, topic, headers or a plugin's (default direct)")
    add.add_argument("--transient", action="store_true", help="it does not outlive the broker's restart")
    add.add_argument("--auto-delete", action="store_true", help="it goes with its last binding")
    add.add_argument("--internal", action="store_true", help="only exchanges can publish to it")
    add.add_argument("--alternate", metavar="NAME", help="the exchange that gets what this one can't route")
    _declared(add)


def _declared(add: argparse.ArgumentParser) -> None:
    add.add_argument("--passive", action="store_true", help="only check that it exists")
    text = "any other argument, as RabbitMQ names it; JSON values are themselves (repeatable)"
    add.add_argument("--argument", action="append", default=[], metavar="K=V", help=text)


def _delete(commands: Any) -> None:
    kinds = _group(commands, "delete", "delete queues or exchanges")
    for kind in ("queue", "exchange"):
        add = _command(
            kinds,
            kind,
            f"rabbitry.cli.topology:delete_{kind}",
            f"delete {kind}s" + (", with what is in them" if kind == "queue" else ""),
            f"""
  rabbitry delete {kind} old older --missing-ok""",
            prog=f"delete {kind}",
        )
        add.add_argument("names", nargs="+", metavar="NAME")
        add.add_argument("--missing-ok", action="store_true", help="one that does not exist is fine")
        add.add_argument("--if-unused", action="store_true", help="fail if it is in use")
        if kind == "queue":
            add.add_argument("--if-empty", action="store_true", help="fail if it has messages")


def _bind(commands: Any) -> None:
    _binding(commands, "bind", "have an exchange route to a queue, or to another exchange")


def _unbind(commands: Any) -> None:
    _binding(commands, "unbind", "remove a binding")


def _binding(commands: Any, verb: str, text: str) -> None:
    kinds = _group(commands, verb, text)
    for kind in ("queue", "exchange"):
        add = _command(
            kinds,
            kind,
            f"rabbitry.cli.topology:{verb}",
            f"{text.partition(' to ')[0]} {'to' if verb == 'bind' else 'of'} {kind} DESTINATION",
            f"""
  rabbitry {verb} {kind} {"jobs" if kind == "queue" else "audit"} events --routing-key 'job.#'""",
            prog=f"{verb} {kind}",
        )
        add.set_defaults(kind=kind)
        add.add_argument("destination", metavar="DESTINATION", help=f"the {kind}")
        add.add_argument("source", metavar="SOURCE", help="the exchange")
        text_of_key = "(repeatable, for as many bindings; default: the empty one)"
        add.add_argument("--routing-key", action="append", metavar="KEY", help=text_of_key)
        add.add_argument("--argument", action="append", default=[], metavar="K=V", help="of a headers exchange")


def _purge(commands: Any) -> None:
    add = _command(
        commands,
        "purge",
        "rabbitry.cli.topology:purge",
        "drop the messages that are ready in queues",
        """
  rabbitry purge jobs""",
    )
    add.add_argument("names", nargs="+", metavar="QUEUE")


# --- RPC ------------------------------------------------------------------------------------------------------------


def _call(commands: Any) -> None:
    add = _command(
        commands,
        "call",
        "rabbitry.cli.rpc:call",
        "send a request, and write its reply to stdout",
        """
  rabbitry call double 21
  rabbitry call --codec text upper 'hello'
  rabbitry call --codec raw resize - < in.png > out.png""",
        notes="The reply is written by its content type: text as it is, JSON and MessagePack as JSON. The exit code is "
        "1 if nobody serves, the handler failed, or no reply came in time.",
    )
    add.add_argument("routing_key", metavar="ROUTING_KEY", help="with the default exchange, the server's queue")
    add.add_argument("body", nargs="?", metavar="BODY", help="the payload, JSON unless --codec says otherwise; - stdin")
    add.add_argument("--exchange", default="", metavar="NAME")
    add.add_argument("--codec", choices=CODECS, default="json", help="of the payload (default %(default)s)")
    _typed(add, "--timeout", parse_duration, "S", "how long to wait for the reply", 30.0)
    _header(add)


def _serve(commands: Any) -> None:
    add = _command(
        commands,
        "serve",
        "rabbitry.cli.rpc:serve",
        "answer the requests in a queue, by a shell command or a Python function, until interrupted",
        """
  rabbitry serve upper --command 'tr a-z A-Z' --declare
  rabbitry serve double --function mymodule:double --concurrency 4""",
        notes="The command gets the request's body on its stdin and answers on stdout; where it exits with another "
        "status than 0 the caller gets an error. A function, async or not, gets the decoded payload and returns the "
        "reply. Ctrl-C takes no more requests and finishes those at work; a second one puts them back, "
        "once a function that is not async has ended; a third one waits for nothing.",
    )
    add.add_argument("queue", metavar="QUEUE")
    either = add.add_mutually_exclusive_group(required=True)
    either.add_argument("--command", dest="shell", metavar="SHELL", help="a command for sh")
    either.add_argument("--function", metavar="MODULE:NAME", help="looked for in the present folder, too")
    _typed(add, "--concurrency", parse_count, "N", "requests at a time", 1)
    text = "of a function's payload and reply where a request does not say (default %(default)s)"
    add.add_argument("--codec", choices=CODECS, default="json", help=text)
    text = "of a command's replies (default %(default)s)"
    add.add_argument("--content-type", default="text/plain", metavar="TYPE", help=text)
    add.add_argument("--declare", action="store_true", help="declare the queue if there is none: classic, durable")


# --- the operator's view --------------------------------------------------------------------------------------------


def _ping(commands: Any) -> None:
    _command(
        commands,
        "ping",
        "rabbitry.cli.topology:ping",
        "connect, and tell which broker answered and how fast",
        """
  rabbitry ping --wait 60                               until the broker is up""",
    )


def _queues(commands: Any) -> None:
    add = _command(
        commands,
        "queues",
        "rabbitry.cli.lists:queues",
        "list queues: messages ready and unacknowledged, consumers, memory, and what looks wrong",
        """
  rabbitry queues
  rabbitry queues --check --window 5m || alert
  rabbitry queues --rabbitmqctl 'sudo rabbitmqctl'""",
        notes="It points out queues (1) that had unacknowledged messages all through the last minute (--window) in "
        "which not one was acknowledged: their consumers forget to, or take longer, or reject everything; and it tells "
        "whether they have filled their prefetch; (2) that have no consumer and more messages than half a window ago, "
        "and then more than a window ago. Both come from the samples that the management keeps. Without these "
        "(rabbitmqctl, or statistics switched off) it tells only what is so at this moment: a prefetch that is full, "
        "messages that nobody consumes.",
    )
    _listing(add)
    text = "how long it must have gone on, up to 1h"
    _typed(add, "--window", parse_duration, "S", text, 60.0)
    add.add_argument("--check", action="store_true", help="list those alone that something is wrong with; then exit 1")


def _exchanges(commands: Any) -> None:
    _listing(
        _command(
            commands, "exchanges", "rabbitry.cli.lists:exchanges", "list exchanges", "\n  rabbitry exchanges --json"
        )
    )


def _bindings(commands: Any) -> None:
    _listing(
        _command(commands, "bindings", "rabbitry.cli.lists:bindings", "list bindings", "\n  rabbitry bindings --json")
    )


def _connections(commands: Any) -> None:
    _listing(
        _command(
            commands, "connections", "rabbitry.cli.lists:connections", "list connections", "\n  rabbitry connections"
        )
    )


def _listing(add: argparse.ArgumentParser) -> None:
    either = add.add_mutually_exclusive_group()
    either.add_argument(
        "--management",
        metavar="URL",
        help="the management HTTP API (or $RABBITRY_MANAGEMENT_URL; default: port 15672 of the broker's host, for "
        "amqps 15671 by https); without a user of its own, with the broker's",
    )
    either.add_argument(
        "--rabbitmqctl",
        nargs="?",
        const="rabbitmqctl",
        metavar="COMMAND",
        help="ask a local node by rabbitmqctl instead, run by this command",
    )
    add.add_argument("--cacert", metavar="FILE", help="the authorities that an https management is verified against")
    add.add_argument("--all-vhosts", action="store_true", help="of all virtual hosts")


# --- helpers --------------------------------------------------------------------------------------------------------


def _group(commands: Any, name: str, text: str) -> Any:
    parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False)
    return parser.add_subparsers(metavar="KIND", required=True, dest="kind", parser_class=Parser)


def _command(
    commands: Any, name: str, run: str, text: str, examples: str, *, notes: str = "", prog: str | None = None
) -> argparse.ArgumentParser:
    """A command with the flags that all have."""
    add: argparse.ArgumentParser = commands.add_parser(
        name,
        prog=f"rabbitry {prog or name}",
        help=text,
        description=_wrapped(f"{text[0].upper()}{text[1:]}." + (f" {notes}" if notes else "")),
        epilog=f"examples:{examples}\n\n{_wrapped(EXIT_CODES)}",
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
    _typed(common, "--wait", parse_duration, "S", text, None)
    common.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio", help="(default %(default)s)")
    common.add_argument("--json", action="store_true", help="results as JSON, one object a line")
    return add


def _typed(
    group: argparse._ActionsContainer,
    flag: str,
    parse: Callable[[str], T],
    metavar: str,
    text: str,
    default: T | None = None,
) -> None:
    def convert(value: str) -> T:
        try:
            return parse(value)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    shown = "" if default is None else f" (default {default:g})"
    group.add_argument(flag, type=convert, metavar=metavar, default=default, help=text + shown)


def _is_flag(word: str) -> bool:
    return word.startswith("-") and re.fullmatch(r"-(\d+|\d*\.\d+)?", word) is None


def _wrapped(text: str) -> str:
    import shutil
    import textwrap

    return textwrap.fill(text, max(40, min(100, shutil.get_terminal_size().columns - 2)))
