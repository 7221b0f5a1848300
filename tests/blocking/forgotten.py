"""Run by test_interrupts: the process forks with a client open, and ends without closing it."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import threading
import traceback
import warnings
from types import ModuleType

import pytest

import rabbitry
from rabbitry import blocking
from tests.support.helpers import unique

warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on forks with threads, which this is about


def refused(function: object, *arguments: object, match: str = "before the process forked", **options: object) -> None:
    with pytest.raises(rabbitry.LocalProtocolError, match=match):
        function(*arguments, **options)  # type: ignore[operator]


refusals: list[None] = []


def refuse(client: blocking.Client, delivery: rabbitry.Delivery, deliveries: blocking.Consumer) -> None:
    refused(client.publish, b"x")
    refused(client.publish, b"x", timeout=1)
    refused(client.publish_many, [b"x"], routing_key="x")
    refused(client.declare, rabbitry.Queue("x"))
    refused(client.inspect, "x")
    refused(client.consume, "x")
    refused(client.process, "x", print)
    refused(client.rpc)
    refused(client.stop_consuming)
    refused(client.wait_closed)
    refused(client.statistics)
    refused(lambda: client.is_ready)
    refused(lambda: client.state)
    refused(client.__enter__, match="entered before")
    refused(delivery.ack)
    refused(deliveries.receive)
    refused(deliveries.stop)
    refused(lambda: next(deliveries))
    refused(lambda: deliveries.queue)
    assert "blocking" in repr(client)
    refusals.append(None)


def in_child(url: str, client: blocking.Client, delivery: rabbitry.Delivery, deliveries: blocking.Consumer) -> None:
    """The only thread here has the identity of the parent's; in those that it starts, identities recur, too."""
    threads: list[threading.Thread] = []
    for _ in range(3):
        threads.append(threading.Thread(target=refuse, args=(client, delivery, deliveries)))
        threads[-1].start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert len(refusals) == 3
    refuse(client, delivery, deliveries)
    deliveries.__exit__(None, None, None)
    client.__exit__(None, None, None)
    with blocking.open_client(url) as own:
        own.publish(b"from the child", routing_key="nowhere", timeout=10)


def hold_the_locks(url: str) -> None:
    """Have a connection dropped at the very end, when threads that were using another are no more."""
    busy, dropped = blocking.open_client(url), blocking.connect(url)
    busy.__enter__()
    dropped.__enter__()

    def work() -> None:
        while True:
            busy.stop_consuming()

    for _ in range(4):
        threading.Thread(target=work, daemon=True).start()
    keeper = sys.modules["keeper"] = ModuleType("keeper")
    keeper.dropped = dropped  # type: ignore[attr-defined]


def leave_in_children(client: blocking.Client) -> None:
    """They end as Python ends, with what they inherited freed, and do nothing to the parent's connections."""
    process = multiprocessing.get_context("fork").Process(target=refused, args=(client.publish, b"x"))
    process.start()
    process.join(20)
    assert process.exitcode == 0
    child = os.fork()
    if not child:
        gc.collect()
        sys.exit(3)  # through the blocks that the parent is in
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


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
            leave_in_children(client)
            client.publish(b"from the parent", routing_key="nowhere", timeout=5)
            assert client.statistics()["publishing_lives"] == 1
            print("forked")

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
    hold_the_locks(url)
    print("ends")
    globals()["forgotten"] = forgotten  # it is there until the very end


main(sys.argv[1])
