"""`RabbitryBroker`: has Taskiq's tasks go through RabbitMQ. Needs `pip install taskiq`. asyncio only, as
Taskiq is.

What must stay true: a message is acknowledged when Taskiq says so (`AcknowledgeType`), and otherwise comes again. One
that the worker has in its hands is not handed to it a second time, whatever connections were lost meanwhile: what the
broker delivers again takes the place of what it delivered before. The worker ends in order: it is given no more, what
it has may still be acknowledged, and what it was not given goes back.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from hashlib import sha256
from typing import Any, Literal, Unpack
from uuid import uuid4
from weakref import WeakSet

try:
    from taskiq import AckableMessage, AsyncBroker, BrokerMessage
except ImportError as _error:
    raise ImportError("rabbitry.taskiq needs Taskiq: pip install taskiq") from _error

from rabbitry import (
    Binding,
    Client,
    DecodeError,
    Delivery,
    Exchange,
    LocalProtocolError,
    Message,
    Queue,
    StaleDelivery,
    Subscription,
    start_client,
)
from rabbitry._api import ClientOptions
from rabbitry._concurrency.repeated import Repeated
from rabbitry._values.address import DEFAULT_URL
from rabbitry._values.options import check_options, checked_prefetch
from rabbitry._values.topology import Entity, name_of

__all__ = ["RabbitryBroker"]

_LINES = Repeated()
"""One line a second of each kind: there may be as many as there are messages."""

OWED = 1000
"""Messages remembered of which the acknowledgement came too late: see `_Handed`."""


class RabbitryBroker(AsyncBroker):
    """A broker for Taskiq: `broker = RabbitryBroker("amqp://user:password@host")`, then tasks, middlewares and result
    backends as with any.

    What it declares as it starts, unless `declare=False`, is what taskiq-aio-pika 0.6 does: the topic exchange
    `exchange`, for each of `queues` a durable quorum queue that dead-letters to `dead_letter_queue` (None: nowhere),
    and a binding under the queue's name. A `Queue` or an `Exchange` instead of a name is declared as it is, and
    `bindings` take the place of those. `exchange=""` is the default exchange, which needs none. Queues are shared by
    workers: neither exclusive, nor temporary, nor streams.

    Labels of a task: `delay`, seconds for which the broker holds it (no plugin, no queue of yours: the guide
    "Publishing", "Later"); `priority`, 0 to 255, for a queue with `max_priority`; `queue_name`, the routing key, which
    several queues need. What is none of that is a `ValueError`, which Taskiq has as the cause of its `SendTaskError`;
    so is each failure to publish: `Unroutable` where no queue gets the task, `OutcomeUnknown` where the connection was
    lost meanwhile, unless `on_unknown="republish"` sends it again, perhaps twice. A task that is sent was confirmed.

    A worker process has up to `prefetch` (0 to 65,535; 0 is no bound) messages of each queue that are not acknowledged,
    so no more tasks at once, whatever `--max-async-tasks` says. A message that is no task that the worker knows is
    rejected, and so dead-lettered, where its queue is one of the names, or a `Queue` with a dead-letter exchange; else
    Taskiq acknowledges it, with a warning, and it is gone.

    `options` are those of `open_client`. `ValueError` and `TypeError` for what can't be; of the URL, as it starts.
    """

    def __init__(
        self,
        urls: str | Sequence[str] = DEFAULT_URL,
        *,
        queues: str | Queue | Collection[str | Queue] = "taskiq",
        exchange: str | Exchange = "taskiq",
        bindings: Collection[Binding] | None = None,
        dead_letter_queue: str | Queue | None = "taskiq.dead_letter",
        declare: bool = True,
        prefetch: int = 10,
        on_unknown: Literal["raise", "republish"] = "raise",
        **options: Unpack[ClientOptions],
    ) -> None:
        super().__init__()
        check_options(options, ClientOptions, "RabbitryBroker")
        if on_unknown not in ("raise", "republish"):
            raise ValueError(f"on_unknown is 'raise' or 'republish', not {on_unknown!r}")
        # so that no password is an attribute
        self._start_client: Callable[[], Awaitable[Client]] = lambda: start_client(urls, **options)
        self._prefetch = checked_prefetch(prefetch)
        self._on_unknown: Literal["raise", "republish"] = on_unknown
        dead = _dead_letters(dead_letter_queue)
        made = [_task_queue(each, dead) for each in ([queues] if isinstance(queues, str | Queue) else queues)]
        self._queues = [queue.name for queue in made]
        if not made or len(set(self._queues)) < len(made):
            raise ValueError(f"queues are one or several, each by a name of its own, not {self._queues}")
        self._dead_lettering = {queue.name for queue in made if queue.dead_letter_exchange is not None}
        self._exchange = name_of(exchange, Exchange)
        if not self._exchange and bindings is not None:
            raise ValueError('nothing is bound to the default exchange (""): it routes by the queues\' names')
        bound = [Binding(name, exchange, name) for name in self._queues] if self._exchange else []
        bound = bound if bindings is None else [_task_binding(each) for each in bindings]
        self._routing_key = None if len(made) > 1 else bound[0].routing_key if bound else self._queues[0]
        self._entities: list[Entity] = []
        if declare:
            exchanges = [_task_exchange(exchange)] if self._exchange else []
            self._entities = [*exchanges, *([dead] if dead is not None else []), *made, *bound]
        self._is_started = False
        self._client: Client | None = None
        self._consuming = AsyncExitStack()  # what is consumed, to be left at the end
        self._subscriptions: list[Subscription] = []
        self._at_work: WeakSet[_Handed] = WeakSet()
        self._owed: deque[_Look] = deque(maxlen=OWED)

    @property
    def client(self) -> Client:
        """The rabbitry client from `startup()` to `shutdown()`: for probes (`client.is_ready`) and for what the broker
        does not do itself. `LocalProtocolError` before and after.
        """
        if self._client is None:
            raise LocalProtocolError("the broker has not been started: await broker.startup() first")
        return self._client

    # --- what Taskiq calls --------------------------------------------------------------------------------------------

    async def startup(self) -> None:
        """Connect, declare, and then do what Taskiq does as it starts: its handlers may send tasks.

        However long RabbitMQ is away it waits. Raises what waiting does not mend, such as `AuthenticationFailed`, or a
        `PreconditionFailed` for a queue that somebody has declared otherwise; `LocalProtocolError` under trio, and
        where it was started before. Cancelled, or when it raises, it leaves nothing behind.
        """
        _check_asyncio()
        if self._is_started:
            raise LocalProtocolError("the broker was started before: await broker.shutdown() first")
        self._is_started = True
        try:
            self._client = await self._start_client()
            await self._client.wait_ready()
            if self._entities:
                await self._client.declare(*self._entities)
            await super().startup()
        except BaseException:
            await self._leave()
            raise

    async def shutdown(self) -> None:
        """Take no more messages, do what Taskiq does as it ends, and disconnect, in bounded time. What is not
        acknowledged by then goes back to its queue.

        Taskiq's worker calls it once its tasks have finished. Harmless where there is nothing to shut down. Cancelled,
        it disconnects all the same.
        """
        for subscription in self._subscriptions:
            subscription.stop()
        try:
            await super().shutdown()
        finally:
            await self._leave()

    async def _leave(self) -> None:
        client, self._client = self._client, None
        consuming, self._consuming = self._consuming, AsyncExitStack()
        self._subscriptions.clear()
        self._owed.clear()
        self._is_started = False
        try:
            await consuming.aclose()
        finally:
            if client is not None:
                await client.aclose()

    async def kick(self, message: BrokerMessage) -> None:
        """Publish the task, and return once RabbitMQ has confirmed it. See the class for its labels and errors.

        While the connection is down it waits, or raises, as the broker's `while_down` says. Cancelled, the task may
        have been sent.
        """
        _check_asyncio()
        client, labels = self.client, message.labels
        delay = _number(float, labels, "delay", "seconds")
        published = Message(
            message.message,
            headers={**labels, "task_id": message.task_id, "task_name": message.task_name},
            message_id=uuid4().hex,
            priority=_number(int, labels, "priority", "a whole number from 0 to 255"),
        )
        await client.publish(
            published,
            exchange=self._exchange,
            routing_key=self._key_for(labels),
            mandatory=not delay,  # whether a queue gets it shows when the delay is over
            delay=delay,
            on_unknown=self._on_unknown,
        )

    async def listen(self) -> AsyncGenerator[AckableMessage, None]:
        """The messages of all queues, for the worker. Cancelled, or closed, it is over for good: what was not handed
        out goes back, and what was can be acknowledged until `shutdown()`.

        Raises what ends consuming: `ConsumerCancelled` where a queue was deleted, which ends the worker.
        """
        _check_asyncio()
        subscriptions: list[Subscription] = []
        try:
            for queue in self._queues:
                subscription = self.client.consume(queue, prefetch=self._prefetch)
                subscriptions.append(await self._consuming.enter_async_context(subscription))
                self._subscriptions.append(subscription)
            async with aclosing(_merged(subscriptions)) as arrivals:
                async for queue, delivery in arrivals:
                    message = self._message_for(queue, delivery)
                    if message is not None:
                        yield message
        finally:
            for subscription in subscriptions:
                subscription.stop()

    # --- what becomes of a delivery -----------------------------------------------------------------------------------

    def _message_for(self, queue: str, delivery: Delivery) -> AckableMessage | None:
        """What to hand to the worker; nothing where it has it in its hands, or has done it, or can't do it."""
        if delivery.is_stale or (delivery.redelivered and self._was_handed_out(queue, delivery)):
            return None
        if queue in self._dead_lettering and not self._is_known(delivery):
            delivery.reject()
            text = "a message of queue %r is no task that this worker knows, and was rejected"
            _LINES.log(logging.ERROR, queue, "unknown", text, queue)
            return None
        handed = _Handed(queue, delivery, self._owed)
        self._at_work.add(handed)
        return AckableMessage(data=delivery.body, ack=handed.ack)

    def _was_handed_out(self, queue: str, delivery: Delivery) -> bool:
        """Whether this is a message that came on a connection that was lost: one that is done is acknowledged now, one
        that is at work when that is done.
        """
        look = _look(queue, delivery)
        if look in self._owed:
            self._owed.remove(look)
            delivery.ack()
            return True
        for handed in self._at_work:
            if handed.delivery.is_stale and _look(handed.queue, handed.delivery) == look:
                handed.delivery = delivery
                return True
        return False

    def _is_known(self, delivery: Delivery) -> bool:
        """Whether there is such a task: by the header that `kick` writes, as does taskiq-aio-pika, or by the body."""
        with suppress(DecodeError):
            name = delivery.headers.get("task_name")
            if isinstance(name, str) and self.find_task(name) is not None:
                return True
        try:
            return self.find_task(self.formatter.loads(delivery.body).task_name) is not None
        except Exception:  # whatever the serializer raises over what it can't read
            return False

    def _key_for(self, labels: Mapping[str, Any]) -> str:
        key = labels.get("queue_name")
        if key is not None and key not in NOT_GIVEN:
            return str(key)
        if self._routing_key is None:
            raise ValueError(f"say by the label queue_name which queue the task is for: there are {self._queues}")
        return self._routing_key


class _Handed:
    """A message in the hands of the worker: the delivery of it that is to be acknowledged, the latest. Where that came
    by a connection that is lost, and the broker has not delivered it again, the acknowledgement is owed.
    """

    __slots__ = ("__weakref__", "_owed", "delivery", "queue")

    def __init__(self, queue: str, delivery: Delivery, owed: deque[_Look]) -> None:
        self.queue = queue
        self.delivery = delivery
        self._owed = owed

    def ack(self) -> None:
        """What Taskiq calls. It raises nothing: the result of a task that was done is to be kept."""
        try:
            self.delivery.ack()
        except StaleDelivery:
            self._owed.append(_look(self.queue, self.delivery))
            text = "a task of queue %r was acknowledged after its connection was lost: the broker delivers it again, "
            text += "and where it does so to another worker, it is done again"
            _LINES.log(logging.WARNING, self.queue, "late", text, self.queue)


_Look = tuple[str, str | None, bytes]


def _look(queue: str, delivery: Delivery) -> _Look:
    """What is the same of a message whenever it is delivered, and of no other that was sent here."""
    message_id = None
    with suppress(DecodeError):
        message_id = delivery.properties.message_id
    return queue, message_id, sha256(delivery.body).digest()


async def _merged(subscriptions: Sequence[Subscription]) -> AsyncGenerator[tuple[str, Delivery], None]:
    """The deliveries of all, each with its queue."""
    if len(subscriptions) == 1:
        queue = subscriptions[0].queue
        async for delivery in subscriptions[0]:
            yield queue, delivery
        return
    taking = {asyncio.ensure_future(anext(each)): each for each in subscriptions}
    try:
        while taking:
            done, _ = await asyncio.wait(taking, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                subscription = taking.pop(task)
                with suppress(StopAsyncIteration):
                    delivery = task.result()
                    taking[asyncio.ensure_future(anext(subscription))] = subscription
                    yield subscription.queue, delivery
    finally:
        for task in taking:
            if not task.cancel() and not task.cancelled() and task.exception() is None:
                with suppress(StaleDelivery):
                    task.result().nack()


# --- labels and topology ----------------------------------------------------------------------------------------------

NOT_GIVEN = ("", "None")
"""What a label is on its way where it was None: Taskiq makes text of all of them."""


def _number(kind: type[Any], labels: Mapping[str, Any], name: str, what: str) -> Any:
    value = labels.get(name)
    if value is None or value in NOT_GIVEN:
        return None
    try:
        return kind(value)
    except (TypeError, ValueError):
        raise ValueError(f"the label {name} is {what}, not {value!r:.100}") from None


def _task_queue(queue: str | Queue, dead: Queue | None) -> Queue:
    if isinstance(queue, str):
        if dead is None:
            return Queue(queue, type="quorum")
        return Queue(queue, type="quorum", dead_letter_exchange="", dead_letter_routing_key=dead.name)
    if not isinstance(queue, Queue):
        raise TypeError(f"queues are names, or Queue values, not {queue!r:.100}")
    if queue.exclusive or queue.is_temporary or queue.type == "stream":
        raise ValueError(f"workers share their queues, and acknowledge task by task, which {queue!r} can't")
    return queue


def _dead_letters(queue: str | Queue | None) -> Queue | None:
    if isinstance(queue, str):
        return Queue(queue, type="quorum")
    if queue is not None and not isinstance(queue, Queue):
        raise TypeError(f"dead_letter_queue is a name, a Queue or None, not {queue!r:.100}")
    return queue


def _task_exchange(exchange: str | Exchange) -> Exchange:
    return Exchange(exchange, "topic") if isinstance(exchange, str) else exchange


def _task_binding(binding: Binding) -> Binding:
    if not isinstance(binding, Binding):
        raise TypeError(f"bindings are Binding values, not {binding!r:.100}")
    return binding


def _check_asyncio() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise LocalProtocolError("Taskiq runs on asyncio, and so does its broker: not under trio") from None
