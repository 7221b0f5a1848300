"""`LogThread`: writes the log lines of the event loop, whichever thread runs it, in a thread of its own.

What must stay true: the loop runs no logging handler, and waits for no lock of the logging module. Whoever holds one
may be in a handler, waiting for an operation of that very loop; and a handler that itself makes blocking calls can make
them in this thread, as anywhere.
"""

from __future__ import annotations

import logging
import threading
import traceback
from queue import SimpleQueue

__all__ = ["LogThread", "ask_levels", "logging_of", "write_here"]

LINES_KEPT = 10_000
"""Lines that wait to be written; those beyond are only counted."""

_LOGGERS = tuple(map(logging.getLogger, ("rabbitry", "asyncio", "py.warnings")))
_LEVELS = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL

logging_of: threading.local = threading.local()
"""The calling thread's `log_thread`: what writes what it logs, where that is not itself."""


class _Handover(logging.Filter):
    """First filter of those loggers: takes out what is logged by a thread that another one writes for."""

    def filter(self, record: logging.LogRecord) -> bool:
        log_thread: LogThread | None = getattr(logging_of, "log_thread", None)
        if log_thread is None:
            return True
        if record.name != "asyncio" or record.levelno > logging.DEBUG:  # "Using selector", of each loop anew
            log_thread.take(record)
        return False


_handover = _Handover()


class LogThread:
    """Starts with its making, ends after `end`. `take` and `end` are called by the thread that it writes for."""

    def __init__(self) -> None:
        for logger in _LOGGERS:
            if _handover not in logger.filters:
                logger.filters.insert(0, _handover)  # the others judge when the line is written, and then only
        self._records: SimpleQueue[logging.LogRecord | None] = SimpleQueue()
        self._lost = 0
        self._thread = threading.Thread(target=self._write, name="rabbitry.blocking.log", daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """Write from now on what the calling thread logs."""
        logging_of.log_thread = self

    def take(self, record: logging.LogRecord) -> None:
        """Have a line written. Does not wait."""
        if self._records.qsize() < LINES_KEPT:
            self._records.put(record)
        else:
            self._lost += 1

    def end(self) -> None:
        """End once all is written that was taken so far."""
        write_here()
        self._records.put(None)

    def join(self, bound: float) -> None:
        """Return when it has ended, or `bound` seconds have passed; at once in this very thread."""
        if threading.current_thread() is not self._thread:
            self._thread.join(bound)

    def _write(self) -> None:
        while (record := self._records.get()) is not None:
            _written(record)
            if self._lost:
                lost, self._lost = self._lost, 0
                _LOGGERS[0].warning("%s log lines were dropped: a logging handler takes too long", lost)


def _written(record: logging.LogRecord) -> None:
    try:
        logging.getLogger(record.name).handle(record)
    except Exception:  # of a handler that does not keep its errors to itself
        if logging.raiseExceptions:
            traceback.print_exc()


def write_here() -> None:
    """Let the calling thread write what it logs."""
    logging_of.log_thread = None


def ask_levels() -> None:
    """Ask the loggers for their levels, which they remember. The first time takes the logging module's lock, which the
    calling thread may hold: in `logging.config`, where a handler is made that opens a client.
    """
    for logger in _LOGGERS:
        for level in _LEVELS:
            logger.isEnabledFor(level)
