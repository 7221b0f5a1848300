"""How words become arguments, where argparse alone would not do."""

from __future__ import annotations

import pytest

from rabbitry._cli.arguments import parse


@pytest.mark.parametrize(
    "words",
    ["q b --codec text", "q --codec text b", "--codec text q b", "--codec=text q -- b", "q --codec text -- b"],
)
def test_flags_stand_anywhere(words: str) -> None:
    found = parse(["call", *words.split()])
    assert (found.routing_key, found.body, found.codec) == ("q", "b", "text")


@pytest.mark.parametrize("body", ["-x", "--json", "-5", "-", "--", "-0", "a=b"])
def test_what_follows_two_dashes_is_no_flag(body: str) -> None:
    found = parse(["publish", "--routing-key", "q", "--", body])
    assert (found.body, found.json, found.null) == (body, False, False)


def test_numbers_and_a_dash_are_no_flags() -> None:
    assert [parse(["call", "q", word]).body for word in ("-5", "-1.5", "-")] == ["-5", "-1.5", "-"]
    assert parse(["publish", "-0", "--lines"]).null


def test_a_value_that_may_be_left_out() -> None:
    assert parse(["queues", "--rabbitmqctl", "--check"]).rabbitmqctl == "rabbitmqctl"
    assert parse(["queues", "--rabbitmqctl", "sudo rabbitmqctl", "--check"]).rabbitmqctl == "sudo rabbitmqctl"
    assert parse(["queues"]).rabbitmqctl is None


@pytest.mark.parametrize(
    "words", ["get", "get q r", "get q --cont 1", "get q --count", "get q --count --json", "gets q", "get q -- -0"]
)
def test_refusals(words: str) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(words.split())
    assert ended.value.code == 2
