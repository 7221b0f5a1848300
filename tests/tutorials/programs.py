"""Tutorials run as their users run them: `python -m rabbitry.tutorials.…` in processes of their own."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.programs import ROOT, Program, wait_until

__all__ = ["ROOT", "Program", "Start", "Tutorial", "wait_until"]


class Tutorial(Program):
    """One of its two programs."""

    def __init__(self, url: str, backend: str, tutorial: str, *words: str) -> None:
        super().__init__(["-m", f"rabbitry.tutorials.{tutorial}", *words, "--backend", backend], {"RABBITMQ_URL": url})


Start = Callable[..., Tutorial]
"""start(backend, tutorial, *words)"""
