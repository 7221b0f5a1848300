"""Parts of pages that are made from what they tell of, between `<!-- NAME: … -->` and `<!-- end of NAME -->`.

    python -m docs._site.parts        (writes them, and llms.txt)

What must stay true: a part says what the code says; the tests hold each page to it.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any

from docs._site import llms
from docs._site.llms import DOCS

__all__ = ["PARTS", "with_parts", "write"]


def differences() -> str:
    """The cases in which the embedded broker answers otherwise than RabbitMQ."""
    from tests.broker.conformance.differences import DIFFERENCES

    versions: dict[tuple[str, str], list[str]] = {}
    for (name, version), reason in DIFFERENCES.items():
        versions.setdefault((name, reason), []).append(version or "all")
    rows = [(f"`{name}`", ", ".join(listed), reason) for (name, reason), listed in versions.items()]
    return table(("case", "RabbitMQ", "the difference"), rows)


def versions() -> str:
    """What `compat` changes."""
    from rabbitry.broker import compat

    body = ast.parse(inspect.getsource(compat.Compat)).body[0]
    assert isinstance(body, ast.ClassDef)
    told: dict[str, str] = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(field.target, ast.Name):
            told[field.target.id] = " ".join(ast.literal_eval(text.value).split())
    rows = [
        (told[field.name], *(shown(getattr(each, field.name)) for each in compat.COMPAT.values()))
        for field in fields(compat.Compat)
    ]
    return table(("", *compat.COMPAT), rows)


def shown(value: object) -> str:
    """A value of a version, for people."""
    match value:
        case bool():
            return "yes" if value else "no"
        case None | "":
            return "–"
        case Mapping():
            return "; ".join(f"{name}: {shown(each)}" for name, each in value.items()) or "–"
        case tuple() | frozenset():
            return ", ".join(f"`{each}`" for each in sorted(value))
        case bytes():
            return f"`{value!r}`"
    return str(value).replace("<", "&lt;")


def schema() -> str:
    """Each section of a result with its keys, from its JSON Schema."""
    described = json.loads((DOCS.parent / "loadtest" / "output" / "schema.json").read_text(encoding="utf-8"))
    definitions: dict[str, Any] = described["$defs"]
    lines: list[str] = []
    for name, section in described["properties"].items():
        section = resolved(section, definitions)
        keys = section.get("properties") or resolved(section.get("items", {}), definitions).get("properties")
        if not keys:
            continue
        lines += [f"### {name}", ""]
        if name == "scenario":
            lines += ["By the names of the flags: " + ", ".join(f"`{key}`" for key in keys) + ".", ""]
            continue
        rows = [(f"`{key}`", *of_a_key(value, definitions)) for key, value in keys.items()]
        lines += [table(("key", "is", ""), rows), ""]
    return "\n".join(lines).rstrip()


def of_a_key(value: dict[str, Any], definitions: dict[str, Any]) -> tuple[str, str]:
    reference = value.get("$ref") or next((each["$ref"] for each in value.get("anyOf", ()) if "$ref" in each), "")
    value = resolved(value, definitions)
    if reference:
        kind = reference.rpartition("/")[2].replace("_", " ")
    elif choices := value.get("enum"):
        kind = " or ".join("null" if each is None else f'"{each}"' for each in choices)
    else:
        kinds = value.get("type", "anything")
        kind = " or ".join([kinds] if isinstance(kinds, str) else kinds)
    return kind, value.get("description", "")


def resolved(value: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """What a reference stands for, in place; of one that may be null, the same. Its own description wins."""
    for choice in value.get("anyOf", ()):
        if "$ref" in choice:
            return resolved({**choice, **value, "anyOf": ()}, definitions)
    if "$ref" not in value:
        return value
    return {**definitions[value["$ref"].rpartition("/")[2]], **value}


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    columns = list(head)
    lines = [columns, ["---"] * len(columns), *map(list, rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


PARTS: dict[str, dict[str, Callable[[], str]]] = {
    "embedded_broker.md": {"differences": differences, "versions": versions},
    "load_tester/result.md": {"keys": schema},
}
"""By page, what it has of them."""


def with_parts(page: str) -> str:
    """The page with its parts as they are to be."""
    text = (DOCS / page).read_text(encoding="utf-8")
    for name, part in PARTS[page].items():
        marked = re.compile(rf"(<!-- {name}: .*? -->\n\n).*?(\n<!-- end of {name} -->)", re.DOTALL)
        assert marked.search(text), f"{page} has no place for {name}"
        made = part()
        text = marked.sub(lambda found, made=made: found[1] + made + "\n" + found[2], text)
    return text


def write() -> None:
    for page in PARTS:
        (DOCS / page).write_text(with_parts(page), encoding="utf-8")
    llms.PATH.write_text(llms.text(), encoding="utf-8")


if __name__ == "__main__":
    write()
