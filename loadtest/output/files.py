"""Where results go: the standard output, a file, a directory with the chart beside it.

A result that can't be written is told before the run, and saved elsewhere after it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loadtest.output.chart import draw_chart
from loadtest.scenarios.settings import Settings


class DestinationRefused(Exception):
    """No result could be written where it was asked for."""


def check_destinations(settings: Settings) -> None:
    """Raises DestinationRefused if the result could not be written in the end: better now than after an hour."""
    flag = "--output"
    try:
        if settings.output is not None:
            settings.output.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=settings.output):
                pass
        flag = "--json"
        if settings.json not in (None, "-"):
            path = Path(settings.json)
            is_new = not path.exists()
            path.open("a").close()
            if is_new:
                path.unlink()
    except OSError as error:
        raise DestinationRefused(f"{flag}: the result could not be written there: {error}") from None


def write_result(result: dict[str, Any], settings: Settings) -> Iterator[Path]:
    """Writes the result wherever it was asked for, and tells each file written. OSError if that fails."""
    text = _as_json(result)
    if settings.json == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
    elif settings.json:
        Path(settings.json).write_text(text, encoding="utf-8")
        yield Path(settings.json)
    if settings.output is not None:
        settings.output.mkdir(parents=True, exist_ok=True)
        for suffix, content in ((".json", text), (".svg", draw_chart(result))):
            path = settings.output / f"{result['run_id']}{suffix}"
            path.write_text(content, encoding="utf-8")
            yield path


def save_elsewhere(result: dict[str, Any]) -> str:
    """Writes the result into the temporary directory, lest an hour's work be lost, and says where it is."""
    path = Path(tempfile.gettempdir()) / f"loadtest-{result['run_id']}.json"
    try:
        path.write_text(_as_json(result), encoding="utf-8")
    except OSError as error:
        return f"nor into {path}: {error}"
    return f"it is in {path} instead"


def _as_json(result: dict[str, Any]) -> str:
    """As it may stand on a terminal: ASCII where a broker's text would steer one."""
    text = json.dumps(result, indent=1, ensure_ascii=False)
    return (text if text.replace("\n", "").isprintable() else json.dumps(result, indent=1)) + "\n"
