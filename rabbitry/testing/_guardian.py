"""The guardian: a small process that owns a private node's processes and directory, and outlives who asked for them.

It runs as a plain script in its own session, so that neither Ctrl-C nor the death of its parent reaches it. Its
standard input is the lifeline: when that closes - because the node was closed, or because the parent died in any way,
SIGKILL included - it kills everything it started, removes the directory and leaves. It knows nothing about AMQP and
imports nothing of rabbitry, so it starts in milliseconds.

Arguments: directory, descriptor limit, parent's pid, epmd's port, epmd, command... (the server). The environment is
the server's. On standard output it says `pid N` once the server is started, and `exit server N` or `exit epmd N` if
that ends by itself.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

# <sys/prctl.h>
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def prctl(option: int, value: int) -> None:
    """Linux only, and only a second safety net: elsewhere it does nothing."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def start(command: list[str], log: int) -> subprocess.Popen[bytes]:
    def before_exec() -> None:
        # Should the guardian itself be killed, the kernel kills its children.
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # Erlang's helper programs need the default dispositions.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=before_exec)


def wait_listening(port: int) -> None:
    """Half a second at most; if nobody listens then, the server's own log will say so."""
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.1):
            return
        time.sleep(0.005)


def reap() -> Iterator[tuple[int, int]]:
    """Pid and exit code of every child that has ended: also of orphans, such as the epmd that RabbitMQ starts each
    minute in case there is none."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            yield pid, os.waitstatus_to_exitcode(status)


def children() -> list[int]:
    """Direct children; a child's orphans become ours, because the guardian is their subreaper."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            if name.isdigit():
                with contextlib.suppress(OSError, IndexError, ValueError), open(f"/proc/{name}/stat") as file:
                    # pid (command) state ppid ... where the command may itself contain spaces and brackets
                    if int(file.read().rpartition(")")[2].split()[1]) == os.getpid():
                        found.append(int(name))
    return found


def end(started: list[subprocess.Popen[bytes]], directory: str) -> None:
    """Kills and reaps generation after generation; only then is the directory quiet enough to remove."""
    for process in started:
        process.kill()
    with contextlib.suppress(ChildProcessError):
        while True:
            for pid in children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            os.waitpid(-1, 0)
    import shutil

    shutil.rmtree(directory, ignore_errors=True)


def main() -> None:
    directory, limit, parent, epmd_port, epmd, *command = sys.argv[1:]
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(limit), int(limit)))

    started: list[subprocess.Popen[bytes]] = []
    try:
        log = os.open(os.path.join(directory, "output.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        # In the foreground: an epmd that Erlang starts for itself becomes a daemon and stays for ever.
        started.append(start([epmd, "-port", epmd_port, "-address", "127.0.0.1"], log))
        wait_listening(int(epmd_port))
        started.append(start(command, log))
        names = dict(zip([process.pid for process in started], ("epmd", "server"), strict=True))
        print("pid", started[1].pid, flush=True)

        lifeline = select.poll()
        lifeline.register(0, select.POLLIN | select.POLLHUP)
        # A parent that forked without exec leaves a copy of the lifeline in its children: so its pid is watched too.
        while os.getppid() == int(parent) and not lifeline.poll(100):
            for pid, code in reap():
                if pid in names:
                    print("exit", names[pid], code, flush=True)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        end(started, directory)


if __name__ == "__main__":
    # Nobody may be left to read: a broken pipe must not come between the guardian and its duty.
    with contextlib.suppress(BrokenPipeError):
        main()
