"""What signatures of public classes show: of those that only this library makes, no constructor.

What `help`, documentation and `inspect` show would else be parameters of private rooms, which nobody can give. Nothing
that runs is changed; each door names its classes once, as it is imported.
"""

from __future__ import annotations

from inspect import Parameter, Signature

__all__ = ["hide_constructors"]


def hide_constructors(*classes: type) -> None:
    """Have these, and what they have their constructor from, show one without parameters."""
    for each in classes:
        each.__init__.__signature__ = Signature([Parameter("self", Parameter.POSITIONAL_OR_KEYWORD)])  # type: ignore
