"""Run by test_interrupts: the process forks with a client open, and ends without closing it."""

from __future__ import annotations

import gc
import os
import sys
import threading
import traceback
import warnings

import pytest

import rabbitry
from rabbitry import blocking
from tests.helpers import unique

warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on forks with threads, which this is about


def refused(function: object, *arguments: object, **options: object) -> None:
    with pytest.raises(rabbitry.LocalProtocolError, match="forked"):
        function(*arguments, **options)  # type: ignore[operator]


def in_child(url: str, client: blocking.Client, delivery: rabbitry.Delivery, deliveries: blocking.Consumer) -> None:
    refused(client.publish, b"x")
    refused(client.publish_many, [b"x"], routing_key="x")
    refused(client.stop_consuming)
    refused(delivery.ack)
    refused(deliveries.receive)
    deliveries.__exit__(None, None, None)
    client.__exit__(None, None, None)
    with blocking.open_client(url) as own:
        own.publish(b"from the child", routing_key="nowhere", timeout=10)


def main(url: str) -> None:
    queue = unique("forgotten")
    with blocking.connect(url) as connection, connection.channel() as channel:
        channel.declare_queue(queue, exclusive=True)
        channel.publish_many([b"x", b"y"], routing_key=queue)
        with blocking.open_client(url) as client, channel.consume(queue) as deliveries:
            delivery = deliveries.receive(timeout=5)
            assert delivery is not None
            child = os.fork()
            if not child:
                status = 1
                try:
                    in_child(url, client, delivery, deliveries)
                    status = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(status)
            assert os.waitpid(child, 0)[1] == 0
            delivery.ack()
            client.publish(b"from the parent", routing_key="nowhere", timeout=5)
            print("forked")

        dropped = blocking.connect(url, name=queue)
        dropped.__enter__()
        still_open = dropped._connection
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del dropped
            while not caught:
                gc.collect()
        assert [str(each.message) for each in caught if each.category is ResourceWarning] == [
            "the connection was dropped inside its 'with' block"
        ]
        while still_open.is_open:  # it is closed in the background
            connection.channel().__enter__().__exit__(None, None, None)
        print("closed in the background")

    forgotten = blocking.open_client(url)
    forgotten.__enter__()
    forgotten.publish(b"x", routing_key="nowhere", timeout=5)
    forgotten.declare(rabbitry.Queue(queue, expires=60))
    forgotten.publish_many([b"x", b"y"], routing_key=queue)
    at_work = threading.Barrier(2)

    def handle(delivery: blocking.Delivery) -> None:
        if delivery.body == b"y":
            at_work.wait()
            threading.Event().wait()  # for ever

    for wait in (forgotten.wait_closed, lambda: forgotten.process(queue, handle, concurrency=2)):
        threading.Thread(target=wait, daemon=True).start()
    at_work.wait(10)
    print("ends")
    globals()["forgotten"] = forgotten  # it is there until the very end


main(sys.argv[1])
