"""What goes wrong by command: counts of what is to fail next, and a connection that is cut after so many frames.

What must stay true: where no fault is asked for, none costs more than a look at one flag.
"""

from __future__ import annotations

from struct import Struct

__all__ = ["Faults", "FrameCut"]

_unpack_length = Struct(">I").unpack_from


class Faults:
    """The faults of one broker. Each count goes down as its fault happens."""

    __slots__ = ("_duplicates", "_nacks", "_returns", "is_armed", "refuses_connections")

    def __init__(self) -> None:
        self.refuses_connections: bool = False
        self._nacks = self._returns = self._duplicates = 0
        self.is_armed: bool = False
        """Whether any count is left."""

    def arm(self, *, nacks: int = 0, returns: int = 0, duplicates: int = 0) -> None:
        """So many more of each are to come. 0 adds none."""
        self._nacks += nacks
        self._returns += returns
        self._duplicates += duplicates
        self._look()

    def disarm(self) -> None:
        """Nothing goes wrong any more, and connections are accepted."""
        self._nacks = self._returns = self._duplicates = 0
        self.refuses_connections = self.is_armed = False

    def take_nack(self) -> bool:
        """Whether this confirmed message is to be nacked."""
        if not self._nacks:
            return False
        self._nacks -= 1
        self._look()
        return True

    def take_return(self) -> bool:
        """Whether this mandatory message is to come back."""
        if not self._returns:
            return False
        self._returns -= 1
        self._look()
        return True

    def take_duplicate(self) -> bool:
        """Whether this delivery is to be made twice."""
        if not self._duplicates:
            return False
        self._duplicates -= 1
        self._look()
        return True

    def _look(self) -> None:
        self.is_armed = bool(self._nacks or self._returns or self._duplicates)


class FrameCut:
    """Lets so many frames of a client's pass, whole, and nothing after. `begun` has passed already of a frame whose end
    is still to come: the first of them.
    """

    __slots__ = ("_left", "_passed", "_rest", "is_over")

    def __init__(self, frames: int, *, begun: bytes) -> None:
        self._rest = begun
        self._passed = len(begun)  # of the rest
        self.begin_again(frames)

    def begin_again(self, frames: int) -> None:
        """So many from now on."""
        self._left = frames
        self.is_over: bool = frames == 0

    def take(self, data: bytes) -> bytes:
        """What may pass now. An incomplete frame waits for its end."""
        data = self._rest + data
        passed = 8 if data[:4] == b"AMQP" and len(data) >= 8 else 0  # a protocol header is no frame
        while not self.is_over and len(data) - passed >= 7 and data[passed : passed + 1] != b"A":
            end = passed + 8 + _unpack_length(data, passed + 3)[0]
            if end > len(data):
                break
            passed = end
            self._left -= 1
            self.is_over = self._left == 0
        if not passed:
            self._rest = data
            return b""
        self._rest = b"" if self.is_over else data[passed:]
        begun, self._passed = self._passed, 0
        return data[begun:passed]
