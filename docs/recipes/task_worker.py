"""Task functions called by name, with results, without async: what Celery is often used for.

    python docs/recipes/task_worker.py worker      (as many as you like)
    python docs/recipes/task_worker.py submit

Guaranteed: a task is acknowledged once its result was sent, so a worker that dies leaves its task to another one. The
result, or the exception, reaches whoever waits, through lost connections, too. Their time-out is the task's: no worker
begins what nobody waits for any more. On SIGTERM tasks at work finish.

Not guaranteed: that a task runs once only, so tasks must bear a repetition. Results go to who waits and are kept
nowhere: a task whose result is asked for tomorrow stores it itself. Arguments are what MessagePack has: numbers, text,
bytes, lists and maps; no pickle, and so no code, comes from the queue.
"""

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import rabbitry
from rabbitry import blocking

URL = os.environ.get("RABBITMQ_URL", "amqp://guest:guest@localhost")
TASKS = rabbitry.Queue("recipes.tasks", type="quorum")


class Tasks(Protocol):
    def count_words(self, text: str) -> int: ...
    def divide(self, a: int, b: int) -> float: ...


def count_words(text: str) -> int:
    print("counting", flush=True)
    time.sleep(0.5)  # tasks are plain functions, in threads
    return len(text.split())


def divide(a: int, b: int) -> float:
    return a / b


def work() -> None:
    with blocking.open_client(URL, name="worker") as client:
        with client.stop_on(signal.SIGTERM, signal.SIGINT):
            client.declare(TASKS)
            client.serve(TASKS, rabbitry.Service(count_words, divide, interface=Tasks), concurrency=4)
    print("ended in order", flush=True)


def submit() -> None:
    with blocking.open_client(URL, name="submitter") as client, client.rpc() as rpc, ThreadPoolExecutor() as pool:
        client.declare(TASKS)
        tasks = rpc.bind(Tasks, TASKS.name, idempotent=True, timeout=30)
        counts = [pool.submit(tasks.count_words, line) for line in ("to be or", "not", "to be")]
        print("words:", sum(count.result() for count in counts))
        try:
            tasks.divide(1, 0)
        except rabbitry.RemoteError as error:
            print(error.type_name, error.text)


if __name__ == "__main__":
    {"worker": work, "submit": submit}[sys.argv[1]]()
