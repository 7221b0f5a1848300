"""`client.stop_on`: programs that are sent signals, each in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

import rabbitry
from rabbitry._values.signals import FirstSignal
from tests.support.clients import some_queue
from tests.support.helpers import has_counts, open_channel

ROOT = Path(__file__).parents[2]

WORKER = """
import os, signal, sys, anyio, rabbitry
from rabbitry import blocking

url, queue, backend, *signals = sys.argv[1:]
signals = [signal.Signals[name] for name in signals]
former = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]

async def main():
    entered = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    async with rabbitry.open_client(url) as client:
        async def handle(delivery):
            os.kill(os.getpid(), signals.pop(0))
            await anyio.sleep(0.2)
            if signals:
                os.kill(os.getpid(), signals.pop(0))
                await anyio.sleep(30)
            await client.publish(delivery.body, routing_key=queue + ".done")
        with client.stop_on(signal.SIGTERM, signal.SIGINT):
            await client.process(queue, handle, drain=0)
        assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == entered
    print("finished", flush=True)

def main_blocking():
    import time
    with blocking.open_client(url) as client:
        def handle(delivery):
            os.kill(os.getpid(), signals.pop(0))
            time.sleep(0.2)
            if signals:
                os.kill(os.getpid(), signals.pop(0))
                time.sleep(1)
            client.publish(delivery.body, routing_key=queue + ".done")
        with client.stop_on(signal.SIGTERM, signal.SIGINT):
            client.process(queue, handle, drain=0.1)
    print("finished", flush=True)

if backend == "blocking":
    main_blocking()
else:
    anyio.run(main, backend=backend)
assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == former
"""


async def run(url: str, queue: str, backend: str, *signals: str) -> tuple[int, str, str]:
    def child() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", WORKER, url, queue, backend, *signals],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=50,
        )

    done = await anyio.to_thread.run_sync(child)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.rabbitmq("another process connects")
@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
@pytest.mark.parametrize("backend", ["asyncio", "trio", "blocking"])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
async def test_the_first_signal_ends_it_in_order(amqp_url: str, backend: str, name: str) -> None:
    async with some_queue(amqp_url) as queue, open_channel(amqp_url) as channel:
        await channel.declare_queue(queue + ".done")
        for _ in range(2):
            await channel.publish(b"x", routing_key=queue)
        code, out, err = await run(amqp_url, queue, backend, name)
        assert (code, out, err) == (0, "finished\n", "")
        assert await has_counts(channel, queue, 1) and await has_counts(channel, queue + ".done", 1)
        await channel.delete_queue(queue + ".done")


@pytest.mark.rabbitmq("another process connects")
@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
@pytest.mark.parametrize("backend", ["asyncio", "trio", "blocking"])
@pytest.mark.parametrize("names", ["SIGTERM SIGTERM", "SIGINT SIGTERM", "SIGTERM SIGINT", "SIGINT SIGINT"])
async def test_the_second_does_what_it_did_before(amqp_url: str, backend: str, names: str) -> None:
    async with some_queue(amqp_url) as queue, open_channel(amqp_url) as channel:
        await channel.publish(b"x", routing_key=queue)
        code, out, err = await run(amqp_url, queue, backend, *names.split())
        if names.endswith("SIGTERM"):
            assert code == -signal.SIGTERM
        else:
            assert code in (1, -signal.SIGINT) and "KeyboardInterrupt" in err
        assert "finished" not in out
        assert await has_counts(channel, queue, 1)


async def test_in_another_thread_it_says_what_to_do(amqp_url: str) -> None:
    async with rabbitry.open_client(amqp_url) as client:
        with pytest.raises(rabbitry.LocalProtocolError):
            await anyio.to_thread.run_sync(client.stop_on)
    caught: list[Exception] = []

    def elsewhere() -> None:
        async def main() -> None:
            async with rabbitry.open_client(amqp_url) as client:
                client.stop_on()

        try:
            anyio.run(main)
        except rabbitry.LocalProtocolError as error:
            caught.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    await anyio.to_thread.run_sync(thread.join)
    assert len(caught) == 1 and "main thread" in str(caught[0]) and "stop_consuming" in str(caught[0])


@pytest.mark.parametrize(
    ("wrong", "error"),
    [("SIGTERM", TypeError), (None, TypeError), (True, TypeError), (12345, ValueError), (15.0, TypeError)],
)
async def test_what_is_no_signal(amqp_url: str, wrong: Any, error: type[Exception]) -> None:
    async with rabbitry.open_client(amqp_url) as client:
        with pytest.raises(error, match="signal"):
            client.stop_on(wrong)


def test_a_signal_that_nothing_can_handle() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(ValueError, match="SIGKILL"), FirstSignal([signal.SIGUSR1, signal.SIGKILL], print):
        pass
    assert signal.getsignal(signal.SIGUSR1) is before


def test_one_signal_reaches_all_blocks_and_then_the_former_handler() -> None:
    heard: list[str] = []
    former = signal.signal(signal.SIGUSR1, lambda *_: heard.append("former"))
    try:
        with FirstSignal([signal.SIGUSR1], lambda _: heard.append("outer")):
            with FirstSignal([signal.SIGUSR1], lambda _: heard.append("inner")):
                signal.raise_signal(signal.SIGUSR1)
                assert heard == ["inner", "outer"]
                signal.raise_signal(signal.SIGUSR1)
            signal.raise_signal(signal.SIGUSR1)
        assert heard == ["inner", "outer", "former", "former"]
    finally:
        signal.signal(signal.SIGUSR1, former)


def test_blocks_that_are_left_in_another_order() -> None:
    heard: list[str] = []

    def former_handler(*_: Any) -> None:
        heard.append("former")

    former = signal.signal(signal.SIGUSR1, former_handler)
    try:
        first = FirstSignal([signal.SIGUSR1], lambda _: heard.append("first"))
        second = FirstSignal([signal.SIGUSR1], lambda _: heard.append("second"))
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        signal.raise_signal(signal.SIGUSR1)
        assert heard == ["second"]
        second.__exit__(None, None, None)
        assert signal.getsignal(signal.SIGUSR1) is former_handler
    finally:
        signal.signal(signal.SIGUSR1, former)


def test_a_handler_set_within_the_block_stays() -> None:
    def other(*_: Any) -> None: ...

    former = signal.getsignal(signal.SIGUSR1)
    try:
        with FirstSignal([signal.SIGUSR1], print):
            signal.signal(signal.SIGUSR1, other)
        assert signal.getsignal(signal.SIGUSR1) is other
    finally:
        signal.signal(signal.SIGUSR1, former)


def test_a_block_is_entered_once() -> None:
    block = FirstSignal([signal.SIGUSR1], print)
    with block:
        pass
    with pytest.raises(rabbitry.LocalProtocolError, match="entered before"), block:
        pass


async def test_the_same_within_one_process(amqp_url: str) -> None:
    async with rabbitry.open_client(amqp_url) as client:
        with client.stop_on(signal.SIGUSR1):
            signal.raise_signal(signal.SIGUSR1)
            with anyio.fail_after(20):
                while True:
                    try:
                        await client.get("no such queue")
                    except rabbitry.ConsumingStopped:
                        break
                    except rabbitry.NotFound:
                        await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("in_a_group", [False, True])
def test_what_was_stopped_ends_the_block_after_its_signal_alone(in_a_group: bool) -> None:
    def stopped(*others: Exception) -> Exception:
        error = rabbitry.ConsumingStopped("there was a signal")
        return ExceptionGroup("tasks", [error, *others]) if in_a_group else error

    kind = ExceptionGroup if in_a_group else rabbitry.ConsumingStopped
    heeded: list[int] = []
    with pytest.raises(kind), FirstSignal([signal.SIGTERM], heeded.append):
        raise stopped()
    with FirstSignal([signal.SIGTERM], heeded.append):
        signal.raise_signal(signal.SIGTERM)
        raise stopped()
    with pytest.raises(ValueError if not in_a_group else ExceptionGroup), FirstSignal([signal.SIGTERM], heeded.append):
        signal.raise_signal(signal.SIGTERM)
        raise stopped(ValueError("another")) if in_a_group else ValueError("another")
    assert heeded == [signal.SIGTERM] * 2
