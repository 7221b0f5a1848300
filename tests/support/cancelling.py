"""Cancels an operation at a chosen moment: at its k-th await point, or in the very turn in which a reply arrives.

An operation is a coroutine object. `cancel_at` drives it by hand, counts how often it suspends, and cancels its scope
there; or it holds back what the broker sends, and hands it over in bursts in the turn of the cancellation. `moments`
walks through all of them until the operation gets to its end before its moment comes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import pytest

import rabbitry
from rabbitry._endpoint import Endpoint

QUIET = 0.003
"""Seconds without data from the broker that end a burst."""

NATIVELY = "natively after the reply"
KINDS = ("start", "suspension", "before the reply", "after the reply", NATIVELY)


@dataclass(frozen=True)
class Moment:
    """When to cancel.

    "start": before it begins. "suspension": at its `index`-th await point. "before the reply", "after the reply": in
    the turn in which the `index`-th burst is parsed. "natively": by `asyncio.Task.cancel`, which, unlike
    AnyIO's scopes, also hits a task whose reply is there already.
    """

    kind: str
    index: int

    def __str__(self) -> str:
        return f"{self.kind} {self.index}"


class Attempt:
    """What became of an operation. `came` tells whether its moment came before it ended."""

    def __init__(self, moment: Moment) -> None:
        self.moment = moment
        self.came = False
        self.is_cancelled = False
        self.value: Any = None
        self.error: BaseException | None = None

    @property
    def has_returned(self) -> bool:
        return not self.is_cancelled and self.error is None

    def __repr__(self) -> str:
        state = (
            "cancelled" if self.is_cancelled else f"raised {self.error!r}" if self.error else f"returned {self.value!r}"
        )
        return f"<{state}, moment {self.moment}{'' if self.came else ' never came'}>"


class Post:
    """Stands between all transports and their endpoints; holds back what arrives while an attempt wants it so."""

    def __init__(self) -> None:
        self.held: list[tuple[Endpoint, bytes, float]] | None = None
        self._receive = Endpoint.receive_data

    def receive_data(self, endpoint: Endpoint, data: bytes, now: float) -> None:
        if self.held is None:
            self._receive(endpoint, data, now)
        else:
            self.held.append((endpoint, data, now))

    def deliver(self) -> None:
        held, self.held = self.held or [], []
        chunks: dict[Endpoint, bytes] = {}
        for endpoint, data, _ in held:
            chunks[endpoint] = chunks.get(endpoint, b"") + data
        for endpoint, data in chunks.items():
            self._receive(endpoint, data, held[-1][2])

    @asynccontextmanager
    async def in_bursts(self, before: Callable[[], None], after: Callable[[], None]) -> AsyncIterator[None]:
        """Hold back inside the block; `before` and `after` are called around each burst, in the same turn."""

        async def carry() -> None:
            while True:
                seen = len(self.held or ())
                await anyio.sleep(QUIET)
                if seen and seen == len(self.held or ()):
                    before()
                    self.deliver()
                    after()

        self.held = []
        try:
            async with anyio.create_task_group() as tg:
                tg.start_soon(carry)
                yield
                tg.cancel_scope.cancel()
        finally:
            self.deliver()
            self.held = None


@pytest.fixture
def post(monkeypatch: pytest.MonkeyPatch) -> Post:
    """The one `Post` of a test."""
    post = Post()
    monkeypatch.setattr(Endpoint, "receive_data", lambda self, data, now: post.receive_data(self, data, now))
    return post


class Driven:
    """Awaits a coroutine; calls `on_suspension` each time it gives way to the event loop."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], on_suspension: Callable[[], None]) -> None:
        self._coroutine = coroutine
        self._on_suspension = on_suspension

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine = self._coroutine
        step = partial(coroutine.send, None)
        while True:
            try:
                trap = step()
            except StopIteration as stop:
                return stop.value
            self._on_suspension()
            try:
                answer = yield trap
            except BaseException as exc:
                step = partial(coroutine.throw, exc)
            else:
                step = partial(coroutine.send, answer)


async def cancel_at(coroutine: Coroutine[Any, Any, Any], moment: Moment, post: Post) -> Attempt:
    """Run the operation, cancel it at `moment`, and tell what became of it."""
    attempt = Attempt(moment)
    if moment.kind == NATIVELY:
        await _cancel_natively(coroutine, attempt, post)
        return attempt
    scope = anyio.CancelScope()
    cancel = _countdown(attempt, scope.cancel)
    if moment.kind in ("start", "suspension"):
        if moment.kind == "start":
            cancel()
        with scope:
            await _run(coroutine, attempt, cancel)
    else:
        before = moment.kind == "before the reply"
        async with post.in_bursts(cancel if before else _nothing, _nothing if before else cancel):
            with scope:
                await _run(coroutine, attempt, _nothing)
    attempt.is_cancelled = scope.cancelled_caught
    return attempt


async def _cancel_natively(coroutine: Coroutine[Any, Any, Any], attempt: Attempt, post: Post) -> None:
    async with post.in_bursts(_nothing, _countdown(attempt, lambda: task.cancel())):
        task = asyncio.ensure_future(_run(coroutine, attempt, _nothing))
        try:
            await task
        except asyncio.CancelledError:
            attempt.is_cancelled = True


def _nothing() -> None:
    pass


def _countdown(attempt: Attempt, cancel: Callable[[], Any]) -> Callable[[], None]:
    left = attempt.moment.index

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            attempt.came = True
            cancel()

    return count


async def _run(coroutine: Coroutine[Any, Any, Any], attempt: Attempt, on_suspension: Callable[[], None]) -> None:
    try:
        attempt.value = await Driven(coroutine, on_suspension)
    except Exception as exc:
        attempt.error = exc
    except BaseException as exc:
        if isinstance(exc, BaseExceptionGroup):  # of cancellations: it would be of the library's own making
            raise AssertionError("a group left the operation") from exc
        raise


def moments(backend: str) -> Generator[Moment, Attempt, None]:
    """All moments to cancel an operation at; wants to be sent what became of each."""
    for kind in KINDS:
        if kind == NATIVELY and backend != "asyncio":
            continue
        for index in range(1, 100):
            attempt = yield Moment(kind, index)
            if kind == "start" or not attempt.came:
                break
        else:
            raise AssertionError(f"no end of moments {kind!r}")


# --- cases ----------------------------------------------------------------------------------------------------------


Operation = Coroutine[Any, Any, Any]


class Stage:
    """Where one attempt takes place: a channel of its own on a connection that all attempts of a case share."""

    def __init__(self, url: str, reactor: rabbitry.Reactor, connection: rabbitry.Connection, backend: str) -> None:
        self.backend = backend
        self.url = url
        self.reactor = reactor
        self.connection = connection
        self.channel = connection.channel()


@dataclass
class Case:
    """`covers` are the coroutines that the case cancels; `least` is how many moments must have cancelled something.

    `shielded`: the operation gets to its end whenever it is cancelled; `least` counts the moments alone then.
    """

    covers: tuple[str, ...]
    play: Callable[[Stage], AsyncGenerator[Operation, Attempt]]
    options: dict[str, Any]
    least: int
    shielded: bool
    may_close: bool


CASES: list[Any] = []


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def case(
    *covers: str,
    least: int = 3,
    shielded: bool = False,
    may_close: bool = False,
    rabbitmq: str = "",
    **options: Any,
) -> Callable[[Any], Any]:
    """Register a case; `options` are those of its channel. `may_close`: a cancellation may end the channel. `rabbitmq`:
    why the embedded broker will not do.
    """
    marks = [pytest.mark.rabbitmq(rabbitmq)] if rabbitmq else []

    def register(play: Any) -> Any:
        it = Case(covers, play, options, least, shielded, may_close)
        CASES.append(pytest.param(it, id=play.__name__, marks=marks))
        return play

    return register
