"""Ctrl-C, SIGTERM and SIGHUP where no event loop heeds them: what was measured is written first."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loadtest.commands import interrupts, leading, performing
from loadtest.commands import run as run_module
from loadtest.commands.run import main

RUN = ("--clients", "6", "--mode", "closed", "--duration", "0.5", "--warmup", "0.1", "--drain", "5", "--quiet")
BACKENDS = ("asyncio", "trio")


@pytest.fixture(autouse=True)
def _no_broker_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RABBITMQ_URL", raising=False)


def struck(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same, in the middle of which both signals come."""

    def strike(*arguments: Any, **options: Any) -> Any:
        for number in (signal.SIGTERM, signal.SIGINT):
            assert signal.getsignal(number) not in (signal.SIG_DFL, signal.default_int_handler), "it would be lost"
            signal.raise_signal(number)
        return function(*arguments, **options)

    return strike


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_was_measured_is_made_a_result(
    backend: str, amqp_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(performing, "build_result", struck(performing.build_result))
    former = [signal.getsignal(number) for number in interrupts.ending_signals()]
    file = tmp_path / "result.json"
    assert main([*RUN, "--url", amqp_url, "--backend", backend, "--json", str(file)]) == 130
    assert json.loads(file.read_text())["publish"]["confirmed"] > 0
    assert [signal.getsignal(number) for number in interrupts.ending_signals()] == former


def test_what_several_processes_measured_is_made_a_result(
    amqp_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adding up what thousands of clients measured takes a while, in which nobody may lose it."""
    monkeypatch.setattr(leading, "fleet_result", struck(leading.fleet_result))
    file = tmp_path / "result.json"
    assert main([*RUN, "--processes", "2", "--url", amqp_url, "--json", str(file)]) == 130
    assert json.loads(file.read_text())["publish"]["confirmed"] > 0


def test_a_result_is_written(amqp_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "write_result", struck(run_module.write_result))
    file = tmp_path / "result.json"
    assert main([*RUN, "--url", amqp_url, "--json", str(file)]) == 0
    assert json.loads(file.read_text())["publish"]["confirmed"] > 0


@pytest.mark.parametrize("number", interrupts.ending_signals())
def test_before_the_run_each_ends_the_program_and_says_so(
    number: int, amqp_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def describe(*_: object) -> None:
        signal.raise_signal(number)

    monkeypatch.setattr(performing, "describe_environment", describe)
    assert main([*RUN, "--url", amqp_url]) == 130
    assert "interrupted before anything was measured" in capsys.readouterr().err


def test_a_terminal_that_is_closed_ends_a_run_with_its_result(amqp_url: str, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    words = ["--clients", "4", "--mode", "closed", "--duration", "60", "--warmup", "0.1", "--url", amqp_url]
    script = """
import os, pty, sys
child, terminal = pty.fork()
if not child:
    os.execv(sys.executable, [sys.executable, "-m", "loadtest", *sys.argv[1:]])
said = b""
while b"measure" not in said:
    said += os.read(terminal, 10_000)
os.close(terminal)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    command = [sys.executable, "-c", script, *words, "--json", str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=50)
    assert ended.stdout == "130\n"
    result = json.loads(file.read_text())
    assert result["interrupted"] and result["publish"]["confirmed"] > 0


def test_what_was_started_to_outlive_the_terminal_does() -> None:
    script = """
import signal
from loadtest.commands.interrupts import held, interruptible
signal.signal(signal.SIGHUP, signal.SIG_IGN)
with interruptible(), held() as hold:
    hold.begin()
    signal.raise_signal(signal.SIGHUP)
    print(hold.came)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout == "False\n"


def test_in_another_thread_nothing_is_done() -> None:
    script = """
import threading, signal
from loadtest.commands.interrupts import held, interruptible
def work():
    with interruptible(), held() as hold:
        hold.begin()
        print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
thread = threading.Thread(target=work); thread.start(); thread.join()
"""
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "True\n"
