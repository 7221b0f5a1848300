"""The guardian: a small process that owns a private node's processes and directory, and outlives who asked for them.

It runs as a plain script in its own session, so that neither Ctrl-C nor the death of its parent reaches it. Its
standard input is the lifeline: when that closes - because the node was closed, or because the parent died in any way,
SIGKILL included - it kills everything it started, removes the directory and leaves. It knows nothing about AMQP and
imports nothing of rabbitry, so it starts in milliseconds.

Arguments: directory, descriptor limit, parent's pid, epmd's port, epmd (empty for none), command... (the server). The
environment is the server's. A line on standard input is an order: `start` the server, or `signal N` to it if it runs.
On standard output it says `pid N` once the server is started, and `exit server N` or `exit epmd N` when that has ended.
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
from collections.abc import Iterable, Iterator

# <sys/prctl.h>
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def prctl(option: int, value: int) -> None:
    """prctl(2), which is a second safety net only: elsewhere than on Linux this does nothing."""
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
    """Return once somebody listens there, after half a second at most; the server's own log will say if nobody does."""
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


def end(pids: Iterable[int], directory: str) -> None:
    """Kills and reaps generation after generation; only then is the directory quiet enough to remove."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            for pid in children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            os.waitpid(-1, 0)
    import shutil

    shutil.rmtree(directory, ignore_errors=True)


def wakes_on_exit() -> int:
    """A descriptor that becomes readable when a child has ended."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return reader


def main() -> None:
    directory, limit, parent, epmd_port, epmd, *command = sys.argv[1:]
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(limit), int(limit)))

    log = os.open(os.path.join(directory, "output.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    running: dict[int, tuple[str, subprocess.Popen[bytes]]] = {}  # by pid; not yet reaped, so the pid is theirs

    def run(name: str, command: list[str]) -> int:
        process = start(command, log)
        running[process.pid] = name, process
        return process.pid

    def obey(order: str) -> None:
        match order.split():
            case ["start"]:
                print("pid", run("server", command), flush=True)
            case ["signal", number]:
                for pid, (name, _) in running.items():
                    if name == "server":
                        os.kill(pid, int(number))

    try:
        if epmd:
            # In the foreground: an epmd that Erlang starts for itself becomes a daemon and stays for ever.
            run("epmd", [epmd, "-port", epmd_port, "-address", "127.0.0.1"])
            wait_listening(int(epmd_port))

        exits = wakes_on_exit()
        inputs = select.poll()
        inputs.register(0, select.POLLIN | select.POLLHUP)
        inputs.register(exits, select.POLLIN)
        # A parent that forked without exec leaves a copy of the lifeline in its children: so its pid is watched too.
        while os.getppid() == int(parent):
            ready = dict(inputs.poll(100))
            if exits in ready:
                os.read(exits, 4096)
            for pid, code in reap():
                if pid in running:
                    name, process = running.pop(pid)
                    process.returncode = code
                    print("exit", name, code, flush=True)
            if 0 in ready:
                # Whole lines, far shorter than a pipe's atomic write.
                orders = os.read(0, 4096)
                if not orders:
                    return
                for order in orders.decode().splitlines():
                    obey(order)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        end(running, directory)


if __name__ == "__main__":
    # Nobody may be left to read: a broken pipe must not come between the guardian and its duty.
    try:
        main()
    except BrokenPipeError:
        os._exit(1)  # else Python complains that it can't write to nobody what is left
