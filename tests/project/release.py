"""What a wheel and an sdist must have in them, and nothing else: `python -m tests.project.release dist` looks.

It needs the standard library alone, and lists the wheel, so that a person can look, too.
"""

from __future__ import annotations

import sys
import tarfile
import tomllib
import zipfile
from configparser import ConfigParser
from email import message_from_string
from email.message import Message
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = ("rabbitry", "loadtest")
DATA = {"rabbitry/py.typed", *(f"loadtest/output/{name}" for name in ("schema.json", "page.js", "page.css"))}
OF_TESTS = {"tests", "test", "conftest.py"}
OF_A_CLONE = {
    ".github/CONTRIBUTING.md",
    ".github/SECURITY.md",
    "CHANGELOG.md",
    "LICENSE",
    "PKG-INFO",
    "README.md",
    "noxfile.py",
    "pyproject.toml",
}


def is_of_tests(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(OF_TESTS.intersection(path.parts)) or path.name.startswith("test_")


def look_into_wheel(wheel: Path) -> list[str]:
    """What is wrong with it."""
    with zipfile.ZipFile(wheel) as file:
        contents = {name: file.read(name) for name in file.namelist()}
    folder = f"{PROJECT['name']}-{PROJECT['version']}.dist-info/"
    own = {name for name in contents if not name.startswith(folder)}
    wrong = [f"{name}: of tests" for name in sorted(contents) if is_of_tests(name)]
    wrong += [f"{name}: in no package" for name in sorted(own) if not name.startswith(tuple(f"{p}/" for p in PACKAGES))]
    wrong += [f"{name}: no code, and no data that it should have" for name in sorted(own - DATA) if name[-3:] != ".py"]
    wrong += [f"{name}: missing" for name in sorted(DATA - own)]
    if contents.get(f"{folder}licenses/LICENSE") != (ROOT / "LICENSE").read_bytes():
        wrong.append(f"{folder}licenses/LICENSE: is not the project's LICENSE")
    for name in ("METADATA", "entry_points.txt"):
        if folder + name not in contents:
            return [*wrong, f"{folder}{name}: missing"]
    points = ConfigParser(delimiters=("=",))
    points.read_string(contents[f"{folder}entry_points.txt"].decode())
    for group, expected in {"console_scripts": PROJECT["scripts"], **PROJECT["entry-points"]}.items():
        found = dict(points[group]) if points.has_section(group) else {}
        if found != expected:
            wrong.append(f"entry_points.txt: {group} are {found}, not {expected}")
    return wrong + look_into_metadata(message_from_string(contents[f"{folder}METADATA"].decode()))


def look_into_metadata(metadata: Message) -> list[str]:
    expected = {
        "Name": PROJECT["name"],
        "Version": PROJECT["version"],
        "Summary": PROJECT["description"],
        "License-Expression": "MIT",
        "License-File": "LICENSE",
        "Requires-Python": PROJECT["requires-python"],
        "Description-Content-Type": "text/markdown",
    }
    wrong = [f"METADATA: {name} is {metadata[name]!r}" for name, value in expected.items() if metadata[name] != value]
    classifiers = metadata.get_all("Classifier", [])
    if sorted(classifiers) != sorted(PROJECT["classifiers"]):
        wrong.append(f"METADATA: classifiers are {classifiers}")
    return wrong


def look_into_sdist(sdist: Path) -> list[str]:
    """What is wrong with it."""
    with tarfile.open(sdist) as file:
        names = [member.name for member in file.getmembers()]
    folder = f"{PROJECT['name']}-{PROJECT['version']}/"
    wrong = [f"{name}: outside of {folder}" for name in names if not name.startswith(folder)]
    return wrong + [f"{name}: missing" for name in sorted(OF_A_CLONE) if folder + name not in names]


def main(folder: str) -> int:
    wheels, sdists = sorted(Path(folder).glob("*.whl")), sorted(Path(folder).glob("*.tar.gz"))
    if (len(wheels), len(sdists)) != (1, 1):
        print(f"{folder} has {len(wheels)} wheels and {len(sdists)} sdists, not one of each")
        return 1
    with zipfile.ZipFile(wheels[0]) as file:
        sizes = {item.filename: item.file_size for item in file.infolist()}
    for name in sorted(sizes):
        print(f"{sizes[name]:9,}  {name}")
    print(f"{sum(sizes.values()):9,}  bytes in {len(sizes)} files of {wheels[0].name}")
    wrong = look_into_wheel(wheels[0]) + look_into_sdist(sdists[0])
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
