from __future__ import annotations

import pytest

from loadtest.execution import leftovers


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker in memory is never slow."""
    monkeypatch.setattr(leftovers, "STALL", 0.1)
    monkeypatch.setattr(leftovers, "RECOUNT_INTERVAL", 0.05)
