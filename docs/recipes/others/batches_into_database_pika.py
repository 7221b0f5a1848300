"""batches_into_database.py with pika."""

import os
import signal
import sqlite3
import time

import pika
import pika.exceptions

DEAD = "recipes.readings.dead"
READINGS = "recipes.readings"
SCHEMA = "create table if not exists readings (message_id text primary key not null, celsius real not null)"

Row = tuple[str, float]


def row_of(properties: pika.BasicProperties, body: bytes) -> Row:
    if properties.message_id is None:
        raise ValueError("a reading needs an id")
    return properties.message_id, float(body)


def store(database: sqlite3.Connection, rows: list[Row]) -> int:
    before = database.total_changes
    with database:
        database.executemany("insert or ignore into readings values (?, ?)", rows)
    return database.total_changes - before


def read(database: sqlite3.Connection, connection: pika.BlockingConnection) -> None:
    channel = connection.channel()
    channel.queue_declare(DEAD, durable=True, arguments={"x-queue-type": "quorum"})
    dead = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": DEAD}
    channel.queue_declare(READINGS, durable=True, arguments={"x-queue-type": "quorum", **dead})
    channel.basic_qos(prefetch_count=1000)
    rows: list[Row] = []
    count, last_tag, begun = 0, 0, 0.0
    for method, properties, body in channel.consume(READINGS, inactivity_timeout=0.2):
        if method is not None:
            begun = begun if count else time.monotonic()
            try:
                rows.append(row_of(properties, body))
                last_tag = method.delivery_tag
            except ValueError:
                channel.basic_reject(method.delivery_tag, requeue=False)
            count += 1
        if count and (method is None or count == 500 or time.monotonic() - begun > 0.2):
            print("stored", store(database, rows), "of", count, flush=True)
            if rows:
                channel.basic_ack(last_tag, multiple=True)
            rows.clear()
            count = 0


def main() -> None:
    database = sqlite3.connect(os.environ.get("DATABASE", "weather.db"))
    database.execute(SCHEMA)
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
