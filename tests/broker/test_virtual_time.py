"""The embedded broker and a client in virtual time: what takes hours takes none, and is the same each time."""

from __future__ import annotations

import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
import trio.testing
from anyio.abc import ByteStream

import rabbitry
from rabbitry import Backoff, Queue, Retry
from rabbitry._concurrency.clock import loop_time, utc_now
from rabbitry.broker import Broker
from rabbitry.broker.memory import memory_streams
from rabbitry.testing import VirtualTimeLoop

HOUR = 3600.0

Test = Callable[[Broker], Awaitable[Any]]


def run(backend: str, test: Test) -> Any:
    async def main() -> Any:
        async with Broker() as broker:
            return await test(broker)

    options: dict[str, Any] = {"loop_factory": VirtualTimeLoop}
    if backend == "trio":
        options = {"clock": trio.testing.MockClock(autojump_threshold=0)}
    began = time.monotonic()
    result = anyio.run(main, backend=backend, backend_options=options)
    assert time.monotonic() - began < 20  # far from the hours that it seemed to take
    return result


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_heartbeats_keep_a_quiet_connection(backend: str) -> None:
    async def test(broker: Broker) -> None:
        async with broker.connect(heartbeat=30) as connection, connection.channel() as channel:
            await anyio.sleep(HOUR)
            assert connection.is_open
            await channel.declare_queue("q")

    run(backend, test)


def test_a_peer_that_falls_silent_is_given_up(backend: str) -> None:
    async def test(broker: Broker) -> None:
        silent = anyio.Event()

        class Stream(type(memory_streams()[0])):  # type: ignore[misc]
            async def receive(self, max_bytes: int = 65536) -> bytes:
                data: bytes = await super().receive(max_bytes)
                if silent.is_set():
                    await anyio.sleep_forever()
                return data

        async def dial(host: str, port: int) -> ByteStream:
            stream = await broker.dial(host, port)
            stream.__class__ = Stream
            return stream

        async with rabbitry.connect("amqp://x", dial=dial, heartbeat=30) as connection:
            silent.set()
            began = loop_time()
            with pytest.raises(rabbitry.ConnectionClosed, match="heartbeat"):
                await connection.wait_closed()
            assert 30 <= loop_time() - began <= 90

    run(backend, test)


def test_messages_expire_and_say_when(backend: str) -> None:
    async def test(broker: Broker) -> None:
        async with broker.connect() as connection, connection.channel() as channel:
            arguments = {"x-message-ttl": 3_600_000, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
            await channel.declare_queue("dead")
            await channel.declare_queue("q", arguments=arguments)
            began, real = loop_time(), utc_now()
            await channel.publish(b"m", routing_key="q")
            async with channel.consume("dead") as deliveries:
                delivery = await anext(deliveries)
            assert loop_time() - began == pytest.approx(HOUR, abs=1)
            (death,) = delivery.deaths
            assert death.reason == "expired" and death.time is not None
            assert (death.time - real).total_seconds() == pytest.approx(HOUR, abs=2)

    run(backend, test)


def test_a_client_comes_back_after_back_off(backend: str) -> None:
    async def test(broker: Broker) -> tuple[float, int]:
        refusals = 10

        async def dial(host: str, port: int) -> ByteStream:
            nonlocal refusals
            if refusals and is_down:
                refusals -= 1
                raise ConnectionRefusedError("down")
            return await broker.dial(host, port)

        is_down = False
        backoff = Backoff(initial=60, maximum=HOUR)
        async with rabbitry.open_client("amqp://x", dial=dial, reconnect=backoff) as client:
            await client.declare(Queue("q"))
            await client.publish(b"one", routing_key="q")
            is_down = True
            began = loop_time()
            broker.drop_connections()
            await client.publish(b"two", routing_key="q", on_unknown="republish")
            took = loop_time() - began
            assert took > HOUR / 4
            return took, refusals

    first = run(backend, test)
    assert [run(backend, test) for _ in range(2)] == [first, first]


def test_retries_come_after_their_delays(backend: str) -> None:
    async def test(broker: Broker) -> list[float]:
        began, times = loop_time(), []

        async with broker.open_client() as client:
            await client.declare(Queue("q"), Queue("dead"))
            await client.publish(b"m", routing_key="q")

            async def handle(delivery: rabbitry.Delivery) -> None:
                times.append(loop_time() - began)
                raise ValueError("not yet")

            async with anyio.create_task_group() as tg:
                retry = Retry(delays=[60, HOUR], dead="dead")
                tg.start_soon(lambda: client.process("q", handle, retry=retry))
                async with client.consume("dead") as dead:
                    await anext(dead)
                client.stop_consuming()
        return times

    assert run(backend, test) == pytest.approx([0, 60, 60 + HOUR], abs=1)


def test_messages_come_after_their_delays(backend: str) -> None:
    async def test(broker: Broker) -> dict[bytes, float]:
        times: dict[bytes, float] = {}
        async with broker.open_client() as client:
            await client.declare(Queue("q"))
            began = loop_time()
            for body, delay in ((b"soon", 1.0), (b"later", 24 * HOUR), (b"in between", 90.0)):
                await client.publish(body, routing_key="q", delay=delay)
            async with client.consume("q") as deliveries:
                while len(times) < 3:
                    delivery = await anext(deliveries)
                    times[delivery.body] = loop_time() - began
                    await delivery.ack()
        return times

    times = run(backend, test)
    assert list(times) == [b"soon", b"in between", b"later"]
    assert list(times.values()) == pytest.approx([1, 90, 24 * HOUR], rel=0.06)


def test_a_dead_letter_waits_for_a_queue(backend: str) -> None:
    """At least once, it is sent again every three minutes, even after its queue had nobody to send it to for hours."""

    async def test(broker: Broker) -> None:
        arguments = {"x-dead-letter-strategy": "at-least-once", "x-max-length": 1}
        queue = Queue("q", type="quorum", overflow="reject-publish", dead_letter_exchange="dlx", arguments=arguments)
        async with broker.open_client() as client:
            await client.declare(queue)
            for body in (b"1", b"2"):
                await client.publish(body, routing_key="q")
                message = await client.get("q")
                assert message is not None
                await message.reject()
            await anyio.sleep(HOUR)
            with pytest.raises(rabbitry.Nacked):
                await client.publish(b"full", routing_key="q")
            began = loop_time()
            await client.declare(rabbitry.Exchange("dlx", "fanout"), Queue("dead"), rabbitry.Binding("dead", "dlx"))
            async with client.consume("dead") as dead:
                taken = [(await anext(dead)).body, (await anext(dead)).body]
            assert taken == [b"1", b"2"] and 0 < loop_time() - began <= 180
            await client.publish(b"room", routing_key="q")

    run(backend, test)


def test_what_fails_again_and_again_is_held_ever_longer(backend: str) -> None:
    async def test(broker: Broker) -> list[float]:
        began, times = loop_time(), []
        async with broker.open_client() as client:
            await client.declare(Queue("q"))
            await client.publish(b"m", routing_key="q")

            async def handle(delivery: rabbitry.Delivery) -> None:
                times.append(round(loop_time() - began, 3))
                if len(times) == 12:
                    client.stop_consuming()
                raise ValueError("never")

            await client.process("q", handle)
        return times

    times = run(backend, test)
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert pauses[0] < 0.1 and pauses == sorted(pauses) and pauses[-1] == pytest.approx(30, abs=0.1)


def test_a_connection_that_nobody_answers_is_given_up(backend: str) -> None:
    async def test(broker: Broker) -> None:
        async def dial(host: str, port: int) -> ByteStream:
            ours, theirs = memory_streams()
            kept.append(theirs)
            return ours

        kept: list[ByteStream] = []
        began = loop_time()
        with pytest.raises(rabbitry.ConnectFailed, match="within 15 s"):
            async with rabbitry.connect("amqp://x", dial=dial):
                pass
        assert loop_time() - began == pytest.approx(15, abs=0.1)

    run(backend, test)


def test_a_call_times_out(backend: str) -> None:
    async def test(broker: Broker) -> None:
        async with broker.open_client() as client, client.rpc() as rpc:
            await client.declare(Queue("nobody"))
            began = loop_time()
            with pytest.raises(TimeoutError), anyio.fail_after(HOUR):
                await rpc.call("nobody", 1)
            assert loop_time() - began == pytest.approx(HOUR)
            info = await client.inspect("nobody")
            assert info is not None and info.message_count == 0  # it expired with its caller's time

    run(backend, test)


def test_a_handler_in_a_thread_may_use_the_client(backend: str) -> None:
    async def test(broker: Broker) -> None:
        async with broker.open_client() as client:
            await client.declare(Queue("q"), Queue("out"))

            def handle(delivery: rabbitry.Delivery) -> None:
                time.sleep(0.01)
                anyio.from_thread.run(anyio.sleep, 60)
                anyio.from_thread.run(lambda: client.publish(delivery.body, routing_key="out"))

            await client.publish(b"m", routing_key="q")
            async with anyio.create_task_group() as tg:
                tg.start_soon(client.process, "q", handle)
                async with client.consume("out") as out:
                    with anyio.fail_after(90):
                        assert (await anext(out)).body == b"m"
                client.stop_consuming()

    run(backend, test)


def test_a_broker_made_before_its_loop_goes_by_the_loops_time() -> None:
    broker = Broker()

    async def main() -> None:
        async with broker, broker.connect() as connection, connection.channel() as channel:
            await anyio.sleep(HOUR)
            arguments = {"x-message-ttl": 0, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
            await channel.declare_queue("dead")
            await channel.declare_queue("q", arguments=arguments)
            await channel.publish(b"m", routing_key="q")
            async with channel.consume("dead") as deliveries:
                (death,) = (await anext(deliveries)).deaths
            assert death.time is not None and abs((death.time - utc_now()).total_seconds()) < 2

    anyio.run(main, backend_options={"loop_factory": VirtualTimeLoop})
