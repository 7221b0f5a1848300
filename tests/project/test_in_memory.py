"""Which tests have the embedded broker in memory, and what that means; and that their order is any."""

from __future__ import annotations

import time
from pathlib import Path

import anyio
import pytest

import rabbitry
from rabbitry.testing import check_virtual_time, open_proxy
from tests.support.in_memory import amqp_url as amqp_url
from tests.support.in_memory import anyio_backend as anyio_backend
from tests.support.in_memory import broker_in_memory as broker_in_memory
from tests.support.in_memory import broker_version as broker_version
from tests.support.in_memory import wants_rabbitmq
from tests.support.repeated import differences, outcomes


def marks(request: pytest.FixtureRequest) -> set[str]:
    return {mark.name for mark in request.node.iter_markers()} & {"broker", "in_memory"}


async def test_the_broker_is_embedded_and_time_takes_none(
    request: pytest.FixtureRequest, amqp_url: str, broker_version: tuple[int, ...]
) -> None:
    if wants_rabbitmq(request.config):
        assert marks(request) == {"broker"}
        return
    assert marks(request) == {"in_memory"}
    check_virtual_time()
    began = time.monotonic()
    async with rabbitry.connect(amqp_url) as connection:
        assert str(connection.server_properties["version"]).startswith("{}.{}".format(*broker_version))
        await anyio.sleep(3600)
    assert time.monotonic() - began < 20
    with pytest.raises(AssertionError, match="has slept 0 real"):
        time.sleep(0)  # noqa: ASYNC251 - it is caught


async def test_each_has_its_own(amqp_url: str, request: pytest.FixtureRequest) -> None:
    """What another test has declared is not there; nor, once more, on the other backend."""
    async with rabbitry.open_client(amqp_url) as client:
        assert await client.inspect("of another test in memory") is None
        if not wants_rabbitmq(request.config):
            await client.declare(rabbitry.Queue("of another test in memory"))


async def test_another_broker_is_out_of_reach(amqp_url: str, request: pytest.FixtureRequest) -> None:
    if not wants_rabbitmq(request.config):
        with pytest.raises(rabbitry.LocalProtocolError, match="needs a real socket"):
            async with rabbitry.connect("amqp://127.0.0.1:1"):
                pass


@pytest.mark.rabbitmq("to see it")
async def test_what_has_the_mark_faces_rabbitmq(amqp_url: str, request: pytest.FixtureRequest) -> None:
    assert marks(request) == {"broker"} and "@embedded" not in amqp_url


async def test_what_has_a_proxy_does(amqp_url: str, request: pytest.FixtureRequest) -> None:
    assert marks(request) == {"broker"} and callable(open_proxy)


def test_what_is_sync_does(amqp_url: str, request: pytest.FixtureRequest) -> None:
    assert marks(request) == {"broker"} and "@embedded" not in amqp_url


def test_repetitions_are_compared_by_what_became_of_each_test(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    case = '<testcase classname="a" name="{}">{}</testcase>'
    ends = {"x": "", "y": "<failure/><error/>", "z": "<skipped/>"}
    report.write_text(f"<suite>{''.join(case.format(*each) for each in ends.items())}</suite>")
    found = outcomes(report)
    assert found == {"a.x": "passed", "a.y": "error and failure", "a.z": "skipped"}
    assert differences(found, found) == []
    assert differences(found, {"a.x": "failure", "a.z": "skipped"}) == [
        "a.x: passed, then failure",
        "a.y: error and failure, then not run",
    ]


def test_a_seed_gives_an_order(pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.conftest import pytest_collection_modifyitems

    class Item:
        path = Path("somewhere")

    def ordered(seed: int | None) -> list[object]:
        monkeypatch.setattr(pytestconfig.option, "shuffle", seed)
        monkeypatch.setattr(pytestconfig.option, "only_backend", None)
        mixed = list(items)
        list(pytest_collection_modifyitems(pytestconfig, mixed))  # type: ignore[arg-type]
        return mixed

    items: list[object] = [Item() for _ in range(20)]
    assert ordered(None) == items
    assert ordered(1) == ordered(1) != items
    assert ordered(2) != ordered(1) and set(ordered(2)) == set(items)
