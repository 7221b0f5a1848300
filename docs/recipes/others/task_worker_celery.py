"""task_worker.py with Celery: `python task_worker_celery.py worker`, and `submit`."""

import os
import sys
import time

from celery import Celery, group

QUEUE = "recipes.celery.tasks"

app = Celery(broker=os.environ.get("RABBITMQ_URL", "amqp://guest:guest@localhost"), backend="rpc://")
app.conf.task_default_queue = QUEUE
app.conf.task_acks_late = True
app.conf.worker_redirect_stdouts = False
app.conf.task_reject_on_worker_lost = True
app.conf.worker_prefetch_multiplier = 1
app.conf.broker_transport_options = {"confirm_publish": True}


@app.task
def count_words(text: str) -> int:
    print("counting", flush=True)
    time.sleep(0.5)
    return len(text.split())


@app.task
def divide(a: int, b: int) -> float:
    return a / b


def submit() -> None:
    lines = ("to be or", "not", "to be")
    counts = group(count_words.s(line) for line in lines).apply_async(expires=30).get(timeout=30)
    print("words:", sum(counts))
    try:
        divide.apply_async([1, 0], expires=30).get(timeout=30)
    except ZeroDivisionError as error:
        print(type(error).__name__, error)


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        app.worker_main(["worker", "--pool=threads", "--concurrency=4", "--loglevel=info"])
    else:
        submit()
