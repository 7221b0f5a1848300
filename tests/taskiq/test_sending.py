"""How a task is sent: what is declared for it, where it goes by its labels, and what is raised where it can't."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import anyio
import pytest
from taskiq import BrokerMessage, SimpleRetryMiddleware, SmartRetryMiddleware, TaskiqEvents, TaskiqState
from taskiq.exceptions import SendTaskError

import rabbitry
from rabbitry import Binding, Exchange, Queue
from rabbitry.taskiq import RabbitryBroker
from rabbitry.testing import open_proxy
from tests.support.helpers import open_channel, unique, until
from tests.taskiq.worker import Names, Results, ready, started, working


async def test_a_task_is_done_and_its_result_kept(amqp_url: str) -> None:
    async with started(amqp_url) as (broker, names):

        @broker.task
        async def add(one: int, two: int) -> int:
            return one + two

        @broker.task
        def fail() -> None:  # in a thread
            raise ValueError("no")

        async with working(broker):
            added, failed = await add.kiq(1, two=2), await fail.kiq()
            assert (await added.wait_result(timeout=30)).return_value == 3
            assert (await failed.wait_result(timeout=30)).is_err
        await broker.shutdown()
        assert await ready(amqp_url, names.queue) == 0


async def test_it_is_sent_as_taskiq_aio_pika_does(amqp_url: str) -> None:
    """Exchange, queues, routing key, headers, so that either's worker takes what the other sends."""
    names = Names()
    arguments = {"x-queue-type": "quorum", "x-dead-letter-exchange": "", "x-dead-letter-routing-key": names.dead}
    async with open_channel(amqp_url) as channel:
        await channel.declare_exchange(names.exchange, "topic", durable=True)
        await channel.declare_queue(names.dead, durable=True, arguments={"x-queue-type": "quorum"})
        await channel.declare_queue(names.queue, durable=True, arguments=arguments)
        async with started(amqp_url, names) as (broker, _):

            @broker.task("say", colour="red")
            async def say() -> None: ...

            sent = await say.kiq()
            delivery = await channel.get(names.queue)
            assert delivery is not None
            delivery.ack()
            assert (delivery.exchange, delivery.routing_key) == (names.exchange, names.queue)
            headers = {name: value for name, value in delivery.headers.items() if not name.startswith("x-")}
            assert headers == {"task_id": sent.task_id, "task_name": "say", "colour": "red"}
            assert (delivery.properties.delivery_mode, delivery.properties.priority) == (2, None)
            assert broker.formatter.loads(delivery.body).task_id == sent.task_id


async def test_a_delay_is_the_brokers(amqp_url: str) -> None:
    done: list[tuple[str, float]] = []
    async with started(amqp_url) as (broker, _):

        @broker.task(delay=0.4)
        async def note(name: str) -> None:
            done.append((name, loop.time() - began))

        loop = asyncio.get_running_loop()
        began = loop.time()
        async with working(broker):
            await note.kicker().with_labels(delay="0.7").kiq("latest")
            await note.kiq("later")
            await note.kicker().with_labels(delay=None).kiq("now")  # type: ignore[arg-type]
            await until(lambda: len(done) == 3)
    assert [name for name, _ in done] == ["now", "later", "latest"]
    assert done[1][1] >= 0.4 and done[2][1] >= 0.7


async def test_a_priority_overtakes(amqp_url: str) -> None:
    names = Names()
    done: list[int] = []
    async with started(amqp_url, names, queues=Queue(names.queue, max_priority=5), prefetch=1) as (broker, _):

        @broker.task(priority=2)
        async def note(priority: int) -> None:
            done.append(priority)

        await note.kiq(2)
        for priority in (1, 5, 3):
            await note.kicker().with_labels(priority=priority).kiq(priority)
        async with working(broker, max_async_tasks=1):
            await until(lambda: len(done) == 4)
    assert done == [5, 3, 2, 1]


@pytest.mark.parametrize(
    ("labels", "what"),
    [
        ({"delay": "soon"}, "the label delay is seconds, not 'soon'"),
        ({"delay": True}, "the label delay"),
        ({"delay": -1}, "0 to 4,200,000"),
        ({"delay": "nan"}, "finite"),
        ({"delay": 5_000_000}, "48 days"),
        ({"priority": 256}, "priority"),
        ({"priority": 1.5}, "the label priority is a whole number"),
        ({"priority": "high"}, "the label priority is a whole number"),
    ],
)
async def test_labels_that_say_nothing_are_refused(amqp_url: str, labels: dict[str, Any], what: str) -> None:
    async with started(amqp_url) as (broker, names):

        @broker.task
        async def never() -> None: ...

        with pytest.raises(SendTaskError) as caught:
            await never.kicker().with_labels(**labels).kiq()
        assert isinstance(caught.value.__cause__, ValueError) and what in str(caught.value.__cause__)
        assert await ready(amqp_url, names.queue) == 0


async def test_several_queues_and_which_of_them(amqp_url: str) -> None:
    names = Names()
    done: list[str] = []
    queues = [names.queue, Queue(f"{names.queue}.slow", type="quorum")]
    async with started(amqp_url, names, queues=queues) as (broker, _):

        @broker.task
        async def note(name: str) -> None:
            done.append(name)

        with pytest.raises(SendTaskError) as caught:
            await note.kiq("to whom")
        assert "queue_name" in str(caught.value.__cause__)
        with pytest.raises(SendTaskError) as caught:
            await note.kicker().with_labels(queue_name=unique()).kiq("to nobody")
        assert isinstance(caught.value.__cause__, rabbitry.Unroutable)
        for queue in broker._queues:
            await note.kicker().with_labels(queue_name=queue).kiq(queue)
        assert [await ready(amqp_url, queue) for queue in broker._queues] == [1, 1]
        async with working(broker):
            await until(lambda: len(done) == 2)
            await note.kicker().with_labels(queue_name=broker._queues[1]).kiq("again")
            await until(lambda: done[2:] == ["again"])
    assert set(done[:2]) == set(broker._queues)


async def test_bindings_of_ones_own(amqp_url: str) -> None:
    names = Names()
    queues = [names.queue, f"{names.queue}.2"]
    exchange = Exchange(names.exchange, "topic")
    bindings = [Binding(queues[0], exchange, "mail.*"), Binding(queues[1], exchange, "*.large")]
    async with started(amqp_url, names, queues=queues, exchange=exchange, bindings=bindings) as (broker, _):

        @broker.task(queue_name="mail.large")
        async def both() -> None: ...

        await both.kiq()
        assert [await ready(amqp_url, queue) for queue in queues] == [1, 1]


async def test_the_default_exchange(amqp_url: str) -> None:
    async with started(amqp_url, exchange="") as (broker, names):

        @broker.task
        async def work() -> None: ...

        await work.kiq()
        assert await ready(amqp_url, names.queue) == 1
        await broker.client.delete(Queue(names.queue))
        with pytest.raises(SendTaskError) as caught:
            await work.kiq()
        assert isinstance(caught.value.__cause__, rabbitry.Unroutable)


async def test_without_declaring_it_uses_what_is_there(amqp_url: str) -> None:
    async with started(amqp_url) as (_, names), started(amqp_url, names, declare=False) as (other, _):

        @other.task
        async def work() -> None: ...

        await work.kiq()
        assert await ready(amqp_url, names.queue) == 1
        assert other.client.statistics()["declared"] == 0


@pytest.mark.parametrize("middleware", [SimpleRetryMiddleware, SmartRetryMiddleware])
async def test_taskiqs_own_retries(amqp_url: str, middleware: Any) -> None:
    attempts: list[int] = []
    options = {"default_delay": 0.05} if middleware is SmartRetryMiddleware else {}
    async with started(amqp_url) as (broker, names):
        broker.add_middlewares(middleware(default_retry_count=3, default_retry_label=True, **options))

        @broker.task
        async def flaky() -> int:
            attempts.append(1)
            if len(attempts) < 3:
                raise ValueError("not yet")
            return len(attempts)

        async with working(broker):
            task = await flaky.kiq()
            assert (await task.wait_result(timeout=30)).return_value == 3
        await broker.shutdown()
        assert await ready(amqp_url, names.queue) == 0


# --- starting and ending ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_under_trio_it_says_so_at_once() -> None:
    broker = RabbitryBroker()
    message = BrokerMessage(task_id="1", task_name="x", message=b"{}", labels={})
    for calling in (broker.startup, lambda: broker.kick(message), lambda: anext(broker.listen())):
        with pytest.raises(rabbitry.LocalProtocolError, match=r"asyncio.*trio"):
            await calling()


async def test_it_is_to_be_started_once(amqp_url: str) -> None:
    async with started(amqp_url) as (broker, _):
        with pytest.raises(rabbitry.LocalProtocolError, match="started before"):
            await broker.startup()
        assert broker.client.is_ready
        await broker.shutdown()
        with pytest.raises(rabbitry.LocalProtocolError, match=r"await broker\.startup\(\) first"):
            broker.client
        await broker.shutdown()

        @broker.task
        async def work() -> None: ...

        with pytest.raises(SendTaskError) as caught:
            await work.kiq()
        assert isinstance(caught.value.__cause__, rabbitry.LocalProtocolError)
        await broker.startup()
        await work.kiq()


async def test_handlers_of_its_start_and_end_may_send(amqp_url: str) -> None:
    names = Names()
    broker = names.broker(amqp_url)

    @broker.task
    async def work() -> None: ...

    @broker.on_event(TaskiqEvents.CLIENT_STARTUP, TaskiqEvents.CLIENT_SHUTDOWN)
    async def send(state: TaskiqState) -> None:
        await work.kiq()

    async with started(amqp_url, names):
        await broker.startup()
        assert await ready(amqp_url, names.queue) == 1
        await broker.shutdown()
        assert await ready(amqp_url, names.queue) == 2


def rabbitry_tasks() -> list[str]:
    """One for each client that has not ended."""
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "rabbitry client"]


async def test_refused_credentials_are_raised_and_leave_nothing(amqp_url: str) -> None:
    broker = Names().broker(amqp_url.replace("guest:guest@", "guest:secret-of-mine@"))
    assert "secret-of-mine" not in repr(vars(broker))
    with pytest.raises(rabbitry.AuthenticationFailed) as caught:
        await broker.startup()
    assert "secret-of-mine" not in repr(caught.value)
    assert not rabbitry_tasks()


async def test_a_queue_that_somebody_declared_otherwise(amqp_url: str) -> None:
    async with started(amqp_url) as (_, names):
        other = names.broker(amqp_url, queues=Queue(names.queue, max_priority=3))
        with pytest.raises(rabbitry.PreconditionFailed):
            await other.startup()
        assert len(rabbitry_tasks()) == 1


async def test_a_failing_handler_of_its_start_leaves_nothing(amqp_url: str) -> None:
    async with started(amqp_url) as (_, names):
        broker = names.broker(amqp_url)
        broker.add_event_handler(TaskiqEvents.CLIENT_STARTUP, lambda state: 1 / 0)  # type: ignore[arg-type, return-value]
        with pytest.raises(ZeroDivisionError):
            await broker.startup()
        assert len(rabbitry_tasks()) == 1


async def test_it_waits_for_a_broker_and_can_be_cancelled_meanwhile(amqp_url: str) -> None:
    async with open_proxy(amqp_url) as proxy:
        proxy.refuse()
        broker = Names().broker(proxy.url)
        starting = asyncio.create_task(broker.startup())
        await until(lambda: broker._client is not None and broker._client.last_error is not None)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert not rabbitry_tasks()
        with anyio.move_on_after(0.05):
            await broker.startup()
        assert not rabbitry_tasks()


async def test_sending_waits_for_the_connection(amqp_url: str) -> None:
    async with open_proxy(amqp_url) as proxy, started(amqp_url, through=proxy.url) as (broker, names):

        @broker.task
        async def work() -> None: ...

        await work.kiq()
        proxy.refuse()
        proxy.cut()
        await until(lambda: not broker.client.is_ready)
        sending = asyncio.create_task(work.kiq())
        await asyncio.sleep(0.05)
        assert not sending.done()
        proxy.accept()
        await asyncio.wait_for(sending, 30)
        assert await ready(amqp_url, names.queue) == 2


# --- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "arguments"),
    [
        (ValueError, {"queues": []}),
        (ValueError, {"queues": ["a", "a"]}),
        (ValueError, {"queues": ""}),
        (TypeError, {"queues": [b"a"]}),
        (TypeError, {"queues": None}),
        (ValueError, {"queues": Queue.temporary()}),
        (ValueError, {"queues": Queue("a", exclusive=True)}),
        (ValueError, {"queues": Queue("a", type="stream")}),
        (ValueError, {"exchange": "", "bindings": []}),
        (TypeError, {"exchange": None}),
        (TypeError, {"dead_letter_queue": 5}),
        (TypeError, {"bindings": ["a"]}),
        (ValueError, {"prefetch": -1}),
        (ValueError, {"prefetch": 65_536}),
        (ValueError, {"on_unknown": "again"}),
        (TypeError, {"qos": 10}),
        (TypeError, {"result_backend": Results}),
    ],
)
def test_arguments_that_can_not_be(error: type[Exception], arguments: dict[str, Any]) -> None:
    with pytest.raises(error):
        RabbitryBroker("amqp://guest:secret-of-mine@localhost", **arguments)


def test_without_taskiq_it_says_what_to_install() -> None:
    script = "import sys; sys.modules['taskiq'] = None; import rabbitry.taskiq"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50)
    assert "ImportError: rabbitry.taskiq needs Taskiq: pip install taskiq" in done.stderr


def test_rabbitry_does_not_import_it() -> None:
    script = "import sys, rabbitry; rabbitry.Client; assert not {'taskiq', 'prometheus_client'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=50)
