"""The index of results, `results/README.md`: what happens when thousands of clients send at once, and how to see it.

Made of the files that are there; each section only where it has one.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence

from rich.text import Text

from loadtest.output.answer import describe_answer
from loadtest.output.markdown import escape
from loadtest.output.naming import said
from loadtest.output.told import headline_of, outcome_of
from tests.measuring.bench.comparison.page import ALTERNATIVES, findings, picture_path, show_picture
from tests.measuring.bench.comparison.pictures import pictures
from tests.measuring.pages.folder import File, Folder, Page
from tests.measuring.pages.rebuild import STRATEGIES_ALTERNATIVE, strategies_picture_path

NOTE = "<!-- written by `nox -s report`, from the files beside it -->"
_PROGRAMS = ("faults", "soak", "reconnect", "retries")


def render_index(folder: Folder) -> str:
    """The whole index."""
    blocks = [
        "# What happens when thousands of clients send at once?",
        NOTE,
        *_answer(folder.answers),
        *_strategies(folder.strategies),
        *_comparisons(folder.comparisons),
        *_faults(folder),
        *_others(folder),
    ]
    if len(blocks) > 2:
        blocks.append(
            "Each page says what made it: versions, machine, settings and commit, a load test also its seed. Unless "
            "one says otherwise, client and broker shared one machine, so ratios and costs a message mean more than "
            "rates. `nox -s report` makes the pages, the pictures and this index anew from the JSON files."
        )
    return "\n\n".join(blocks) + "\n"


# --- what one run kept up --------------------------------------------------------------------------------------------


def _answer(files: Sequence[File]) -> Iterator[str]:
    if not files:
        return
    yield "## A connection for each of them, at the rate that can be kept up"
    for file in files:
        scenario = file.result["scenario"]
        lines = [f"**{escape(said(scenario.get('driver')))} on {escape(said(scenario.get('backend')))}**", ""]
        for name, value in describe_answer(file.result):
            lines.append(f"- {name}: {_bold_as_markdown(value)}")
        outcome, why = outcome_of(file.result)
        if outcome != "ok":
            lines.append(f"- {outcome}: {escape('; '.join(why))}")
        lines += [f"- [all of it]({file.page.name})", "", f"`{_repeat(scenario.get('command', ''), file)}`"]
        yield "\n".join(lines)


def _repeat(command: str, file: File) -> str:
    """The command that made a file, with its output where the file is now."""
    name = file.path.parent.name
    return re.sub(r"(--output[ =])(\S+)", lambda found: f"{found[1]}{_place(found[2], name, file)}", said(command))


def _place(output: str, folder: str, file: File) -> str:
    return f"{folder}/{file.path.name}" if output.endswith(".json") else folder


def _bold_as_markdown(markup: str) -> str:
    """Text of the terminal's summary: what is bold there is bold here."""
    text = Text.from_markup(markup)
    parts, at = [], 0
    for span in text.spans:
        parts += [escape(text.plain[at : span.start]), f"**{escape(text.plain[span.start : span.end])}**"]
        at = span.end
    return "".join([*parts, escape(text.plain[at:])])


# --- ways, libraries -------------------------------------------------------------------------------------------------


def _strategies(files: Sequence[File]) -> Iterator[str]:
    for file in files:
        yield "## Ways to serve them"
        yield show_picture(strategies_picture_path(file), STRATEGIES_ALTERNATIVE)
        yield "\n".join(f"- {escape(said(finding))}" for finding in _findings_of_most(file))
        yield f"[Each way, with every figure]({file.page.name})"
        yield f"`{_strategies_command(file)}`"


def _findings_of_most(file: File) -> Iterator[str]:
    """What was found with the most clients, and at which number a way could not go on."""
    *fewer, _ = sorted(file.result["plan"]["clients"])
    for finding in file.result["findings"]:
        if not any(finding.startswith(f"{clients:,} clients: ") for clients in fewer):
            yield finding


def _strategies_command(file: File) -> str:
    plan, names = file.result["plan"], list(file.result["strategies"])
    words = ["--clients", ",".join(map(str, plan["clients"])), "--strategies", ",".join(names)]
    for flag, key in (("repeat", "trials"), ("duration", "seconds"), ("warmup", "warmup"), ("size", "size")):
        words += [f"--{flag}", f"{plan[key]:g}"]
    words += ["--prefetch", str(plan["prefetch"]), "--seed", str(plan["seed"]), "--output", "results"]
    return shlex.join(["python", "-m", "loadtest", "strategies", *words])


def _comparisons(files: Sequence[File]) -> Iterator[str]:
    for file in files:
        yield "## rabbitry beside other clients"
        for name in pictures(file.result):
            yield show_picture(picture_path(file.path, name), ALTERNATIVES[name])
        yield "\n".join(f"- {escape(finding)}" for finding in findings(file.result))
        yield f"[How each was used, and every figure]({file.page.name})"
        yield f"`{_repeat(file.result['command'], file)}`"


# --- faults ----------------------------------------------------------------------------------------------------------


def _faults(folder: Folder) -> Iterator[str]:
    tell = {"faults": _fault_table, "soak": _soak, "reconnect": _reconnect, "retries": _retries}
    told = [f"- {tell[name](page)}" for name in _PROGRAMS for page in folder.pages_named(name)]
    if told:
        yield "## When something breaks"
        yield "\n".join(told)


def _fault_table(page: Page) -> str:
    faults, operations = page.faults, page.operations
    count = f", {len(operations)} operations under {len(faults)} faults" if faults and operations else ""
    return f"[{escape(page.title)}]({page.path.name}){count}: `nox -s faults`"


def _soak(page: Page) -> str:
    lost = page.cell("confirmed, but never delivered").replace("*", "")
    told = [
        f"{page.cell('publishes')}" if page.cell("publishes") else "",
        f"{lost} of the confirmed lost" if lost else "",
    ]
    words = ["-m", "tests.measuring.soak", "--output", "results"]
    if found := re.search(r"seed (\d+), (\w+)", page.subtitle):
        words += ["--seed", found[1], "--backend", found[2]]
    return _program(page, told, words)


def _reconnect(page: Page) -> str:
    back = [page.cell("100% of the clients are back after", column) for column in (1, 2)]
    told = [f"all are back {back[0]} after a kill, {back[1]} after all connections were ended" if all(back) else ""]
    found = re.search(r"clients, (\w+)", page.subtitle)
    words = ["-m", "tests.measuring.reconnect", "--output", "results", *(["--backend", found[1]] if found else [])]
    return _program(page, told, words)


def _retries(page: Page) -> str:
    lost = [int(number.replace(",", "")) for number in re.findall(r"\*\*([\d,]+)\*\* lost", page.text)]
    told = [f"{sum(lost) or 'no'} messages lost" if lost else ""]
    found = re.search(r"^Retries, (\w+)", page.subtitle)
    words = ["-m", "tests.measuring.retries", "--output", "results", *(["--backend", found[1]] if found else [])]
    return _program(page, told, words)


def _program(page: Page, told: Sequence[str], words: Sequence[str]) -> str:
    title = " · ".join(part for part in (page.title, page.subtitle) if part)
    what = "; ".join(part for part in told if part)
    return (
        f"[{escape(title)}]({page.path.name}){f': {escape(what)}' if what else ''}: `{shlex.join(['python', *words])}`"
    )


# --- the rest --------------------------------------------------------------------------------------------------------


def _others(folder: Folder) -> Iterator[str]:
    lines = []
    for file in folder.bounds:
        checks = file.result["checks"]
        held = sum(check["holds"] is True for check in checks)
        lines.append(
            f"- [{held} of {len(checks)} bounds kept]({file.page.name}), {file.result['started_at']}: "
            f"`{_repeat(file.result['command'], file)}`"
        )
    for file in folder.runs:
        command = _repeat(file.result["scenario"].get("command", ""), file)
        lines.append(f"- [{escape(headline_of(file.result))}]({file.page.name}): `{command}`")
    named = {page.path for name in _PROGRAMS for page in folder.pages_named(name)}
    lines += [f"- [{escape(page.title)}]({page.path.name})" for page in folder.pages if page.path not in named]
    if lines:
        yield "## And also"
        yield "\n".join(lines)
