"""A web service that publishes, with the two probes that Kubernetes and load balancers ask for.

    uvicorn --app-dir docs/recipes web_service:app          (or: python docs/recipes/web_service.py)
    curl -d '{"item": "tea"}' localhost:8000/orders

Guaranteed: 202 means that RabbitMQ has confirmed the order and a queue has it. While the broker is away, out of memory
or has no such queue, the answer is a 503 within five seconds, and the service comes back by itself. /ready says no
meanwhile, so that a balancer asks others. /live says no only when waiting does not mend it (refused credentials, a
queue that somebody else declared otherwise): the supervisor should restart what can be mended so, and a broker's
restart is no reason to restart all services. (Of an alarm a broker tells those who publish, so not before an order.)

Not guaranteed: that an order answered by a 503 was not taken; its confirm may have been lost. Who sends it again gives
it the same `Idempotency-Key`, by which idempotent_consumer.py knows it again.
"""

import contextlib
import os
import uuid
from collections.abc import AsyncIterator

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import rabbitry

ORDERS = rabbitry.Queue("recipes.orders", type="quorum")


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    url = os.environ.get("RABBITMQ_URL", "amqp://guest:guest@localhost")
    async with rabbitry.open_client(url, name="web-service") as client, anyio.create_task_group() as tg:
        app.state.rabbit = client
        app.state.is_prepared = False
        tg.start_soon(prepare, app)  # not awaited: without a broker the service starts, too, and is not ready
        yield
        tg.cancel_scope.cancel()


async def prepare(app: Starlette) -> None:
    with contextlib.suppress(rabbitry.RabbitryError):  # it has ended the client: /live tells
        await app.state.rabbit.wait_ready()  # so that no order has to wait for a first connection
        await app.state.rabbit.declare(ORDERS)
        app.state.is_prepared = True


async def order(request: Request) -> JSONResponse:
    key = request.headers.get("Idempotency-Key") or str(uuid.uuid4())
    message = rabbitry.Message(await request.body(), content_type="application/json", message_id=key)
    try:
        with anyio.fail_after(5):
            await request.app.state.rabbit.publish(message, routing_key=ORDERS.name, mandatory=True)
    except (TimeoutError, rabbitry.RabbitryError) as error:
        return JSONResponse({"id": key, "error": type(error).__name__}, 503, {"Retry-After": "5"})
    return JSONResponse({"id": key}, 202)


async def ready(request: Request) -> JSONResponse:
    client: rabbitry.Client = request.app.state.rabbit
    is_ready = request.app.state.is_prepared and client.is_ready and client.blocked_reason is None
    return JSONResponse({"state": client.state, "blocked": client.blocked_reason}, 200 if is_ready else 503)


async def live(request: Request) -> JSONResponse:
    client: rabbitry.Client = request.app.state.rabbit
    return JSONResponse({"state": client.state}, 503 if client.state == "closed" else 200)


routes = [Route("/orders", order, methods=["POST"]), Route("/ready", ready), Route("/live", live)]
app = Starlette(routes=routes, lifespan=lifespan)

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
