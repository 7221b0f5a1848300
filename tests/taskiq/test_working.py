"""What becomes of a task in a worker: acknowledged when Taskiq says so, once for each message as long as the worker
lives, whatever connections are lost; and in order as it ends.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from taskiq import AcknowledgeType, Context, TaskiqDepends

import rabbitry
from rabbitry import Queue
from rabbitry.testing import open_proxy
from tests.support.helpers import unique, until
from tests.support.programs import ROOT, Program
from tests.taskiq.worker import Names, Results, ready, started, working

WHEN = AcknowledgeType


class Gate:
    """A task that says that it runs, and waits to be let through."""

    def __init__(self, broker: Any, **labels: Any) -> None:
        self.runs: list[str] = []
        self.done: list[str] = []
        self.opened = asyncio.Event()

        @broker.task(f"gate-{unique()}", **labels)
        async def gate(name: str = "it") -> None:
            self.runs.append(name)
            await self.opened.wait()
            self.done.append(name)

        self.task = gate

    async def running(self, count: int) -> None:
        await until(lambda: len(self.runs) == count)


# --- acknowledging ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_label", [False, True])
@pytest.mark.parametrize(
    ("when", "while_running", "while_saving"),
    [(WHEN.WHEN_RECEIVED, 0, 0), (WHEN.WHEN_EXECUTED, 1, 0), (WHEN.WHEN_SAVED, 1, 1), (WHEN.MANUAL, 1, 1)],
)
async def test_it_is_acknowledged_when_taskiq_says_so(
    amqp_url: str, when: AcknowledgeType, while_running: int, while_saving: int, as_label: bool
) -> None:
    """Seen by what comes back as the worker goes away in between."""
    labels = {"ack_type": when.value} if as_label else {}
    options = {} if as_label else {"ack_type": when}
    names = Names()
    for is_saving, expected in ((False, while_running), (True, while_saving)):
        async with started(amqp_url, names) as (broker, _):
            results = Results()
            results.opened.clear()
            broker.with_result_backend(results)
            gate = Gate(broker, **labels)
            async with working(broker, **options):
                await gate.task.kiq()
                await gate.running(1)
                if is_saving:
                    gate.opened.set()
                    await asyncio.wait_for(results.asked.wait(), 30)
                await broker.shutdown()
                assert await ready(amqp_url, names.queue) == expected
                gate.opened.set()
                results.opened.set()


async def test_manually(amqp_url: str) -> None:
    async with started(amqp_url) as (broker, names):

        @broker.task(ack_type="manual")
        async def work(is_mine: bool, context: Context = TaskiqDepends()) -> None:  # noqa: B008
            if is_mine:
                await context.ack()

        async with working(broker):
            for is_mine in (True, False, True):
                await (await work.kiq(is_mine)).wait_result(timeout=30)
        await broker.shutdown()
        assert await ready(amqp_url, names.queue) == 1


async def test_no_more_at_once_than_the_prefetch(amqp_url: str) -> None:
    async with started(amqp_url, prefetch=3) as (broker, names):
        gate = Gate(broker)
        for _ in range(5):
            await gate.task.kiq()
        async with working(broker):
            await gate.running(3)
            assert await ready(amqp_url, names.queue) == 2
            gate.opened.set()
            await until(lambda: len(gate.done) == 5)


# --- what is no task --------------------------------------------------------------------------------------------------


async def test_what_is_no_task_is_dead_lettered(amqp_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing of it is lost, nor shown in the log, and the worker goes on: it had a prefetch of one."""
    async with started(amqp_url, prefetch=1) as (broker, names):

        @broker.task
        async def work() -> int:
            return 1

        @broker.task("gone-by-now")
        async def gone() -> None: ...

        await gone.kiq()
        del broker.local_task_registry["gone-by-now"]
        await broker.client.publish(b"no-task-at-all", routing_key=names.queue)
        await broker.client.publish(rabbitry.Message(b"{}", headers={"task_name": 5}), routing_key=names.queue)
        async with working(broker):
            assert (await (await work.kiq()).wait_result(timeout=30)).return_value == 1
            await until_ready(amqp_url, names.dead, 3)
        lines = [record.getMessage() for record in caplog.records if record.name == "rabbitry"]
        assert lines[0] == f"a message of queue {names.queue!r} is no task that this worker knows, and was rejected"
        assert "no-task-at-all" not in caplog.text


async def test_a_task_of_a_producer_that_writes_no_headers(amqp_url: str) -> None:
    async with started(amqp_url) as (broker, names):

        @broker.task
        async def work() -> int:
            return 1

        message = broker.formatter.dumps(work.kicker()._prepare_message())
        async with working(broker):
            await broker.client.publish(message.message, routing_key=names.queue)
            await until(lambda: message.task_id in broker.result_backend.kept)  # type: ignore[attr-defined]


async def test_where_nothing_is_dead_lettered_it_is_taskiqs_to_say(amqp_url: str) -> None:
    names = Names()
    async with started(amqp_url, names, queues=Queue(names.queue)) as (broker, _):
        async with working(broker):
            await broker.client.publish(b"no task at all", routing_key=names.queue)
            await until_empty_and_idle(broker.client, names.queue)
        await broker.shutdown()
        assert await ready(amqp_url, names.queue) == 0, "Taskiq 0.13 acknowledges it"


async def until_ready(url: str, queue: str, count: int) -> None:
    async with rabbitry.open_client(url) as client, asyncio.timeout(30):
        while (info := await client.inspect(queue)) is None or info.message_count != count:
            await asyncio.sleep(0.005)


async def until_empty_and_idle(client: rabbitry.Client, queue: str) -> None:
    async with asyncio.timeout(30):
        while (info := await client.inspect(queue)) is None or info.message_count:
            await asyncio.sleep(0.005)
    await asyncio.sleep(0.1)


# --- lost connections -------------------------------------------------------------------------------------------------


async def lost(broker: Any, cut: Any) -> None:
    """Cut the connections, and return once there are new ones."""
    lives = broker.client.statistics()["consuming_lives"]
    cut()
    await until(lambda: broker.client.statistics()["consuming_lives"] > lives and broker.client.is_ready)


@pytest.mark.parametrize("queues", [1, 2])
async def test_what_is_at_work_is_not_begun_again(amqp_url: str, queues: int) -> None:
    """It comes again, and is acknowledged when it is done."""
    names = Names()
    several = [names.queue, f"{names.queue}.2"][:queues]
    async with (
        open_proxy(amqp_url) as proxy,
        started(amqp_url, names, through=proxy.url, queues=several) as (broker, _),
    ):
        gate = Gate(broker)
        async with working(broker):
            for number in range(6):
                await gate.task.kicker().with_labels(queue_name=several[number % queues]).kiq(str(number))
            await gate.running(6)
            for _ in range(2):
                await lost(broker, proxy.cut)
                await until(lambda: not any(each.delivery.is_stale for each in broker._at_work))
            gate.opened.set()
            await until(lambda: len(gate.done) == 6)
            await gate.task.kicker().with_labels(queue_name=several[0]).kiq("last")
            await until(lambda: len(gate.done) == 7)
        await broker.shutdown()
        assert sorted(gate.runs) == ["0", "1", "2", "3", "4", "5", "last"]
        assert [await ready(amqp_url, queue) for queue in several] == [0] * queues


async def test_what_was_done_meanwhile_is_acknowledged_as_it_comes_again(
    amqp_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_proxy(amqp_url) as proxy, started(amqp_url, through=proxy.url) as (broker, names):
        gate = Gate(broker)
        async with working(broker):
            sent = [await gate.task.kiq(name) for name in "abc"]
            await gate.running(3)
            proxy.refuse()
            proxy.cut()
            await until(lambda: not broker.client.is_ready)
            gate.opened.set()
            for each in sent:  # the results are kept, though nothing can be acknowledged
                assert not (await each.wait_result(timeout=30)).is_err
            await until(lambda: len(broker._owed) == 3)
            proxy.accept()
            await until(lambda: not broker._owed)
            await (await gate.task.kiq("d")).wait_result(timeout=30)
        await broker.shutdown()
        assert sorted(gate.runs) == ["a", "b", "c", "d"]
        assert await ready(amqp_url, names.queue) == 0
    assert "was acknowledged after its connection was lost" in caplog.text


@pytest.mark.parametrize("has_ids", [True, False])
async def test_two_that_are_alike_are_two(amqp_url: str, has_ids: bool) -> None:
    """Of the same task id, by somebody's will, or by a producer that numbers nothing: all are done and acknowledged."""
    async with open_proxy(amqp_url) as proxy, started(amqp_url, through=proxy.url, prefetch=2) as (broker, names):
        gate = Gate(broker)
        async with working(broker):
            for _ in range(3):
                kicker = gate.task.kicker().with_task_id("one")
                if has_ids:
                    await kicker.kiq()
                else:
                    message = broker.formatter.dumps(kicker._prepare_message())
                    await broker.client.publish(message.message, routing_key=names.queue)
            await gate.running(2)
            await lost(broker, proxy.cut)
            gate.opened.set()
            await until(lambda: len(gate.done) == 3)
        await broker.shutdown()
        assert len(gate.runs) == 3
        assert await ready(amqp_url, names.queue) == 0


async def test_what_taskiq_let_go_of_comes_again(amqp_url: str) -> None:
    """Tasks that were done and not acknowledged: nobody has them in hand when they come again. Of the last one, Taskiq
    does not let go before there is another.
    """
    async with open_proxy(amqp_url) as proxy, started(amqp_url, through=proxy.url) as (broker, _):
        runs: list[int] = []

        @broker.task(ack_type="manual")
        async def work(number: int) -> None:
            runs.append(number)

        async with working(broker):
            for number in range(3):
                await (await work.kiq(number)).wait_result(timeout=30)
            await until(lambda: len(broker._at_work) <= 1)
            await lost(broker, proxy.cut)
            await until(lambda: {0, 1} <= set(runs[3:]))


async def test_a_queue_that_is_deleted_ends_the_worker(amqp_url: str) -> None:
    """Taskiq's command starts another, which declares it again. (RabbitMQ 4.3 may close the connection of one that
    subscribes amid a deletion; a broker that declares has the queue again then, in its next life, and goes on.)
    """
    async with started(amqp_url) as (other, names), started(amqp_url, names, declare=False) as (broker, _):
        async with working(broker) as worker:
            await until_consumed(other.client, names.queue)
            await other.client.delete(Queue(names.queue))
            await asyncio.wait({worker}, timeout=30)
            with pytest.raises(BaseExceptionGroup) as caught:
                await worker
            assert caught.group_contains(rabbitry.ConsumerCancelled)


async def until_consumed(client: rabbitry.Client, queue: str) -> None:
    async with asyncio.timeout(30):
        while (info := await client.inspect(queue)) is None or not info.consumer_count:
            await asyncio.sleep(0.005)


# --- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queues", [1, 2])
async def test_it_ends_in_order(amqp_url: str, queues: int) -> None:
    """What is at work is finished and acknowledged; what is not goes back at once, also while that takes its time."""
    names = Names()
    several = [names.queue, f"{names.queue}.2"][:queues]
    async with started(amqp_url, names, queues=several) as (broker, _):
        gate = Gate(broker)
        for number in range(12 * queues):
            await gate.task.kicker().with_labels(queue_name=several[number % queues]).kiq(str(number))
        async with working(broker, max_async_tasks=2) as worker:
            await gate.running(2)
            asyncio.get_running_loop().call_later(1, gate.opened.set)  # by then it is seen that the others went back
        assert worker.done() and worker.exception() is None
        done = len(gate.done)
        assert done == len(gate.runs) and done < 12
        await broker.shutdown()
        assert sum([await ready(amqp_url, queue) for queue in several]) == 12 * queues - done


async def test_what_was_not_given_out_goes_back_while_others_are_at_work(amqp_url: str) -> None:
    async with started(amqp_url) as (broker, names):
        gate = Gate(broker)
        for number in range(10):
            await gate.task.kiq(str(number))
        listening = broker.listen()
        messages = [await anext(listening) for _ in range(2)]
        await until_ready(amqp_url, names.queue, 0)
        await listening.aclose()
        await until_ready(amqp_url, names.queue, 8)
        for message in messages:
            message.ack()
        await broker.shutdown()
        assert await ready(amqp_url, names.queue) == 8


@pytest.mark.parametrize("queues", [1, 2])
async def test_a_cancelled_listener_has_ended_and_lost_nothing(amqp_url: str, queues: int) -> None:
    """As Taskiq ends it: the call that waits for the next one is cancelled, in a task of its own."""
    names = Names()
    several = [names.queue, f"{names.queue}.2"][:queues]
    async with started(amqp_url, names, queues=several) as (broker, _):
        gate = Gate(broker)
        listening = broker.listen()
        waiting = asyncio.ensure_future(anext(listening))
        await until_consumed(broker.client, several[-1])
        await gate.task.kicker().with_labels(queue_name=several[-1]).kiq()
        first = await waiting
        waiting = asyncio.ensure_future(anext(listening))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(StopAsyncIteration):
            await anext(listening)
        for queue in several:
            await gate.task.kicker().with_labels(queue_name=queue).kiq()
            await until_ready(amqp_url, queue, 1)
        first.ack()  # type: ignore[union-attr]
        await broker.shutdown()
        assert [await ready(amqp_url, queue) for queue in several] == [1] * queues


async def test_what_waits_between_several_queues_goes_back_as_the_listener_ends(amqp_url: str) -> None:
    """One of each is taken ahead, to be there when it is asked for."""
    names = Names()
    several = [names.queue, f"{names.queue}.2", f"{names.queue}.3"]
    async with started(amqp_url, names, queues=several) as (broker, _):
        gate = Gate(broker)
        for number in range(9):
            await gate.task.kicker().with_labels(queue_name=several[number % 3]).kiq()
        listening = broker.listen()
        for _ in range(4):
            (await anext(listening)).ack()  # type: ignore[union-attr]
        await asyncio.sleep(0.05)
        await listening.aclose()
        async with asyncio.timeout(30):
            while sum([await ready(amqp_url, queue) for queue in several]) != 5:
                await asyncio.sleep(0.005)


TASKS = """
import asyncio, os, time
from rabbitry.taskiq import RabbitryBroker

broker = RabbitryBroker(os.environ["RABBITMQ_URL"], queues=os.environ["QUEUE"], exchange="", dead_letter_queue=None)


def note(what):
    with open("done", "a") as file:
        file.write(what + "\\n")


@broker.task
async def work(number: int) -> None:
    note(f"begun {number}")
    await asyncio.sleep(0.02)
    note(f"done {number}")
"""


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


async def test_taskiqs_own_worker_ends_on_sigterm_and_another_goes_on(
    amqp_url: str, tmp_path: Path, stack: ExitStack
) -> None:
    queue, count = unique("taskiq"), 150
    (tmp_path / "tasks.py").write_text(TASKS)
    done = tmp_path / "done"
    done.touch()

    def start() -> Program:
        words = ["-m", "taskiq", "worker", "--workers", "1", "--max-async-tasks", "3", "tasks:broker"]
        environment = {"RABBITMQ_URL": amqp_url, "QUEUE": queue, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
        return stack.enter_context(Program(words, environment, tmp_path))

    def lines(beginning: str) -> list[str]:
        return [line for line in done.read_text().splitlines() if line.startswith(beginning)]

    broker = Names().broker(amqp_url, queues=queue, exchange="", dead_letter_queue=None)

    @broker.task("tasks:work")
    async def work(number: int) -> None: ...

    await broker.startup()
    try:
        for number in range(count):
            await work.kiq(number)
        first = start()
        await until(lambda: len(lines("done")) >= 10)
        assert await asyncio.to_thread(first.end, signal.SIGTERM) == 0
        assert len(lines("begun")) == len(lines("done")) < count, "what it had begun it has finished"
        second = start()
        await until(lambda: len(lines("done")) >= count)
        await asyncio.to_thread(second.end, signal.SIGTERM)
        assert sorted(lines("done")) == sorted(f"done {number}" for number in range(count)), "each of them once"
    finally:
        await broker.client.delete(Queue(queue))
        await broker.shutdown()
