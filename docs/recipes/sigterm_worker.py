"""A worker that ends in order: on SIGTERM, as Kubernetes, systemd and docker send it, and on Ctrl-C.

    python docs/recipes/sigterm_worker.py

Guaranteed: after the signal no job is begun. Those at work finish, publish their results and are acknowledged; what was
prefetched goes back to the queue, for other workers, within a quarter of a second, however long those take. Without a
broker, or before the first connection, the program ends at once. Killed instead (SIGKILL, power), its jobs are
delivered to others.

Not guaranteed: that a job is done once only. One that was killed at work has a beginning somewhere: see
idempotent_consumer.py. The supervisor's patience (30 s in Kubernetes) must be longer than a job.
"""

import os
import signal

import anyio

import rabbitry

JOBS = rabbitry.Queue("recipes.jobs", type="quorum")
RESULTS = rabbitry.Queue("recipes.results", type="quorum")


async def main() -> None:
    url = os.environ.get("RABBITMQ_URL", "amqp://guest:guest@localhost")
    async with rabbitry.open_client(url, name="worker") as client:

        async def work(job: rabbitry.Delivery) -> None:
            text = job.body.decode()
            print("begun:", text, flush=True)
            await anyio.sleep(0.3)  # stands for the work
            await client.publish(text.upper().encode(), routing_key=RESULTS.name, mandatory=True)
            print("done:", text, flush=True)

        with client.stop_on(signal.SIGTERM, signal.SIGINT):
            await client.declare(JOBS, RESULTS)
            await client.process(JOBS, work, concurrency=5)
    print("ended in order", flush=True)


if __name__ == "__main__":
    anyio.run(main)
