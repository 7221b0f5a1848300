"""How words become arguments, where argparse alone would not do."""

from __future__ import annotations

import re

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
    "words",
    [
        "--url amqp://h declare queue q",
        "declare --url amqp://h queue q",
        "--json --url=amqp://h --wait 5 declare queue q",
        "declare queue --url amqp://h q",
    ],
)
def test_flags_of_the_broker_stand_ahead_of_the_command(words: str) -> None:
    found = parse(words.split())
    assert (found.url, found.run, found.name) == ("amqp://h", "rabbitry._cli.commands.topology:declare_queue", "q")


@pytest.mark.parametrize("words", ["--url amqp://h", "--url amqp://h --", "--json", "--url", "--nothing ping"])
def test_flags_without_a_command_are_refused(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(words.split())
    assert ended.value.code == 2
    assert "invalid choice" not in capsys.readouterr().err


@pytest.mark.parametrize("words", ["--version", "--url amqp://h --version", "--version ping"])
def test_the_version(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(words.split())
    assert ended.value.code == 0
    assert re.fullmatch(r"rabbitry (\d+\.\d+.*|\(not installed.*)\n", capsys.readouterr().out)


@pytest.mark.parametrize("command", ["declare", "delete", "bind", "unbind"])
def test_the_usage_of_a_group(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([command, "--help"], ["--help", command], [command]):
        with pytest.raises(SystemExit):
            parse(words)
        out, err = capsys.readouterr()
        assert (out + err).startswith(f"usage: rabbitry {command} KIND NAME …\n")


@pytest.mark.parametrize(
    "words", ["get", "get q r", "get q --cont 1", "get q --count", "get q --count --json", "gets q", "get q -- -0"]
)
def test_refusals(words: str) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(words.split())
    assert ended.value.code == 2
