"""Run by test_turns: signals strike the main thread as it runs the event loop itself. The URL is its argument."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType

from rabbitry import blocking
from tests.support.helpers import unique


def strike(number: int, times: int, may_strike: threading.Semaphore) -> threading.Thread:
    """Strikes so often, each time when it may: the main thread must be ready for it by then."""

    def work() -> None:
        for count in range(times):
            assert may_strike.acquire(timeout=20)
            time.sleep(0.0001 * (count % 17))
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def main(url: str) -> None:
    queue = unique("struck")
    may_strike = threading.Semaphore(0)
    with blocking.open_client(url) as client, blocking.connect(url) as connection, connection.channel() as channel:
        channel.declare_queue(queue)
        thread = strike(signal.SIGINT, 1000, may_strike)
        interruptions = 0
        while interruptions < 1000:
            try:
                may_strike.release()
                while True:
                    client.publish(b"x", routing_key="nowhere")
            except KeyboardInterrupt:
                interruptions += 1
        thread.join()
        client.publish_many([b"1", b"2"], routing_key=queue, timeout=5)
        info = client.inspect(queue, timeout=5)
        assert info is not None and info.message_count == 2
        assert client.statistics()["publishing_lives"] == 1 and connection.is_open
        print(interruptions, "interruptions, and it works")

        def leave(number: int, _: FrameType | None) -> None:
            sys.exit(number)

        signal.signal(signal.SIGTERM, leave)
        try:
            thread = strike(signal.SIGTERM, 1, may_strike)
            may_strike.release()
            client.wait_closed()
        except SystemExit:
            print("SystemExit of SIGTERM")
        thread.join()

        def publish(_: int, __: FrameType | None) -> None:
            client.publish(b"3", routing_key=queue, timeout=5)
            may_strike.release()

        signal.signal(signal.SIGUSR1, publish)
        thread = strike(signal.SIGUSR1, 20, may_strike)
        may_strike.release()
        while thread.is_alive():
            client.publish(b"x", routing_key="nowhere", timeout=5)
            try:
                client.wait_closed(timeout=0.001)
            except TimeoutError:
                pass
        assert channel.delete_queue(queue) == 22
        print("a handler that publishes")

        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) is leave
        assert signal.getsignal(signal.SIGUSR1) is publish
        print("handlers are as they were")
    print("left")


main(sys.argv[1])
