"""Run by test_logging: a handler that opens its client as `logging.config` makes it, and leaves it as it is closed."""

from __future__ import annotations

import asyncio
import logging
import logging.config
import sys
from typing import Any

from rabbitry import blocking


class Publishing(logging.Handler):
    def __init__(self, url: str) -> None:
        super().__init__()
        self.client = blocking.open_client(url)
        self.client.__enter__()
        self.client.publish(b"made", routing_key="nowhere")

    def emit(self, record: logging.LogRecord) -> None:
        self.client.publish(record.getMessage().encode(), routing_key="nowhere")

    def close(self) -> None:
        if self.client is not None:
            client, self.client = self.client, None  # type: ignore[assignment]
            client.publish(b"closed", routing_key="nowhere")
            client.__exit__(None, None, None)
            print("closed")
        super().close()


def main(url: str) -> None:
    config: dict[str, Any] = {
        "version": 1,
        "handlers": {"broker": {"()": Publishing, "url": url}},
        "root": {"level": "DEBUG", "handlers": ["broker"]},
    }
    logging.config.dictConfig(config)
    print("configured")
    logging.getLogger("app").warning("a line")
    asyncio.run(asyncio.sleep(0))  # whose loop has a line, too
    print("logged")
    # logging.shutdown, which Python calls at its end, closes the handler with its lock held


main(sys.argv[1])
