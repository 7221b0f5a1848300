"""The survey of random sequences: that it notes what it finds, and goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rabbitry.testing import PrivateNode
from tests.broker.conformance.pair import Difference, Pair
from tests.broker.conformance.survey import Survey


def lines(folder: Path) -> list[dict[str, Any]]:
    (file,) = folder.iterdir()
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def test_it_goes_on_where_it_stopped(rabbitmq: PrivateNode, version: str, tmp_path: Path) -> None:
    Survey(rabbitmq.url, tmp_path, 2).run()
    (first,) = lines(tmp_path)
    Survey(rabbitmq.url, tmp_path, 2).run()
    assert lines(tmp_path) == [first], "there are enough"
    Survey(rabbitmq.url, tmp_path, first["sequences"] + 1).run()
    again, second = lines(tmp_path)
    assert again == first and (first["seed"], second["seed"]) == (1, 2)
    assert first["sequences"] >= 2 and first["operations"] > 0 and not first["differences"]


def test_no_time_is_left(rabbitmq: PrivateNode, version: str, tmp_path: Path) -> None:
    Survey(rabbitmq.url, tmp_path, 2, deadline=0).run()
    assert [(line["sequences"], line["differences"]) for line in lines(tmp_path)] == [(0, [])]


def test_it_notes_a_difference_and_goes_on(
    rabbitmq: PrivateNode, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agree = Pair._agree
    asked: list[Pair] = []

    def differ(pair: Pair) -> None:
        agree(pair)
        asked.append(pair)
        if len(asked) == 3:
            raise Difference(f"as if {pair.theirs.prefix}a were empty")

    monkeypatch.setattr(Pair, "_agree", differ)
    Survey(rabbitmq.url, tmp_path, 2).run()
    (line,) = lines(tmp_path)
    assert [each["shown"] for each in line["differences"]] == ["as if a were empty"]
    (sent,) = (each["sent"] for each in line["differences"])
    assert sent[0] == "1.1 ChannelOpen()" and "1.1 QueueDeclare(queue='a', durable=True" in sent[1]
    assert len(asked) > 3, "further sequences"
