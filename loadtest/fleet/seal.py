"""What makes a message one of this fleet: a join token that both ends know and nobody sends.

Each letter has an HMAC-SHA256 of all that it says, by a key made from the token; a session, which is new for each run;
and a number that grows with each letter of one sender. So whoever reads and writes the bus without the token can't be
heard: what is forged, changed, sent again, too large or meant for somebody else is not opened, but counted.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from loadtest.fleet.plain import packed
from rabbitry import Message

LARGEST: Final = 256 * 1024
"""Bytes of a letter, at most: what is larger isn't looked at."""
SHORTEST_TOKEN: Final = 16
"""Characters of a token, at least."""
MOST_SENDERS: Final = 4096
MOST_LOGGED: Final = 10
"""How many refusals of each kind are logged; all are counted."""
_MAC = hashlib.sha256().digest_size
_LIMITS = {"max_str_len": LARGEST, "max_bin_len": LARGEST, "max_array_len": LARGEST, "max_map_len": 65536}
_LIMITS["strict_map_key"] = False  # keys may be numbers, those of workers

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """What one end says to the other."""

    session: str
    """Which run it belongs to; empty until a worker has heard of it."""
    sender: str
    recipient: str
    number: int
    kind: str
    content: dict[str, Any]


class Rejected(Exception):
    """A letter that is not to be heeded; its text says why, in one word."""


class Seal:
    """Signs letters and knows its own. It never shows the token."""

    __slots__ = ("_key", "name")

    def __init__(self, token: str) -> None:
        """ValueError if the token is short enough to be guessed."""
        if len(token) < SHORTEST_TOKEN:
            raise ValueError(f"a join token has {SHORTEST_TOKEN} characters at least: it is all that keeps others out")
        self._key = hmac.digest(token.encode(), b"rabbitry loadtest fleet 1", "sha256")
        self.name = hmac.digest(self._key, b"name", "sha256").hex()[:16]
        """What those who have the token call their meeting place. It doesn't tell the token."""

    def __repr__(self) -> str:
        return f"<Seal {self.name}>"

    def tag(self, text: str) -> str:
        """What equal texts have in common, and who hasn't the token can't turn back."""
        return hmac.digest(self._key, b"tag " + text.encode(), "sha256").hex()[:32]

    def close(self, letter: Letter) -> bytes:
        """The letter as bytes. ValueError if it would be larger than anybody opens."""
        head = [letter.session, letter.sender, letter.recipient, letter.number, letter.kind]
        words = packed([*head, letter.content])
        if len(words) + _MAC > LARGEST:
            raise ValueError(f"a letter of {len(words) + _MAC:,} bytes ({letter.kind}), and {LARGEST:,} are the most")
        return hmac.digest(self._key, words, "sha256") + words

    def open(self, body: bytes) -> Letter:
        """The letter that somebody with the token has closed. Rejected if it is none."""
        if len(body) > LARGEST:
            raise Rejected("oversized")
        mac, words = body[:_MAC], body[_MAC:]
        if not hmac.compare_digest(mac, hmac.digest(self._key, words, "sha256")):
            raise Rejected("forged")
        try:
            session, sender, recipient, number, kind, content = msgpack.unpackb(words, **_LIMITS)
        except Exception:  # whatever it is that can't be read
            raise Rejected("malformed") from None
        texts = (session, sender, recipient, kind)
        if not (all(type(text) is str for text in texts) and type(number) is int and isinstance(content, dict)):
            raise Rejected("malformed")
        return Letter(session=session, sender=sender, recipient=recipient, number=number, kind=kind, content=content)


class Guard:
    """Opens what comes for one end, each letter once and in its order, and counts what it turns away."""

    def __init__(self, seal: Seal, me: str, session: str, greeting: str) -> None:
        """`greeting` is the one kind of letter that may come from another session: it begins an acquaintance."""
        self.me = me
        self.session = session
        self.peer: str | None = None
        """The only one who is listened to; None is everybody with the token."""
        self.rejected: Counter[str] = Counter()
        self._seal = seal
        self._greeting = greeting
        self._latest: dict[str, int] = {}

    def admit(self, body: bytes) -> Letter | None:
        """The letter, if it is to be heeded."""
        try:
            letter = self._seal.open(body)
            self._check(letter)
        except Rejected as rejected:
            self.turn_away(str(rejected))
            return None
        return letter

    def turn_away(self, reason: str) -> None:
        """Counts and logs a letter that is not heeded."""
        self.rejected[reason] += 1
        if self.rejected[reason] <= MOST_LOGGED:
            log.warning("a letter was ignored: it is %s", reason)

    def _check(self, letter: Letter) -> None:
        if letter.recipient != self.me:
            raise Rejected("misdirected")
        if letter.session != self.session and letter.kind != self._greeting:
            raise Rejected("of another run")
        if self.peer not in (None, letter.sender):
            raise Rejected("of a stranger")
        if letter.number <= self._latest.get(letter.sender, -1):
            raise Rejected("replayed")
        if len(self._latest) >= MOST_SENDERS and letter.sender not in self._latest:
            raise Rejected("of one too many")
        self._latest[letter.sender] = letter.number


def as_message(body: bytes) -> Message:
    """A letter's bytes as a message that no broker keeps on a disk."""
    return Message(body, delivery_mode=1, content_type="application/x-rabbitry-fleet")
