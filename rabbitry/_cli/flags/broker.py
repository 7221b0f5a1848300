"""The flags of `broker`."""

from __future__ import annotations

from typing import Any

from rabbitry._cli.flags.parser import add_command, add_value

VERSIONS = ("3.10", "4.0", "4.3")


def add_to(commands: Any) -> None:
    """Add the command."""
    add = add_command(
        commands,
        "broker",
        "rabbitry._cli.commands.broker:broker",
        "serve an embedded broker, for learning and for tests, until interrupted",
        """
  rabbitry broker
  rabbitry broker --port 0 --compat 4.0 --json          on a free port, which it tells""",
        notes="It is a double and never a replacement for RabbitMQ: all is in memory, and gone at the end. What it "
        "can't do it refuses (540). The user is guest, with that password. The flags --url, --vhost and --wait mean "
        "nothing here.",
    )
    add.add_argument(
        "--host", default="127.0.0.1", help="the address to listen at (default %(default)s: this machine alone)"
    )
    add_value(add, "--port", _port, "N", "the port, 0 for one that is free", 5672)
    add.add_argument(
        "--compat", choices=VERSIONS, default=VERSIONS[0], help="like which RabbitMQ (default %(default)s)"
    )


def _port(word: str) -> int:
    if not (word.isascii() and word.isdigit() and int(word) <= 65535):
        raise ValueError(f"a port is 0 to 65535, not {word!r}")
    return int(word)
