"""What `serve --function` serves in the tests."""

from __future__ import annotations

from typing import Any

NOTHING = None


def double(value: Any) -> Any:
    """Twice the value."""
    return 2 * value


def upper(text: str) -> str:
    """The text in capitals."""
    return text.upper()


def fail(text: str) -> None:
    """Raise what the caller sent, with another error as its cause."""
    raise ValueError(text) from KeyError(text)
