"""rpc_gateway.py with aio-pika's RPC pattern."""

import asyncio
import contextlib
import dataclasses
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import aio_pika
import uvicorn
from aio_pika.patterns.rpc import JsonRPC, JsonRPCError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

URL = os.environ.get("RABBITMQ_URL", "amqp://guest:guest@localhost")


@dataclasses.dataclass
class User:
    id: int
    name: str
    tags: list[str] = dataclasses.field(default_factory=list)


class Directory:
    def __init__(self) -> None:
        self.users = {1: User(1, "Ada", ["first"])}

    async def get(self, *, user_id: int) -> dict[str, Any]:
        return dataclasses.asdict(self.users[user_id])

    async def save(self, *, user: dict[str, Any]) -> None:
        self.users[user["id"]] = User(**user)


class Users:
    """The caller's side: names, arguments and types are written once more, and nothing checks that they agree."""

    def __init__(self, rpc: JsonRPC) -> None:
        self.rpc = rpc

    async def get(self, user_id: int) -> User:
        return User(**await self.rpc.call("recipes.users.get", kwargs={"user_id": user_id}, expiration=2))

    async def save(self, user: User) -> None:
        await self.rpc.call("recipes.users.save", kwargs={"user": dataclasses.asdict(user)}, expiration=2)


async def serve() -> None:
    connection = await aio_pika.connect_robust(URL, reconnect_interval=1)
    async with connection:
        rpc = await JsonRPC.create(await connection.channel())
        directory = Directory()
        await rpc.register("recipes.users.get", directory.get, auto_delete=True, durable=True)
        await rpc.register("recipes.users.save", directory.save, auto_delete=True, durable=True)
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        await stopping.wait()


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with await aio_pika.connect_robust(URL, reconnect_interval=1) as connection:
        app.state.users = Users(await JsonRPC.create(await connection.channel()))
        yield


async def get_user(request: Request) -> JSONResponse:
    users: Users = request.app.state.users
    try:
        async with asyncio.timeout(2):
            user = await users.get(request.path_params["id"])
    except (TimeoutError, asyncio.CancelledError):  # what expires is cancelled
        return JSONResponse({"error": "too late"}, 504)
    except JsonRPCError as error:
        return JSONResponse({"error": str(error)}, 404 if error.args[1]["error"]["type"] == "KeyError" else 502)
    except aio_pika.exceptions.AMQPError as error:
        return JSONResponse({"error": type(error).__name__}, 503)
    return JSONResponse(dataclasses.asdict(user))


app = Starlette(routes=[Route("/users/{id:int}", get_user)], lifespan=lifespan)

if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve())
    else:
        uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
