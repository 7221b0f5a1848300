"""The reference: every public name is in it once, with its members; docstrings become what they say; the inventories
have what is referred to of other projects, all of which is there; and the site can be built.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from docs._site import beside, reference
from docs._site.docstrings import CODE, to_rst

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {page.relative_to(DOCS).as_posix(): page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md")}
"""Each page by its path."""


# --- names ------------------------------------------------------------------------------------------------------------


def test_every_public_name_is_in_the_reference_once() -> None:
    shown = Counter(path for _, path in reference.names_in_pages())
    assert shown == Counter(reference.public_names().keys())


def test_the_doors_are_those_of_the_architecture() -> None:
    """But for the provisional sans-IO one, which the reference names."""
    rooms = import_module("tests.project.rooms")
    assert set(reference.MODULES) == {door for door in rooms.DOORS if not door.startswith("rabbitry.protocol")}
    assert "rabbitry.protocol" in (DOCS / "reference" / "index.md").read_text(encoding="utf-8")


def documented() -> Iterator[tuple[str, Any]]:
    """What is shown, with its members: its path, and what has the docstring."""
    for path, shown in reference.public_names().items():
        if inspect.isclass(shown.value):
            yield path, shown.value
            for name in reference.members_of(path):
                member = inspect.getattr_static(shown.value, name)
                yield f"{path}.{name}", getattr(member, "fget", None) or getattr(shown.value, name)
        elif inspect.isroutine(shown.value):
            yield path, shown.value


def test_what_is_shown_says_what_it_is() -> None:
    assert [path for path, value in documented() if not inspect.getdoc(value)] == []
    assert len(list(documented())) > 400


def test_what_is_left_out_is_there_and_says_why_not() -> None:
    names = {
        f"{base.__name__}.{name}"
        for each in reference.public_names().values()
        if inspect.isclass(each.value)
        for base in each.value.__mro__
        for name in vars(base)
    } | {f"{each.name}.{name}" for each in reference.public_names().values() for name in dir(each.value)}
    assert names >= reference.PLUMBING
    assert reference.public_names().keys() >= reference.CONSTRUCTED


def test_members_of_bases_that_are_not_shown_are_shown() -> None:
    assert "declare_queue" in reference.members_of("rabbitry.Channel")
    assert "nack_publishes" in reference.members_of("rabbitry.broker.Broker")
    assert "flush" not in reference.members_of("rabbitry.ClientPublisher"), "Publisher has it"
    assert "declared_as" not in reference.members_of("rabbitry.Queue")


# --- what words refer to ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "path", "target"),
    [
        ("publish", "rabbitry.Client.publisher", "rabbitry.Client.publish"),
        ("Channel.publish", "rabbitry.Client.publish", "rabbitry.Channel.publish"),
        ("client.stop_consuming()", "rabbitry.Stop", "rabbitry.Client.stop_consuming"),
        ("Publisher", "rabbitry.blocking.Client", "rabbitry.blocking.Publisher"),
        ("rabbitry.convert", "rabbitry.blocking.Client.process", "rabbitry.convert"),
        ("Message", "rabbitry.blocking.Client.publish", "rabbitry.Message"),
        ("ValueError", "rabbitry.Queue", "ValueError"),
        ("anyio.fail_after", "rabbitry.Client.publish", "anyio.fail_after"),
        ("publish", "rabbitry.Client.publish", None),  # itself
        ("window", "rabbitry.Client.publisher", None),  # a parameter
        ("x-death", "rabbitry.Delivery.deaths", None),
        ("client.publish(b'x')", "rabbitry.Client", None),
        ("nobody", "rabbitry.Client", None),
    ],
)
def test_what_words_refer_to(words: str, path: str, target: str | None) -> None:
    assert reference.target_of(words, path, frozenset({"window"})) == target


def test_words_of_pages_about_other_libraries_are_not_linked() -> None:
    assert reference.scope_of("coming_from/pika") is None
    assert reference.scope_of("guides/consuming") == "rabbitry"
    assert reference.scope_of("guides/blocking") == "rabbitry.blocking"
    assert reference.scope_of("results/faults") is None


# --- docstrings -------------------------------------------------------------------------------------------------------


def known(words: str) -> str | None:
    return {"publish": "rabbitry.Client.publish"}.get(words)


@pytest.mark.parametrize(
    ("text", "rst"),
    [
        ("Uses `publish` or `wait`.", "Uses :py:obj:`publish <rabbitry.Client.publish>` or ``wait``."),
        ("`a(b,\n c)` and ``d``", "``a(b, c)`` and ``d``"),
        ("2 * x | *args, name_ and a_name", "2 \\* x \\| \\*args, name\\_ and a_name"),
        ("`Queue`s here", "``Queue``\\ s here"),
        (
            "So:\n\n    with x:\n\n        y()\n\nDone.",
            "So:\n\n.. code-block:: python\n\n    with x:\n\n        y()\n\nDone.",
        ),
        ("- one `x`\n- two,\n  more", "- one ``x``\n- two,\n  more"),
        (
            "seed: the `publish`\neach: a\n          second line\nAnd more.",
            "- ``seed``: the :py:obj:`publish <rabbitry.Client.publish>`\n- ``each``: a\n  second line\n\nAnd more.",
        ),
    ],
)
def test_docstrings_become_what_they_say(text: str, rst: str) -> None:
    assert to_rst(text, known) == rst


def test_programs_of_another_language() -> None:
    assert to_rst("So:\n\n    ls", known, "sh") == "So:\n\n.. code-block:: sh\n\n    ls"


def test_nothing_of_a_docstring_is_lost() -> None:
    def words(text: str) -> list[str]:
        return re.findall(r"\w+", text)

    for path, value in documented():
        text = inspect.getdoc(value) or ""
        made = to_rst(text, lambda _: None).replace(".. code-block:: python", "")
        assert words(made) == words(text), path


# --- other projects ---------------------------------------------------------------------------------------------------


def named_in_docstrings() -> set[str]:
    """What is between backticks, as a whole, and not one of ours."""
    found = {words for _, value in documented() for _, words in CODE.findall(inspect.getdoc(value) or "")}
    return {words.removesuffix("()") for words in found if re.fullmatch(r"[A-Za-z_][\w.]*(\(\))?", words)}


def named_in_pages() -> set[str]:
    """The same, of the pages whose words are linked."""
    pages = [text for page, text in PAGES.items() if reference.scope_of(page.removesuffix(".md"))]
    return {words for text in pages for _, words in CODE.findall(text) if re.fullmatch(r"[A-Za-z_][\w.]*", words)}


def named_in_annotations() -> set[str]:
    found: set[str] = set()

    def look(annotation: Any) -> None:
        for each in get_args(annotation):
            look(each)
        if isinstance(annotation, list):
            for each in annotation:
                look(each)
        kind = get_origin(annotation) or annotation
        if inspect.isclass(kind) and kind.__module__ not in ("builtins", "types", "typing"):
            found.add(f"{kind.__module__}.{kind.__qualname__}".replace("anyio._core._tasks.", "anyio."))

    for _, value in documented():
        try:
            hints = get_type_hints(value.__init__ if inspect.isclass(value) else value)
        except (NameError, AttributeError, TypeError):  # of names that only type checkers import: the build tells
            continue
        for annotation in hints.values():
            look(annotation)
    return found


def test_the_inventories_have_the_errors_and_functions_that_docstrings_name() -> None:
    listed = {name for names in reference.inventories().values() for name in names}
    for words in named_in_docstrings() | named_in_pages():
        value = getattr(builtins, words, None)
        if (inspect.isclass(value) and issubclass(value, BaseException)) or words.startswith(
            ("anyio.", "trio.", "asyncio.")
        ):
            assert words in listed, f"{words}: add it to docs/_site/inventories"


def test_the_inventories_have_nothing_else() -> None:
    named = (
        named_in_docstrings() | named_in_pages() | named_in_annotations() | {f"contextlib.{name}" for name in CONTEXTS}
    )
    listed = {name for names in reference.inventories().values() for name in names}
    assert listed - {re.sub(r"^anyio\.(_.*|abc\._\w+)\.", "anyio.abc.", name) for name in named} - named == set()


CONTEXTS = {"contextlib.AbstractAsyncContextManager", "contextlib.AbstractContextManager"}
"""What decorated functions are said to return."""


@pytest.mark.parametrize("project", ["anyio", "python", "trio"])
def test_what_the_inventories_list_is_there(project: str) -> None:
    text = (DOCS / "_site" / "inventories" / f"{project}.txt").read_text(encoding="utf-8")
    head, *rows = text.splitlines()
    assert head == "# Sphinx inventory version 1"
    rows = [row for row in rows if not row.startswith("#")]
    assert rows == sorted(rows)
    for row in rows:
        name, kind, page = row.split()
        module, _, attribute = (f"builtins.{name}" if "." not in name else name).rpartition(".")
        value = getattr(import_module(module), attribute)
        is_error = inspect.isclass(value) and issubclass(value, BaseException)
        assert kind == ("exception" if is_error else "class" if inspect.isclass(value) else "function")
        assert page.endswith(".html")


# --- what stands beside it --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("link", "there"),
    [
        ("[a](docs/guides/rpc.md#types)", "[a](../guides/rpc.md#types)"),
        ("[a](results/faults.md)", "[a](../results/faults.md)"),
        ("[a](CHANGELOG.md#020)", "[a](changelog.md#020)"),
        ("[a](docs/contributing.md)", "[a](../contributing.md)"),
        ("[a](README.md) and `b`", "a and `b`"),
        ("[a](https://example.org/docs/x.md)", "[a](https://example.org/docs/x.md)"),
        ("[a](#below)", "[a](#below)"),
    ],
)
def test_links_of_pages_that_stand_beside_lead_where_they_led(link: str, there: str) -> None:
    assert beside.moved(link, ROOT / "CHANGELOG.md") == there


# --- the build --------------------------------------------------------------------------------------------------------


def test_the_site_can_be_built() -> None:
    """`nox -s docs` does it, with warnings as errors, and what its configuration names is there."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extra = " ".join(pyproject["project"]["optional-dependencies"]["docs"])
    session = (ROOT / "noxfile.py").read_text(encoding="utf-8").partition("\ndef docs(")[2].partition("\n@nox")[0]
    assert '"docs"' in session or "docs" in session.partition('install(session, "')[2].partition('"')[0]
    assert '"-W"' in session
    configured: dict[str, Any] = {}
    for node in ast.parse((DOCS / "conf.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                configured[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue
    assert configured["nitpicky"] is True
    assert {"sphinx", "myst-parser", "furo", "sphinx-copybutton"} <= set(re.findall(r"[\w-]+", extra))
    for _, inventory in configured["intersphinx_mapping"].values():
        assert (DOCS / inventory).is_file()
    for folder in configured["html_static_path"]:
        assert all((DOCS / folder / name).is_file() for name in configured["html_css_files"])
