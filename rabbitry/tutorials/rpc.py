"""7. Remote procedure calls: a server computes Fibonacci numbers, a client asks for them and waits.

    python -m rabbitry.tutorials.rpc server                              (in several terminals, to share the load)
    python -m rabbitry.tutorials.rpc client 30 90 -1

The client learns what becomes of each call: its result, that no server runs, that the server failed, or that it took
too long. Kill a server at work: another one answers. The queue goes with its last server, which tells that none runs.
"""

import anyio

import rabbitry
from rabbitry.tutorials.program import run

FIBONACCI = rabbitry.Queue("tutorial.fibonacci", auto_delete=True)


def fibonacci(number: int) -> int:
    if number < 0:
        raise ValueError(f"there is no Fibonacci number {number}")
    this, following = 0, 1
    for _ in range(number):
        this, following = following, this + following
    return this


async def server(url: str, *, seconds: float = 0.0) -> None:
    """Answer requests, ten at once; each takes so many seconds."""

    async def answer(number: int) -> int:
        print(f"Computing fib({number})")
        await anyio.sleep(seconds)
        return fibonacci(number)

    async with rabbitry.open_client(url) as client:
        await client.declare(FIBONACCI)
        print("Waiting for requests. Ctrl-C ends it.")
        # JSON's numbers may have any size; the error is an answer, too, and no fault of the server's to be logged
        await client.serve(FIBONACCI, answer, codec="json", expected_errors=(ValueError,))


async def client(url: str, *numbers: int, patience: float = 5.0) -> None:
    """Ask for Fibonacci numbers, all at once; wait so many seconds."""
    async with rabbitry.open_client(url) as client, client.rpc(codec="json") as rpc:

        async def ask(number: int) -> None:
            try:
                with anyio.fail_after(patience):  # the broker drops the request then, too
                    # computing it twice does no harm: so it is asked again when the connection was lost meanwhile
                    result = await rpc.call(FIBONACCI.name, number, idempotent=True)
            except rabbitry.Unroutable:
                print(f"fib({number}): no server runs")
            except rabbitry.RemoteError as error:
                print(f"fib({number}): the server failed: {error.text}")
            except TimeoutError:
                print(f"fib({number}): it took too long")
            except rabbitry.RabbitryError as error:
                print(f"fib({number}): {error}")
            else:
                print(f"fib({number}) = {result}")

        async with anyio.create_task_group() as tg:
            for number in numbers:
                tg.start_soon(ask, number)


if __name__ == "__main__":
    run(server, client)
