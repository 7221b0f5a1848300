"""What of the traffic goes together, and what follows from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.commands.flags import parse_settings
from loadtest.scenarios.plan import make_plan
from loadtest.scenarios.settings import Settings

URL = "--url amqp://localhost"


def parse(line: str) -> Settings:
    return parse_settings(line.split(), {})


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("--producers 1 --work 5ms", "--work without consumers"),
        ("--producers 1 --requeue 5%", "--requeue without consumers"),
        ("--producers 1 --auto-ack", "--auto-ack without consumers"),
        ("--clients 10 --auto-ack --requeue 5%", "nothing is answered then"),
        ("--clients 10 --auto-ack --ack-every 5", "nothing is answered then"),
        ("--clients 10 --requeue 95%", "for ever"),
        ("--clients 10 --requeue 60% --reject 50%", "more than all"),
        ("--clients 10 --reject 1% --queue-type stream", "streams don't have it"),
        ("--callers 1 --no-confirm", "--no-confirm without producers"),
        ("--callers 1 --messages 5", "--messages without producers"),
        ("--clients 10 --no-confirm --window 5", "nothing says when there is room"),
        ("--clients 10 --no-confirm --mandatory", "which message came back"),
        ("--producers 5 --messages 3", "some would send none"),
        ("--clients 10 --skew 80%", "at least two queues"),
        ("--clients 10 --size 20 --body random", "at least 24"),
        ("--clients 10 --fanout 2 --topic 2", "one way"),
        ("--clients 10 --fanout 2 --queues 2", "--fanout and --queues"),
        ("--producers 1 --consumers 1 --fanout 2", "some queues would have none"),
        ("--clients 10 --routing-key k", "without --exchange"),
        (f"--clients 10 --exchange e --queue q --skew 80% {URL}", "--skew"),
        (f"--consumers 1 --queue q {URL}", "say --consume-foreign"),
        (f"--clients 10 --queue q --auto-ack {URL}", "say --consume-foreign"),
        ("--clients 10 --consume-foreign", "--consume-foreign without --queue"),
        ("--clients 10 --queue q", "say --url"),
        (f"--clients 10 --callers 1 --queue q {URL}", "--callers with --queue"),
        (f"--clients 10 --queue q --queue q {URL}", "a name of its own"),
        (f"--clients 10 --queue q --queues 2 {URL}", "nothing is declared"),
        (f"--producers 1 --consumers 1 --exchange e {URL}", "say --queue"),
        (f"--clients 10 --queue q --queue-type stream {URL}", "--queue-type stream"),
        ("--clients 10 --rate 0..100:5,100 --ramp 5", "write the ramp into the rate"),
        ("--clients 10 --channels-per-connection 2 --connections 5", "how many sockets"),
        ("--clients 10 --channels-per-connection 2 --publish-url amqp://localhost", "a connection for each client"),
        ("--consumers 1 --callers 1 --publish-url amqp://localhost", "without producers"),
        ("--clients 10 --publish-url http://localhost", "no AMQP URL"),
        ("--clients 10 --body /nowhere", "no file"),
        ("--clients 10 --work soon", "no duration"),
        ("--clients 10 --requeue 2", "no share"),
        ("--clients 10 --rate 5..6", "for how many seconds"),
        ("--clients 10 --messages 100 --mode both", "no rate to be kept up can be sought"),
        ("--clients 10 --no-confirm --mode both", "no rate to be kept up can be sought"),
    ],
)
def test_what_does_not_go_together(line: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(line)
    assert why in " ".join(capsys.readouterr().err.split())


def test_passwords_of_all_urls_stay_secret(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--clients 10 --publish-url amqp://me:secret@localhost:x")
    assert "secret" not in capsys.readouterr().err


def test_an_empty_file_fills_no_bodies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(SystemExit):
        parse(f"--clients 10 --body {tmp_path}/empty")
    assert "is empty" in capsys.readouterr().err


def test_a_plain_rate_has_no_shape() -> None:
    plain, changing, each = (
        parse(f"--producers 4 {rate}") for rate in ("--rate 2k", "--rate 1k:3,3k:1", "--rate-each 1:1,3:1")
    )
    assert (plain.rate, plain.shape) == (2000, None)
    assert (changing.rate, changing.shape, changing.mode) == (1500, "1000:3,3000:1", "paced")
    assert (each.rate, each.rate_each, each.shape) == (8, 2, "4:1,12:1")
    assert make_plan(plain, "r").publishing is not None


def test_several_sizes_have_a_mean() -> None:
    assert (parse("--clients 9").size, parse("--clients 9").sizes) == (128, None)
    several = parse("--clients 9 --size 100,1100:50%")
    assert (several.size, several.sizes) == (600, "100,1100:50%")


def test_what_ends_a_run_by_itself_has_time() -> None:
    counted = parse("--clients 10 --messages 1m")
    assert (counted.duration, counted.warmup, counted.mode) == (3600, 0, "closed")
    assert parse("--clients 10 --messages 1m --duration 9 --warmup 2").duration == 9
    assert parse("--clients 10 --messages 1m --duration 9 --warmup 2").warmup == 2
    plan = make_plan(parse("--producers 3 --messages 10"), "r")
    assert plan.quotas == (4, 3, 3)
    assert make_plan(parse("--producers 3"), "r").quotas is None


def test_sockets_are_shared_by_no_more_than_was_said() -> None:
    settings = parse("--clients 10 --channels-per-connection 3")
    sockets = make_plan(settings, "r").sockets
    assert [len(each) for each in sockets] == [2, 3, 2, 3]


def test_what_is_there_already_is_not_declared() -> None:
    settings = parse(f"--clients 10 --queue a --queue b {URL}")
    assert (settings.callers, settings.queues, settings.existing) == (0, 2, ("a", "b"))
    assert make_plan(settings, "r").queues == ("a", "b")
    alone = parse(f"--clients 10 --exchange e --routing-key k {URL}")
    assert (alone.producers, alone.consumers, alone.callers, alone.queues) == (10, 0, 0, 0)
    plan = make_plan(alone, "r")
    assert (plan.exchange, plan.exchange_kind, plan.queues) == ("e", None, ())
    assert {place.queue for socket in plan.sockets for place in socket} == {"k"}


def test_copies_have_an_exchange_with_bindings_that_all_fit() -> None:
    fanout = make_plan(parse("--producers 2 --consumers 6 --fanout 5"), "r")
    topic = make_plan(parse("--producers 2 --consumers 6 --topic 5"), "r")
    assert (fanout.exchange, fanout.exchange_kind) == ("loadtest.r.exchange", "fanout")
    assert topic.exchange_kind == "topic"
    assert [queue for queue, _ in topic.bindings] == list(topic.queues)
    assert len({pattern for _, pattern in topic.bindings}) == 4
    assert make_plan(parse("--clients 10"), "r").bindings == ()


def test_a_skew_is_drawn_from_the_seed() -> None:
    keys = [make_plan(parse(f"--clients 20 --queues 4 --skew 70% --seed {seed}"), "r").keys for seed in (1, 1, 2)]
    assert keys[0] is not None
    assert keys[0] == keys[1] != keys[2]
    assert keys[0].count("loadtest.r.0") / len(keys[0]) == pytest.approx(0.7, abs=0.001)


def test_a_broker_beside_counts_as_named() -> None:
    settings = parse("--clients 10 --publish-url amqp://far --consume-url amqp://away --vhost v")
    assert settings.confirmed
    assert settings.urls == settings.consume_urls == ("amqp://away/v",)
    assert settings.all_urls == ("amqp://away/v", "amqp://far/v")
