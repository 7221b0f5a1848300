"""The one way this library holds a task group: its own background never shows in what the user's body raises.

What must stay true: the very object the body raised leaves the block, whether it is an error, a cancellation or a group
of the body's own making; an `ExceptionGroup` of the library's making never does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup

__all__ = ["background"]


@asynccontextmanager
async def background() -> AsyncIterator[TaskGroup]:
    """A task group for background tasks. The body must have ended them when it leaves.

    A task group wraps what its body raises into a group. So the body's exception is kept inside, the group ends as if
    all were well, and the same object goes on outside; a cancellation that the group raises on its way out is the same
    cancellation again.
    """
    failure: BaseException | None = None
    try:
        async with anyio.create_task_group() as tg:
            try:
                yield tg
            except BaseException as exc:
                failure = exc
    except BaseExceptionGroup as group:
        defect = _first_error(group)
        if defect is not None:  # a background task of ours crashed and took the body with it
            raise defect from None
        if failure is None:
            raise
    except BaseException:
        if failure is None:
            raise
    if failure is not None:
        raise failure


def _first_error(group: BaseExceptionGroup[BaseException]) -> Exception | None:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            found = _first_error(error)
            if found is not None:
                return found
        elif isinstance(error, Exception):
            return error
    return None
