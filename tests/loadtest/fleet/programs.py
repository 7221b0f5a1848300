"""Processes of the load tester, as tests start, watch and end them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from anyio.from_thread import start_blocking_portal

from loadtest.commands.merge import main as merge
from loadtest.fleet.parts import WorkerPart, read_part
from rabbitry.testing import open_proxy

Result = dict[str, Any]
TOKEN = "a token for these tests alone"
SHORT = ("--clients", "40", "--mode", "closed", "--duration", "1", "--warmup", "0.3", "--drain", "10")
LONG = ("--clients", "40", "--mode", "closed", "--duration", "30", "--warmup", "0.5", "--drain", "10")
PATIENCE = 120.0
"""Seconds until three interpreters have started and done their work, on a machine that has much else to do. How soon
something is noticed is told by results, and not by this.
"""
NO_CHARTS = "import sys; sys.modules['altair'] = None"
"""Drawing takes seconds after each run, and nothing here depends on it."""
A_BROKER = """
import anyio
from rabbitry.broker import Broker

async def main():
    async with Broker() as broker:
        await broker.listen()
        print(broker.url, flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


class Program:
    """A process of the load tester, whose output is read at its end."""

    def __init__(
        self, directory: Path, name: str, words: Sequence[str], environment: Mapping[str, str], within: Sequence[str]
    ) -> None:
        self.json = directory / f"{name}.json"
        self._errors = directory / f"{name}.err"
        self._out = directory / f"{name}.out"
        command = [*within, sys.executable, "-m", "loadtest", *words]
        kept = {key: value for key, value in os.environ.items() if key != "RABBITMQ_URL"}
        (directory / "sitecustomize.py").write_text(NO_CHARTS, encoding="utf-8")
        kept["PYTHONPATH"] = os.pathsep.join([str(directory), *filter(None, [kept.get("PYTHONPATH")])])
        with self._errors.open("wb") as errors, self._out.open("wb") as out:
            self.process = subprocess.Popen(
                command, env={**kept, **environment}, cwd=directory, stdin=subprocess.DEVNULL, stdout=out, stderr=errors
            )

    @property
    def said(self) -> str:
        return self._out.read_text(errors="replace") + self._errors.read_text(errors="replace")

    def wait(self, seconds: float = PATIENCE) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end within {seconds:g} s; it said: {self.said}") from None

    def result(self) -> Result:
        found: Result = json.loads(self.json.read_text(encoding="utf-8"))
        return found

    def workers(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children(recursive=True)
            return [child for child in children if "worker" in child.cmdline()]
        return []


class Programs:
    def __init__(self, directory: Path, url: str) -> None:
        self.url = url
        self.directory = directory
        self.all: list[Program] = []

    def start(self, name: str, *words: str, within: Sequence[str] = (), **environment: str) -> Program:
        program = Program(self.directory, name, words, environment, within)
        self.all.append(program)
        return program

    def lead(self, *words: str, **environment: str) -> Program:
        name = f"lead{len(self.all)}"
        json_ = str(self.directory / f"{name}.json")
        return self.start(name, *words, "--url", self.url, "--json", json_, "--output", "out", **environment)

    def work(self, *words: str, token: str = TOKEN, within: Sequence[str] = ()) -> Program:
        name, url = f"work{len(self.all)}", () if "--url" in words else ("--url", self.url)
        return self.start(name, "worker", *url, "--name", name, *words, within=within, LOADTEST_TOKEN=token)

    def merge(self, *files: Path) -> Result:
        """What these parts come to, or those that the coordinator wrote."""
        return self.merged(*(files or self.directory.glob("out/*.parts")))[1]

    def merged(self, *files: Path) -> tuple[int, Result]:
        """The same, with the exit code."""
        target = self.directory / "merged.json"
        code = merge([*map(str, files), "--json", str(target), "--quiet"])
        return code, json.loads(target.read_text(encoding="utf-8"))

    def parts(self) -> list[WorkerPart]:
        """What each worker measured, as the coordinator wrote it."""
        parts = map(read_part, self.directory.glob("out/*.parts/*.part"))
        return sorted((part for part in parts if isinstance(part, WorkerPart)), key=lambda part: part.number)


def until(holds: Callable[[], bool], seconds: float = PATIENCE, program: Program | None = None) -> None:
    give_up_at = time.monotonic() + seconds
    while not holds():
        said = program.said if program is not None else ""
        assert time.monotonic() < give_up_at, f"it did not come about within {seconds:g} s; {said}"
        time.sleep(0.05)


def add_up(result: Result) -> None:
    publish, consume, rpc = result["publish"], result["consume"], result["rpc"]
    assert publish["sent"] == sum(publish[name] for name in ("confirmed", "nacked", "returned", "unknown"))
    assert publish["confirmed"] + consume["resurrected"] == consume["unique"] + consume["lost"] + consume["backlog"]
    assert consume["received"] == consume["unique"] + consume["duplicates"]
    assert rpc["calls"] == rpc["replies"] + rpc["timeouts"] + rpc["errors"]
    for name in ("sent", "confirmed", "received", "calls", "replies"):
        section = "rpc" if name in ("calls", "replies") else "consume" if name == "received" else "publish"
        assert sum(each[name] for each in result["workers"] if each["counted"]) == result[section][name]


def measuring(program: Program) -> Callable[[], bool]:
    return lambda: " measure " in program.said


@contextmanager
def mortal_broker() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """An embedded broker in a process of its own, and its URL."""
    command = [sys.executable, "-c", A_BROKER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path.cwd()) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process
        finally:
            process.kill()


@contextmanager
def proxied(url: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """A way to a broker which can be cut, with all connections on it; the next ones are served again."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(open_proxy(url)) as proxy:
        yield proxy.url, lambda: portal.call(proxy.cut)
