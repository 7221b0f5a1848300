"""What a run of several processes takes beside its load: who looks at it, what ends it, and ways to send."""

from __future__ import annotations

import json
import re
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from loadtest.commands import sweeping
from loadtest.commands.program import main
from tests.loadtest.fleet.programs import SHORT, Programs, add_up, measuring, proxied, until


class Api(BaseHTTPRequestHandler):
    """A management API whose counters grow with each question."""

    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        nodes = [{"mem_used": 50_000_000}]
        overview = {"queue_totals": {"messages": 3}, "message_stats": {"publish": self.asked, "confirm": self.asked}}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(nodes if self.path == "/api/nodes" else overview).encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://me:secret@127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_the_coordinator_shows_what_all_have_counted_and_asks_the_broker(programs: Programs, api: str) -> None:
    words = ("--clients", "40", "--mode", "closed", "--duration", "4", "--warmup", "0.5", "--drain", "5")
    lead = programs.lead("--processes", "2", *words, "--metrics", ":0", "--management", api)
    until(lambda: "metrics " in lead.said, program=lead)
    url = re.findall(r"metrics +(http://\S+)", lead.said)[0]
    confirmed, text = 0.0, ""
    while lead.process.poll() is None and confirmed < 100:
        with suppress(OSError), urllib.request.urlopen(url, timeout=10) as answer:
            text = answer.read().decode()
            confirmed = float(re.findall(r"^loadtest_messages_confirmed_total\{[^}]*\} (\S+)$", text, re.M)[0])
    assert lead.wait() == 0, lead.said
    result = lead.result()
    assert 100 <= confirmed <= result["publish"]["confirmed"]
    assert f'run_id="{result["run_id"]}"' in text
    assert "loadtest_latency_seconds_bucket" not in text, "of the latencies of all nothing is known yet"
    management = result["management"]
    assert management["readings"] >= 2 and management["error"] is None
    assert management["memory_peak_bytes"] == 50_000_000
    assert management["counted_here"]["confirmed"] > 0
    assert "secret" not in lead.json.read_text(encoding="utf-8")
    assert not any(b"secret" in path.read_bytes() for path in programs.directory.glob("out/*.parts/*"))
    assert programs.merge() == result


def test_a_count_of_all_together_ends_the_run(programs: Programs) -> None:
    words = ("--clients", "40", "--mode", "closed", "--duration", "25", "--warmup", "0.5", "--drain", "5")
    lead = programs.lead("--processes", "2", *words, "--abort-on", "publish.confirmed > 50", "--abort-after", "1")
    assert lead.wait() == 3, lead.said
    result = lead.result()
    assert result["aborted"]["expression"] == "publish.confirmed > 50"
    assert 1 <= result["aborted"]["measured_seconds"] < 10
    assert not result["interrupted"] and result["incomplete"] == []
    assert [check["holds"] for check in result["requirements"]] == [False]
    assert sum(phase["seconds"] for phase in result["phases"] if phase["name"] == "measure") < 12
    add_up(result)
    assert programs.merge() == result


def test_connections_that_were_lost_are_replaced(programs: Programs) -> None:
    words = ("--clients", "20", "--rate", "50", "--duration", "5", "--warmup", "0.5", "--drain", "10")
    with proxied(programs.url) as (url, cut):
        programs.url = url
        lead = programs.lead("--processes", "2", *words, "--reconnect")
        until(measuring(lead), program=lead)
        cut()
        assert lead.wait() in (0, 1), lead.said  # 1: what was in flight may end unknown
    result = lead.result()
    assert result["connect"]["reconnected"] >= 20, "those of both"
    assert result["incomplete"] == [] and result["consume"]["lost"] == 0
    assert sum(phase["seconds"] for phase in result["phases"] if phase["name"] == "measure") > 4.5


def test_clients_that_come_and_go(programs: Programs, backend: str) -> None:
    lead = programs.lead("--processes", "2", *SHORT, "--churn", "--backend", backend)
    assert lead.wait() == 0, lead.said
    result = lead.result()
    add_up(result)
    assert result["churn"]["rounds"] > 20 and result["churn"]["failed"] == 0
    assert result["churn"]["round_ms"]["count"] == result["churn"]["rounds"]


def test_each_step_of_a_sweep_is_made_by_all(amqp_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "SHARES", (0.3,))
    words = ("--clients", "20", "--duration", "1", "--warmup", "0.2", "--drain", "5", "--scenario", "sweep")
    target = tmp_path / "result.json"
    assert main(["--processes", "2", *words, "--url", amqp_url, "--json", str(target), "--quiet"]) in (0, 1)
    result = json.loads(target.read_text(encoding="utf-8"))
    assert len(result["sweep"]["steps"]) == 1
    assert [each["status"] for each in result["workers"]] == ["finished", "finished"]


def test_another_event_loop(programs: Programs) -> None:
    pytest.importorskip("uvloop")
    lead = programs.lead("--processes", "2", *SHORT, "--backend", "uvloop")
    assert lead.wait() == 0, lead.said
    assert lead.result()["scenario"]["backend"] == "uvloop"
