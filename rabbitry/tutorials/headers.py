"""6. Headers: who listens names headers, of which a message must have all, or any.

    python -m rabbitry.tutorials.headers receive_reports format=pdf type=report
    python -m rabbitry.tutorials.headers receive_reports format=pdf type=log --match any
    python -m rabbitry.tutorials.headers emit_report "Sales" format=pdf type=report

A headers exchange looks at a message's headers and at no routing key, so that one message may be looked at from several
sides, and the values may be numbers, too.
"""

from collections.abc import Iterable

import rabbitry
from rabbitry.tutorials.program import run

REPORTS = rabbitry.Exchange("tutorial.reports", "headers")


def as_headers(pairs: Iterable[str]) -> dict[str, str]:
    """What "format=pdf" says."""
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}


async def emit_report(url: str, text: str, *headers: str) -> None:
    """Publish a report with these headers."""
    async with rabbitry.open_client(url) as client:
        await client.declare(REPORTS)
        await client.publish(rabbitry.Message(text.encode(), headers=as_headers(headers)), exchange=REPORTS)
        print(f"Sent {text!r}")


async def receive_reports(url: str, *headers: str, match: str = "all") -> None:
    """Print reports that have all of these headers, or any."""
    async with rabbitry.open_client(url) as client:
        queue = rabbitry.Queue.temporary()
        wanted = {"x-match": match, **as_headers(headers)}
        await client.declare(REPORTS, queue, rabbitry.Binding(queue, REPORTS, arguments=wanted))
        print("Waiting for reports. Ctrl-C ends it.")
        async with client.consume(queue) as deliveries:
            async for delivery in deliveries:
                print(f"Received {delivery.body.decode(errors='replace')!r} {delivery.headers}")
                delivery.ack()


if __name__ == "__main__":
    run(emit_report, receive_reports)
