"""The soak's ledger as a page of Markdown and a picture. It decides nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tests.measuring.soak.run import PACE, Soak
from tests.support.picture import Mark, Panel, draw, rates

PREFACE = """\
Each client publishes with confirms about every {pace:g} s, on a connection of its own, to one of {queues} quorum queues
of a three-node cluster; one consumer a queue. A proxy stands before each node: about every {fault_every:g} s it cuts,
resets, half-closes, stalls, refuses, delays, splits or throttles its connections (a cut, reset, half-close or stall
meets 30 % of them), and about every {kill_every:g} s a node is killed, and started again {down_for:g} s later.
A seed repeats it.
"""


def page(soak: Soak, backend: str) -> str:
    ledger = soak.ledger
    faults = Counter(name for _, name in ledger.faults)
    memory = [sample.memory_bytes / 2**20 for sample in ledger.samples]
    rows = [
        ("publishes", _counts(ledger.outcomes)),
        ("confirmed, but never delivered", f"**{ledger.lost:,}**"),
        (
            "not confirmed, each told to its publisher",
            f"{ledger.uncertain:,}: {ledger.uncertain_arrived:,} arrived, "
            f"{ledger.uncertain - ledger.uncertain_arrived:,} did not",
        ),
        ("delivered more than once (by at-least-once consuming)", f"{ledger.duplicates:,}"),
        ("faults", _counts(faults)),
        ("connections lost", f"{len(ledger.since_loss):,}"),
        (
            "memory of the process, account and proxies included: after a minute, at the end",
            f"{_at(memory, 60):.0f}, {memory[-1]:.0f} MiB",
        ),
        ("failures", "; ".join(soak.failures) or "none"),
    ]
    times = [("a connection was lost, as its client saw it", ledger.since_loss)]
    times += [(name, ledger.since_fault[name]) for name, _ in faults.most_common()]
    preface = PREFACE.format(
        pace=PACE,
        queues=soak.queues,
        fault_every=soak.fault_every,
        kill_every=soak.kill_every,
        down_for=soak.down_for,
    )
    return "\n".join(
        [
            f"## {soak.clients} clients, {soak.seconds:g} s, seed {soak.seed}, {backend}\n",
            preface,
            f"![messages a second, clients without a connection, memory](soak-{backend}.svg)",
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in rows),
            "",
            f"Seconds until a client's next confirm (without any fault it is {PACE / 2:g} on average, as they publish",
            "when their time comes, not at once); a fault counts for all clients, also those that it did not meet.\n",
            "| since | times | p50 | p99 | max |",
            "|---|---|---|---|---|",
            *(f"| {name} | {len(found):,} | {_quantiles(found)} |" for name, found in times if found),
            "",
        ]
    )


def picture(soak: Soak, backend: str) -> str:
    samples = soak.ledger.samples
    marks = [
        Mark(at - soak.ledger.began, name, strong=name == "node killed") for at, name in sorted(soak.ledger.faults)
    ]
    missing = soak.ledger.lost
    verdict = f"{missing:,} CONFIRMED AND LOST" if missing else "nothing that was confirmed is missing"
    return draw(
        f"{soak.clients} clients under faults, {backend}, seed {soak.seed}: {verdict}",
        [
            Panel(
                "messages/s",
                {
                    "confirmed": rates([(sample.seconds, sample.confirmed) for sample in samples]),
                    "delivered": rates([(sample.seconds, sample.arrived) for sample in samples]),
                },
            ),
            Panel("clients", {"without a connection": [(sample.seconds, sample.down) for sample in samples]}),
            Panel("MiB", {"memory": [(sample.seconds, sample.memory_bytes / 2**20) for sample in samples]}),
        ],
        marks,
    )


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counter.most_common())


def _at(values: Sequence[float], index: int) -> float:
    return values[min(index, len(values) - 1)]


def _quantiles(values: Sequence[float]) -> str:
    ordered = sorted(values)
    return " | ".join(f"{ordered[int(share * (len(ordered) - 1))]:.2f}" for share in (0.5, 0.99, 1))
