"""The program that `embedded.py` starts: rabbitry's embedded broker on a free port of the loopback interface.

Arguments: how many connections it has to admit, and a virtual host to have besides. It prints its URL, and heeds a line
of its standard input each, `alarm` and `clear`, until that ends: then whoever started it is gone.
"""

from __future__ import annotations

import resource
import signal
import sys
from collections.abc import Sequence

import anyio
import anyio.to_thread
import psutil

from loadtest.machine.preflight import ADMINISTRATION, SPARE_DESCRIPTORS
from rabbitry.broker import Broker

WATERMARK = 0.4
"""Share of the machine's memory above which publishers wait, as in RabbitMQ's own configuration."""
PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


def end_with_the_parent() -> None:
    """Whoever started this may be killed while this is stopped, and can't see its input end. (Linux alone has that.)"""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def raise_descriptors(wanted: int) -> None:
    """Raises the soft limit as far as that is needed and allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


async def serve(connections: int, vhosts: Sequence[str]) -> None:
    """Serves until the standard input ends."""
    memory = max(1024**3, int(WATERMARK * psutil.virtual_memory().total))
    async with Broker(history=0, max_connections=connections, memory_limit=memory) as broker:
        for vhost in vhosts:
            broker.add_vhost(vhost)
        await broker.listen()
        print(broker.url, flush=True)
        while order := (await anyio.to_thread.run_sync(sys.stdin.readline)).strip():
            if order == "alarm":
                broker.raise_alarm()
            else:
                broker.clear_alarm()


if __name__ == "__main__":
    end_with_the_parent()
    admitted = int(sys.argv[1]) + ADMINISTRATION
    raise_descriptors(admitted + SPARE_DESCRIPTORS)
    anyio.run(serve, admitted, sys.argv[2:])
