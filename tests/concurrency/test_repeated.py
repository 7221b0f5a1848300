"""Log lines that may repeat: the first whole, then one a second with the number of those left out."""

from __future__ import annotations

import logging
import sys
from threading import Thread

import pytest

from rabbitry._concurrency.clock import Clock, with_clock
from rabbitry._concurrency.repeated import KINDS, Repeated


def test_one_line_a_second_of_each_kind(caplog: pytest.LogCaptureFixture) -> None:
    now, error, repeated = 100.0, ValueError("mine"), Repeated()
    with with_clock(Clock(lambda: now, lambda: now)):
        for tenth in range(25):
            now = 100 + tenth / 10
            repeated.log(logging.ERROR, "jobs", "a", "failed: %s", tenth, error=error)
            if tenth < 2:
                repeated.log(logging.WARNING, "jobs", "b", "another kind")
                repeated.log(logging.WARNING, "other", "a", "another name")
        lines = [record.getMessage() for record in caplog.records]
        more = "more like it since the last such line)"
        assert lines == [
            "failed: 0",
            "another kind",
            "another name",
            f"failed: 10 (and 9 {more}",
            f"failed: 20 (and 9 {more}",
        ]
        assert [record.exc_info is not None for record in caplog.records] == [True, False, False, False, False]
        now += 60
        repeated.log(logging.ERROR, "jobs", "a", "failed", error=error)
        assert caplog.records[-1].exc_info is not None and "(and 4 more" in caplog.records[-1].getMessage()


def test_what_was_left_out_is_told_in_the_end(caplog: pytest.LogCaptureFixture) -> None:
    repeated = Repeated()
    for kind in ("a", "b", "a", "b", "b"):
        repeated.log(logging.ERROR, "jobs", kind, "failed")
    repeated.finish(logging.ERROR, "jobs", "%s: %d more", "jobs")
    assert caplog.records[-1].getMessage() == "jobs: 3 more"
    repeated.finish(logging.ERROR, "jobs", "%s: %d more", "jobs")
    repeated.log(logging.ERROR, "jobs", "a", "failed")  # anew
    assert [record.getMessage() for record in caplog.records].count("failed") == 3 and len(caplog.records) == 4


def test_what_is_remembered_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    repeated = Repeated()
    for number in range(2 * KINDS):
        repeated.log(logging.ERROR, number, None, "failed")
    assert len(repeated._kinds) == KINDS and len(caplog.records) == 2 * KINDS
    repeated.log(logging.ERROR, 2 * KINDS - 1, None, "failed")
    assert len(caplog.records) == 2 * KINDS


def test_a_clock_that_goes_back_silences_nothing(caplog: pytest.LogCaptureFixture) -> None:
    repeated = Repeated()
    for now in (1000.0, 5.0):
        with with_clock(Clock(lambda now=now: now, lambda: 0.0)):  # type: ignore[misc]
            repeated.log(logging.ERROR, "jobs", None, "failed")
    assert len(caplog.records) == 2


def test_several_threads(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever looks through what is remembered meets no other who adds to it."""
    repeated, failures = Repeated(), list[BaseException]()

    def log(name: str) -> None:
        try:
            for number in range(3000):
                repeated.log(logging.DEBUG, name, number, "line")
                if number % 50 == 0:
                    repeated.finish(logging.DEBUG, name, "%d more")
        except RuntimeError as error:
            failures.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [Thread(target=log, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not failures
