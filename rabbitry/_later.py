"""Modules that are imported when something of theirs is first used: most programs never use them, or not yet.

    if TYPE_CHECKING:
        import ssl
    else:
        ssl = Later("ssl")

What must stay true: whoever asks for an attribute gets that of the module itself, and from the second time on at the
price of an attribute. So code reads as with a plain import, and annotations that name the module can be evaluated.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["Later"]


class Later:
    """Stands for the module of that name."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __repr__(self) -> str:
        return f"<module {self.__name__!r}, to be imported when used>"

    def __getattr__(self, name: str) -> Any:
        """What is not here yet. It is kept: hot paths ask for it, too."""
        value = getattr(import_module(self.__name__), name)
        setattr(self, name, value)
        return value
