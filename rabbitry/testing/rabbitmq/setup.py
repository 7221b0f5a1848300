"""How a private node is set up: its limits, ports, settings, environment and files. Nothing here starts anything.

What must stay true: RabbitMQ reads no file outside the node's directory, and listens on the loopback interface only.
"""

from __future__ import annotations

import math
import os
import random
import secrets
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from rabbitry.testing.rabbitmq.installation import NodeError

HOST = "127.0.0.1"
DESCRIPTORS = 65_536  # what a node asks for if it needs no more: Debian's own LimitNOFILE
MANY_CONNECTIONS = 1_000  # above it, memory per connection counts for more than the speed of one


def descriptor_limit(connections: int) -> int:
    """The descriptors a node for so many connections gets: enough if the hard limit has them, else all there are."""
    import resource  # Unix alone has it, and all of `rabbitry.testing` is imported with this file

    wanted = max(DESCRIPTORS, 3 * connections)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)


def connections_admitted(descriptors: int) -> int:
    """How many sockets RabbitMQ 3.x lets in under a descriptor limit (file_handle_cache.erl); 4.x admits more."""
    return max(0, math.trunc((descriptors - 100) * 0.9 - 2))


def check_descriptors(connections: int) -> None:
    """Raises NodeError, with the arithmetic, if a node on this machine can't bear so many connections."""
    descriptors = descriptor_limit(connections)
    admitted = connections_admitted(descriptors)
    if connections > admitted:
        raise NodeError(
            f"{connections} connections do not fit: under the hard limit of {descriptors} descriptors (ulimit -Hn) "
            f"RabbitMQ admits trunc(({descriptors} - 100) * 0.9 - 2) = {admitted}"
        )


def free_ports(count: int) -> list[int]:
    """Ports free on the loopback interface, outside the range from which the kernel serves outgoing connections:
    ten thousand clients on this machine would otherwise take them."""
    try:
        lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        lowest = 32_768
    choice = range(10_000, lowest) if lowest > 12_000 else range(20_000, 60_000)
    found: list[int] = []
    for port in random.SystemRandom().sample(choice, min(len(choice), 1_000)):
        with socket.socket() as probe:
            # Like Erlang's listeners; without it a port in TIME_WAIT counts as taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise NodeError(f"{count} free ports were not to be found between {choice.start} and {choice.stop}")


def environment(
    directory: Path, name: str, distribution_port: int, epmd_port: int, control_port: int
) -> dict[str, str]:
    """The node's environment. It names all that RabbitMQ's scripts and Erlang would otherwise look for in /etc, /var
    and the home directory.
    """
    foreign = ("RABBITMQ_", "ERL_", "NOTIFY_SOCKET")
    return {key: value for key, value in os.environ.items() if not key.startswith(foreign)} | {
        "HOME": str(directory),  # Erlang's cookie lies there, for the server and for rabbitmqctl
        "TMPDIR": str(directory.parent),  # what a root of another Debian shares with this machine
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "ERL_EPMD_PORT": str(epmd_port),
        "ERL_EPMD_ADDRESS": HOST,
        "ERL_CRASH_DUMP_BYTES": "0",
        # The start script then becomes the server, instead of waiting for it in a shell: its pid is Erlang's.
        "RUNNING_UNDER_SYSTEMD": "true",
        "RABBITMQ_NODENAME": name,
        "RABBITMQ_DIST_PORT": str(distribution_port),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false",
        "RABBITMQ_CTL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "RABBITMQ_CTL_DIST_PORT_MIN": str(control_port),
        "RABBITMQ_CTL_DIST_PORT_MAX": str(control_port + 10),
        "RABBITMQ_CONF_ENV_FILE": str(directory / "rabbitmq-env.conf"),
        "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(directory / "advanced.config"),
        "RABBITMQ_GENERATED_CONFIG_DIR": str(directory / "generated"),
        "RABBITMQ_SCHEMA_DIR": str(directory / "schema"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(directory / "data"),
        "RABBITMQ_LOG_BASE": str(directory),
        "RABBITMQ_LOGS": str(directory / "broker.log"),
        "RABBITMQ_PID_FILE": str(directory / "pid"),
    }


def settings(port: int, connections: int) -> dict[str, str | int]:
    """What rabbitmq.conf says. Defaults named below are RabbitMQ's own."""
    settings: dict[str, str | int] = {
        "listeners.tcp.1": f"{HOST}:{port}",
        "log.connection.level": "warning",  # default info: three lines for every connection
        "tcp_listen_options.nodelay": "true",
    }
    if connections > MANY_CONNECTIONS:
        settings |= {
            "tcp_listen_options.backlog": 4096,  # default 128; the kernel caps it at net.core.somaxconn
            # Twice loopback's segment of 64 KiB. With the 32 KiB that RabbitMQ's guide advises for many connections
            # the window is smaller than a segment: a full one opens again only by TCP's timer, 200 ms later
            # (measured: publishing fell from 70,000 to 1,000 messages a second).
            "tcp_listen_options.sndbuf": 131_072,
            "tcp_listen_options.recbuf": 131_072,
            "handshake_timeout": 60_000,  # ms, default 10 s: a storm of connections takes longer
            "heartbeat": 60,  # s
            "collect_statistics_interval": 60_000,  # ms, default 5 s for every connection, channel and queue
        }
    return settings


def make_cookie() -> str:
    """A new cookie, by which Erlang's nodes know each other."""
    return secrets.token_hex(20)


def write_files(directory: Path, settings: Mapping[str, str | int], plugins: Sequence[str], cookie: str) -> None:
    cookie_file = directory / ".erlang.cookie"
    cookie_file.write_text(cookie)
    cookie_file.chmod(0o400)  # Erlang refuses a cookie that others may read
    (directory / "rabbitmq.conf").write_text("".join(f"{key} = {value}\n" for key, value in settings.items()))
    (directory / "rabbitmq-env.conf").touch()
    (directory / "advanced.config").write_text("[].\n")
    (directory / "enabled_plugins").write_text(f"[{','.join(plugins)}].\n")
