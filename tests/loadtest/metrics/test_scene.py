from __future__ import annotations

import json

from loadtest.metrics.record import Record
from loadtest.metrics.scene import Scene


def scene(factor: int) -> Scene:
    made = Scene()
    made.counts["churn.rounds"] = 3 * factor
    made.timings["churn.round"].record(factor * 1_000_000)
    made.times["backlog.drain"] = 2.0 * factor
    made.used["connect.client"] = 0.5 * factor
    made.faults.append({"fault": "1s stop 1s", "number": factor})
    return made


def test_it_adds_up() -> None:
    total = scene(1)
    total.merge(scene(2))
    assert total.counts["churn.rounds"] == 9
    assert total.timings["churn.round"].count == 2
    assert (total.times["backlog.drain"], total.used["connect.client"]) == (4.0, 1.5)
    assert [fault["number"] for fault in total.faults] == [1, 2]


def test_it_is_sent_and_read_back() -> None:
    made = scene(1)
    assert Scene.from_plain(json.loads(json.dumps(made.to_plain()))).to_plain() == made.to_plain()
    record = Record(run_id="a", started_at="b", scene=made)
    assert Record.from_plain(record.to_plain()).scene.to_plain() == made.to_plain()


def test_a_record_from_before_there_were_scenes_is_read() -> None:
    plain = Record(run_id="a", started_at="b").to_plain()
    del plain["scene"]
    assert Record.from_plain(plain).scene.to_plain() == Scene().to_plain()
