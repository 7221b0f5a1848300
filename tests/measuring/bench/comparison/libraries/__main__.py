"""`python -m tests.measuring.bench.comparison.libraries pika publish URL COUNT --size 128 --ahead 100`: one job."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from tests.measuring.bench.comparison.libraries.work import Work
from tests.measuring.bench.measure import Figures, print_figures

MODULES = sorted({path.stem for path in Path(__file__).parent.glob("*.py")} - {"__init__", "__main__", "work"})
JOBS = ("publish", "publish_one", "consume", "connections")


def main() -> None:
    parser = ArgumentParser()
    parser.add_argument("library", choices=MODULES)
    parser.add_argument("job", choices=JOBS)
    parser.add_argument("url")
    parser.add_argument("count", type=int)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--ahead", type=int, default=100)
    parser.add_argument("--backend", default="asyncio", choices=["asyncio", "uvloop", "trio"])
    asked = parser.parse_args()
    module = import_module(f"tests.measuring.bench.comparison.libraries.{asked.library}")
    job: Callable[[Work], Figures] = getattr(module, asked.job)
    print_figures(job(Work(asked.url, asked.count, asked.size, asked.ahead, asked.backend)))
    if asked.job == "connections":
        os._exit(0)  # closing them takes some libraries longer than opening them


if __name__ == "__main__":
    main()
