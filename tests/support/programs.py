"""Programs run as their users run them: in processes of their own, whose output tests wait for.

What must stay true: a test waits for lines of output, not for time; no process outlives its test.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0

_printed = threading.Condition()  # some program a line


class Program:
    """One process of this Python, run with `words`; `lines` is what it has printed, errors included."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], folder: Path = ROOT) -> None:
        self.command = " ".join(words)
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, *words],
            cwd=folder,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with _printed:
                self.lines.append(line.rstrip("\n"))
                _printed.notify_all()
        with _printed:
            _printed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        if error is not None:
            print(f"{self.command}:", *self.lines, sep="\n    ")

    def count(self, beginning: str) -> int:
        """How many lines begin so."""
        return len(self.matching(beginning))

    def matching(self, beginning: str) -> list[str]:
        """The lines that begin so."""
        return [line for line in self.lines if line.startswith(beginning)]

    def wait_for(self, beginning: str, count: int = 1) -> None:
        """Return when as many lines that begin so were printed."""
        wait_until(lambda: self.count(beginning) >= count or not self._reader.is_alive())
        assert self.count(beginning) >= count, f"it ended without {beginning!r}"

    def result(self) -> list[str]:
        """What it had printed when it ended well."""
        assert self.process.wait(PATIENCE) == 0, self.lines
        self._reader.join()
        return self.lines

    def end(self, number: int) -> int:
        """Send it a signal; its return code."""
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        self._reader.join()
        return code


def wait_until(condition: Callable[[], bool]) -> None:
    """Return when what programs have printed makes it true."""
    with _printed:
        assert _printed.wait_for(condition, PATIENCE), "not within half a minute"
