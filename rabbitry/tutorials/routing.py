"""4. Routing: who listens says which messages concern him.

    python -m rabbitry.tutorials.routing receive_logs warning error
    python -m rabbitry.tutorials.routing emit_log error "It burns"

A direct exchange copies a message into the queues that are bound with its very routing key, here its severity. A queue
may have many bindings, and a key many queues.
"""

import rabbitry
from rabbitry.tutorials.program import run

LOGS = rabbitry.Exchange("tutorial.logs.direct", "direct")


async def emit_log(url: str, severity: str, text: str) -> None:
    """Tell those whom the severity concerns."""
    async with rabbitry.open_client(url) as client:
        await client.declare(LOGS)
        await client.publish(text.encode(), exchange=LOGS, routing_key=severity)
        print(f"Sent {severity}: {text!r}")


async def receive_logs(url: str, *severities: str) -> None:
    """Print what comes with one of these severities."""
    async with rabbitry.open_client(url) as client:
        queue = rabbitry.Queue.temporary()
        bindings = [rabbitry.Binding(queue, LOGS, severity) for severity in severities]
        await client.declare(LOGS, queue, *bindings)
        print("Waiting for logs. Ctrl-C ends it.")
        async with client.consume(queue) as deliveries:
            async for delivery in deliveries:
                print(f"Received {delivery.routing_key}: {delivery.body.decode(errors='replace')!r}")
                delivery.ack()


if __name__ == "__main__":
    run(emit_log, receive_logs)
