from __future__ import annotations

import os
import socket
import subprocess
import sys

import psutil
import pytest

from loadtest.machine.resources import Meter, find_broker

BURN = "import sys, time\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\nsys.stdin.read()"


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


def test_a_broker_of_our_own_that_was_started_again_is_the_same() -> None:
    """What its processes used adds up; while it is down, it uses no more."""

    def start() -> subprocess.Popen[bytes]:
        broker = subprocess.Popen([sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert broker.stdout is not None
        broker.stdout.readline()
        return broker

    first = start()
    pid = first.pid
    meter = Meter(psutil.Process(first.pid), lambda: pid)
    before = meter.read().broker_cpu
    assert before is not None and before >= 0.4
    meter.sample()
    first.kill()
    first.communicate()
    pid = 0
    assert meter.read().broker_cpu == pytest.approx(before, abs=0.1)
    second = start()
    try:
        pid = second.pid
        after = meter.read().broker_cpu
        assert after is not None and after >= before + 0.4
        assert meter.broker_rss() == pytest.approx(psutil.Process(pid).memory_info().rss, rel=0.2)
    finally:
        second.communicate()


def test_of_a_broker_that_is_not_ours_and_gone_nothing_is_known() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    process = psutil.Process(gone.pid)
    gone.wait()
    assert Meter(process).read().broker_cpu is None


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_broker_is_found_by_the_port_it_listens_on(family: socket.AddressFamily, host: str) -> None:
    try:
        listener = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip(f"no {host} here")
    with listener:
        shown = f"[{host}]" if ":" in host else host
        found = find_broker([f"amqp://guest:guest@{shown}:{listener.getsockname()[1]}"])
        assert found is not None and found.pid == os.getpid()
