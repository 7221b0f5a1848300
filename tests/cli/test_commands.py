"""Each command against a broker, in this process: what it prints, what it leaves behind, how it exits."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.support.helpers import unique

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])


def depth(cli: Cli, queue: str) -> int:
    """Messages ready."""
    (record,) = cli("declare", "queue", queue, "--passive", "--json").records
    return int(record["messages"])


# --- publish and get ------------------------------------------------------------------------------------------------


@BACKENDS
def test_a_body_comes_back_byte_for_byte(cli: Cli, queue: str, backend: str) -> None:
    body = bytes(range(256)) * 1000
    published = cli("publish", "--routing-key", queue, "--backend", backend, stdin=body)
    assert (published.code, published.out, published.err) == (0, b"", "")
    assert depth(cli, queue) == 1
    got = cli("get", queue, "--backend", backend)
    assert (got.code, got.out, got.err) == (0, body, "")
    assert depth(cli, queue) == 0


def test_nothing_to_get(cli: Cli, queue: str) -> None:
    got = cli("get", queue)
    assert (got.code, got.out) == (1, b"")
    assert "has nothing to get" in got.err


def test_the_body_of_the_command_line_with_properties(cli: Cli, queue: str) -> None:
    flags = "--property", "content_type=text/x", "--property", "priority=4", "--header", "n=1", "--header", "t=one"
    assert cli("publish", "--routing-key", queue, "--repeat", "2", *flags, "hällo").code == 0
    first, second = cli("get", queue, "--count", "5", "--json").records
    assert first == second
    assert first == {
        "exchange": "",
        "routing_key": queue,
        "redelivered": False,
        "properties": {"content_type": "text/x", "headers": {"n": 1, "t": "one"}, "delivery_mode": 2, "priority": 4},
        "body": "hällo",
    }


def test_get_puts_back(cli: Cli, queue: str) -> None:
    cli("publish", "--routing-key", queue, "--lines", stdin=b"a\nb\n")
    assert cli("get", queue, "--requeue").out == b"a"
    assert cli("get", queue, "--requeue", "--count", "5").out == b"a\nb\n"
    assert cli("get", queue, "--no-ack", "--count", "2", "--null").out == b"a\0b\0"
    assert depth(cli, queue) == 0


@BACKENDS
def test_lines(cli: Cli, queue: str, backend: str) -> None:
    lines = b"one\n\ntwo\r\nthree \xff\nlast"
    done = cli("publish", "--routing-key", queue, "--lines", "--json", "--backend", backend, stdin=lines)
    assert done.records == [
        {"published": 5, "confirmed": 5, "nacked": 0, "unroutable": 0, "unknown": 0, "unsent": 0},
    ]
    assert cli("consume", queue, "--count", "5", "--backend", backend).out == lines + b"\n"


def test_lines_that_end_with_nul(cli: Cli, queue: str) -> None:
    assert cli("publish", "--routing-key", queue, "--lines", "-0", stdin=b"one\ntwo\0three\0").code == 0
    assert cli("consume", queue, "--count", "2", "-0").out == b"one\ntwo\0three\0"


def test_messages_move_as_json_with_all_they_have(cli: Cli, queue: str) -> None:
    flags = "--property", "expiration=1h", "--property", "timestamp=now", "--header", 'b={"$bytes": "/w=="}'
    cli("publish", "--routing-key", queue, *flags, stdin=b"\xff\x00")
    moved = cli("consume", queue, "--json", "--count", "1")
    assert cli("publish", "--json-lines", stdin=moved.out + b"\n").code == 0
    assert cli("get", queue, "--json").records == moved.records


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        pytest.param(b'{"body": 5}', "it needs a body", id="no message"),
        pytest.param(b'{"body": "x", "properties": {"priority": 300}}', "property priority must be", id="no priority"),
        pytest.param(b"[" * 100_000, "maximum recursion depth", id="nested"),
    ],
)
def test_a_line_that_is_no_message_is_named(cli: Cli, queue: str, line: bytes, reason: str) -> None:
    """And those before it have their outcomes."""
    lines = b'{"body": "x", "routing_key": "%s"}\n%s\n' % (queue.encode(), line)
    done = cli("publish", "--json-lines", "--json", stdin=lines)
    assert done.code == 2
    assert f"line 2: {reason}" in done.err
    assert (done.records[0]["published"], done.records[0]["confirmed"]) == (1, 1)


CULPRIT = {"user_id": "another"}
TOO_LONG = {"type": "x" * 256}


def records(queue: str, count: int, properties: dict[int, dict[str, str]]) -> bytes:
    """Lines of numbered messages; some, by their numbers, have properties."""
    return b"".join(
        json.dumps({"body": str(number), "routing_key": queue, "properties": properties.get(number, {})}).encode()
        + b"\n"
        for number in range(count)
    )


@BACKENDS
@pytest.mark.parametrize(
    ("count", "culprits"),
    [
        pytest.param(10, [3], id="one"),
        pytest.param(2000, [0, 5, 700, 701, 1999], id="several"),
        pytest.param(3, [0, 1, 2], id="all"),
    ],
)
def test_a_message_that_is_refused_takes_no_other_with_it(
    cli: Cli, queue: str, backend: str, count: int, culprits: list[int], tmp_path: Path
) -> None:
    """As whoever filled the pipe may have forgotten them: they arrive once or, which is counted, more often."""
    failed = tmp_path / "failed"
    words = "publish", "--json-lines", "--json", "--backend", backend, "--failed", str(failed)
    done = cli(*words, stdin=records(queue, count, dict.fromkeys(culprits, CULPRIT)))
    (record,) = done.records
    assert (done.code, record["published"], record["confirmed"]) == (1, count, count - len(culprits))
    for culprit in culprits:
        assert f"line {culprit + 1}: " in done.err
    assert done.err.count("PRECONDITION_FAILED - user_id property set to 'another'") == len(culprits)
    arrived = cli("get", queue, "--count", "10k").out.split()
    assert {int(body) for body in arrived} == set(range(count)) - set(culprits)
    assert len(arrived) - len(set(arrived)) <= record.get("republished", 0)
    kept = [json.loads(line) for line in failed.read_bytes().splitlines()]
    assert sorted(int(each["body"]) for each in kept) == culprits
    assert {each["properties"]["user_id"] for each in kept} == {"another"}


def test_what_failed_can_be_published_again(cli: Cli, queue: str, tmp_path: Path) -> None:
    failed, elsewhere = tmp_path / "failed", unique()
    line = cli("publish", "--routing-key", elsewhere, "--header", "n=1", "--failed", str(failed), "x\udcff", "y")
    assert (line.code, line.err.count("no queue is bound")) == (1, 2)
    again = cli("publish", "--json-lines", "--routing-key", queue, stdin=failed.read_bytes())
    assert again.code == 0
    assert [each["properties"]["headers"] for each in cli("get", queue, "--count", "9", "--json").records] == [
        {"n": 1}
    ] * 2
    assert cli("publish", "--failed", str(tmp_path), "x").code == 2


@BACKENDS
@pytest.mark.parametrize(
    "bad", [b"no JSON", b'{"body": 5}', json.dumps({"body": "x", "properties": TOO_LONG}).encode()]
)
def test_a_line_that_is_no_message_takes_no_other_with_it(
    cli: Cli, queue: str, backend: str, bad: bytes, tmp_path: Path
) -> None:
    first, second, third, fourth = records(queue, 4, {2: CULPRIT}).splitlines()
    words = "publish", "--json-lines", "--json", "--backend", backend
    done = cli(*words, stdin=b"\n".join((bad, first, bad, second, fourth)))
    assert (done.code, done.records[0]["published"], done.records[0]["invalid"]) == (2, 3, 2)
    assert "line 1: " in done.err and "line 3: " in done.err
    assert cli("get", queue, "--count", "9").out.split() == [b"0", b"1", b"3"]
    failed = tmp_path / "failed"
    both = cli(*words, "--failed", str(failed), stdin=b"\n".join((first, bad, third)))
    assert (both.code, both.records[0]["confirmed"]) == (1, 1)
    assert len(failed.read_bytes().splitlines()) == 2


@BACKENDS
def test_where_all_would_fail_no_more_is_read(cli: Cli, queue: str, amqp_url: str, backend: str) -> None:
    """What is still in the pipe goes back into the queue that it came from."""
    cli("publish", "--routing-key", queue, "--lines", stdin=b"x\n" * 200)
    program = f"{sys.executable} -m rabbitry"
    command = (
        f"{program} consume {queue} --json | {program} publish --json-lines --exchange {unique()} --backend {backend}"
    )
    environment = {**os.environ, "RABBITMQ_URL": amqp_url}
    done = subprocess.run(command, shell=True, env=environment, capture_output=True, timeout=60, check=False)
    assert (done.returncode, b"NOT_FOUND - no exchange" in done.stderr) == (1, True)
    for _ in range(200):
        if depth(cli, queue) == 200:
            break
        time.sleep(0.05)
    assert depth(cli, queue) == 200


def test_several_bodies(cli: Cli, queue: str) -> None:
    assert cli("publish", "--routing-key", queue, "one", "two", "--repeat", "2", "--", "-3").code == 0
    assert cli("get", queue, "--count", "9").out == b"one\ntwo\n-3\none\ntwo\n-3\n"


@pytest.mark.parametrize("flags", [("--lines",), ("--json-lines",), ()], ids=" ".join)
def test_what_reaches_no_queue_fails_unless_it_may(cli: Cli, flags: tuple[str, ...]) -> None:
    words = "publish", "--routing-key", unique(), *flags
    done = cli(*words, stdin=b'{"body": "x"}')
    assert (done.code, "no queue is bound" in done.err) == (1, True)
    assert cli(*words, "--mandatory", stdin=b'{"body": "x"}').code == 1
    allowed = cli(*words, "--no-mandatory", stdin=b'{"body": "x"}')
    assert (allowed.code, allowed.err) == (0, "")


def test_outcomes_other_than_confirmed(cli: Cli) -> None:
    lines = b"".join(b"%d\n" % number for number in range(15))
    done = cli("publish", "--routing-key", unique(), "--mandatory", "--lines", "--json", stdin=lines)
    assert done.code == 1
    assert done.records[0]["unroutable"] == 15
    assert "line 1: no queue is bound" in done.err
    assert "and 5 failures more" in done.err


@BACKENDS
def test_an_exchange_that_does_not_exist_ends_it(cli: Cli, backend: str) -> None:
    done = cli("publish", "--exchange", unique(), "--repeat", "100k", "--json", "--backend", backend, "x")
    assert done.code == 1
    assert "NOT_FOUND - no exchange" in done.err
    (record,) = done.records
    assert record["confirmed"] == 0 < record["published"] < 100_000


def test_a_full_queue_nacks(cli: Cli) -> None:
    queue = unique("cli")
    assert cli("declare", "queue", queue, "--max-length", "1", "--overflow", "reject-publish").code == 0
    done = cli("publish", "--routing-key", queue, "--repeat", "3", "--json", "--window", "1", "x")
    assert (done.code, done.records[0]["nacked"]) == (1, 2)
    assert cli("delete", "queue", queue).code == 0


# --- consume --------------------------------------------------------------------------------------------------------


@BACKENDS
def test_count_takes_no_more(cli: Cli, queue: str, backend: str) -> None:
    cli("publish", "--routing-key", queue, "--lines", stdin=b"\n".join(b"%d" % number for number in range(1000)))
    got = cli("consume", queue, "--count", "700", "--prefetch", "300", "--backend", backend)
    assert (got.code, got.out) == (0, b"".join(b"%d\n" % number for number in range(700)))
    assert depth(cli, queue) == 300


def test_requeue_shows_each_once_and_leaves_them(cli: Cli, queue: str) -> None:
    cli("publish", "--routing-key", queue, "--lines", stdin=b"a\nb\nc\n")
    assert cli("consume", queue, "--requeue", "--timeout", "100ms").out == b"a\nb\nc\n"
    assert cli("consume", queue, "--requeue", "--count", "2", "--bare").out == b"ab"
    assert depth(cli, queue) == 3


@BACKENDS
@pytest.mark.parametrize(
    "words", [("consume", "--timeout", "200ms"), ("get", "--count", "5"), ("consume", "--count", "3")]
)
def test_looking_counts_with_a_quorum_queue(cli: Cli, backend: str, words: tuple[str, ...]) -> None:
    """Which is told; and it is by nacks, which RabbitMQ 4.3 does not count, where all other ways count."""
    queue = unique("cli")
    assert cli("declare", "queue", queue, "--type", "quorum", "--delivery-limit", "9").code == 0
    try:
        cli("publish", "--routing-key", queue, "--lines", stdin=b"a\nb\nc\n")
        command, *flags = words
        look = (command, queue, "--requeue", "--backend", backend, *flags)
        assert cli(*look).out == b"a\nb\nc\n"
        looked = cli(*look)
        assert (looked.code, looked.out) == (0, b"a\nb\nc\n")
        seen = cli("get", queue, "--requeue", "--count", "3", "--json").records
        headers = [record["properties"].get("headers", {}) for record in seen]
        if "x-acquired-count" in headers[0]:
            assert all("x-delivery-count" not in each for each in headers)
            assert looked.err == ""
        else:
            assert [each["x-delivery-count"] for each in headers] == [2, 2, 2]
            assert f"queue '{queue}' is a quorum queue" in looked.err
            assert "the 2nd now" in looked.err
    finally:
        cli("delete", "queue", queue)


def test_looking_at_other_queues_tells_nothing(cli: Cli, queue: str) -> None:
    cli("publish", "--routing-key", queue, "--header", "x-delivery-count=many", "x")
    for command in ("get", "consume"):
        assert cli(command, queue, "--requeue", "--count", "1").err == ""
    stream = unique("cli")
    cli("declare", "queue", stream, "--type", "stream")
    cli("publish", "--routing-key", stream, "x")
    looked = cli("consume", stream, "--requeue", "--offset", "first", "--count", "1")
    assert (looked.code, looked.out, looked.err) == (0, b"x\n", "")
    cli("delete", "queue", stream)


def test_too_few_in_time(cli: Cli, queue: str) -> None:
    cli("publish", "--routing-key", queue, "x")
    got = cli("consume", queue, "--count", "2", "--timeout", "100ms")
    assert (got.code, got.out) == (1, b"x\n")
    assert cli("consume", queue, "--timeout", "50ms").code == 1
    assert depth(cli, queue) == 0


def test_a_queue_that_does_not_exist(cli: Cli) -> None:
    got = cli("consume", unique())
    assert got.code == 1
    assert "NOT_FOUND - no queue" in got.err


def test_a_stream_from_its_beginning(cli: Cli) -> None:
    stream = unique("cli")
    assert cli("declare", "queue", stream, "--type", "stream").code == 0
    cli("publish", "--routing-key", stream, "--lines", stdin=b"a\nb\nc\n")
    for _ in range(2):
        assert cli("consume", stream, "--offset", "first", "--count", "3").out == b"a\nb\nc\n"
    assert cli("consume", stream, "--offset", "1", "--count", "2").out == b"b\nc\n"
    assert cli("delete", "queue", stream).code == 0


# --- topology -------------------------------------------------------------------------------------------------------


def test_topology(cli: Cli, queue: str) -> None:
    events, audit = unique("cli"), unique("cli")
    assert cli("declare", "exchange", events, "--type", "topic").out == f"exchange {events}\n".encode()
    assert cli("declare", "exchange", audit, "--type", "fanout", "--transient", "--auto-delete").code == 0
    assert cli("bind", "exchange", audit, events, "--routing-key", "#").code == 0
    assert cli("bind", "queue", queue, audit).code == 0
    bound = cli("bind", "queue", queue, events, "--routing-key", "a.#", "--routing-key", "b", "--json")
    assert bound.records == [{"queue": queue, "source": events, "routing_key": key} for key in ("a.#", "b")]
    assert cli("publish", "--exchange", events, "--routing-key", "c", "--mandatory", "x").code == 0
    assert cli("unbind", "queue", queue, audit).code == 0  # by which the exchange audit goes
    assert cli("publish", "--exchange", events, "--routing-key", "c", "--mandatory", "x").code == 1
    assert cli("purge", queue).out == f"queue {queue}: 1 message dropped\n".encode()
    assert cli("declare", "exchange", events, "--passive").code == 0
    assert cli("declare", "exchange", audit, "--passive").code == 1
    assert cli("delete", "exchange", events).code == 0
    assert cli("delete", "exchange", events).code == 1
    assert cli("delete", "exchange", events, "--missing-ok").code == 0


def test_deleting(cli: Cli, queue: str) -> None:
    cli("publish", "--routing-key", queue, "x")
    refused = cli("delete", "queue", queue, "--if-empty")
    assert (refused.code, "PRECONDITION_FAILED" in refused.err) == (1, True)
    missing = unique()
    deleted = cli("delete", "queue", missing, queue, "--json")
    assert (deleted.code, deleted.records) == (1, [{"queue": queue, "messages": 1}])
    assert f"no queue '{missing}'" in deleted.err


def test_a_queue_with_arguments(cli: Cli) -> None:
    queue = unique("cli")
    flags = "--message-ttl", "1.5", "--expires", "1h", "--max-priority", "5", "--argument", "x-custom=1"
    assert cli("declare", "queue", queue, *flags).code == 0
    again = cli("declare", "queue", queue, "--message-ttl", "2s")
    assert again.code == 1
    assert "PRECONDITION_FAILED" in again.err
    assert cli("delete", "queue", queue).code == 0


@BACKENDS
def test_ping(cli: Cli, backend: str) -> None:
    assert re.fullmatch(rb"RabbitMQ \S+, .*: connected in \S+ ms, round trip \S+ ms\n", cli("ping").out)
    (record,) = cli("ping", "--json", "--backend", backend).records
    assert record["product"] == "RabbitMQ"
    assert record["round_trip_ms"] > 0


# --- exit codes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        *(
            ["get"],
            ["nothing"],
            ["consume"],
            ["consume", "q", "--exchange", "e"],
            ["consume", "q", "--routing-key", "k"],
        ),
        *(["consume", "q", "--no-ack", "--count", "1"], ["consume", "q", "--no-ack", "--requeue"]),
        *(["consume", "q", "--offset", "never"], ["get", "q", "--null", "--bare"], ["get", "q", "--count", "0"]),
        *(["publish", "--lines", "body"], ["publish", "--null", "body"], ["publish", "--header", "x", "body"]),
        *(["publish", "--property", "priority=x", "body"], ["publish", "--property", f"type={'x' * 256}", "body"]),
        *(["declare", "queue", "q", "--type", "stream", "--expires", "1"], ["declare", "queue", "q", "--expires", "0"]),
        *(
            ["declare"],
            ["serve", "q"],
            ["serve", "q", "--function", "nothing"],
            ["serve", "q", "--function", "no:thing"],
        ),
        *(
            ["serve", "q", "--function", "tests.cli.functions:missing"],
            ["call", "q", "{"],
            ["queues", "--window", "2h"],
        ),
        ["serve", "q", "--function", "tests.cli.functions:NOTHING"],
    ],
    ids=" ".join,
)
def test_wrong_usage(words: list[str], cli: Cli) -> None:
    done = cli(*words)
    assert (done.code, done.out) == (2, b"")
    assert done.err


def test_no_broker(cli: Cli, amqp_url: str) -> None:
    for words in (["ping"], ["publish", "x"], ["consume", "q"], ["serve", "q", "--command", "cat"]):
        done = cli(*words, "--url", "amqp://127.0.0.1:1")
        assert done.code == 3
        assert done.err.endswith("nothing listens at 127.0.0.1:1 (connection refused)\n")
    for words in (["ping", "--wait", "5m"], ["consume", "q"]):
        done = cli(*words, "--url", amqp_url.replace("guest:guest", "guest:wrong"))
        assert (done.code, "wrong" in done.err) == (3, False)
    assert cli("ping", "--vhost", unique()).code == 3


def test_a_backend_that_is_not_installed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trio", None)
    done = cli("ping", "--backend", "trio")
    assert (done.code, done.err) == (2, "rabbitry: --backend trio needs trio: pip install trio\n")


def test_help_of_each_command(cli: Cli) -> None:
    commands = re.findall(r"^    (\w+)", cli("--help").out.decode(), re.MULTILINE)
    assert len(commands) == 16
    for command in commands:
        shown = cli(command, *(["queue"] if command in ("declare", "delete", "bind", "unbind") else []), "--help")
        assert shown.code == 0
        text = shown.out.decode()
        assert f"\n  rabbitry {command}" in text
        assert "Exit codes: 0 ok" in text


def test_json_is_one_object_a_line(cli: Cli, queue: str) -> None:
    cli("publish", "--routing-key", queue, "two\nlines")
    (line,) = cli("get", queue, "--json").out.splitlines()
    assert json.loads(line)["body"] == "two\nlines"


# --- what the broker closes the connection over -----------------------------------------------------------------------


def test_a_refusal_is_no_broker_out_of_reach(cli: Cli, broker_version: tuple[int, ...]) -> None:
    if broker_version >= (4,):
        pytest.skip("RabbitMQ 4 closes the channel alone over an unknown exchange type, and crashes over neither")
    for command, words in (
        (("declare", "exchange", unique(), "--type", "fanuot"), "unknown exchange type"),
        (("declare", "queue", unique(), "--argument", "x-queue-master-locator=bogus"), "INTERNAL_ERROR"),
    ):
        ran = cli(*command)
        assert ran.code == 1 and words in ran.err


@pytest.mark.parametrize("argument", ["x-max-age=-5s", "x-max-length=-1", "x-max-length=abc"])
def test_arguments_that_no_queue_has_are_wrong_usage(cli: Cli, argument: str) -> None:
    ran = cli("declare", "queue", unique(), "--argument", argument)
    assert ran.code == 2 and argument.partition("=")[0] in ran.err
