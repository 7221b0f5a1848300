"""Where RabbitMQ's own scripts and Erlang's port mapper are on this machine, and what to say when they are not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

# Debian's /usr/sbin/rabbitmq-server changes user through su, which resets the descriptor limit to 1,024; the scripts
# below are the ones it would run. A generic Unix archive has them in its sbin, wherever PATH finds that.
SCRIPT_DIRECTORIES = ("/usr/lib/rabbitmq/bin", "/opt/homebrew/opt/rabbitmq/sbin", "/usr/local/opt/rabbitmq/sbin")

INSTALL_HINT = (
    "RabbitMQ is not installed. Install it (Debian and Ubuntu, as root: apt-get update && apt-get install -y "
    "rabbitmq-server), or name a running broker (load tester: --url amqp://user:password@host; tests: RABBITMQ_URL)."
)

# Names a folder that debian.py built: private nodes then run the RabbitMQ in there, through the launchers in there.
ROOT_VARIABLE = "RABBITRY_RABBITMQ_ROOT"
LAUNCHERS = "launchers"


class NodeError(RuntimeError):
    """A private node could not be started, or ended by itself; the message carries the tail of its log."""


class RabbitMQNotFound(NodeError):
    """No RabbitMQ on this machine; the message says exactly what to install."""


def find_scripts() -> Path:
    """The directory holding the real `rabbitmq-server` and `rabbitmqctl`. Raises RabbitMQNotFound."""
    if root := os.environ.get(ROOT_VARIABLE):
        return _find_launchers(root)
    candidates = [Path(name) for name in SCRIPT_DIRECTORIES]
    if on_path := shutil.which("rabbitmq-server"):
        candidates.append(Path(on_path).resolve().parent)
    for directory in candidates:
        # rabbitmq-env beside it tells RabbitMQ's own script from a distribution's wrapper.
        if (directory / "rabbitmq-server").exists() and (directory / "rabbitmq-env").exists():
            return directory
    raise RabbitMQNotFound(INSTALL_HINT)


def find_epmd() -> str:
    """Erlang's port mapper: on PATH, or beside the Erlang runtime. Raises RabbitMQNotFound."""
    if root := os.environ.get(ROOT_VARIABLE):
        return str(_find_launchers(root) / "epmd")
    for name in (shutil.which("epmd"), *map(str, Path("/usr/lib/erlang").glob("erts-*/bin/epmd"))):
        if name:
            return name
    raise RabbitMQNotFound("Erlang's epmd was found neither on PATH nor under /usr/lib/erlang. " + INSTALL_HINT)


def _find_launchers(root: str) -> Path:
    launchers = Path(root).absolute() / LAUNCHERS
    if (launchers / "rabbitmq-server").exists():
        return launchers
    raise RabbitMQNotFound(
        f"{ROOT_VARIABLE} names {root}, which holds no RabbitMQ for private nodes: build it there with "
        f"python -m rabbitry.testing.debian trixie {root}"
    )
