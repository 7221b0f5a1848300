"""What is built: the wheel has the packages and nothing else, the sdist all that its own tests need."""

from __future__ import annotations

import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.project.rooms import ROOT

pytest.importorskip("hatchling", reason="it builds the packages, and comes with the dependency group 'test'")

from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

PACKAGES = ("rabbitry", "loadtest")


def source_files(folder: str) -> set[str]:
    files = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(ROOT)) for path in files}


def test_the_wheel_has_the_packages_and_nothing_else(tmp_path: Path) -> None:
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
    assert names == set().union(*map(source_files, PACKAGES))
    data = {name for name in names if not name.endswith(".py")}
    told = ("schema.json", "page.js", "page.css")
    assert data == {"rabbitry/py.typed", *(f"loadtest/output/{name}" for name in told)}
    assert not [name for name in names if Path(name).name.startswith(("test_", "conftest"))]


def test_the_sdist_has_whatever_a_clone_has(tmp_path: Path) -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no clone, but may be the sdist itself")
    (sdist,) = SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with tarfile.open(sdist) as file:
        names = {member.name.partition("/")[2] for member in file.getmembers() if member.isfile()}
    assert names == {*filter(lambda name: (ROOT / name).exists(), listed.stdout.splitlines()), "PKG-INFO"}
