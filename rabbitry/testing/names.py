"""The public names of `rabbitry.testing`, which are imported when the first of them is asked for."""

from __future__ import annotations

from rabbitry._concurrency.virtual import check_virtual_time
from rabbitry._concurrency.virtual_asyncio import VirtualTimeLoop
from rabbitry.testing.faults.proxy import Conditions, Flow, Link, Proxy, open_proxy
from rabbitry.testing.faults.schedule import FAULTS, Fault, Schedule
from rabbitry.testing.rabbitmq.alarm import MemoryAlarm
from rabbitry.testing.rabbitmq.cluster import PrivateCluster
from rabbitry.testing.rabbitmq.installation import NodeError, RabbitMQNotFound
from rabbitry.testing.rabbitmq.installation import find_scripts as find_rabbitmq
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
    "VirtualTimeLoop",
    "check_virtual_time",
    "connections_admitted",
    "descriptor_limit",
    "find_rabbitmq",
    "open_proxy",
]
