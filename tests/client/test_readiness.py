"""Readiness, and what a client tells of an alarm: true of now, asked without waiting."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest

import rabbitry
from rabbitry import Backoff, Queue
from rabbitry.testing import PrivateNode, open_proxy
from tests.support.clients import QUICK, ready_again, refuse, through_proxy
from tests.support.helpers import unique, until


def with_password(url: str, password: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"guest:{password}@{parts.hostname}:{parts.port}").geturl()


async def test_ready_once_it_was_connected_and_while_it_is(amqp_url: str) -> None:
    async with through_proxy(amqp_url) as (client, proxy):
        assert not client.is_ready
        with anyio.fail_after(20):
            await client.wait_ready()
        assert client.is_ready and client.state == "connected" and len(proxy.links) == 2
        await client.wait_ready()
        assert len(proxy.links) == 2
        refuse(proxy)
        await until(lambda: not client.is_ready)
        with anyio.move_on_after(0.1) as scope:
            await client.wait_ready()
        assert scope.cancelled_caught and not client.is_ready
        proxy.accept()
        with anyio.fail_after(20):
            await client.wait_ready()
        assert client.is_ready
    assert not client.is_ready


async def test_one_connection_is_enough_where_no_other_is_needed(amqp_url: str) -> None:
    async with through_proxy(amqp_url) as (client, proxy):
        await client.publish(b"x", routing_key="nowhere")
        assert client.is_ready and len(proxy.links) == 1


async def test_a_wrong_password_is_never_ready(amqp_url: str) -> None:
    with anyio.fail_after(20), pytest.raises(rabbitry.AuthenticationFailed):
        async with rabbitry.open_client(with_password(amqp_url, "wrong")) as client:
            assert not client.is_ready
            await client.wait_ready()
    assert not client.is_ready and client.state == "closed"


async def test_another_task_that_waits_is_told_the_reason(amqp_url: str) -> None:
    caught: list[Exception] = []
    async with anyio.create_task_group() as tg:

        async def wait(client: rabbitry.Client) -> None:
            try:
                await client.wait_ready()
            except rabbitry.RabbitryError as error:
                caught.append(error)

        with anyio.fail_after(20), pytest.raises(rabbitry.AuthenticationFailed):
            async with rabbitry.open_client(with_password(amqp_url, "wrong")) as client:
                tg.start_soon(wait, client)
                await anyio.sleep_forever()
    assert [type(each) for each in caught] == [rabbitry.AuthenticationFailed]


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_a_started_client_tells_the_reason(amqp_url: str) -> None:
    client = await rabbitry.start_client(with_password(amqp_url, "wrong"))
    for _ in range(2):
        with pytest.raises(rabbitry.AuthenticationFailed):
            await asyncio.wait_for(client.wait_ready(), 20)
    await client.aclose()


async def test_a_broker_that_is_never_there() -> None:
    reconnect = Backoff(initial=0.01, attempts=2)
    with anyio.fail_after(20), pytest.raises(rabbitry.ConnectFailed, match="given up"):
        async with rabbitry.open_client("amqp://127.0.0.1:1", reconnect=reconnect) as client:
            await client.wait_ready()


async def test_a_left_client(amqp_url: str) -> None:
    async with rabbitry.open_client(amqp_url) as client:
        pass
    with pytest.raises(rabbitry.NotConnected, match="closed"):
        await client.wait_ready()


async def test_waiting_in_vain_ends_with_stop_consuming() -> None:
    ended: list[None] = []
    async with rabbitry.open_client("amqp://127.0.0.1:1", reconnect=QUICK) as client, anyio.create_task_group() as tg:

        async def wait() -> None:
            with pytest.raises(rabbitry.ConsumingStopped):
                await client.wait_ready()
            ended.append(None)

        tg.start_soon(wait)
        await until(lambda: client.last_error is not None)
        client.stop_consuming()
    assert ended == [None]


async def test_cancelled_it_is_connected_all_the_same(amqp_url: str) -> None:
    async with open_proxy(amqp_url) as proxy, rabbitry.open_client(proxy.url, reconnect=QUICK) as client:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await client.wait_ready()
        assert client.state == "idle"
        async with anyio.create_task_group() as tg:
            tg.start_soon(client.wait_ready)
            await until(lambda: client.state != "idle")
            tg.cancel_scope.cancel()
        await ready_again(client)


async def test_a_refused_entity_ends_the_wait(amqp_url: str) -> None:
    """What the next life refuses is raised by the client's block, and by who waits to be ready again."""
    queue = Queue(unique(), durable=True)
    with anyio.fail_after(30), pytest.raises(rabbitry.PreconditionFailed):
        async with through_proxy(amqp_url) as (client, proxy):
            await client.declare(queue)
            async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
                await channel.delete_queue(queue.name)
                await channel.declare_queue(queue.name, arguments={"x-max-length": 5})
            try:
                proxy.cut()
                await until(lambda: not client.is_ready)
                await client.wait_ready()
            finally:
                with anyio.CancelScope(shield=True):
                    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
                        await channel.delete_queue(queue.name)


# --- alarms -----------------------------------------------------------------------------------------------------------


async def test_an_alarm_is_told_and_its_end() -> None:
    with PrivateNode() as node:
        lives: list[str] = []

        class Told:
            def begin(self, operation: rabbitry.Operation) -> None: ...
            def end(self, operation: rabbitry.Operation) -> None: ...
            def count(self, event: rabbitry.Event, labels: Any) -> None:
                lives.append(event)

        async with rabbitry.open_client(node.url, instrumentation=Told()) as client:
            with client.changes() as changes, anyio.fail_after(60):
                await client.publish(b"x", routing_key="nowhere")
                states = [(await changes.receive()).state for _ in range(2)]
                assert states == ["connecting", "connected"] and client.blocked_reason is None
                async with anyio.create_task_group() as tg:
                    async with node.memory_alarm():
                        tg.start_soon(lambda: client.publish(b"y", routing_key="nowhere"))
                        began = await changes.receive()
                        assert (began.connection, began.state, began.error) == ("publish", "connected", None)
                        assert began.is_alarm and began.blocked_reason == client.blocked_reason
                        assert "memory" in str(client.blocked_reason)
                        assert client.is_ready and client.state == "connected"
                    over = await changes.receive()
                assert over.is_alarm and over.blocked_reason is None and over.time > began.time
                assert client.blocked_reason is None and client.statistics()["publishing_lives"] == 1
        assert "reconnected" not in lives
