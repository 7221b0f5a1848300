"""Ctrl-C in every wait, forks, and programs that end without closing anything: as processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def run(program: str, url: str) -> list[str]:
    """What it printed. It must end by itself, and well."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "ignore::ResourceWarning", str(HERE / program), url],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_ctrl_c_interrupts_every_wait_and_leaves_all_in_order(amqp_url: str) -> None:
    assert run("interrupted.py", amqp_url) == [
        "receive interrupted, then goes on",
        "batches interrupted, then goes on",
        "iteration interrupted, then goes on",
        "call interrupted, then 0",
        "process interrupted, then works",
        "serve interrupted, then works",
        "serve on a connection interrupted, then works",
        "wait_closed interrupted, then works",
        "client's wait_closed interrupted, then works",
        "process at work interrupted, then works",
        "process stuck interrupted, then did not wait",
        "struck often, then works",
        "stopped by SIGTERM, then works",
        "publish interrupted, then stalls no more",
        "publish_many interrupted, then stalls no more",
        "publish to no broker interrupted, then connecting",
        "left by it",
        "[]",
    ]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forks_are_refused_and_nothing_holds_up_the_end(amqp_url: str) -> None:
    assert run("forgotten.py", amqp_url) == ["forked", "ends"]
