"""A private RabbitMQ broker, for tests and for the load tester. RabbitMQ must be installed: `install.py` does it."""

from __future__ import annotations

from rabbitry.testing._installation import NodeError, RabbitMQNotFound
from rabbitry.testing._setup import connections_admitted, descriptor_limit
from rabbitry.testing.node import PrivateNode

__all__ = ["NodeError", "PrivateNode", "RabbitMQNotFound", "connections_admitted", "descriptor_limit"]
