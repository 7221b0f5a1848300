"""The front door for chores: `nox --list` shows them, `nox -s tests` runs one, what follows `--` goes to its tool."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.5"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_venv = "yes"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False

# Ctrl-C reaches what a session runs, too: it shows what it has and removes its broker, which takes a moment.
PATIENCE = {"interrupt_timeout": 120, "terminate_timeout": 30}

PYPROJECT = nox.project.load_toml("pyproject.toml")


def find_interpreters() -> dict[str, str]:
    """Every CPython from 3.11 on by its version: the program, of those on the PATH and of pyenv's. The folders of the
    latter are added to the PATH, so that nox finds them.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found = {}
    for version in (f"3.{minor}" for minor in range(11, 20)):
        programs = list(pyenv.glob(f"versions/{version}.*/bin/python{version}"))
        on_path = shutil.which(f"python{version}")
        if on_path and Path(on_path).parent != pyenv / "shims":  # a shim may stand for a version that is not selected
            found[version] = on_path
        elif programs:
            found[version] = str(max(programs))
            os.environ["PATH"] += os.pathsep + str(max(programs).parent)
    return found


INTERPRETERS = find_interpreters()


def install(session: nox.Session, extras: str, *groups: str) -> None:
    session.install("-e", f".[{extras}]", *nox.project.dependency_groups(PYPROJECT, *groups), silent=True)


def ensure_rabbitmq(session: nox.Session, *, or_go_on: bool = False) -> None:
    """Installs RabbitMQ if it is missing and that is possible unasked; else ends the session, saying what to do, unless
    it goes on without."""
    session.run("python", "-m", "rabbitry.testing.install", success_codes=[0, 1] if or_go_on else [0])


# Each file by one worker, and each of these with a broker of its own: they wait more than they work, so two share a
# processor. In the order that tests/conftest.py gives them, and not by their number of tests: ten may take a minute.
SIDE_BY_SIDE = ("-n", str(min(4, 2 * (os.cpu_count() or 1))), "--dist", "loadfile", "--no-loadscope-reorder")


def run_pytest(session: nox.Session, *words: str, env: dict[str, str | None] | None = None) -> None:
    """What follows `--`; or all tests that `words` select, side by side, and alone what failed so. What became of each
    is left for `.ci/run` to add up.
    """
    if session.posargs:
        session.run("pytest", *session.posargs, env=env, **PATIENCE)
        return
    outcomes = Path(session.cache_dir, "outcomes", f"{session.name}.jsonl")
    # even for users who keep Python from it: the workers and the hundred processes that tests start compile but once
    compiled = str(Path(session.cache_dir, "compiled").resolve())
    caching = {"PYTHONDONTWRITEBYTECODE": None, "PYTHONPYCACHEPREFIX": compiled}
    words = ("-m", "tests.support.twice", str(outcomes), *SIDE_BY_SIDE, *words)
    session.run("python", *words, env={**caching, **(env or {})}, **PATIENCE)


def run_tests(session: nox.Session) -> None:
    install(session, "report", "test")
    if "RABBITMQ_URL" not in os.environ:
        ensure_rabbitmq(session, or_go_on=bool(session.posargs))
    run_pytest(session)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests on the Python that runs nox, against a private RabbitMQ (installed if missing)."""
    run_tests(session)


@nox.session
def quick(session: nox.Session) -> None:
    """Run the client's tests that need no RabbitMQ, in memory and in virtual time, in an order of each run's own."""
    install(session, "report", "test")
    words = session.posargs or ["tests/channel", "tests/client", "tests/rpc", f"--shuffle={os.getpid()}"]
    without_rabbitmq: dict[str, str | None] = {"RABBITMQ_URL": None, "RABBITRY_RABBITMQ_ROOT": None}
    session.run("pytest", "-m", "in_memory", *words, env=without_rabbitmq)


@nox.session
def tests_without_epoll(session: nox.Session) -> None:
    """Run the client's tests (or what follows --) as on a system without epoll, all of them against RabbitMQ."""
    install(session, "report", "test")
    if "RABBITMQ_URL" not in os.environ:
        ensure_rabbitmq(session)
    rooms = ("channel", "client", "connection", "rpc", "blocking", "opentelemetry")
    words = session.posargs or [*SIDE_BY_SIDE, *(f"tests/{room}" for room in rooms)]
    session.run("pytest", "--without-epoll", "--rabbitmq", *words, **PATIENCE)


@nox.session(python=[*INTERPRETERS])
def tests_all(session: nox.Session) -> None:
    """Run the tests on every CPython from 3.11 on that is found here."""
    run_tests(session)


def run_tests_with_debian(session: nox.Session, suite: str, backend: str) -> None:
    """Runs pytest against the RabbitMQ of another Debian release, in a folder that is built once and kept: each test on
    one backend, as what differs between brokers doesn't between event loops, and `tests` runs all on both.
    """
    install(session, "report", "test")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = str(cache / "rabbitry" / f"debian-{suite}")
    session.run("python", "-m", "rabbitry.testing.debian", suite, root, **PATIENCE)
    on_that_broker: dict[str, str | None] = {"RABBITRY_RABBITMQ_ROOT": root, "RABBITMQ_URL": None}
    run_pytest(session, "-m", "broker", "--only-backend", backend, env=on_that_broker)


@nox.session
def tests_rabbitmq_4(session: nox.Session) -> None:
    """Run the tests that face a broker (or what follows --) against Debian 13's RabbitMQ, 4.0, on asyncio."""
    run_tests_with_debian(session, "trixie", "asyncio")


@nox.session
def tests_rabbitmq_edge(session: nox.Session) -> None:
    """Run the tests that face a broker (or what follows --) against Debian unstable's RabbitMQ, on trio."""
    run_tests_with_debian(session, "sid", "trio")


def run_on_private_nodes(session: nox.Session, program: str) -> None:
    install(session, "report", "test")
    ensure_rabbitmq(session)
    session.run("python", "-m", program, *session.posargs, **PATIENCE)


@nox.session
def interop(session: nox.Session) -> None:
    """Run the tests with other clients, with Node's as well, which npm puts into ~/.cache/rabbitry."""
    install(session, "loadtest", "test", "others")
    if "RABBITMQ_URL" not in os.environ:
        ensure_rabbitmq(session)
    session.run("python", "-m", "tests.interop.node_packages")
    session.run(
        "pytest",
        *(session.posargs or ["tests/interop", "tests/recipes"]),
        env={"RABBITRY_INTEROP_NODE": "1"},
        **PATIENCE,
    )


@nox.session
def faults(session: nox.Session) -> None:
    """Put every operation under every fault, and write results/faults.md: about five minutes."""
    run_on_private_nodes(session, "tests.measuring.fault_table")


@nox.session
def soak(session: nox.Session) -> None:
    """Let hundreds of clients publish to a cluster under faults for twenty minutes, and keep account."""
    run_on_private_nodes(session, "tests.measuring.soak")


@nox.session
def reconnect(session: nox.Session) -> None:
    """Show how ten thousand clients come back to a broker that went away: two minutes."""
    run_on_private_nodes(session, "tests.measuring.reconnect")


@nox.session
def lint(session: nox.Session) -> None:
    """Check the code with ruff, its async rules included."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "lint"), silent=True)
    session.run("ruff", "check", *session.posargs)


@nox.session
def types(session: nox.Session) -> None:
    """Check the packages' types with mypy (strict) and pyright."""
    install(session, "report,opentelemetry,prometheus,taskiq", "types", "bench", "recipes")
    session.run("mypy")
    session.run("pyright")
    session.run("pyright", "--verifytypes", "rabbitry", "--ignoreexternal")


@nox.session
def release_check(session: nox.Session) -> None:
    """Build sdist and wheel, look into both, and use the wheel in an empty environment of each CPython found here."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "release", "types"), silent=True)
    built = Path(session.create_tmp(), "dist").resolve()
    shutil.rmtree(built, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(built), ".", silent=True)  # the wheel is made of the sdist
    session.run("twine", "check", "--strict", *map(str, sorted(built.iterdir())))
    session.run("python", "-m", "tests.project.release", str(built))
    (wheel,) = built.glob("*.whl")
    session.install(f"{wheel}[trio,opentelemetry]", silent=True)
    session.install("--force-reinstall", "--no-deps", str(wheel), silent=True)  # its version may have been there
    with session.chdir(built):  # where the wheel is what `rabbitry` means
        session.run("pyright", "--verifytypes", "rabbitry", "--ignoreexternal")
    for version, program in INTERPRETERS.items():
        for extras in ("", "[trio]"):
            use_alone(session, version, program, f"{wheel}{extras}")


def use_alone(session: nox.Session, version: str, program: str, wheel: str) -> None:
    """Install the wheel into a new environment of this Python, and have a program use it there."""
    folder = Path(session.create_tmp(), f"python{version}").resolve()
    python = str(folder / "bin" / "python")
    session.log(f"Python {version}: {Path(wheel).name}")
    session.run(program, "-m", "venv", "--clear", str(folder), external=True, silent=True)
    session.run(python, "-m", "pip", "install", "--quiet", wheel, external=True, silent=True)
    smoke = str(Path("tests", "project", "smoke.py").resolve())
    session.run(python, "-I", smoke, "asyncio", "trio", external=True, env={"PYTHONPATH": None})


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into build/docs: a warning, such as a name or link that leads nowhere, is an error."""
    install(session, "docs")
    words = ("-W", "--keep-going", "-E")  # from the beginning: what is not read again warns of nothing
    session.run("sphinx-build", *words, "-b", "html", "docs", "build/docs", *session.posargs)


@nox.session
def loadtest(session: nox.Session) -> None:
    """Run the load tester, e.g. `-- --clients 10000`, on a private RabbitMQ (installed if it may) or `--broker …`."""
    install(session, "loadtest")
    words = [part for word in session.posargs for part in word.split("=", 1)]
    starts_a_broker = not words or words[0].startswith("-") or words[0] == "strategies"
    needs_none = not {"--url", "--help", "-h"}.isdisjoint(words) or "--broker embedded" in " ".join(words)
    if starts_a_broker and not needs_none and "RABBITMQ_URL" not in os.environ:
        # `--broker auto` goes on without, and says so; `--broker rabbitmq` ends there
        ensure_rabbitmq(session, or_go_on=True)
    session.run("python", "-m", "loadtest", *session.posargs, **PATIENCE)


@nox.session
def report(session: nox.Session) -> None:
    """Make results/'s pages, pictures and index anew; or one page of what follows --, e.g. `-- results/*.json`."""
    install(session, "report")
    if session.posargs:
        session.run("python", "-m", "loadtest", "report", *session.posargs)
    else:
        session.run("python", "-m", "tests.measuring.pages")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure rabbitry beside other clients on one private RabbitMQ: under half an hour; `-- --quick` tries it."""
    install(session, "report", "bench")
    if "RABBITMQ_URL" not in os.environ:
        ensure_rabbitmq(session)
    session.run("python", "-m", "tests.measuring.bench", *session.posargs, **PATIENCE)
