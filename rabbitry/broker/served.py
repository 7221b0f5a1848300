"""A connection to the broker, as its owner sees it: what it is, and what can be done to it for a test."""

from __future__ import annotations

from rabbitry._concurrency.clock import monotonic
from rabbitry.broker.checks import check_int
from rabbitry.broker.session import Session
from rabbitry.protocol.server.refusals import NAMES

__all__ = ["ServedConnection", "checked_code"]


def checked_code(code: int) -> int:
    """A reply code of AMQP. Raises `ValueError`."""
    if code not in NAMES:
        raise ValueError(f"{code} is no reply code of AMQP; there are {', '.join(map(str, NAMES))}")
    return code


class ServedConnection:
    """A client's connection. What is done to it happens at once; to one that is over, nothing."""

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session = session

    def __repr__(self) -> str:
        return f"<ServedConnection {self.name!r} of {self.user!r} with {len(self.channels)} channels>"

    @property
    def name(self) -> str:
        """What the client calls it; empty if it does not."""
        return self._session.name

    @property
    def user(self) -> str:
        """Who the client is."""
        return self._session.user

    @property
    def virtual_host(self) -> str:
        """Where the client is."""
        return self._session.virtual_host

    @property
    def channels(self) -> tuple[int, ...]:
        """The numbers of its channels."""
        return tuple(sorted(self._session.channels))

    @property
    def is_blocked(self) -> bool:
        """Whether it has published while there was an alarm, and waits."""
        return self._session.is_blocked

    def close(self, code: int = 320, text: str = "closed by the test") -> None:
        """Close it as RabbitMQ does, with a reply code and a text. `ValueError` for a code that AMQP doesn't have."""
        self._session.close(checked_code(code), text, monotonic())

    def close_channel(self, number: int, code: int = 406, text: str = "closed by the test") -> None:
        """Close one of its channels; the whole connection with a code that RabbitMQ closes connections with.

        `ValueError` for a code that AMQP doesn't have, `LookupError` for a channel that is not there.
        """
        if number not in self._session.channels:
            raise LookupError(f"there is no channel {number}; there are {self.channels}")
        self._session.close_channel(number, checked_code(code), text, monotonic())

    def drop(self) -> None:
        """End it without a word, as a network does that fails."""
        self._session.drop()

    def drop_after(self, frames: int) -> None:
        """Drop it once `frames` more frames of the client's have come and were answered. `ValueError` below 0."""
        check_int("frames", frames)
        if frames < 0:
            raise ValueError(f"frames must be 0 or more, not {frames}")
        self._session.cut_after(frames)

    def stall(self) -> None:
        """Read nothing more of it, as a broker does that hangs; what is sent to it still leaves. See `resume`."""
        self._session.stall()

    def resume(self) -> None:
        """Go on after `stall`, with what has come meanwhile."""
        self._session.resume(monotonic())
