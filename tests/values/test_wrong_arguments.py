"""Values as people write them, of another type or out of range: none is taken silently, none answered by a riddle."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

import rabbitry
from rabbitry._values.durations import seconds
from rabbitry._values.options import whole
from tests.support.helpers import open_channel, unique


class Name(Enum):
    JOBS = "jobs"


class Index:
    """An integer of another library."""

    def __index__(self) -> int:
        return 5


async def handle(delivery: rabbitry.Delivery) -> None: ...


@pytest.mark.parametrize("wrong", ["5", b"5", True, False, 5.0, Decimal(5), None, [5]])
def test_what_is_no_whole_number(wrong: Any) -> None:
    with pytest.raises(TypeError, match="window must be an int"):
        whole(wrong, "window")
    assert (whole(5, "window"), whole(Index(), "window")) == (5, 5)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["5", b"5", True, None, [5], "PT5S"])
def test_what_is_no_duration(wrong: Any) -> None:
    with pytest.raises(TypeError, match="a number of seconds, or a timedelta"):
        seconds(wrong)
    assert seconds(Decimal("0.5")) == seconds(timedelta(milliseconds=500)) == 0.5  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [None, b"jobs", Name.JOBS, Path("jobs"), 5, ("jobs",), {}, True])
async def test_what_is_no_name(amqp_url: str, wrong: Any) -> None:
    async with rabbitry.open_client(amqp_url) as client, open_channel(amqp_url) as channel:
        for use in (
            lambda: client.consume(wrong).__aenter__(),
            lambda: client.process(wrong, handle),
            lambda: client.inspect(wrong),
            lambda: client.publish(b"x", exchange=wrong),
            lambda: client.publish(b"x", routing_key=wrong),
            lambda: channel.get(wrong),
        ):
            with pytest.raises(TypeError):
                await use()


@pytest.mark.parametrize("wrong", ["é" * 128, "\ud800"])
async def test_names_that_no_frame_carries(amqp_url: str, wrong: str) -> None:
    async with rabbitry.open_client(amqp_url) as client:
        for use in (
            lambda: client.consume(wrong).__aenter__(),
            lambda: client.inspect(wrong),
            lambda: client.publish(b"x", routing_key=wrong),
            lambda: client.publish(b"x", exchange=wrong),
        ):
            with pytest.raises(ValueError, match=r"256 bytes|UTF-8"):
                await use()


@pytest.mark.parametrize("wrong", ["100", 100.0, True, None, Decimal(5)])
async def test_what_is_no_count(amqp_url: str, wrong: Any) -> None:
    name = unique("counted")
    async with rabbitry.open_client(amqp_url) as client, open_channel(amqp_url) as channel:
        for use in (
            lambda: client.consume(name, prefetch=wrong).__aenter__(),
            lambda: client.consume(name, prefetch=0).batches(wrong, within=1),
            lambda: client.process(name, handle, concurrency=wrong),
            lambda: client.serve(name, handle, concurrency=wrong),
            lambda: client.publisher(window=wrong).__aenter__(),
            lambda: channel.qos(wrong),
            lambda: channel.publisher(window=wrong),
        ):
            with pytest.raises(TypeError, match="must be an int"):
                await use()  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"heartbeat": "5"}, TypeError),
        ({"heartbeat": True}, TypeError),
        ({"heartbeat": timedelta(seconds=-2)}, ValueError),
        ({"connect_timeout": "5"}, TypeError),
        ({"connect_timeout": timedelta(0)}, ValueError),
        ({"frame_max": "8192"}, TypeError),
        ({"channel_max": 1.5}, TypeError),
        ({"max_message_size": True}, TypeError),
        ({"name": 5}, TypeError),
        ({"client_properties": ["a"]}, TypeError),
        ({"dial": 5}, TypeError),
    ],
)
def test_what_a_connection_can_not_be_made_of(options: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        rabbitry.connect(**options)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"urls": None}, TypeError),
        ({"urls": b"amqp://localhost"}, TypeError),
        ({"urls": Path("/tmp")}, TypeError),
        ({"urls": ()}, ValueError),
        ({"reconnect": 5}, TypeError),
        ({"credentials": ("guest", "guest")}, TypeError),
        ({"drain": -1}, ValueError),
        ({"drain": "5"}, TypeError),
    ],
)
async def test_what_a_client_can_not_be_made_of(options: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        async with rabbitry.open_client(**options):
            pass
