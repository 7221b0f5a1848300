from __future__ import annotations

import pytest


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run draws no page and no picture: it has a process do so, which takes longer than a small run."""
    monkeypatch.setattr("loadtest.output.files.draw", lambda results, files: [])
