from __future__ import annotations

import pytest

from loadtest.commands.flags import parse_settings
from loadtest.scenarios.faults import FORMS, Fault, parse_fault


@pytest.mark.parametrize(
    "text",
    ["60s kill-sockets 10%", "1.5s stop 5s", "5s restart", "5s restart 3s", "0s alarm 2s", "5s pause-consumers 1s"],
)
def test_a_fault_is_read_and_written(text: str) -> None:
    assert str(parse_fault(text)) == text


def test_quantities_are_those_of_the_flags() -> None:
    assert parse_fault("1m slow-consumers 2m 5ms") == Fault(at=60, action="slow-consumers", seconds=120, each=0.005)
    assert parse_fault("500ms kill-sockets 2.5%").share == 0.025


@pytest.mark.parametrize(
    "text",
    [
        *("", "5", "5 explode", "kill-sockets 5%", "5 kill-sockets", "5 kill-sockets 0%", "5 kill-sockets 101%"),
        *("5 kill-sockets 10", "5 stop", "5 stop 0s", "5 stop 1s 2s", "5 slow-consumers 5s", "5 restart 1s 2s"),
        *("x stop 5s", "5 stop fast", "5 slow-consumers 5s 0ms", "-1 stop 2s", "5 kill-sockets nan%"),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_fault(text)


@pytest.mark.parametrize("action", FORMS)
def test_a_refusal_says_how_it_is_written(action: str) -> None:
    with pytest.raises(ValueError, match=r"write it as '5 " + action):
        parse_fault(f"5 {action} 1s 2s 3s 4s")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--fault", "5 stop 2s", "--url", "amqp://x"], "stop needs a broker that is started"),
        (["--fault", "5 alarm 2s", "--url", "amqp://x"], "alarm needs a broker that is started"),
        (["--fault", "5 restart", "--url", "amqp://x", "--reconnect"], "restart needs a broker that is started"),
        (["--fault", "5 restart"], "unless there is --reconnect"),
        (["--fault", "5 stop 5s", "--duration", "10"], "would not be over by --duration 10s"),
        (["--fault", "5 pause-consumers 1s", "--producers", "4"], "there are no consumers"),
    ],
)
def test_what_can_not_be_done_is_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_settings(words, {})
    assert said in capsys.readouterr().err


def test_what_the_client_can_do_is_done_to_any_broker() -> None:
    words = ("--url", "amqp://x", "--fault", "5 kill-sockets 5%", "--fault", "6 pause-consumers 1s")
    assert len(parse_settings(words, {}).faults) == 2
