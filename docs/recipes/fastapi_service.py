"""A FastAPI application that publishes orders, works on them in the background, and shows its metrics to Prometheus.

    uvicorn --app-dir docs/recipes fastapi_service:app      (or: python docs/recipes/fastapi_service.py)
    curl -H 'Content-Type: application/json' -d '{"item": "tea"}' localhost:8000/orders

Guaranteed: 202 means that RabbitMQ has confirmed the order and a queue has it. While the broker is away or blocks
publishing, the answer is a 503 within five seconds, and the service comes back by itself. What is no order is a 422
here, and goes to the dead-letter queue where it comes by RabbitMQ. When the server ends, orders at work are finished.
/ready, /live and /metrics are for probes and for Prometheus; web_service.py says what the probes mean.

Not guaranteed: that an order answered by a 503 was not taken, nor that it is shipped once only. idempotent_consumer.py
has the way out of both.
"""

import contextlib
import os
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from prometheus_client import make_asgi_app
from pydantic import BaseModel, Field, TypeAdapter

import rabbitry
from rabbitry.prometheus import Prometheus

DEAD = rabbitry.Queue("recipes.fastapi.dead", type="quorum")
ORDERS = rabbitry.Queue(
    "recipes.fastapi.orders", type="quorum", dead_letter_exchange="", dead_letter_routing_key=DEAD.name
)


class Order(BaseModel):
    item: str
    quantity: int = Field(default=1, ge=1)


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    url = os.environ.get("RABBITMQ_URL", "amqp://guest:guest@localhost")
    async with rabbitry.open_client(url, name="shop", instrumentation=Prometheus()) as client:
        app.state.rabbit = client
        async with anyio.create_task_group() as tg:
            tg.start_soon(ship_orders, client)  # not awaited: without a broker the service starts, too
            yield
            client.stop_consuming()  # and the task group waits for the orders at work


async def ship_orders(client: rabbitry.Client) -> None:
    async def ship(order: Order) -> None:
        print("shipping", order.quantity, order.item, flush=True)
        await anyio.sleep(0.5)
        print("shipped", order.item, flush=True)

    def validate(annotation: Any, value: Any) -> Any:
        return TypeAdapter(annotation).validate_python(value)

    with contextlib.suppress(rabbitry.RabbitryError):  # it has stopped, or has ended the client: /live tells
        await client.declare(DEAD, ORDERS)
        await client.process(ORDERS, ship, concurrency=10, convert=validate)


async def rabbit(request: Request) -> rabbitry.Client:
    client: rabbitry.Client = request.app.state.rabbit
    return client


Rabbit = Annotated[rabbitry.Client, Depends(rabbit)]

app = FastAPI(lifespan=lifespan)
app.mount("/metrics", make_asgi_app())


@app.post("/orders", status_code=202)
async def take(order: Order, client: Rabbit) -> dict[str, str]:
    number = str(uuid.uuid4())
    message = rabbitry.Message(order.model_dump_json().encode(), content_type="application/json", message_id=number)
    try:
        with anyio.fail_after(5):
            await client.publish(message, routing_key=ORDERS.name, mandatory=True)
    except (TimeoutError, rabbitry.RabbitryError) as error:
        raise HTTPException(503, type(error).__name__, {"Retry-After": "5"}) from None
    return {"id": number}


@app.get("/ready")
async def ready(client: Rabbit, response: Response) -> dict[str, str | None]:
    response.status_code = 200 if client.is_ready and client.blocked_reason is None else 503
    return {"state": client.state, "blocked": client.blocked_reason}


@app.get("/live")
async def live(client: Rabbit, response: Response) -> dict[str, str]:
    response.status_code = 503 if client.state == "closed" else 200
    return {"state": client.state}


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
