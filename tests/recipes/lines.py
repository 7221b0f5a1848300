"""How many lines of code the recipes take: `python -m tests.recipes.lines` prints them.

What must stay true: a line counts if any of it is code. Blank lines, comments and docstrings do not.
"""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

RECIPES = Path(__file__).parents[2] / "docs" / "recipes"
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def code_lines(source: str) -> int:
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if ast.get_docstring(node, clean=False) is not None and first.end_lineno is not None:
                lines.difference_update(range(first.lineno, first.end_lineno + 1))
    return len(lines)


def count(*names: str) -> int:
    """Of these files of docs/recipes, together."""
    return sum(code_lines((RECIPES / name).read_text(encoding="utf-8")) for name in names)


if __name__ == "__main__":
    for path in sorted(RECIPES.rglob("*.py")):
        name = str(path.relative_to(RECIPES))
        print(f"{count(name):4}  {name}")
