"""The systems that people come to RabbitMQ for, each as a short program: who gets what, what becomes of failures."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup

import rabbitry
from rabbitry import Binding, Delivery, Exchange, Message, Queue
from tests.support.clients import refuse, some_queue, through_proxy
from tests.support.helpers import has_counts, open_channel, unique, until

# --- an asynchronous client: publish, receive and rpc, each a call ----------------------------------------------------

Handler = Callable[[Delivery], Awaitable[bytes | None]]
"""What it returns goes to who asked for a reply, if somebody did."""


class AsynchronousClient:
    """One connection to publish, one to receive, and a reply queue for each exchange. Losing them is not its user's
    business: what was under way is sent again, so that a handler may see it twice.
    """

    def __init__(self, client: rabbitry.Client, calls: rabbitry.ClientRPC, tg: TaskGroup) -> None:
        self.client = client
        self.calls = calls
        self.tg = tg

    async def publish(self, exchange: str, routing_key: str, body: bytes) -> None:
        await self.client.publish(body, exchange=exchange, routing_key=routing_key, on_unknown="republish")

    async def receive(
        self, exchange: str, routing_key: str, queue: str, handler: Handler, no_ack: bool = False, prefetch: int = 10
    ) -> None:
        """Return once messages go to the queue; the handler then runs for each, until the client ends."""
        topic, receiving = Exchange(exchange, "topic"), Queue(queue, expires=60)
        await self.client.declare(topic, receiving, Binding(receiving, topic, routing_key))
        if no_ack:
            start = partial(self.client.process, queue, partial(self._answer, handler), no_ack=True)
        else:
            start = partial(self.client.serve, queue, handler, raw=True)
        await self.tg.start(partial(start, concurrency=prefetch, prefetch=prefetch))

    async def _answer(self, handler: Handler, delivery: Delivery) -> None:
        """What `serve` does, but for a request that is not to be acknowledged."""
        reply = await handler(delivery)
        properties = delivery.properties
        if properties.reply_to is not None:
            answer = Message(reply or b"", correlation_id=properties.correlation_id)
            await self.client.publish(answer, routing_key=properties.reply_to, on_unknown="republish")

    async def rpc(self, exchange: str, routing_key: str, body: bytes, timeout: float) -> bytes:
        """What the handler over there returned. It may run twice, where a connection is lost."""
        with anyio.fail_after(timeout):
            reply: bytes = await self.calls.call(routing_key, body, exchange=exchange, raw=True, idempotent=True)
            return reply


@asynccontextmanager
async def asynchronous(client: rabbitry.Client) -> AsyncIterator[AsynchronousClient]:
    async with client.rpc(reply_to="exclusive") as calls, anyio.create_task_group() as tg:
        yield AsynchronousClient(client, calls, tg)
        client.stop_consuming()


@asynccontextmanager
async def some_exchange(url: str) -> AsyncIterator[str]:
    """A name, of what is deleted in the end."""
    name = unique("systems")
    try:
        yield name
    finally:
        with anyio.CancelScope(shield=True):
            async with open_channel(url) as channel:
                await channel.delete_exchange(name)


@pytest.mark.parametrize("no_ack", [False, True])
async def test_an_asynchronous_client(amqp_url: str, no_ack: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)  # a handler fails, which is logged
    received: list[bytes] = []

    async def handler(delivery: Delivery) -> bytes:
        received.append(delivery.body)
        if delivery.body == b"fail":
            raise ValueError("not that")
        if delivery.body == b"wait":
            await anyio.sleep(0.1)
        return delivery.body.upper()

    async with some_exchange(amqp_url) as exchange, rabbitry.open_client(amqp_url) as client:
        async with asynchronous(client) as system:
            await system.receive(exchange, "orders.*", unique(), handler, no_ack=no_ack, prefetch=2)
            await system.publish(exchange, "orders.new", b"one way")
            await system.publish(exchange, "invoices.new", b"not for us")
            assert await system.rpc(exchange, "orders.new", b"two ways", timeout=5) == b"TWO WAYS"
            assert received == [b"one way", b"two ways"]

            await system.publish(exchange, "orders.new", b"fail")  # which ends nothing
            if not no_ack:
                with pytest.raises(rabbitry.RemoteError, match="not that"):
                    await system.rpc(exchange, "orders.new", b"fail", timeout=5)
            with pytest.raises(rabbitry.Unroutable):
                await system.rpc(exchange, "invoices.new", b"nobody", timeout=5)
            with pytest.raises(TimeoutError):
                await system.rpc(exchange, "orders.new", b"wait", timeout=0.05)
            with pytest.raises(rabbitry.Refused, match="404"):  # the broker closes a channel for it
                await system.publish(unique("nowhere"), "orders.new", b"lost")
            assert await system.rpc(exchange, "orders.new", b"again", timeout=5) == b"AGAIN"
        assert client.statistics()["publishing_lives"] == client.statistics()["consuming_lives"] == 1


async def test_an_asynchronous_client_has_two_connections_and_a_reply_queue_for_each_exchange(amqp_url: str) -> None:
    addresses: defaultdict[str, set[str | None]] = defaultdict(set)

    async def echo(delivery: Delivery) -> bytes:
        addresses[delivery.exchange].add(delivery.properties.reply_to)
        return delivery.body

    async with some_exchange(amqp_url) as one, some_exchange(amqp_url) as other:
        async with through_proxy(amqp_url) as (client, proxy), asynchronous(client) as system:
            for exchange in (one, other):
                await system.receive(exchange, "echo", unique(), echo)
            for number in range(6):
                body = b"%d" % number
                assert await system.rpc((one, other)[number % 2], "echo", body, timeout=5) == body
            assert len(proxy.links) == 2
            assert {exchange: len(names) for exchange, names in addresses.items()} == {one: 1, other: 1}
            queues = {name or "" for names in addresses.values() for name in names}
            assert len(queues) == 2 and not any(name.startswith("amq.rabbitmq.reply-to") for name in queues)


async def test_an_asynchronous_client_goes_on_when_both_connections_are_lost(amqp_url: str) -> None:
    received: set[bytes] = set()

    async def note(delivery: Delivery) -> None:
        received.add(delivery.body)

    async def double(delivery: Delivery) -> bytes:
        return b"%d" % (2 * int(delivery.body))

    async with some_exchange(amqp_url) as exchange, through_proxy(amqp_url) as (client, proxy):
        async with asynchronous(client) as system, anyio.create_task_group() as tg:
            await system.receive(exchange, "note", unique(), note)
            await system.receive(exchange, "double", unique(), double)
            await system.receive(exchange, "many", unique(), note, no_ack=True)
            replies: list[bytes] = []

            async def publish() -> None:
                for number in range(100):
                    await system.publish(exchange, "note", b"%d" % number)

            async def call() -> None:
                for number in range(100):
                    replies.append(await system.rpc(exchange, "double", b"%d" % number, timeout=20))

            tg.start_soon(publish)
            tg.start_soon(call)
            for progress in (10, 30, 50):
                await until(lambda progress=progress: min(len(received), len(replies)) >= progress, 20)
                proxy.reset()
            await until(lambda: len(received) == len(replies) == 100, 20)
            assert received == {b"%d" % number for number in range(100)}
            assert replies == [b"%d" % (2 * number) for number in range(100)]
            # the consumer that acknowledges nothing is there again as well
            await system.publish(exchange, "many", b"after all that")
            await until(lambda: b"after all that" in received)
        lives = client.statistics()
        assert lives["publishing_lives"] == lives["consuming_lives"] == 4


async def test_an_asynchronous_client_answers_again_when_its_answer_may_be_lost(amqp_url: str) -> None:
    async with some_exchange(amqp_url) as exchange, some_queue(amqp_url) as answers:
        async with open_channel(amqp_url) as channel, through_proxy(amqp_url) as (client, proxy):

            async def answer(delivery: Delivery) -> bytes:
                for link in proxy.links:
                    link.to_client.stall()  # no confirm comes
                return b"answer"

            async with asynchronous(client) as system:
                await system.receive(exchange, "ask", unique(), answer, no_ack=True)
                await system.publish("", "nobody", b"")  # so that the channel to answer on is there
                await channel.publish(Message(b"", reply_to=answers), exchange=exchange, routing_key="ask")
                assert await has_counts(channel, answers, 1)
                proxy.reset()
                assert await has_counts(channel, answers, 2)


# --- a work queue -----------------------------------------------------------------------------------------------------


async def test_a_busy_worker_gets_no_task_and_what_it_leaves_another_does(amqp_url: str) -> None:
    async with some_queue(amqp_url) as tasks, rabbitry.open_client(amqp_url) as client:
        done: list[bytes] = []
        stuck: list[bytes] = []

        async def busy(delivery: Delivery) -> None:
            stuck.append(delivery.body)
            await anyio.sleep_forever()

        async def quick(delivery: Delivery) -> None:
            done.append(delivery.body)

        everything = [b"%d" % number for number in range(20)]
        async with anyio.create_task_group() as workers:
            async with anyio.create_task_group() as first:
                await first.start(partial(client.process, tasks, busy, prefetch=1))
                await client.publish(everything[0], routing_key=tasks)
                await until(lambda: bool(stuck))
                await workers.start(partial(client.process, tasks, quick, prefetch=1))
                for task in everything[1:]:
                    await client.publish(task, routing_key=tasks)
                await until(lambda: len(done) == 19)
                assert done == everything[1:] and stuck == everything[:1]
                first.cancel_scope.cancel()
            await until(lambda: len(done) == 20)
            assert done[-1] == everything[0]
            client.stop_consuming()
        async with open_channel(amqp_url) as channel:
            assert await has_counts(channel, tasks, 0)


# --- publish and subscribe, routing, topics, headers ------------------------------------------------------------------


async def who_gets(
    url: str,
    kind: str,
    bindings: Mapping[str, Sequence[Any]],
    messages: Sequence[tuple[str, Mapping[str, Any] | None]],
) -> list[set[str]]:
    """For each message, a routing key and headers, the names of the queues that got it; none of them twice.

    A binding is a routing key, or the arguments of a headers exchange.
    """
    async with some_exchange(url) as name, rabbitry.open_client(url) as client:
        exchange = Exchange(name, kind)
        queues = {each: Queue.temporary() for each in bindings}
        await client.declare(
            exchange,
            *queues.values(),
            *(
                Binding(queues[each], exchange, wanted)
                if isinstance(wanted, str)
                else Binding(queues[each], exchange, arguments=wanted)
                for each, all_wanted in bindings.items()
                for wanted in all_wanted
            ),
        )
        unrouted: set[int] = set()
        for number, (key, headers) in enumerate(messages):
            message = Message(b"%d" % number, headers=headers)
            try:
                await client.publish(message, exchange=exchange, routing_key=key, mandatory=True)
            except rabbitry.Unroutable:
                unrouted.add(number)
        takers: list[list[str]] = [[] for _ in messages]
        for each, queue in queues.items():
            info = await client.inspect(queue)
            assert info is not None
            async with client.consume(queue, no_ack=True) as deliveries:
                for _ in range(info.message_count):
                    takers[int((await anext(deliveries)).body)].append(each)
        assert unrouted == {number for number, names in enumerate(takers) if not names}
        assert all(len(names) == len(set(names)) for names in takers)
        return [set(names) for names in takers]


async def test_a_fanout_exchange_tells_everybody_whatever_the_key(amqp_url: str) -> None:
    messages = [("", None), ("a.key", None), ("another", {"format": "pdf"})]
    assert await who_gets(amqp_url, "fanout", {"one": ["its key"], "other": [""]}, messages) == 3 * [{"one", "other"}]
    assert await who_gets(amqp_url, "fanout", {"nobody": []}, [("", None)]) == [set()]


async def test_who_subscribes_late_gets_what_comes_then(amqp_url: str) -> None:
    async with some_exchange(amqp_url) as name, rabbitry.open_client(amqp_url) as client:
        news, queue = Exchange(name, "fanout"), Queue.temporary()
        await client.declare(news)
        await client.publish(b"before", exchange=news)
        await client.declare(queue, Binding(queue, news))
        await client.publish(b"after", exchange=news)
        async with client.consume(queue) as deliveries:
            assert (await anext(deliveries)).body == b"after"


async def test_a_direct_exchange_goes_by_the_very_key(amqp_url: str) -> None:
    bindings = {"errors": ["error"], "most": ["warning", "error"]}
    messages = [("error", None), ("warning", None), ("info", None), ("error.disk", None), ("*", None)]
    expected = [{"errors", "most"}, {"most"}, set(), set(), set()]
    assert await who_gets(amqp_url, "direct", bindings, messages) == expected


async def test_a_topic_exchange_goes_by_the_words_of_the_key(amqp_url: str) -> None:
    bindings = {"orange": ["*.orange.*"], "rabbits": ["*.*.rabbit", "lazy.#"], "all": ["#"], "one word": ["*"]}
    expected = {
        "quick.orange.rabbit": {"orange", "rabbits", "all"},
        "lazy.orange.elephant": {"orange", "rabbits", "all"},
        "quick.orange.fox": {"orange", "all"},
        "lazy.brown.fox": {"rabbits", "all"},
        "lazy.pink.rabbit": {"rabbits", "all"},  # matches twice, comes once
        "quick.brown.fox": {"all"},
        "orange": {"all", "one word"},
        "quick.orange.new.rabbit": {"all"},
        "lazy.orange.new.rabbit": {"rabbits", "all"},
        "lazy": {"rabbits", "all", "one word"},  # of further words there may be none
        "": {"all"},
    }
    found = await who_gets(amqp_url, "topic", bindings, [(key, None) for key in expected])
    assert dict(zip(expected, found, strict=True)) == expected


async def test_a_headers_exchange_goes_by_all_headers_or_any(amqp_url: str) -> None:
    bindings = {
        "both": [{"x-match": "all", "format": "pdf", "pages": 2}],
        "either": [{"x-match": "any", "format": "pdf", "pages": 2}],
        "a format": [{"x-match": "all", "format": None}],  # whichever
    }
    messages = [
        ("", {"format": "pdf", "pages": 2, "more": True}),
        ("", {"format": "pdf", "pages": 3}),
        ("", {"pages": 2}),
        ("", {"format": "zip"}),
        ("", {"pages": "2"}),  # a text is no number
        ("format", None),
    ]
    expected = [{"both", "either", "a format"}, {"either", "a format"}, {"either"}, {"a format"}, set(), set()]
    assert await who_gets(amqp_url, "headers", bindings, messages) == expected


# --- remote procedure calls -------------------------------------------------------------------------------------------


async def double(number: int) -> int:
    return 2 * number


async def test_replies_that_nobody_asked_for_and_duplicates_do_no_harm(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:

        async def confused(request: Delivery) -> None:
            to, number = request.properties.reply_to or "", request.decode()
            for correlation_id in ("unknown", None, request.properties.correlation_id):
                reply = Message.msgpack(2 * number if correlation_id not in ("unknown", None) else "wrong")
                for _ in range(2):
                    await client.publish(reply.replace(correlation_id=correlation_id), routing_key=to)

        async with anyio.create_task_group() as tg, client.rpc() as rpc:
            await tg.start(partial(client.process, queue, confused))
            with anyio.fail_after(5):
                assert [await rpc.call(queue, number) for number in range(5)] == [0, 2, 4, 6, 8]
            await until(lambda: rpc.late_replies == 5 * 5)
            client.stop_consuming()


async def test_a_request_that_comes_twice_is_answered_twice_and_the_call_returns_once(amqp_url: str) -> None:
    async with some_queue(amqp_url) as front, some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:

        async def hand_on_twice(request: Delivery) -> None:
            for _ in range(2):
                await client.publish(request.message, routing_key=queue)

        async with anyio.create_task_group() as tg, client.rpc() as rpc:
            await tg.start(partial(client.process, front, hand_on_twice))
            await tg.start(partial(client.serve, queue, double))
            with anyio.fail_after(5):
                assert [await rpc.call(front, number) for number in range(5)] == [0, 2, 4, 6, 8]
            await until(lambda: rpc.late_replies == 5)
            client.stop_consuming()


async def test_servers_share_the_load(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        answered: Counter[str] = Counter()
        replies: dict[int, int] = {}
        both = anyio.Event()

        async def answer(name: str, number: int) -> int:
            answered[name] += 1
            if len(answered) == 2:
                both.set()
            await both.wait()  # one alone would wait for ever
            return 2 * number

        async with anyio.create_task_group() as tg, client.rpc() as rpc:
            for name in ("one", "other"):
                serve = partial(client.serve, queue, partial(answer, name), concurrency=1, prefetch=1)
                await tg.start(serve)

            async def call(number: int) -> None:
                replies[number] = await rpc.call(queue, number)

            with anyio.fail_after(5):
                async with anyio.create_task_group() as calls:
                    for number in range(20):
                        calls.start_soon(call, number)
            client.stop_consuming()
        assert replies == {number: 2 * number for number in range(20)}
        assert answered.total() == 20


async def test_a_call_is_answered_by_the_server_that_remains(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        begun = anyio.Event()

        async def never(number: int) -> None:
            begun.set()
            await anyio.sleep_forever()

        async with anyio.create_task_group() as tg, client.rpc() as rpc:
            replies: list[int] = []

            async def call() -> None:
                replies.append(await rpc.call(queue, 21))

            async with through_proxy(amqp_url) as (server, proxy), anyio.create_task_group() as first:
                await first.start(partial(server.serve, queue, never))
                tg.start_soon(call)
                await begun.wait()
                refuse(proxy)
                await tg.start(partial(client.serve, queue, double))
                await until(lambda: replies == [42])
                first.cancel_scope.cancel()
            client.stop_consuming()
