"""A typed service behind RabbitMQ, and the HTTP gateway in front of it.

    python docs/recipes/rpc_gateway.py serve       (as many as you like)
    python docs/recipes/rpc_gateway.py gateway     curl localhost:8000/users/1

`Users` is the whole contract: mypy and pyright check the server and every call against it, and its dataclasses are what
arrives at either end. The gateway's deadline travels with the call: no server begins a request whose time is up.

Guaranteed: an answer within two seconds, that of the service, or 404 (its LookupError), 503 (nobody serves), 504 (too
late), 502 (it failed). Calls go on through the loss of a connection, as they are declared idempotent.

Not guaranteed: that a call is executed once. Sent again after a loss it may run on two servers, so what is not
idempotent needs `idempotent=False`, and then raises `OutcomeUnknown` instead.
"""

import contextlib
import dataclasses
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Protocol

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import rabbitry

URL = os.environ.get("RABBITMQ_URL", "amqp://guest:guest@localhost")
QUEUE = rabbitry.Queue("recipes.users", auto_delete=True)  # goes with its last server: then nobody waits for one


@dataclasses.dataclass
class User:
    id: int
    name: str
    tags: list[str] = dataclasses.field(default_factory=list)


class Users(Protocol):
    async def get(self, user_id: int) -> User: ...
    async def save(self, user: User) -> None: ...


class Directory:
    def __init__(self) -> None:
        self.users = {1: User(1, "Ada", ["first"])}

    async def get(self, user_id: int) -> User:
        return self.users[user_id]

    async def save(self, user: User) -> None:
        self.users[user.id] = user


async def serve() -> None:
    async with rabbitry.open_client(URL, name="users") as client:
        service = rabbitry.Service(Directory(), interface=Users)
        with client.stop_on(signal.SIGTERM, signal.SIGINT):
            await client.declare(QUEUE)
            await client.serve(QUEUE, service, expected_errors=(LookupError,))


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with rabbitry.open_client(URL, name="gateway") as client, client.rpc() as rpc:
        app.state.users = rpc.bind(Users, QUEUE.name, idempotent=True)
        yield


async def get_user(request: Request) -> JSONResponse:
    users: Users = request.app.state.users
    try:
        with anyio.fail_after(2):
            user = await users.get(request.path_params["id"])
    except TimeoutError:
        return JSONResponse({"error": "too late"}, 504)
    except rabbitry.RemoteError as error:
        return JSONResponse({"error": error.text}, 404 if error.type_name == "KeyError" else 502)
    except rabbitry.RabbitryError as error:
        return JSONResponse({"error": type(error).__name__}, 503)
    return JSONResponse(dataclasses.asdict(user))


app = Starlette(routes=[Route("/users/{id:int}", get_user)], lifespan=lifespan)

if __name__ == "__main__":
    if sys.argv[1] == "serve":
        anyio.run(serve)
    else:
        uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
