"""What this generator reaches alone: the same clients and messages against a sink that does nothing but answer.

The sink is a process of its own, for one short run in a closed loop. What comes of it is a rate of messages, those
confirmed, received and replied together: whatever is claimed of a broker must stay well below it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from loadtest.commands.exits import Unreachable
from loadtest.commands.performing import perform
from loadtest.output.console import Speaker
from loadtest.output.progress import Progress
from loadtest.scenarios.brokers import AUTO
from loadtest.scenarios.catalogue import DEFAULT
from loadtest.scenarios.settings import Settings

SECONDS = 5.0
"""For how long it is measured, at most: after `WARMUP` seconds, at most."""
WARMUP = 2.0
DRAIN = 10.0
AT_ITS_LIMIT = 0.9
"""Share of a core from which the sink was the limit itself, so that the generator may reach more."""
_RATES = {"confirmed_rate": "publish", "consumed_rate": "consume", "rpc_rate": "rpc"}
"""The rates that are told, and the sections they are of."""


def calibrate(settings: Settings, words: Sequence[str], console: Speaker) -> dict[str, Any]:
    """The calibration for what the settings ask for, as the record has it. Raises what `perform` does."""
    if not settings.quiet:
        console.print("calibrate this generator alone, against a sink that does nothing", markup=False, soft_wrap=True)
    calibration = _measure(settings, words, Progress(console, quiet=settings.quiet))
    if not settings.quiet:
        console.print(f"calibrate {tell(calibration)}", markup=False, soft_wrap=True)
    return calibration


def _measure(settings: Settings, words: Sequence[str], progress: Progress) -> dict[str, Any]:
    with open_sink() as url:
        performed = perform(for_the_sink(settings, url), words, progress)
    result = performed.result
    if performed.is_interrupted:
        raise KeyboardInterrupt
    rates = {name: (result[section] or {}).get("rate") or 0.0 for name, section in _RATES.items()}
    used = result["resources"]
    measured = next((phase["seconds"] for phase in result["phases"] if phase["name"] == "measure"), None)
    share = used["broker_cpu_seconds"] / measured if measured and used["broker_cpu_seconds"] is not None else None
    return {
        "rate": round(sum(rates.values()), 1),
        **rates,
        "measured_seconds": measured,
        "client_cpu_us_per_message": used["client_cpu_us_per_message"],
        "sink_share": None if share is None else round(share, 3),
        "is_sink_at_its_limit": share is not None and share > AT_ITS_LIMIT,
        "failures": performed.failures,
    }


def tell(calibration: dict[str, Any]) -> str:
    """The calibration in a line."""
    parts = [
        f"{calibration[name]:,.0f}/s {label}"
        for name, label in (("confirmed_rate", "confirmed"), ("consumed_rate", "consumed"), ("rpc_rate", "RPC"))
        if calibration[name]
    ]
    least = "at least " if calibration["is_sink_at_its_limit"] else ""
    failed = f"; it failed: {'; '.join(calibration['failures'])}" if calibration["failures"] else ""
    text = f"this generator alone reaches {least}{calibration['rate']:,.0f} messages/s here"
    return f"{text} ({', '.join(parts) or 'nothing'}){failed}"


def for_the_sink(settings: Settings, url: str) -> Settings:
    """The same load, as fast as it goes, for a short time; and nothing is written or required."""
    warmup = min(settings.warmup, WARMUP)
    return replace(
        settings,
        scenario=DEFAULT,
        broker=AUTO,
        urls=(url,),
        publish_urls=(),
        consume_urls=(),
        existing=(),
        exchange=None,
        queues=settings.queues or int(bool(settings.producers)),
        faults=(),
        shape=None,
        messages=None,
        until_idle=0.0,
        wait_broker=0.0,
        vhost=None,
        mode="closed",
        search=0.0,
        rate=None,
        warmup=warmup,
        ramp=min(settings.ramp, warmup),
        duration=min(settings.duration, SECONDS),
        drain=min(settings.drain, DRAIN),
        require=(),
        abort_on=(),
        calibrate=False,
        metrics=None,
        management=None,
        output=None,
        json=None,
    )


@contextmanager
def open_sink() -> Iterator[str]:
    """The URL of a sink that runs for as long as the block."""
    command = [sys.executable, "-m", "loadtest.machine.sink"]
    with subprocess.Popen(  # in a session of its own: Ctrl-C is for us, who then end it
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            if not url:
                raise Unreachable("the null sink for --calibrate did not start")
            yield url
        finally:
            process.stdin.close()  # which ends it
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
