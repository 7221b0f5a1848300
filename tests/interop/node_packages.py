"""Node's clients, from npm into a folder of their own: `python -m tests.interop.node_packages` installs them once.

What must stay true: exactly the versions of package-lock.json; nothing is installed inside the repository.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

__all__ = ["WANTED", "NodeMissing", "install", "node_command"]

HERE = Path(__file__).parent
FILES = ("package.json", "package-lock.json")

WANTED = "RABBITRY_INTEROP_NODE"
"""The variable of the environment that has the tests run Node's clients, too."""


class NodeMissing(Exception):
    """Node's clients can't run here; the text says why."""


def node_command() -> tuple[list[str], dict[str, str]]:
    """The command that runs a program, and what to add to its environment. Raises `NodeMissing`."""
    if not os.environ.get(WANTED):
        raise NodeMissing("Node's clients run in `nox -s interop`")
    return [_found("node")], {"NODE_PATH": str(_folder() / "node_modules")}


def install() -> Path:
    """Install the clients, where that has not been done, and return the folder. Raises `NodeMissing`."""
    _found("node")
    npm = _found("npm")
    folder = _folder()
    wanted = [(HERE / name).read_bytes() for name in FILES]
    done = folder / "done"
    if done.exists() and [(folder / name).read_bytes() for name in FILES] == wanted:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    done.unlink(missing_ok=True)
    for name, content in zip(FILES, wanted, strict=True):
        (folder / name).write_bytes(content)
    subprocess.run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder, check=True, timeout=300)
    done.touch()
    return folder


def _found(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise NodeMissing(f"needs {program}: on Debian and Ubuntu, `apt-get install nodejs npm`")
    return path


def _folder() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "rabbitry" / "node-peers"


def main() -> None:
    try:
        print(f"Node's clients are in {install()}")
    except NodeMissing as missing:
        print(f"Node's clients are left out: {missing}")


if __name__ == "__main__":
    main()
