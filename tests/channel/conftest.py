"""The tests here have the embedded broker in memory, where neither a mark nor a node of their own says otherwise."""

from tests.support.in_memory import amqp_url, anyio_backend, broker_in_memory, broker_version

__all__ = ["amqp_url", "anyio_backend", "broker_in_memory", "broker_version"]
