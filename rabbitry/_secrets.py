"""What must not be shown: values that hold a secret, and errors that forget the frames which had one in their hands.

What must stay true: a password, a token or a URL is wrapped where it enters the library, and unwrapped only in an
expression whose failure `unwatched` takes out of sight. Whoever reports an error together with the local variables of
its frames (Sentry, cgitb, `traceback` with `capture_locals`) then finds none. The bottom of the package beside
`_errors`: it imports nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NoReturn, TypeVar

__all__ = ["Secret", "forget_frames", "hidden_if_given", "unwatched"]

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")
E = TypeVar("E", bound=BaseException)


class Secret(Generic[T_co]):
    """Holds a value that no repr, log line or pickle shows. Equal where the values are."""

    __slots__ = ("_value",)

    def __init__(self, value: T_co) -> None:
        self._value = value

    def reveal(self) -> T_co:
        """The value. To be called where it is used, and not to be given a name there."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return self._value == other._value if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._value)

    def __copy__(self) -> Secret[T_co]:
        return self

    def __deepcopy__(self, _: dict[int, Any]) -> Secret[T_co]:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("what holds a password or a token is not pickled: pass the URL on by a way of your own")


def hidden_if_given(value: T | None) -> Secret[T] | None:
    """The value, hidden; None where there is none."""
    return None if value is None else Secret(value)


def unwatched(make: Callable[[], T]) -> T:
    """What `make` gives. What it raises has forgotten the frames below this one, whose variables held the secret."""
    try:
        return make()
    except Exception as error:
        failure = forget_frames(error)
    try:
        raise failure
    finally:
        del failure  # or it would keep itself alive


def forget_frames(error: E) -> E:
    """The error, without the frames that it and what led to it were raised in."""
    following: list[BaseException | None] = [error]
    known: set[int] = set()
    while following:
        each = following.pop()
        if each is not None and id(each) not in known:
            known.add(id(each))
            each.__traceback__ = None
            following += each.__cause__, each.__context__
    return error
