"""growing_retries.py with aio-pika: a queue for each delay, whose time-to-live sends the message back."""

import asyncio
import os
import signal

import aio_pika
from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractIncomingMessage

MAILS = "recipes.mails"
DEAD = "recipes.mails.dead"
QUORUM = {"x-queue-type": "quorum"}


async def send(mail: AbstractIncomingMessage, attempt: int) -> None:
    print("attempt", attempt, mail.body.decode(), flush=True)
    if b"refused" in mail.body:
        raise ConnectionRefusedError("the mail server refuses")


async def main() -> None:
    delays = [float(seconds) for seconds in os.environ.get("DELAYS", "1,5,30").split(",")]
    connection = await aio_pika.connect_robust(os.environ.get("RABBITMQ_URL", "amqp://guest:guest@localhost"))
    channel = await connection.channel(on_return_raises=True)
    await channel.set_qos(prefetch_count=10)
    mails = await channel.declare_queue(MAILS, durable=True, arguments=QUORUM)
    await channel.declare_queue(DEAD, durable=True, arguments=QUORUM)
    for delay in delays:
        arguments = {
            **QUORUM,
            "x-message-ttl": round(delay * 1000),
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": MAILS,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }
        await channel.declare_queue(f"{MAILS}.later.{delay:g}", durable=True, arguments=arguments)

    async def handle(mail: AbstractIncomingMessage) -> None:
        async with mail.process(requeue=True, ignore_processed=True):
            failures = int(str(mail.headers.get("x-failures", 0)))
            try:
                await send(mail, failures + 1)
            except Exception as error:
                target = f"{MAILS}.later.{delays[failures]:g}" if failures < len(delays) else DEAD
                again = Message(
                    mail.body,
                    headers={**mail.headers, "x-failures": failures + 1, "x-error": repr(error)},
                    content_type=mail.content_type,
                    message_id=mail.message_id,
                    correlation_id=mail.correlation_id,
                    priority=mail.priority,
                    delivery_mode=DeliveryMode.PERSISTENT,
                )
                await channel.default_exchange.publish(again, routing_key=target, mandatory=True)

    await mails.consume(handle)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await stopping.wait()
    await connection.close()


if __name__ == "__main__":
    asyncio.run(main())
