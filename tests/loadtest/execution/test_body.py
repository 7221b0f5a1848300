from __future__ import annotations

import pytest

from loadtest.execution.body import BodyMaker, read_stamp
from loadtest.scenarios.settings import STAMP_BYTES


def test_bodies_carry_their_stamp_and_have_their_size() -> None:
    make = BodyMaker(tag=2**32 - 1, size=128)
    body = make(4499, 2**40, 2**62)
    assert len(body) == 128
    assert read_stamp(body) == (2**32 - 1, 4499, 2**40, 2**62)
    assert len(BodyMaker(1, STAMP_BYTES)(0, 0, 0)) == STAMP_BYTES
    assert read_stamp(b"short") is None
    with pytest.raises(ValueError, match="no room"):
        BodyMaker(1, STAMP_BYTES - 1)
