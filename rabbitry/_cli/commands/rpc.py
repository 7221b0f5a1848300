"""`call` and `serve`: RPC from the shell, and to it.

What must stay true: a request reaches a shell command on its stdin and in no other way, so that nothing in it is ever
executed; a command that is given up is killed with all that it started.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import traceback
from base64 import b64encode
from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

import anyio
import anyio.abc

from rabbitry import Delivery, Message, Queue
from rabbitry._cli.messages import parse_properties, to_json
from rabbitry._cli.output import FAILED, OK, USAGE, CommandError, as_json, say
from rabbitry._cli.pipes import LARGEST, Reader, Writer
from rabbitry._cli.session import Session

Handler = Callable[[Any], Awaitable[Any]]


# --- call -----------------------------------------------------------------------------------------------------------


async def call(arguments: argparse.Namespace, session: Session) -> int:
    """`rabbitry call`."""
    headers = parse_properties([], arguments.header).get("headers")
    body: bytes | None = None if arguments.body is None else os.fsencode(arguments.body)
    if body == b"-":
        body = await Reader().read_all()
    is_raw = arguments.codec == "raw"
    payload = _payload(arguments.codec, body)
    async with session.connect() as connection, connection.rpc(codec=arguments.codec) as rpc:
        try:
            with anyio.fail_after(arguments.timeout):
                reply = await rpc.call(
                    arguments.routing_key, payload, exchange=arguments.exchange, headers=headers, raw=is_raw
                )
        except TimeoutError:
            raise CommandError(f"no reply within {arguments.timeout:g} s") from None
    if arguments.json:
        record = (
            {"reply_base64": b64encode(reply).decode()} if isinstance(reply, bytes) else {"reply": _as_jsonable(reply)}
        )
        await Writer().write(as_json(record).encode() + b"\n")
    else:
        writer = Writer()
        await writer.write(reply if isinstance(reply, bytes) and not writer.is_terminal else _shown(writer, reply))
    return OK


def _payload(codec: str, body: bytes | None) -> Any:
    """The object that the codec is to encode."""
    if codec == "raw":
        return body
    if codec == "text":
        try:
            return "" if body is None else body.decode()
        except UnicodeDecodeError as error:
            raise CommandError(f"BODY is not UTF-8 ({error}): --codec raw takes any bytes", USAGE) from None
    try:
        return None if body is None else json.loads(body)
    except ValueError as error:
        raise CommandError(f"BODY is not JSON ({error}): quote a text as '\"…\"', or --codec text", USAGE) from None


def _shown(writer: Writer, reply: Any) -> bytes:
    if isinstance(reply, bytes):
        return writer.shown(reply) + b"\n"
    text = reply if isinstance(reply, str) else as_json(_as_jsonable(reply))
    end = b"" if text.endswith("\n") else b"\n"
    return writer.shown(text.encode(errors="backslashreplace")) + end  # JSON may have lone surrogates


def _as_jsonable(value: Any) -> Any:
    """The value as JSON can have it: what MessagePack alone has is written as in messages, or else as text."""
    return json.loads(json.dumps(to_json(value), default=str))


# --- serve ----------------------------------------------------------------------------------------------------------


async def serve(arguments: argparse.Namespace, session: Session) -> int:
    """`rabbitry serve`."""
    handler: Callable[[Any], Any]
    if arguments.shell is not None:
        handler, is_raw = shell_handler(arguments.shell, arguments.content_type), True
    else:
        handler, is_raw = load_function(arguments.function), False
    async with session.open_client() as client:
        if arguments.declare and await client.inspect(arguments.queue) is None:
            await client.declare(Queue(arguments.queue))
        with session.ending_by(client.stop_consuming):
            if sys.stderr.isatty():
                say(f"serving queue {arguments.queue!r}; Ctrl-C ends it")
            await client.serve(
                arguments.queue,
                handler,
                concurrency=arguments.concurrency,
                codec=arguments.codec,
                raw=is_raw,
                reply_exchanges=arguments.reply_exchange,
                reply_to_allowed=arguments.reply_to,
            )
    return OK if session.is_interrupted else FAILED


def load_function(name: str) -> Callable[[Any], Any]:
    """The function that `module:name` names. CommandError says what is wrong."""
    module_name, colon, path = name.partition(":")
    if not colon or not module_name or not path:
        raise CommandError(f"--function {name!r}: write it as module:function", USAGE)
    folder = os.getcwd()
    if folder not in sys.path:  # the installed command has its own folder there
        sys.path.insert(0, folder)
    try:
        found: Any = import_module(module_name)
        for part in path.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:  # also what the module itself raises
        place = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {error} ({place.filename}, line {place.lineno})"
        is_missing = isinstance(error, ModuleNotFoundError | AttributeError)
        raise CommandError(f"--function {name!r}: {error if is_missing else what}", USAGE) from None
    if not callable(found):
        raise CommandError(f"--function {name!r} is no function", USAGE)
    return found  # type: ignore[no-any-return]  # callable, as was checked


def shell_handler(command: str, content_type: str) -> Handler:
    """A handler that runs the command for each request, and answers with its stdout."""

    async def handle(request: Delivery) -> Message:
        return Message(await run_shell(command, request.body), content_type=content_type)

    return handle


async def run_shell(command: str, body: bytes) -> bytes:
    """What the command answers on stdout. CommandError if it fails. Cancelled, it is killed with its children."""
    process: anyio.abc.Process | None = None
    with anyio.CancelScope(shield=True):  # cancelled here, asyncio would kill the shell alone
        process = await anyio.open_process(
            ["/bin/sh", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None,
            start_new_session=True,
        )
    assert process is not None
    output = bytearray()
    is_over = False
    async with process:
        try:
            async with anyio.create_task_group() as tg:
                tg.start_soon(_feed, process, body)
                assert process.stdout is not None
                async for piece in process.stdout:
                    output += piece
                    if len(output) > LARGEST:
                        tg.cancel_scope.cancel()
                        break
            status = await process.wait() if len(output) <= LARGEST else None
            is_over = status is not None
        finally:
            if not is_over:  # the shell itself may have ended, and have left behind what holds its stdout
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    if status is None:
        raise CommandError(f"the command answered more than {LARGEST:,} bytes")
    if status:
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        raise CommandError(f"the command {how}")
    return bytes(output)


async def _feed(process: anyio.abc.Process, body: bytes) -> None:
    assert process.stdin is not None
    try:
        await process.stdin.send(body)
        await process.stdin.aclose()
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):  # it does not care for its stdin
        pass
