"""The bridge to libraries that block: the way back to the loop, and threads that end."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import pytest

from loadtest.drivers import load_driver
from loadtest.drivers.base import Outcome, ProducerOptions
from loadtest.drivers.worker import Handover
from tests.support.helpers import unique, until

ON_ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)


@ON_ASYNCIO
async def test_what_threads_post_arrives_once_and_in_each_threads_order() -> None:
    handover = Handover()
    arrived: list[tuple[int, int]] = []

    def post(thread: int) -> None:
        for number in range(2000):
            handover.post(partial(arrived.append, (thread, number)))

    threads = [threading.Thread(target=post, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    await until(lambda: len(arrived) == 16_000)
    for number in range(8):
        assert [posted for thread, posted in arrived if thread == number] == list(range(2000))


@ON_ASYNCIO
async def test_what_is_done_afterwards_is_done_once_for_all_that_was_posted() -> None:
    handover = Handover()
    told: list[str] = []
    handover.post(lambda: told.append("one"))
    handover.post(lambda: handover.afterwards(lambda: told.append("afterwards")))
    handover.post(lambda: told.append("two"))
    await until(lambda: len(told) == 3)
    assert told == ["one", "two", "afterwards"]
    handover.afterwards(lambda: told.append("also without a post"))
    await until(lambda: len(told) == 4)


def test_posting_after_the_loop_has_ended_harms_nobody() -> None:
    async def make() -> Handover:
        return Handover()

    handover = asyncio.run(make())
    handover.post(lambda: None)
    handover.post(lambda: None)


@ON_ASYNCIO
@pytest.mark.parametrize("driver", ["pika", "amqpstorm", "rabbitry-blocking"])
async def test_a_second_client_of_a_connection_has_a_thread_of_its_own_and_all_end(driver: str, amqp_url: str) -> None:
    before, name = set(threading.enumerate()), unique()

    def ours() -> int:
        return sum(thread.name == "loadtest client" for thread in set(threading.enumerate()) - before)

    options = ProducerOptions(window=1, persistent=True, mandatory=False)
    async with load_driver(driver).open() as session, session.connect(amqp_url, "test") as connection:
        async with connection.administrator() as administrator:
            await administrator.declare_queue(name, {"x-expires": 10_000})
            async with (
                connection.producer(name, options, lambda token, outcome: None) as one,
                connection.producer(name, options, lambda token, outcome: None) as other,
            ):
                assert ours() == 3
                found = await asyncio.gather(one.publish(b"one"), other.publish(b"two"))
                assert found == [Outcome.CONFIRMED, Outcome.CONFIRMED]
            assert await administrator.count_messages(name) == 2
            await administrator.delete_queue(name)
    await until(lambda: ours() == 0)
