"""What the documentation says of other systems, as far as it can be seen here: nothing imports what only Unix has."""

from __future__ import annotations

import subprocess
import sys

from tests.project.rooms import ROOT

UNIX = ("fcntl", "grp", "posix", "pwd", "resource", "syslog", "termios", "tty")

SCRIPT = f"""
import select, signal, sys
import multiprocessing, subprocess, tempfile, anyio, trio, pytest, asyncio  # these know where they are
for name in {UNIX}:
    sys.modules[name] = None
for name in ("epoll", "poll", "kqueue"):
    if hasattr(select, name):
        delattr(select, name)
for name in ("SIGKILL", "SIGSTOP", "SIGCONT", "SIGHUP"):
    delattr(signal, name)

from importlib import import_module
for name in sys.argv[1:]:
    import_module(name)
"""

EVERYWHERE = (
    "rabbitry._public",
    "rabbitry.blocking",
    "rabbitry.broker",
    "rabbitry.testing.names",
    "rabbitry.testing.hosting",
    "rabbitry.testing.pytest_plugin",
    "rabbitry.tutorials.program",
    "rabbitry.tutorials.rpc",
    "rabbitry._cli.program",
    "rabbitry._cli.commands.broker",
    "rabbitry._cli.commands.topology",
)


def test_nothing_but_what_is_said_to_needs_unix() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, *EVERYWHERE], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
