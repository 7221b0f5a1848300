"""delayed_and_priority.py with Celery: without words it sends reminders, with `worker` it shows them."""

import os
import sys

from celery import Celery
from kombu import Exchange, Queue

QUEUE = "recipes.reminders"

app = Celery(broker=os.environ.get("RABBITMQ_URL", "amqp://guest:guest@localhost"))
app.conf.task_queues = [Queue(QUEUE, Exchange(QUEUE), routing_key=QUEUE, queue_arguments={"x-max-priority": 5})]
app.conf.task_default_queue = QUEUE
app.conf.task_acks_late = True
app.conf.worker_redirect_stdouts = False
app.conf.task_reject_on_worker_lost = True
app.conf.worker_prefetch_multiplier = 1
app.conf.broker_transport_options = {"confirm_publish": True}


@app.task(name="remind")
def remind(text: str) -> None:
    print(text, flush=True)


def remember() -> None:
    remind.apply_async(["the kettle boils"], countdown=2)
    remind.apply_async(["water the plants"])
    remind.apply_async(["feed the cat"], priority=1)
    remind.apply_async(["the house is on fire"], priority=5)


if __name__ == "__main__":
    if "worker" in sys.argv:
        app.worker_main(["worker", "--pool=threads", "--concurrency=1"])
    else:
        remember()
