"""The command lines of a fleet: what goes together, what the worker must be told, and what is never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.commands.flags import parse_settings
from loadtest.commands.joining import CONTROL, TARGETS, TOKEN, make_token, read_token
from loadtest.commands.merge import main as merge
from loadtest.commands.worker import main as worker
from loadtest.fleet.seal import Seal

URL = ("--url", "amqp://user:secret@broker")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--processes", "2", "--workers", "2", *URL), "one of them"),
        (("--workers", "2"), "--workers needs --url"),
        (("--control-url", "amqp://h", *URL), "would do nothing"),
        (("--token-file", "x", *URL), "would do nothing"),
        (("--workers", "2", "--control-url", "http://user:secret@h", *URL), "no AMQP URL"),
        (("--processes", "9", "--clients", "8"), "some would be idle"),
        (("--processes", "2", "--clients", "20", "--size", "12"), "24 bytes"),
        (("--processes", "2", "--body", "/etc/hostname"), "read no file"),
        (("--processes", "2", "--abort-on", "confirm.p99 > 1s"), "use --require"),
        (("--processes", "2", "--abort-on", "publish.rate < 5"), "use --require"),
        (("--processes", "2", "--abort-on", "consume.gaps > 5"), "use --require"),
        (("--processes", "2", "--backlog", "100"), "--backlog is for one process"),
        (("--processes", "2", "--fault", "1s kill-sockets 10%"), "--fault is for one process"),
        (("--processes", "2", "--scenario", "queues"), "--scenario queues is for one process"),
        (("--workers", "2", "--scenario", "sweep", *URL), "use --processes"),
        (("--workers", "2", "--repeat", "3", *URL), "--repeat is for one process: each trial is a run of its own"),
        (("--workers", "2", "--vary", "window=1,2", *URL), "--vary is for one process: each trial is a run of its own"),
        (("--processes", "2", "--calibrate"), "--calibrate"),
        (("--processes", "0"), "less than 1"),
    ],
)
def test_what_makes_no_sense_is_refused(words: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_settings(words, {})
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert why in said
    assert "secret" not in said


def test_callers_alone_need_no_stamp() -> None:
    assert parse_settings(["--processes", "2", "--callers", "20", "--size", "12"], {}).processes == 2


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "--url is missing"),
        (("--url", "http://user:secret@h"), "no AMQP URL"),
        (URL, "join token is missing"),
        ((*URL, "--token-file", "/nowhere/secret"), "--token-file"),
        ((*URL, "--max-rate", "0"), "above 0"),
    ],
)
def test_a_worker_must_be_told_what_it_may_do(
    words: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (TOKEN, TARGETS, CONTROL):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit) as ended:
        worker(words)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert why in said
    assert "user:secret" not in said


def test_what_may_be_loaded_does_not_say_who_leads(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(CONTROL, raising=False)
    monkeypatch.setenv(TARGETS, "amqp://user:secret@broker")
    for words in ([], ["--allow-target", "amqp://user:secret@other"]):
        with pytest.raises(SystemExit):
            worker(words)
        said = capsys.readouterr().err
        assert f"--control-url is missing: the broker over which the coordinator leads (or ${CONTROL})" in said
        assert "secret" not in said


def test_processes_of_one_machine_are_repeated_and_varied() -> None:
    assert parse_settings(["--processes", "2", "--repeat", "3", "--vary", "window=1,2"], {}).repeat == 3


def test_a_short_token_is_no_token(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, "short")
    with pytest.raises(SystemExit):
        worker(URL)
    assert "16 characters" in capsys.readouterr().err


def test_a_worker_without_a_broker_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, make_token())
    assert worker(["--url", "amqp://user:secret@127.0.0.1:1", "--quiet"]) == 4
    said = capsys.readouterr().err
    assert "no control broker" in said
    assert "secret" not in said


def test_tokens_come_from_a_file_or_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("  a token in a file\n", encoding="utf-8")
    assert read_token(path, {TOKEN: "other"}) == "a token in a file"
    assert read_token(None, {TOKEN: "other"}) == "other"
    assert read_token(None, {}) is None
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(ValueError, match="is empty"):
        read_token(path, {})
    Seal(make_token())
    assert make_token() != make_token()


def test_merging_refuses_what_is_no_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.part"
    assert merge([str(path)]) == 2
    path.write_bytes(b"noise")
    assert merge([str(path)]) == 2
    assert capsys.readouterr().err.count("x.part") == 2
    assert merge([str(path), "--json", ""]) == 2
    assert "--json is empty" in capsys.readouterr().err
