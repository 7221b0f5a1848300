"""Hostile letters of each kind are turned away, counted, and leave what is honest as it was."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import msgpack
import pytest

from loadtest.fleet import messages as said
from loadtest.fleet.messages import FROM_COORDINATOR, FROM_WORKERS, Beat, Chunk, Hello, Stop, pack, unpack
from loadtest.fleet.seal import LARGEST, MOST_LOGGED, MOST_SENDERS, Guard, Letter, Rejected, Seal

TOKEN = "a token that is long enough"
SEAL = Seal(TOKEN)


def letter(number: int = 1, **changes: Any) -> Letter:
    made = Letter(session="run", sender="worker", recipient="me", number=number, kind="Beat", content={})
    return replace(made, **changes)


def guard(session: str = "run") -> Guard:
    return Guard(SEAL, "me", session, greeting="Hello")


def signed(content: Any) -> bytes:
    """What only somebody with the token can send, whatever is in it."""
    words = msgpack.packb(content)
    assert isinstance(words, bytes)
    empty = SEAL.close(letter())
    import hmac

    key = SEAL._key
    assert hmac.digest(key, empty[32:], "sha256") == empty[:32]
    return hmac.digest(key, words, "sha256") + words


def test_a_letter_arrives_as_it_was_sent() -> None:
    sent = letter(content={"phase": "measure", "counts": {"sent": 5}})
    assert SEAL.open(SEAL.close(sent)) == sent
    assert guard().admit(SEAL.close(sent)) == sent


@pytest.mark.parametrize("place", [0, 31, 32, 40, -1])
def test_a_changed_letter_is_forged(place: int) -> None:
    body = bytearray(SEAL.close(letter()))
    body[place] ^= 1
    with pytest.raises(Rejected, match="forged"):
        SEAL.open(bytes(body))


@pytest.mark.parametrize("body", [b"", b"x", bytes(32), bytes(1000), b"\xff" * 200])
def test_noise_is_forged(body: bytes) -> None:
    with pytest.raises(Rejected, match="forged"):
        SEAL.open(body)


def test_another_token_is_another_seal() -> None:
    other = Seal(TOKEN + "!")
    assert other.name != SEAL.name
    assert TOKEN not in other.name + repr(other)
    with pytest.raises(Rejected, match="forged"):
        other.open(SEAL.close(letter()))


def test_a_token_that_could_be_guessed_is_refused() -> None:
    with pytest.raises(ValueError, match="16 characters"):
        Seal("short")


def test_what_is_too_large_is_neither_sent_nor_looked_at() -> None:
    with pytest.raises(ValueError, match="letter of"):
        SEAL.close(letter(content={"data": bytes(LARGEST)}))
    with pytest.raises(Rejected, match="oversized"):
        SEAL.open(bytes(LARGEST + 1))
    kind, content = pack(Chunk(number=0, of=1, digest="x" * 64, data=bytes(128 * 1024)))
    assert len(SEAL.close(letter(kind=kind, content=content))) < LARGEST


@pytest.mark.parametrize(
    "content",
    [
        None,
        5,
        [],
        {"a": 1},
        ["run", "worker", "me", 1, "Beat"],
        ["run", "worker", "me", "1", "Beat", {}],
        ["run", "worker", "me", 1, "Beat", []],
        [b"run", "worker", "me", 1, "Beat", {}],
    ],
)
def test_what_makes_no_letter_is_malformed_though_it_is_signed(content: Any) -> None:
    with pytest.raises(Rejected, match="malformed"):
        SEAL.open(signed(content))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"recipient": "somebody else"}, "misdirected"),
        ({"session": "of yesterday"}, "of another run"),
        ({"session": ""}, "of another run"),
    ],
)
def test_letters_for_others_are_turned_away(changes: dict[str, Any], reason: str) -> None:
    keeper = guard()
    assert keeper.admit(SEAL.close(letter(**changes))) is None
    assert keeper.rejected == {reason: 1}


def test_a_letter_is_heeded_once_and_in_its_order() -> None:
    keeper = guard()
    bodies = [SEAL.close(letter(number)) for number in range(5)]
    assert keeper.admit(bodies[0]) is not None
    assert keeper.admit(bodies[3]) is not None
    for replayed in (bodies[3], bodies[0], bodies[1], bodies[2]):
        assert keeper.admit(replayed) is None
    assert keeper.admit(bodies[4]) is not None
    assert keeper.rejected == {"replayed": 4}


def test_numbers_are_each_senders_own() -> None:
    keeper = guard()
    assert keeper.admit(SEAL.close(letter(9))) is not None
    assert keeper.admit(SEAL.close(letter(1, sender="another"))) is not None


def test_a_greeting_may_come_from_anywhere_and_nothing_else_may() -> None:
    keeper = guard()
    assert keeper.admit(SEAL.close(letter(1, session="", kind="Hello"))) is not None
    assert keeper.admit(SEAL.close(letter(2, session="", kind="Join"))) is None


def test_one_with_a_peer_listens_to_nobody_else() -> None:
    keeper = guard()
    keeper.peer = "coordinator"
    assert keeper.admit(SEAL.close(letter(1))) is None
    assert keeper.admit(SEAL.close(letter(1, sender="coordinator"))) is not None
    assert keeper.rejected == {"of a stranger": 1}


def test_senders_are_remembered_in_bounded_memory() -> None:
    keeper = guard()
    for number in range(MOST_SENDERS + 5):
        keeper.admit(SEAL.close(letter(1, sender=f"worker {number}")))
    assert keeper.rejected == {"of one too many": 5}
    assert keeper.admit(SEAL.close(letter(2, sender="worker 0"))) is not None


def test_refusals_are_logged_but_do_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    keeper = guard()
    with caplog.at_level(logging.WARNING):
        for _ in range(100):
            keeper.admit(b"noise")
    assert keeper.rejected == {"forged": 100}
    assert len(caplog.records) == MOST_LOGGED
    assert "forged" in caplog.text


def test_each_end_takes_only_what_the_other_says() -> None:
    kind, content = pack(Stop())
    assert unpack(kind, content, FROM_COORDINATOR) == Stop()
    with pytest.raises(ValueError, match="nothing that this end is told"):
        unpack(kind, content, FROM_WORKERS)
    with pytest.raises(ValueError, match="nothing that this end is told"):
        unpack("Settings", {}, FROM_WORKERS)
    with pytest.raises(ValueError, match="Hello"):
        unpack("Hello", {"address": 5}, FROM_WORKERS)
    with pytest.raises(ValueError, match="Beat"):
        unpack("Beat", {"phase": "measure", "counts": {"sent": "many"}}, FROM_WORKERS)
    assert unpack("Beat", {}, FROM_WORKERS) == Beat()
    assert unpack("Hello", {"address": "q"}, FROM_WORKERS) == Hello(address="q")


SAID = (
    said.Hello(address="q"),
    said.Join(address="q", protocol=2, version="1", name="n", host="h", pid=1, cores=2, backend="trio"),
    said.Echo(number=3, received=2**61, sent=2**61 + 1),
    said.Prepared(digest="d", sockets=3, clients=4),
    said.Refusal(reason="no"),
    said.Ready(connected=3, failed=1),
    said.Beat(phase="measure", is_settled=True, counts={"sent": 5}, cpu_seconds=0.5, errors={"E": 1}, is_blocked=True),
    said.Leaving(reason="enough"),
    said.Chunk(number=0, of=2, digest="d", data=bytes(range(256))),
    said.Challenge(address="q"),
    said.Welcome(number=0, of=2),
    said.TurnedAway(reason="no"),
    said.Probe(number=3),
    said.Prepare(run_id="run", settings={"clients": 5, "urls": ["amqp://h"]}, offsets={0: -(2**61), 7: 2**61}),
    said.Connect(at=-5),
    said.Begin(at=2**61),
    said.Pace(phase="search", number=2, rate=0.5, start=7, is_paused=False, is_planned=True),
    said.Measure(at=5),
    said.Stop(),
    said.Close(),
    said.Received(),
    said.Goodbye(),
)


@pytest.mark.parametrize("message", SAID, ids=lambda message: type(message).__name__)
def test_whatever_is_said_arrives_as_it_was_said(message: Any) -> None:
    """Sealed, sent as bytes, opened, read: with keys that are numbers, too, as those of other hosts' clocks are."""
    kind, content = pack(message)
    sent = Letter(session="run", sender="one", recipient="me", number=1, kind=kind, content=content)
    arrived = guard().admit(SEAL.close(sent))
    assert arrived is not None
    assert unpack(arrived.kind, arrived.content, (*FROM_COORDINATOR, *FROM_WORKERS)) == message


def test_none_of_what_is_said_was_forgotten_here() -> None:
    assert {type(message) for message in SAID} == {*FROM_COORDINATOR, *FROM_WORKERS}
