"""The flags of `call` and `serve`."""

from __future__ import annotations

from typing import Any

from rabbitry._cli.flags.parser import add_command, add_header, add_value
from rabbitry._cli.values import parse_count, parse_duration

CODECS = ("json", "msgpack", "text", "raw")


def add_to(commands: Any) -> None:
    """Add the commands."""
    _call(commands)
    _serve(commands)


def _call(commands: Any) -> None:
    add = add_command(
        commands,
        "call",
        "rabbitry._cli.commands.rpc:call",
        "send a request, and write its reply to stdout",
        """
  rabbitry call double 21
  rabbitry call --codec text upper 'hello'
  rabbitry call --codec raw resize - < in.png > out.png""",
        notes="BODY is written as JSON, and sent as MessagePack, which servers take unless told otherwise; --codec "
        "json is for those that were told so, and for many a server of another library. "
        "The reply is written by its content type: text as it is, JSON and MessagePack as JSON. The exit code is "
        "1 if nobody serves, the handler failed, or no reply came in time.",
    )
    add.add_argument("routing_key", metavar="ROUTING_KEY", help="with the default exchange, the server's queue")
    add.add_argument(
        "body", nargs="?", metavar="BODY", help="the payload, as JSON unless --codec is text or raw; - stdin"
    )
    add.add_argument("--exchange", default="", metavar="NAME")
    add.add_argument("--codec", choices=CODECS, default="msgpack", help="what the server takes (default %(default)s)")
    add_value(add, "--timeout", parse_duration, "S", "how long to wait for the reply", 30.0)
    add_header(add)


def _serve(commands: Any) -> None:
    add = add_command(
        commands,
        "serve",
        "rabbitry._cli.commands.rpc:serve",
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
    add_value(add, "--concurrency", parse_count, "N", "requests at a time", 1)
    text = "of a function's payloads, others are refused, and of its replies (default %(default)s)"
    add.add_argument("--codec", choices=CODECS, default="msgpack", help=text)
    text = "of a command's replies (default %(default)s)"
    add.add_argument("--content-type", default="text/plain", metavar="TYPE", help=text)
    text = "an exchange that replies may go to where a request names it (repeatable; default: none)"
    add.add_argument("--reply-exchange", action="append", default=[], metavar="NAME", help=text)
    text = (
        "the queues that replies may go to, beside direct reply-to: any, or generated, those that the broker has named "
        "(default %(default)s)"
    )
    add.add_argument("--reply-to", choices=("any", "generated"), default="any", help=text)
    add.add_argument("--declare", action="store_true", help="declare the queue if there is none: classic, durable")
