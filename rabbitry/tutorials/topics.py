"""5. Topics: who listens gives patterns of routing keys.

    python -m rabbitry.tutorials.topics receive_logs "kern.*" "*.critical"
    python -m rabbitry.tutorials.topics emit_log kern.critical "It burns"

A topic exchange takes routing keys of several words with dots between them. In a pattern * is one word, # any number of
them, none included. A message that matches several of a queue's patterns comes once.
"""

import rabbitry
from rabbitry.tutorials.program import run

LOGS = rabbitry.Exchange("tutorial.logs.topic", "topic")


async def emit_log(url: str, key: str, text: str) -> None:
    """Tell those whose pattern matches the key."""
    async with rabbitry.open_client(url) as client:
        await client.declare(LOGS)
        await client.publish(text.encode(), exchange=LOGS, routing_key=key)
        print(f"Sent {key}: {text!r}")


async def receive_logs(url: str, *patterns: str) -> None:
    """Print what matches one of these patterns."""
    async with rabbitry.open_client(url) as client:
        queue = rabbitry.Queue.temporary()
        await client.declare(LOGS, queue, *(rabbitry.Binding(queue, LOGS, pattern) for pattern in patterns))
        print("Waiting for logs. Ctrl-C ends it.")
        async with client.consume(queue) as deliveries:
            async for delivery in deliveries:
                print(f"Received {delivery.routing_key}: {delivery.body.decode(errors='replace')!r}")
                delivery.ack()


if __name__ == "__main__":
    run(emit_log, receive_logs)
