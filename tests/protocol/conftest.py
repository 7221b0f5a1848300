"""Each test that asks for `split` runs once for each way to cut up what the client receives."""

from __future__ import annotations

import pytest

from tests.support.protocol_broker import SPLITS


@pytest.fixture(params=SPLITS)
def split(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name
