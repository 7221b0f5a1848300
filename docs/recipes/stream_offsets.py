"""A stream is read into a database, and each event counts once there: its offset is kept beside what it caused.

    python docs/recipes/stream_offsets.py

A stream keeps what was read, so acknowledgements say nothing about where to go on: the reader must know.

Guaranteed: each event is counted exactly once, in the stream's order, through crashes of the reader, lost connections
and restarts of the broker. Offset and counts are committed together, and reading begins behind the last one.

Not guaranteed: what the stream no longer has. It drops its oldest part beyond `max_age` or `max_length_bytes`, read or
not; the gap shows in the offsets. One reader at a time per row of `progress`.
"""

import os
import signal
import sqlite3

import anyio

import rabbitry

CLICKS = rabbitry.Queue("recipes.clicks", type="stream", max_age=7 * 24 * 3600)
SCHEMA = """
create table if not exists progress (stream text primary key, next_offset integer);
create table if not exists pages (page text primary key, clicks integer);
"""


def count(database: sqlite3.Connection, batch: rabbitry.Batch) -> None:
    last = batch[-1].stream_offset
    assert last is not None
    with database:  # one transaction: what was counted, and how far
        database.executemany(
            "insert into pages values (?, 1) on conflict do update set clicks = clicks + 1",
            [(click.body.decode(),) for click in batch],
        )
        database.execute("insert or replace into progress values (?, ?)", [CLICKS.name, last + 1])
    print("counted up to", last, flush=True)


async def main() -> None:
    database = sqlite3.connect(os.environ.get("DATABASE", "clicks.db"))
    database.executescript(SCHEMA)
    row = database.execute("select next_offset from progress where stream = ?", [CLICKS.name]).fetchone()
    url = os.environ.get("RABBITMQ_URL", "amqp://guest:guest@localhost")
    async with rabbitry.open_client(url, name="clicks") as client:
        with client.stop_on(signal.SIGTERM, signal.SIGINT):
            await client.declare(CLICKS)
            async with client.consume(CLICKS, offset=row[0] if row else "first", prefetch=1000) as clicks:
                async for batch in clicks.batches(500, within=0.2):
                    count(database, batch)
                    batch.ack()  # makes room for more, and says where to go on after a lost connection


if __name__ == "__main__":
    anyio.run(main)
