"""Docstrings as reStructuredText, for the reference.

They are written as prose for `help()`: what is code stands in backticks, a program is indented, and stars and bars are
just that. What must stay true: nothing is lost, nothing is markup by accident, and what is linked is what is meant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

__all__ = ["to_rst"]

CODE = re.compile(r"(?<!`)(`{1,2})(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
PROGRAM = ".. program::\n\n"
NAMED = re.compile(r"([a-z_]\w*): +(\S.*)")


def to_rst(text: str, link: Callable[[str], str | None], language: str = "python") -> str:
    """The docstring for Sphinx. `link` says what the words between backticks are called in full, or None; `language` is
    that of programs in it.
    """
    rst = "\n\n".join(_block(block, link) for block in _blocks(text))
    return rst.replace(PROGRAM, f".. code-block:: {language}\n\n")


def _blocks(text: str) -> Iterator[str]:
    """Paragraphs; a program, which may have empty lines, is one."""
    program: list[str] = []
    for block in re.split(r"\n[ \t]*\n", text.strip("\n")):
        if block.startswith("    "):
            program.append(block)
            continue
        if program:
            yield "\n\n".join(program)
            program.clear()
        yield block
    if program:
        yield "\n\n".join(program)


def _block(block: str, link: Callable[[str], str | None]) -> str:
    if block.startswith("    "):
        return PROGRAM + block
    lines = block.split("\n")
    if len(lines) > 1 and NAMED.match(lines[0]) and (NAMED.match(lines[1]) or lines[1].startswith(" " * 8)):
        return _list(lines, link)
    # a program may follow its introduction at once
    for number, line in enumerate(lines):
        if line.startswith("    ") and not lines[0].startswith("- "):
            return _prose("\n".join(lines[:number]), link) + "\n\n" + _block("\n".join(lines[number:]), link)
    return _prose(block, link)


def _list(lines: list[str], link: Callable[[str], str | None]) -> str:
    """What is named and told, a name a line, with further lines indented; prose may follow."""
    items: list[str] = []
    while lines and (NAMED.match(lines[0]) or (items and lines[0].startswith(" "))):
        line = lines.pop(0)
        if named := NAMED.match(line):
            items.append(f"- `{named[1]}`: {named[2]}")
        else:
            items[-1] += "\n  " + line.strip()
    rest = "\n\n" + _prose("\n".join(lines), link) if lines else ""
    return _prose("\n".join(items), lambda words: None if f"- `{words}`:" in "\n".join(items) else link(words)) + rest


def _prose(text: str, link: Callable[[str], str | None]) -> str:
    pieces: list[str] = []
    end = 0
    for code in CODE.finditer(text):
        pieces.append(_escaped(text[end : code.start()]))
        before = "\\ " if code.start() and re.match(r"[\w*\\]", text[code.start() - 1]) else ""
        after = "\\ " if re.match(r"[\w*\\]", text[code.end() : code.end() + 1]) else ""
        pieces.append(before + _code(" ".join(code[2].split()), link) + after)
        end = code.end()
    return "".join(pieces) + _escaped(text[end:])


def _code(words: str, link: Callable[[str], str | None]) -> str:
    target = link(words)
    return f"``{words}``" if target is None else f":py:obj:`{words} <{target}>`"


def _escaped(prose: str) -> str:
    return re.sub(r"([\\*|`]|(?<=\w)_(?!\w))", r"\\\1", prose)
