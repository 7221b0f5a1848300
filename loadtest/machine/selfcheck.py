"""Is this process slower than it needs to be? What developers switch on and forget: debug modes, tracers, profilers."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tracemalloc
from contextlib import suppress


def find_slowdowns() -> list[str]:
    """What is switched on, in words; to be asked inside the event loop."""
    found = []
    if sys.flags.dev_mode:
        found.append("Python's development mode (-X dev or PYTHONDEVMODE)")
    if _is_loop_debugged():
        found.append("asyncio's debug mode (PYTHONASYNCIODEBUG, or asked for)")
    if sys.gettrace() is not None:
        found.append("a tracer, such as a debugger or coverage")
    if sys.getprofile() is not None:
        found.append("a profiler")
    if (tools := _monitoring_tools()) and sys.gettrace() is None:
        found.append(f"{', '.join(tools)} by sys.monitoring")
    if tracemalloc.is_tracing():
        found.append("tracemalloc")
    if os.environ.get("PYTHONMALLOC", "").endswith("debug") and not sys.flags.dev_mode:
        found.append("a debugging memory allocator (PYTHONMALLOC)")
    if hasattr(sys, "gettotalrefcount"):
        found.append("a debug build of Python")
    if logging.getLogger("rabbitry").isEnabledFor(logging.DEBUG):
        found.append("logging at level DEBUG")
    return found


def _is_loop_debugged() -> bool:
    with suppress(RuntimeError):
        return asyncio.get_running_loop().get_debug()
    return False


def _monitoring_tools() -> list[str]:
    """Tools registered with sys.monitoring, which Python has from 3.12 on."""
    monitoring = getattr(sys, "monitoring", None)
    if monitoring is None:
        return []
    return [name for number in range(6) if (name := monitoring.get_tool(number)) and monitoring.get_events(number)]
