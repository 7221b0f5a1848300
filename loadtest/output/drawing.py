"""Has charts and pages made by a child process, after the results are written.

What must stay true: whatever becomes of the child, nothing is lost but what it was to draw; it is told in a sentence.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from loadtest.output.told import title_of

DRAWN = ("html", "svg", "png")
"""The formats that need the extra `report`."""
PATIENCE = 120.0
"""Seconds that the child may take: it needs about three."""
INSTALL = "in a clone of rabbitry, pip install '.[report]'"


class NotDrawn(Exception):
    """A chart or page could not be made; the message says why, and what to do."""


def can_draw() -> bool:
    """Whether the extra is installed."""
    return all(find_spec(name) is not None for name in ("altair", "vl_convert"))


def draw(results: Sequence[Mapping[str, Any]], files: Mapping[str, Path]) -> list[Path]:
    """Makes each file, by its format; returns them. NotDrawn if that is not possible; no file is left half-written."""
    if not can_draw():
        raise NotDrawn(f"{', '.join(files)}: they need the extra `report`: {INSTALL}")
    job = {
        "title": title_of(results),
        "results": list(results),
        "files": {kind: str(path) for kind, path in files.items()},
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "loadtest.output.charts"],
            input=json.dumps(job).encode(),
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotDrawn(f"{', '.join(files)}: not drawn within {PATIENCE:g} s") from None
    except KeyboardInterrupt:  # the results are written: it ends the drawing alone
        raise NotDrawn(f"{', '.join(files)}: interrupted") from None
    except OSError as error:
        raise NotDrawn(f"{', '.join(files)}: {error}") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise NotDrawn(f"{', '.join(files)}: {said[-1] if said else f'the child ended with {done.returncode}'}")
    return list(files.values())
