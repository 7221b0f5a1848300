"""The broker is restarted under recipes at work: each goes on by itself, and nothing that was confirmed is lost."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rabbitry import Message, blocking
from rabbitry.testing import PrivateNode
from tests.recipes.harness import Onlooker, Site, Starter, wait_for


@pytest.fixture
def own_node() -> Iterator[PrivateNode]:
    with PrivateNode() as node:
        yield node


def test_recipes_go_on(own_node: PrivateNode, tmp_path: Path, port: str, site: Site) -> None:
    with blocking.open_client(own_node.url, name="onlooker") as client, ExitStack() as stack:
        start = Starter(own_node.url, tmp_path, stack)
        onlooker = Onlooker(client)
        web = start("web_service.py", PORT=port)
        bank = start("idempotent_consumer.py")
        mailer = start("growing_retries.py", DELAYS="0.1,1000")
        clicks = start("stream_offsets.py")
        audit = start("event_fan_out.py", "service", "audit", "#")
        start("outbox.py", "relay")
        queues = ("recipes.payments", "recipes.mails", "recipes.events.audit")  # a stream tells of no consumers
        for queue in queues:
            onlooker.wait_for_consumers(queue, 1)
        wait_for(lambda: client.inspect("recipes.clicks", timeout=30) is not None)
        site.wait_for("/ready", 200)

        def use(number: int) -> None:
            payment = Message.json({"account": "ada", "amount": 1}, message_id=str(number))
            client.publish(payment, routing_key="recipes.payments", mandatory=True, timeout=30)
            client.publish(b"refused", routing_key="recipes.mails", mandatory=True, timeout=30)
            client.publish(b"/page", routing_key="recipes.clicks", mandatory=True, timeout=30)
            client.publish(b"it", exchange="recipes.events", routing_key="order.placed", mandatory=True, timeout=30)
            start("outbox.py", "order", "tea").result()
            assert site.post("/orders", b"tea")[0] == 202
            bank.wait_for(f"booked {number}")
            mailer.wait_for("attempt 2", number)
            clicks.wait_for("counted", number)
            audit.wait_for("audit got", number)
            onlooker.wait_for_messages("recipes.outbox.orders", number)

        use(1)
        own_node.restart()
        for queue in queues:
            onlooker.wait_for_consumers(queue, 1)
        site.wait_for("/ready", 200)
        use(2)

        onlooker.wait_for_messages("recipes.orders", 2)
        with sqlite3.connect(tmp_path / "clicks.db") as database:
            wait_for(lambda: database.execute("select clicks from pages").fetchall() == [(2,)])
        database.close()
        for program in (web, bank, mailer, clicks, audit):
            assert program.process.poll() is None
