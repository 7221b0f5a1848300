"""A caller: one RPC in flight, over direct reply-to, to one of a few servers; and the servers, which echo.

A call that gets no reply in time counts as a timeout, one that the run cut off too; neither ends the caller.
"""

from __future__ import annotations

from time import monotonic_ns

import anyio

from loadtest.drivers.base import Caller, Connection, Session
from loadtest.plan import Place
from loadtest.run import Attendance, Run


async def call(run: Run, place: Place, connection: Connection, attendance: Attendance) -> None:
    """Calls from the begin until the run stops, then stays connected until it is over."""
    async with connection.caller() as caller:
        attendance.arrive()
        await run.begin.wait()
        await run.timetable.sleep_until(run.start_of(place.index))
        payload = bytes(run.settings.size)
        while not run.is_stopping:
            await _call_once(run, caller, place.queue, payload)
        await attendance.leave()


async def _call_once(run: Run, caller: Caller, queue: str, payload: bytes) -> None:
    tally = run.tally
    started = monotonic_ns()
    tally.calls += 1
    reply = None
    try:
        with anyio.move_on_after(run.settings.rpc_timeout):
            reply = await caller.call(queue, payload)
    except BaseException as error:
        if isinstance(error, Exception):
            tally.rpc_errors += 1
        else:
            tally.rpc_timeouts += 1
        raise
    if reply is None:
        tally.rpc_timeouts += 1
    elif reply != payload:
        tally.rpc_errors += 1
        run.errors.note_name("WrongReply", f"{len(payload)} bytes were echoed as {len(reply)}")
    else:
        tally.replies += 1
        now = monotonic_ns()
        run.latencies(started, now).rpc.record(now - started)


async def serve(run: Run, session: Session, url: str, queue: str) -> None:
    """One server, on a connection of its own, until cancelled."""
    try:
        async with session.connect(url, f"{run.prefix} server {queue}") as connection:
            await connection.serve(queue)
    except Exception as error:
        run.tally.dropped += 1
        run.errors.note(error, " (server)")
