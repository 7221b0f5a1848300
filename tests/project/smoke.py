"""An installed rabbitry used as a stranger would, on the embedded broker: `python -I smoke.py asyncio trio`, anywhere.

It needs nothing but what is installed, and says what it did; whatever goes wrong is an error. `nox -s release_check`
runs it in an environment that has the wheel alone, on each Python that is there.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import contextmanager
from importlib.metadata import distribution, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

import rabbitry
from rabbitry import blocking
from rabbitry.broker import Broker

if TYPE_CHECKING:
    from collections.abc import Iterator

JOBS = rabbitry.Queue("smoke.jobs")
DOUBLE = rabbitry.Queue("smoke.double")


async def double(number: int) -> int:
    return 2 * number


async def use_a_client() -> None:
    """Publish, consume and call, through a port."""
    with anyio.fail_after(30):
        async with Broker() as broker:
            await broker.listen()
            async with rabbitry.open_client(broker.url) as client:
                await client.declare(JOBS, DOUBLE)
                async with client.publisher() as publisher:
                    for number in range(100):
                        await publisher.submit(rabbitry.Message.json({"number": number}), routing_key=JOBS.name)
                async with client.consume(JOBS) as deliveries:
                    for number in range(100):
                        delivery = await anext(deliveries)
                        with delivery.process():
                            assert delivery.decode() == {"number": number}
                async with anyio.create_task_group() as tg:
                    tg.start_soon(client.serve, DOUBLE.name, double)
                    async with client.rpc() as rpc:
                        assert await rpc.call(DOUBLE.name, 21) == 42
                    tg.cancel_scope.cancel()
                assert broker.queue(JOBS.name).bodies == []


async def use_memory() -> None:
    """A connection without a socket, as tests have it."""
    with anyio.fail_after(30):
        async with Broker(compat="4.0") as broker, broker.connect() as connection, connection.channel() as channel:
            await channel.declare(JOBS)
            await channel.publish(b"job", routing_key=JOBS.name, mandatory=True)
            assert broker.queue(JOBS.name).bodies == [b"job"]


@contextmanager
def broker_of_the_command_line() -> Iterator[str]:
    """`python -m rabbitry broker`, and its URL."""
    words = [sys.executable, "-I", "-m", "rabbitry", "broker", "--port", "0", "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130


def use_the_shell() -> None:
    """The blocking client and the installed scripts, against a broker in another process."""
    scripts = Path(sys.executable).parent
    with broker_of_the_command_line() as url:
        with blocking.open_client(url) as client:
            client.declare(JOBS)
            client.publish(b"from a thread", routing_key=JOBS.name, mandatory=True, timeout=10)
        got = subprocess.run(
            [scripts / "rabbitry", "--url", url, "get", JOBS.name], capture_output=True, check=True, timeout=30
        )
        assert got.stdout == b"from a thread", got


def check_what_is_installed() -> None:
    where = Path(rabbitry.__file__).resolve()
    assert where.is_relative_to(Path(sys.prefix).resolve()), f"{where} is not what was installed in {sys.prefix}"
    files = [str(file) for file in distribution("rabbitry").files or []]
    assert any(file.endswith(".dist-info/licenses/LICENSE") for file in files), files
    assert not any("tests/" in file for file in files), files


def main(backends: list[str]) -> None:
    check_what_is_installed()
    for backend in backends:
        if find_spec(backend) is None:  # a wheel without its extra: what is asked for says what it needs
            words = [sys.executable, "-I", "-m", "rabbitry", "ping", "--backend", backend]
            done = subprocess.run(words, capture_output=True, text=True, timeout=30)
            assert done.returncode == 2 and f"pip install {backend}" in done.stderr, done
            print(f"  {backend} is not installed, and that is said")
            continue
        anyio.run(use_memory, backend=backend)
        anyio.run(use_a_client, backend=backend)
        print(f"  {backend}: published, consumed and called")
    use_the_shell()
    print(f"  rabbitry {version('rabbitry')} runs on Python {sys.version.partition(' ')[0]}, AnyIO {version('anyio')}")


if __name__ == "__main__":
    main(sys.argv[1:])
