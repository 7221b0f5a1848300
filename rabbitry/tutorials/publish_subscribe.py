"""3. Publish and subscribe: everybody who listens gets every message.

    python -m rabbitry.tutorials.publish_subscribe receive_logs          (in several terminals)
    python -m rabbitry.tutorials.publish_subscribe emit_log "It runs"

Messages go to an exchange, which copies them into the queues bound to it: a fanout exchange into all of them. While
nobody listens they are dropped.
"""

import rabbitry
from rabbitry.tutorials.program import run

LOGS = rabbitry.Exchange("tutorial.logs", "fanout")


async def emit_log(url: str, text: str) -> None:
    """Tell everybody."""
    async with rabbitry.open_client(url) as client:
        await client.declare(LOGS)
        await client.publish(text.encode(), exchange=LOGS)
        print(f"Sent {text!r}")


async def receive_logs(url: str) -> None:
    """Print what comes from now on."""
    async with rabbitry.open_client(url) as client:
        queue = rabbitry.Queue.temporary()  # this program's own, which goes with it
        await client.declare(LOGS, queue, rabbitry.Binding(queue, LOGS))
        print("Waiting for logs. Ctrl-C ends it.")
        async with client.consume(queue) as deliveries:
            async for delivery in deliveries:
                print(f"Received {delivery.body.decode(errors='replace')!r}")
                delivery.ack()


if __name__ == "__main__":
    run(emit_log, receive_logs)
