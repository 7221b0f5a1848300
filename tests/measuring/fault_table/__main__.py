"""`python -m tests.measuring.fault_table`: run every cell and write `results/faults.md`. Takes about five minutes."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import anyio

from rabbitry.testing import PrivateCluster, PrivateNode
from tests.measuring.fault_table.cells import RULES, Cell, run_fault
from tests.measuring.fault_table.faults import FAULTS, ON_A_CLUSTER
from tests.measuring.fault_table.operations import OPERATIONS

BACKENDS = ("asyncio", "trio")
TARGET = Path("results/faults.md")

PREFACE = """\
# What becomes of each operation under each fault

All operations of the client at once, on connections through a proxy to a private RabbitMQ node, or to one node of a
cluster of three; the fault strikes while they work, and they have to be at work again by themselves. A cell says what a
user is told, and then, on asyncio / trio: how many rounds ended how; how many messages that were confirmed are missing;
how many came twice; seconds from the end of the fault until the next round ended.
Each cell is a test (`tests/measuring/fault_table`); this page is written by `python -m tests.measuring.fault_table`.
"""


def main() -> int:
    cells: dict[tuple[str, str, str], Cell] = {}
    with ExitStack() as stack:
        node = stack.enter_context(PrivateNode())
        version = node.rabbitmqctl("version").strip()
        for fault in FAULTS:
            nodes = stack.enter_context(PrivateCluster()).nodes if fault == ON_A_CLUSTER else [node]
            for backend in BACKENDS:
                print(f"{fault}, {backend} …", flush=True)
                for each in nodes:
                    if not each.is_running:
                        each.restart()
                for operation, cell in anyio.run(run_fault, fault, list(nodes), backend=backend).items():
                    cells[fault, operation, backend] = cell
                    for failure in cell.failures(RULES[fault][operation]):
                        print(f"  {operation}: {failure}")
    TARGET.write_text(page(cells, version))
    print(f"written: {TARGET}")
    return int(any(cell.failures(RULES[fault][operation]) for (fault, operation, _), cell in cells.items()))


def page(cells: dict[tuple[str, str, str], Cell], version: str) -> str:
    lines = [PREFACE, f"RabbitMQ {version}, {datetime.now(UTC):%Y-%m-%d}.\n"]
    for fault in FAULTS:
        lines += [f"## {fault}\n", "| operation | outcome | asyncio | trio |", "|---|---|---|---|"]
        for operation in OPERATIONS:
            rule = RULES[fault][operation.name]
            found = [cells[fault, operation.name, backend] for backend in BACKENDS]
            verdict = "**fails** " if any(cell.failures(rule) for cell in found) else ""
            lines.append(
                f"| {operation.name} | {verdict}{rule.says} | " + " | ".join(described(cell) for cell in found) + " |"
            )
        lines.append("")
    return "\n".join(lines)


def described(cell: Cell) -> str:
    words = [", ".join(f"{count:,} {kind}" for kind, count in cell.seen.most_common())]
    if cell.lost:
        words.append(f"{cell.lost:,} gone with the queue")
    if cell.duplicates:
        words.append(f"{cell.duplicates:,} twice")
    if cell.slowest_close:
        words.append(f"left within {cell.slowest_close:.2f} s")
    if cell.recovery is not None:
        words.append(f"back in {cell.recovery:.2f} s")
    return "; ".join(words)


if __name__ == "__main__":
    sys.exit(main())
