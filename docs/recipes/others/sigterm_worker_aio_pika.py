"""sigterm_worker.py with aio-pika."""

import asyncio
import os
import signal

import aio_pika

JOBS = "recipes.jobs"
RESULTS = "recipes.results"


async def main() -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    url = os.environ.get("RABBITMQ_URL", "amqp://guest:guest@localhost")
    connecting = asyncio.create_task(aio_pika.connect_robust(url, fail_fast="0"))
    signalled = asyncio.create_task(stopping.wait())
    await asyncio.wait([connecting, signalled], return_when=asyncio.FIRST_COMPLETED)
    if stopping.is_set():
        print("ended in order", flush=True)
        os._exit(0)  # cancelled, connect_robust would go on trying, and asyncio.run would wait for it
    connection = connecting.result()
    channel = await connection.channel(on_return_raises=True)
    await channel.set_qos(prefetch_count=5)
    jobs = await channel.declare_queue(JOBS, durable=True, arguments={"x-queue-type": "quorum"})
    await channel.declare_queue(RESULTS, durable=True, arguments={"x-queue-type": "quorum"})
    at_work: set[asyncio.Task[None]] = set()

    async def work(job: aio_pika.abc.AbstractIncomingMessage) -> None:
        async with job.process(requeue=True):
            text = job.body.decode()
            print("begun:", text, flush=True)
            await asyncio.sleep(0.3)  # stands for the work
            result = aio_pika.Message(text.upper().encode(), delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            await channel.default_exchange.publish(result, routing_key=RESULTS, mandatory=True)
            print("done:", text, flush=True)

    async def begin(job: aio_pika.abc.AbstractIncomingMessage) -> None:
        task = asyncio.create_task(work(job))
        at_work.add(task)
        task.add_done_callback(at_work.discard)

    tag = await jobs.consume(begin)
    await stopping.wait()
    await jobs.cancel(tag)
    await asyncio.gather(*at_work, return_exceptions=True)
    await connection.close()
    print("ended in order", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
