"""Queues by themselves: no message is lost or doubled, whatever is done; order, time and limits without a clock."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rabbitry.broker.arguments import QueueOptions
from rabbitry.broker.consumer_arguments import ConsumerOptions
from rabbitry.broker.consumers import Consumer, Succession
from rabbitry.broker.entries import Entry
from rabbitry.broker.messages import Facts, Message, checked_expiration
from rabbitry.broker.queues import Queue
from rabbitry.broker.timers import Timers
from rabbitry.protocol.server.refusals import Refusal


def message(body: bytes = b"m", **facts: Any) -> Message:
    values = {"headers": {}, "expiration": None, "user_id": None, "reply_to": None, "priority": None, **facts}
    return Message("", ("q",), b"\0\0", body, Facts(**values))


class Grave:
    """Takes the dead."""

    def __init__(self) -> None:
        self.dead: list[tuple[bytes, str]] = []

    def __call__(self, entry: Entry, queue: Queue, reason: str, now: float) -> None:
        self.dead.append((entry.message.body, reason))


class Receiver:
    """A channel that keeps what it is given."""

    def __init__(self) -> None:
        self.has_room = True
        self.is_full = False
        self.held: list[tuple[Consumer, Entry]] = []

    def deliver(self, consumer: Consumer, entry: Entry, now: float) -> None:
        consumer.unacked += not consumer.no_ack
        self.held.append((consumer, entry))

    def lose_consumer(self, consumer: Consumer) -> None: ...

    def bodies(self) -> list[bytes]:
        return [entry.message.body for _, entry in self.held]


def made(grave: Grave | None = None, timers: Timers | None = None, **options: Any) -> Queue:
    return Queue("q", QueueOptions(**options), bury=grave or Grave(), timers=timers or Timers(), now=0.0)


def consumer(receiver: Receiver, tag: str = "c", *, priority: int = 0, offset: Any = "next", **fields: Any) -> Consumer:
    options = ConsumerOptions(priority=priority, offset=offset)
    return Consumer(
        receiver, tag, 0, **{"no_ack": False, "prefetch": 0, "exclusive": False, "options": options, **fields}
    )


def test_time_is_an_argument() -> None:
    grave, timers = Grave(), Timers()
    queue = made(grave, timers, ttl=5000)
    queue.publish(message(b"1"), 100.0)
    queue.publish(message(b"2", expiration="1000"), 100.0)
    assert timers.next_deadline == 105.0 and queue.count == 2
    timers.run(104.9)
    assert queue.count == 2  # only the head expires
    timers.run(105.0)
    assert queue.count == 0 and grave.dead == [(b"1", "expired"), (b"2", "expired")]


class Watched(Consumer):
    """Knows how often somebody looked at it."""

    looks = 0

    @property
    def overdue(self) -> int:  # type: ignore[override]
        Watched.looks += 1
        return 0

    @overdue.setter
    def overdue(self, value: int) -> None: ...


@pytest.mark.parametrize("succession", ["age", "priority", "yields"])
def test_those_who_wait_to_be_the_single_active_one_cost_nothing(succession: Succession) -> None:
    alone, receiver = QueueOptions(kind="quorum", single_active=True), Receiver()
    queue = Queue("q", alone, bury=Grave(), timers=Timers(), now=0.0, succession=succession)
    terms: dict[str, Any] = {"no_ack": False, "prefetch": 0, "exclusive": False}
    for number in range(100):
        queue.add_consumer(
            Watched(receiver, str(number), number, options=ConsumerOptions(priority=0, offset="next"), **terms), 0.0
        )
    Watched.looks = 0
    for _ in range(10):
        queue.publish(message(), 0.0)
    assert [each.tag for each, _ in receiver.held] == ["0"] * 10
    assert Watched.looks < 100


def test_who_is_looked_for_in_vain_stays_in_the_turn() -> None:
    """The timer of what expired has not been run yet, when a consumer is chosen for it."""
    queue, receiver = made(kind="quorum", ttl=1000), Receiver()
    only = consumer(receiver, prefetch=1)
    queue.add_consumer(only, 0.0)
    receiver.has_room = False
    queue.publish(message(b"expires"), 0.0)
    receiver.has_room = True
    assert queue.unblock(only)
    queue.dispatch(2.0)
    assert receiver.bodies() == []
    queue.publish(message(b"next"), 2.0)
    assert receiver.bodies() == [b"next"]


def test_a_requeued_message_keeps_its_deadline() -> None:
    grave, timers = Grave(), Timers()
    queue = made(grave, timers, ttl=5000)
    queue.publish(message(), 100.0)
    entry = queue.get(101.0)
    assert entry is not None
    queue.requeue([entry], 104.0)
    timers.run(105.0)
    assert grave.dead == [(b"m", "expired")]


def test_an_unused_queue_expires_and_a_used_one_does_not() -> None:
    timers, gone = Timers(), list[float]()
    queue = Queue(
        "q",
        QueueOptions(expires=1000),
        bury=Grave(),
        timers=timers,
        now=0.0,
        on_unused=lambda queue, now: gone.append(now),
    )
    queue.get(0.5)
    timers.run(1.0)
    assert not gone
    here = consumer(Receiver())
    queue.add_consumer(here, 1.2)
    timers.run(1.5)
    timers.run(50.0)
    assert not gone
    queue.remove_consumer(here, 50.5)
    timers.run(51.0)
    assert not gone
    timers.run(51.5)
    assert gone == [51.5]


def test_who_can_take_nothing_leaves_the_turn_and_comes_back() -> None:
    queue = made()
    receiver = Receiver()
    one, two = consumer(receiver, "one", prefetch=1), consumer(receiver, "two")
    queue.add_consumer(one, 0.0)
    queue.add_consumer(two, 0.0)
    for index in range(4):
        queue.publish(message(b"%d" % index), 0.0)
    assert [each.tag for each, _ in receiver.held] == ["one", "two", "two", "two"]
    one.unacked = 0
    assert queue.consumers.unblock(one) and not queue.consumers.unblock(one)
    queue.publish(message(), 0.0)
    queue.publish(message(), 0.0)
    assert {each.tag for each, _ in receiver.held[4:]} == {"one", "two"}


def test_a_client_that_does_not_read_gets_nothing_more() -> None:
    queue, receiver = made(), Receiver()
    here = consumer(receiver, no_ack=True)
    queue.add_consumer(here, 0.0)
    receiver.has_room = False
    for _ in range(3):
        queue.publish(message(), 0.0)
    assert queue.count == 3 and not receiver.held
    receiver.has_room = True
    assert queue.consumers.unblock(here)
    queue.dispatch(0.0)
    assert len(receiver.held) == 3


@pytest.mark.parametrize("text", ["0", "1", "+5", "315360000000"])
def test_expirations(text: str) -> None:
    assert checked_expiration(text) == int(text)


@pytest.mark.parametrize("text", ["", "x", "1x", "-1", "--1", "+", "1.0", " 1", "315360000001", "١"])
def test_expirations_that_are_none(text: str) -> None:
    with pytest.raises(Refusal) as caught:
        checked_expiration(text)
    assert caught.value.code == 406


class OneQueue(RuleBasedStateMachine):
    """Messages are ready, held or settled, and nothing else; classic queues give them out in their order."""

    kind = "classic"

    def __init__(self) -> None:
        super().__init__()
        self.queue = made(kind=self.kind)
        self.receiver = Receiver()
        self.consumers: list[Consumer] = []
        self.got: list[Entry] = []
        self.published = self.settled = 0

    @rule(count=st.integers(1, 4))
    def publish(self, count: int) -> None:
        for _ in range(count):
            self.queue.publish(message(b"%d" % self.published), 0.0)
            self.published += 1

    @rule()
    def get(self) -> None:
        entry = self.queue.get(0.0)
        if entry is not None:
            self.got.append(entry)

    @rule(prefetch=st.integers(0, 3), priority=st.integers(0, 1))
    def consume(self, prefetch: int, priority: int) -> None:
        self.consumers.append(consumer(self.receiver, prefetch=prefetch, priority=priority))
        self.queue.add_consumer(self.consumers[-1], 0.0)
        self.queue.dispatch(0.0)

    @precondition(lambda self: self.consumers)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        leaving = data.draw(st.sampled_from(self.consumers))
        self.consumers.remove(leaving)
        self.queue.remove_consumer(leaving, 0.0)

    @precondition(lambda self: self.receiver.held)
    @rule(data=st.data(), requeue=st.booleans())
    def settle(self, data: st.DataObject, requeue: bool) -> None:
        pair = data.draw(st.sampled_from(self.receiver.held))
        self.receiver.held.remove(pair)
        here, entry = pair
        here.unacked -= 1
        if requeue:
            self.queue.requeue([entry], 0.0)
        else:
            self.settled += 1
        self.queue.consumers.unblock(here)
        self.queue.dispatch(0.0)

    @precondition(lambda self: self.got)
    @rule()
    def give_back(self) -> None:
        self.queue.requeue(self.got, 0.0)
        self.got = []
        self.queue.dispatch(0.0)

    @invariant()
    def nothing_is_lost(self) -> None:
        held = len(self.receiver.held) + len(self.got)
        assert self.queue.count + held + self.settled == self.published

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        assert not (self.queue.count and any(each.can_take for each in self.consumers))

    @invariant()
    def nobody_has_too_much(self) -> None:
        assert all(not each.prefetch or each.unacked <= each.prefetch for each in self.consumers)

    def teardown(self) -> None:
        bodies = []
        while (entry := self.queue.get(0.0)) is not None:
            bodies.append(int(entry.message.body))
        assert len(set(bodies)) == len(bodies)
        if self.kind == "classic":
            assert bodies == sorted(bodies)


class OneQuorumQueue(OneQueue):
    kind = "quorum"


TestOneQueue = OneQueue.TestCase
TestOneQuorumQueue = OneQuorumQueue.TestCase
TestOneQueue.settings = TestOneQuorumQueue.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
