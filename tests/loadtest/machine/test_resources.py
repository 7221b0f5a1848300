from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from loadtest.machine.resources import Meter


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_cores_are_shared_where_both_may_run() -> None:
    ours = sorted(os.sched_getaffinity(0))
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        os.sched_setaffinity(other.pid, ours[:1])
        cores = Meter(psutil.Process(other.pid)).cores
        assert (cores.machine, cores.broker, cores.shared) == (psutil.cpu_count(), 1, pytest.approx(1 / len(ours)))
        everywhere = Meter(None).cores
        assert (everywhere.broker, everywhere.shared) == (psutil.cpu_count(), 1)
    finally:
        other.communicate()
