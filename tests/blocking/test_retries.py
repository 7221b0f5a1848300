"""Retries and delays without async: the same parameters, whose effects are the async client's."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

import rabbitry
from rabbitry import Message, Retry, blocking
from tests.support.helpers import unique


def test_each_attempt_is_told_and_the_last_is_dead(client: blocking.Client, queue: str) -> None:
    dead = rabbitry.Queue(unique("dead"), expires=60)
    client.declare(dead)
    attempts: list[int] = []
    at: list[float] = []
    stop = rabbitry.Stop()

    def handle(delivery: blocking.Delivery) -> None:
        attempts.append(delivery.attempt)
        at.append(time.monotonic())
        if delivery.attempt == 3:
            stop.set()
        raise ValueError("boom")

    client.publish(b"x", routing_key=queue)
    client.process(queue, handle, retry=Retry([0.1, timedelta(seconds=0.2)], dead=dead), stop=stop, timeout=20)
    assert attempts == [1, 2, 3]
    assert at[1] - at[0] >= 0.09 and at[2] - at[1] >= 0.19
    with client.consume(dead, inactivity_timeout=10) as deliveries:
        found = next(iter(deliveries))
        found.ack()
    assert found.headers["x-rabbitry-attempts"] == 3 and found.headers["x-rabbitry-error"] == "ValueError"


def test_a_delay_is_waited_for_at_the_broker(client: blocking.Client, queue: str) -> None:
    began = time.monotonic()
    client.publish(Message(b"later"), routing_key=queue, delay=0.4, timeout=10)
    client.publish(b"now", routing_key=queue, timeout=10)
    with client.consume(queue, inactivity_timeout=10) as deliveries:
        found = []
        for delivery in deliveries:
            found.append(delivery.body)
            delivery.ack()
            if len(found) == 2:
                break
    assert found == [b"now", b"later"] and time.monotonic() - began >= 0.39


def test_wrong_arguments_are_refused(client: blocking.Client, queue: str) -> None:
    with pytest.raises(ValueError, match="48 days"):
        client.publish(b"x", routing_key=queue, delay=-1)
    with pytest.raises(ValueError, match="on_error"):
        client.process(queue, print, retry=Retry([1]), on_error="reject")
    with pytest.raises(TypeError, match=r"rabbitry\.Retry"):
        client.process(queue, print, retry=[1, 5])  # type: ignore[arg-type]
