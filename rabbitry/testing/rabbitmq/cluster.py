"""A private cluster of RabbitMQ nodes on the loopback interface, each of which can be killed, stopped and restarted.

What must stay true: the nodes share a cookie and an epmd, which belongs to none of them and so survives each; every
node has its own guardian, directory and ports; and a started cluster is one cluster, with all its nodes in it.
"""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import anyio
import anyio.to_thread

from rabbitry.testing.rabbitmq import setup
from rabbitry.testing.rabbitmq.installation import NodeError, find_epmd
from rabbitry.testing.rabbitmq.node import START_TIMEOUT, Membership, PortTaken, PrivateNode
from rabbitry.testing.rabbitmq.processes import POLL_INTERVAL, Guardian, Steps, arun, run


class Member(PrivateNode):
    """A node of a cluster: it shares what makes them one, and joins `first`, unless it is the first itself."""

    def __init__(
        self,
        membership: Membership,
        first: Member | None,
        *,
        connections: int,
        schedulers: int | None,
        settings: Mapping[str, str | int],
        plugins: Sequence[str],
        start_timeout: float,
    ) -> None:
        super().__init__(
            connections=connections,
            schedulers=schedulers,
            settings=settings,
            plugins=plugins,
            start_timeout=start_timeout,
        )
        self._membership = membership
        if first is not None:
            self._settings |= {
                "cluster_formation.peer_discovery_backend": "classic_config",
                "cluster_formation.classic_config.nodes.1": first.name,
                "cluster_formation.classic_config.nodes.2": self.name,
            }

    def starting(self) -> Steps:
        """Start it, step by step, so that several start at the same time."""
        return self._starting()


class PrivateCluster:
    """`with PrivateCluster() as cluster:` or `async with` - three brokers that are one, at `cluster.urls`.

    nodes: how many, from 1 on. The other arguments are those of each PrivateNode; schedulers is 1 here, to be light.

    `cluster.nodes` are PrivateNodes: kill, stop, restart and pause them, on their data and ports; a restarted one
    rejoins before `restart` returns. Where all were down, the one that ended last must start first, or at the same time
    as the others: RabbitMQ waits for it. They are closed with the cluster, not one by one. Starting raises
    RabbitMQNotFound or NodeError. Entering can be cancelled; leaving is shielded and takes about a second.
    """

    def __init__(
        self,
        nodes: int = 3,
        *,
        connections: int = 1_000,
        schedulers: int | None = 1,
        settings: Mapping[str, str | int] | None = None,
        plugins: Sequence[str] = (),
        start_timeout: float = START_TIMEOUT,
    ) -> None:
        if nodes < 1:
            raise ValueError(f"a cluster has at least one node, not {nodes}")
        self._members: list[Member] = []
        self._count = nodes
        self._connections = connections
        self._schedulers = schedulers
        self._settings = dict(settings or {})
        self._plugins = tuple(plugins)
        self._start_timeout = start_timeout
        self._directory: Path | None = None
        self._epmd: Guardian | None = None
        self._owner = 0

    def __repr__(self) -> str:
        return f"<PrivateCluster {list(self.nodes)}>"

    @property
    def nodes(self) -> tuple[PrivateNode, ...]:
        """The brokers, also those that do not run; none before the start."""
        return tuple(self._members)

    @property
    def urls(self) -> list[str]:
        """The nodes' `amqp://` URLs, in their order, also of those that do not run."""
        return [node.url for node in self.nodes]

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Returns once every node answers an AMQP handshake and knows all others. On failure all is cleaned up."""
        self._check_not_started()
        try:
            run(self._starting())
            self._check_is_one()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Kills the nodes and removes their files. Idempotent."""
        # A forked child inherits this object, but not the nodes.
        if self._owner != os.getpid():
            return
        atexit.unregister(self.close)
        for node in self.nodes:
            node.close()
        epmd, self._epmd = self._epmd, None
        if epmd is not None:
            epmd.end()
        if self._directory is not None:
            # The guardian did; unless somebody killed it.
            shutil.rmtree(self._directory, ignore_errors=True)

    async def aclose(self) -> None:
        """`close` in a thread. Shielded: cancelling it has no effect until the nodes are gone."""
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.close)

    def __enter__(self) -> PrivateCluster:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> PrivateCluster:
        self._check_not_started()
        try:
            await arun(self._starting())
            await anyio.to_thread.run_sync(self._check_is_one)
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    # --- starting -----------------------------------------------------------------------------------------------------

    def _check_not_started(self) -> None:
        if self._epmd is not None:
            raise NodeError("the cluster has been started already")

    def _starting(self) -> Steps:
        for attempts_left in (2, 1, 0):
            try:
                yield from self._start_together()
                return
            except PortTaken:
                self.close()
                if not attempts_left:
                    raise

    def _start_together(self) -> Steps:
        epmd_port = self._start_epmd()
        deadline = time.monotonic() + START_TIMEOUT
        while not _answers(epmd_port):
            if time.monotonic() > deadline:
                raise NodeError(f"epmd did not start at port {epmd_port}")
            yield POLL_INTERVAL

        self._make_members(Membership(epmd_port, setup.make_cookie()))
        # The others join the first. Only once it has booted: while its tables still change (feature flags, in a first
        # boot) a node that joins fails with schema_integrity_check_failed.
        first, *others = (member.starting() for member in self._members)
        yield from self._together([first])
        yield from self._together(others)

    def _together(self, starting: list[Steps]) -> Steps:
        while starting:
            assert self._epmd is not None
            self._epmd.listen()
            if self._epmd.epmd_ended:
                raise PortTaken("another epmd took the port of the private RabbitMQ cluster's")
            starting = [steps for steps in starting if next(steps, None) is not None]
            yield POLL_INTERVAL

    def _start_epmd(self) -> int:
        (port,) = setup.free_ports(1)
        self._owner = os.getpid()
        self._directory = Path(tempfile.mkdtemp(prefix="rabbitry-cluster-"))
        atexit.register(self.close)
        limit = setup.descriptor_limit(self._connections)
        self._epmd = Guardian(self._directory, limit, os.environ, epmd=(port, find_epmd()))
        return port

    def _make_members(self, membership: Membership) -> None:
        self._members = []
        for _ in range(self._count):
            member = Member(
                membership,
                self._members[0] if self._members else None,
                connections=self._connections,
                schedulers=self._schedulers,
                settings=self._settings,
                plugins=self._plugins,
                start_timeout=self._start_timeout,
            )
            self._members.append(member)

    def _check_is_one(self) -> None:
        """Raise NodeError unless all are one cluster: a node that can't join the first one goes on by itself."""
        first = self.nodes[0]
        first.rabbitmqctl("await_startup", "--timeout", "30")  # it listens a moment before it counts as started
        first.rabbitmqctl("await_online_nodes", str(self._count), "--timeout", "30")


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection((setup.HOST, port), 0.1):
        return True
    return False
