"""The documentation: its programs run as written and print what their page says, its links lead somewhere, and what
its tables list is what there is.
"""

from __future__ import annotations

import inspect
import json
import logging
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import anyio
import pytest

import rabbitry
from docs._site import llms, parts
from loadtest.commands.flags import parse_settings
from loadtest.commands.program import COMMANDS
from loadtest.commands.program import main as load_tester
from loadtest.drivers import LIBRARIES
from loadtest.scenarios.catalogue import COMMAND, SCENARIOS
from rabbitry.testing.hosting import broker_in_a_thread
from tests.project.rooms import ROOMS

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {
    page.relative_to(DOCS).as_posix(): page.read_text(encoding="utf-8")
    for page in sorted(DOCS.rglob("*.md"))
    if page.relative_to(DOCS).parts[0] not in ("_site", "results", "project")  # what builds the site
}
"""Each page's text by its path."""

URL = "amqp://guest:guest@localhost"

BLOCK = re.compile(r"^```(python|py)\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
"""A program, in async or blocking Python, and what it prints, where that follows."""


class Program(NamedTuple):
    """One program of a page."""

    page: str
    number: int
    is_async: bool
    text: str
    printed: str

    def __str__(self) -> str:
        return f"{self.page}-{self.number}"


PROGRAMS = [
    Program(page, number, found[1] == "python", found[2], found[3] or "")
    for page, text in PAGES.items()
    for number, found in enumerate(BLOCK.finditer(text), 1)
    if not found[2].startswith("# ")  # a file of a test's own folder: tests/testing/test_docs.py runs those
]


@pytest.fixture(scope="module")
def embedded_url() -> Iterator[str]:
    with broker_in_a_thread("3.10") as url:
        yield url


@pytest.fixture(autouse=True)
def log_level() -> Iterator[None]:
    """Programs silence the log where what they show would fill it."""
    logger = logging.getLogger("rabbitry")
    level = logger.level
    yield
    logger.setLevel(level)


def has_its_broker(program: Program) -> bool:
    """Whether it makes an embedded broker by itself, and so has no address."""
    return bool(re.search(r"\bBroker\(", program.text))


def run(program: Program, url: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is changed is the broker's address, and the backend of `anyio.run`."""
    assert (URL in program.text) != has_its_broker(program)
    assert not program.is_async or "anyio.run(main)" in program.text
    real = anyio.run
    # (rabbitry.blocking runs its loop so, too, and says on which backend)
    monkeypatch.setattr(anyio, "run", lambda *args, **options: real(*args, **{"backend": backend, **options}))
    code = compile(program.text.replace(URL, url), f"{program.page}, program {program.number}", "exec")
    exec(code, {"__name__": "__main__"})


@pytest.mark.parametrize(
    ("program", "backend"),
    [
        pytest.param(program, backend, id=f"{program}-{backend}")
        for program in PROGRAMS
        for backend in (("asyncio", "trio") if program.is_async else ("asyncio",))
    ],
)
def test_programs_run(
    program: Program,
    backend: str,
    embedded_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(program, embedded_url, backend, monkeypatch)
    assert program.printed in ("", capsys.readouterr().out)


@pytest.mark.parametrize("program", [each for each in PROGRAMS if not has_its_broker(each)], ids=str)
def test_programs_run_on_rabbitmq(
    program: Program, amqp_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(program, amqp_url, "asyncio", monkeypatch)
    assert program.printed in ("", capsys.readouterr().out)


def anchors_of(text: str) -> set[str]:
    """What links to headings of a page are called, as GitHub and MyST make them."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, "../README.md"])
def test_links_lead_somewhere(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    prose = re.sub(r"`[^`\n]+`", "", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))
    targets = re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r'(?:src|srcset|href)="([^"]+)"', prose)
    targets += re.findall(r"^\[.+\]: (\S+)", prose, re.MULTILINE)
    for target in targets:
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (DOCS / page).parent / path if path else DOCS / page
        assert found.exists(), f"{page} links to {target}"
        if anchor:
            assert anchor in anchors_of(found.read_text(encoding="utf-8")), f"{page} links to {target}"


def test_each_page_is_in_an_index() -> None:
    """Of the whole documentation, or of a folder of it; results, which are listed by a pattern, are beside it."""
    listed = [
        (Path(page).parent / name).as_posix()
        for page, text in PAGES.items()
        for toctree in re.findall(r"^```{toctree}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        for name in re.findall(r"^([\w/]+)$", toctree, re.MULTILINE)
    ]
    assert sorted(f"{each}.md" for each in listed) == sorted(PAGES.keys() - {"index.md"})


def test_the_architecture_shows_the_rooms_in_their_order() -> None:
    page = PAGES["architecture.md"]
    shown = [
        f"{folder}.{name}".removesuffix(".py").rstrip("/").replace("/", ".")
        for folder, rows in re.findall(r"^\| `(\w+)/` \|.*\n\|[-|]+\n((?:\|.*\n)+)", page, re.MULTILINE)
        for row in rows.splitlines()
        for name in re.findall(r"`([^`]+)`", row.split("|")[1])
    ]
    assert len(shown) > 30
    assert shown == [room for room in ROOMS if room in shown]


def test_the_architecture_walks_through_files_that_exist() -> None:
    walked = re.findall(r"^([a-z_]+/[a-z_/]+\.py|_endpoint\.py)  ", PAGES["architecture.md"], re.MULTILINE)
    assert len(walked) > 20
    assert not [name for name in walked if not (DOCS.parent / "rabbitry" / name).exists()]


def test_every_error_has_its_row() -> None:
    errors = {
        name
        for name in rabbitry.__all__
        if inspect.isclass(getattr(rabbitry, name)) and issubclass(getattr(rabbitry, name), rabbitry.RabbitryError)
    }
    named = set(re.findall(r"`([A-Z]\w+)`", PAGES["guides/errors.md"]))
    assert errors - named == {"Closed", "ProtocolError"}, "bases of others, which are never raised themselves"
    assert named - errors == {"ConnectionError", "ExceptionGroup", "TimeoutError", "TypeError", "ValueError"}


async def test_the_defaults_are_as_told() -> None:
    rows = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", PAGES["defaults.md"], re.MULTILINE))
    channel, publisher = rabbitry.Connection.channel, rabbitry.Channel.publisher
    prefetch, window = rows["prefetch of `consume`, and of a channel's consumers"], rows["window of a publisher"]
    assert prefetch.startswith(f"{inspect.signature(channel).parameters['prefetch'].default} messages")
    assert window == f"{inspect.signature(publisher).parameters['window'].default:,} messages"
    assert rows["messages"] == f"persistent (`delivery_mode` {rabbitry.Message(b'').delivery_mode})"
    settings = rabbitry.connect(URL)._settings
    assert rows["heartbeat"].startswith(f"{settings.heartbeat} s")
    assert rows["one connect attempt: dial, TLS, handshake"] == f"{settings.connect_timeout:g} s"
    assert rows["the largest message accepted"] == f"{settings.max_message_size >> 20} MiB"


LOAD_TESTER = {page: text for page, text in PAGES.items() if page.startswith("load_tester")}


def test_the_load_testers_flags_and_scenarios_are_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    def flags_of(*command: str) -> set[str]:
        with pytest.raises(SystemExit):
            load_tester([*command, "--help"])
        return set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out))

    known = set().union(flags_of(), *map(flags_of, COMMANDS))
    pages = "\n".join(LOAD_TESTER.values())
    assert set(re.findall(r"--[a-z][a-z-]*", pages)) <= known
    listed = re.findall(
        r"^\| `([\w-]+)` \|", LOAD_TESTER["load_tester/scenarios.md"].partition("\n## ")[0], re.MULTILINE
    )
    assert sorted(listed) == sorted({*SCENARIOS, COMMAND})
    commands = re.findall(r"^python -m loadtest ([^#|\n]*)", pages, re.MULTILINE)
    assert len(commands) > 15
    for words in map(shlex.split, commands):
        if words[0] not in COMMANDS:
            parse_settings(words, {})


def test_each_driver_has_its_row() -> None:
    table = LOAD_TESTER["load_tester/drivers.md"].partition("## Drivers\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([\w-]+)`", row) if not name.startswith("--")]
    assert sorted(named) == sorted(LIBRARIES)


def test_each_section_of_a_result_has_its_row() -> None:
    schema = json.loads((DOCS.parent / "loadtest" / "output" / "schema.json").read_text(encoding="utf-8"))
    table = LOAD_TESTER["load_tester/result.md"].partition("## Sections\n")[2].partition("\n## ")[0]
    named = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| ([^|]*) \|", table, re.MULTILINE)))
    assert sorted(named) == sorted(schema["properties"])


@pytest.mark.parametrize("page", parts.PARTS)
def test_what_is_made_of_the_code_says_what_that_says(page: str) -> None:
    assert PAGES[page] == parts.with_parts(page), "python -m docs._site.parts writes it anew"


def test_llms_txt_tells_of_all_pages() -> None:
    text = llms.PATH.read_text(encoding="utf-8")
    assert text == llms.text(), "python -m docs._site.parts writes it anew"
    assert sorted(re.findall(r"\]\((\S+?)\)", text)) == sorted(PAGES.keys() - {"index.md"})
