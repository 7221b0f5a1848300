"""The tutorials as their readers run them: each program in a process of its own, on both backends."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import anyio
import pytest
from anyio.from_thread import start_blocking_portal

import rabbitry
from rabbitry.testing import open_proxy
from rabbitry.testing.hosting import broker_in_a_thread
from rabbitry.tutorials import headers, hello_world, publish_subscribe, routing, rpc, topics, work_queue
from tests.tutorials.programs import ROOT, Start, Tutorial, wait_until

# Each program runs on both in its tutorial's test, with programs on the other one beside it.
BACKENDS = ("asyncio", "trio")


@pytest.fixture(scope="module", params=["embedded", pytest.param("rabbitmq", marks=pytest.mark.broker)])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A broker's, of each kind."""
    if request.param == "rabbitmq":
        yield request.getfixturevalue("amqp_url")
        return
    with broker_in_a_thread("3.10") as url:
        yield url


@pytest.fixture
def start(url: str) -> Iterator[Start]:
    """Starts programs, which end with the test; the tutorials' queues and exchanges do so, too."""
    lasting = (
        *(hello_world.HELLO, work_queue.TASKS, rpc.FIBONACCI, publish_subscribe.LOGS, routing.LOGS, topics.LOGS),
        headers.REPORTS,
    )

    async def clean() -> None:
        async with rabbitry.open_client(url) as client:
            await client.delete(*lasting)

    anyio.run(clean)
    with ExitStack() as stack:
        yield lambda *words: stack.enter_context(Tutorial(url, *words))
    anyio.run(clean)


def wait_for_consumers(url: str, queue: rabbitry.Queue, count: int) -> None:
    """Return when so many consume from it."""

    async def wait() -> None:
        async with rabbitry.open_client(url) as client:
            with anyio.fail_after(30):
                while (info := await client.inspect(queue)) is None or info.consumer_count != count:
                    await anyio.sleep(0.01)

    anyio.run(wait)


def test_the_list_names_programs_that_there_are() -> None:
    done = subprocess.run([sys.executable, "-m", "rabbitry.tutorials"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr
    commands = [line.split()[2:] for line in done.stdout.splitlines() if line.startswith("    python -m ")]
    modules = (hello_world, work_queue, publish_subscribe, routing, topics, headers, rpc)
    named = {(module, program) for module, program, *_ in commands}
    assert {module for module, _ in named} == {module.__name__ for module in modules}
    assert all(hasattr(sys.modules[module], program) for module, program in named)
    assert len(named) == 2 * len(modules)


def test_hello_world(start: Start) -> None:
    for sends, receives in (BACKENDS, BACKENDS[::-1]):
        assert start(sends, "hello_world", "send", sends).result() == [f"Sent '{sends}'"]
        receiver = start(receives, "hello_world", "receive")
        receiver.wait_for(f"Received '{sends}'")
        # It may come in between printing and acknowledging: then the next receiver gets the message once more.
        assert receiver.end(signal.SIGINT) == 130
        assert len(receiver.lines) == 1 + receiver.count("Received"), "Ctrl-C ends it without a word"


def test_work_queue(start: Start, url: str) -> None:
    slow = start("asyncio", "work_queue", "worker", "--seconds", "0.3")
    fast = start("trio", "work_queue", "worker", "--seconds", "0.003")
    wait_for_consumers(url, work_queue.TASKS, 2)

    # fair dispatch: who is busy gets none, the fast one does the rest
    start("asyncio", "work_queue", "new_task", *(f"task {number}." for number in range(8)))
    wait_until(lambda: slow.count("Done") + fast.count("Done") == 8)
    assert fast.count("Done") > slow.count("Done") > 0
    assert sorted(slow.matching("Done") + fast.matching("Done")) == [f"Done 'task {number}.'" for number in range(8)]

    # each gets one that takes the slow worker half a minute; it is killed, and the fast one does both
    start("trio", "work_queue", "new_task", f"one{100 * '.'}", f"other{100 * '.'}")
    slow.wait_for("Received 'o")
    assert slow.end(signal.SIGKILL) == -signal.SIGKILL
    fast.wait_for("Done 'one.")
    fast.wait_for("Done 'other.")
    assert slow.count("Done 'o") == 0


def test_publish_subscribe(start: Start) -> None:
    receivers = [start(backend, "publish_subscribe", "receive_logs") for backend in BACKENDS]
    for receiver in receivers:
        receiver.wait_for("Waiting")
    for backend in BACKENDS:
        start(backend, "publish_subscribe", "emit_log", backend).result()
    for receiver in receivers:
        receiver.wait_for("Received", 2)
        assert receiver.lines[1:] == ["Received 'asyncio'", "Received 'trio'"]


def test_routing(start: Start) -> None:
    some = start("asyncio", "routing", "receive_logs", "warning", "error")
    errors = start("trio", "routing", "receive_logs", "error")
    for receiver in (some, errors):
        receiver.wait_for("Waiting")
    start("asyncio", "routing", "emit_log", "warning", "hot").result()
    start("trio", "routing", "emit_log", "error", "burnt").result()
    for receiver in (some, errors):
        receiver.wait_for("Received error")
    assert some.lines[1:] == ["Received warning: 'hot'", "Received error: 'burnt'"]
    assert errors.lines[1:] == ["Received error: 'burnt'"]


def test_topics(start: Start) -> None:
    kernel = start("asyncio", "topics", "receive_logs", "kern.#", "*.critical")
    critical = start("trio", "topics", "receive_logs", "*.critical")
    for receiver in (kernel, critical):
        receiver.wait_for("Waiting")
    start("trio", "topics", "emit_log", "kern.disk.sda", "full").result()
    start("asyncio", "topics", "emit_log", "kern.critical", "burnt").result()
    for receiver in (kernel, critical):
        receiver.wait_for("Received kern.critical")
    assert kernel.lines[1:] == ["Received kern.disk.sda: 'full'", "Received kern.critical: 'burnt'"]
    assert critical.lines[1:] == ["Received kern.critical: 'burnt'"]


def test_headers(start: Start) -> None:
    strict = start("asyncio", "headers", "receive_reports", "format=pdf", "type=report")
    lenient = start("trio", "headers", "receive_reports", "format=pdf", "type=report", "--match", "any")
    for receiver in (strict, lenient):
        receiver.wait_for("Waiting")
    start("trio", "headers", "emit_report", "one", "format=pdf", "type=log").result()
    start("asyncio", "headers", "emit_report", "both", "format=pdf", "type=report").result()
    for receiver in (strict, lenient):
        receiver.wait_for("Received 'both'")
    assert strict.count("Received") == 1
    assert lenient.count("Received 'one'") == 1


def test_rpc(start: Start, url: str) -> None:
    assert start("asyncio", "rpc", "client", "30").result() == ["fib(30): no server runs"]

    slow = start("asyncio", "rpc", "server", "--seconds", "60")
    wait_for_consumers(url, rpc.FIBONACCI, 1)
    assert start("trio", "rpc", "client", "30", "--patience", "0.5").result() == ["fib(30): it took too long"]

    # a server is killed with calls under way: the one that remains answers them
    client = start("asyncio", "rpc", "client", "90", "-1", "--patience", "30")
    slow.wait_for("Computing fib(90)")
    slow.wait_for("Computing fib(-1)")
    impatient = start("trio", "rpc", "client", "1")
    slow.wait_for("Computing fib(1)")
    assert impatient.end(signal.SIGINT) == 130 and not impatient.lines
    start("trio", "rpc", "server")
    wait_for_consumers(url, rpc.FIBONACCI, 2)
    assert slow.end(signal.SIGKILL) == -signal.SIGKILL
    assert sorted(client.result()) == [
        "fib(-1): the server failed: there is no Fibonacci number -1",
        "fib(90) = 2880067194370816120",
    ]


def test_rpc_goes_on_when_the_clients_connection_is_lost(start: Start, url: str) -> None:
    server = start("trio", "rpc", "server", "--seconds", "0.5")
    wait_for_consumers(url, rpc.FIBONACCI, 1)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(open_proxy(url)) as proxy:
        with Tutorial(proxy.url, "asyncio", "rpc", "client", "100", "--patience", "30") as client:
            server.wait_for("Computing fib(100)")
            portal.call(proxy.cut)
            # a number of more than 64 bits
            assert "fib(100) = 354224848179261915075" in client.result()
    assert server.count("Computing fib(100)") == 2


def test_what_is_no_text_ends_no_program(start: Start, url: str) -> None:
    async def publish() -> None:
        async with rabbitry.open_client(url) as client:
            await client.declare(hello_world.HELLO, work_queue.TASKS)
            for queue in (hello_world.HELLO, work_queue.TASKS):
                await client.publish(b"\xff", routing_key=queue.name)

    anyio.run(publish)
    start("trio", "hello_world", "receive").wait_for("Received '\N{REPLACEMENT CHARACTER}'")
    start("asyncio", "work_queue", "worker").wait_for("Done '\N{REPLACEMENT CHARACTER}'")


@pytest.mark.parametrize(
    ("scheme", "code", "reason"), [("amqp", 1, "AuthenticationFailed"), ("http", 2, "a broker's URI begins with amqp:")]
)
def test_a_broker_that_refuses_ends_a_program_with_the_reason(url: str, scheme: str, code: int, reason: str) -> None:
    secret = "not-the-password"
    host = url.rpartition("@")[2]
    with Tutorial(f"{scheme}://nobody:{secret}@{host}", "asyncio", "hello_world", "send") as program:
        assert program.process.wait(30) == code
        wait_until(lambda: any(reason in line for line in program.lines))
        assert not any(secret in line or "Traceback" in line for line in program.lines)
