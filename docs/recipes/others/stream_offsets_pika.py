"""stream_offsets.py with pika."""

import os
import signal
import sqlite3
import time

import pika
import pika.exceptions

CLICKS = "recipes.clicks"
SCHEMA = """
create table if not exists progress (stream text primary key, next_offset integer);
create table if not exists pages (page text primary key, clicks integer);
"""


def count(database: sqlite3.Connection, batch: list[tuple[int, bytes]]) -> None:
    last, _ = batch[-1]
    with database:
        database.executemany(
            "insert into pages values (?, 1) on conflict do update set clicks = clicks + 1",
            [(body.decode(),) for _, body in batch],
        )
        database.execute("insert or replace into progress values (?, ?)", [CLICKS, last + 1])
    print("counted up to", last, flush=True)


def read(database: sqlite3.Connection, connection: pika.BlockingConnection) -> None:
    row = database.execute("select next_offset from progress where stream = ?", [CLICKS]).fetchone()
    channel = connection.channel()
    arguments = {"x-queue-type": "stream", "x-max-age": "604800s"}
    channel.queue_declare(CLICKS, durable=True, arguments=arguments)
    channel.basic_qos(prefetch_count=1000)
    offset = {"x-stream-offset": row[0] if row else "first"}
    batch: list[tuple[int, bytes]] = []
    begun = time.monotonic()
    for method, properties, body in channel.consume(CLICKS, arguments=offset, inactivity_timeout=0.2):
        if method is not None:
            begun = begun if batch else time.monotonic()
            batch.append((properties.headers["x-stream-offset"], body))
        if batch and (method is None or len(batch) == 500 or time.monotonic() - begun > 0.2):
            count(database, batch)
            if method is not None:
                last_tag = method.delivery_tag
            channel.basic_ack(last_tag, multiple=True)
            batch.clear()
        elif method is not None:
            last_tag = method.delivery_tag


def main() -> None:
    database = sqlite3.connect(os.environ.get("DATABASE", "clicks.db"))
    database.executescript(SCHEMA)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parameters = pika.URLParameters(os.environ.get("RABBITMQ_URL", "amqp://guest:guest@localhost"))
    while True:
        try:
            with pika.BlockingConnection(parameters) as connection:
                read(database, connection)
        except pika.exceptions.AMQPConnectionError:
            time.sleep(1)
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
