"""Interfaces: classes whose public methods a caller and a server agree on, and the object that a caller binds one to.

What must stay true: only what a class defines as a public method counts, and it is looked up without running anything
of the class: no property, no descriptor.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

__all__ = ["Bound", "public_methods"]


class Bound:
    """Stands for the server of an interface; whoever binds it sets the methods."""

    def __init__(self, interface: type, routing_key: str) -> None:
        self._interface = interface
        self._routing_key = routing_key

    def __repr__(self) -> str:
        return f"<{self._interface.__name__} served at {self._routing_key!r}>"


def public_methods(cls: type) -> dict[str, Callable[..., Any]]:
    """The public methods that a class has or inherits, unbound."""
    found = {name: inspect.getattr_static(cls, name) for name in dir(cls) if not name.startswith("_")}
    unwrapped = {
        name: value.__func__ if isinstance(value, staticmethod | classmethod) else value
        for name, value in found.items()
    }
    return {name: value for name, value in unwrapped.items() if inspect.isroutine(value)}
