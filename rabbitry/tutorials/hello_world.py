"""1. Hello world: one program sends a message, another receives it.

    python -m rabbitry.tutorials.hello_world receive
    python -m rabbitry.tutorials.hello_world send "Hello World!"

A message waits in a queue until somebody takes it. Either program may come first, so both declare the queue: what
exists already is left as it is.
"""

import rabbitry
from rabbitry.tutorials.program import run

HELLO = rabbitry.Queue("tutorial.hello")


async def send(url: str, text: str = "Hello World!") -> None:
    """Send one message."""
    async with rabbitry.open_client(url) as client:
        await client.declare(HELLO)
        await client.publish(text.encode(), routing_key=HELLO.name)  # returns once the broker has it
        print(f"Sent {text!r}")


async def receive(url: str) -> None:
    """Print messages as they come."""
    async with rabbitry.open_client(url) as client:
        await client.declare(HELLO)
        print("Waiting for messages. Ctrl-C ends it.")
        async with client.consume(HELLO) as deliveries:
            async for delivery in deliveries:
                print(f"Received {delivery.body.decode(errors='replace')!r}")
                delivery.ack()  # the broker forgets it


if __name__ == "__main__":
    run(send, receive)
