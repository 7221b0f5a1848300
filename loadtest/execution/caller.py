"""A caller: one RPC in flight, over direct reply-to, to one of a few servers; and the servers, which echo.

In a closed loop the next call leaves with the reply, in an open one when the schedule says so. A call that gets no
reply in time counts as a timeout, one that the run cut off too; neither ends the caller. All that was called counts
among the latencies with the time it waited, a call that failed with its connection too: a percentile of the survivors
alone would hide the worst.
"""

from __future__ import annotations

from time import monotonic_ns

import anyio

from loadtest.drivers.base import Caller, Connection, Session
from loadtest.execution.opening import open_client
from loadtest.execution.pace import Pace
from loadtest.execution.state import Attendance, Run
from loadtest.scenarios.plan import Place


async def call(run: Run, place: Place, connection: Connection, attendance: Attendance) -> None:
    """Calls from the begin until the run stops, then stays connected until it is over."""
    pace = Pace(run, place)
    async with connection.caller() as caller:
        attendance.arrive()
        run.at_work += 1
        try:
            await pace.begin()
            payload = bytes(run.settings.size)
            while (intended := await pace.next()) is not None:
                await _call_once(run, place, caller, payload, intended)
        finally:
            run.at_work -= 1
        await attendance.leave()


async def call_once(run: Run, place: Place, connection: Connection, intended: int) -> None:
    """Opens what a caller needs, makes one call, and closes it."""
    async with connection.caller() as caller:
        await _call_once(run, place, caller, bytes(run.settings.size), intended)


async def _call_once(run: Run, place: Place, caller: Caller, payload: bytes, intended: int) -> None:
    tally = run.record.tally
    sent = monotonic_ns()
    tally.calls += 1
    run.record.calls_made[place.index] += 1
    reply = None
    try:
        with anyio.move_on_after(run.settings.rpc_timeout):
            reply = await caller.call(place.queue, payload)
    except Exception:
        tally.rpc_errors += 1
        raise
    except BaseException:
        tally.rpc_timeouts += 1
        tally.rpc_unanswered += 1
        raise
    else:
        if reply is None:
            tally.rpc_timeouts += 1
        elif reply != payload:
            tally.rpc_errors += 1
            run.record.errors.note_name("WrongReply", f"{len(payload)} bytes were echoed as {len(reply)}")
        else:
            tally.replies += 1
    finally:
        _time_call(run, intended, sent)


def _time_call(run: Run, intended: int, sent: int) -> None:
    now = monotonic_ns()
    latencies = run.measurement.latencies(intended, now)
    latencies.rpc.record(now - intended)
    if run.settings.loop == "open":
        latencies.rpc_service.record(now - sent)
        latencies.rpc_lag.record(sent - intended)


async def serve(run: Run, session: Session, url: str, queue: str) -> None:
    """Answers one queue's requests, on a connection of its own, until cancelled."""
    try:
        async with open_client(run, session, url, f"{run.plan.prefix} server {queue}", consuming=True) as connection:
            await connection.serve(queue)
    except Exception as error:
        run.record.tally.servers_lost += 1
        run.record.errors.note(error, " (server)")
