"""The join token: what a coordinator and its workers have in common. It is read here, and never shown in a result."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

from loadtest.fleet.seal import Seal

TOKEN = "LOADTEST_TOKEN"
"""The variable that has the token."""
TARGETS = "LOADTEST_TARGETS"
"""The variable that has URLs which a worker may load, with spaces between them: no list of processes shows it."""
CONTROL = "LOADTEST_CONTROL_URL"


def read_token(path: Path | None, environment: Mapping[str, str]) -> str | None:
    """The token from a file, or the environment; None if there is none. ValueError if it can't be read."""
    if path is None:
        return environment.get(TOKEN) or None
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ValueError(f"--token-file: {error}") from None
    if not token:
        raise ValueError(f"--token-file: {path} is empty")
    return token


def make_token() -> str:
    """A new token, which nobody guesses."""
    return secrets.token_urlsafe(24)


def make_seal(token: str) -> Seal:
    """The seal of a token. ValueError if it is too short."""
    return Seal(token)
