"""The child that draws: `python -m loadtest.output.charts`, with a job on its standard input.

A job is the results, and which files are wanted; each file is written whole or not at all. It is a process of its own
because a library of this size may be absent, or crash, and no result may be lost by it.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any


def main() -> int:
    """Draws what the job asks for; 1 and a message if that is not possible."""
    job = json.load(sys.stdin)
    try:
        for kind, path in job["files"].items():
            content = draw(kind, job["title"], job["results"])
            partial = Path(f"{path}.{os.getpid()}.part")
            try:
                partial.write_bytes(content)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
    except Exception as error:  # whatever it is: the parent tells it
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def draw(kind: str, title: str, results: list[dict[str, Any]]) -> bytes:
    """One file: "html", "svg" or "png"."""
    from loadtest.output.charts.panels import for_page, for_picture, make_panels
    from loadtest.output.charts.rendering import library, to_png, to_svg
    from loadtest.output.page import Drawing, render_page

    panels = list(make_panels(results))
    if kind == "html":
        drawings = [
            Drawing(
                each.name, each.title, each.sentence, each.height, for_page(each), [asdict(key) for key in each.legend]
            )
            for each in panels
        ]
        return render_page(title, results, drawings, library()).encode()
    picture = for_picture(title, panels)
    return to_svg(picture).encode() if kind == "svg" else to_png(picture)


if __name__ == "__main__":
    sys.exit(main())
