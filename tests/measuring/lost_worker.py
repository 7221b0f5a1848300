"""`python -m tests.measuring.lost_worker`: a coordinator and two workers, each with a command line of its own, of which
one worker is killed while it is measured; over another broker than the one that is loaded.

What must hold: the run ends by itself with exit code 5 and a result that lists the lost worker, when, and what it last
told; it was noticed within two seconds; the other sent its own part of the plan, all of it and no more; none of its
messages is known to be lost. With --output it writes `lost-worker-BACKEND.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rabbitry.testing import PrivateNode

NOTICED = 2.0
"""Seconds after which a worker that was killed must be known to be."""
ON_PLAN = 0.99
PATIENCE = 120.0
LOOK = 0.05

Result = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What became of all three."""

    result: Result
    killed_at: float
    """Seconds after the coordinator's first word that it measures."""
    code: int
    survivors_code: int

    @property
    def lost(self) -> Result:
        found: Result = next(each for each in self.result["workers"] if each["name"] == "killed")
        return found

    @property
    def survivor(self) -> Result:
        found: Result = next(each for each in self.result["workers"] if each["name"] == "survivor")
        return found

    @property
    def noticed(self) -> float:
        """Seconds from the kill until the coordinator knew, to the second in which it said that it measures."""
        before = sum(each["seconds"] for each in self.result["phases"] if each["name"] in ("connect", "warmup"))
        return float(self.lost["at_seconds"]) - before - self.killed_at

    def failures(self, noticed: float = NOTICED) -> list[str]:
        """What does not hold of what must; the kill has to be noticed within so many seconds."""
        publish, consume = self.result["publish"], self.result["consume"]
        checks = {
            f"exit codes {self.code} and {self.survivors_code}": (self.code, self.survivors_code) == (5, 0),
            f"the killed one is {self.lost['status']}": self.lost["status"] == "lost" and not self.lost["counted"],
            f"the other is {self.survivor['status']}": self.survivor["status"] == "finished",
            f"noticed after {self.noticed:.1f} s": self.noticed <= noticed,
            f"sent {publish['sent']:,}, the survivor {self.survivor['sent']:,}": (
                publish["sent"] == self.survivor["sent"]
            ),
            f"{publish['sent']:,} of {publish['planned']:,} sent": publish["sent"] >= ON_PLAN * publish["planned"],
            f"{consume['lost']} lost": consume["lost"] in (0, None),
            "it is not told": any("killed" in text for text in self.result["incomplete"]),
        }
        return [text for text, holds in checks.items() if not holds]


def run(clients: int, rate: float, seconds: float, backend: str) -> Outcome:
    """One run on two private brokers, in which a worker is killed halfway."""
    with PrivateNode() as node, PrivateNode() as other, tempfile.TemporaryDirectory() as name, processes() as start:
        directory, token = Path(name), secrets.token_hex(16)
        common = ["--url", node.url, "--control-url", other.url, "--backend", backend]
        killed, survivor = (
            start(directory, token, ["worker", *common, "--name", each, "--max-rate", f"{rate:g}"])
            for each in ("killed", "survivor")
        )
        words = ["--workers", "2", "--producers", f"{clients // 2}", "--consumers", f"{clients // 2}", "--queues", "20"]
        times = ["--duration", f"{seconds:g}", "--warmup", "2", "--drain", "10", "--rate", f"{rate:g}"]
        lead = start(directory, token, [*common, *words, *times, "--json", "result.json"])
        wait_for_measuring(directory / f"{lead.pid}.txt", lead)
        time.sleep(seconds / 2)
        killed.kill()
        code = lead.wait(PATIENCE)
        result: Result = json.loads((directory / "result.json").read_text(encoding="utf-8"))
        return Outcome(result, seconds / 2, code, survivor.wait(PATIENCE))


@contextmanager
def processes() -> Iterator[Any]:
    """What starts a process of the load tester; all of them are gone with the block."""
    started = list[subprocess.Popen[bytes]]()

    def start(directory: Path, token: str, words: list[str]) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "LOADTEST_TOKEN": token, "PYTHONPATH": str(Path.cwd())}
        path = directory / f"{len(started)}.txt"
        with path.open("wb") as output:
            command = [sys.executable, "-m", "loadtest", *words]
            process = subprocess.Popen(command, env=environment, cwd=directory, stdout=output, stderr=output)
        path.rename(directory / f"{process.pid}.txt")
        started.append(process)
        return process

    try:
        yield start
    finally:
        for process in started:
            process.kill()
            process.wait()


def wait_for_measuring(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Returns when the coordinator says that it measures."""
    give_up_at = time.monotonic() + PATIENCE
    while " measure " not in (said := path.read_text(errors="replace")):
        if process.poll() is not None or time.monotonic() > give_up_at:
            raise RuntimeError(f"it does not measure; it said: {said}")
        time.sleep(LOOK)


def page(outcome: Outcome) -> str:
    """The outcome as people read it."""
    result, lost, survivor = outcome.result, outcome.lost, outcome.survivor
    publish, consume, control = result["publish"], result["consume"], result["control"]
    rows = {
        "command": f"`{result['scenario']['command']}`",
        "exit code of the coordinator, of the other worker": f"{outcome.code}, {outcome.survivors_code}",
        "`incomplete`": "; ".join(result["incomplete"]),
        "noticed after": f"{max(0.0, outcome.noticed):.1f} s (told once a second)",
        "what the killed one had last told": f"{lost['sent']:,} sent, {lost['confirmed']:,} confirmed",
        "planned for the other, sent by it": f"{publish['planned']:,}, {publish['sent']:,}",
        "its rate": f"{publish['rate']:,.1f}/s",
        "its confirms": f"p50 {publish['confirm_latency_ms']['p50']} ms, p99 {publish['confirm_latency_ms']['p99']} ms",
        "lost, left in the queues": f"{consume['lost']}, {consume['backlog']}",
        "from the killed one's producers, arrived at the other": f"{consume['from_lost_workers']:,}",
        "processor time of the other worker, of the coordinator": (
            f"{survivor['client_share']:.0%} of a core, {control['coordinator_cpu_seconds']} s in all"
        ),
        "letters to and from the coordinator": f"{control['sent']}, {control['received']}",
        "round trip on the control channel at rest, at work (longest)": (
            f"{control['round_trip_ms']} ms, {control['round_trip_at_work_ms']['max']} ms"
        ),
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows.items()), ""])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.measuring.lost_worker", description="A worker is killed.")
    parser.add_argument("--clients", type=int, default=400, help="(default: 400)")
    parser.add_argument("--rate", type=float, default=2000.0, help="messages a second of all (default: 2000)")
    parser.add_argument("--seconds", type=float, default=12.0, help="to measure (default: 12)")
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to write the page, e.g. results")
    arguments = parser.parse_args()
    outcome = run(arguments.clients, arguments.rate, arguments.seconds, arguments.backend)
    text, failures = page(outcome), outcome.failures()
    print(text)
    print("Failures:", "; ".join(failures) or "none")
    if arguments.output is not None:
        target = arguments.output / f"lost-worker-{arguments.backend}.md"
        target.write_text(f"# A worker that is killed, {datetime.now(UTC):%Y-%m-%d}\n\n{text}", encoding="utf-8")
        print(f"written: {target}")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
