"""`blocking.start_client`: a client whose start and stop are different functions."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import rabbitry
from rabbitry import blocking
from rabbitry.testing import PrivateNode

ROOT = Path(__file__).parents[2]


def test_it_begins_and_ends_without_a_block(amqp_url: str, queue: str) -> None:
    client = blocking.start_client(amqp_url, name="started")
    try:
        client.publish(b"x", routing_key=queue, timeout=20)
        delivery = client.get(queue, timeout=20)
        assert delivery is not None and delivery.body == b"x"
        delivery.ack()
        with pytest.raises(rabbitry.LocalProtocolError, match="entered before"), client:
            pass
    finally:
        client.close()
    client.close()
    assert client.wait_closed() is None  # type: ignore[func-returns-value]
    with pytest.raises(rabbitry.NotConnected, match="closed: use it before its close"):
        client.publish(b"y", routing_key=queue)


def test_another_thread_may_close_it(amqp_url: str, queue: str) -> None:
    client = blocking.start_client(amqp_url)
    client.publish(b"x", routing_key=queue, timeout=20)
    threads = [threading.Thread(target=client.close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    with pytest.raises(rabbitry.NotConnected):
        client.purge(queue)


def test_close_is_for_started_ones(amqp_url: str) -> None:
    with blocking.open_client(amqp_url) as client:
        with pytest.raises(rabbitry.LocalProtocolError, match="start_client"):
            client.close()
        client.publish(b"x", routing_key="nowhere", timeout=20)
    with pytest.raises(rabbitry.LocalProtocolError, match="start_client"):
        blocking.open_client(amqp_url).close()


def test_what_ended_it_is_told_by_wait_closed_and_not_by_close(amqp_url: str) -> None:
    parts = urlsplit(amqp_url)
    client = blocking.start_client(parts._replace(netloc=f"guest:wrong@{parts.hostname}:{parts.port}").geturl())
    with pytest.raises(rabbitry.AuthenticationFailed):
        client.wait_ready(timeout=20)
    with pytest.raises(rabbitry.NotConnected):
        client.publish(b"x", routing_key="x", timeout=20)
    assert not client.is_ready
    client.close()
    with pytest.raises(rabbitry.AuthenticationFailed):
        client.wait_closed(timeout=20)


def test_wrong_options() -> None:
    with pytest.raises(TypeError, match=r"start_client\(\) got an unexpected keyword argument 'username'"):
        blocking.start_client(username="x")  # type: ignore[call-arg]


def test_dropped_it_warns_and_is_closed(amqp_url: str) -> None:
    def drop() -> None:
        blocking.start_client(amqp_url).wait_ready(timeout=20)
        gc.collect()

    with pytest.warns(ResourceWarning, match=r"dropped without its close\(\)"):
        drop()
    for thread in threading.enumerate():
        if thread.name == "rabbitry.blocking":
            thread.join(20)
            assert not thread.is_alive()


@pytest.mark.parametrize(
    ("ending", "code"), [("", 0), ("raise SystemExit(3)", 3), ("1/0", 1), ("client.publish(b'x', routing_key='no')", 0)]
)
def test_an_open_one_does_not_hold_up_the_end_of_the_program(amqp_url: str, ending: str, code: int) -> None:
    script = f"from rabbitry import blocking\nclient = blocking.start_client({amqp_url!r})\nclient.wait_ready()\n"
    done = subprocess.run([sys.executable, "-c", script + ending], cwd=ROOT, capture_output=True, timeout=30)
    assert done.returncode == code


def test_stop_on_is_for_the_main_thread(amqp_url: str) -> None:
    client = blocking.start_client(amqp_url)
    caught: list[Exception] = []

    def elsewhere() -> None:
        try:
            client.stop_on()
        except rabbitry.LocalProtocolError as error:
            caught.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(20)
    client.close()
    assert len(caught) == 1 and "main thread" in str(caught[0])


def test_an_alarm_is_visible() -> None:
    with PrivateNode() as node, blocking.open_client(node.url) as client, client.changes() as changes:
        client.publish(b"x", routing_key="nowhere", timeout=30)
        with node.memory_alarm():
            with pytest.raises(TimeoutError):
                client.publish(b"y", routing_key="nowhere", timeout=2)
            while not (change := changes.receive(timeout=30)).is_alarm:  # type: ignore[union-attr]
                pass
            assert change is not None and change.blocked_reason == client.blocked_reason
            assert "memory" in str(client.blocked_reason) and client.is_ready
        change = changes.receive(timeout=30)
        assert change is not None and change.is_alarm and change.blocked_reason is None
        assert client.blocked_reason is None


def test_changes(amqp_url: str) -> None:
    client = blocking.start_client(amqp_url)
    with client.changes() as changes:
        with pytest.raises(TimeoutError):
            changes.receive(timeout=0.05)
        client.wait_ready(timeout=20)
        states = {(change.connection, change.state) for _ in range(4) if (change := changes.receive(timeout=20))}
        assert states == {(role, state) for role in ("publish", "consume") for state in ("connecting", "connected")}
        assert client.blocked_reason is None
        closing = threading.Thread(target=client.close)
        closing.start()
        assert {change.state for change in changes} <= {"closed"}
        closing.join(20)
