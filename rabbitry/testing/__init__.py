"""What it takes to test against RabbitMQ: a private broker or a cluster, and faults of theirs and of the network.

RabbitMQ must be installed: `python -m rabbitry.testing.install` does it, and `python -m rabbitry.testing.debian` puts
that of another Debian release into a folder. Both are commands alone; programs import from here and nowhere below.
"""

from __future__ import annotations

from rabbitry.testing.faults.proxy import Conditions, Flow, Link, Proxy, open_proxy
from rabbitry.testing.faults.schedule import FAULTS, Fault, Schedule
from rabbitry.testing.rabbitmq.alarm import MemoryAlarm
from rabbitry.testing.rabbitmq.cluster import PrivateCluster
from rabbitry.testing.rabbitmq.installation import NodeError, RabbitMQNotFound
from rabbitry.testing.rabbitmq.node import PrivateNode
from rabbitry.testing.rabbitmq.setup import connections_admitted, descriptor_limit

__all__ = [
    "FAULTS",
    "Conditions",
    "Fault",
    "Flow",
    "Link",
    "MemoryAlarm",
    "NodeError",
    "PrivateCluster",
    "PrivateNode",
    "Proxy",
    "RabbitMQNotFound",
    "Schedule",
    "connections_admitted",
    "descriptor_limit",
    "open_proxy",
]
