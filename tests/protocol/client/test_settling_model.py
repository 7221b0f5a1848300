"""Acknowledgements against a model of the broker: whatever happens in between, both sides agree on what is unsettled.

Both directions are pipes whose frames arrive when the steps say so, hence deliveries cross acks, recovers and
transactions. The model refuses what RabbitMQ refuses: a tag that is not unsettled would close the channel with 406.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.methods import Method
from tests.support.protocol_broker import Dialogue, check_bookkeeping, deliver, get_ok, method_frame, parse, reply_to


class BrokerChannel:
    """A channel as RabbitMQ keeps it: what is unsettled, and what a transaction has settled so far."""

    def __init__(self) -> None:
        self.unsettled: set[int] = set()
        self.settled: set[int] | None = None
        self.last = 0
        self.consumers: dict[str, bool] = {}
        self.how: dict[int, type[Method]] = {}

    def next_tag(self, no_ack: bool) -> int:
        self.last += 1
        if not no_ack:
            self.unsettled.add(self.last)
        return self.last

    def receive(self, method: Method) -> bytes:
        """Do what the client asks for; the answer."""
        match method:
            case methods.BasicAck() | methods.BasicNack() | methods.BasicReject():
                assert method.delivery_tag in self.unsettled, "406: unknown delivery tag"
                tags = {tag for tag in self.unsettled if tag <= method.delivery_tag}
                self.settle(tags if getattr(method, "multiple", False) else {method.delivery_tag}, method)
                return b""
            case methods.BasicRecover():
                self.unsettled.clear()
            case methods.BasicGet():
                if self.last % 3 == 0:
                    return method_frame(1, methods.BasicGetEmpty())
                return get_ok(1, self.next_tag(method.no_ack))
            case methods.BasicConsume():
                self.consumers[method.consumer_tag] = method.no_ack
            case methods.BasicCancel():
                self.consumers.pop(method.consumer_tag, None)
            case methods.TxSelect():
                self.settled = set() if self.settled is None else self.settled
            case methods.TxCommit():
                self.settled = set()
            case methods.TxRollback():
                assert self.settled is not None
                self.unsettled |= self.settled
                self.settled = set()
        return method_frame(1, reply_to(method))

    def settle(self, tags: set[int], method: Method) -> None:
        self.unsettled -= tags
        self.how |= dict.fromkeys(tags, type(method))
        if self.settled is not None:
            self.settled |= tags


class Settling:
    """A client's channel, a broker's channel, and the pipes between them. Steps take a number to choose by."""

    def __init__(self) -> None:
        self.dialogue = Dialogue().open()
        self.channel = self.dialogue.open_channel()
        self.broker = BrokerChannel()
        self.to_broker: list[Method] = []
        self.to_client: list[bytes] = []
        self.consumers: list[Any] = []
        self.slots: list[Any] = []
        self.names = 0
        self.in_transaction = False
        self.settled: dict[int, type[Method]] = {}
        self.consume(1)
        self.quiet()

    # --- the pipes

    def client_sends(self, number: int = 0) -> None:
        self.to_broker += [frame[1] for frame in parse(self.dialogue.connection.data_to_send())]

    def broker_reads(self, number: int) -> None:
        for _ in range(min(number, len(self.to_broker))):
            answer = self.broker.receive(self.to_broker.pop(0))
            if answer:
                self.to_client.append(answer)

    def client_reads(self, number: int) -> None:
        data, self.to_client = b"".join(self.to_client[:number]), self.to_client[number:]
        self.dialogue.feed(data)
        assert self.dialogue.connection.error is None

    def quiet(self, number: int = 0) -> None:
        """Let everything arrive."""
        while True:
            self.client_sends()
            if not self.to_broker and not self.to_client:
                break
            self.broker_reads(len(self.to_broker))
            self.client_reads(len(self.to_client))

    # --- the broker

    def broker_delivers(self, number: int) -> None:
        consumers = sorted(self.broker.consumers.items())
        for step in range(number % 6 if consumers else 0):
            name, no_ack = consumers[(number + step) % len(consumers)]
            self.to_client.append(deliver(1, self.broker.next_tag(no_ack), consumer_tag=name))

    def broker_cancels(self, number: int) -> None:
        consumers = sorted(self.broker.consumers)
        if len(consumers) > 1:
            name = consumers[number % len(consumers)]
            del self.broker.consumers[name]
            self.to_client.append(method_frame(1, methods.BasicCancel(consumer_tag=name, nowait=True)))

    # --- the client

    def consume(self, number: int) -> None:
        if len(self.consumers) < 4:
            self.names += 1
            tag = f"c{self.names}"
            method = methods.BasicConsume(queue="q", consumer_tag=tag, no_ack=number % 4 == 0)
            consumer, slot = self.channel.consume(method, "token", "waiter")
            self.consumers.append(consumer)
            self.slots.append(slot)

    def get(self, number: int) -> None:
        self.slots.append(self.channel.get(methods.BasicGet(queue="q", no_ack=number % 4 == 0), "waiter"))

    def abandon(self, number: int) -> None:
        if self.slots:
            slot = self.slots.pop(number % len(self.slots))
            if slot in self.channel.slots:
                slot.abandon()

    def cancel(self, number: int) -> None:
        if len(self.consumers) > 1:
            self.channel.cancel(self.consumers.pop(number % len(self.consumers)), "waiter")

    def in_hand(self) -> list[int]:
        """The deliveries that a program can still settle."""
        return sorted(self.channel.tags.outstanding - set(self.channel.tags.requeued))

    def ack(self, number: int) -> None:
        tags = self.in_hand()
        if tags:
            self.channel.ack(tags[number % len(tags)])
            self.settled[tags[number % len(tags)]] = methods.BasicAck

    def refuse(self, number: int) -> None:
        tags = self.in_hand()
        if tags:
            (self.channel.reject if number % 3 else self.channel.nack)(tags[number % len(tags)], True)
            self.settled[tags[number % len(tags)]] = methods.BasicReject if number % 3 else methods.BasicNack

    def ack_oldest(self, number: int) -> None:
        for tag in self.in_hand()[: number % 10]:
            self.channel.ack(tag)
            self.settled[tag] = methods.BasicAck

    def put_back(self, number: int) -> None:
        tags = self.in_hand()
        for tag in tags[number % 5 :: number % 3 + 1]:
            self.channel.requeue(tag)
            self.settled[tag] = methods.BasicNack

    def recover(self, number: int) -> None:
        self.channel.recover("waiter")
        assert not self.channel.tags.outstanding

    def transact(self, number: int) -> None:
        if self.in_transaction:
            self.channel.request((methods.TxSelect, methods.TxCommit, methods.TxRollback)[number % 3](), "waiter")

    def select(self, number: int) -> None:
        self.in_transaction = True
        self.channel.request(methods.TxSelect(), "waiter")

    # --- what must be true

    def agree(self, number: int = 0) -> None:
        self.quiet()
        assert self.channel.tags.outstanding == self.broker.unsettled
        assert all(not self.channel.is_stale(tag) for tag in self.broker.unsettled)
        assert not self.channel.tags.pending and not self.channel.tags.requeued
        for tag, how in self.settled.items():
            assert tag in self.broker.unsettled or self.broker.how[tag] is how
        assert self.dialogue.connection.awaiting == 0
        assert {name.decode() for name in self.channel.consumers} == set(self.broker.consumers)


OFTEN = [Settling.broker_delivers, Settling.client_reads, Settling.ack, Settling.ack] * 4
USUAL = [
    Settling.client_sends,
    Settling.broker_reads,
    Settling.ack_oldest,
    Settling.refuse,
    Settling.quiet,
    Settling.put_back,
] * 2
SELDOM = [
    Settling.consume,
    Settling.get,
    Settling.abandon,
    Settling.cancel,
    Settling.broker_cancels,
    Settling.agree,
    Settling.transact,
]
RARE = [Settling.recover, Settling.select]


def steps_of(*kinds: Any) -> Any:
    return st.lists(st.tuples(st.sampled_from(kinds), st.integers(0, 40)), min_size=40, max_size=120)


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        steps_of(*OFTEN, *USUAL), steps_of(*OFTEN, *USUAL, *SELDOM * 2, *RARE), steps_of(*USUAL, *SELDOM * 2, *RARE)
    )
)
def test_both_sides_agree_on_what_is_unsettled(steps: list[tuple[Any, int]]) -> None:
    settling = Settling()
    for step, number in steps:
        step(settling, number)
        check_bookkeeping(settling.dialogue.connection)
    settling.agree()
