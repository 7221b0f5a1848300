"""Where the plugins of a private node listen: on the loopback interface, on free ports.

What must stay true: no socket of a node accepts anything from beyond this machine, whatever plugins it has. Those that
are known to listen are told where; the others are watched, and a node that listens elsewhere is refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from rabbitry.testing.rabbitmq.installation import NodeError

__all__ = ["check_plugins", "listening_abroad", "listening_plugins", "plugin_settings", "ports_of"]

_NEEDS: Mapping[str, tuple[str, ...]] = {
    "rabbitmq_federation_management": ("rabbitmq_management",),
    "rabbitmq_shovel_management": ("rabbitmq_management",),
    "rabbitmq_stream_management": ("rabbitmq_management", "rabbitmq_stream"),
    "rabbitmq_top": ("rabbitmq_management",),
    "rabbitmq_tracing": ("rabbitmq_management",),
    "rabbitmq_web_mqtt": ("rabbitmq_mqtt",),
    "rabbitmq_web_stomp": ("rabbitmq_stomp",),
}
"""The plugins that a plugin enables with itself, as far as they listen."""

_LISTENERS: Mapping[str, str] = {
    "rabbitmq_mqtt": "mqtt.listeners.tcp",
    "rabbitmq_stomp": "stomp.listeners.tcp",
    "rabbitmq_stream": "stream.listeners.tcp",
}
"""Plugins with a list of listeners in rabbitmq.conf."""

_SOCKETS: Mapping[str, str] = {
    "rabbitmq_management": "management.tcp",
    "rabbitmq_prometheus": "prometheus.tcp",
    "rabbitmq_web_mqtt": "web_mqtt.tcp",
    "rabbitmq_web_stomp": "web_stomp.tcp",
}
"""Plugins with an address and a port in rabbitmq.conf."""

_FIXED = ("rabbitmq_web_mqtt_examples", "rabbitmq_web_stomp_examples")
"""Plugins that rabbitmq.conf can't tell where to listen."""


def check_plugins(plugins: Iterable[str]) -> None:
    """Raises NodeError for a plugin that would listen on all interfaces whatever it is told."""
    for plugin in plugins:
        if plugin in _FIXED:
            raise NodeError(
                f"the plugin {plugin} listens on port 15670 of all interfaces, which no setting changes: a private "
                "node is for this machine only and can't have it"
            )


def listening_plugins(plugins: Iterable[str]) -> list[str]:
    """Those among the plugins, and what they enable, that listen."""
    enabled = dict.fromkeys(each for plugin in plugins for each in (*_NEEDS.get(plugin, ()), plugin))
    return [plugin for plugin in enabled if plugin in _LISTENERS or plugin in _SOCKETS]


def plugin_settings(ports: Mapping[str, int], host: str, settings: Mapping[str, str | int]) -> dict[str, str | int]:
    """Lines of rabbitmq.conf for plugins that listen on these ports of `host`, but for those that `settings` has."""
    lines: dict[str, str | int] = {}
    for plugin, port in ports.items():
        if (key := _SOCKETS.get(plugin)) is not None:
            lines |= {f"{key}.ip": host, f"{key}.port": port}
        elif not any(name.startswith(f"{_LISTENERS[plugin]}.") for name in settings):
            lines[f"{_LISTENERS[plugin]}.1"] = f"{host}:{port}"
    return lines


def ports_of(plugins: Iterable[str], settings: Mapping[str, str | int]) -> dict[str, int]:
    """The first port of each of these plugins that listens, as rabbitmq.conf has it."""
    ports: dict[str, int] = {}
    for plugin in plugins:
        if plugin in _SOCKETS:
            values = [settings[f"{_SOCKETS[plugin]}.port"]]
        else:
            values = [value for name, value in settings.items() if name.startswith(f"{_LISTENERS[plugin]}.")]
        with suppress(ValueError):
            ports[plugin] = int(str(values[0]).rpartition(":")[2])
    return ports


# --- what a process listens on ----------------------------------------------------------------------------------------

_LISTEN = "0A"  # TCP_LISTEN (include/net/tcp_states.h)
_LOOPBACK_6 = "00000000000000000000000001000000"
_MAPPED_6 = "0000000000000000FFFF0000"


def listening_abroad(pid: int) -> Sequence[int]:
    """The ports on which a process listens and can be reached from elsewhere. Empty where there is no /proc to tell."""
    inodes: set[str] = set()
    found: set[int] = set()
    with suppress(OSError):  # no /proc, or another user's process
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):  # closed meanwhile
                target = os.readlink(entry.path)
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                address, _, port = fields[1].partition(":")
                if fields[3] == _LISTEN and fields[9] in inodes and not _is_loopback(address):
                    found.add(int(port, 16))
    return sorted(found)


def _is_loopback(address: str) -> bool:
    """An address as /proc/net/tcp has it: each four bytes as a number of this machine's byte order."""
    if len(address) == 8 or address.startswith(_MAPPED_6):
        return address.endswith("7F")
    return address == _LOOPBACK_6
