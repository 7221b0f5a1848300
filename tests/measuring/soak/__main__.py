"""`python -m tests.measuring.soak`: half a thousand clients for twenty minutes; writes `soak-BACKEND.md` and `.svg`."""

from __future__ import annotations

import argparse
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path

import anyio

from rabbitry.testing import PrivateCluster
from tests.measuring.soak.report import page, picture
from tests.measuring.soak.run import Soak


def main() -> int:
    program = "python -m tests.measuring.soak"
    parser = argparse.ArgumentParser(prog=program, description="Publish under faults, and keep account.")
    parser.add_argument("--clients", type=int, default=500, help="that publish (default: 500)")
    parser.add_argument("--seconds", type=float, default=1200, help="of faults (default: 1200)")
    parser.add_argument("--seed", type=int, default=1, help="repeats the faults (default: 1)")
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to write page and picture, e.g. results")
    arguments = parser.parse_args()
    logging.getLogger("rabbitry").setLevel(logging.ERROR)  # losses are the point here, and counted
    soak = Soak(arguments.clients, arguments.seconds, arguments.seed)
    with PrivateCluster(connections=arguments.clients + 500) as cluster:
        anyio.run(soak.run, cluster, backend=arguments.backend)
    text = page(soak, arguments.backend)
    print(text)
    if arguments.output is not None:
        target = arguments.output / f"soak-{arguments.backend}.md"
        target.write_text(f"# A soak under faults, {datetime.now(UTC):%Y-%m-%d}\n\n{text}")
        target.with_suffix(".svg").write_text(picture(soak, arguments.backend))
        print(f"written: {target}")
    return int(bool(soak.failures))


if __name__ == "__main__":
    sys.exit(main())
