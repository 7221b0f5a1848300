"""What the tests of the Taskiq broker share: brokers of their own, and Taskiq's worker in the test's event loop."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Taskiq runs on asyncio alone."""
    return "asyncio"
