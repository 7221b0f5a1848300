"""Events that several services get, each its own copy, whatever the others do.

    python docs/recipes/event_fan_out.py service billing 'order.*'        (two of them share billing's events)
    python docs/recipes/event_fan_out.py service audit '#'
    python docs/recipes/event_fan_out.py publish order.placed 'order 17'

The publisher knows the exchange and the event's name. A service owns a queue, bound to the names it wants; instances of
a service share its queue.

Guaranteed: an event published after a service has been started once reaches it at least once, also while all of its
instances are away. A slow or failing service holds up no other. An event that no service wants is an error here, and
not dropped in silence.

Not guaranteed: events of before a service's first start (a stream has those: stream_offsets.py), and order among
several instances. A name taken out of a service's list stays bound until somebody unbinds it.
"""

import os
import signal
import sys

import anyio

import rabbitry

URL = os.environ.get("RABBITMQ_URL", "amqp://guest:guest@localhost")
EVENTS = rabbitry.Exchange("recipes.events", "topic")


async def publish(name: str, text: str) -> None:
    async with rabbitry.open_client(URL, name="publisher") as client:
        await client.declare(EVENTS)
        try:
            await client.publish(text.encode(), exchange=EVENTS, routing_key=name, mandatory=True)
        except rabbitry.Unroutable:
            sys.exit(f"no service wants {name}")


async def service(name: str, patterns: list[str]) -> None:
    queue = rabbitry.Queue(f"recipes.events.{name}", type="quorum")
    bindings = [rabbitry.Binding(queue, EVENTS, pattern) for pattern in patterns]

    async def handle(event: rabbitry.Delivery) -> None:
        print(name, "got", event.routing_key, event.body.decode(), flush=True)

    async with rabbitry.open_client(URL, name=name) as client:
        with client.stop_on(signal.SIGTERM, signal.SIGINT):
            await client.declare(EVENTS, queue, *bindings)
            await client.process(queue, handle, concurrency=10)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["publish", name, text]:
            anyio.run(publish, name, text)
        case ["service", name, *patterns]:
            anyio.run(service, name, patterns)
