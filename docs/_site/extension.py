"""The Sphinx extension of these pages: the directive `public`, recipes and results as pages, llms.txt beside them."""

from __future__ import annotations

import ast
import inspect
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.parsers import RSTParser
from sphinx.util.docutils import SphinxDirective

from docs._site import beside, llms, reference
from docs._site.docstrings import to_rst


def setup(app: Sphinx) -> dict[str, Any]:
    beside.bring()
    app.connect("source-read", bring_together)
    app.connect("build-finished", finish)
    app.add_directive("public", Public)
    app.add_source_suffix(".py", "recipe")
    app.add_source_parser(Recipe)
    app.connect("doctree-read", link_words)
    app.connect("autodoc-process-docstring", write_docstring)
    app.connect("autodoc-process-signature", write_signature)
    app.connect("autodoc-process-bases", write_bases)
    app.connect("build-finished", write_llms)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class Public(SphinxDirective):
    """```{public} module: the names of that module that follow, each on a line, from their docstrings."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        text: list[str] = ["```{eval-rst}"]
        for name in self.content:
            text += describe(reference.public_names()[f"{self.arguments[0]}.{name}"])
        node = nodes.container()
        self.state.nested_parse(StringList([*text, "```"], self.get_source_info()[0]), self.content_offset, node)
        return node.children


def describe(shown: reference.Shown) -> list[str]:
    """The name, as reStructuredText."""
    value = shown.value
    if inspect.isclass(value):
        kind = "exception" if issubclass(value, BaseException) else "class"
        lines = [f".. auto{kind}:: {shown.path}"]
        if public_bases(value):
            lines.append("   :show-inheritance:")
        if members := reference.members_of(shown.path):
            lines.append(f"   :members: {', '.join(members)}")
        return [*lines, ""]
    if callable(value) and not hasattr(value, "__origin__"):
        return [f".. autofunction:: {shown.path}", ""]
    described = f"``{value!r}``".replace("typing.", "")
    return [f".. py:data:: {shown.path}", "", f"   {described}", ""]


def public_bases(kind: type) -> list[type]:
    known = {each.value for each in reference.public_names().values() if inspect.isclass(each.value)}
    return [base for base in kind.__bases__ if base in known or (base.__module__ == "builtins" and base is not object)]


def write_bases(app: Sphinx, name: str, obj: type, options: Any, bases: list[Any]) -> None:
    bases[:] = public_bases(obj)


def write_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    function = obj.fget if isinstance(obj, property) else obj
    try:
        parameters = frozenset(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        parameters = frozenset()
    text = to_rst("\n".join(lines), lambda words: reference.target_of(words, name, parameters))
    lines[:] = [*text.split("\n"), ""]


def write_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None] | None:
    """Without what is private, or an object's address; a context manager is called that."""
    shown = reference.public_names().get(name)
    if shown is not None and inspect.isclass(shown.value) and not shown.is_constructed:
        return None if signature is None else ("", None)
    if signature:
        signature = signature.replace(" = <factory>", " = {}")
        signature = re.sub(r": ~?typing\.Unpack\[.*?\](?=[,)])", "", signature)  # those of another, as the text says
        signature = re.sub(r", _\w+(: [^,()]*)?( ?= ?[^,()]*)?(?=[,)])", "", signature)
        signature = re.sub(r"<function (\w+)>|<function (\w+) at 0x\w+>", lambda found: found[1] or found[2], signature)
        signature = re.sub(r"<[\w. ]+ object( at 0x\w+)?>", "...", signature)
    function = inspect.unwrap(obj) if callable(obj) else obj
    if returns:
        returns = returns.replace("rabbitry._channel.delivery.ProcessDelivery", "contextlib.AbstractContextManager")
    if returns and function is not obj:
        for is_kind, before, after in (
            (inspect.isasyncgenfunction, "AsyncIterator", "AbstractAsyncContextManager"),
            (inspect.isgeneratorfunction, "Iterator", "AbstractContextManager"),
        ):
            if is_kind(function):
                returns = re.sub(rf"~?(collections\.abc|typing)\.{before}\[", f"~contextlib.{after}[", returns)
    return signature, returns


def link_words(app: Sphinx, doctree: nodes.document) -> None:
    """What a page has as code, and is the name of something, leads to it."""
    page = app.env.current_document.docname
    scope = reference.scope_of(page)
    if scope is None:
        return
    for literal in list(doctree.findall(nodes.literal)):
        if any(isinstance(each, NOT_LINKED) for each in ancestors(literal)):
            continue
        target = reference.target_of(literal.astext(), scope, frozenset())
        if target is not None:
            options = {"refdomain": "py", "reftype": "obj", "reftarget": target, "refexplicit": True, "refwarn": True}
            link = addnodes.pending_xref("", refdoc=page, **options)
            literal.replace_self(link)
            link += literal


NOT_LINKED = (nodes.title, nodes.reference, addnodes.pending_xref, addnodes.desc)


def ancestors(node: nodes.Node) -> Iterator[nodes.Node]:
    while node.parent is not None:
        node = node.parent
        yield node


def bring_together(app: Sphinx, page: str, source: list[str]) -> None:
    """`../results/` of a page is `results/` there; and the index has the project's pages."""
    if page == "index":
        source[0] += beside.toctree()
    source[0] = re.sub(r"(\]\((?:\.\./)*)\.\./results/", r"\1results/", source[0])


def finish(app: Sphinx, error: Exception | None) -> None:
    """Pictures that pages name in HTML of their own stand beside them."""
    if error is None and app.builder.format == "html":
        for picture in beside.RESULTS.glob("*.svg"):
            shutil.copy(picture, Path(app.outdir, "results"))
    beside.remove()


class Recipe(RSTParser):
    """A program is a page: its name, what it says of itself, and the rest of it."""

    supported = ("recipe",)

    def parse(self, inputstring: str | StringList, document: nodes.document) -> None:
        path = Path(document["source"])
        source = path.read_text(encoding="utf-8")
        about = ast.parse(source).body[0]
        code = "\n".join(source.split("\n")[about.end_lineno :]).strip("\n")
        lines = [":orphan:", ""] if path.parent.name == "others" else []  # those are found beside their recipe
        lines += [path.name, "=" * len(path.name), ""]
        lines += [to_rst(ast.get_docstring(ast.parse(source)) or "", lambda _: None, "sh"), ""]
        lines += [".. code-block:: python", "", *(f"    {line}" for line in code.split("\n")), ""]
        super().parse("\n".join(lines), document)


def write_llms(app: Sphinx, error: Exception | None) -> None:
    """For the built site, where the pages' sources are text files."""
    if error is None and app.builder.format == "html":
        text = re.sub(r"\]\(([\w/]+)\.md\)", r"](_sources/\1.md.txt)", llms.text())
        Path(app.outdir, "llms.txt").write_text(text, encoding="utf-8")
