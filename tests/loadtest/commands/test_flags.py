from __future__ import annotations

from dataclasses import replace

import pytest

from loadtest.commands.flags import parse_settings, way
from loadtest.drivers import EVERYTHING, LIBRARIES
from loadtest.scenarios.settings import Settings


def parse(*words: str, **environment: str) -> Settings:
    return parse_settings(words, environment)


def test_clients_are_shared_out() -> None:
    settings = parse("--clients", "10k")
    assert (settings.producers, settings.consumers, settings.callers) == (4500, 4500, 1000)
    assert settings.connections == 10_000
    assert (settings.queues, settings.servers) == (45, 4)
    assert (settings.mode, settings.loop) == ("both", "open")


def test_roles_can_be_given_alone_or_with_the_clients() -> None:
    alone = parse("--producers", "3", "--consumers", "2")
    assert (alone.clients, alone.callers, alone.servers) == (5, 0, 0)
    rest = parse("--clients", "100", "--callers", "0")
    assert (rest.producers, rest.consumers) == (50, 50)


def test_a_rate_makes_the_loop_open() -> None:
    assert parse("--producers", "10", "--rate", "2k").rate == 2000
    each = parse("--producers", "10", "--rate-each", "5")
    assert (each.rate, each.loop) == (50, "open")


def test_the_mode_follows_from_the_rate_unless_it_is_said() -> None:
    both = parse()
    assert (both.mode, both.loop, both.rate, both.share, both.search) == ("both", "open", None, 0.5, 35.0)
    paced = parse("--rate", "10")
    assert (paced.mode, paced.loop, paced.search) == ("paced", "open", 0.0)
    assert parse("--mode", "paced", "--rate-each", "1").mode == "paced"
    closed = parse("--mode", "closed")
    assert (closed.mode, closed.loop, closed.warmup) == ("closed", "closed", 5.0)
    assert parse("--share", "80%").share == parse("--share", "0.8").share == 0.8


def test_how_long_the_search_may_take_follows_from_what_is_measured() -> None:
    assert [parse("--duration", text).search for text in ("1", "8", "20", "1h")] == [6.0, 14.0, 35.0, 35.0]
    assert parse("--search", "40").search == 40
    assert [parse("--duration", text).warmup for text in ("1", "8", "20", "1h")] == [1.0, 2.0, 5.0, 5.0]
    assert parse("--duration", "1", "--mode", "closed").warmup == parse("--duration", "1", "--rate", "5").warmup == 5.0
    assert parse("--duration", "1", "--warmup", "3").warmup == 3.0


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("--mode paced", "--mode paced: say at which --rate"),
        ("--mode closed --rate 5", "--rate with --mode closed"),
        ("--mode both --rate-each 5", "--rate with --mode both"),
        ("--share 0.5 --rate 5", "--share is for --mode both"),
        ("--search 5 --mode closed", "--search is for --mode both"),
        ("--share 0", "no share above 0"),
        ("--share 120%", "no share above 0"),
        ("--share half", "no share above 0"),
        ("--search 0", "above 0"),
    ],
)
def test_modes_that_make_no_sense(line: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(*line.split())
    assert told in capsys.readouterr().err


def test_callers_keep_the_pace_of_producers() -> None:
    assert parse("--producers", "10", "--callers", "3", "--rate", "50").rate_each == 5
    assert parse("--callers", "4", "--rate", "20").rate_each == 5
    assert parse("--callers", "4", "--rate-each", "5").rate == 20
    assert parse().rate_each is None


def test_one_client_alone_produces() -> None:
    settings = parse("--clients", "1")
    assert (settings.producers, settings.consumers, settings.callers) == (1, 0, 0)


def test_the_ramp_lies_in_the_warmup() -> None:
    assert parse("--ramp", "10", "--warmup", "2").warmup == 10


def test_brokers_come_from_the_line_or_the_environment() -> None:
    assert parse().urls == ()
    assert parse(RABBITMQ_URL="amqp://a").urls == ("amqp://a",)
    assert parse("--url", "amqp://b/x", "--url", "amqp://c", "--vhost", "a/b", RABBITMQ_URL="amqp://a").urls == (
        "amqp://b/a%2Fb",
        "amqp://c/a%2Fb",
    )


def test_queue_arguments_and_labels() -> None:
    settings = parse(
        *("--queue-arg", "x-max-length=10", "--queue-arg", "x-lazy=true", "--queue-arg", "x=a=b", "--label", "k=1"),
        *("--queue-arg", "text=007", "--queue-arg", 'quoted="5"', "--queue-arg", "nan=NaN", "--queue-arg", "list=[1]"),
    )
    assert settings.queue_arguments == {
        "x-max-length": 10,
        "x-lazy": True,
        "x": "a=b",
        "text": "007",
        "quoted": "5",
        "nan": "NaN",
        "list": "[1]",
    }
    assert settings.labels == {"k": "1"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--procesess 2", "unrecognized arguments: --procesess 2"),
        ("--client 5", "unrecognized arguments"),
        ("--clients 0", "0 is less than 1"),
        ("--clients ten", "'ten' is no number"),
        ("--clients 5 --producers 6", "don't make 5 clients"),
        ("--scenario work-queue --clients 8", "don't make 8 clients: say how many of them produce, consume and call"),
        ("--scenario soak --duration 30s", "would not be over by --duration 30s: make that longer, or say another"),
        ("--clients 5 --producers 1 --consumers 1 --callers 1", "don't make 5 clients"),
        ("--producers 0 --consumers 0", "no clients"),
        ("--clients 5 --connections 6", "idle"),
        ("--consumers 2 --queues 3", "3 queues for 2 consumers"),
        ("--callers 2 --queues 3", "--queues without"),
        ("--producers 2 --servers 3", "--servers without callers"),
        ("--callers 2 --servers 3", "3 servers for 2 callers"),
        ("--consumers 2", "nobody would send anything"),
        ("--json=", "--json is empty"),
        ("--vhost=", "--vhost is empty"),
        ("--queue-arg x-queue-type=stream", "use --queue-type"),
        ("--clients " + "9" * 400, "too large a number"),
        ("--rate 5 --rate-each 5", "not allowed with"),
        ("--rate 0", "above 0"),
        ("--duration 0", "above 0"),
        ("--size 8", "carries 10 bytes"),
        ("--require confirm.p99", "argument --require: 'confirm.p99' is no requirement"),
        ("--require confirm.p99<50", "50 has no unit: write 50ms, or 50s"),
        ("--require confirn.p99<50ms", "(is it confirm.p99?)"),
        ("--abort-on publish.rate>nan", "argument --abort-on: 'publish.rate>nan': nan is no number"),
        (
            "--clients 5 --callers 0 --require rpc.p99<1s",
            "--require 'rpc.p99<1s' would not be measured: there are no callers",
        ),
        (
            "--clients 5 --callers 0 --abort-on rpc.rate<1",
            "--abort-on 'rpc.rate<1' would not be measured: there are no callers",
        ),
        ("--callers 5 --require publish.rate>1", "would not be measured: there are no producers"),
        ("--callers 5 --require lost==0", "would not be measured: no queue is known"),
        ("--producers 5 --require end_to_end.p50<1s", "would not be measured: there are no consumers"),
        ("--mode closed --require lag.p50<1s", "would not be measured: nothing is late in a closed loop"),
        ("--no-confirm --require confirm.p99<1s", "would not be measured: nothing is confirmed (--no-confirm)"),
        ("--no-confirm --abort-on confirm_service.p99>1s", "would not be measured: nothing is confirmed"),
        ("--prefetch 5 --ack-every 6", "wait for ever"),
        ("--prefetch 70000", "more than 65535"),
        ("--driver aiormq --backend trio", "aiormq runs on asyncio or uvloop only"),
        ("--driver pika --clients 5 --connections 2", "has a thread and a connection for each client"),
        ("--driver pika --window 2", "--driver pika can't do --window: use --driver rabbitry or"),
        ("--driver kafka", "invalid choice"),
        ("--queue-type stream --prefetch 0", "a stream's consumers need a limit"),
        ("--queue-type streams", "invalid choice"),
        ("--callers 2 --window 5", "--window without producers would do nothing"),
        ("--callers 2 --mandatory", "--mandatory without producers would do nothing"),
        ("--callers 2 --transient", "--transient without producers would do nothing"),
        ("--callers 2 --size 10,100", "--size with several without producers would do nothing"),
        ("--producers 2 --prefetch 5", "--prefetch without consumers would do nothing"),
        ("--producers 2 --ack-every 5", "--ack-every without consumers would do nothing"),
        ("--producers 2 --rpc-timeout 5s", "--rpc-timeout without callers would do nothing"),
        ("--callers 2 --queue-type quorum", "--queue-type without producers and consumers would do nothing"),
        ("--callers 2 --queue-arg x-max-length=5", "--queue-arg without producers and consumers would do nothing"),
        ("--scenario consume --ramp 2s --warmup 3s", "--ramp without producers and callers would do nothing"),
        ("--duration 5s --until-idle 5s", "--until-idle 5s is not within --duration 5s"),
        ("--wait-broker 5s", "--wait-broker without --url would do nothing"),
        ("--churn --channels-per-connection 5", "leave out --channels-per-connection"),
        ("--churn --handshakes 5", "leave out --handshakes"),
        ("--scenario sweep --messages 500", "--scenario sweep takes no --messages"),
        ("--scenario sweep --until-idle 1s", "--scenario sweep takes no --until-idle"),
        (
            "--scenario sweep --producers 0 --callers 0 --consumers 2 --queue q --consume-foreign --url amqp://localhost",
            "--scenario sweep without producers and callers",
        ),
        ("--scenario strategies", "has flags of its own: python -m loadtest strategies --help"),
        ("--queue-arg x", "write it as key=value"),
        ("--url http://guest:secret@host", "no AMQP URL"),
        ("--url amqpfoo://guest:secret@host", "no AMQP URL"),
        ("--url amqp://guest:secret@host:99999", "no AMQP URL"),
        ("--url guest:secret@host", "no AMQP URL"),
        (
            "--url amqp://guest:secret@host/a/b",
            "guest@host/a/b': the virtual host contains a '/'; write it as %2F",
        ),
        ("--url amqp://guest:sec@ret#x@host", "'#' is written %23, '@' %40"),
        ("--url amqp://guest:secret@host?colour=red", "unknown query parameter colour"),
        ("--url amqp://h --vhost " + "v" * 256, "the name of the virtual host is longer than 255 bytes"),
        ("--url http://host?password=secret", "no AMQP URL"),
        ("--clients amqp://guest:secret@host", "is no number"),
        ("--clients=amqps://host?PASSWORD=secret", "is no number"),
        ("--label amqps://host?p%61ssword:secret@x", "write it as key=value"),
        ("--driver=guest:secret@host", "invalid choice"),
        ("amqps://guest@host?password=secret", "unrecognized arguments"),
        ("--clients a\x1b]0;title\x07\u202e", r"'a\x1b]0;title\x07"),
    ],
)
def test_wrong_usage_says_why(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        parse(*line.split())
    assert exit_info.value.code == 2
    told = capsys.readouterr().err
    assert message in told
    assert "secret" not in told
    assert told.replace("\n", "").isprintable()


@pytest.mark.parametrize("url", ["amqp://guest:secret@host:x", "http://host?password=secret", "amqp://guest:secret"])
def test_no_password_of_the_environment_is_told(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(RABBITMQ_URL=url)
    told = capsys.readouterr().err
    assert "no AMQP URL" in told
    assert "secret" not in told


def test_a_fault_may_come_at_any_time_in_which_so_many_messages_may_be_sent() -> None:
    line = ["--producers", "2", "--messages", "1m", "--fault"]
    assert parse(*line, "90s kill-sockets 10%").duration == 3600
    with pytest.raises(SystemExit):
        parse(*line, "90s kill-sockets 10%", "--duration", "60s")
    with pytest.raises(SystemExit):
        parse(*line, "3600s kill-sockets 10%")


@pytest.mark.parametrize("line", ["--scenario consume --transient", "--scenario backlog --size 20,200"])
def test_what_fills_the_queues_beforehand_heeds_what_is_said_of_messages(line: str) -> None:
    assert parse(*line.split()).backlog


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        parse("--help")
    assert exit_info.value.code == 0
    told = capsys.readouterr().out
    for flag in ("--clients", "--rate-each", "--drain", "--json", "--seed", "130 interrupted"):
        assert flag in told


@pytest.mark.parametrize(
    ("ability", "line"),
    [
        ("window", "--window 2"),
        ("ack-every", "--ack-every 2"),
        ("stream", "--queue-type stream"),
        ("rpc", "--callers 1"),
        ("no-confirm", "--no-confirm"),
        ("exchange", "--fanout 1"),
        ("exchange", "--topic 1"),
        ("exchange", "--exchange e --routing-key k --queue q --url amqp://localhost"),
        ("priorities", "--priorities 3"),
        ("headers", "--header a=1"),
        ("auto-ack", "--auto-ack"),
        ("work", "--work 5ms"),
        ("requeue", "--requeue 5%"),
        ("reject", "--reject 1%"),
    ],
)
def test_what_a_driver_cannot_do_is_refused(
    ability: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lacking = replace(LIBRARIES["aiormq"], can=EVERYTHING - {ability})
    monkeypatch.setattr(way, "LIBRARIES", {**LIBRARIES, "aiormq": lacking})
    parse_settings(["--driver", "aiormq", "--producers", "1", "--consumers", "1"], {})
    with pytest.raises(SystemExit):
        parse_settings(["--driver", "aiormq", "--producers", "1", "--consumers", "1", *line.split()], {})
    flag = line if ability == "stream" else line.split()[0]
    assert f"--driver aiormq can't do {flag}: use --driver rabbitry" in capsys.readouterr().err


def test_what_will_be_measured_may_be_required() -> None:
    for line in (
        "--require lag.p50<1s",  # of the schedule that follows the search
        "--scenario sweep --require lag.p50<1s",
        "--producers 5 --require lost==0",
        "--producers 5 --no-confirm --require publish.rate>1 --require publish.confirmed==0",
        "--callers 5 --require loop_lateness.p50<1s --require errors==0 --abort-on rpc.p50>1s",
    ):
        assert parse_settings(line.split(), {}).require
