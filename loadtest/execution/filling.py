"""Bodies of several sizes, or filled with something, that are checked when they arrive.

What a body has behind its stamp follows from who sent it and its number: nothing is kept, and any process can tell
whether it arrived as it was sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

from loadtest.execution.body import BodyMaker, SmallBodyMaker, Stamp, make_body_maker, read_stamp, write_stamp
from loadtest.scenarios.distributions import parse_sizes
from loadtest.scenarios.settings import STAMP_BYTES, Settings

FILLINGS = ("zeros", "random", "text")
MOST_BYTES = 16 * 2**20
"""The size at which distributions without a bound are cut off: RabbitMQ 4's own limit."""
_DRAWN = 4096
"""How many sizes are drawn; then they come again, in the same order."""
_SHIFTS = 4096
"""At how many places of what it is filled from a body's filling may begin."""
_WORDS = (
    "the queue of orders waits while a worker reads each message and sends its answer to whoever asked for it then "
    "one more client connects publishes some events logs errors and leaves again"
)


class FilledBodyMaker:
    """Makes the bodies of one run, reads them, and says whether they are as they were made."""

    __slots__ = ("_filling", "_sizes", "_tag")

    def __init__(self, tag: int, sizes: Sequence[int], filling: bytes) -> None:
        """`filling` has `_SHIFTS` bytes more than the largest size."""
        if min(sizes) < STAMP_BYTES:
            raise ValueError(f"a body of {min(sizes)} bytes has no room for the stamp of {STAMP_BYTES} bytes")
        self._tag = tag
        self._sizes = sizes
        self._filling = filling

    def __call__(self, producer: int, sequence: int, intended: int) -> bytes:
        """The body of one message."""
        size = self._sizes[(producer * 97 + sequence) % len(self._sizes)] - STAMP_BYTES
        begin = (producer * 31 + sequence * 17) % _SHIFTS
        return write_stamp(self._tag, producer, sequence, intended) + self._filling[begin : begin + size]

    def read(self, body: bytes) -> Stamp | None:
        """The stamp in a body; None if there is none of this run."""
        stamp = read_stamp(body)
        return stamp if stamp is not None and stamp[0] == self._tag else None

    def owns(self, body: bytes) -> bool:
        """Whether it is a body of this run."""
        return self.read(body) is not None

    def is_intact(self, body: bytes) -> bool:
        """Whether a body of this run is as it was made, as far as the stamp can be believed."""
        stamp = self.read(body)
        return stamp is not None and body == self(*stamp[1:])


Bodies = BodyMaker | SmallBodyMaker | FilledBodyMaker


def make_bodies(tag: int, settings: Settings) -> Bodies:
    """The maker for the bodies that the settings ask for. OSError if they name a file that can't be read."""
    if settings.producers and (settings.body is not None or settings.sizes is not None):
        return make_filled(tag, settings)
    return make_body_maker(tag, settings.size, producers=settings.producers, is_consumed=bool(settings.consumers))


def make_filled(tag: int, settings: Settings) -> FilledBodyMaker:
    """The maker for what the settings ask. OSError if it is a file that can't be read."""
    random = Random(settings.seed)
    asked = parse_sizes(settings.sizes) if settings.sizes is not None else settings.size
    sizes = [asked] if isinstance(asked, int) else asked.draw(random, _DRAWN, least=STAMP_BYTES, most=MOST_BYTES)
    return FilledBodyMaker(tag, sizes, fill(settings.body or "zeros", max(sizes) + _SHIFTS, random))


def read_beginning(path: str, size: int) -> bytes:
    """So many bytes of a file at most: it may be a device, which has no end. OSError, or ValueError if it is empty."""
    with Path(path).open("rb") as file:
        content = file.read(size)
    if not content:
        raise ValueError(f"{path!r} is empty")
    return content


def fill(name: str, size: int, random: Random) -> bytes:
    """So many bytes of that filling: its name, or the beginning of a file, which is repeated if it is shorter.
    ValueError if the file is empty.
    """
    if name == "zeros":
        return bytes(size)
    if name == "random":
        return random.randbytes(size)
    if name == "text":
        content = " ".join(random.choices(_WORDS.split(), k=20_000)).encode() + b" "
    else:
        content = read_beginning(name, size)
    return (content * (-(-size // len(content))))[:size]
