"""A Litestar application that publishes, and asks a service behind RabbitMQ for what it answers.

    uvicorn --app-dir docs/recipes litestar_service:app     (or: python docs/recipes/litestar_service.py)
    curl -d '{"item": "tea"}' localhost:8000/orders         curl localhost:8000/prices/tea

Guaranteed: 202 means that RabbitMQ has confirmed the order and a queue has it. A price is the service's own answer, or
a 404 (its KeyError), 502 (it failed), 503 (nobody serves) or 504 (too late) within five seconds; that deadline travels
with the call. While the broker is away the answers are such, and the application comes back by itself.

Not guaranteed: that an order answered by a 503 was not taken. Prices are answered by this process, too, so that the
recipe is a whole; elsewhere that is another program, and more than one of them.
"""

import contextlib
import os
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

import anyio
import uvicorn
from litestar import Litestar, MediaType, Request, Response, get, post
from litestar.datastructures import State
from litestar.di import Provide

import rabbitry

ORDERS = rabbitry.Queue("recipes.litestar.orders", type="quorum")
PRICES = rabbitry.Queue("recipes.litestar.prices", expires=3600)


class Prices(Protocol):
    async def price(self, item: str) -> int: ...


@dataclass
class Order:
    item: str
    quantity: int = 1


@contextlib.asynccontextmanager
async def connected(app: Litestar) -> AsyncIterator[None]:
    url = os.environ.get("RABBITMQ_URL", "amqp://guest:guest@localhost")
    async with rabbitry.open_client(url, name="shop") as client, client.rpc() as rpc, anyio.create_task_group() as tg:
        app.state.rabbit, app.state.prices = client, rpc.bind(Prices, PRICES.name, idempotent=True)
        tg.start_soon(answer_prices, client)
        yield
        tg.cancel_scope.cancel()


async def answer_prices(client: rabbitry.Client) -> None:
    async def price(item: str) -> int:
        return {"tea": 3, "cake": 5}[item]

    with contextlib.suppress(rabbitry.RabbitryError):  # it has ended the client: /live tells
        await client.declare(ORDERS, PRICES)
        await client.serve(PRICES, rabbitry.Service(price, interface=Prices), expected_errors=(KeyError,))


async def rabbit(state: State) -> rabbitry.Client:
    client: rabbitry.Client = state.rabbit
    return client


@post("/orders", status_code=202)
async def take(data: Order, rabbit: rabbitry.Client) -> dict[str, str]:
    number = str(uuid.uuid4())
    with anyio.fail_after(5):
        message = rabbitry.Message.json({"item": data.item, "quantity": data.quantity}, message_id=number)
        await rabbit.publish(message, routing_key=ORDERS.name, mandatory=True)
    return {"id": number}


@get("/prices/{item:str}")
async def price(item: str, state: State) -> dict[str, int]:
    prices: Prices = state.prices
    with anyio.fail_after(5):
        return {item: await prices.price(item)}


@get("/ready")
async def ready(rabbit: rabbitry.Client) -> Response[dict[str, str | None]]:
    is_ready = rabbit.is_ready and rabbit.blocked_reason is None
    return Response({"state": rabbit.state, "blocked": rabbit.blocked_reason}, status_code=200 if is_ready else 503)


@get("/live")
async def live(rabbit: rabbitry.Client) -> Response[dict[str, str]]:
    return Response({"state": rabbit.state}, status_code=503 if rabbit.state == "closed" else 200)


def failed(request: Request[object, object, State], error: Exception) -> Response[dict[str, str]]:
    """An answer for whatever RabbitMQ, or the service behind it, could not do."""
    status = 504 if isinstance(error, TimeoutError) else 503
    if isinstance(error, rabbitry.RemoteError):
        status = 404 if error.type_name == "KeyError" else 502
    return Response({"error": type(error).__name__}, media_type=MediaType.JSON, status_code=status)


app = Litestar(
    [take, price, ready, live],
    lifespan=[connected],
    dependencies={"rabbit": Provide(rabbit)},
    exception_handlers={rabbitry.RabbitryError: failed, TimeoutError: failed},
)

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
