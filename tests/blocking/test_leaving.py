"""Blocks that a thread is still in as their client is left by another one."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

import rabbitry
from rabbitry import blocking

InThread = Callable[..., threading.Thread]


class Within:
    """A thread that enters a block, and leaves it when it is told to."""

    def __init__(self, in_thread: InThread, enter: Callable[[ExitStack], object]) -> None:
        self._enter = enter
        self._is_in, self._may_leave = threading.Event(), threading.Event()
        self.end: BaseException | None = None
        self._thread = in_thread(self._work)
        assert self._is_in.wait(20)

    def _work(self) -> None:
        try:
            with ExitStack() as stack:
                self._enter(stack)
                self._is_in.set()
                assert self._may_leave.wait(20)
        except BaseException as error:
            self.end = error

    def leave(self) -> None:
        self._may_leave.set()
        self._thread.join(20)
        assert not self._thread.is_alive()


@pytest.mark.parametrize("kind", ["publisher", "channel", "rpc", "consume"])
def test_it_is_left_before_the_event_loop_ends(
    amqp_url: str, queue: str, in_thread: InThread, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    with blocking.open_client(amqp_url) as client:
        block: Any = client.consume(queue) if kind == "consume" else getattr(client, kind)()
        within = Within(in_thread, lambda stack: stack.enter_context(block))
    within.leave()
    assert within.end is None
    gc.collect()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_several_are_entered_and_left_meanwhile(
    amqp_url: str, in_thread: InThread, caplog: pytest.LogCaptureFixture
) -> None:
    """Wherever the end of the client finds them."""

    def publish_for_ever() -> None:
        try:
            while True:
                with client.publisher() as publisher:
                    publisher.submit(b"x", routing_key="nowhere")
        except (rabbitry.NotConnected, rabbitry.PublishesFailed, rabbitry.Closed):
            pass

    for number in range(10):
        with blocking.open_client(amqp_url) as client:
            client.publish(b"x", routing_key="nowhere")
            threads = [in_thread(publish_for_ever) for _ in range(6)]
            threads[0].join(0.003 * number)
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
    gc.collect()
    assert not [record for record in caplog.records if "asynchronous generator" in record.getMessage()]


def test_who_is_in_it_learns_what_was_not_sent(proxy: Any, in_thread: InThread) -> None:
    with blocking.open_client(proxy.url) as client:

        def enter(stack: ExitStack) -> None:
            publisher = stack.enter_context(client.publisher())
            publisher.submit(b"1", routing_key="nowhere").wait(timeout=10)
            proxy.refuse()
            proxy.cut()
            publisher.submit(b"2", routing_key="nowhere")

        within = Within(in_thread, enter)
    within.leave()
    assert isinstance(within.end, rabbitry.PublishesFailed) and within.end.count == 1
