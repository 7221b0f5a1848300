"""outbox.py with pika."""

import os
import sqlite3
import sys
import time
import uuid

import pika
import pika.exceptions

ORDERS = "recipes.outbox.orders"
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
    with database:
        database.execute("insert into orders values (?, ?)", [order, item])
        database.execute("insert into outbox (message_id, body) values (?, ?)", [order, item.encode()])


def relay(database: sqlite3.Connection, channel: pika.adapters.blocking_connection.BlockingChannel) -> int:
    rows = database.execute("select number, message_id, body from outbox order by number limit 500").fetchall()
    for number, message_id, body in rows:  # each waits for its confirm
        properties = pika.BasicProperties(message_id=message_id, delivery_mode=2)
        channel.basic_publish("", ORDERS, body, properties, mandatory=True)
        with database:
            database.execute("delete from outbox where number = ?", [number])
    return len(rows)


def main(command: str, *items: str) -> None:
    database = open_database()
    if command == "order":
        for item in items:
            place_order(database, item)
        return
    parameters = pika.URLParameters(os.environ.get("RABBITMQ_URL", "amqp://guest:guest@localhost"))
    while True:
        try:
            with pika.BlockingConnection(parameters) as connection:
                channel = connection.channel()
                channel.queue_declare(ORDERS, durable=True, arguments={"x-queue-type": "quorum"})
                channel.confirm_delivery()
                while True:
                    if count := relay(database, channel):
                        print("published", count, flush=True)
                    else:
                        connection.sleep(0.2)  # sends heartbeats, which time.sleep would not
        except pika.exceptions.AMQPConnectionError:
            time.sleep(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
