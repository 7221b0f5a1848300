"""A run: settings, result, what is written and said of it, exit code.

0 all well, 1 messages lost, connections failed or a load that was not put on, 2 wrong usage, 3 a requirement not
reached, 4 no broker, 5 incomplete (a worker was lost, trials could not run), 130 interrupted. The first Ctrl-C or
SIGTERM ends the run in order and reports what was measured; the second drops everything. Results are written before
anything is said of them, and no further interrupt keeps them from it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from loadtest.commands.calibrating import calibrate
from loadtest.commands.exits import (
    FAILED,
    INCOMPLETE,
    INTERRUPTED,
    NO_BROKER,
    NOT_REACHED,
    OK,
    USAGE,
    Incomplete,
    Unreachable,
    Unwritable,
)
from loadtest.commands.flags import parse_settings
from loadtest.commands.interrupts import held, interruptible
from loadtest.commands.performing import perform
from loadtest.commands.target import TargetRefused, check_target, choose_broker, describe_target
from loadtest.commands.trials import TrialEnded, VariationRefused, plan_trials, try_all
from loadtest.drivers import DriverMissing, load_driver
from loadtest.execution.queues import QueueRefused
from loadtest.machine.preflight import Refused
from loadtest.output.console import Speaker, make_console
from loadtest.output.drawing import NotDrawn
from loadtest.output.exporter import MetricsRefused
from loadtest.output.files import DestinationRefused, check_destinations, save_elsewhere, write_report, write_result
from loadtest.output.progress import Progress
from loadtest.output.summary import render_summary
from loadtest.output.trials import render_trials
from loadtest.scenarios.settings import Settings
from loadtest.units import format_text
from loadtest.urls import redact_in
from rabbitry.testing import NodeError, RabbitMQNotFound


def main(arguments: Sequence[str], adapt: Callable[[Settings], Settings] = lambda settings: settings) -> int:
    """Runs a load test with these arguments, as `adapt` makes of their settings; returns the exit code."""
    words = list(arguments)
    settings = adapt(parse_settings(words, os.environ))
    logging.basicConfig(handlers=[logging.NullHandler()])  # errors are counted and reported, not logged by the thousand
    errors = make_console(stderr=True)
    console = errors if settings.json == "-" else make_console()
    try:
        if settings.urls and not settings.quiet:
            console.print(f"target    {describe_target(settings)}", markup=False, soft_wrap=True)
        check_target(settings)
        settings, told = choose_broker(settings)
        with interruptible():
            return _run(settings, words, console, told)
    except (
        DriverMissing,
        Refused,
        DestinationRefused,
        QueueRefused,
        TargetRefused,
        VariationRefused,
        MetricsRefused,
    ) as error:
        code, text = USAGE, _text_of(error)
    except (Unreachable, NodeError, RabbitMQNotFound) as error:
        code, text = NO_BROKER, _text_of(error)
    except TrialEnded as error:
        code, text = error.code, str(error)
    except Incomplete as error:
        code, text = INCOMPLETE, _text_of(error)
    except Unwritable as error:
        code, text = FAILED, _text_of(error)
    except KeyboardInterrupt:
        code, text = INTERRUPTED, "interrupted before anything was measured"
    secret = (*words, *settings.all_urls, settings.control_url or "")
    errors.print(f"loadtest: {redact_in(text, secret)}", markup=False, soft_wrap=True)
    return code


def _text_of(error: Exception) -> str:
    """What an error says: on lines where they are ours, as those of a node's log, otherwise on one."""
    text = str(error)
    return (
        "\n".join(map(format_text, text.split("\n"))) if isinstance(error, Refused | NodeError) else format_text(text)
    )


def _run(settings: Settings, words: list[str], console: Speaker, told: Sequence[str]) -> int:
    load_driver(settings.driver)  # what it lacks is said before all else
    check_destinations(settings.output, settings.json)
    cells = plan_trials(settings, words) if settings.repeat > 1 or settings.vary else None
    for line in told if not settings.quiet else ():
        console.print(line, markup=False, soft_wrap=True)
    if cells is not None:
        performed = try_all(settings, words, cells, console)
    else:
        calibration = calibrate(settings, words, console) if settings.calibrate else None
        performed = perform(settings, words, Progress(console, quiet=settings.quiet), calibration)
    result, written, unwritten = performed.result, list[Path](), ""
    with held() as hold:
        hold.begin()
        try:
            written = write_result(result, settings)
        except OSError as error:
            unwritten = f"the result could not be written: {error}; {save_elsewhere(result, result['run_id'])}"
        if not settings.quiet:
            render = render_summary if result["trials"] is None else render_trials
            console.print(render(result, performed.failures))
            for path in written:
                console.print(f"written   {path}", markup=False, soft_wrap=True)
    if unwritten:
        raise Unwritable(unwritten)
    _draw(result, settings, console)
    if performed.is_interrupted:
        return INTERRUPTED
    if result["incomplete"]:
        return INCOMPLETE
    if performed.failures:
        return FAILED
    return OK if all(each["holds"] for each in result["requirements"]) else NOT_REACHED


def _draw(result: dict[str, Any], settings: Settings, console: Speaker) -> None:
    """Charts, once all is written and said: they take seconds, and nothing depends on them."""
    try:
        told = [f"written   {path}" for path in write_report(result, settings)]
    except NotDrawn as error:
        told = [f"not drawn {error}"]
    for line in told if not settings.quiet else ():
        console.print(format_text(line), markup=False, soft_wrap=True)
