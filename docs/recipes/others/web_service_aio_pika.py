"""web_service.py with aio-pika: `uvicorn --app-dir docs/recipes/others web_service_aio_pika:app`."""

import asyncio
import contextlib
import os
import uuid
from collections.abc import AsyncIterator

import aio_pika
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

ORDERS = "recipes.orders"


class Rabbit:
    def __init__(self) -> None:
        self.connection: aio_pika.abc.AbstractRobustConnection | None = None
        self.channel: aio_pika.abc.AbstractChannel | None = None
        self.refused: Exception | None = None

    async def connect(self) -> None:
        """Its first connection is not robust: tried until there is one."""
        url = os.environ.get("RABBITMQ_URL", "amqp://guest:guest@localhost")
        while True:
            try:
                self.connection = await aio_pika.connect_robust(url, reconnect_interval=1)
                channel = await self.connection.channel(publisher_confirms=True, on_return_raises=True)
                await channel.declare_queue(ORDERS, durable=True, arguments={"x-queue-type": "quorum"})
                self.channel = channel
                return
            except aio_pika.exceptions.ProbableAuthenticationError as error:
                self.refused = error
                return
            except (OSError, aio_pika.exceptions.AMQPError):
                await asyncio.sleep(1)

    @property
    def is_ready(self) -> bool:
        connected = self.connection is not None and self.connection.connected.is_set()
        return connected and self.channel is not None and not self.channel.is_closed


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    rabbit = app.state.rabbit = Rabbit()
    connecting = asyncio.create_task(rabbit.connect())
    yield
    connecting.cancel()
    if rabbit.connection is not None:
        await rabbit.connection.close()


async def order(request: Request) -> JSONResponse:
    key = request.headers.get("Idempotency-Key") or str(uuid.uuid4())
    message = aio_pika.Message(
        await request.body(),
        content_type="application/json",
        message_id=key,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )
    channel = request.app.state.rabbit.channel
    if channel is None:
        return JSONResponse({"id": key, "error": "not connected"}, 503, {"Retry-After": "5"})
    try:
        async with asyncio.timeout(5):
            await channel.default_exchange.publish(message, routing_key=ORDERS, mandatory=True)
    except (OSError, TimeoutError, RuntimeError, aio_pika.exceptions.AMQPError) as error:
        return JSONResponse({"id": key, "error": type(error).__name__}, 503, {"Retry-After": "5"})
    return JSONResponse({"id": key}, 202)


async def ready(request: Request) -> JSONResponse:
    is_ready = request.app.state.rabbit.is_ready
    return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)


async def live(request: Request) -> JSONResponse:
    return JSONResponse({}, 503 if request.app.state.rabbit.refused else 200)


routes = [Route("/orders", order, methods=["POST"]), Route("/ready", ready), Route("/live", live)]
app = Starlette(routes=routes, lifespan=lifespan)

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
