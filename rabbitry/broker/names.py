"""Names of entities: what RabbitMQ takes, refuses and makes up, and how its texts tell an entity."""

from __future__ import annotations

import re
import secrets
from base64 import urlsafe_b64encode

from rabbitry.protocol.server.refusals import Refusal

__all__ = ["called", "check_name", "generated_name", "without_line_breaks"]

_LINES = re.compile("[\r\n]")


def called(kind: str, name: str, virtual_host: str) -> str:
    """An entity in RabbitMQ's words."""
    return f"{kind} '{name}' in vhost '{virtual_host}'"


def check_name(kind: str, name: str) -> None:
    """Raise the `Refusal` of a name that is RabbitMQ's own."""
    if name.startswith("amq."):
        raise Refusal(403, f"{kind} name '{name}' contains reserved prefix 'amq.*'")


def generated_name(prefix: str) -> str:
    """A name that nobody else has, as RabbitMQ makes them: "amq.gen-…"."""
    return f"{prefix}-{urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip('=')}"


def without_line_breaks(name: str) -> str:
    """A name as RabbitMQ takes it."""
    return _LINES.sub("", name)
