"""A client's two connections share what they learn: that the broker is back, and why there will be none."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

import rabbitry
from rabbitry import Backoff, Queue
from rabbitry._client import link
from tests.support.clients import through_proxy
from tests.support.helpers import unique, until
from tests.support.hostile import Replay, answers, serving

LONG = 100.0


class Pauses:
    """In place of `random`: what each pause takes, the last of them for ever more."""

    def __init__(self, *pauses: float) -> None:
        self._pauses = list(pauses)

    def uniform(self, low: float, high: float) -> float:
        return self._pauses.pop(0) if len(self._pauses) > 1 else self._pauses[0]

    def sample(self, population: Sequence[Any], count: int) -> list[Any]:
        return list(population)


async def use_both(client: rabbitry.Client) -> None:
    await client.declare(Queue.temporary())
    await client.publish(b"", routing_key="nowhere")


@pytest.mark.parametrize("pauses", [(0.2, LONG), (0.2, LONG, LONG)])
async def test_when_one_is_back_the_other_tries_at_once(
    pauses: tuple[float, ...], amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with through_proxy(amqp_url, reconnect=Backoff(initial=30, maximum=30)) as (client, proxy):
        await use_both(client)
        monkeypatch.setattr(link, "_RANDOM", Pauses(*pauses))
        began = anyio.current_time()
        proxy.cut()
        await until(lambda: client.statistics()["publishing_lives"] == 2, 10)
        await until(lambda: client.statistics()["consuming_lives"] == 2, 10)
        assert anyio.current_time() - began < 5
        await use_both(client)


async def test_one_that_was_away_from_the_start(amqp_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The publishing one tries alone for long; then the consuming one is needed for the first time."""
    monkeypatch.setattr(link, "_RANDOM", Pauses(LONG))
    async with through_proxy(amqp_url) as (client, proxy), anyio.create_task_group() as tg:
        proxy.refuse()
        tg.start_soon(lambda: client.publish(b"", routing_key="nowhere"))
        await until(lambda: client.last_error is not None)
        await anyio.wait_all_tasks_blocked()
        proxy.accept()
        with anyio.fail_after(10):
            await client.inspect(unique())
            await client.publish(b"", routing_key="nowhere")


async def test_two_that_are_always_dropped_do_not_chase_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "_RANDOM", Pauses(0.1))
    with serving(Replay(answers(), hang_up=True).serve) as server:
        async with rabbitry.open_client(server.url) as client, anyio.create_task_group() as tg:
            for each in client._publishing, client._consuming:
                tg.start_soon(each.connection, "wait")
            await anyio.sleep(1.5)
            tg.cancel_scope.cancel()
    assert 4 < server.accepted < 80  # each 15 times by its own pauses, and as often at most following the other


async def test_one_that_fails_alone_keeps_its_pauses(amqp_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other is well all the while, and so is no news."""
    async with through_proxy(amqp_url) as (client, proxy):
        await use_both(client)
        monkeypatch.setattr(link, "_RANDOM", Pauses(LONG))
        links = len(proxy.links)
        (await client._publishing.connection("fail"))._endpoint.drop()
        await until(lambda: client._publishing.state == "recovering")
        await client.inspect(unique())
        await anyio.sleep(0.3)
        assert client._publishing.state == "recovering" and len(proxy.links) <= links


async def test_refused_credentials_are_told_once(amqp_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    url = amqp_url.replace("guest:guest", "guest:wrong")

    async def alone(client: rabbitry.Client) -> None:
        await client.publish(b"", routing_key="q")

    async def in_a_group(client: rabbitry.Client) -> None:
        async with anyio.create_task_group() as tg:
            tg.start_soon(lambda: client.publish(b"", routing_key="q"))
            tg.start_soon(lambda: client.declare(Queue("q")))

    async def in_words_of_its_own(client: rabbitry.Client) -> None:
        try:
            await client.publish(b"", routing_key="q")
        except rabbitry.NotConnected as error:
            raise LookupError("no broker") from error

    for body in alone, in_a_group, in_words_of_its_own:
        with pytest.raises(BaseException) as raised:
            async with rabbitry.open_client(url) as client:
                await body(client)
        assert isinstance(raised.value, rabbitry.AuthenticationFailed | BaseExceptionGroup | LookupError)
    assert not caplog.records
