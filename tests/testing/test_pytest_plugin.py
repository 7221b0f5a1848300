"""The pytest plugin under each of the three plugins that run async tests, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

OURS = "rabbitry.testing.pytest_plugin"
RUNNERS = {"anyio": "anyio.pytest_plugin", "asyncio": "pytest_asyncio.plugin", "trio": "pytest_trio.plugin"}

SCOPE = ("-o", "asyncio_default_fixture_loop_scope=function")  # else pytest-asyncio warns, and warnings are errors here

Check = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Runs a file of tests with the plugin and these runners of async tests, and nothing else that is installed."""

    def run(tests: str, *runners: str, conftest: str = "", words: Sequence[str] = (), **env: str) -> object:
        (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\nfilterwarnings = error\n")
        (tmp_path / "conftest.py").write_text(conftest)
        (tmp_path / "test_it.py").write_text(tests)
        for each in runners:
            pytest.importorskip(RUNNERS[each].partition(".")[0])
        scope = SCOPE if "asyncio" in runners else ()
        plugins = [word for name in (OURS, *(RUNNERS[each] for each in runners)) for word in ("-p", name)]
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", *plugins, *scope, *words],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
                **env,
            },
            capture_output=True,
            text=True,
            timeout=200,
        )

    return run  # type: ignore[return-value]


def passed(done: subprocess.CompletedProcess[str], count: int) -> bool:
    assert done.returncode == 0, done.stdout + done.stderr
    return f"{count} passed" in done.stdout.splitlines()[-1]


MARKS = {
    "anyio": "import pytest\npytestmark = pytest.mark.anyio\n",
    "asyncio": "import pytest\npytestmark = pytest.mark.asyncio\n",
    "trio": "import pytest\npytestmark = pytest.mark.trio\n",
}

IN_MEMORY = """
import rabbitry

async def test_embedded(embedded_broker):
    async with embedded_broker.open_client() as client:
        await client.declare(rabbitry.Queue("q"))
        await client.publish(b"m", routing_key="q", mandatory=True)
        assert (await client.get("q")).body == b"m"

async def test_each_has_its_own(embedded_broker):
    async with embedded_broker.open_client() as client:
        assert await client.inspect("q") is None

@pytest.mark.parametrize("broker_compat", ["4.0"])
async def test_compat(embedded_broker):
    async with embedded_broker.connect() as connection:
        assert connection.server_properties["version"].startswith("4.0")

async def test_proxy(broker_proxy):
    async with rabbitry.open_client(broker_proxy.url, reconnect=rabbitry.Backoff(initial=0.01)) as client:
        await client.declare(rabbitry.Queue("q"))
        broker_proxy.cut()
        await client.publish(b"m", routing_key="q", mandatory=True, on_unknown="republish")

def test_sync(embedded_broker_url):
    from rabbitry import blocking
    with blocking.open_client(embedded_broker_url) as client:
        client.declare(rabbitry.Queue("q"))
"""


@pytest.mark.parametrize(("runner", "count"), [("anyio", 9), ("asyncio", 5), ("trio", 5)])
def test_under_each_runner(check: Check, runner: str, count: int) -> None:
    marks = MARKS[runner]
    if runner != "anyio":  # which leaves what is sync alone
        marks = f"import pytest\nMARK = pytest.mark.{runner}\n"
        tests = IN_MEMORY.replace("async def test", "@MARK\nasync def test")
    else:
        tests = IN_MEMORY
    assert passed(check(marks + tests, runner), count)


def test_where_all_three_are_installed(check: Check) -> None:
    """Which runs a test is its mark's to say; the fixtures go along."""
    tests = "import pytest\n" + "".join(
        f"""
@pytest.mark.{runner}
async def test_{runner}(embedded_broker):
    async with embedded_broker.connect() as connection:
        assert connection.is_open
"""
        for runner in ("asyncio", "trio", "anyio")
    )
    tests += "@pytest.mark.asyncio\nasync def test_again(embedded_broker): pass\n"
    assert passed(check(tests, "anyio", "asyncio", "trio"), 5)


@pytest.mark.parametrize("mode", ["asyncio_mode=auto", "asyncio_mode=strict"])
def test_pytest_asyncio_in_both_modes_and_with_a_wider_loop(check: Check, mode: str) -> None:
    tests = """
import asyncio, pytest, pytest_asyncio
pytestmark = pytest.mark.asyncio(loop_scope="module")

@pytest_asyncio.fixture(loop_scope="module")
async def client(embedded_broker):
    client = await embedded_broker.start_client()
    yield client
    await client.aclose()

async def test_one(client):
    await client.wait_ready()

async def test_two(client, embedded_broker):
    await client.wait_ready()
"""
    assert passed(check(tests, "asyncio", words=["-o", mode]), 2)


def test_a_sync_test_is_told_what_it_can_use(check: Check) -> None:
    done = check("def test_it(embedded_broker): pass", "anyio")
    assert done.returncode == 1
    assert (
        "embedded_broker lives in the event loop of an async test; a sync one uses embedded_broker_url" in done.stdout
    )


@pytest.mark.parametrize("runner", RUNNERS)
def test_tests_after_a_sync_one_have_their_brokers(check: Check, runner: str) -> None:
    tests = f"""
import pytest

@pytest.mark.parametrize("time", [1, 2])
def test_sync(embedded_broker, time): pass

@pytest.mark.{runner}
async def test_async(embedded_broker):
    async with embedded_broker.connect() as connection:
        assert connection.is_open

def test_sync_on_demand(request):
    request.getfixturevalue("broker_proxy")

@pytest.mark.{runner}
async def test_proxy(broker_proxy): pass
"""
    out = check(tests, runner).stdout
    good = 4 if runner == "anyio" else 2  # on both of its backends
    assert "AssertionError" not in out and f"{good} passed" in out
    assert out.count("a sync one uses") >= 3 and "broker_proxy lives in the event loop" in out


def test_what_fails_in_the_fixture_reaches_the_test(check: Check) -> None:
    tests = "@pytest.mark.parametrize('broker_compat', ['2.0'])\nasync def test_it(embedded_broker): pass"
    for runner in RUNNERS:
        done = check(MARKS[runner] + tests, runner)
        assert done.returncode == 1 and "compat must be one of 3.10, 4.0, 4.3" in done.stdout


# --- virtual time -----------------------------------------------------------------------------------------------------

IN_VIRTUAL_TIME = """
import time, anyio
from rabbitry.testing import check_virtual_time

async def test_a_day(embedded_broker{clock}):
    check_virtual_time()
    began = time.monotonic()
    async with embedded_broker.connect() as connection:
        await anyio.sleep(3600)
        assert connection.is_open
    assert time.monotonic() - began < 30
"""

VIRTUAL = {
    "anyio": """
import pytest, trio.testing
from rabbitry.testing import VirtualTimeLoop

@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    if request.param == "asyncio":
        return "asyncio", {"loop_factory": VirtualTimeLoop}
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}
""",
    "asyncio": """
from rabbitry.testing import VirtualTimeLoop

def pytest_asyncio_loop_factories(config, item):
    return {"virtual": VirtualTimeLoop}
""",
    "trio": "",
}


@pytest.mark.parametrize("runner", sorted(RUNNERS))
def test_virtual_time_under_each_runner(check: Check, runner: str) -> None:
    tests = MARKS[runner] + IN_VIRTUAL_TIME.format(clock=", autojump_clock" if runner == "trio" else "")
    assert passed(check(tests, runner, conftest=VIRTUAL[runner]), 2 if runner == "anyio" else 1)


# --- both brokers -----------------------------------------------------------------------------------------------------

ON_BOTH = """
import pytest, rabbitry
from rabbitry import blocking

@pytest.mark.parametrize("broker_kind", ["embedded", "rabbitmq"])
def test_sync(broker_url):
    with blocking.open_client(broker_url) as client:
        assert client.inspect("q") is None, "a virtual host of this test's own"
        client.declare(rabbitry.Queue("q"))

@pytest.mark.anyio
@pytest.mark.parametrize("broker_kind", ["embedded", "rabbitmq"])
async def test_async(broker_url, broker_proxy):
    async with rabbitry.open_client(broker_url) as client:
        assert await client.inspect("q") is None
        await client.declare(rabbitry.Queue("q"))

@pytest.mark.parametrize("number", range(12))
def test_virtual_hosts(rabbitmq_url, rabbitmq_node, number):
    with blocking.open_client(rabbitmq_url) as client:
        assert client.inspect("q") is None
        client.declare(rabbitry.Queue("q"))
    if number == 11:
        left = rabbitmq_node.rabbitmqctl("list_vhosts", "name").split()
        assert len(left) <= 1 + 10 + 10, left
"""


@pytest.mark.broker
def test_one_parameter_runs_a_test_against_both_brokers(check: Check) -> None:
    assert passed(check(ON_BOTH, "anyio"), 2 + 4 + 12)


def test_where_no_rabbitmq_is_installed_it_is_skipped_with_the_reason(check: Check, tmp_path: Path) -> None:
    done = check(ON_BOTH, "anyio", RABBITRY_RABBITMQ_ROOT=str(tmp_path))
    assert done.returncode == 0, done.stdout
    assert "3 passed, 15 skipped" in done.stdout and "RabbitMQ" in done.stdout


def test_a_kind_that_is_none(check: Check) -> None:
    tests = "import pytest\n@pytest.mark.parametrize('broker_kind', ['rabbit'])\ndef test_it(broker_url): pass"
    assert "broker_kind is one of embedded, rabbitmq, not 'rabbit'" in check(tests).stdout


# --- what it costs those who don't use it -----------------------------------------------------------------------------


def test_it_imports_nothing_until_a_fixture_is_used(check: Check) -> None:
    tests = """
import sys

def test_nothing_yet():
    assert "rabbitry.testing.pytest_plugin" in sys.modules
    ours = {name for name in sys.modules if name.startswith("rabbitry")}
    assert ours == {"rabbitry", "rabbitry.testing", "rabbitry.testing.pytest_plugin"}
    assert not {"anyio", "asyncio", "trio", "pytest_asyncio"} & set(sys.modules)

def test_now(embedded_broker_url):
    assert "rabbitry.broker" in sys.modules
"""
    assert passed(check(tests), 2)


def test_the_package_registers_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"rabbitry": OURS}
