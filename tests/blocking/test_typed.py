"""Types in threads: `process`, `serve` and `bind` convert as the async ones do; and `rpc.request`."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import pytest

import rabbitry
from rabbitry import Message, Service, Stop, blocking, convert

InThread = Callable[..., threading.Thread]


@dataclass
class Order:
    id: int
    amount: float = 0.0


class Orders(Protocol):
    def double(self, order: Order) -> Order: ...
    def wrong(self, order: Order) -> list[Order]: ...


def double(order: Order) -> Order:
    assert type(order) is Order
    return Order(order.id, 2 * order.amount)


def wrong(order: Order) -> Order:
    return order


@pytest.mark.parametrize("handler", [Service(double, wrong), [double, wrong]], ids=["service", "list"])
def test_bind_and_serve(client: blocking.Client, queue: str, in_thread: InThread, handler: Any) -> None:
    stop = Stop()
    in_thread(lambda: client.serve(queue, handler, stop=stop))
    with client.rpc() as rpc:
        orders = rpc.bind(Orders, queue, timeout=20)
        assert orders.double(Order(1, 2.5)) == Order(1, 5.0)
        with pytest.raises(rabbitry.DecodeError, match=r"^wrong\(\): a value of type dict is no list"):
            orders.wrong(Order(1))
        with pytest.raises(rabbitry.RemoteError, match=r"order\.id: 'x' is no int") as caught:
            orders.double({"id": "x"})  # type: ignore[arg-type]
        assert caught.value.type_name == "DecodeError"
        assert rpc.bind(Orders, queue, convert=None, timeout=20).double(Order(1)) == {"id": 1, "amount": 0.0}
    stop.set()


@pytest.mark.parametrize("kind", ["client", "connection"])
@pytest.mark.parametrize("handler", [double, [double], Service(double, convert=lambda kind, value: kind(**value))])
def test_another_converter_and_none(amqp_url: str, queue: str, in_thread: InThread, kind: str, handler: Any) -> None:
    calls = []

    def hook(annotation: Any, value: Any) -> Any:
        calls.append(annotation)
        return annotation(**value)

    stop = Stop()
    own: dict[str, Any] = {} if isinstance(handler, Service) else {"convert": hook}
    opening: Any = blocking.open_client if kind == "client" else blocking.connect
    with opening(amqp_url) as served, served.rpc() as rpc:
        in_thread(lambda: served.serve(queue, handler, stop=stop, **own))
        arguments = {"id": 1, "amount": 2.5}
        if handler is double:
            assert rpc.call(queue, arguments, timeout=20) == {"id": 1, "amount": 5.0}
        else:
            assert rpc.bind(Orders, queue, timeout=20).double(Order(1, 2.5)) == Order(1, 5.0)
        stop.set()
    assert calls == ([] if isinstance(handler, Service) else [Order])


def test_what_can_not_be_converted_to_is_refused(client: blocking.Client) -> None:
    class Opaque:
        pass

    def opaque(x: Opaque) -> None: ...

    for handler in (opaque, [opaque]):
        with pytest.raises(TypeError, match="Opaque is nothing"):
            client.serve("x", handler)
    with pytest.raises(TypeError, match="Opaque is nothing"):
        client.process("x", opaque, convert=convert)
    with pytest.raises(ValueError, match="converter of its own"):
        client.serve("x", Service(double), convert=None)
    with client.rpc() as rpc, pytest.raises(TypeError, match="convert is a plain function"):
        rpc.bind(Orders, "x", convert=5)  # type: ignore[arg-type]


def test_process_gives_payloads(client: blocking.Client, channel: blocking.Channel, queue: str) -> None:
    seen: list[Any] = []
    stop = Stop()

    def handler(order: Order) -> None:
        seen.append(order)
        if order.id == 2:
            stop.set()

    for message in (Message.json(Order(1)), Message.json({"id": "x"}), Message(b"{"), Message.msgpack(Order(2))):
        client.publish(message, routing_key=queue)
    client.process(queue, handler, convert=convert, stop=stop, timeout=20)
    assert seen == [Order(1), Order(2)]
    assert channel.declare_queue(queue, passive=True).message_count == 0


def test_process_gives_the_delivery_too(client: blocking.Client, channel: blocking.Channel, queue: str) -> None:
    stop = Stop()
    seen = []

    def handler(order: Order, delivery: blocking.Delivery) -> None:
        seen.append((order, type(delivery)))
        delivery.reject()
        stop.set()

    client.publish(Message.json(Order(1)), routing_key=queue)
    client.process(queue, handler, convert=convert, stop=stop, timeout=20)
    assert seen == [(Order(1), blocking.Delivery)]
    assert channel.declare_queue(queue, passive=True).message_count == 0


def test_a_handler_that_ends_the_program_puts_its_message_back(
    client: blocking.Client, channel: blocking.Channel, queue: str
) -> None:
    def handler(order: Order) -> None:
        raise SystemExit(3)

    client.publish(Message.json(Order(1)), routing_key=queue)
    with pytest.raises(SystemExit):
        client.process(queue, handler, convert=convert, timeout=20)
    delivery = channel.get(queue)
    assert delivery is not None and delivery.redelivered
    delivery.ack()


def test_a_coroutine_function_stays_one(client: blocking.Client, queue: str) -> None:
    stop, seen = Stop(), []

    async def handler(order: Order) -> None:
        seen.append((order, threading.current_thread().name))
        stop.set()

    client.publish(Message.json(Order(1)), routing_key=queue)
    client.process(queue, handler, convert=convert, stop=stop, timeout=20)
    assert [order for order, _ in seen] == [Order(1)]


@pytest.mark.parametrize("kind", ["client", "connection"])
def test_request(amqp_url: str, queue: str, in_thread: InThread, kind: str) -> None:
    def handler(delivery: rabbitry.Delivery) -> Message:
        if not delivery.body:
            raise LookupError("nothing")
        return Message(delivery.body[::-1], app_id=delivery.properties.app_id, priority=5)

    stop = Stop()
    opening: Any = blocking.open_client if kind == "client" else blocking.connect
    with opening(amqp_url) as it, it.rpc() as rpc:
        in_thread(lambda: it.serve(queue, handler, raw=True, stop=stop))
        reply = rpc.request(Message(b"abc", app_id="mine"), queue, timeout=20)
        assert type(reply) is Message
        assert (reply.body, reply.app_id, reply.priority) == (b"cba", "mine", 5)
        with pytest.raises(rabbitry.RemoteError, match="LookupError"):
            rpc.request(Message(b""), queue, timeout=20)
        with pytest.raises(ValueError, match="RPC's own"):
            rpc.request(Message(b"", reply_to="x"), queue)
        if kind == "connection":
            with pytest.raises(ValueError, match="sends nothing again"):
                rpc.request(Message(b""), queue, idempotent=True)
        else:
            assert rpc.request(Message(b"ab"), queue, idempotent=True, timeout=20).body == b"ba"
        with pytest.raises(TimeoutError):
            rpc.request(Message(b"x"), "amq.nothing-" + queue, mandatory=False, timeout=0.1)
        stop.set()
