"""A message that fails is tried again after each delay, also by the next worker, and ends where somebody looks."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from rabbitry import Message, Queue
from tests.recipes.harness import Onlooker, Starter, without

MAILS = Queue("recipes.mails", type="quorum")
DEAD = Queue("recipes.mails.dead", type="quorum")

pytestmark = pytest.mark.parametrize(
    ("recipe", "backend"),
    [
        ("growing_retries.py", "asyncio"),
        ("growing_retries.py", "trio"),
        ("others/growing_retries_aio_pika.py", "asyncio"),
    ],
)


@pytest.fixture(autouse=True)
def clean(onlooker: Onlooker) -> Iterator[None]:
    later = [Queue(f"{MAILS.name}.later.{delay}", type="quorum") for delay in ("0.3", "0.9")]
    with without(onlooker, MAILS, DEAD, *later):
        yield


def test_attempts_go_on_in_the_next_worker(recipe: str, backend: str, start: Starter, onlooker: Onlooker) -> None:
    mailer = start(recipe, backend=backend, DELAYS="0.3,0.9")
    onlooker.wait_for_consumers(MAILS.name, 1)
    began = time.monotonic()
    for body, message_id in ((b"refused", "one"), (b"fine", "two")):
        onlooker.client.publish(Message(body, message_id=message_id), routing_key=MAILS.name, mandatory=True)
    mailer.wait_for("attempt 2 refused")
    assert time.monotonic() - began >= 0.3
    assert mailer.matching("attempt") == ["attempt 1 refused", "attempt 1 fine", "attempt 2 refused"]
    assert mailer.end(signal.SIGTERM) == 0

    start(recipe, backend=backend, DELAYS="0.3,0.9").wait_for("attempt 3 refused")
    assert time.monotonic() - began >= 1.2
    (dead,) = onlooker.take(DEAD.name, 1)
    assert (dead.body, dead.message_id) == (b"refused", "one")
    assert any("ConnectionRefusedError" in str(value) for value in (dead.headers or {}).values())
    assert onlooker.messages(MAILS.name) == 0
