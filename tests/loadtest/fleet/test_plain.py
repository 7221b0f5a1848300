"""Dataclasses to plain values and back, each type checked: what comes over a bus is somebody else's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import msgpack
import pytest

from loadtest.commands.flags import parse_settings
from loadtest.fleet.plain import from_plain, to_plain
from loadtest.scenarios.settings import Settings


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True)
class Inner:
    number: int
    names: Sequence[str] = ()


@dataclass(frozen=True)
class Outer:
    inner: Inner
    either: Inner | float | None
    colour: Colour
    path: Path | None
    kind: Literal["a", "b"]
    pair: tuple[int, str]
    many: tuple[Inner, ...] = ()
    named: Mapping[str, int | str] = field(default_factory=dict)
    anything: Any = None


OUTER = Outer(
    inner=Inner(1, ("x", "y")),
    either=2.5,
    colour=Colour.RED,
    path=Path("/tmp/x"),
    kind="b",
    pair=(1, "z"),
    many=(Inner(2), Inner(3)),
    named={"a": 1, "b": "c"},
    anything=[1, None],
)


def test_what_is_made_plain_can_be_packed_and_read_back() -> None:
    assert from_plain(Outer, msgpack.unpackb(msgpack.packb(to_plain(OUTER)))) == OUTER


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"inner": {"number": "1"}}, r"Outer\.inner\.number"),
        ({"inner": {"number": True}}, r"Outer\.inner\.number"),
        ({"inner": {}}, r"inner\.number is missing"),
        ({"inner": {"number": 1, "__class__": "x"}}, "there is no '__class__'"),
        ({"inner": [1]}, r"Outer\.inner"),
        ({"either": "text"}, r"Outer\.either"),
        ({"colour": "blue"}, r"Outer\.colour"),
        ({"path": 5}, r"Outer\.path"),
        ({"kind": "c"}, r"Outer\.kind"),
        ({"pair": [1]}, r"Outer\.pair"),
        ({"pair": ["z", 1]}, r"Outer\.pair"),
        ({"many": {"number": 1}}, r"Outer\.many"),
        ({"many": [{"number": 1}, 5]}, r"Outer\.many\[1\]"),
        ({"named": {"a": []}}, r"Outer\.named\['a'\]"),
        ({"named": {1: 1}}, r"Outer\.named"),
    ],
)
def test_what_is_of_another_type_is_refused(change: dict[str, Any], where: str) -> None:
    with pytest.raises(ValueError, match=where):
        from_plain(Outer, to_plain(OUTER) | change)


@pytest.mark.parametrize("plain", [None, 5, "text", [], b"x"])
def test_what_is_no_mapping_is_no_dataclass(plain: Any) -> None:
    with pytest.raises(ValueError, match="Outer"):
        from_plain(Outer, plain)


def test_what_cannot_be_sent_is_told() -> None:
    with pytest.raises(TypeError, match="function can't be sent"):
        to_plain({"a": [lambda: None]})


@pytest.mark.parametrize(
    "words",
    [(), ("--clients", "20", "--rate", "100", "--queue-arg", "x-a=5", "--label", "k=v", "--require", "publish.rate>1")],
)
def test_all_settings_survive(words: Sequence[str]) -> None:
    settings = parse_settings(words, {})
    again = from_plain(Settings, msgpack.unpackb(msgpack.packb(to_plain(settings))))
    assert to_plain(again) == to_plain(settings)
    assert (again.rate, again.loop, again.shares) == (settings.rate, settings.loop, settings.shares)
