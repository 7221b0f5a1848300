"""The pictures in the project's README: between two marks stands what the results have, or nothing."""

from __future__ import annotations

from collections.abc import Iterator

from tests.measuring.bench.comparison.page import ALTERNATIVES, picture_path, show_picture
from tests.measuring.bench.comparison.pictures import pictures
from tests.measuring.pages.folder import Folder
from tests.measuring.pages.rebuild import STRATEGIES_ALTERNATIVE, strategies_picture_path

BEGIN = "<!-- pictures: `nox -s report` writes them from results/ -->"
END = "<!-- end of pictures -->"


class NoPlace(Exception):
    """The README has no place for pictures."""


def with_pictures(readme: str, folder: Folder) -> str:
    """The README with the pictures of the latest results between its marks."""
    head, begin, rest = readme.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise NoPlace(f"README.md has no {BEGIN!r} and {END!r}")
    return head + "\n\n".join([begin, *_pictures(folder), end]) + tail


def _pictures(folder: Folder) -> Iterator[str]:
    place = f"{folder.path.name}/"
    if folder.comparisons:
        latest = folder.comparisons[-1]
        yield "## Beside other clients"
        for name in pictures(latest.result):
            yield show_picture(picture_path(latest.path, name), ALTERNATIVES[name], place)
        yield (
            "The same work for each, in the way its documentation shows, on one broker beside it; lines are 95 % "
            f"intervals. [All figures]({place}{latest.page.name}); `nox -s bench` measures it again."
        )
    if folder.strategies:
        latest = folder.strategies[-1]
        yield "## Ways to serve thousands of clients"
        yield show_picture(strategies_picture_path(latest), STRATEGIES_ALTERNATIVE, place)
        yield (
            f"[All figures]({place}{latest.page.name}); `python -m loadtest strategies` measures it again. "
            f"[{place}]({place}README.md) has what else was measured."
        )
