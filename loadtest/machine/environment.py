"""On what a run was made: machine, limits, versions, commit. Noted once, before the run; no names of hosts or users.

Without it a number means little on another day; with it two results can be told to be comparable or not.
"""

from __future__ import annotations

import os
import platform
import resource
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from loadtest.scenarios.brokers import RABBITMQ, kind_of

_SYSCTLS = (
    "net/core/somaxconn",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/tcp_max_syn_backlog",
    "net/ipv4/tcp_tw_reuse",
)


def describe_environment(packages: Sequence[str], backend: str) -> dict[str, Any]:
    """The environment section, but for the broker, which tells its version on connecting."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "backend": backend,
        "packages": {name: _version(name) for name in dict.fromkeys((*packages, "anyio", "trio"))},
        "commit": _commit(),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_before": _load(),
        "descriptors": dict(zip(("soft", "hard"), resource.getrlimit(resource.RLIMIT_NOFILE), strict=True)),
        "sysctls": {name.replace("/", "."): _read(f"/proc/sys/{name}") for name in _SYSCTLS},
        "cpu_pressure": _read("/proc/pressure/cpu"),
    }


def describe_broker(server_properties: Mapping[str, Any], is_private: bool) -> dict[str, Any]:
    """What the broker says of itself; `is_private` if it was started for the run."""
    told = {
        name: _text(server_properties.get(name))
        for name in ("product", "version", "platform")
        if name in server_properties
    }
    kind = kind_of(server_properties)
    return {**told, "kind": kind, "private_node": is_private and kind == RABBITMQ}


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _version(package: str) -> str | None:
    with suppress(PackageNotFoundError):
        return version(package)
    return None


def _commit() -> str | None:
    """The commit of the source this runs from, with a plus sign if it was changed since; None outside a repository."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        run = subprocess.run(["git", "-C", here, *arguments], capture_output=True, text=True, timeout=10, check=True)
        return run.stdout.strip()

    with suppress(OSError, subprocess.SubprocessError):
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    return None


def _cpu() -> str | None:
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or None


def _load() -> list[float] | None:
    with suppress(OSError):
        return [round(load, 2) for load in os.getloadavg()]
    return None


def _read(path: str) -> str | None:
    with suppress(OSError):
        return " ".join(Path(path).read_text().split()) if "cpuinfo" not in path else Path(path).read_text()
    return None
