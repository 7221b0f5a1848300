"""Run by test_turns: a thread forks while the main thread runs the event loop. The URL is the argument."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import warnings

from rabbitry import blocking
from rabbitry.blocking.signals import Note

warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on forks with threads, which this is about


def child(ready: int) -> None:
    try:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            print("the child's handler is its own", flush=True)
        os.write(ready, b"x")
        time.sleep(10)
    except KeyboardInterrupt:
        print("the child is interrupted", flush=True)
    finally:
        os._exit(0)


def fork() -> None:
    while not isinstance(signal.getsignal(signal.SIGINT), Note):
        time.sleep(0.001)
    ready, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        child(writing)
    os.read(ready, 1)
    # Under CPython 3.13.0 the first signal is not always noticed, though the system has delivered it; the next one is.
    # Why is not known.
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        os.kill(pid, signal.SIGINT)
        time.sleep(0.5)


def main(url: str) -> None:
    with blocking.open_client(url) as client:
        thread = threading.Thread(target=fork)
        thread.start()
        while thread.is_alive():
            try:
                client.wait_closed(timeout=0.2)
            except TimeoutError:
                pass
    print("left")


main(sys.argv[1])
