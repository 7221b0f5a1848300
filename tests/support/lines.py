"""Command lines of the load tester, for tests that are not about its search for a rate."""

from __future__ import annotations


def without_search(*words: str) -> list[str]:
    """The words, and a closed loop where they name neither a rate nor a mode."""
    is_said = any(word.startswith("--rate") or word == "--mode" for word in words)
    return [*words] if is_said else ["--mode", "closed", *words]
