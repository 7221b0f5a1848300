from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.commands.flags import make_parser, parse_settings
from loadtest.commands.program import main
from loadtest.scenarios.catalogue import SCENARIOS
from loadtest.scenarios.layers import Takes, make_layer, named_in, read_file, stack
from loadtest.scenarios.settings import Settings


def parse(*words: str) -> Settings:
    return parse_settings(words, {})


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        parse(*words)
    assert ended.value.code == 2
    return capsys.readouterr().err.partition("error: ")[2].strip()


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return tmp_path / "scene.toml"


# --- the catalogue ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCENARIOS)
def test_each_scenario_is_complete_by_itself_and_takes_more_clients(name: str) -> None:
    assert parse("--scenario", name).scenario == name
    if name != "queues":
        assert parse("--scenario", name, "--clients", "300").clients == 300


def test_the_default_scenario_is_the_plain_run() -> None:
    assert parse("--clients", "40", "--seed", "1") == parse("--scenario", "c10k", "--clients", "40", "--seed", "1")


def test_each_scenario_says_which_question_it_answers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--list-scenarios"])
    assert ended.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    for name, scenario in SCENARIOS.items():
        assert f"{name} {scenario.question}" in said
        assert scenario.question.endswith("?")


def test_the_line_overrides_the_scenario() -> None:
    publish = parse("--scenario=publish", "--clients", "500", "--rate=3k")
    assert (publish.producers, publish.consumers, publish.rate) == (500, 0, 3000)
    assert parse("--scenario", "publish", "--producers", "7").producers == 7
    assert parse("--scenario", "storm", "--rate", "90").rate == 90  # in the place of its --rate-each
    assert parse("--scenario", "soak", "--no-reconnect", "--fault", "1 kill-sockets 5%").reconnect is False
    assert parse("--scenario", "storm", "--mode", "closed").rate is None
    assert parse("--scenario", "rpc", "--scenario", "publish").scenario == "publish"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--scenario", "publis"], "--scenario 'publis' is none (is it publish?)"),
        (["--scenario"], "--scenario '' is none"),
        (["--scenario", "none.toml"], "--scenario none.toml: No such file"),
        (["--scenario", "sweep", "--rate", "5"], "leave out --rate"),
        (["--scenario", "sweep", "--fault", "1 kill-sockets 5%"], "takes no --fault"),
        (["--backlog", "0"], "that is no message"),
        (["--backlog", "ten"], "'ten' is no size"),
        (["--backlog", "10", "--producers", "5"], "there are no consumers to take it"),
        (["--backlog", "10", "--queue-type", "stream"], "a stream keeps what was consumed"),
        (["--backlog", "10", "--reconnect"], "--backlog with --reconnect"),
        (["--churn", "--clients", "4", "--connections", "2"], "leave out --connections"),
        (["--churn", "--window", "4"], "leave out --window"),
        (["--churn", "--reconnect"], "leave out --reconnect"),
        (["--reconnect", "--driver", "aiormq"], "--driver aiormq can't do --reconnect: use --driver rabbitry"),
    ],
)
def test_what_makes_no_sense_is_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in refusal(capsys, *words)


def test_a_backlog_is_messages_or_a_size() -> None:
    assert parse("--scenario", "backlog", "--backlog", "3k").backlog == 3000
    assert parse("--scenario", "backlog", "--backlog", "64KiB", "--size", "128").backlog == 512


# --- files --------------------------------------------------------------------------------------------------------


def test_a_file_has_the_flags_as_keys(scene: Path) -> None:
    scene.write_text(
        """
        scenario = "publish"
        clients = 30
        queue_type = "quorum"
        "until-idle" = "2s"
        transient = true
        mandatory = false
        reconnect = false
        rate = 200
        label = {why = "file"}
        queue-arg = {x-max-length = 7, x-overflow = "5"}
        require = ["publish.rate > 1", "confirm.p50 < 1s"]
        """
    )
    settings = parse("--scenario", str(scene), "--size", "64")
    assert (settings.scenario, settings.producers, settings.consumers) == ("publish", 30, 0)
    assert (settings.queue_type, settings.until_idle, settings.rate, settings.size) == ("quorum", 2.0, 200, 64)
    assert (settings.transient, settings.mandatory, settings.reconnect) == (True, False, False)
    assert settings.labels == {"why": "file"}
    assert settings.queue_arguments == {"x-max-length": 7, "x-overflow": "5"}
    assert len(settings.require) == 2
    assert parse("--scenario", str(scene), "--rate-each", "2", "--label", "a=b").labels == {"a": "b"}


def test_numbers_of_a_file_may_be_small_or_large(scene: Path) -> None:
    """TOML's and Python's shortest way to write them, 1e-05, is no way to write a flag's."""
    scene.write_text("clients = 2\nrate = 0.00001\nduration = 1e5\n[header]\nx = 1e-7\nyes = true\n")
    settings = parse("--scenario", str(scene))
    assert (settings.rate, settings.duration, settings.headers) == (0.00001, 100_000, {"x": 1e-7, "yes": True})


def test_a_file_may_begin_as_editors_begin_it(scene: Path) -> None:
    scene.write_bytes('clients = 5\r\n[header]\r\nlang = "兎"\r\nx = 5\r\n'.encode("utf-8-sig"))
    settings = parse("--scenario", str(scene))
    assert (settings.clients, settings.headers) == (5, {"lang": "兎", "x": 5})


def test_a_file_has_faults_as_tables_or_texts(scene: Path) -> None:
    scene.write_text(
        'reconnect = true\n[[fault]]\nat = 1\naction = "stop 1s"\n[[fault]]\nat = "3s"\naction = "restart"'
    )
    assert [str(fault) for fault in parse("--scenario", str(scene)).faults] == ["1s stop 1s", "3s restart"]
    scene.write_text('fault = ["2 kill-sockets 5%"]')
    assert [str(fault) for fault in parse("--scenario", str(scene)).faults] == ["2s kill-sockets 5%"]


def test_a_file_has_several_workloads(scene: Path) -> None:
    scene.write_text(
        """
        size = 99
        [[workload]]
        name = "quiet"
        producers = 2
        consumers = 3
        rate_each = 5
        [[workload]]
        callers = 4
        size = 40
        """
    )
    total = parse("--scenario", str(scene))
    quiet, other = total.workloads
    assert (quiet.workload, quiet.rate, quiet.size, quiet.mode) == ("quiet", 10, 99, "paced")
    assert (other.workload, other.callers, other.size, other.mode) == ("workload-2", 4, 40, "closed")
    assert (total.clients, total.producers, total.callers, total.connections) == (9, 2, 4, 9)
    assert (total.servers, total.queues, total.rate) == (1, 1, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("client = 4", "'client' is no flag: clients is"),
        ("ackevery = 4", "'ackevery' is no flag: ack-every is"),
        ("list-scenarios = true", "'list-scenarios' is no flag"),
        ("list-drivers = true", "'list-drivers' is no flag"),
        ("[header]\nt = 1979-05-27T07:32:00Z", "'header': 't' is neither a text, a number, nor true or false"),
        ("[queue-arg]\nx-a = [1, 2]", "'queue-arg': 'x-a' is neither a text, a number, nor true or false"),
        ("[header]\nx = nan", "'header': 'x' is neither a text, a number, nor true or false"),
        ("[label]\n'a=b' = 1", "'label': 'a=b' is no name"),
        ("[label]\n'' = 1", "'label': '' is no name"),
        ("clients = ", "it is no TOML"),
        ('clients = "many"', "argument --clients: 'many' is no number"),
        ("clients = {a = 1}", "'clients' takes no table"),
        ("clients = [[1]]", "'clients' takes one number or text"),
        ("require = [[1]]", "'require' takes a number, a text, or a list of them"),
        ("rate = [1, 2]", "'rate' takes one number or text"),
        ("duration = true", "'duration' takes one number or text"),
        ("duration = false", "'duration' takes one number or text"),
        ("duration = 12:00:00", "'duration' takes one number or text"),
        ("transient = 'yes'", "'transient' takes true or false"),
        ("transient = 1", "'transient' takes true or false"),
        ("no-reconnect = []", "'no-reconnect' takes true or false"),
        ("rate_each = 5\n'rate-each' = 6", "'rate_each' and 'rate-each' are the same flag"),
        ("rate = inf", "argument --rate: 'Infinity' is no rate"),
        ("duration = nan", "argument --duration: 'NaN' is no duration"),
        ("duration = 1e300", "is too large a duration"),
        ("duration = -0.00001", "argument --duration: '-0.00001' is no duration"),
        ("scenario = 5", "--scenario 5 is none"),
        ("scenario = ['publish']", "--scenario ['publish'] is none"),
        ("scenario = {a = 1}", "--scenario {'a': 1} is none"),
        ("require = ['confirm.p99 < fast']", "argument --require: 'confirm.p99 < fast': 'fast' is no duration"),
        ('scenario = "publis"', "is it publish?"),
        ("[[workload]]\nname = 'a'\nproducers = 1\n[[workload]]\nname = 'a'", "two workloads are called 'a'"),
        ("[[workload]]\nname = 'a/b'", "name 'a/b': letters"),
        ("[[workload]]\nduration = 5\nproducers = 1", "'duration' is for all workloads alike"),
        ("[[workload]]\nproducer = 5", "'producer' is no flag: producers is"),
        ("[workload]\nproducers = 5", "write each workload as a table of its own"),
        ("scenario = 'sweep'\n[[workload]]\nproducers = 5", "a sweep takes no [[workload]]"),
        ("[[fault]]\nat = 1", "[[fault]] has at and action"),
        ("[[fault]]\nat = 1\naction = 'explode'", "argument --fault: '1 explode'"),
    ],
)
def test_what_a_file_gets_wrong_is_told(text: str, said: str, scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene.write_text(text)
    assert said in refusal(capsys, "--scenario", str(scene))


def test_no_password_of_a_file_is_told(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene.write_text('url = "amqp://me:secret@host"\nclients = 0')
    assert "secret" not in refusal(capsys, "--scenario", str(scene))
    scene.write_text('url = "http://me:secret@host"')
    assert "secret" not in refusal(capsys, "--scenario", str(scene))


# --- pure ---------------------------------------------------------------------------------------------------------


def test_every_flag_is_known() -> None:
    flags = make_parser().flags
    assert {"--clients", "--rate-each", "--fault", "--no-reconnect", "--reconnect", "--scenario", "--json"} <= set(
        flags
    )
    assert (flags["--quiet"], flags["--no-reconnect"], flags["--list-drivers"]) == (Takes.NOTHING,) * 3
    assert (flags["--url"], flags["--fault"], flags["--queue-arg"]) == (Takes.SEVERAL,) * 3
    assert (flags["--rate"], flags["--scenario"], flags["--output"]) == (Takes.ONE,) * 3
    assert make_parser().format_usage().startswith("usage: python -m loadtest [options]")


def test_higher_layers_replace_lower_ones() -> None:
    known = dict.fromkeys(("--clients", "--producers", "--rate", "--rate-each"), Takes.ONE) | {"--url": Takes.SEVERAL}
    low = make_layer({"clients": 5, "rate": 3, "url": ["a", "b"]}, known)
    high = make_layer({"producers": 2, "url": "c"}, known)
    assert stack([low, high], ["--rate-each=1"]) == ["--producers=2", "--url=c", "--rate-each=1"]
    assert stack([low], []) == ["--clients=5", "--rate=3", "--url=a", "--url=b"]
    assert named_in(["--a", "--b=--c", "-d", "e"]) == {"--a", "--b"}


def test_a_file_without_workloads_has_none() -> None:
    assert read_file("clients = 5").workloads == {}


PAGE = (Path(__file__).parents[3] / "docs" / "load_tester" / "scenarios.md").read_text(encoding="utf-8")


def test_the_documentation_has_the_catalogue() -> None:
    rows = [f"| `{name}` | {scenario.question} |" for name, scenario in SCENARIOS.items()]
    assert "\n".join(rows) in PAGE


def test_the_documentations_file_is_one(scene: Path) -> None:
    scene.write_text(PAGE.partition("```toml\nduration")[2].partition("```")[0].join(("duration", "")))
    assert [each.workload for each in parse("--scenario", str(scene)).workloads] == ["steady", "noisy"]
