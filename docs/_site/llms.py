"""llms.txt: the pages of this documentation, each with its first words, for programs that read.

What must stay true: it is made of the pages alone, as their index lists them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["DOCS", "PATH", "text"]

DOCS = Path(__file__).parents[1]
PATH = DOCS / "llms.txt"


def text() -> str:
    """The file's text: a title, a summary, and under each caption of the index its pages."""
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    title, summary = _opening(index)
    lines = [f"# {title}", "", f"> {summary}", ""]
    for toctree in re.findall(r"^```\{toctree\}\n(.*?)^```", index, re.MULTILINE | re.DOTALL):
        caption = re.search(r"^:caption: (.+)$", toctree, re.MULTILINE)
        assert caption is not None, "each part of the index has a name"
        lines += [f"## {caption[1]}", "", *_rows(re.findall(r"^([\w/]+)$", toctree, re.MULTILINE)), ""]
    return "\n".join(lines)


def _rows(names: list[str]) -> Iterator[str]:
    for name in names:
        page = (DOCS / f"{name}.md").read_text(encoding="utf-8")
        title, words = _opening(page)
        yield f"- [{title}]({name}.md): {words}"
        if toctree := re.search(r"^```\{toctree\}\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
            folder = name.rpartition("/")[0]
            yield from _rows([f"{folder}/{each}".lstrip("/") for each in re.findall(r"^([\w/]+)$", toctree[1], re.M)])


def _opening(page: str) -> tuple[str, str]:
    """A page's title, and its first paragraph."""
    title, *blocks = page.split("\n\n")
    paragraph = next(block for block in blocks if block[0] not in "#|`<!")
    return title.removeprefix("# "), " ".join(re.sub(r"\[(.+?)\]\(.+?\)", r"\1", paragraph).split())
