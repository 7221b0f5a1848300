"""Faults by command, each as a client meets it; on both backends."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rabbitry
from rabbitry.broker import Broker
from rabbitry.broker.faults import Faults, FrameCut
from rabbitry.protocol.wire import methods
from tests.protocol.server.test_hostile import HANDSHAKE
from tests.support.helpers import check_channel, until
from tests.support.protocol_broker import content_frames, method_frame

SENT = [*HANDSHAKE, method_frame(1, methods.ChannelOpen()), method_frame(1, methods.TxSelect())]

PUBLISH = methods.BasicPublish(routing_key="q")


@given(frames=st.integers(0, 7), cuts=st.lists(st.integers(1, 200), max_size=20))
def test_whole_frames_pass_however_they_come(frames: int, cuts: list[int]) -> None:
    cut, octets, passed = FrameCut(frames, begun=b""), b"".join(SENT), b""
    for size in (*cuts, len(octets)):
        if not cut.is_over:
            passed += cut.take(octets[:size])
        octets = octets[size:]
    assert passed == (b"".join(SENT[: 1 + frames]) if frames else b"")
    assert cut.is_over == (frames <= len(SENT) - 1)


@given(frames=st.integers(1, 7), sent=st.integers(8, 200), cuts=st.lists(st.integers(1, 200), max_size=20))
def test_a_frame_that_has_begun_to_come_is_the_first(frames: int, sent: int, cuts: list[int]) -> None:
    octets, ends = b"".join(SENT), list(accumulate(map(len, SENT)))
    sent = min(sent, len(octets))
    place = bisect_right(ends, sent) - 1
    cut = FrameCut(1 + frames, begun=octets[ends[place] : sent])
    cut.begin_again(frames)
    passed, rest = octets[:sent], octets[sent:]
    for size in (*cuts, len(octets)):
        if not cut.is_over:
            passed += cut.take(rest[:size])
        rest = rest[size:]
    assert passed == octets[: ends[min(place + frames, len(ends) - 1)]]
    assert cut.is_over == (place + frames < len(ends))


def test_counts_go_down() -> None:
    faults = Faults()
    faults.arm(nacks=2, returns=1)
    assert [faults.take_nack() for _ in range(3)] == [True, True, False]
    assert faults.is_armed and faults.take_return() and not faults.is_armed
    assert not faults.take_duplicate()


async def test_connections_are_refused_and_accepted_again() -> None:
    async with Broker() as broker:
        await broker.listen()
        broker.refuse_connections()
        for connection in (broker.connect(), rabbitry.connect(broker.url)):
            with pytest.raises(rabbitry.ConnectFailed):
                async with connection:
                    pass
        broker.refuse_connections(False)
        async with broker.connect(), rabbitry.connect(broker.url):
            assert len(broker.connections) == 2


async def test_too_many_connections_are_refused_and_the_others_go_on() -> None:
    async with Broker(max_connections=2) as broker:
        await broker.listen()
        async with broker.connect() as connection, rabbitry.connect(broker.url), connection.channel() as channel:
            for third in (broker.connect(), rabbitry.connect(broker.url)):
                with pytest.raises(rabbitry.ConnectFailed):
                    async with third:
                        pass
            await check_channel(channel)
        async with broker.connect():
            pass


async def test_a_nacked_publish_is_not_enqueued() -> None:
    async with Broker() as broker, broker.connect() as connection, connection.channel() as channel:
        await channel.declare_queue("q")
        broker.nack_publishes()
        with pytest.raises(rabbitry.Nacked):
            await channel.publish(b"lost", routing_key="q")
        await channel.publish(b"kept", routing_key="q")
        assert broker.queue("q").bodies == [b"kept"]
        assert [each.body for each in broker.published()] == [b"kept"]


async def test_a_mandatory_publish_is_returned() -> None:
    async with Broker() as broker, broker.connect() as connection, connection.channel() as channel:
        await channel.declare_queue("q")
        broker.return_publishes()
        await channel.publish(b"not mandatory", routing_key="q")
        with pytest.raises(rabbitry.Unroutable):
            await channel.publish(b"returned", routing_key="q", mandatory=True)
        await channel.publish(b"kept", routing_key="q", mandatory=True)
        assert broker.queue("q").bodies == [b"not mandatory", b"kept"]


async def test_a_delivery_is_duplicated() -> None:
    async with Broker() as broker, broker.connect() as connection, connection.channel(prefetch=1) as channel:
        await channel.declare_queue("q")
        broker.publish(b"1", "q")
        broker.publish(b"2", "q")
        broker.duplicate_deliveries()
        got = []
        async with channel.consume("q") as deliveries:
            async for delivery in deliveries:
                got.append((delivery.body, delivery.redelivered))
                delivery.ack()
                if len(got) == 3:
                    break
        assert got == [(b"1", False), (b"1", True), (b"2", False)]
        await until(lambda: not broker.queue("q").unacknowledged)
        assert not broker.queue("q").ready


async def test_consumers_are_cancelled() -> None:
    async with Broker() as broker, broker.connect() as connection, connection.channel() as channel:
        await channel.declare_queue("q")
        with pytest.raises(rabbitry.ConsumerCancelled):
            async with channel.consume("q") as deliveries:
                assert broker.cancel_consumers("q") == 1
                with anyio.fail_after(5):
                    async for _ in deliveries:
                        pass
        assert broker.cancel_consumers("q") == 0
        with pytest.raises(LookupError, match="no queue 'none'"):
            broker.cancel_consumers("none")


async def test_a_channel_is_closed_with_a_code() -> None:
    async with Broker() as broker, broker.connect(name="mine") as connection:
        with pytest.raises(rabbitry.PreconditionFailed, match="no more"):
            async with connection.channel() as channel:
                await channel.declare_queue("q")
                [served] = broker.connections
                assert (served.name, served.user, served.virtual_host, served.channels) == ("mine", "guest", "/", (1,))
                served.close_channel(1, 406, "no more")
                with anyio.fail_after(5):
                    await channel.declare_queue("q")
        async with connection.channel() as channel:
            await check_channel(channel)
        with pytest.raises(LookupError, match="no channel 7"):
            served.close_channel(7)
        with pytest.raises(ValueError, match="999"):
            served.close(999)


@pytest.mark.parametrize("by", ["connection", "channel"])
async def test_a_connection_is_closed_with_a_code(by: str) -> None:
    async with Broker() as broker:
        with pytest.raises(rabbitry.ConnectionClosed, match="maintenance") as caught:
            async with broker.connect() as connection, connection.channel() as channel:
                await channel.declare_queue("q", exclusive=True)
                if by == "connection":
                    broker.connections[0].close(text="maintenance")
                else:
                    broker.connections[0].close_channel(1, 541, "maintenance")
                with anyio.fail_after(5):
                    await channel.get("q")
        assert caught.value.code == (320 if by == "connection" else 541)
        assert not broker.queues()
        await until(lambda: not broker.connections)


@pytest.mark.parametrize("way", ["memory", "port"])
async def test_a_connection_is_dropped(way: str) -> None:
    async with Broker() as broker:
        await broker.listen()
        with pytest.raises(rabbitry.ConnectionClosed):
            async with broker.connect() if way == "memory" else rabbitry.connect(broker.url) as connection:
                async with connection.channel() as channel:
                    await channel.declare_queue("q", exclusive=True)
                    broker.connections[0].drop()
                    with anyio.fail_after(5):
                        await channel.get("q")
        assert not broker.connections and not broker.queues()


@pytest.mark.parametrize("way", ["memory", "port"])
async def test_a_connection_is_dropped_after_so_many_frames(way: str) -> None:
    async with Broker() as broker:
        await broker.listen()
        with pytest.raises(rabbitry.OutcomeUnknown):
            async with broker.connect() if way == "memory" else rabbitry.connect(broker.url) as connection:
                async with connection.channel() as channel:
                    await channel.declare_queue("q")
                    broker.connections[0].drop_after(4)  # three of a message, one of another
                    await channel.publish(b"1", routing_key="q")
                    with anyio.fail_after(5):
                        await channel.publish(b"2", routing_key="q")
        assert broker.queue("q").bodies == [b"1"] and not broker.connections
        async with broker.connect():
            with pytest.raises(ValueError, match="frames"):
                broker.connections[0].drop_after(-1)


async def test_a_connection_is_dropped_after_the_frame_that_it_is_amid() -> None:
    declare = method_frame(1, methods.QueueDeclare(queue="amid"))
    async with Broker() as broker, await broker.dial("", 0) as stream:
        await stream.send(b"".join((*HANDSHAKE, method_frame(1, methods.ChannelOpen()), declare[:9])))
        await until(lambda: bool(broker.connections) and bool(broker.connections[0].channels))
        broker.connections[0].drop_after(1)
        await stream.send(declare[9:] + method_frame(1, methods.QueueDeclare(queue="beyond")))
        await until(lambda: not broker.connections)
        assert list(broker.queues()) == ["amid"]


async def test_a_connection_is_stalled_and_goes_on() -> None:
    async with Broker() as broker:
        await broker.listen()
        async with rabbitry.connect(broker.url) as connection, connection.channel() as channel:
            await channel.declare_queue("q")
            [served] = broker.connections
            served.stall()
            done = anyio.Event()

            async def publish() -> None:
                await channel.publish(b"m", routing_key="q")
                done.set()

            async with anyio.create_task_group() as tg:
                tg.start_soon(publish)
                await anyio.sleep(0.05)
                assert not done.is_set() and not broker.queue("q").ready
                async with broker.connect() as other, other.channel() as there:
                    await check_channel(there)
                served.resume()
                with anyio.fail_after(5):
                    await done.wait()
            assert broker.queue("q").bodies == [b"m"]


async def test_a_stalled_connection_can_be_left() -> None:
    async with Broker() as broker:
        with anyio.move_on_after(0.2):
            async with broker.connect():
                broker.connections[0].stall()
        broker.stop_faults()
        await until(lambda: not broker.connections)


async def test_an_alarm_blocks_who_publishes() -> None:
    async with Broker() as broker, broker.connect() as connection, connection.channel() as channel:
        await channel.declare_queue("q")
        broker.raise_alarm()
        broker.raise_alarm("disk")
        channel.publish_nowait(b"m", routing_key="q")
        await until(lambda: connection.is_blocked)
        assert broker.connections[0].is_blocked
        async with broker.connect() as other, other.channel() as there:
            assert await there.get("q") is None
        broker.clear_alarm()
        await anyio.sleep(0.02)
        assert connection.is_blocked, "there is another alarm"
        broker.clear_alarm("disk")
        await until(lambda: not connection.is_blocked)
        await until(lambda: broker.queue("q").bodies == [b"m"])
        await check_channel(channel)
        with pytest.raises(ValueError, match="memory, disk"):
            broker.raise_alarm("cpu")  # type: ignore[arg-type]


async def test_a_blocked_connection_is_left() -> None:
    async with Broker() as broker:
        broker.raise_alarm()
        with anyio.move_on_after(0.2):
            async with broker.connect() as connection, connection.channel() as channel:
                await channel.publish(b"m", routing_key="q")
        broker.clear_alarm()
        await until(lambda: not broker.connections)


async def test_faults_are_stopped_all_at_once() -> None:
    async with Broker() as broker, broker.connect() as connection, connection.channel() as channel:
        await channel.declare_queue("q")
        broker.nack_publishes(5)
        broker.return_publishes(5)
        broker.duplicate_deliveries(5)
        broker.raise_alarm()
        broker.refuse_connections()
        broker.connections[0].stall()
        broker.stop_faults()
        await channel.publish(b"m", routing_key="q", mandatory=True)
        async with broker.connect():
            pass
        for wrong in (broker.nack_publishes, broker.return_publishes, broker.duplicate_deliveries):
            with pytest.raises(ValueError, match="count"):
                wrong(-1)


async def test_what_comes_while_it_is_stalled_is_dealt_with_in_its_order() -> None:
    """Octet by octet, stalled between any two."""
    octets = b"".join(
        (
            *SENT[:-1],
            method_frame(1, methods.QueueDeclare(queue="q")),
            *(each for body in (b"1", b"2", b"3") for each in content_frames(1, PUBLISH, body)),
        )
    )
    async with Broker() as broker:
        stream = await broker.dial("", 0)
        step = 17
        for start in range(0, len(octets), step):
            await stream.send(octets[start : start + step])
            await anyio.lowlevel.checkpoint()
            for served in broker.connections:
                served.stall() if start % 2 else served.resume()
        broker.stop_faults()
        await until(lambda: "q" in broker.queues() and broker.queue("q").bodies == [b"1", b"2", b"3"])
        await stream.aclose()


@pytest.mark.parametrize("count", [1.5, "1", True])
async def test_counts_that_are_none(count: Any) -> None:
    """Half a fault would never be used up."""
    async with Broker() as broker, broker.connect():
        for fault in (
            broker.nack_publishes,
            broker.return_publishes,
            broker.duplicate_deliveries,
            broker.connections[0].drop_after,
        ):
            with pytest.raises(TypeError, match="must be an int"):
                fault(count)
