"""Failed jobs come again after a second, then after five, then after thirty; and in the end where somebody looks.

    python docs/recipes/growing_retries.py

Guaranteed: a message that fails waits in a durable quorum queue at the broker, no plugin needed; the broker has
confirmed it there before the original is acknowledged, so that a crash at any moment loses nothing. Other messages go
on meanwhile. After the last attempt it is in `recipes.mails.dead`, with the error in its headers.

Not guaranteed: order, as others overtake what waits; and, where the worker or the broker dies just then, that an
attempt is made once only. The delays are at least those: a message that is due waits for its turn in the queue.
"""

import os
import signal

import anyio

import rabbitry

MAILS = rabbitry.Queue("recipes.mails", type="quorum")
DEAD = rabbitry.Queue("recipes.mails.dead", type="quorum")


async def send(mail: rabbitry.Delivery) -> None:
    print("attempt", mail.attempt, mail.body.decode(), flush=True)
    if b"refused" in mail.body:
        raise ConnectionRefusedError("the mail server refuses")  # any exception is a reason to try again


async def main() -> None:
    url = os.environ.get("RABBITMQ_URL", "amqp://guest:guest@localhost")
    delays = [float(seconds) for seconds in os.environ.get("DELAYS", "1,5,30").split(",")]
    async with rabbitry.open_client(url, name="mailer") as client:
        with client.stop_on(signal.SIGTERM, signal.SIGINT):
            await client.declare(MAILS)
            await client.process(MAILS, send, concurrency=10, retry=rabbitry.Retry(delays=delays, dead=DEAD))


if __name__ == "__main__":
    anyio.run(main)
