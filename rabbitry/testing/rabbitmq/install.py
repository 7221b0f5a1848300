"""`python -m rabbitry.testing.install`, as the nox sessions do: installs RabbitMQ where nobody need be asked.

It acts on Debian and Ubuntu only, as root or with passwordless sudo, says what it does before doing it, and leaves no
broker running: tests and load tests start private ones. Anywhere else it says exactly what to do.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from rabbitry.testing.rabbitmq.installation import (
    INSTALL_HINT,
    ROOT_VARIABLE,
    RabbitMQNotFound,
    find_epmd,
    find_scripts,
)

# invoke-rc.d and deb-systemd-invoke ask policy-rc.d before they start a service; 101 forbids it. A policy that is there
# already is somebody's own and stays.
SCRIPT = r"""
set -e
if [ ! -e /usr/sbin/policy-rc.d ]; then
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    trap 'exit 130' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -o DPkg::Lock::Timeout=300 update
apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends rabbitmq-server
"""


def is_installed() -> bool:
    try:
        find_scripts()
        find_epmd()
    except RabbitMQNotFound:
        return False
    return True


def become_root() -> list[str] | None:
    """What to put before a command to run it as root: nothing, sudo, or None where it would ask for a password."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], stderr=subprocess.DEVNULL).returncode == 0:
        return ["sudo", "-n"]
    return None


def ensure_installed() -> None:
    """Installs RabbitMQ if it is missing. Raises RabbitMQNotFound, with what to do, if that is not possible."""
    if is_installed():
        return
    if os.environ.get(ROOT_VARIABLE):
        find_scripts()  # says what is wrong there
    if not shutil.which("apt-get"):
        raise RabbitMQNotFound(f"{INSTALL_HINT} (Not installed automatically: there is no apt-get here.)")
    prefix = become_root()
    if prefix is None:
        raise RabbitMQNotFound(f"{INSTALL_HINT} (Not installed automatically: neither root nor passwordless sudo.)")
    print("RabbitMQ is missing. Installing Debian's package, without starting its service:", flush=True)
    print("    " + " ".join([*prefix, "apt-get update && apt-get install -y rabbitmq-server"]), flush=True)
    done = subprocess.run([*prefix, "/bin/sh", "-c", SCRIPT], stdin=subprocess.DEVNULL)
    if done.returncode or not is_installed():
        raise RabbitMQNotFound(f"apt-get failed (status {done.returncode}; its output is above). {INSTALL_HINT}")


def main() -> None:
    """The command: `ensure_installed`, and what to do instead where that is not possible."""
    try:
        ensure_installed()
    except RabbitMQNotFound as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
