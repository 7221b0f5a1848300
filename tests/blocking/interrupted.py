"""Run by test_interrupts: Ctrl-C strikes in each call that waits. Prints a line for each; the URL is its argument."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial

from anyio.from_thread import start_blocking_portal

from rabbitry import blocking
from rabbitry.testing import open_proxy
from tests.support.helpers import unique


def press_ctrl_c(
    times: int = 1, first: Callable[[], object] | None = None, then: Callable[[], object] | None = None
) -> threading.Thread:
    """Once `first` has returned and the main thread waits, and again once it waits for what was interrupted to end."""
    has_started = threading.Event()  # else it may be waiting for just that

    def press() -> None:
        has_started.wait()
        if first is not None:
            first()
        for _ in range(times):
            frame, told = None, 0
            while told < 3:  # looks thrice, so that it does not catch it in passing
                frame = sys._current_frames()[threading.main_thread().ident or 0]
                told = told + 1 if frame.f_code.co_name in ("wait", "_wait", "sleep", "select", "exchange") else 0
                time.sleep(0.005)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.02)
        if then is not None:
            then()

    thread = threading.Thread(target=press)
    thread.start()
    has_started.set()
    return thread


def interrupt(name: str, function: Callable[[], object], check: Callable[[], object], **options: object) -> None:
    thread = press_ctrl_c(**options)  # type: ignore[arg-type]
    began = time.monotonic()
    try:
        function()
    except KeyboardInterrupt:
        took = time.monotonic() - began
        thread.join()
        assert took < 15, took
        print(name, "interrupted,", "then", check())
    else:
        print(name, "NOT INTERRUPTED")


MESSAGES = 2000


def strike_at_random(client: blocking.Client, queue: str) -> str:
    """While deliveries come without a pause, so that signals arrive in all of what a thread does for one.

    A strike on the way from the library to this function's variable takes a delivery along, so there are enough.
    """
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    client.publish_many([b"again and again"] * MESSAGES, routing_key=queue)
    strikes, end = 0, time.monotonic() + 1.5
    with client.consume(queue, prefetch=0) as deliveries:
        while time.monotonic() < end:
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 4e-4))
                for _ in range(1000):  # Python drops what is raised in some callbacks
                    delivery = deliveries.receive(timeout=20)
                    assert delivery is not None
                    delivery.nack()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                strikes += 1
    with client.channel() as channel:  # what is given back last may come to the queue after the first purge
        left = MESSAGES
        while left:
            left -= channel.purge_queue(queue, timeout=20)
    return "often," if strikes > 10 else f"{strikes} times only,"


def main(url: str) -> None:
    queue = unique("interrupted")
    with blocking.open_client(url) as client, blocking.connect(url) as connection, connection.channel() as channel:
        channel.declare_queue(queue)

        def works() -> str:
            """Nothing was lost, and nothing still consumes or publishes here."""
            client.publish_many([b"1", b"2"], routing_key=queue, timeout=5)
            with client.consume(queue, timeout=5) as deliveries:
                for body in (b"1", b"2"):
                    delivery = deliveries.receive(timeout=5)
                    assert delivery is not None and delivery.body == body
                    delivery.ack()
            info = channel.declare_queue(queue, passive=True)
            assert (info.message_count, info.consumer_count) == (0, 0), info
            return "works"

        with client.consume(queue) as deliveries:
            interrupt("receive", deliveries.receive, lambda: "goes on")
            channel.publish(b"late", routing_key=queue)
            late = deliveries.receive(timeout=5)
            assert late is not None and late.body == b"late"
            late.ack()
            interrupt("batches", lambda: next(deliveries.batches(10, within=1)), lambda: "goes on")
        works()
        with channel.consume(queue) as consumer:
            interrupt("iteration", lambda: next(consumer), lambda: "goes on")
        with client.rpc() as rpc:
            interrupt("call", lambda: rpc.call(queue, 1), lambda: rpc.late_replies)
        channel.purge_queue(queue)
        interrupt("process", lambda: client.process(queue, print), works)
        interrupt("serve", lambda: client.serve(queue, print), works)
        interrupt("serve on a connection", lambda: connection.serve(queue, print), works)
        interrupt("wait_closed", connection.wait_closed, works)
        interrupt("client's wait_closed", client.wait_closed, works)

        at_work, release = threading.Event(), threading.Event()

        def work(_: blocking.Delivery) -> None:
            at_work.set()
            release.wait(10)

        channel.publish(b"at work", routing_key=queue)
        interrupt(
            "process at work",
            lambda: client.process(queue, work),
            works,  # the handler was let finish, and its message is acknowledged
            first=lambda: at_work.wait(10),
            then=release.set,
        )
        at_work.clear()
        release.clear()
        channel.publish(b"stuck", routing_key=queue)
        interrupt(
            "process stuck",
            lambda: client.process(queue, work, drain=60),
            lambda: "did not wait",
            times=2,
            first=lambda: at_work.wait(10),
        )
        release.set()
        while client.statistics()["subscriptions"]:  # it goes on without being waited for
            time.sleep(0.001)
        print("struck", strike_at_random(client, queue), "then", works())

        signal.signal(signal.SIGTERM, lambda *_: stopped.stop_consuming())
        with blocking.open_client(url) as stopped:
            channel.publish(b"job", routing_key=queue)
            stopped.process(queue, lambda _: os.kill(os.getpid(), signal.SIGTERM))
            print("stopped by SIGTERM, then", works())

        with start_blocking_portal() as portal, portal.wrap_async_context_manager(open_proxy(url)) as proxy:
            with blocking.open_client(proxy.url) as stalled:
                stalled.publish(b"", routing_key="nowhere")
                for name, publish in {
                    "publish": lambda: stalled.publish(b"", routing_key="nowhere"),
                    "publish_many": lambda: stalled.publish_many([b""] * 5000, routing_key="nowhere"),
                }.items():
                    portal.call(proxy.stall)
                    interrupt(name, publish, lambda: portal.call(proxy.resume) or "stalls no more")
                    stalled.publish_many([b"", b""], routing_key="nowhere", timeout=5)
        with blocking.open_client("amqp://localhost:1") as nowhere:

            def tries_to_connect() -> None:
                while nowhere.state == "idle":
                    time.sleep(0.001)

            publish = partial(nowhere.publish, b"")
            interrupt("publish to no broker", publish, lambda: nowhere.state, first=tries_to_connect)
        channel.delete_queue(queue)

    try:
        with blocking.open_client(url) as client:
            press_ctrl_c()
            client.wait_closed()
    except KeyboardInterrupt:
        print("left by it")
    print(sorted(thread.name for thread in threading.enumerate() if "rabbitry" in thread.name))


main(sys.argv[1])
