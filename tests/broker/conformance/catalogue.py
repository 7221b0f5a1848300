"""The cases, by name: functions of a conversation that `@case` has put here."""

from __future__ import annotations

from tests.broker.conformance.conversation import Case

CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    """Make a function a case."""
    name = function.__name__
    assert name not in CASES, f"two cases are called {name}"
    CASES[name] = function
    return function
