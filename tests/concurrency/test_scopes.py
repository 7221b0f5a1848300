"""The task group that the library holds for its background: what leaves it."""

from __future__ import annotations

import anyio
import pytest

from rabbitry._concurrency.scopes import background


class Stop(BaseException):
    """Ends the program, as KeyboardInterrupt would."""


async def fail(error: BaseException) -> None:
    raise error


async def fail_when_cancelled(error: BaseException) -> None:
    try:
        await anyio.sleep_forever()
    finally:
        raise error


async def test_the_bodys_error_goes_before_the_backgrounds(caplog: pytest.LogCaptureFixture) -> None:
    mine = ValueError("the body's")
    with pytest.raises(ValueError) as raised:
        async with background() as tg:
            tg.start_soon(fail_when_cancelled, RuntimeError("the background's"))
            await anyio.wait_all_tasks_blocked()
            tg.cancel_scope.cancel()
            raise mine
    assert raised.value is mine
    assert "a background task failed, too" in caplog.text


@pytest.mark.parametrize("error", [RuntimeError("a defect"), Stop()])
async def test_a_background_error_leaves_a_body_that_it_cancelled(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised:
        async with background() as tg:
            tg.start_soon(fail, error)
            await anyio.sleep_forever()
    assert raised.value is error


async def test_what_ends_the_program_goes_first() -> None:
    with pytest.raises(Stop):
        async with background() as tg:
            tg.start_soon(fail_when_cancelled, RuntimeError("a defect"))
            tg.start_soon(fail_when_cancelled, Stop())
            await anyio.wait_all_tasks_blocked()
            tg.cancel_scope.cancel()
            raise ValueError("the body's")


async def test_a_group_of_the_bodys_own_passes_unchanged() -> None:
    group = ExceptionGroup("mine", [ValueError()])
    with pytest.raises(ExceptionGroup) as raised:
        async with background():
            raise group
    assert raised.value is group


@pytest.mark.parametrize("way", ["cause", "context", "member", "far away"])
async def test_what_the_bodys_error_tells_of_already_is_not_logged(way: str, caplog: pytest.LogCaptureFixture) -> None:
    defect = RuntimeError("the background's")

    def tell() -> None:
        if way == "context":
            try:
                raise defect
            except RuntimeError:
                raise ValueError  # noqa: B904
        if way == "cause":
            raise ValueError from defect
        group = ExceptionGroup("several", [KeyError(), defect])
        if way == "member":
            raise group
        raise ValueError from ExceptionGroup("outer", [group])

    with pytest.raises((ValueError, ExceptionGroup)):
        async with background() as tg:
            tg.start_soon(fail_when_cancelled, defect)
            await anyio.wait_all_tasks_blocked()
            tg.cancel_scope.cancel()
            tell()
    assert "failed, too" not in caplog.text
