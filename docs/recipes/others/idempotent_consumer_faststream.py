"""idempotent_consumer.py with FastStream."""

import asyncio
import os
import sqlite3

from faststream import AckPolicy, Context, FastStream
from faststream.rabbit import QueueType, RabbitBroker, RabbitQueue
from pydantic import BaseModel

SCHEMA = """
create table if not exists booked (message_id text primary key not null);
create table if not exists accounts (name text primary key, balance integer not null);
"""
DEAD = RabbitQueue("recipes.payments.dead", queue_type=QueueType.QUORUM, durable=True)
PAYMENTS = RabbitQueue(
    "recipes.payments",
    queue_type=QueueType.QUORUM,
    durable=True,
    arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": DEAD.name},
)

database = sqlite3.connect(os.environ.get("DATABASE", "bank.db"))
database.executescript(SCHEMA)
broker = RabbitBroker(os.environ.get("RABBITMQ_URL", "amqp://guest:guest@localhost"))
app = FastStream(broker)


class Payment(BaseModel):
    account: str
    amount: int


@app.after_startup
async def declare() -> None:
    await broker.declare_queue(DEAD)


@broker.subscriber(PAYMENTS, ack_policy=AckPolicy.REJECT_ON_ERROR)
async def book(payment: Payment, message_id: str = Context("message.raw_message.message_id")) -> None:
    if message_id is None:
        raise ValueError("a payment needs an id")
    with database:
        done = database.execute("insert or ignore into booked values (?)", [message_id])
        if done.rowcount:
            database.execute(
                "insert into accounts values (?, ?) on conflict do update set balance = balance + excluded.balance",
                [payment.account, payment.amount],
            )
    print("booked" if done.rowcount else "known", message_id, flush=True)


if __name__ == "__main__":
    asyncio.run(app.run())
