"""What it takes to test against RabbitMQ: a private broker or a cluster, and faults of theirs and of the network.

RabbitMQ must be installed: `install.py` does it.
"""

from __future__ import annotations

from rabbitry.testing._installation import NodeError, RabbitMQNotFound
from rabbitry.testing._setup import connections_admitted, descriptor_limit
from rabbitry.testing.alarm import MemoryAlarm
from rabbitry.testing.cluster import PrivateCluster
from rabbitry.testing.node import PrivateNode
from rabbitry.testing.proxy import Conditions, Flow, Link, Proxy, open_proxy
from rabbitry.testing.schedule import FAULTS, Fault, Schedule

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
