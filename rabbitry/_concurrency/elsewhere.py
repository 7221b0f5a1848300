"""What is said to who uses something outside the event loop, the thread or the task that it lives in: how to do it."""

from __future__ import annotations

from rabbitry._errors import LocalProtocolError

__all__ = ["of_another_loop", "of_another_task", "of_another_thread"]


def of_another_loop() -> LocalProtocolError:
    """Who waits on another event loop would wait for ever."""
    return LocalProtocolError(
        "it lives on another event loop than the one it is used on (or in the parent of this process): open another "
        "here, by 'async with rabbitry.open_client(...)' or 'await rabbitry.start_client(...)'; have the operation run "
        "there, by anyio.from_thread.run(...); or use rabbitry.blocking, which serves all threads. In pytest-asyncio, "
        "give the fixture the loop_scope of its tests"
    )


def of_another_thread() -> LocalProtocolError:
    """What is done beside the loop's thread harms what the loop is doing."""
    return LocalProtocolError(
        "called in another thread than that of its event loop: there, use anyio.from_thread.run_sync(delivery.ack), "
        "say, or rabbitry.blocking, whose objects may be used in any thread"
    )


def of_another_task() -> LocalProtocolError:
    """What is entered in a task has its background tasks as children, and their cancel scope is the task's."""
    return LocalProtocolError(
        "its block was entered in one task and left in another, as in a fixture of pytest-asyncio or an async "
        "generator that was not closed: use 'client = await rabbitry.start_client(...)' and 'await client.aclose()'. "
        "It has been closed"
    )
