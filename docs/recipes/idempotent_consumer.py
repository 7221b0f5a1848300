"""A consumer that books each payment once, however often its message comes.

    python docs/recipes/idempotent_consumer.py

At-least-once delivery means duplicates: a publisher that got no confirm sends again, and a consumer that dies before
its acknowledgement arrives gets the message once more. So the message's id is stored in the transaction that it causes.

Guaranteed: a payment is booked exactly once, if its sender gives each message an id and uses the same one to send it
again. The message is acknowledged after the commit; a crash in between delivers it again, and it is found to be booked.
What can't be booked at all (no id, no amount) goes to `recipes.payments.dead` instead of coming for ever.

Not guaranteed: the order of payments. Ids are kept for ever here: delete those older than any message may be.
"""

import dataclasses
import os
import sqlite3

import anyio

import rabbitry

DEAD = rabbitry.Queue("recipes.payments.dead", type="quorum")
PAYMENTS = rabbitry.Queue("recipes.payments", type="quorum", dead_letter_exchange="", dead_letter_routing_key=DEAD.name)
SCHEMA = """
create table if not exists booked (message_id text primary key not null);
create table if not exists accounts (name text primary key, balance integer not null);
"""


@dataclasses.dataclass
class Payment:
    account: str
    amount: int


async def main() -> None:
    database = sqlite3.connect(os.environ.get("DATABASE", "bank.db"))
    database.executescript(SCHEMA)

    async def book(payment: Payment, delivery: rabbitry.Delivery) -> None:
        message_id = delivery.properties.message_id
        if message_id is None:
            raise ValueError("a payment needs an id")
        with database:  # one transaction; with a database server, run it in a thread: anyio.to_thread.run_sync
            done = database.execute("insert or ignore into booked values (?)", [message_id])
            if done.rowcount:
                database.execute(
                    "insert into accounts values (?, ?) on conflict do update set balance = balance + excluded.balance",
                    [payment.account, payment.amount],
                )
        print("booked" if done.rowcount else "known", message_id, flush=True)

    url = os.environ.get("RABBITMQ_URL", "amqp://guest:guest@localhost")
    async with rabbitry.open_client(url, name="bank") as client:
        await client.declare(DEAD, PAYMENTS)
        await client.process(PAYMENTS, book, on_error="reject", convert=rabbitry.convert)


if __name__ == "__main__":
    anyio.run(main)
