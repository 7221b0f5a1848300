"""2. Work queues: tasks that take time are shared out among workers, and none is lost.

    python -m rabbitry.tutorials.work_queue worker                       (in several terminals)
    python -m rabbitry.tutorials.work_queue new_task "Hello..." "Bye."   (a dot is a second of work)

Kill a worker at work: another one does its task. Restart the broker: the tasks are still there, because queues are
durable and messages persistent unless you say otherwise, and the workers come back by themselves.
"""

import anyio

import rabbitry
from rabbitry.tutorials.program import run

TASKS = rabbitry.Queue("tutorial.tasks")


async def new_task(url: str, *tasks: str) -> None:
    """Put tasks into the queue."""
    async with rabbitry.open_client(url) as client:
        await client.declare(TASKS)
        for task in tasks:
            await client.publish(task.encode(), routing_key=TASKS.name)
            print(f"Sent {task!r}")


async def worker(url: str, *, seconds: float = 1.0) -> None:
    """Do one task after the other; each dot takes so many seconds."""

    async def work(delivery: rabbitry.Delivery) -> None:
        task = delivery.body.decode(errors="replace")
        print(f"Received {task!r}")
        await anyio.sleep(task.count(".") * seconds)
        print(f"Done {task!r}")

    async with rabbitry.open_client(url) as client:
        await client.declare(TASKS)
        print("Waiting for tasks. Ctrl-C ends it.")
        # Acknowledged when `work` returns; put back if the worker dies before. With a prefetch of 1 it gets its next
        # task when it is done with this one, so who is busy gets none.
        await client.process(TASKS, work, prefetch=1)


if __name__ == "__main__":
    run(new_task, worker)
