"""Nobody may be made to do what he doesn't want to: workers with command lines of their own, and who leads them."""

from __future__ import annotations

import signal

import pytest

from tests.loadtest.fleet.programs import SHORT, TOKEN, Programs, until


@pytest.mark.parametrize(
    ("terms", "asked", "why"),
    [
        (("--max-rate", "10"), ("--mode", "closed"), "closed loop has no rate"),
        (("--max-rate", "10"), ("--rate", "100"), "at most 10"),
        (("--backend", "trio"), ("--mode", "closed"), "--backend asyncio"),
    ],
)
def test_a_worker_refuses_what_its_own_command_line_does_not_allow(
    programs: Programs, terms: tuple[str, ...], asked: tuple[str, ...], why: str
) -> None:
    worker = programs.work(*terms)
    lead = programs.lead("--workers", "1", "--clients", "20", *asked, "--join-timeout", "5", LOADTEST_TOKEN=TOKEN)
    assert lead.wait() == 2, lead.said
    assert worker.wait() == 2, worker.said
    assert why in worker.said


def test_a_worker_loads_no_broker_that_it_was_not_told_of(programs: Programs) -> None:
    name = programs.url.replace("127.0.0.1", "localhost").replace("localhost", "127.1", 1)
    worker = programs.work()
    lead = programs.start(
        "lead", "--workers", "1", "--url", name, "--control-url", programs.url, "--clients", "20", LOADTEST_TOKEN=TOKEN
    )
    assert lead.wait() == 2, lead.said
    assert "--allow-target" in lead.said
    assert worker.wait() == 2
    allowed = programs.work("--allow-target", name, "--control-url", programs.url)
    lead = programs.start(
        *("again", "--workers", "1", "--url", name, "--control-url", programs.url, *SHORT, "--quiet"),
        LOADTEST_TOKEN=TOKEN,
    )
    assert lead.wait() == 0, lead.said
    assert allowed.wait() == 0


def test_one_worker_of_two_may_load_another_broker(programs: Programs) -> None:
    """Its own command line names another address: it refuses, and nothing is loaded by the other either."""
    other = programs.url.replace("127.0.0.1", "localhost").replace("localhost", "127.1", 1)
    willing = programs.work()
    refusing = programs.work("--url", other, "--control-url", programs.url)
    lead = programs.lead("--workers", "2", *SHORT, LOADTEST_TOKEN=TOKEN)
    assert lead.wait() == 2, lead.said
    assert "(work1) takes no part: it loads " in lead.said and "--allow-target" in lead.said
    assert refusing.wait() == 2
    assert "--allow-target" in refusing.said
    assert willing.wait() == 2
    assert "work1" in willing.said
    assert not lead.json.exists()
    assert not list(programs.directory.glob("**/*.part")), "nothing was measured"


def test_another_token_is_no_way_in(programs: Programs) -> None:
    worker = programs.work("--wait", "3", token="another token than theirs")
    lead = programs.lead("--workers", "1", *SHORT, "--join-timeout", "3", LOADTEST_TOKEN=TOKEN)
    assert lead.wait() == 2
    assert "0 of 1 workers joined" in lead.said
    assert worker.wait() == 5
    assert "no coordinator was there" in worker.said


def test_two_coordinators_do_not_share_a_token(programs: Programs) -> None:
    first = programs.lead("--workers", "1", *SHORT, LOADTEST_TOKEN=TOKEN)
    until(lambda: "waiting for 1 workers" in first.said, program=first)
    second = programs.lead("--workers", "1", *SHORT, LOADTEST_TOKEN=TOKEN)
    assert second.wait() == 2
    assert "another coordinator" in second.said
    first.process.send_signal(signal.SIGINT)
    assert first.wait() == 130, first.said
    assert TOKEN not in first.said


def test_a_new_token_is_told_to_who_starts_the_coordinator(programs: Programs) -> None:
    lead = programs.lead("--workers", "1", *SHORT)
    until(lambda: "LOADTEST_TOKEN=" in lead.said, program=lead)
    token = lead.said.partition("LOADTEST_TOKEN=")[2].split()[0]
    worker = programs.work(token=token)
    assert lead.wait() == 0, lead.said
    assert worker.wait() == 0
    assert token not in lead.json.read_text(encoding="utf-8")
