"""`process(retry=…)`: what fails comes again when it should, as what it was, and is in the dead queue in the end; and
nothing is lost meanwhile."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import anyio
import pytest

import rabbitry
from rabbitry import AccessRefused, Binding, Client, Delivery, Exchange, Message, Nacked, NotFound, Queue, Retry
from rabbitry._client import retrying
from rabbitry._client.delays import level_of, name_of_level
from rabbitry.testing import PrivateNode
from tests.support.clients import some_queue, through_proxy
from tests.support.helpers import drain, has_counts, open_channel, unique, until

SLACK = 1.0
"""Seconds: the broker writes to a disk that others use, too; `tests.measuring.retries` tells of an idle one."""

Handle = Callable[[Any], Awaitable[None]]


@asynccontextmanager
async def jobs_and_dead(url: str) -> AsyncIterator[tuple[str, str]]:
    async with some_queue(url) as jobs, some_queue(url) as dead:
        yield jobs, dead


async def failing(delivery: Delivery) -> None:
    raise ValueError("boom")


@asynccontextmanager
async def at_work(client: Client, queue: Any, handler: Handle, retry: Retry, **options: Any) -> AsyncIterator[None]:
    stop = rabbitry.Stop()  # cancelled, what is just being handed over would come twice
    async with anyio.create_task_group() as tg:
        await tg.start(partial(client.process, queue, handler, retry=retry, stop=stop, **options))
        yield
        stop.set()


# --- when, and how often ---------------------------------------------------------------------------------------------


async def test_each_attempt_comes_after_its_delay_and_the_last_is_dead(amqp_url: str) -> None:
    async with (
        jobs_and_dead(amqp_url) as (jobs, dead),
        rabbitry.open_client(amqp_url) as client,
        open_channel(amqp_url) as channel,
    ):
        at: list[float] = []
        attempts: list[int] = []

        async def handle(delivery: Delivery) -> None:
            at.append(anyio.current_time())
            attempts.append(delivery.attempt)
            raise ValueError("boom")

        async with at_work(client, jobs, handle, Retry([0.1, 0.4, 0.2], dead=dead)):
            await client.publish(b"x", routing_key=jobs)
            await until(lambda: len(at) == 4)
            assert await has_counts(channel, dead, 1)
        assert attempts == [1, 2, 3, 4]
        for asked, (earlier, later) in zip([0.1, 0.4, 0.2], pairwise(at), strict=True):
            assert asked - 0.01 <= later - earlier <= asked * 1.1 + SLACK
        assert await has_counts(channel, jobs, 0)


async def test_what_succeeds_in_the_end_is_done(amqp_url: str) -> None:
    async with (
        jobs_and_dead(amqp_url) as (jobs, dead),
        rabbitry.open_client(amqp_url) as client,
        open_channel(amqp_url) as channel,
    ):
        runs: Counter[bytes] = Counter()

        async def handle(delivery: Delivery) -> None:
            runs[delivery.body] += 1
            assert delivery.attempt == runs[delivery.body]
            if delivery.attempt <= int(delivery.body) % 3:
                raise ValueError("not yet")

        async with at_work(client, jobs, handle, Retry([0.05, 0.1], dead=dead), concurrency=10):
            for number in range(30):
                await client.publish(b"%d" % number, routing_key=jobs)
            await until(lambda: runs.total() == 60)
            assert await has_counts(channel, jobs, 0, 1)
        assert await has_counts(channel, dead, 0)
        assert all(count == int(body) % 3 + 1 for body, count in runs.items())


async def test_what_is_given_up_on_is_dead_at_once(amqp_url: str) -> None:
    async with (
        jobs_and_dead(amqp_url) as (jobs, dead),
        rabbitry.open_client(amqp_url) as client,
        open_channel(amqp_url) as channel,
    ):
        async with at_work(client, jobs, failing, Retry([60], dead=dead, give_up_on=(ArithmeticError, ValueError))):
            await client.publish(b"x", routing_key=jobs)
            assert await has_counts(channel, dead, 1)
        assert await has_counts(channel, jobs, 0)


async def test_without_a_dead_queue_the_queue_s_own_has_it(amqp_url: str) -> None:
    async with (
        some_queue(amqp_url) as dead,
        rabbitry.open_client(amqp_url) as client,
        open_channel(amqp_url) as channel,
    ):
        jobs = Queue(unique(), dead_letter_exchange="", dead_letter_routing_key=dead)
        await client.declare(jobs)
        try:
            async with at_work(client, jobs, failing, Retry([0.1])):
                await client.publish(b"x", routing_key=jobs.name)
                assert await has_counts(channel, dead, 1)
            (found,) = [await channel.get(dead)]
            assert found is not None and [death.reason for death in found.deaths] == ["rejected", "expired"]
            found.ack()
        finally:
            with anyio.CancelScope(shield=True):
                await client.delete(jobs)


@pytest.mark.parametrize(("size", "attempts"), [(131_000, 1), (130_880, 4)])
async def test_what_has_no_room_for_our_headers_is_dead_without_them(amqp_url: str, size: int, attempts: int) -> None:
    """All of a message's properties are in one frame. The larger has no room for what counts its attempts, the other
    none for what the dead queue is told of it.
    """
    message = Message(b"x", headers={"large": "x" * size})
    async with jobs_and_dead(amqp_url) as (jobs, dead), rabbitry.open_client(amqp_url) as client:
        calls = 0

        async def handle(delivery: Delivery) -> None:
            nonlocal calls
            calls += 1
            raise ValueError("boom")

        async with at_work(client, jobs, handle, Retry([0.05, 0.05, 0.05], dead=dead)), open_channel(amqp_url) as other:
            await client.publish(message, routing_key=jobs)
            assert await has_counts(other, dead, 1)
            assert await has_counts(other, jobs, 0, 1)
        found = await client.get(dead)
        assert found is not None and found.headers == message.headers and calls == attempts


async def test_no_delays_mean_one_attempt(amqp_url: str) -> None:
    async with (
        jobs_and_dead(amqp_url) as (jobs, dead),
        rabbitry.open_client(amqp_url) as client,
        open_channel(amqp_url) as channel,
    ):
        async with at_work(client, jobs, failing, Retry([], dead=Queue(dead))):
            await client.publish(b"x", routing_key=jobs)
            assert await has_counts(channel, dead, 1)


# --- what becomes of what --------------------------------------------------------------------------------------------


async def test_a_message_stays_what_it_was(amqp_url: str) -> None:
    """It comes back to its queue alone, with its routing key; others that had it, or a copy, have no second one."""
    exchange = Exchange(unique("exchange"), "topic")
    async with (
        jobs_and_dead(amqp_url) as (jobs, dead),
        some_queue(amqp_url) as another,
        rabbitry.open_client(amqp_url) as client,
        open_channel(amqp_url) as channel,
    ):
        await channel.declare(exchange, Binding(jobs, exchange, "a.*"), Binding(another, exchange, "#"))
        seen: list[Delivery] = []

        async def handle(delivery: Delivery) -> None:
            seen.append(delivery)
            raise KeyError("boom")

        try:
            async with at_work(client, jobs, handle, Retry([0.1, 0.1], dead=dead)):
                await client.publish(
                    Message(
                        b"x",
                        headers={"mine": 1, "CC": ["a.c"], "BCC": ["a.d"]},
                        user_id="guest",
                        priority=3,
                        message_id="m",
                        expiration=60,
                        delivery_mode=1,
                    ),
                    exchange=exchange,
                    routing_key="a.b",
                )
                assert await has_counts(channel, dead, 1)
        finally:
            await channel.delete_exchange(exchange.name)
        first, second, third = seen
        assert (first.exchange, second.exchange, third.exchange) == (exchange.name, *["rabbitry.delayed"] * 2)
        assert {each.routing_key for each in seen} == {"a.b"}
        for each in (second, third):
            assert each.headers["mine"] == 1 and each.headers["CC"] == ["a.c"]
            assert each.headers["x-rabbitry-exchange"] == exchange.name
            assert each.headers["x-rabbitry-user-id"] == "guest"
            properties = each.properties
            assert (properties.user_id, properties.expiration) == (None, None)
            assert (properties.priority, properties.message_id, properties.delivery_mode) == (3, "m", 1)
            assert [death.queue for death in each.deaths] == ["rabbitry.delay.100ms"]  # its last way, and no other
        found = await channel.get(dead)
        assert found is not None
        found.ack()
        assert (found.body, found.routing_key, found.deaths, found.attempt) == (b"x", dead, (), 1)
        assert found.headers == {
            "mine": 1,
            "x-rabbitry-attempts": 3,
            "x-rabbitry-error": "KeyError",
            "x-rabbitry-exchange": exchange.name,
            "x-rabbitry-from": jobs,
            "x-rabbitry-routing-key": "a.b",
            "x-rabbitry-user-id": "guest",
        }
        assert await drain(channel, another) == [b"x"]


async def test_it_had_expired_in_its_queue_before(amqp_url: str) -> None:
    """And so died there: to RabbitMQ 3 its way back would be a cycle."""
    async with rabbitry.open_client(amqp_url) as client, open_channel(amqp_url) as channel:
        jobs = Queue(unique(), message_ttl=0.3, dead_letter_exchange="", dead_letter_routing_key=unique("resting"))
        resting = Queue(str(jobs.dead_letter_routing_key))
        await client.declare(jobs, resting)
        try:
            await client.publish(b"x", routing_key=jobs.name)
            await until(lambda: True)
            assert await has_counts(channel, resting.name, 1)
            rested = await channel.get(resting)
            assert rested is not None
            rested.ack()
            await channel.publish(rested.message, routing_key=jobs.name)
            seen: list[int] = []

            async def handle(delivery: Delivery) -> None:
                seen.append(delivery.attempt)
                if len(seen) < 4:
                    raise ValueError("boom")

            async with at_work(client, jobs, handle, Retry([0.1] * 5)):
                await until(lambda: len(seen) == 4)
            assert seen == [1, 2, 3, 4]
        finally:
            with anyio.CancelScope(shield=True):
                await client.delete(jobs, resting)


async def test_another_queue_s_attempts_are_not_ours(amqp_url: str) -> None:
    """What a handler passes on begins anew; so does what people take from the dead queue back."""
    async with (
        jobs_and_dead(amqp_url) as (jobs, dead),
        some_queue(amqp_url) as further,
        rabbitry.open_client(amqp_url) as client,
        open_channel(amqp_url) as channel,
    ):
        passed: list[int] = []
        seen: list[int] = []

        async def pass_on(delivery: Delivery) -> None:
            passed.append(delivery.attempt)
            if delivery.attempt == 1:
                raise ValueError("boom")
            await client.publish(delivery.message, routing_key=further)

        async def handle(delivery: Delivery) -> None:
            seen.append(delivery.attempt)
            raise ValueError("boom")

        async with (
            at_work(client, jobs, pass_on, Retry([0.1], dead=dead)),
            at_work(client, further, handle, Retry([0.1], dead=dead)),
        ):
            await client.publish(b"x", routing_key=jobs)
            assert await has_counts(channel, dead, 1)
            assert (passed, seen) == ([1, 2], [1, 2])
            found = await channel.get(dead)
            assert found is not None
            found.ack()
            await client.publish(found.message, routing_key=further)
            assert await has_counts(channel, dead, 1)
        assert seen == [1, 2, 1, 2]


async def test_a_delayed_message_is_retried_as_well(amqp_url: str) -> None:
    async with jobs_and_dead(amqp_url) as (jobs, dead), rabbitry.open_client(amqp_url) as client:
        seen: list[tuple[int, Any]] = []

        async def handle(delivery: Delivery) -> None:
            seen.append((delivery.attempt, delivery.headers["x-rabbitry-exchange"]))
            raise ValueError("boom")

        async with at_work(client, jobs, handle, Retry([0.1], dead=dead)), open_channel(amqp_url) as channel:
            await client.publish(b"x", routing_key=jobs, delay=0.1)
            assert await has_counts(channel, dead, 1)
        assert seen == [(1, ""), (2, "")]


async def test_a_queue_that_was_made_anew_is_bound_anew(amqp_url: str) -> None:
    """By somebody else, between two processings of one life: the broker has dropped the binding that retries take."""
    jobs = unique("jobs")
    async with (
        some_queue(amqp_url) as dead,
        rabbitry.open_client(amqp_url) as client,
        open_channel(amqp_url) as channel,
    ):
        for _ in range(2):
            await channel.declare_queue(jobs)
            await client.publish(b"x", routing_key=jobs)
            async with at_work(client, jobs, failing, Retry([0.05], dead=dead)):
                assert await has_counts(channel, dead, 1)
            assert len(await drain(channel, dead)) == 1
            await channel.delete_queue(jobs)
        assert client.statistics()["publishing_lives"] == 1


async def test_from_a_quorum_queue_too(amqp_url: str) -> None:
    async with some_queue(amqp_url) as dead, rabbitry.open_client(amqp_url) as client:
        jobs = Queue(unique(), type="quorum", delivery_limit=1)  # which counts anew for each attempt
        await client.declare(jobs)
        try:
            async with at_work(client, jobs, failing, Retry([0.05] * 4, dead=dead)), open_channel(amqp_url) as channel:
                await client.publish(b"x", routing_key=jobs.name)
                assert await has_counts(channel, dead, 1)
                found = await channel.get(dead)
                assert found is not None and found.headers["x-rabbitry-attempts"] == 5
                found.ack()
        finally:
            with anyio.CancelScope(shield=True):
                await client.delete(jobs)


# --- what is no failure ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stop", "cancel"])
async def test_who_is_cut_short_has_not_failed(amqp_url: str, how: str) -> None:
    async with (
        jobs_and_dead(amqp_url) as (jobs, dead),
        rabbitry.open_client(amqp_url) as client,
        open_channel(amqp_url) as channel,
    ):
        at_it = anyio.Event()

        async def handle(delivery: Delivery) -> None:
            at_it.set()
            await anyio.sleep(0.2 if how == "stop" else 60)

        async with anyio.create_task_group() as tg:
            tg.start_soon(partial(client.process, jobs, handle, retry=Retry([0.05], dead=dead)))
            await client.publish(b"x", routing_key=jobs)
            await at_it.wait()
            if how == "stop":
                client.stop_consuming()
            else:
                tg.cancel_scope.cancel()
        assert await has_counts(channel, jobs, 1 if how == "cancel" else 0)
        if how == "cancel":
            found = await channel.get(jobs)
            assert found is not None and found.redelivered and found.attempt == 1
            found.ack()
        assert await has_counts(channel, dead, 0)


async def test_what_kills_its_worker_is_bounded_by_its_queue(amqp_url: str) -> None:
    """Nobody is left to count the attempt, so that what the queue says of deliveries has to end it."""
    dead = Queue(unique(), type="quorum")
    jobs = Queue(
        unique(), type="quorum", delivery_limit=2, dead_letter_exchange="", dead_letter_routing_key=dead.name or ""
    )
    async with through_proxy(amqp_url) as (client, proxy), open_channel(amqp_url) as channel:
        attempts: list[int] = []

        async def handle(delivery: Delivery) -> None:
            attempts.append(delivery.attempt)
            proxy.cut()
            await anyio.sleep_forever()

        await client.declare(dead, jobs)
        try:
            async with at_work(client, jobs, handle, Retry([60], dead=dead), on_stale="cancel"):
                async with rabbitry.open_client(amqp_url) as another:
                    await another.publish(b"x", routing_key=jobs.name)
                assert await has_counts(channel, dead.name, 1)
                assert await has_counts(channel, jobs.name, 0)
            assert attempts == [1, 1, 1]
        finally:
            with anyio.CancelScope(shield=True):
                await client.delete(jobs, dead)


async def test_what_its_handler_settled_is_settled(amqp_url: str) -> None:
    async with (
        jobs_and_dead(amqp_url) as (jobs, dead),
        rabbitry.open_client(amqp_url) as client,
        open_channel(amqp_url) as channel,
    ):
        done = anyio.Event()

        async def handle(delivery: Delivery) -> None:
            if delivery.body == b"last":
                done.set()
            delivery.ack()
            raise ValueError("after it")

        async with at_work(client, jobs, handle, Retry([], dead=dead)):
            await client.publish(b"x", routing_key=jobs)
            await client.publish(b"last", routing_key=jobs)
            await done.wait()
        assert await has_counts(channel, jobs, 0) and await has_counts(channel, dead, 0)


async def test_what_something_else_cancelled_is_a_failure(amqp_url: str, anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("trio has no such thing")
    import asyncio

    async with (
        jobs_and_dead(amqp_url) as (jobs, dead),
        rabbitry.open_client(amqp_url) as client,
        open_channel(amqp_url) as channel,
    ):

        async def handle(delivery: Delivery) -> None:
            task = asyncio.create_task(asyncio.sleep(60))
            task.cancel()
            await task

        async with at_work(client, jobs, handle, Retry([0.05], dead=dead)):
            await client.publish(b"x", routing_key=jobs)
            assert await has_counts(channel, dead, 1)


# --- what can't be handed over ---------------------------------------------------------------------------------------


@asynccontextmanager
async def a_full_level(node: PrivateNode, client: Client, delay: float) -> AsyncIterator[None]:
    """Full as an operator's policy may make it; there is room after the block."""
    level = name_of_level(level_of(delay))
    node.rabbitmqctl("set_policy", "full", f"^{level}$", '{"max-length": 1}', "--apply-to", "queues")
    try:
        async with some_queue(node.url) as anywhere:
            with pytest.raises(Nacked):  # a quorum queue tells its publishers a little late
                for _ in range(100):
                    await client.publish(b"fills it", routing_key=anywhere, delay=delay)
        yield
    finally:
        node.rabbitmqctl("clear_policy", "full")


async def test_what_finds_no_room_stays_unacknowledged_and_does_not_spin(
    amqp_url: str, node: PrivateNode, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And goes on as soon as there is room."""
    monkeypatch.setattr(retrying, "LONGEST", 0.2)
    caplog.set_level(logging.WARNING)
    async with (
        some_queue(amqp_url) as jobs,
        rabbitry.open_client(amqp_url) as client,
        open_channel(amqp_url) as channel,
    ):
        level = name_of_level(level_of(3000))
        published: Counter[str] = Counter()
        publish_after = Client._publish_after

        async def counting(self: Client, before: Any, message: Any, exchange: str, *more: Any) -> None:
            published[exchange] += 1
            await publish_after(self, before, message, exchange, *more)

        monkeypatch.setattr(Client, "_publish_after", counting)
        async with a_full_level(node, client, 3000), anyio.create_task_group() as tg:
            published.clear()
            await tg.start(partial(client.process, jobs, failing, retry=Retry([3000])))
            await client.publish(b"x", routing_key=jobs)
            await until(lambda: "can't be handed over" in caplog.text)
            await anyio.sleep(1)
            assert 3 <= published[level] <= 8
            assert await has_counts(channel, jobs, 0, 1)
            before = await channel.declare_queue(level, passive=True)
            node.rabbitmqctl("clear_policy", "full")
            assert await has_counts(channel, level, before.message_count + 1)
            client.stop_consuming()
            node.rabbitmqctl("set_policy", "full", f"^{level}$", '{"max-length": 1}', "--apply-to", "queues")
        assert await has_counts(channel, jobs, 0)
        await channel.delete_queue(level)


async def test_a_dead_queue_that_is_full_is_waited_for(amqp_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with (
        some_queue(amqp_url) as jobs,
        rabbitry.open_client(amqp_url) as client,
        open_channel(amqp_url) as channel,
    ):
        dead = Queue(unique("dead"), max_length=1, overflow="reject-publish")
        await client.declare(dead)
        try:
            await client.publish(b"fills it", routing_key=dead.name)
            async with at_work(client, jobs, failing, Retry([], dead=dead)):
                await client.publish(b"x", routing_key=jobs)
                await until(lambda: "can't be handed over" in caplog.text)
                assert await has_counts(channel, jobs, 0, 1)
                assert await drain(channel, dead.name) == [b"fills it"]
                assert await has_counts(channel, dead.name, 1)
            assert await has_counts(channel, jobs, 0)
        finally:
            with anyio.CancelScope(shield=True):
                await client.delete(dead)


async def test_what_is_never_confirmed_is_handed_over_again(
    amqp_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a quorum queue that had no leader when it came."""
    monkeypatch.setattr(retrying, "CONFIRM_BOUND", 0.2)
    caplog.set_level(logging.WARNING)
    publish_after, silent = Client._publish_after, 2

    async def unanswered(self: Client, *words: Any) -> None:
        nonlocal silent
        if silent:
            silent -= 1
            await anyio.sleep_forever()
        await publish_after(self, *words)

    monkeypatch.setattr(Client, "_publish_after", unanswered)
    async with some_queue(amqp_url) as jobs, rabbitry.open_client(amqp_url) as client:
        attempts: list[int] = []

        async def handle(delivery: Delivery) -> None:
            attempts.append(delivery.attempt)
            if delivery.attempt == 1:
                raise ValueError("boom")

        async with at_work(client, jobs, handle, Retry([0.1])):
            await client.publish(b"x", routing_key=jobs)
            await until(lambda: attempts == [1, 2])
        assert not silent and "no confirm within 0.2 s" in caplog.text


@pytest.mark.parametrize("how", ["stop", "cancel"])
async def test_ended_meanwhile_it_goes_back(amqp_url: str, how: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with (
        jobs_and_dead(amqp_url) as (jobs, dead),
        rabbitry.open_client(amqp_url) as client,
        open_channel(amqp_url) as channel,
        anyio.create_task_group() as tg,
    ):
        await tg.start(partial(client.process, jobs, failing, retry=Retry([], dead=dead)))
        await channel.delete_queue(dead)
        await client.publish(b"x", routing_key=jobs)
        await until(lambda: "can't be handed over" in caplog.text and "no queue is bound" in caplog.text)
        if how == "stop":
            client.stop_consuming()
        else:
            tg.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            assert await has_counts(channel, jobs, 1)


async def test_no_retry_begins_without_what_it_takes(amqp_url: str, node: PrivateNode) -> None:
    user = unique("user")
    node.rabbitmqctl("add_user", user, "secret")
    node.rabbitmqctl("set_permissions", user, "^$", ".*", ".*")
    try:
        async with some_queue(amqp_url) as jobs, rabbitry.open_client(amqp_url) as client:
            with pytest.raises(NotFound, match="no queue"):
                await client.process(jobs, failing, retry=Retry([0.1], dead=unique("missing")))
            url = node.url.replace("guest:guest", f"{user}:secret")
            async with rabbitry.open_client(url) as other:
                with pytest.raises(AccessRefused, match=r"refused for user.*configure, write and read"):
                    await other.process(jobs, failing, retry=Retry([0.1]))
    finally:
        node.rabbitmqctl("delete_user", user)


async def test_a_dead_queue_that_is_said_how_is_declared(amqp_url: str) -> None:
    dead = Queue(unique("dead"), type="quorum")
    async with (
        some_queue(amqp_url) as jobs,
        rabbitry.open_client(amqp_url) as client,
        open_channel(amqp_url) as channel,
    ):
        try:
            async with at_work(client, jobs, failing, Retry([], dead=dead)):
                await client.publish(b"x", routing_key=jobs)
                assert await has_counts(channel, dead.name, 1)
        finally:
            await channel.delete_queue(dead.name)


async def test_what_does_not_fit_its_handler_s_type_is_dead_at_once(amqp_url: str) -> None:
    async with (
        jobs_and_dead(amqp_url) as (jobs, dead),
        rabbitry.open_client(amqp_url) as client,
        open_channel(amqp_url) as channel,
    ):

        async def handle(number: int) -> None:
            raise AssertionError("which is none")

        async with at_work(client, jobs, handle, Retry([60], dead=dead), convert=rabbitry.convert):
            await client.publish(Message.json("five"), routing_key=jobs)
            assert await has_counts(channel, dead, 1)
        found = await client.get(dead)
        assert found is not None and found.headers["x-rabbitry-error"] == "DecodeError"  # a class that users know


async def test_stopped_while_an_alarm_keeps_it_from_beginning_it_ends(amqp_url: str, node: PrivateNode) -> None:
    """The broker reads nothing on a connection that it has blocked, so that what would be declared has no answer."""
    async with jobs_and_dead(node.url) as (jobs, dead), rabbitry.open_client(node.url) as client:
        async with node.memory_alarm():
            with anyio.fail_after(30):
                while client.blocked_reason is None:
                    with anyio.move_on_after(0.05):
                        await client.publish(b"x", routing_key=jobs)
                stop = rabbitry.Stop()
                async with anyio.create_task_group() as tg:
                    tg.start_soon(partial(client.process, jobs, failing, retry=Retry([0.05], dead=dead), stop=stop))
                    await anyio.sleep(0.2)  # in which it has begun to ask
                    stop.set()


async def test_stopped_before_it_has_a_connection_it_ends(amqp_url: str) -> None:
    async with some_queue(amqp_url) as jobs, through_proxy(amqp_url) as (client, proxy):
        stop = rabbitry.Stop()
        await client.inspect(jobs)
        proxy.refuse()  # the publishing connection, which is none yet
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tg:
                tg.start_soon(partial(client.process, jobs, failing, retry=Retry([0.1]), stop=stop))
                await until(lambda: client._publishing.last_error is not None)
                stop.set()


@pytest.mark.parametrize(
    ("queue", "retry", "options", "error"),
    [
        ("jobs", [1, 5], {}, TypeError),
        ("jobs", Retry([1]), {"on_error": "reject"}, ValueError),
        ("jobs", Retry([1]), {"on_error": "raise"}, ValueError),
        ("jobs", Retry([1]), {"on_error": lambda delivery, error: "requeue"}, ValueError),
        ("jobs", Retry([1]), {"no_ack": True}, ValueError),
        ("jobs", Retry([1]), {"offset": "first"}, ValueError),
        ("jobs", Retry([1], dead="jobs"), {}, ValueError),
        (Queue("jobs"), Retry([1], dead=Queue("jobs")), {}, ValueError),
        (Queue("log", type="stream"), Retry([1]), {}, ValueError),
        (Queue.temporary(), Retry([1]), {}, ValueError),
        (Queue("mine", exclusive=True), Retry([1]), {}, ValueError),
    ],
)
async def test_what_contradicts_a_retry_is_refused_at_once(
    amqp_url: str, queue: Any, retry: Any, options: Any, error: type[Exception]
) -> None:
    async with rabbitry.open_client(amqp_url) as client:
        with pytest.raises(error):
            await client.process(queue, failing, retry=retry, **options)
        assert client.state == "idle"


async def test_a_stream_that_nobody_told_of_ends_it(amqp_url: str) -> None:
    async with rabbitry.open_client(amqp_url) as client, rabbitry.open_client(amqp_url) as declarer:
        log = Queue(unique("stream"), type="stream")
        await declarer.declare(log)
        failure: list[Exception] = []

        async def process(*, task_status: Any) -> None:
            try:
                await client.process(log.name, failing, retry=Retry([0.1]), task_status=task_status)
            except ValueError as error:
                failure.append(error)

        try:
            with anyio.fail_after(20):
                async with anyio.create_task_group() as tg:
                    await tg.start(process)
                    await client.publish(b"x", routing_key=log.name)
            assert "a stream takes nothing back" in str(failure[0])
        finally:
            with anyio.CancelScope(shield=True):
                await declarer.delete(log)


# --- connections -----------------------------------------------------------------------------------------------------


async def test_cut_anywhere_nothing_is_lost(amqp_url: str) -> None:
    async with (
        jobs_and_dead(amqp_url) as (jobs, dead),
        through_proxy(amqp_url) as (client, proxy),
        open_channel(amqp_url) as channel,
    ):
        done: Counter[bytes] = Counter()

        async def handle(delivery: Delivery) -> None:
            if int(delivery.body) % 4 >= delivery.attempt:
                raise ValueError("boom")
            done[delivery.body] += 1

        async with through_proxy(amqp_url) as (publisher, _):
            for number in range(100):
                await publisher.publish(b"%d" % number, routing_key=jobs)
        async with at_work(client, jobs, handle, Retry([0.05, 0.1], dead=dead), concurrency=5):
            for _ in range(5):
                await anyio.sleep(0.11)
                proxy.cut()
            await until(lambda: len(done) == 75)
            found: set[bytes] = set()
            with anyio.fail_after(30):
                while len(found) < 25:
                    found |= set(await drain(channel, dead))
        assert {int(body) % 4 for body in found} == {3} and {int(body) % 4 for body in done} == {0, 1, 2}
