"""The one way this library holds a task group: its own background never shows in what the user's body raises.

What must stay true: the very object the body raised leaves the block, whether it is an error, a cancellation or a group
of the body's own making; an `ExceptionGroup` of the library's making never does. What a background task raised leaves
it only where the body raised no error of its own, or where it ends the program (Ctrl-C may strike in any task).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskGroup

from rabbitry._concurrency.elsewhere import of_another_loop, of_another_task
from rabbitry._concurrency.virtual import follow_loop
from rabbitry._concurrency.waiting import running_loop
from rabbitry._errors import LocalProtocolError
from rabbitry._later import Later

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = Later("asyncio")

__all__ = ["background"]

logger = logging.getLogger("rabbitry")


@asynccontextmanager
async def background() -> AsyncIterator[TaskGroup]:
    """A task group for background tasks. The body must have ended them when it leaves. `LocalProtocolError` where that
    is in another task, or on another event loop.

    A task group wraps what its body raises into a group. So the body's exception is kept inside, the group ends as if
    all were well, and the same object goes on outside; a cancellation that the group raises on its way out is the same
    cancellation again.
    """
    follow_loop()
    failure: BaseException | None = None
    tg = anyio.create_task_group()
    await tg.__aenter__()
    loop, task = running_loop(), anyio.get_current_task().id
    try:
        yield tg
    except BaseException as exc:
        failure = exc
    is_elsewhere = anyio.get_current_task().id != task
    if is_elsewhere and running_loop() is not loop:
        raise _once(of_another_loop(), failure)  # where nobody can wait for those tasks
    if is_elsewhere and not isinstance(loop, asyncio.AbstractEventLoop):
        raise _once(of_another_task(), failure)  # trio would end the program
    try:
        await tg.__aexit__(None, None, None)
    except RuntimeError:  # AnyIO's, which names a cancel scope
        if not is_elsewhere:
            raise
        said = _once(of_another_task(), failure)
        raise said from said.__cause__
    except BaseExceptionGroup as group:
        cancelled = anyio.get_cancelled_exc_class()
        defect = _first_error(group, cancelled)
        if defect is not None:  # a background task crashed, and took the body with it unless that failed first
            if failure is None or isinstance(failure, cancelled) or not isinstance(defect, Exception):
                raise defect from defect.__cause__  # not from the group
            if not _tells_of(failure, defect):
                logger.error("a background task failed, too", exc_info=defect)
        elif failure is None:
            raise
    except BaseException:
        if failure is None:
            raise
    if failure is not None:
        raise failure


def _once(error: LocalProtocolError, failure: BaseException | None) -> BaseException:
    """The error, unless a group inside this one has said it."""
    if isinstance(failure, LocalProtocolError):
        return failure
    error.__cause__ = failure
    return error


def _first_error(group: BaseExceptionGroup[BaseException], cancelled: type[BaseException]) -> BaseException | None:
    """The first that is no cancellation, but for those that are to end the program, which go first."""
    errors = list(_leaves(group))
    ending = (error for error in errors if not isinstance(error, Exception) and not isinstance(error, cancelled))
    return next(ending, None) or next((error for error in errors if isinstance(error, Exception)), None)


def _tells_of(failure: BaseException, defect: BaseException) -> bool:
    """Whether whoever sees the failure sees the defect with it, as its cause, its context or a member of the group."""
    following: list[BaseException | None] = [failure]
    known: set[int] = set()
    while following:
        each = following.pop()
        if each is defect:
            return True
        if each is not None and id(each) not in known:
            known.add(id(each))
            following += each.__cause__, each.__context__
            if isinstance(each, BaseExceptionGroup):
                following += each.exceptions
    return False


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
