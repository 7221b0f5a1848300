"""What looks at a run while it goes on: Prometheus, and the broker's own account of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from loadtest.commands.program import main

SMALL = ("--clients", "6", "--mode", "closed", "--warmup", "0.2", "--drain", "5")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_prometheus_asks_while_the_run_goes_on(backend: str, amqp_url: str, tmp_path: Path) -> None:
    words = [
        *SMALL,
        "--duration",
        "4",
        "--url",
        amqp_url,
        "--backend",
        backend,
        "--label",
        "stage=a-b",
        "--metrics",
        ":0",
    ]
    command = [sys.executable, "-m", "loadtest", *words, "--json", str(tmp_path / "result.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = next(line.split()[1] for line in process.stdout if line.startswith("metrics"))
        text, confirmed = "", 0.0
        while process.poll() is None and confirmed < 100:
            with urllib.request.urlopen(url, timeout=10) as answer:
                text = answer.read().decode()
            confirmed = float(re.findall(r"^loadtest_messages_confirmed_total\{[^}]*\} (\S+)$", text, re.M)[0])
        process.stdout.read()
        assert process.wait(60) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert 100 <= confirmed <= result["publish"]["confirmed"]
    assert f'run_id="{result["run_id"]}"' in text and 'label_stage="a-b"' in text and 'kind="confirm"' in text
    assert "metrics" not in result["scenario"] and "management" not in result["scenario"]


def test_a_metrics_address_that_is_taken_is_said(amqp_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        words = ["--duration", "1", "--url", amqp_url, "--metrics", f"127.0.0.1:{server.server_port}"]
        assert main([*SMALL, *words]) == 2
        assert f"--metrics 127.0.0.1:{server.server_port}: " in capsys.readouterr().err


class Api(BaseHTTPRequestHandler):
    """A management API whose counters stand still, or grow with each question."""

    grows = True
    asked = 0
    broken: ClassVar[set[int]] = set()
    """Which of its answers, counted from 1, are none."""

    def do_GET(self) -> None:
        if self.path == "/api/overview":
            type(self).asked += 1
        number = type(self).asked * 1000 if self.grows else 7
        nodes = [{"mem_used": 50_000_000 + number}]
        overview = {"queue_totals": {"messages": 3}, "message_stats": {"publish": number, "confirm": number}}
        is_broken = self.path == "/api/overview" and type(self).asked in self.broken
        self.send_response(500 if is_broken else 200)
        self.end_headers()
        self.wfile.write(json.dumps(nodes if self.path == "/api/nodes" else overview).encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[str]:
    Api.grows, Api.asked, Api.broken = True, 0, set()
    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://me:sesame@127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("grows", [True, False])
def test_the_brokers_own_account(
    grows: bool, backend: str, api: str, amqp_url: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    Api.grows = grows
    words = ["--duration", "3", "--url", amqp_url, "--backend", backend, "--management", api]
    assert main([*SMALL, *words, "--json", str(tmp_path / "result.json")]) == 0
    said, text = capsys.readouterr().out, (tmp_path / "result.json").read_text()
    told: dict[str, Any] = json.loads(text)["management"]
    assert told["readings"] >= 2 and told["error"] is None and told["memory_peak_bytes"] > 50_000_000
    assert told["counted"]["published"] == (1000 * (told["readings"] - 1) if grows else 0)
    assert told["counted_here"]["published"] > 0
    assert (told["note"] is None) == grows
    assert ("stood still" in said) != grows and "by its own account" in said
    assert "sesame" not in said + text


@pytest.mark.parametrize("broken", [{1}, {2}])
def test_an_answer_that_was_missed_ends_no_watching(
    broken: set[int], api: str, amqp_url: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    Api.broken = broken
    words = ["--duration", "5", "--url", amqp_url, "--management", api, "--json", str(tmp_path / "result.json")]
    assert main([*SMALL, *words]) == 0
    told = json.loads((tmp_path / "result.json").read_text())["management"]
    assert told["readings"] >= 2 and told["failed_readings"] == 1 and told["error"] is None
    assert "by its own account" in capsys.readouterr().out


def test_an_api_that_does_not_answer_costs_no_run(amqp_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--duration", "1", "--url", amqp_url, "--management", "http://me:sesame@127.0.0.1:1"]
    assert main([*SMALL, *words]) == 0
    said = capsys.readouterr().out
    assert "http://127.0.0.1:1 doesn't answer" in said and "sesame" not in said
