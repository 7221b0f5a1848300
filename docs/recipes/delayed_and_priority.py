"""Reminders that come later, and urgent ones that overtake.

    python docs/recipes/delayed_and_priority.py

Guaranteed: a delayed message waits in durable quorum queues at the broker, without a plugin, and outlives restarts of
both; `publish` returns once it is confirmed there. It is delivered when its time has come, not before. Of what waits in
the queue, higher priorities are delivered first.

Not guaranteed: that an urgent message overtakes what a consumer has already prefetched, so it takes one at a time; and
an exact moment, as a message that is due waits for its turn. A delayed message can't be called back.
"""

import os

import anyio

import rabbitry
from rabbitry import Message

REMINDERS = rabbitry.Queue("recipes.reminders", max_priority=5)


async def main() -> None:
    url = os.environ.get("RABBITMQ_URL", "amqp://guest:guest@localhost")
    async with rabbitry.open_client(url, name="reminders") as client:
        await client.declare(REMINDERS)
        key = REMINDERS.name
        await client.publish(b"the kettle boils", routing_key=key, delay=2)
        await client.publish(b"water the plants", routing_key=key)
        await client.publish(Message(b"feed the cat", priority=1), routing_key=key)
        await client.publish(Message(b"the house is on fire", priority=5), routing_key=key)

        async def remind(reminder: rabbitry.Delivery) -> None:
            print(reminder.body.decode(), flush=True)
            if reminder.body == b"the kettle boils":
                client.stop_consuming()

        await client.process(REMINDERS, remind, prefetch=1)


if __name__ == "__main__":
    anyio.run(main)
