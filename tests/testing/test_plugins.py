"""Plugins of a private node listen where the node does: on this machine, on ports of their own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from rabbitry.testing import NodeError, PrivateNode
from rabbitry.testing.rabbitmq.plugins import listening_abroad, listening_plugins

LISTENING = [
    "rabbitmq_management",
    "rabbitmq_prometheus",
    "rabbitmq_mqtt",
    "rabbitmq_web_mqtt",
    "rabbitmq_stomp",
    "rabbitmq_web_stomp",
    "rabbitmq_stream",
]


def listeners() -> set[tuple[str, int]]:
    """What listens on this machine: the address as /proc has it, and the port."""
    found: set[tuple[str, int]] = set()
    for table in ("tcp", "tcp6"):
        with open(f"/proc/net/{table}") as file:
            for line in file.read().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A":
                    address, _, port = fields[1].partition(":")
                    found.add((address, int(port, 16)))
    return found


def test_every_plugin_that_listens_does_so_on_the_loopback_interface() -> None:
    with PrivateNode(plugins=LISTENING, schedulers=1) as node:
        assert set(node.ports) == set(LISTENING)
        assert len({node.port, *node.ports.values()}) == len(LISTENING) + 1
        assert not {15672, 15692, 1883, 15675, 61613, 15674, 5552} & set(node.ports.values())
        for port in node.ports.values():
            socket.create_connection((node.host, port), 5).close()
        assert listening_abroad(node.pid) == []
        mine = {node.port, *node.ports.values()}
        assert {address for address, port in listeners() if port in mine} == {"0100007F"}


@pytest.mark.parametrize(
    ("plugin", "enabled"),
    [
        ("rabbitmq_top", ["rabbitmq_management"]),
        ("rabbitmq_stream_management", ["rabbitmq_management", "rabbitmq_stream"]),
        ("rabbitmq_web_mqtt", ["rabbitmq_mqtt", "rabbitmq_web_mqtt"]),
        ("rabbitmq_auth_mechanism_ssl", []),
    ],
)
def test_what_a_plugin_enables_counts(plugin: str, enabled: list[str]) -> None:
    assert listening_plugins([plugin]) == enabled


def test_a_plugin_enabled_by_another() -> None:
    with PrivateNode(plugins=["rabbitmq_shovel_management"], schedulers=1) as node:
        assert list(node.ports) == ["rabbitmq_management"]
        socket.create_connection((node.host, node.ports["rabbitmq_management"]), 5).close()
        assert listening_abroad(node.pid) == []
        node.restart()
        assert listening_abroad(node.pid) == []


def test_what_the_settings_say_goes_first() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with PrivateNode(plugins=["rabbitmq_stomp"], settings={"stomp.listeners.tcp.mine": f"127.0.0.1:{port}"}) as node:
        assert node.ports == {"rabbitmq_stomp": port}
        socket.create_connection((node.host, port), 5).close()


def test_a_node_that_listens_elsewhere_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    node = PrivateNode(plugins=["rabbitmq_stomp"], settings={"stomp.listeners.tcp.mine": port})
    with pytest.raises(NodeError, match=rf"listened on other interfaces than 127\.0\.0\.1, on port {port}:"):
        node.start()
    assert not node.is_running


@pytest.mark.parametrize("plugin", ["rabbitmq_web_stomp_examples", "rabbitmq_web_mqtt_examples"])
def test_a_plugin_that_can_not_be_told_is_refused(plugin: str) -> None:
    with pytest.raises(NodeError, match=f"{plugin} listens on port 15670 of all interfaces"):
        PrivateNode(plugins=[plugin]).start()


@pytest.mark.parametrize(
    ("host", "abroad"), [("127.0.0.1", False), ("127.9.8.7", False), ("::1", False), ("0.0.0.0", True), ("::", True)]
)
def test_what_is_abroad(host: str, abroad: bool) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, 0), family=family)
    except OSError as error:
        pytest.skip(f"no such address here: {error}")
    with listener:
        assert (listener.getsockname()[1] in listening_abroad(os.getpid())) == abroad


def test_of_a_process_that_is_gone_nothing_is_known() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert listening_abroad(process.pid) == []
