"""event_fan_out.py with FastStream."""

import asyncio
import os
import sys

from aio_pika.exceptions import DeliveryError
from faststream import AckPolicy, Context, FastStream
from faststream.rabbit import Channel, ExchangeType, QueueType, RabbitBroker, RabbitExchange, RabbitQueue

URL = os.environ.get("RABBITMQ_URL", "amqp://guest:guest@localhost")
EVENTS = RabbitExchange("recipes.events", type=ExchangeType.TOPIC, durable=True)


async def publish(name: str, text: str) -> None:
    async with RabbitBroker(URL, default_channel=Channel(on_return_raises=True)) as broker:
        await broker.declare_exchange(EVENTS)
        try:
            await broker.publish(text, exchange=EVENTS, routing_key=name, mandatory=True, persist=True)
        except DeliveryError:
            sys.exit(f"no service wants {name}")


async def service(name: str, *patterns: str) -> None:
    broker = RabbitBroker(URL)
    app = FastStream(broker)
    first, *others = patterns
    queue = RabbitQueue(f"recipes.events.{name}", queue_type=QueueType.QUORUM, durable=True, routing_key=first)

    @broker.subscriber(queue, EVENTS, ack_policy=AckPolicy.NACK_ON_ERROR)
    async def handle(event: str, routing_key: str = Context("message.raw_message.routing_key")) -> None:
        print(name, "got", routing_key, event, flush=True)

    @app.after_startup
    async def bind() -> None:
        exchange = await broker.declare_exchange(EVENTS)
        declared = await broker.declare_queue(queue)
        for pattern in others:
            await declared.bind(exchange, pattern)

    await app.run()


if __name__ == "__main__":
    asyncio.run({"publish": publish, "service": service}[sys.argv[1]](*sys.argv[2:]))
