"""multi_tenant.py with aio-pika."""

import asyncio
import os
import signal
import sys

import aio_pika
import aiormq.exceptions

ORDERS = "recipes.tenant.orders"
URL = os.environ.get("RABBITMQ_URL", "amqp://guest:guest@localhost")


def url_of(tenant: str) -> str:
    return f"{URL.rstrip('/')}/{tenant}"


async def order(tenant: str, *items: str) -> None:
    async with asyncio.timeout(5):
        async with await aio_pika.connect(url_of(tenant)) as connection:
            channel = await connection.channel(on_return_raises=True)
            for item in items:
                message = aio_pika.Message(item.encode(), delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
                await channel.default_exchange.publish(message, routing_key=ORDERS, mandatory=True)


async def serve(tenant: str, stopping: asyncio.Event) -> None:
    at_work: set[asyncio.Task[None]] = set()

    async def handle(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        async with message.process(requeue=True):
            await asyncio.sleep(0.1)  # stands for the work
            print(tenant, "has", message.body.decode(), flush=True)

    async def begin(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        task = asyncio.create_task(handle(message))
        at_work.add(task)
        task.add_done_callback(at_work.discard)

    while not stopping.is_set():
        try:
            async with await aio_pika.connect_robust(url_of(tenant)) as connection:
                channel = await connection.channel()
                await channel.set_qos(prefetch_count=5)
                queue = await channel.declare_queue(ORDERS, durable=True, arguments={"x-queue-type": "quorum"})
                tag = await queue.consume(begin)
                print(tenant, "is served", flush=True)
                await stopping.wait()
                await queue.cancel(tag)
                await asyncio.gather(*at_work, return_exceptions=True)
        except (aiormq.exceptions.AMQPError, OSError) as error:
            print(tenant, "is out:", error, flush=True)
            await asyncio.sleep(5)


async def work(*tenants: str) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    tasks = [asyncio.create_task(serve(tenant, stopping)) for tenant in tenants]
    await stopping.wait()
    _, late = await asyncio.wait(tasks, timeout=10)
    for task in late:
        task.cancel()
    print("ended in order", flush=True)


if __name__ == "__main__":
    asyncio.run({"work": work, "order": order}[sys.argv[1]](*sys.argv[2:]))
