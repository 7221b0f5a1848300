"""Who was at his limit, and what leaves that open: each a measurement against a threshold, in a sentence.

Four may be found: this program, the broker, the cores that both share, and doubts. What they mean together is
`loadtest.analysis.verdict`'s and `loadtest.analysis.capacity`'s business. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from loadtest.analysis.facts import Facts

BUSY = 0.9
"""Share of a core from which a single-threaded process counts as busy, and of what is left of a machine."""
TOGETHER = 0.85
"""Share of the cores that both ends share from which they have used them up. They hand each message to and fro, and
while one waits for the other a core idles: a machine that two ends load as far as they can is never quite full.
"""
ASIDE = 0.1
"""Share of the broker's cores that a generator may use and yet leave the broker a machine of its own."""
FULL = 0.95
"""Share of all its cores from which a machine counts as used up, whoever used them."""
LATE_MS = 5.0
"""How late an event loop may run where there is no latency to compare that with."""
TIMER_MS = 2.0
"""What an event loop's timers, rounded up to a millisecond, are late by themselves."""
LAG_SHARE = 0.1
COLLECTING = 0.05
STOLEN = 0.02
FOREIGN = 0.1
"""Share of all cores that others may use: of half a core beside a run that fills two, 0.28 are left to them."""
FOREIGN_CORES = 0.3
"""How much of them in cores, where none is left."""


def find_generator_limits(facts: Facts) -> Iterator[str]:
    """In which ways this program was at its limit, in sentences."""
    if facts.slowed_by:
        yield f"generator: it is slower than it needs to be: {', '.join(facts.slowed_by)}"
    if facts.client_share > BUSY:
        yield f"generator: its process used {facts.client_share:.0%} of a core (limit {BUSY:.0%})"
    if facts.lateness is not None:
        percentile, late = facts.lateness
        response = facts.responses.get(percentile)
        limit = LATE_MS if response is None else max(TIMER_MS, LAG_SHARE * response)
        if late > limit:
            of = "" if response is None else f", {late / response:.0%} of the response time"
            yield f"generator: its event loop ran {late:.1f} ms late at {percentile}{of} (limit {limit:.1f} ms)"
    if facts.collector_share > COLLECTING:
        share = f"{facts.collector_share:.0%} of the time (limit {COLLECTING:.0%})"
        yield f"generator: its garbage collector took {share}"
    wake, response = facts.wake_p99_ms, facts.responses.get("p99")
    if wake is not None and response is not None and wake > max(TIMER_MS, LAG_SHARE * response):
        share = f"{wake / response:.0%} of the response time (limit {LAG_SHARE:.0%})"
        yield f"generator: it woke its producers {wake:.1f} ms late at p99, {share}"
    if response is not None and facts.collector_longest_ms > response:
        pause = f"a garbage collection of {facts.collector_longest_ms:.1f} ms"
        yield f"generator: {pause} exceeds the response time's p99 of {response:.1f} ms"


def find_broker_limits(facts: Facts) -> Iterator[str]:
    """In which ways the broker was at its limit, with a machine that it had to itself but for a little."""
    if facts.broker_share is not None:
        left, queues = facts.broker_cores, facts.queues
        used = f"{facts.broker_share:.2f} of the {left:.2f} cores that the generator left it"
        if is_squeezed(facts):
            if _ours(facts) <= ASIDE * _all(facts):  # else both ends are: see `find_shared_limits`
                yield f"broker: it used {used} (limit {BUSY:.0%})"
        elif facts.is_backlog_growing and 0 < queues < left and facts.broker_share > BUSY * queues:
            few = "the queue is one process, which uses one core" if queues == 1 else f"{queues} queues use as many"
            yield f"broker: it used {used}; {few} at most"
    if facts.blocked_seconds:
        yield f"broker: it blocked publishers for {facts.blocked_seconds:.1f} s (an alarm)"


def find_shared_limits(facts: Facts) -> Iterator[str]:
    """Whether both ends together used up the cores that they share, with what each of them used."""
    if facts.broker_share is None or not _ours(facts):
        return
    cores, together = _all(facts), _ours(facts) + facts.broker_share
    if together >= TOGETHER * cores:
        yield (
            f"machine: both ends share {cores:.0f} core{'s' * (cores > 1)}, and used {together:.2f} of them "
            f"({together / cores:.0%}, limit {TOGETHER:.0%}): this program {_ours(facts):.2f}, the broker "
            f"{facts.broker_share:.2f}; {facts.machine_share * facts.cores:.2f} were in use in all"
        )


def is_squeezed(facts: Facts) -> bool:
    """Whether the broker used what the generator left it of its cores; False if that isn't known."""
    left = facts.broker_cores
    return facts.broker_share is not None and left > 0 and facts.broker_share / left > BUSY


def find_doubts(facts: Facts) -> Iterator[str]:
    """What leaves it open who was the limit."""
    if facts.all_dropped:
        yield "doubt: every connection was lost before the end"
    if facts.stolen_share > STOLEN:
        yield f"doubt: the hypervisor took {facts.stolen_share:.1%} of the processors (limit {STOLEN:.0%})"
    is_full = facts.machine_share > FULL
    limit = min(FOREIGN_CORES, FOREIGN * facts.cores) if is_full else FOREIGN * facts.cores
    used = (facts.machine_share - facts.stolen_share) * facts.cores
    foreign = used - facts.client_share - facts.others_share - (facts.broker_share or 0.0)
    if facts.broker_share is not None and foreign > limit:
        yield f"doubt: other processes used {foreign:.2f} cores of {facts.cores} (limit {limit:.2f}){_busiest(facts)}"
    elif facts.broker_share is None and is_full and foreign > limit:
        yield (
            f"doubt: all {facts.cores} cores of this machine were in use, {foreign:.2f} of them by others than this "
            f"program, and whether that was the broker isn't known{_busiest(facts)}"
        )


def _busiest(facts: Facts) -> str:
    """Who of the others used how much, as far as that was seen."""
    told = ", ".join(f"{name} {cores:.2f}" for name, cores in facts.neighbours.items())
    return f": {told}" if told else ""


def _ours(facts: Facts) -> float:
    """What the generator used of the broker's cores."""
    return (facts.client_share + facts.others_share) * facts.shared_cores


def _all(facts: Facts) -> float:
    """The cores that the broker may run on."""
    return facts.broker_cores + _ours(facts)
