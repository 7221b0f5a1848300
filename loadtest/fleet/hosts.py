"""Which host this is, for those who must know whether two clocks are one, and which program."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from loadtest.fleet.seal import Seal
from loadtest.metrics.record import FORMAT


def identify_host(seal: Seal) -> str:
    """The same text for all processes whose monotonic clock is the same, and no name that could be read.

    On Linux that is one boot of one kernel, in one namespace of time. Elsewhere each process is taken for a host of its
    own: its clock is read, and has a bound.
    """
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = "-"
        with suppress(OSError):
            namespace = str(Path("/proc/self/ns/time").readlink())
        return seal.tag(f"{boot} {namespace}")
    return seal.tag(f"{socket.gethostname()} {os.getpid()}")


def program_version() -> str:
    """The version that both ends must have: the package's, and that of records."""
    with suppress(PackageNotFoundError):
        return f"{version('rabbitry')}, records {FORMAT}"
    return f"from source, records {FORMAT}"
