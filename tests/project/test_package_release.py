"""What is released: wheel and sdist are looked into by what `nox -s release_check` looks with, the changelog knows the
version, and pages for contributors name what there is."""

from __future__ import annotations

import ast
import re
import shutil
import zipfile
from pathlib import Path

import pytest

from tests.project import release, smoke
from tests.project.rooms import ROOT

pytest.importorskip("hatchling", reason="it builds the packages, and comes with the dependency group 'test'")

from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
PAGES = {name: ROOT / name for name in ("CHANGELOG.md", ".github/CONTRIBUTING.md", ".github/SECURITY.md")}
KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
VERSION = release.PROJECT["version"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    for builder in (WheelBuilder(str(ROOT)), SdistBuilder(str(ROOT))):
        assert len(list(builder.build(directory=str(folder), versions=["standard"]))) == 1
    return folder


def test_what_is_built_is_as_it_should_be(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert release.main(str(built)) == 0
    listed = capsys.readouterr().out
    assert "  rabbitry/py.typed\n" in listed and f"rabbitry-{VERSION}.dist-info/licenses/LICENSE\n" in listed


METADATA = f"rabbitry-{VERSION}.dist-info/METADATA"


@pytest.mark.parametrize(
    ("name", "contents", "told"),
    [
        ("tests/client/test_client.py", b"", "tests/client/test_client.py: of tests"),
        ("rabbitry/test_it.py", b"", "rabbitry/test_it.py: of tests"),
        ("rabbitry/notes.txt", b"", "rabbitry/notes.txt: no code"),
        ("other/it.py", b"", "other/it.py: in no package"),
        ("rabbitry/py.typed", None, "rabbitry/py.typed: missing"),
        (f"rabbitry-{VERSION}.dist-info/licenses/LICENSE", b"mine", "is not the project's LICENSE"),
        (f"rabbitry-{VERSION}.dist-info/entry_points.txt", None, "entry_points.txt: missing"),
        (f"rabbitry-{VERSION}.dist-info/entry_points.txt", b"", "console_scripts are {}, not"),
        (METADATA, b"Name: rabbitry\nVersion: 0.0.1\n", "Version is '0.0.1'"),
    ],
)
def test_what_is_wrong_with_a_wheel_is_told(
    built: Path, tmp_path: Path, name: str, contents: bytes | None, told: str
) -> None:
    """Each fault in a copy of the wheel: a file that has these contents, or is missing."""
    (wheel,) = built.glob("*.whl")
    spoilt = tmp_path / wheel.name
    with zipfile.ZipFile(wheel) as former, zipfile.ZipFile(spoilt, "w") as file:
        for each in former.namelist():
            if each != name:
                file.writestr(each, former.read(each))
        if contents is not None:
            file.writestr(name, contents)
    shutil.copy(next(built.glob("*.tar.gz")), tmp_path)
    wrong = release.look_into_wheel(spoilt)
    assert any(told in each for each in wrong), wrong
    assert release.main(str(tmp_path)) == 1


def test_a_folder_with_other_than_one_of_each_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert release.main(str(tmp_path)) == 1
    assert "0 wheels and 0 sdists" in capsys.readouterr().out


async def test_the_program_that_uses_the_wheel_runs_here_too() -> None:
    """But for what it says of where it is installed."""
    await smoke.use_memory()
    await smoke.use_a_client()


# --- the changelog ----------------------------------------------------------------------------------------------------


def test_the_changelog_knows_the_version() -> None:
    headings = re.findall(r"^## \[(.+)\](?: - (\d{4}-\d\d-\d\d))?$", CHANGELOG, re.M)
    assert len(headings) == len(re.findall(r"^## ", CHANGELOG, re.M))
    assert headings[0] == ("Unreleased", "")
    assert headings[1][0] == VERSION and all(date for _, date in headings[1:])
    assert set(re.findall(r"^### (.+)$", CHANGELOG, re.M)) <= KINDS


def test_the_versions_of_python_are_those_that_are_looked_for() -> None:
    """A classifier is for what was run: none for one that `requires-python` excludes, nor for other systems."""
    classifiers = release.PROJECT["classifiers"]
    pythons = [each.rpartition(".")[2] for each in classifiers if re.fullmatch(r".*Python :: 3\.\d+", each)]
    assert min(map(int, pythons)) == int(release.PROJECT["requires-python"].rpartition(".")[2])
    assert [each for each in classifiers if each.startswith("Operating System")] == [
        "Operating System :: POSIX :: Linux"
    ]


# --- pages for contributors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_files(name: str) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", PAGES[name].read_text(encoding="utf-8"))
    assert not [link for link in links if "://" not in link and not (PAGES[name].parent / link).exists()]


def test_contributors_are_told_of_sessions_that_exist() -> None:
    sessions = {
        node.name
        for node in ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and any("session" in ast.dump(mark) for mark in node.decorator_list)
    }
    text = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    named = {word for words in re.findall(r"nox -s ([a-z0-9_ ]+)", text) for word in words.split()}
    assert len(named) >= 6 and named <= sessions
