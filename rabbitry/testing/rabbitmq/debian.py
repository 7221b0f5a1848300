"""RabbitMQ of another Debian release in a folder, built by `python -m rabbitry.testing.debian trixie FOLDER`.

Private nodes run from there where RABBITRY_RABBITMQ_ROOT names the folder; this machine's own RabbitMQ, if it has one,
stays as it is. What must stay true: a folder of that name is complete, because it gets the name last, and RabbitMQ is
run in it before it is reused; nothing is mounted where the machine's other processes see it. It needs apt set up with
a mirror of Debian, and root or passwordless sudo to build; to run, root or a kernel that lets users make namespaces.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rabbitry.testing.rabbitmq.install import become_root
from rabbitry.testing.rabbitmq.installation import LAUNCHERS, ROOT_VARIABLE, RabbitMQNotFound

# Under the name of a program it stands for that program inside the root. It enters the root in a mount namespace of its
# own, which goes with the last process in it, and replaces itself: the pid it was started with becomes the program's.
# The directory for temporary files is the same inside and outside: the node's directory lies there, and the tests'
# certificates. Without /etc/hosts each connection would wait for a name look-up.
LAUNCHER = r"""#!/bin/sh
set -e
root=$(cd "$(dirname "$0")/.." && pwd -P)
[ "$(id -u)" = 0 ] || mapped=--map-root-user
exec unshare $mapped --mount -- /bin/sh -ec '
    export PATH=/usr/lib/rabbitmq/bin:/usr/sbin:/usr/bin:/sbin:/bin
    root=$1
    shift
    for path in /proc /dev /etc/hosts "${TMPDIR:-/tmp}"; do
        mount --rbind "$path" "$root$path"
    done
    exec chroot "$root" "$@"
' sh "$root" "$(basename "$0")" "$@"
"""

UPDATE = "exec apt-get -o DPkg::Lock::Timeout=300 update"

# Run as root in namespaces of its own: should it be killed, so are all of dpkg's processes, and its mounts are gone.
BUILD = r"""
set -e
suite=$1 folder=$2 mirror=$3 launchers=$4 launcher=$5
if ! command -v debootstrap || ! [ -e /usr/share/keyrings/debian-archive-keyring.gpg ]; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get -o DPkg::Lock::Timeout=300 update
    apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends debootstrap debian-archive-keyring
fi
rm -rf --one-file-system "$folder" "$folder.partial"
debootstrap --variant=minbase --include=rabbitmq-server --force-check-gpg "$suite" "$folder.partial" "$mirror"
cd "$folder.partial"
rm -f var/cache/apt/archives/*.deb
touch etc/hosts  # to mount the machine's own on
mkdir "$launchers"
printf %s "$launcher" > "$launchers/launcher"
chmod 755 "$launchers/launcher"
for program in rabbitmq-server rabbitmqctl epmd; do
    ln -s launcher "$launchers/$program"
done
mv "$folder.partial" "$folder"
"""
IN_NAMESPACES = ["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]


def ensure_built(suite: str, folder: Path) -> str:
    """Builds `folder` from Debian's `suite` (trixie, sid) unless RabbitMQ runs in it already; returns its version. It
    downloads 80 MB and takes 400, in 40 s. Raises RabbitMQNotFound, with what to do, if that is not possible."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(folder.name + ".lock")):
        version = _find_version(folder)
        if version is None:
            _build(suite, folder)
            version = _find_version(folder)
    if version is None:
        raise RabbitMQNotFound(
            f"RabbitMQ does not run in {folder}: what it printed is above. Entering the folder takes `unshare --mount` "
            "and `chroot`, which containers may forbid."
        )
    return version


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """A block that one builder at a time is in."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _find_version(folder: Path) -> str | None:
    """The version of RabbitMQ that answers in the folder, None if there is none."""
    launcher = folder / LAUNCHERS / "launcher"
    if not launcher.exists() or launcher.read_text() != LAUNCHER:
        return None
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [folder / LAUNCHERS / "rabbitmqctl", "version"],
            env={"HOME": home, "LANG": "C.UTF-8", "PATH": os.environ["PATH"], "TMPDIR": tempfile.gettempdir()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=60,
            text=True,
        )
    return None if done.returncode else done.stdout.strip()


def _build(suite: str, folder: Path) -> None:
    by_hand = f"By hand, as root, on Debian: python -m rabbitry.testing.debian {suite} {folder}"
    prefix = become_root()
    if prefix is None:
        raise RabbitMQNotFound(f"A folder with Debian's {suite} is built by root or with passwordless sudo. {by_hand}")
    if not shutil.which("apt-get") or not shutil.which("unshare"):
        raise RabbitMQNotFound(f"A folder with Debian's {suite} is built on Debian and Ubuntu only. {by_hand}")
    mirror = _find_mirror(prefix)
    print(f"Building {folder} from {suite} of {mirror}, with debootstrap:", flush=True)
    arguments = [suite, str(folder), mirror, LAUNCHERS, LAUNCHER]
    command = [*prefix, *IN_NAMESPACES, "/bin/sh", "-c", BUILD, "sh", *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RabbitMQNotFound(f"debootstrap failed (status {done.returncode}; its output is above). {by_hand}")


def _find_mirror(prefix: list[str]) -> str:
    """The mirror of Debian that apt is set up with on this machine. Raises RabbitMQNotFound."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)"]
    command += ["Created-By: Packages", "Component: main", "Origin: Debian", "Label: Debian"]
    for attempt in range(2):
        for uri in subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines():
            if uri.startswith(("http://", "https://", "file:")):
                return uri
        if attempt == 0:  # apt knows a repository's origin from its lists only
            subprocess.run([*prefix, "/bin/sh", "-c", UPDATE], stdin=subprocess.DEVNULL)
    raise RabbitMQNotFound("Another release of Debian needs a mirror of it (http, https or file) among apt's sources.")


def main(*words: str) -> None:
    if len(words) != 2:
        sys.exit("usage: python -m rabbitry.testing.debian SUITE FOLDER, such as: trixie ./debian-trixie")
    suite, folder = words
    # so that what is being built is stopped, too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        version = ensure_built(suite, Path(folder).absolute())
    except RabbitMQNotFound as error:
        sys.exit(str(error))
    print(f"RabbitMQ {version}, where {ROOT_VARIABLE}={folder}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
