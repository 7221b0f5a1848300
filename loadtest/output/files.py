"""Where results go: the standard output, a file, a directory with a report beside it.

A result that can't be written is told before the run, and saved elsewhere after it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from loadtest.output.console import silence
from loadtest.output.drawing import can_draw, draw
from loadtest.output.markdown import render_markdown
from loadtest.scenarios.settings import Settings


class DestinationRefused(Exception):
    """No result could be written where it was asked for."""


def check_destinations(output: Path | None, json_file: str | None) -> None:
    """Raises DestinationRefused if the result could not be written in the end: better now than after an hour."""
    flag = "--output"
    try:
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=output):
                pass
        flag = "--json"
        if json_file is not None and json_file != "-":
            path = Path(json_file)
            is_new = not path.exists()
            path.open("a").close()
            if is_new:
                path.unlink()
    except OSError as error:
        raise DestinationRefused(f"{flag}: the result could not be written there: {error}") from None


def write_result(result: dict[str, Any], settings: Settings) -> list[Path]:
    """Writes the result wherever it was asked for; returns the files written.

    Tries all places, files first, whatever becomes of the others; OSError, the first one, if any of them failed.
    """
    text, written, errors = _as_json(result), list[Path](), list[OSError]()

    def write(path: Path, content: str) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8", errors="backslashreplace")  # a word that was no text at all
            written.append(path)
        except OSError as error:
            errors.append(error)

    if settings.json not in (None, "-"):
        write(Path(settings.json), text)
    if settings.output is not None:
        write(settings.output / f"{result['run_id']}.json", text)
        picture = f"{result['run_id']}.svg" if can_draw() else None
        write(settings.output / f"{result['run_id']}.md", render_markdown([result], picture))
        # written while the run went on: one, or one for each workload
        written += sorted(settings.output.glob(f"{result['run_id']}*.hlog"))
    if settings.json == "-":
        try:
            sys.stdout.write(_encodable(text, result))
            sys.stdout.flush()
        except OSError as error:
            silence(sys.stdout)
            errors.append(error)
    if errors:
        raise errors[0]
    return written


def write_report(result: dict[str, Any], settings: Settings) -> list[Path]:
    """Draws the page and the picture of a result that is written already; returns the files.

    NotDrawn if that is not possible, and says what to do.
    """
    if settings.output is None:
        return []
    return draw([result], {name: settings.output / f"{result['run_id']}.{name}" for name in ("html", "svg")})


def save_elsewhere(result: dict[str, Any], name: str) -> str:
    """Writes the result into the temporary directory, lest an hour's work be lost, and says where it is."""
    path = Path(tempfile.gettempdir()) / f"loadtest-{name}.json"
    try:
        path.write_text(_as_json(result), encoding="utf-8")
    except OSError as error:
        return f"nor into {path}: {error}"
    return f"it is in {path} instead"


def _encodable(text: str, result: dict[str, Any]) -> str:
    """The text, or the same in ASCII where the standard output's encoding lacks a letter of it."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return json.dumps(result, indent=1) + "\n"
    return text


def _as_json(result: dict[str, Any]) -> str:
    """As it may stand on a terminal: ASCII where a broker's text would steer one."""
    text = json.dumps(result, indent=1, ensure_ascii=False)
    return (text if text.replace("\n", "").isprintable() else json.dumps(result, indent=1)) + "\n"
