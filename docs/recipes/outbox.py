"""The outbox: a row and its message are written in one transaction, and published afterwards, whatever crashes.

    python docs/recipes/outbox.py order tea        (as a web service would)
    python docs/recipes/outbox.py relay            (one of these, for ever)

A program that commits and then publishes loses the message where it crashes in between; one that publishes and then
commits tells of an order that there may never be. So the message is stored beside the order, and a relay publishes it.

Guaranteed: each committed order is published at least once, and no other. A message leaves the outbox once the broker
has confirmed it and a queue has it. The relay may be killed at any moment and started again.

Not guaranteed: exactly once. What was published but not yet deleted when the relay died is published again, with the
same `message_id`: idempotent_consumer.py books it once. Two relays at a time publish everything twice.
"""

import os
import sqlite3
import sys
import time
import uuid

import rabbitry
from rabbitry import blocking

ORDERS = rabbitry.Queue("recipes.outbox.orders", type="quorum")
SCHEMA = """
create table if not exists orders (id text primary key, item text);
create table if not exists outbox (number integer primary key autoincrement, message_id text, body blob);
"""


def open_database() -> sqlite3.Connection:
    database = sqlite3.connect(os.environ.get("DATABASE", "shop.db"))
    database.executescript(SCHEMA)
    return database


def place_order(database: sqlite3.Connection, item: str) -> None:
    order = str(uuid.uuid4())
    with database:  # one transaction: both rows or none
        database.execute("insert into orders values (?, ?)", [order, item])
        database.execute("insert into outbox (message_id, body) values (?, ?)", [order, item.encode()])


def relay(database: sqlite3.Connection, client: blocking.Client) -> int:
    """Publish what is in the outbox, up to 500 messages; their number."""
    rows = database.execute("select number, message_id, body from outbox order by number limit 500").fetchall()
    messages = [rabbitry.Message(body, message_id=message_id) for _, message_id, body in rows]
    client.publish_many(messages, routing_key=ORDERS.name, mandatory=True, on_unknown="republish")
    with database:  # all of them are confirmed, or publish_many would have raised
        database.executemany("delete from outbox where number = ?", [row[:1] for row in rows])
    return len(rows)


def main(command: str, *items: str) -> None:
    database = open_database()
    if command == "order":
        for item in items:
            place_order(database, item)
        return
    url = os.environ.get("RABBITMQ_URL", "amqp://guest:guest@localhost")
    with blocking.open_client(url, name="outbox-relay") as client:
        client.declare(ORDERS)
        while True:
            if count := relay(database, client):
                print("published", count, flush=True)
            else:
                time.sleep(0.2)


if __name__ == "__main__":
    main(*sys.argv[1:])
