"""RabbitMQ of another Debian release, in a folder: built once, run where it is named; and what goes wrong."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from rabbitry.testing import PrivateNode, RabbitMQNotFound
from rabbitry.testing.rabbitmq import debian, install
from rabbitry.testing.rabbitmq.installation import ROOT_VARIABLE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="namespaces, chroot")

# It only tells apart whether it is asked to build or to run RabbitMQ, and builds in the namespaces that there are.
UNSHARE = """#!/bin/sh
case "$*" in
*--pid*) while [ "$1" != /bin/sh ]; do shift; done; exec "$@" ;;
*) echo 9.9.9 ;;
esac
"""
DEBOOTSTRAP = """#!/bin/sh
echo "$4 $6" >> "$(dirname "$0")/built"
mkdir -p "$5/etc" "$5/var/cache/apt/archives"
"""
APT_GET = """#!/bin/sh
case "$*" in
*indextargets*) cat "$(dirname "$0")/mirrors" ;;
*update*) echo updated ;;
esac
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tools that fetch nothing come first on the PATH; root is not needed for what they do."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name, text in (("unshare", UNSHARE), ("debootstrap", DEBOOTSTRAP), ("apt-get", APT_GET)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "mirrors").write_text("cdrom://disc/\nhttp://mirror.example/debian/\n")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return folder


# --- building ---------------------------------------------------------------------------------------------------------


def test_is_built_once_and_again_where_it_is_broken(tools: Path, tmp_path: Path) -> None:
    root = tmp_path / "cache" / "root"
    assert debian.ensure_built("trixie", root) == "9.9.9"
    assert debian.ensure_built("trixie", root) == "9.9.9"
    assert (tools / "built").read_text() == "trixie http://mirror.example/debian/\n"
    (root / "launchers" / "launcher").write_text("#!/bin/sh\nexit 1\n")
    assert debian.ensure_built("sid", root) == "9.9.9"
    (tools / "unshare").write_text(UNSHARE.replace("echo 9.9.9", "exit 1"))
    with pytest.raises(RabbitMQNotFound, match="does not run in"):
        debian.ensure_built("sid", root)
    assert len((tools / "built").read_text().splitlines()) == 3


def test_a_build_that_fails_leaves_no_folder_of_that_name(tools: Path, tmp_path: Path) -> None:
    (tools / "debootstrap").write_text(DEBOOTSTRAP + "exit 7\n")
    with pytest.raises(RabbitMQNotFound, match=r"debootstrap failed \(status 7.*By hand"):
        debian.ensure_built("trixie", tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_no_mirror(tools: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tools / "mirrors").write_text("")
    with pytest.raises(RabbitMQNotFound, match="needs a mirror"):
        debian.ensure_built("trixie", tmp_path / "root")
    assert capfd.readouterr().out == "updated\n"


def test_neither_root_nor_sudo(tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(RabbitMQNotFound, match="root or with passwordless sudo"):
        debian.ensure_built("trixie", tmp_path / "root")


# --- running ----------------------------------------------------------------------------------------------------------


def test_a_root_without_rabbitmq(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    command = r"python -m rabbitry\.testing\.debian"
    with pytest.raises(RabbitMQNotFound, match=f"RABBITRY_RABBITMQ_ROOT names .* {command}"):
        PrivateNode().start()
    with pytest.raises(RabbitMQNotFound, match="RABBITRY_RABBITMQ_ROOT names"):
        install.ensure_installed()


@pytest.mark.skipif(not os.environ.get(ROOT_VARIABLE), reason=f"{ROOT_VARIABLE} is not set")
def test_the_node_runs_in_the_root(node: PrivateNode) -> None:
    root = Path(os.environ[ROOT_VARIABLE]).resolve()
    assert Path(os.readlink(f"/proc/{node.pid}/root")) == root
    assert not [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(root) in line]


@pytest.mark.parametrize("words", [(), ("trixie",), ("trixie", "there", "and there")])
def test_other_words_get_its_usage(words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit, match=r"^usage: .* SUITE FOLDER"):
        debian.main(*words)
