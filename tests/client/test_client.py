"""The client that spans reconnects, through a proxy that cuts its connections."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import pairwise
from random import Random
from typing import Any

import anyio
import pytest

import rabbitry
from rabbitry import Backoff, Credentials, Exchange, Queue
from rabbitry.testing import Link, open_proxy
from tests.support.clients import QUICK, noticed, ready_again, refuse, some_queue, through_proxy
from tests.support.helpers import drain, open_channel, unique, until

# --- publishing -------------------------------------------------------------------------------------------------------


async def test_publishing_goes_on_in_the_next_life(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        for number in range(5):
            await client.publish(b"%d" % number, routing_key=queue, mandatory=True)
            await noticed(client, proxy.link.cut)
        assert client.statistics()["publishing_lives"] >= 4
        async with open_channel(amqp_url) as channel:
            assert await drain(channel, queue) == [b"%d" % number for number in range(5)]


async def test_while_down_it_waits_or_fails(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        await client.publish(b"1", routing_key=queue)
        refuse(proxy)
        while client.is_ready:
            await anyio.sleep(0.001)
        assert client.state == "recovering"
        assert client.last_error is not None
        with anyio.move_on_after(0.1) as scope:
            await client.publish(b"cancelled", routing_key=queue)
        assert scope.cancelled_caught
        with pytest.raises(rabbitry.NotConnected, match="being recovered"):
            await client.publish(b"failed", routing_key=queue, while_down="fail")
        async with anyio.create_task_group() as tg:
            tg.start_soon(lambda: client.publish(b"2", routing_key=queue))
            await anyio.sleep(0.1)
            proxy.accept()
        async with open_channel(amqp_url) as channel:
            assert await drain(channel, queue) == [b"1", b"2"]


async def test_what_was_under_way_has_an_unknown_outcome(amqp_url: str) -> None:
    async with through_proxy(amqp_url) as (client, proxy):
        await client.publish(b"1", routing_key="nowhere")
        proxy.link.to_broker.stall()

        async def publish() -> None:
            with pytest.raises(rabbitry.OutcomeUnknown):
                await client.publish(b"2", routing_key="nowhere")

        async with anyio.create_task_group() as tg:
            tg.start_soon(publish)
            await anyio.sleep(0.1)
            proxy.link.cut()


async def test_a_missing_exchange_fails_the_publishes_to_it_and_no_others(amqp_url: str) -> None:
    async with rabbitry.open_client(amqp_url) as client:
        ended: list[str] = []

        async def publish(exchange: str) -> None:
            try:
                await client.publish(b"x", exchange=exchange, routing_key="nowhere")
            except rabbitry.Refused as error:
                ended.append("missing" if isinstance(error.__cause__, rabbitry.NotFound) else repr(error))
            else:
                ended.append("published")

        for _ in range(3):
            async with anyio.create_task_group() as tg:
                for exchange in ("", "missing-exchange", "amq.topic"):
                    tg.start_soon(publish, exchange)
        assert sorted(ended) == ["missing"] * 3 + ["published"] * 6
        assert client.statistics()["publishing_lives"] == 1


async def test_many_tasks_share_a_channel_for_each_exchange(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):

        async def publish(number: int) -> None:
            await client.publish(b"%d" % number, routing_key=queue)

        async with anyio.create_task_group() as tg:
            for number in range(200):
                tg.start_soon(publish, number)
        assert len(proxy.links) == 1
        async with open_channel(amqp_url) as channel:
            assert sorted(await drain(channel, queue), key=int) == [b"%d" % number for number in range(200)]


# --- topology ---------------------------------------------------------------------------------------------------------


async def test_topology_is_there_again(amqp_url: str) -> None:
    queue, exchange = Queue(unique(), exclusive=True), Exchange(unique(), "topic", auto_delete=True)
    async with through_proxy(amqp_url) as (client, proxy):
        await client.declare(rabbitry.Binding(queue, exchange, "a.#"), queue, exchange)
        await client.declare(queue)  # known already
        assert client.statistics()["declared"] == 3
        await noticed(client, proxy.link.cut)
        await ready_again(client)
        await client.publish(b"x", exchange=exchange.name, routing_key="a.b", mandatory=True)
        assert client.statistics()["consuming_lives"] == 2


async def test_a_queue_that_the_broker_still_holds_is_asked_for_again(amqp_url: str) -> None:
    """The former life looks alive to the broker: only our side of it was lost."""
    queue = Queue(unique(), exclusive=True)
    async with open_channel(amqp_url) as holder, through_proxy(amqp_url) as (client, proxy):
        await client.declare(queue)
        refuse(proxy)
        with anyio.fail_after(10):
            while True:  # until the broker has noticed
                try:
                    async with open_channel(amqp_url) as other:
                        await other.declare_queue(queue.name, passive=True)
                except rabbitry.NotFound:
                    break
                except rabbitry.ResourceLocked:
                    await anyio.sleep(0.01)
        await holder.declare(queue)  # in the place of the life whose end it has not noticed
        proxy.accept()
        with anyio.move_on_after(0.3) as scope:
            await client.inspect(queue)
        assert scope.cancelled_caught
        await holder.delete_queue(queue)
        assert await client.inspect(queue) is not None


async def test_what_the_broker_refuses_is_not_remembered(amqp_url: str) -> None:
    async with some_queue(amqp_url) as name, rabbitry.open_client(amqp_url) as client:
        with pytest.raises(rabbitry.PreconditionFailed):
            await client.declare(Queue(name, max_length=5))
        assert client.statistics()["declared"] == 0
        await client.declare(Queue(name))
        info = await client.inspect(name)
        assert info is not None and info.message_count == 0
        assert await client.inspect(unique()) is None


async def test_what_is_refused_after_a_loss_ends_the_scope(amqp_url: str) -> None:
    async with some_queue(amqp_url) as name, open_channel(amqp_url) as other, open_proxy(amqp_url) as proxy:
        with pytest.raises(rabbitry.PreconditionFailed, match=name):
            async with rabbitry.open_client(proxy.url, reconnect=QUICK) as client:
                await client.declare(Queue(name))
                refuse(proxy)
                await other.delete_queue(name)
                await other.declare(Queue(name, max_length=5))
                proxy.accept()
                await anyio.sleep(30)


# --- connecting -------------------------------------------------------------------------------------------------------


async def test_refused_credentials_end_the_scope(amqp_url: str) -> None:
    with anyio.fail_after(20), pytest.raises(rabbitry.AuthenticationFailed):
        async with rabbitry.open_client(amqp_url.replace("guest:guest", "guest:wrong")) as client:
            await client.publish(b"x", routing_key="q")


@pytest.mark.rabbitmq("a port where nobody listens")
async def test_attempts_have_an_end(amqp_url: str) -> None:
    for backoff in (Backoff(initial=0.01, attempts=3), Backoff(initial=0.01, maximum=0.02, deadline=0.2)):
        with (
            anyio.fail_after(20),
            pytest.raises(rabbitry.ConnectFailed, match=r"given up after \d+ attempts: (nothing|no connection)"),
        ):
            async with rabbitry.open_client("amqp://127.0.0.1:1", reconnect=backoff) as client:
                await client.publish(b"x", routing_key="q")


async def test_nothing_is_connected_until_it_is_needed(amqp_url: str) -> None:
    async with through_proxy(amqp_url) as (client, proxy):
        await anyio.sleep(0.05)
        assert client.state == "idle" and not client.is_ready and not proxy.links
        await client.publish(b"x", routing_key="nowhere")
        assert len(proxy.links) == 1
        await client.declare()
        assert len(proxy.links) == 2


async def test_any_host_that_answers_will_do(amqp_url: str) -> None:
    hosts = ["amqp://127.0.0.1:1", amqp_url, "amqp://127.0.0.1:2"]
    for _ in range(3):
        async with rabbitry.open_client(hosts, reconnect=QUICK) as client:
            await client.publish(b"x", routing_key="nowhere")


async def test_credentials_are_asked_for_at_each_attempt(amqp_url: str) -> None:
    asked = 0

    async def credentials() -> Credentials:
        nonlocal asked
        asked += 1
        return Credentials("guest", "guest")

    async with through_proxy(amqp_url.replace("guest:guest", "x:y"), credentials=credentials) as (client, proxy):
        await client.publish(b"x", routing_key="nowhere")
        await noticed(client, proxy.link.cut)
        await ready_again(client)
        assert asked >= 2
    assert "secret" not in repr(Credentials("me", "secret"))


async def test_a_token_is_renewed_ahead_of_its_end(amqp_url: str) -> None:
    given: list[float] = []

    async def credentials() -> Credentials:
        given.append(anyio.current_time())
        return Credentials("guest", "guest", expires_in=0.25)

    async with rabbitry.open_client(amqp_url, credentials=credentials) as client:
        await client.publish(b"x", routing_key="nowhere")
        with anyio.fail_after(30):
            while len(given) < 6:
                await anyio.sleep(0.01)
        assert client.statistics()["publishing_lives"] == 1
    pauses = [later - earlier for earlier, later in pairwise(given[1:])]
    assert 0.15 < min(pauses) < 0.5, "the shortest: a busy machine makes some longer"


async def test_changes_are_told(amqp_url: str) -> None:
    async with through_proxy(amqp_url) as (client, proxy):
        with client.changes() as changes:
            await client.publish(b"x", routing_key="nowhere")
            proxy.link.cut()
            seen = []
            async for change in changes:
                seen.append((change.connection, change.state))
                if len(seen) == 4:
                    assert change.error is None
                    break
        assert seen == [("publish", state) for state in ("connecting", "connected", "recovering", "connected")]
        with client.changes() as rest:
            pass
    with pytest.raises(anyio.ClosedResourceError):
        await rest.receive()


async def test_the_stream_of_changes_ends_with_the_client(amqp_url: str) -> None:
    async with anyio.create_task_group() as tg:
        seen: list[str] = []
        subscribed = anyio.Event()

        async def watch(client: rabbitry.Client) -> None:
            with client.changes() as changes:
                subscribed.set()
                async for change in changes:
                    seen.append(change.state)

        async with rabbitry.open_client(amqp_url) as client:
            tg.start_soon(watch, client)
            await subscribed.wait()
            await client.publish(b"x", routing_key="nowhere")
    assert seen == ["connecting", "connected", "closed", "closed"]


async def test_what_the_body_raises_leaves_as_it_is(amqp_url: str) -> None:
    error = ExceptionGroup("mine", [ValueError("x")])
    with pytest.raises(ExceptionGroup) as raised:
        async with rabbitry.open_client(amqp_url) as client:
            await client.publish(b"x", routing_key="nowhere")
            raise error
    assert raised.value is error
    with pytest.raises(rabbitry.NotConnected, match="closed"):
        await client.publish(b"x", routing_key="nowhere")


async def test_cancelled_it_closes_in_bounded_time(amqp_url: str) -> None:
    with anyio.fail_after(30):
        with anyio.move_on_after(0.3) as scope:
            async with rabbitry.open_client(amqp_url) as client:
                await client.publish(b"x", routing_key="nowhere")
                await anyio.sleep_forever()
        assert scope.cancelled_caught


async def test_a_raw_channel_of_this_life(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        async with client.channel() as channel:
            await channel.publish(b"x", routing_key=queue)
            proxy.link.cut()
            with anyio.fail_after(20), pytest.raises(rabbitry.RabbitryError):
                while True:
                    await channel.publish(b"x", routing_key="nowhere")
                    await anyio.sleep(0.01)
        async with client.channel() as channel:
            delivery = await channel.get(queue)
            assert delivery is not None and delivery.body == b"x"


async def test_a_source_of_credentials_that_fails_is_asked_again(
    amqp_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    asked = 0

    async def credentials() -> Credentials:
        nonlocal asked
        asked += 1
        if asked in (1, 3):
            raise ValueError("no token: secret-token")
        if asked == 4:
            await anyio.sleep_forever()
        return Credentials("guest", "guest", expires_in=0.2 if asked == 2 else None)

    # long enough for a handshake on a busy machine: the fourth attempt takes all of it
    async with through_proxy(amqp_url, credentials=credentials, connect_timeout=3) as (client, proxy):
        await client.publish(b"x", routing_key="nowhere")
        await until(lambda: asked == 3)  # the renewal, which fails
        await anyio.sleep(0.05)
        assert client.is_ready
        proxy.cut()
        await until(lambda: asked == 5)
        await client.publish(b"x", routing_key="nowhere")
    assert "the credentials could not be had (ValueError)" in caplog.text
    assert "(TimeoutError)" in caplog.text
    assert "secret-token" not in "".join(record.getMessage() for record in caplog.records)


async def test_one_host_with_other_credentials_does_not_matter(amqp_url: str) -> None:
    hosts = [amqp_url, amqp_url.replace("guest:guest", "guest:wrong")]
    for _ in range(6):
        async with rabbitry.open_client(hosts, reconnect=QUICK) as client:
            await client.publish(b"x", routing_key="nowhere")


async def test_a_host_that_drops_every_connection_is_given_up(amqp_url: str) -> None:
    async with open_proxy(amqp_url) as proxy:

        def drop(link: Link) -> None:
            tg.start_soon(drop_soon, link)

        async def drop_soon(link: Link) -> None:
            await until(lambda: client.state == "connected")
            link.cut()

        proxy.on_link = drop
        async with anyio.create_task_group() as tg:
            with anyio.fail_after(30), pytest.raises(rabbitry.ConnectFailed, match="given up after 4 attempts"):
                async with rabbitry.open_client(proxy.url, reconnect=Backoff(initial=0.01, attempts=4)) as client:
                    with suppress(rabbitry.PublishFailed):
                        await client.publish(b"x", routing_key="nowhere")
                    await anyio.sleep_forever()
            tg.cancel_scope.cancel()


async def test_a_clean_up_learns_that_there_is_no_connection_any_more(amqp_url: str) -> None:
    async with open_proxy(amqp_url) as proxy:
        with anyio.fail_after(20), pytest.raises(rabbitry.ConnectFailed, match="given up"):
            async with rabbitry.open_client(proxy.url, reconnect=Backoff(initial=0.01, attempts=2)) as client:
                await client.publish(b"x", routing_key="nowhere")
                await client.declare()
                try:
                    refuse(proxy)
                    await anyio.sleep_forever()
                finally:
                    with anyio.CancelScope(shield=True):
                        with pytest.raises(rabbitry.NotConnected, match="given up"):
                            await client.publish(b"bye", routing_key="nowhere")
                        with pytest.raises(rabbitry.NotConnected):
                            await client.declare(Queue(unique()))
        with pytest.raises(rabbitry.ConnectFailed, match="given up"):
            await client.wait_closed()


async def test_changes_of_a_client_that_has_ended(amqp_url: str) -> None:
    async with rabbitry.open_client(amqp_url) as client:
        pass
    with client.changes() as changes, anyio.fail_after(10):
        assert [change async for change in changes] == []
    await client.wait_closed()


# --- without a block --------------------------------------------------------------------------------------------------


async def test_a_client_started_in_one_task_and_closed_in_another(amqp_url: str, anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        with pytest.raises(rabbitry.LocalProtocolError, match="trio"):
            await rabbitry.start_client(amqp_url)
        return
    before = asyncio.all_tasks()
    client = await rabbitry.start_client(amqp_url, name="app", reconnect=QUICK)
    await client.publish(b"x", routing_key="nowhere")
    async with anyio.create_task_group() as tg:
        tg.start_soon(client.aclose)
        tg.start_soon(client.aclose)
    assert asyncio.all_tasks() == before
    with pytest.raises(rabbitry.NotConnected):
        await client.publish(b"x", routing_key="nowhere")
    await client.aclose()
    await client.wait_closed()
    async with rabbitry.open_client(amqp_url) as other:
        with pytest.raises(rabbitry.LocalProtocolError, match="start_client"):
            await other.aclose()


async def test_what_ends_a_started_client_for_good(amqp_url: str, anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("start_client is for asyncio")
    client = await rabbitry.start_client(amqp_url.replace("guest:guest", "guest:wrong"))
    with anyio.fail_after(20):
        with pytest.raises(rabbitry.NotConnected, match="refused the credentials"):
            await client.publish(b"x", routing_key="nowhere")
        with pytest.raises(rabbitry.AuthenticationFailed):
            await client.wait_closed()
        await client.aclose()
    with pytest.raises(ValueError):
        await rabbitry.start_client([])


# --- what needs no broker ---------------------------------------------------------------------------------------------


def test_the_backoff_doubles_with_full_jitter() -> None:
    backoff, random = Backoff(initial=0.5, maximum=30), Random(1)
    for failures, longest in ((1, 0.5), (2, 1), (3, 2), (6, 16), (7, 30), (10_000, 30)):
        delays = [backoff.delay(failures, random) for _ in range(2000)]
        assert 0 <= min(delays) < 0.01 * longest and 0.99 * longest < max(delays) <= longest


@pytest.mark.parametrize(
    "options",
    [{"initial": 0}, {"initial": 5, "maximum": 1}, {"attempts": 0}, {"deadline": 0}, {"maximum": float("inf")}],
)
def test_a_backoff_that_makes_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Backoff(**options)


@pytest.mark.parametrize("options", [{"urls": []}, {"while_down": "drop"}, {"urls": ["http://x"]}])
async def test_a_client_that_makes_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        async with rabbitry.open_client(**options):
            pass


@pytest.mark.parametrize("wrong", ["noack", "drian", "on_arrival", "on_loss", "queue_"])
async def test_a_misspelt_argument_of_process_is_refused(amqp_url: str, wrong: str) -> None:
    """Its options are handed on as a dictionary, in which it would be taken for one that was not given."""

    async def handler(delivery: rabbitry.Delivery) -> None: ...

    async with rabbitry.open_client(amqp_url) as client:
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{wrong}'"):
            await client.process("jobs", handler, **{wrong: True})
        assert client.state == "idle"


async def test_a_misspelt_argument_of_a_client_is_refused(amqp_url: str, anyio_backend_name: str) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'heartbeet'"):
        async with rabbitry.open_client(amqp_url, heartbeet=5):
            pass
    async with rabbitry.open_reactor() as reactor:
        with pytest.raises(TypeError, match="unexpected keyword argument 'heartbeet'"):
            async with reactor.open_client(amqp_url, heartbeet=5):
                pass
    if anyio_backend_name == "asyncio":
        with pytest.raises(TypeError, match="unexpected keyword argument 'heartbeet'"):
            await rabbitry.start_client(amqp_url, heartbeet=5)


async def test_a_client_started_on_a_reactor_shares_it(amqp_url: str, anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("start_client is for asyncio")
    async with rabbitry.open_reactor() as reactor:
        client = await rabbitry.start_client(amqp_url, reactor=reactor)
        try:
            assert await client.inspect(unique("none")) is None
            assert repr(reactor) == "<Reactor with 1 connections>"
        finally:
            await client.aclose()
