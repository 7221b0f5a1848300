"""One worker for many tenants, each in a virtual host of its own, whom the others can't harm.

    python docs/recipes/multi_tenant.py work acme globex
    python docs/recipes/multi_tenant.py order acme tea        (as a web service would)

The virtual host is the tenant's border: its queues, permissions and limits are its own, and no routing key leads out of
it. An operator makes it beforehand: `rabbitmqctl add_vhost acme`, then `set_permissions -p acme ...`.

Guaranteed: an order goes to its tenant alone, or the program fails. Each tenant has a client of its own, and five
workers of its own, so a flood of one keeps the others from nothing. A tenant that can't be served (its virtual host is
not there yet, permissions are missing) is told, and tried again every five seconds; the others go on. SIGTERM ends all
in order, within ten seconds. `RABBITMQ_URL` names no virtual host.

Not guaranteed: fairness of what they share: the processor of this program, and the broker with its alarms. Bound a
tenant there: `rabbitmqctl set_vhost_limits`, and `max_length` on its queues. With credentials for each tenant, give
each client its own `user` and `password`: what one can read, the others then can't, whatever a defect here does.
"""

import os
import signal
import sys

import anyio

import rabbitry

ORDERS = rabbitry.Queue("recipes.tenant.orders", type="quorum")
URL = os.environ.get("RABBITMQ_URL", "amqp://guest:guest@localhost")


async def order(tenant: str, *items: str) -> None:
    async with rabbitry.open_client(URL, virtual_host=tenant, name=f"orders-{tenant}") as client:
        with anyio.fail_after(5):
            for item in items:
                await client.publish(item.encode(), routing_key=ORDERS.name, mandatory=True)


async def serve(reactor: rabbitry.Reactor, tenant: str, stop: rabbitry.Stop) -> None:
    async def handle(delivery: rabbitry.Delivery) -> None:
        await anyio.sleep(0.1)  # stands for the work
        print(tenant, "has", delivery.body.decode(), flush=True)

    while not stop.is_set():
        try:
            async with reactor.open_client(URL, virtual_host=tenant, name=f"worker-{tenant}") as client:
                await client.declare(ORDERS)
                print(tenant, "is served", flush=True)
                await client.process(ORDERS, handle, concurrency=5, stop=stop)
        except rabbitry.RabbitryError as error:
            print(tenant, "is out:", error, flush=True)
            await anyio.sleep(5)


async def work(*tenants: str) -> None:
    stop = rabbitry.Stop()
    async with rabbitry.open_reactor() as reactor, anyio.create_task_group() as tg:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            for tenant in tenants:
                tg.start_soon(serve, reactor, tenant, stop)
            await anext(signals)
            stop.set()  # no more deliveries; the handlers at work finish
            tg.cancel_scope.deadline = anyio.current_time() + 10  # for who waits for a broker, or to try again
    print("ended in order", flush=True)


async def main(*words: str) -> None:
    command, *others = words
    if command == "order":
        await order(*others)
    else:
        await work(*others)


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
