"""Readings go into a database in batches: one transaction, and one acknowledgement, for up to 500 messages.

    python docs/recipes/batches_into_database.py

A transaction for each message waits for the disk each time. A batch waits once, and takes 0.2 s at the most to fill, so
that a lone reading is stored as well.

Guaranteed: readings are acknowledged after the commit of the transaction that holds them. What was under way when the
program, the connection or the broker went comes again, and is known by its message id: each is stored once. What can't
be stored (no id, no number) goes to `recipes.readings.dead`, and holds up no others. SIGTERM ends after the batch at
work; what was collected for the next one goes back to the queue.

Not guaranteed: the order, once something came again. Ids are kept for ever here, with their readings. A database that
fails ends the program with its error, and nothing of that batch is acknowledged: have the supervisor start it again.
"""

import contextlib
import os
import signal
import sqlite3

import anyio

import rabbitry

DEAD = rabbitry.Queue("recipes.readings.dead", type="quorum")
READINGS = rabbitry.Queue("recipes.readings", type="quorum", dead_letter_exchange="", dead_letter_routing_key=DEAD.name)
SCHEMA = "create table if not exists readings (message_id text primary key not null, celsius real not null)"

Row = tuple[str, float]


def row_of(reading: rabbitry.Delivery) -> Row:
    message_id = reading.properties.message_id
    if message_id is None:
        raise ValueError("a reading needs an id")
    return message_id, float(reading.body)


def store(database: sqlite3.Connection, rows: list[Row]) -> int:
    """All of them or none, in one transaction; how many were new."""
    before = database.total_changes
    with database:
        database.executemany("insert or ignore into readings values (?, ?)", rows)
    return database.total_changes - before


async def main() -> None:
    database = sqlite3.connect(os.environ.get("DATABASE", "weather.db"), check_same_thread=False)
    database.execute(SCHEMA)
    url = os.environ.get("RABBITMQ_URL", "amqp://guest:guest@localhost")
    async with rabbitry.open_client(url, name="weather") as client:
        with client.stop_on(signal.SIGTERM, signal.SIGINT):
            await client.declare(DEAD, READINGS)
            async with client.consume(READINGS, prefetch=1000) as readings:  # the next batch comes meanwhile
                async for batch in readings.batches(500, within=0.2):
                    rows = []
                    for reading in batch:
                        try:
                            rows.append(row_of(reading))
                        except ValueError:
                            reading.reject()
                    new = await anyio.to_thread.run_sync(store, database, rows)  # heartbeats go on
                    print("stored", new, "of", len(batch), flush=True)
                    with contextlib.suppress(rabbitry.StaleDelivery):  # the connection was lost: they come again
                        batch.ack()  # what was not rejected, in as few frames as possible


if __name__ == "__main__":
    anyio.run(main)
