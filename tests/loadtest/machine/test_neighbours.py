"""Who else used the processors."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from loadtest.machine import neighbours
from loadtest.machine.neighbours import Seen, find_busiest, look


def test_who_used_most_comes_first_and_we_are_not_among_them() -> None:
    before = Seen(10.0, {1: ("init", 5.0), 2: ("us", 0.0), 3: ("old", 90.0), 4: ("a", 0.0), 5: ("b", 0.0)})
    used = {1: ("init", 5.01), 2: ("us", 9.0), 3: ("new", 1.0), 4: ("a", 3.0), 5: ("b\x1b[2J", 2.0), 6: ("c", 4.0)}
    found = find_busiest(before, Seen(20.0, used), {2})
    assert list(found.items()) == [("c (6)", 0.4), ("a (4)", 0.3), ("b\\x1b[2J (5)", 0.2)], "three of them, as text"
    assert find_busiest(before, Seen(20.0, {3: ("new", 1.0)}), {2}) == {"new (3)": 0.1}, "its number was used before"
    assert find_busiest(before, before, set()) == {}


def test_a_process_that_burns_is_seen_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "MOST", 1000)  # others may use more
    code = "import time\nuntil = time.process_time() + 60\nwhile time.process_time() < until: pass"
    before = look()
    assert before.used[os.getpid()][1] > 0
    with subprocess.Popen([sys.executable, "-c", code]) as burner:
        try:
            deadline = time.monotonic() + 20
            found: dict[str, float] = {}
            while not found and time.monotonic() < deadline:
                time.sleep(0.1)
                every = find_busiest(before, look(), {os.getpid()})
                found = {name: cores for name, cores in every.items() if name.endswith(f"({burner.pid})")}
        finally:
            burner.kill()
    assert found
    assert next(iter(found)).startswith("python")
