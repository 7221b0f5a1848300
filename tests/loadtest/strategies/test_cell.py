"""A cell's process ends with a reason that can be read, whatever its clients took from it."""

from __future__ import annotations

import errno
import resource
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from loadtest.strategies import cell


class Course:
    def __init__(self, error: OSError) -> None:
        self._error = error

    def run(self, *_: object) -> NoReturn:
        raise self._error


def perform(error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(code: int) -> NoReturn:
        raise SystemExit(code)

    monkeypatch.setattr(cell.os, "_exit", end)
    threads: Any = SimpleNamespace(start=lambda: None, begin=lambda: None, refusal=None, arrived=9341)
    course: Any = Course(error)
    cell._perform_threads(threads, course)


def test_threads_that_took_all_descriptors_are_the_reason(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        perform(OSError(errno.EMFILE, "Too many open files"), monkeypatch)
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    told = f"all {allowed:,} descriptors allowed were open with 9,341 clients connected\n"
    assert (ended.value.code, capfd.readouterr().err) == (1, told)


def test_any_other_failure_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PermissionError):
        perform(PermissionError(errno.EACCES, "no"), monkeypatch)
