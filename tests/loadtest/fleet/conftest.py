"""Processes of the load tester against a real broker, ended with the test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.loadtest.fleet.programs import Programs


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    backend: str = request.param
    return backend


@pytest.fixture
def programs(tmp_path: Path, amqp_url: str) -> Iterator[Programs]:
    made = Programs(tmp_path, amqp_url)
    try:
        yield made
    finally:
        for program in made.all:
            left = [program.process, *program.workers()]
            for process in left:
                with suppress(psutil.NoSuchProcess, ProcessLookupError):
                    process.kill()
            program.process.wait(10)
