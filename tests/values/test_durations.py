"""Durations are seconds or timedelta, and RabbitMQ's limit on them is the same wherever it takes milliseconds."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest

import rabbitry
from rabbitry._values.durations import LONGEST_MS, seconds

LONGEST = timedelta(milliseconds=LONGEST_MS)


def test_seconds() -> None:
    assert [seconds(each) for each in (2, 0.5, timedelta(minutes=1), timedelta(milliseconds=-3))] == [
        2,
        0.5,
        60,
        -0.003,
    ]


@pytest.mark.parametrize("duration", [math.inf, -math.inf, math.nan])
def test_what_is_no_duration(duration: float) -> None:
    with pytest.raises(rabbitry.LocalProtocolError, match="a duration must be finite"):
        seconds(duration)


def test_one_limit_for_all_that_rabbitmq_takes_in_milliseconds() -> None:
    assert LONGEST_MS == 4_294_967_295
    assert rabbitry.Message(b"", expiration=LONGEST).encoded_properties()
    assert rabbitry.Queue("jobs", message_ttl=LONGEST, expires=LONGEST).declaration()
    longer = LONGEST + timedelta(milliseconds=1)
    with pytest.raises(ValueError, match="expiration"):
        rabbitry.Message(b"", expiration=longer).encoded_properties()
    for name in ("message_ttl", "expires"):
        with pytest.raises(rabbitry.LocalProtocolError, match=name):
            rabbitry.Queue("jobs", **{name: longer})  # type: ignore[arg-type]
