"""Where results go: the standard output, a file, a directory with a report beside it.

A result that can't be written is told before the run, and saved elsewhere after it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from math import isfinite
from pathlib import Path
from typing import Any

from loadtest.output.console import silence
from loadtest.output.drawing import can_draw, draw
from loadtest.output.markdown import render_markdown
from loadtest.scenarios.settings import Settings

_NO_TEXT = "backslashreplace"
"""How a word that was no text at all is written."""


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
            _try_out(Path(json_file))
    except OSError as error:
        raise DestinationRefused(f"{flag}: the result could not be written there: {error}") from None


def _try_out(path: Path) -> None:
    """OSError if the file can't be written. A pipe is left alone: who reads it would take this for the end."""
    is_new = not path.exists()
    if is_new or path.is_file() or path.is_dir():
        path.open("a").close()
    if is_new:
        path.unlink()


def write_result(result: dict[str, Any], settings: Settings) -> list[Path]:
    """Writes the result wherever it was asked for; returns the files written.

    Tries all places, files first, whatever becomes of the others; OSError, the first one, if any of them failed.
    """
    text, written, errors = as_json(result), list[Path](), list[OSError]()

    def write(path: Path, content: str) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, content)
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
            sys.stdout.write(_encodable(text))
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
        path.write_text(as_json(result), encoding="utf-8")
    except OSError as error:
        return f"nor into {path}: {error}"
    return f"it is in {path} instead"


def write_whole(path: Path, content: str) -> None:
    """Writes a file whole, or not at all: what is there already stays until all of the new one is on the disk. OSError
    if it can't be written.

    Where nothing can be put in a file's place (a device, a pipe, a file that is mounted by itself) it is written there.
    """
    place = path.resolve()  # what a link leads to
    partial = place.with_name(f".loadtest-{os.getpid()}.tmp")
    is_in_place = place.exists() and not place.is_file()
    try:
        if not is_in_place:
            partial.write_text(content, encoding="utf-8", errors=_NO_TEXT)
            if place.exists():
                partial.chmod(place.stat().st_mode)
            with suppress(OSError):
                partial.replace(place)
                return
    except PermissionError:  # the folder takes no new file, but this one may be written all the same
        pass
    finally:
        partial.unlink(missing_ok=True)
    place.write_text(content, encoding="utf-8", errors=_NO_TEXT)


def as_json(value: Any) -> str:
    """JSON that every reader takes, as it may stand on a terminal: ASCII where a broker's text would steer one, and
    null for what is no number.
    """
    try:
        text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    except ValueError:  # infinity, as a header or an argument may be
        return as_json(_finite(value))
    return (text if text.replace("\n", "").isprintable() else json.dumps(value, indent=1)) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value


def _encodable(text: str) -> str:
    """The text; in ASCII where the standard output writes anything but UTF-8, which JSON has to be."""
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "").replace("_", "")
    return text if encoding.startswith("utf8") else json.dumps(json.loads(text), indent=1) + "\n"
