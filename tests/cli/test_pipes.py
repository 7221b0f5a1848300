"""The program as a process: pipes, signals, and what becomes of messages then."""

from __future__ import annotations

import fcntl
import io
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

import rabbitry
from rabbitry._channel.channel import life_of
from rabbitry._cli.output import Progress
from rabbitry._cli.pipes import Writer
from rabbitry._cli.program import _logging, main
from rabbitry.testing import Proxy, open_proxy
from tests.cli.conftest import Cli
from tests.cli.test_commands import BACKENDS, depth
from tests.support.helpers import unique

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a pipe does not tell what is unread")
ROOT = Path(__file__).parents[2]
PIPE = subprocess.PIPE
BASIC_ACK = b"\0\x3c\0\x50"  # the class and the method that a broker confirms with


@contextmanager
def program(url: str, *words: str, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """It runs in the block, and is gone after it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "rabbitry", *words],
        cwd=ROOT,
        env={**os.environ, "RABBITMQ_URL": url, "PYTHONUNBUFFERED": ""},
        **options,  # type: ignore[call-overload]
    )
    try:
        with process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()
    finally:
        assert process.returncode is not None


def eventually(holds: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def has_consumer(cli: Cli, queue: str) -> bool:
    return bool(cli("declare", "queue", queue, "--passive", "--json").records[0]["consumers"])


def stall_confirms(portal: BlockingPortal, proxy: Proxy) -> None:
    """Nothing comes back to the program any more, once it has got the confirm of what it has sent: a durable message
    is in its queue well before that."""
    eventually(lambda: BASIC_ACK in proxy.link.to_client.last)
    for link in proxy.links:
        portal.call(link.to_client.stall)


def lines(count: int) -> bytes:
    return b"".join(b"%0100d\n" % number for number in range(count))


@BACKENDS
def test_interrupted_while_the_reader_stalls(cli: Cli, queue: str, amqp_url: str, backend: str) -> None:
    """What was read is acknowledged, the rest is back, heartbeats or not; the one that lies in the pipe is in both."""
    cli("publish", "--routing-key", queue, "--lines", stdin=lines(3_000))
    with program(amqp_url, "consume", queue, "--backend", backend, stdout=PIPE, bufsize=0) as consumer:
        assert consumer.stdout is not None
        assert consumer.stdout.readline() + consumer.stdout.readline() == lines(2)
        eventually(lambda: depth(cli, queue) == 2_898)  # but for the prefetch
        consumer.send_signal(signal.SIGINT)
        assert consumer.wait(timeout=30) == 130
        assert consumer.stdout.read() == lines(3)[-101:]
    eventually(lambda: depth(cli, queue) == 2_998)
    rest = cli("consume", queue, "--count", "2998", "--backend", backend).out
    assert lines(2) + rest == lines(3_000)


def test_a_reader_that_has_enough(cli: Cli, queue: str, amqp_url: str) -> None:
    cli("publish", "--routing-key", queue, "--lines", stdin=lines(3_000))
    with program(amqp_url, "consume", queue, stdout=PIPE, stderr=PIPE) as consumer:
        assert consumer.stdout is not None and consumer.stderr is not None
        assert consumer.stdout.readline() == lines(1)
        consumer.stdout.close()
        assert consumer.wait(timeout=30) == 1
        assert consumer.stderr.read() == b""
    assert depth(cli, queue) == 2_999


@LINUX
@BACKENDS
@pytest.mark.parametrize(
    ("reader", "taken"),
    [
        pytest.param("head -3", 3, id="quick"),
        pytest.param("(sleep 1; head -3)", 3, id="slow"),
        pytest.param("head -c 350", 3, id="in the midst of one"),
        pytest.param("(read a; read b; kill -9 $$)", 2, id="killed"),
        pytest.param("true", 0, id="none"),
    ],
)
def test_what_no_reader_took_stays(cli: Cli, queue: str, amqp_url: str, backend: str, reader: str, taken: int) -> None:
    cli("publish", "--routing-key", queue, "--lines", stdin=lines(1_000))
    command = f"{sys.executable} -m rabbitry consume {queue} --backend {backend} | sh -c '{reader}'"
    environment = {**os.environ, "RABBITMQ_URL": amqp_url}
    subprocess.run(["/bin/bash", "-c", command], cwd=ROOT, env=environment, stdout=PIPE, timeout=60, check=False)
    eventually(lambda: depth(cli, queue) == 1_000 - taken)


@BACKENDS
@pytest.mark.parametrize(("flags", "left"), [((), 0), (("--requeue",), 1), (("--count", "5"), 0)])
def test_a_reader_that_has_enough_is_missed_though_nothing_comes(
    cli: Cli, queue: str, amqp_url: str, backend: str, flags: tuple[str, ...], left: int
) -> None:
    cli("publish", "--routing-key", queue, "x")
    with program(amqp_url, "consume", queue, *flags, "--backend", backend, stdout=PIPE, stderr=PIPE) as consumer:
        assert consumer.stdout is not None and consumer.stderr is not None
        assert consumer.stdout.readline() == b"x\n"
        consumer.stdout.close()
        assert consumer.wait(timeout=30) == 1
        assert consumer.stderr.read() == b""
    eventually(lambda: depth(cli, queue) == left)


@LINUX
def test_a_message_larger_than_the_pipe_is_read_whole_or_stays(cli: Cli, queue: str, amqp_url: str) -> None:
    cli("publish", "--routing-key", queue, "--repeat", "2", stdin=bytes(300_000))
    with program(amqp_url, "consume", queue, "--bare", stdout=PIPE, bufsize=0) as consumer:
        assert consumer.stdout is not None
        left = 300_000 + 299_999
        while left:
            left -= len(consumer.stdout.read(left))
        consumer.stdout.close()
        assert consumer.wait(timeout=30) == 1
    eventually(lambda: depth(cli, queue) == 1)


@LINUX
async def test_a_pipe_that_holds_more_than_a_page_is_waited_for(anyio_backend: object) -> None:
    """It can't be made smaller then, and is writable though it is not empty."""
    ours, its = os.pipe()
    with (
        os.fdopen(ours, "rb", buffering=0) as reader,
        os.fdopen(its, "w") as stdout,
        pytest.MonkeyPatch.context() as patch,
    ):
        os.write(its, bytes(9_000))  # somebody else's
        patch.setattr("sys.stdout", stdout)
        writer = Writer()
        before = fcntl.fcntl(its, fcntl.F_GETPIPE_SZ)
        with writer.narrowed():
            await writer.write(b"mine")
            assert (writer.written, writer.taken <= 0) == (4, True)
            async with anyio.create_task_group() as tg:
                tg.start_soon(writer.wait_taken)
                await anyio.wait_all_tasks_blocked()
                assert len(reader.read(9_003)) == 9_003
                assert writer.taken == 3
                reader.read(1)
            assert writer.taken == 4
        with writer.narrowed():
            assert fcntl.fcntl(its, fcntl.F_GETPIPE_SZ) < before
            await writer.write(b"left")
            reader.close()
            with pytest.raises(BrokenPipeError):
                await writer.wait_taken()
        assert fcntl.fcntl(its, fcntl.F_GETPIPE_SZ) == before


def test_lines_are_published_as_they_come(cli: Cli, queue: str, amqp_url: str) -> None:
    """Not when a buffer is full; and SIGTERM loses none that was read."""
    with program(
        amqp_url, "publish", "--routing-key", queue, "--lines", "--json", stdin=PIPE, stdout=PIPE
    ) as publisher:
        assert publisher.stdin is not None and publisher.stdout is not None
        for number in range(1, 4):
            publisher.stdin.write(b"line\n")
            publisher.stdin.flush()
            eventually(lambda number=number: depth(cli, queue) == number)  # type: ignore[misc]
        publisher.send_signal(signal.SIGTERM)
        assert publisher.wait(timeout=30) == 130
        assert b'"published":3,"confirmed":3' in publisher.stdout.read()


def test_a_pipeline_moves_every_message(cli: Cli, queue: str, amqp_url: str) -> None:
    body = os.urandom(200_000)
    cli("publish", "--routing-key", queue, "--repeat", "5", stdin=body)
    other = f"{queue}-moved"
    cli("declare", "queue", other)
    try:
        with (
            program(amqp_url, "consume", queue, "--json", "--count", "5", stdout=PIPE) as consumer,
            program(amqp_url, "publish", "--json-lines", "--routing-key", other, stdin=consumer.stdout) as publisher,
        ):
            assert consumer.stdout is not None
            consumer.stdout.close()
            assert (consumer.wait(timeout=30), publisher.wait(timeout=30)) == (0, 0)
        assert cli("get", other, "--count", "9", "--bare").out == 5 * body
    finally:
        cli("delete", "queue", other)


@BACKENDS
def test_interrupted_ahead_of_the_confirms(cli: Cli, queue: str, amqp_url: str, backend: str) -> None:
    """The first signal waits for them, though all messages are under way already."""
    words = "publish", "--routing-key", queue, "--lines", "--json", "--backend", backend
    with (
        proxied(amqp_url) as (portal, proxy),
        program(proxy.url, *words, stdin=PIPE, stdout=PIPE) as publisher,
    ):
        assert publisher.stdin is not None and publisher.stdout is not None
        publisher.stdin.write(b"first\nsecond\n")
        publisher.stdin.flush()
        eventually(lambda: depth(cli, queue) == 2)  # the second leaves once the first is confirmed
        stall_confirms(portal, proxy)
        publisher.stdin.write(b"third\n")
        publisher.stdin.close()
        publisher.stdin = None
        eventually(lambda: depth(cli, queue) == 3)
        publisher.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            publisher.wait(timeout=0.3)
        portal.call(proxy.resume)
        assert publisher.wait(timeout=10) == 130
        assert b'"published":3,"confirmed":3' in publisher.stdout.read()


@BACKENDS
def test_interrupted_it_publishes_what_was_read(cli: Cli, queue: str, amqp_url: str, backend: str) -> None:
    """A pipe's writer takes that for published; and it is said how many were confirmed."""
    words = "publish", "--routing-key", queue, "--lines", "--window", "1", "--backend", backend
    with (
        proxied(amqp_url) as (portal, proxy),
        program(proxy.url, *words, stdin=PIPE, stderr=PIPE) as publisher,
    ):
        assert publisher.stdin is not None and publisher.stderr is not None
        publisher.stdin.write(b"first\n")
        publisher.stdin.flush()
        eventually(lambda: depth(cli, queue) == 1)
        stall_confirms(portal, proxy)
        publisher.stdin.write(b"1\n2\n3\n4\nhalf of")
        publisher.stdin.flush()
        eventually(lambda: depth(cli, queue) == 2)
        publisher.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            publisher.wait(timeout=0.3)
        portal.call(proxy.resume)
        assert publisher.wait(timeout=10) == 130
        assert publisher.stderr.read() == b"rabbitry: interrupted: 5 messages published: 5 confirmed\n"
    assert cli("get", queue, "--count", "9").out == b"first\n1\n2\n3\n4\n"


def test_interrupted_twice_it_says_of_how_many_nothing_is_known(cli: Cli, queue: str, amqp_url: str) -> None:
    words = "publish", "--routing-key", queue, "--lines"
    with (
        proxied(amqp_url) as (portal, proxy),
        program(proxy.url, *words, stdin=PIPE, stderr=PIPE) as publisher,
    ):
        assert publisher.stdin is not None and publisher.stderr is not None
        publisher.stdin.write(b"first\n")
        publisher.stdin.flush()
        eventually(lambda: depth(cli, queue) == 1)
        stall_confirms(portal, proxy)
        publisher.stdin.write(b"second\nthird\n")
        publisher.stdin.flush()
        eventually(lambda: depth(cli, queue) == 3)
        publisher.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            publisher.wait(timeout=0.3)
        publisher.send_signal(signal.SIGINT)
        assert publisher.wait(timeout=20) == 130
        text = publisher.stderr.read().decode()
    assert text.endswith("rabbitry: interrupted: 3 messages published: 1 confirmed, 2 unknown\n")


@BACKENDS
@pytest.mark.parametrize("form", ["--lines", "--json-lines"])
def test_what_was_read_and_not_published_is_kept(
    cli: Cli, queue: str, amqp_url: str, backend: str, form: str, tmp_path: Path
) -> None:
    """Where the connection is lost for good, or the second signal drops it."""
    failed = tmp_path / "failed"
    words = "publish", "--routing-key", queue, form, "--window", "1", "--backend", backend, "--failed", str(failed)
    wrapped = b"%d\n" if form == "--lines" else b'{"body": "%d"}\n'
    for is_lost in (True, False):
        failed.unlink(missing_ok=True)
        with (
            proxied(amqp_url) as (portal, proxy),
            program(proxy.url, *words, stdin=PIPE, stderr=PIPE) as publisher,
        ):
            assert publisher.stdin is not None and publisher.stderr is not None
            publisher.stdin.write(wrapped % 0)
            publisher.stdin.flush()
            eventually(lambda: depth(cli, queue) == 1)
            stall_confirms(portal, proxy)
            publisher.stdin.write(b"".join(wrapped % number for number in range(1, 6)))
            publisher.stdin.flush()
            eventually(lambda: depth(cli, queue) == 2)
            if is_lost:
                portal.call(proxy.refuse)
                portal.call(proxy.cut)
            else:
                publisher.send_signal(signal.SIGINT)
                with pytest.raises(subprocess.TimeoutExpired):
                    publisher.wait(timeout=0.3)
                publisher.send_signal(signal.SIGINT)
            assert publisher.wait(timeout=30) == (3 if is_lost else 130)
            text = publisher.stderr.read().decode()
        kept = [json.loads(line)["body"] for line in failed.read_bytes().splitlines()]
        assert sorted(kept) == ["1", "2", "3", "4", "5"]
        assert "4 lines read, and left" in text
        assert "Traceback" not in text
        cli("purge", queue)


@BACKENDS
def test_a_connection_that_is_lost_costs_no_message(cli: Cli, queue: str, amqp_url: str, backend: str) -> None:
    """What was under way then is sent again, and counted, as it may have arrived."""
    words = "publish", "--routing-key", queue, "--lines", "--wait", "30", "--backend", backend
    with (
        proxied(amqp_url) as (portal, proxy),
        program(proxy.url, *words, stdin=PIPE, stderr=PIPE) as publisher,
    ):
        assert publisher.stdin is not None and publisher.stderr is not None
        publisher.stdin.write(b"first\n")
        publisher.stdin.flush()
        eventually(lambda: depth(cli, queue) == 1)
        stall_confirms(portal, proxy)
        publisher.stdin.write(b"second\nthird\n")
        publisher.stdin.flush()
        eventually(lambda: depth(cli, queue) == 3)
        portal.call(proxy.cut)
        publisher.stdin.close()
        publisher.stdin = None
        assert publisher.wait(timeout=30) == 0
        text = publisher.stderr.read().decode()
    assert "3 messages published: 3 confirmed; 2 sent again, which may have arrived twice\n" in text
    assert cli("get", queue, "--count", "9").out.split() == [b"first", b"second", b"third", b"second", b"third"]


@BACKENDS
def test_a_function_that_does_not_end_is_left_by_the_third_signal(
    cli: Cli, queue: str, amqp_url: str, backend: str
) -> None:
    words = "serve", queue, "--function", "time:sleep", "--backend", backend
    with program(amqp_url, *words, stderr=PIPE) as server:
        eventually(lambda: has_consumer(cli, queue))
        cli("call", queue, "300", "--timeout", "0.3")
        server.send_signal(signal.SIGINT)
        eventually(lambda: not has_consumer(cli, queue))
        server.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            server.wait(timeout=0.3)
        eventually(lambda: server.send_signal(signal.SIGTERM) or server.poll() is not None)  # type: ignore[func-returns-value]
        assert server.stderr is not None
        assert (server.returncode, server.stderr.read()) == (130, b"")


@pytest.mark.parametrize(
    "target", [("--command", "tr a-z A-Z"), ("--function", "tests.cli.functions:upper", "--codec", "text")]
)
def test_a_server_ends_in_order(cli: Cli, queue: str, amqp_url: str, target: tuple[str, ...]) -> None:
    with program(amqp_url, "serve", queue, *target, stderr=PIPE) as server:
        eventually(lambda: has_consumer(cli, queue))
        answered = cli("call", queue, "--codec", "text", "hello")
        assert (answered.code, answered.out, answered.err) == (0, b"HELLO\n", "")
        server.send_signal(signal.SIGINT)
        _, errors = server.communicate(timeout=30)
    assert (server.returncode, errors) == (130, b"")
    assert not has_consumer(cli, queue)


@pytest.mark.parametrize("flags", [(), ("--reply-exchange", "amq.direct")], ids=["unnamed", "named"])
def test_a_server_replies_to_the_exchanges_that_are_named(
    cli: Cli, queue: str, amqp_url: str, flags: tuple[str, ...]
) -> None:
    replies = unique("replies")
    cli("declare", "queue", replies)
    cli("bind", "queue", replies, "amq.direct", "--routing-key", "answers")
    request = {
        "routing_key": queue,
        "body": "hello",
        "properties": {"reply_to": "answers", "headers": {"x-rabbitry-reply-exchange": "amq.direct"}},
    }
    with program(amqp_url, "serve", queue, "--command", "tr a-z A-Z", *flags, stderr=PIPE) as server:
        eventually(lambda: has_consumer(cli, queue))
        assert cli("publish", "--json-lines", stdin=json.dumps(request).encode()).code == 0
        got = cli("consume", replies, "--count", "1", "--timeout", "2" if not flags else "20")
        assert got.out == (b"HELLO\n" if flags else b"")
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=30)
    cli("delete", "queue", replies)


def test_a_server_may_reply_to_generated_queues_alone(cli: Cli, queue: str, amqp_url: str) -> None:
    with program(amqp_url, "serve", queue, "--command", "cat", "--reply-to", "generated", stderr=PIPE) as server:
        eventually(lambda: has_consumer(cli, queue))
        assert cli("publish", "--routing-key", queue, "--property", f"reply_to={queue}", "x").code == 0
        eventually(lambda: b"0 messages" in cli("declare", "queue", queue, "--passive").out)
        server.send_signal(signal.SIGINT)
        _, errors = server.communicate(timeout=30)
    assert b"its reply may not go to" in errors


@pytest.mark.parametrize(
    ("flags", "left"),
    [
        (("--lines",), 5),
        (("--json-lines",), 4),
        (("--json-lines", "--exchange", ""), 5),
        (("--json-lines", "--exchange", "amq.direct"), 4),
    ],
    ids=["lines", "objects", "objects to the default exchange", "objects to another"],
)
def test_a_misspelt_queue_does_not_empty_the_one_that_is_consumed(
    cli: Cli, queue: str, amqp_url: str, flags: tuple[str, ...], left: int
) -> None:
    """What is read from the pipe is acknowledged: no more is read than it takes to see that it goes nowhere."""
    cli("publish", "--routing-key", queue, *"abcde")
    words = () if flags == ("--lines",) else ("--json",)
    with program(amqp_url, "consume", queue, *words, "--timeout", "3", stdout=PIPE) as consumer:
        with program(amqp_url, "publish", *flags, "--routing-key", unique(), stdin=consumer.stdout) as publisher:
            assert consumer.stdout is not None
            consumer.stdout.close()
            assert publisher.wait(timeout=30) == 1
        consumer.wait(timeout=30)
    eventually(lambda: cli("declare", "queue", queue, "--passive").out.endswith(b" 0 consumers\n"))
    assert f" {left} messages".encode() in cli("declare", "queue", queue, "--passive").out


def test_properties_that_can_not_be_decoded(cli: Cli, queue: str, amqp_url: str) -> None:
    """The message is written with the reason, and does not end it; nothing publishes it as if it was whole."""
    table = b"\0\0\0\0"
    for _ in range(70):
        table = b"\x01aF" + table
        table = len(table).to_bytes(4, "big") + table

    async def publish() -> None:
        async with rabbitry.connect(amqp_url) as connection, connection.channel(confirm=False) as channel:
            life_of(channel).live.publish((1 << 13).to_bytes(2, "big") + table, b"poison", "", queue, False)
            await channel.publish(b"behind", routing_key=queue)

    anyio.run(publish)
    done = cli("consume", queue, "--json", "--count", "2", "--timeout", "5")
    poison, behind = done.records
    assert (done.code, behind["body"]) == (0, "behind")
    assert (poison["body"], poison["routing_key"], poison["properties"]) == ("poison", queue, None)
    assert poison["error"]
    passed_on = cli("publish", "--json-lines", "--routing-key", queue, stdin=done.out)
    assert (passed_on.code, "properties were not to be read" in passed_on.err) == (2, True)


def test_a_full_device_is_told(cli: Cli, queue: str, amqp_url: str) -> None:
    cli("publish", "--routing-key", queue, "x")
    with open("/dev/full", "wb") as full, program(amqp_url, "get", queue, stdout=full, stderr=PIPE) as getter:
        assert getter.stderr is not None
        errors = getter.stderr.read()
        assert (getter.wait(timeout=30), b"No space left" in errors, b"Traceback" in errors) == (1, True, False)
    assert depth(cli, queue) == 1


@pytest.mark.parametrize("words", [("--help",), ("exchanges", "--rabbitmqctl", "true")], ids=" ".join)
def test_results_that_no_device_takes_are_told(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also what would be written only when Python ends."""
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert main(words) == 1
    assert capfd.readouterr().err == "rabbitry: [Errno 28] No space left on device\n"


def test_closed_stdin_is_no_empty_message(cli: Cli, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("io.TextIOWrapper", lambda _: None)  # so that cli() makes it None, as Python has it then
    for words in ((), ("--lines",)):
        done = cli("publish", "--routing-key", queue, *words)
        assert (done.code, done.err) == (1, "rabbitry: stdin is closed: there is nothing to read from\n")
    assert depth(cli, queue) == 0


def test_closed_stderr_hinders_nothing(cli: Cli, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what it would have had is not on stdout."""
    for words, code in ((("publish", "--routing-key", queue, "x"), 0), (("get", unique()), 1)):
        monkeypatch.setattr("sys.stderr", None)
        done = cli(*words)
        sys.stderr.close()  # of the program's own
        assert (done.code, done.out, done.err) == (code, b"", "")
    assert depth(cli, queue) == 1


def test_stdout_that_is_closed_takes_no_message(cli: Cli, queue: str, amqp_url: str) -> None:
    cli("publish", "--routing-key", queue, "x")
    command = f"{sys.executable} -m rabbitry get {queue} >&-"
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=ROOT, env={**os.environ, "RABBITMQ_URL": amqp_url}, stderr=PIPE, timeout=20
    )
    assert (done.returncode, done.stderr) == (1, b"rabbitry: stdout is closed: there is nowhere to write to\n")
    assert depth(cli, queue) == 1


def test_interrupted_while_it_imports() -> None:
    script = (
        "import os, runpy, signal, sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'rabbitry._cli.program': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "runpy.run_module('rabbitry', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_help_needs_no_event_loop_and_no_broker() -> None:
    script = (
        "import sys; from rabbitry._cli.program import main; before = set(sys.modules); assert main(['--help']) == 0; "
        "loaded = sorted(name.partition('.')[0] for name in set(sys.modules) - before); "
        "print({'rabbitry', 'anyio', 'asyncio', 'trio'} & set(loaded), 'trio' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, b"set() False\n")


# --- a broker that comes and goes -----------------------------------------------------------------------------------


@contextmanager
def proxied(url: str) -> Iterator[tuple[BlockingPortal, Proxy]]:
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(open_proxy(url)) as proxy:
        yield portal, proxy


def test_a_lost_connection_is_made_again(cli: Cli, queue: str, amqp_url: str) -> None:
    cli("publish", "--routing-key", queue, "--lines", stdin=lines(2))
    with (
        proxied(amqp_url) as (portal, proxy),
        program(proxy.url, "consume", queue, "--wait", "20", stdout=PIPE, stderr=PIPE) as consumer,
    ):
        assert consumer.stdout is not None
        before = {consumer.stdout.readline(), consumer.stdout.readline()}
        assert before == set(lines(2).splitlines(keepends=True))
        portal.call(proxy.cut)
        cli("publish", "--routing-key", queue, "after")
        while (line := consumer.stdout.readline()) != b"after\n":
            assert line in before  # whose acknowledgement was lost
        cli("delete", "queue", queue)
        _, errors = consumer.communicate(timeout=30)
        assert (consumer.returncode, b"was the queue deleted?" in errors) == (1, True)


def test_waiting_for_the_broker(cli: Cli, amqp_url: str) -> None:
    with proxied(amqp_url) as (portal, proxy):
        portal.call(proxy.refuse)
        assert cli("ping", "--url", proxy.url).code == 3
        accepting = threading.Timer(0.2, portal.call, (proxy.accept,))
        accepting.start()
        assert cli("ping", "--url", proxy.url, "--wait", "20").code == 0
        accepting.join()


def test_a_connection_that_is_lost_for_good(cli: Cli, queue: str, amqp_url: str) -> None:
    with (
        proxied(amqp_url) as (portal, proxy),
        program(proxy.url, "consume", queue, stderr=PIPE) as consumer,
    ):
        eventually(lambda: has_consumer(cli, queue))
        portal.call(proxy.refuse)
        portal.call(proxy.cut)
        _, errors = consumer.communicate(timeout=30)
        assert (consumer.returncode, b"connection" in errors, b"Traceback" in errors) == (3, True, False)


# --- exchanges, terminals -------------------------------------------------------------------------------------------


def test_listening_to_an_exchange(cli: Cli, amqp_url: str) -> None:
    key = unique()
    words = "consume", "--exchange", "amq.topic", "--routing-key", f"{key}.#", "--count", "1", "--json"
    with program(amqp_url, *words, stdout=PIPE) as consumer:
        eventually(
            lambda: cli("publish", "--exchange", "amq.topic", "--routing-key", f"{key}.a", "--mandatory", "x").code == 0
        )
        out, _ = consumer.communicate(timeout=30)
    assert consumer.returncode == 0
    assert f'"exchange":"amq.topic","routing_key":"{key}.a"'.encode() in out


def test_a_terminal_is_not_steered(cli: Cli, queue: str, amqp_url: str) -> None:
    cli("publish", "--routing-key", queue, stdin=b"\x1b[31mred\xff\x07")
    ours, its = os.openpty()
    try:
        with program(amqp_url, "get", queue, stdout=its) as getter:
            assert getter.wait(timeout=30) == 0
        assert os.read(ours, 1000) == "\\x1b[31mred\ufffd\\x07\r\n".encode()
    finally:
        os.close(ours)
        os.close(its)


HOSTILE = "\x1b]0;title\x07\nrabbitry: all is well\r\x9b31m\u202e"


@BACKENDS
def test_a_handlers_error_says_nothing_in_our_name(cli: Cli, queue: str, amqp_url: str, backend: str) -> None:
    """Its text came from a caller: it steers no terminal, and makes no line of its own."""
    words = "serve", queue, "--function", "tests.cli.functions:fail", "--backend", backend
    with program(amqp_url, *words, stderr=PIPE) as server:
        eventually(lambda: has_consumer(cli, queue))
        failed = cli("call", queue, json.dumps(HOSTILE))
        assert (failed.code, failed.err.count("\n"), failed.err.strip().isprintable()) == (1, 1, True)
        server.send_signal(signal.SIGINT)
        _, errors = server.communicate(timeout=30)
    text = errors.decode()
    assert text.replace("\n", "").isprintable()
    assert "\nrabbitry: all" not in text
    assert "ValueError: \\x1b]0;title\\x07\\nrabbitry: all is well\\r\\x9b31m\\u202e\n" in text
    assert "in fail\n" in text  # the traceback has its lines


def test_tracebacks_of_groups_and_notes_are_shown(capfd: pytest.CaptureFixture[str]) -> None:
    error = ValueError(HOSTILE)
    error.add_note(HOSTILE)
    with _logging():
        try:
            raise ExceptionGroup(HOSTILE, [error, OSError(HOSTILE)]) from error
        except ExceptionGroup:
            logging.getLogger("rabbitry.some").exception("the handler of %s failed", HOSTILE)
    text = capfd.readouterr().err
    assert text.replace("\n", "").isprintable()
    assert "\nrabbitry: all" not in text.replace("failed\n", "", 1)
    assert text.startswith("rabbitry: the handler of \\x1b]0;title\\x07\\nrabbitry: all is well")
    assert "  + Exception Group Traceback" in text


def test_names_say_nothing_in_our_name(cli: Cli, queue: str) -> None:
    name = f"{queue}\n! another: is wrong\x1b[2J"
    for words in (("declare", "queue", name), ("purge", name), ("get", name), ("delete", "queue", name)):
        done = cli(*words)
        assert done.out.count(b"\n") + done.err.count("\n") == 1
        assert (done.out.decode() + done.err).strip().isprintable()


def test_progress_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    for stream, shown in ((Terminal(), "\rhalf\r    \r"), (io.StringIO(), "")):
        monkeypatch.setattr("sys.stderr", stream)
        progress = Progress(lambda: "half")
        progress.tick()
        now += 10
        progress.tick()
        progress.tick()
        progress.clear()
        assert stream.getvalue() == shown
