"""What stands beside the documentation, and is a part of the site: results, and the changelog.

What must stay true: a build copies it into the documentation's folder for its own time, and git ignores it there; a
link in it leads where it led, or is none.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

__all__ = ["PROJECT", "RESULTS", "bring", "moved", "remove", "toctree"]

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent

RESULTS = DOCS / "results"
PROJECT = DOCS / "project"
PAGES = {"changelog.md": ROOT / "CHANGELOG.md"}
"""Pages of the folder `project`, and where they come from, if they are there."""


def bring() -> None:
    """Copy all of it."""
    remove()
    shutil.copytree(ROOT / "results", RESULTS, ignore=shutil.ignore_patterns("*.json"))
    PROJECT.mkdir()
    for name, origin in PAGES.items():
        if origin.exists():
            (PROJECT / name).write_text(moved(origin.read_text(encoding="utf-8"), origin), encoding="utf-8")


def remove() -> None:
    for folder in (RESULTS, PROJECT):
        shutil.rmtree(folder, ignore_errors=True)


def toctree() -> str:
    """For the end of the index: the pages of the project that there are."""
    names = sorted(f"project/{path.stem}" for path in PROJECT.glob("*.md"))
    return "\n".join(["", "```{toctree}", ":hidden:", ":caption: Project", "", *names, "```", ""]) if names else ""


def moved(text: str, origin: Path) -> str:
    """The page for the folder `project`: links to other pages of the site stay links."""

    def link(found: re.Match[str]) -> str:
        words, target = found.groups()
        if "://" in target or target.startswith(("#", "mailto:")):
            return found[0]
        path, mark, anchor = target.partition("#")
        path = os.path.normpath(origin.parent / path)
        for page, source in PAGES.items():
            if path == str(source):
                return f"[{words}]({page}{mark}{anchor})"
        inside = os.path.relpath(path, DOCS if path.startswith(f"{DOCS}{os.sep}") else ROOT)
        if path.endswith(".md") and path.startswith((f"{DOCS}{os.sep}", f"{ROOT / 'results'}{os.sep}")):
            return f"[{words}](../{inside}{mark}{anchor})"
        return words

    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)", link, text)
