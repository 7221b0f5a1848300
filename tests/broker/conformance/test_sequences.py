"""Random sequences of up to 100 operations, with RabbitMQ and the embedded broker: all that shows must be the same.

Hypothesis makes the sequences and shortens one that shows a difference; that becomes a case by name. There are few of
them here: `RABBITRY_SEQUENCES=100` has as many made, `RABBITRY_SEED=7` others; `survey` has thousands, in slices.

What can't be compared is not made: times that pass (those of messages and queues are 0 or far away), streams (they are
told of in chunks), two queues that dead-letter at once (which is first is not promised), a channel-wide prefetch for
more than one consumer (RabbitMQ draws lots), publishes that a full quorum queue rejects (a little late).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import hypothesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from rabbitry.protocol.wire import methods
from rabbitry.testing import PrivateNode
from tests.broker.conformance.conversation import Channel
from tests.broker.conformance.pair import LANES, LITTLE_PATIENCE, Pair, differences

SEQUENCES = int(os.environ.get("RABBITRY_SEQUENCES", "15"))
SEED = int(os.environ.get("RABBITRY_SEED", "1"))
Arguments = Mapping[str, Any]
FAR = 100_000_000
"""Milliseconds."""

lanes = st.integers(0, LANES - 1)
queues = st.sampled_from("abcd")
exchanges = st.sampled_from("xyz")
keys = st.sampled_from(["a", "b", "k.1", "k.2", "k.1.2", "k", ""])
patterns = st.sampled_from(["a", "b", "k.1", "k.*", "#", "*.#", "k.#.2", ""])
consumer_tags = st.sampled_from(["c1", "c2", "c3"])  # a number would be a delivery's, see differences.py
picks = st.integers(0, 11)
rarely = st.sampled_from([False] * 7 + [True])
mostly = st.sampled_from([True, True, False])
kinds = st.sampled_from(["fanout", "direct", "topic", "headers"])
outcomes = st.sampled_from(["ack", "ack", "nack", "nack", "drop", "reject", "reject and drop"])
modes = st.sampled_from(["confirm", "confirm", "commit", "roll back"])
exchange_fields = st.sampled_from([{}, {}, {"auto_delete": True}, {"internal": True}])
exchange_arguments = st.sampled_from([{}, {}, {"alternate-exchange": "y"}])
consumer_arguments = st.sampled_from([{}, {}, {}, {"x-priority": 1}, {"x-priority": -1}])
ways = st.sampled_from(
    [
        *[{"durable": True}, {"exclusive": True}] * 2,
        {"exclusive": True, "auto_delete": True},
        {"durable": True, "auto_delete": True},
    ]
)
queue_arguments = st.sampled_from(
    [
        *[dict[str, Any]()] * 6,
        {"x-message-ttl": 0},
        {"x-message-ttl": FAR},
        {"x-expires": FAR},
        {"x-max-length": 2},
        {"x-max-length": 0},
        {"x-max-length-bytes": 3},
        {"x-max-length": 1, "x-overflow": "reject-publish"},
        {"x-max-length": 1, "x-overflow": "reject-publish-dlx"},
        {"x-max-priority": 3},
        {"x-max-priority": 2, "x-max-length": 2},
        {"x-single-active-consumer": True},
        {"x-queue-type": "quorum"},
        {"x-queue-type": "quorum", "x-delivery-limit": 1},
        {"x-queue-type": "quorum", "x-max-length": 2},
        {"x-queue-type": "quorum", "x-single-active-consumer": True},
    ]
)
dead_letters = st.sampled_from(
    [
        *[dict[str, Any]()] * 5,
        {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "d"},
        {"x-dead-letter-exchange": "x"},
        {"x-dead-letter-exchange": "y", "x-dead-letter-routing-key": "k.1"},
        {"x-dead-letter-exchange": "missing"},
    ]
)
match_arguments = st.sampled_from(
    [{}, {}, {}, {"x-match": "all", "h": 1}, {"x-match": "any", "h": 1, "g": "t"}, {"h": 2}, {"x-match": "other"}]
)
message_properties = st.sampled_from(
    [
        *[dict[str, Any]()] * 6,
        {"priority": 1},
        {"priority": 3},
        {"priority": 9},
        {"expiration": "0"},
        {"expiration": str(FAR)},
        {"delivery_mode": 2},
        {"user_id": "guest", "content_type": "text/plain", "message_id": "id"},
        {"headers": {"h": 1}},
        {"headers": {"g": "t", "h": 2}},
        {"headers": {"CC": ["a", "k.1"]}},
        {"headers": {"BCC": ["b"]}},
    ]
)
ENDS: dict[str, Callable[[Channel, str, str], object]] = {
    "channel": lambda channel, queue, exchange: channel.close(),
    "close": lambda channel, queue, exchange: None,
    "cut": lambda channel, queue, exchange: None,
    "exchange": lambda channel, queue, exchange: channel.delete_exchange(exchange),
    "exchange if unused": lambda channel, queue, exchange: channel.delete_exchange(exchange, if_unused=True),
    "queue": lambda channel, queue, exchange: channel.delete(queue),
    "queue if empty": lambda channel, queue, exchange: channel.delete(queue, if_empty=True),
    "queue if unused": lambda channel, queue, exchange: channel.delete(queue, if_unused=True),
}
MISTAKES: dict[str, Callable[[Channel], object]] = {
    "ack": lambda channel: channel.ack(99),
    "exchange": lambda channel: channel.publish(b"m", "k", "missing"),
    "queue": lambda channel: channel.get("missing"),
    "expiration": lambda channel: channel.publish(b"m", "a", expiration="soon"),
    "user": lambda channel: channel.publish(b"m", "a", user_id="other"),
    "rollback": lambda channel: channel.request(methods.TxRollback()),
    "immediate": lambda channel: channel.publish(b"m", "a", immediate=True),
    "type": lambda channel: channel.exchange("new", "round-robin", durable=True),
    "recover": lambda channel: channel.recover(False),
    "default exchange": lambda channel: channel.bind("a", ""),
    "argument": lambda channel: channel.durable("new", {"x-message-ttl": -1}),
}


class Sequences(RuleBasedStateMachine):
    """One sequence."""

    def __init__(self, pair: Pair, steps: list[int]) -> None:
        super().__init__()
        self.pair = pair
        self.steps = steps
        self.published = 0
        self.kinds: dict[str, str | None] = {}
        """The types of queues, of those that are gone, too."""

    def teardown(self) -> None:
        self.steps.append(self.pair.steps)
        self.pair.close()

    # --- entities ----------------------------------------------------------------------------------------------------

    @initialize(one=queue_arguments, other=queue_arguments, dead=dead_letters, way=ways, kind=kinds)
    def begin(self, one: Arguments, other: Arguments, dead: Arguments, way: dict[str, bool], kind: str) -> None:
        self.declare(0, "a", {"durable": True}, one, dead)
        self.declare(0, "b", way, other, {})
        self.declare_exchange(0, "x", kind, {}, {})
        self.bind(0, 0, 0, "#", {})

    @rule(lane=lanes, queue=queues, way=ways, arguments=queue_arguments, dead=dead_letters)
    def declare(self, lane: int, queue: str, way: dict[str, bool], arguments: Arguments, dead: Arguments) -> None:
        if arguments.get("x-queue-type") == "quorum":
            way = {"durable": True}
        kind = arguments.get("x-queue-type")
        if self.name(queue) not in self.queues and self.kinds.setdefault(queue, kind) != kind:
            return  # RabbitMQ's channels stumble over a queue that comes back as another type
        others = [each for each in self.queues.values() if each.name != self.name(queue)]
        # What a full quorum queue drops for a message comes to that message's other queues ahead of it or behind it: in
        # RabbitMQ that is up to chance.
        drops_by_chance = arguments.get("x-queue-type") == "quorum" and "x-max-length" in arguments
        if not drops_by_chance and not any(each.options.dead_letter_exchange is not None for each in others):
            arguments = {**arguments, **dead}
        if arguments.get("x-dead-letter-routing-key") == "d":
            arguments = {**arguments, "x-dead-letter-routing-key": self.name("d")}
        self.pair.do(lane, lambda channel: channel.declare(queue, arguments, **way))

    @rule(lane=lanes, exchange=exchanges, kind=kinds, fields=exchange_fields, arguments=exchange_arguments)
    def declare_exchange(
        self, lane: int, exchange: str, kind: str, fields: dict[str, bool], arguments: Arguments
    ) -> None:
        self.pair.do(lane, lambda channel: channel.exchange(exchange, kind, arguments, durable=True, **fields))

    @rule(lane=lanes, queue=picks, exchange=picks, key=patterns, arguments=match_arguments)
    def bind(self, lane: int, queue: int, exchange: int, key: str, arguments: Arguments) -> None:
        name, source = self.pick_queue(queue), self.pick_exchange(exchange)
        if name and source:
            self.pair.do(lane, lambda channel: channel.bind(name, source, key, arguments))

    @rule(lane=lanes, queue=picks, exchange=picks, number=picks)
    def unbind(self, lane: int, queue: int, exchange: int, number: int) -> None:
        name, source = self.pick_queue(queue), self.pick_exchange(exchange)
        if name and source:
            bindings = [(each.key, each.arguments) for each in self.queues[self.name(name)].incoming]
            key, arguments = bindings[number % len(bindings)] if bindings else ("none", {})
            self.pair.do(lane, lambda channel: channel.unbind(name, source, key, dict(arguments)))

    @rule(lane=lanes, destination=picks, source=picks, key=patterns, is_kept=mostly)
    def bind_exchange(self, lane: int, destination: int, source: int, key: str, is_kept: bool) -> None:
        name, other = self.pick_exchange(destination), self.pick_exchange(source)
        if name and other and is_kept:
            self.pair.do(lane, lambda channel: channel.bind_exchange(name, other, key))
        elif name and other:
            self.pair.do(lane, lambda channel: channel.unbind_exchange(name, other, key))

    @rule(lane=lanes, queue=picks)
    def purge(self, lane: int, queue: int) -> None:
        if name := self.pick_queue(queue):
            self.pair.do(lane, lambda channel: channel.purge(name))

    # --- messages ----------------------------------------------------------------------------------------------------

    def publish(self, lane: int, exchange: str, key: str, properties: dict[str, Any], mandatory: bool) -> None:
        self.published += 1
        body = b"%d" % self.published
        if "priority" in properties and any(queue.is_quorum for queue in self.queues.values()):
            properties = {}  # which quorum queues heed from 4.0 on, and those of the embedded broker refuse
        if properties.get("expiration") == "0" and any(queue.is_quorum for queue in self.queues.values()):
            properties = {}  # a quorum queue's timer sees to them
        headers = dict(properties.get("headers", {}))
        for name in ("CC", "BCC"):
            if name in headers and not exchange:
                headers[name] = [self.name(each) for each in headers[name]]
        if headers:
            properties = {**properties, "headers": headers}
        self.pair.do(lane, lambda channel: channel.publish(body, key, exchange, mandatory=mandatory, **properties))

    @rule(lane=lanes, queue=queues, properties=message_properties, mandatory=st.booleans())
    def publish_to_a_queue(self, lane: int, queue: str, properties: dict[str, Any], mandatory: bool) -> None:
        self.publish(lane, "", queue, properties, mandatory)

    @rule(lane=lanes, queue=picks, properties=message_properties)
    def publish_to_a_queue_that_is_there(self, lane: int, queue: int, properties: dict[str, Any]) -> None:
        if name := self.pick_queue(queue):
            self.publish(lane, "", name, properties, False)

    @rule(lane=lanes, exchange=picks, key=keys, properties=message_properties, mandatory=st.booleans())
    def publish_to_an_exchange(
        self, lane: int, exchange: int, key: str, properties: dict[str, Any], mandatory: bool
    ) -> None:
        if name := self.pick_exchange(exchange):
            self.publish(lane, name, key, properties, mandatory)

    @rule(lane=lanes, queue=picks, no_ack=st.booleans())
    def get(self, lane: int, queue: int, no_ack: bool) -> None:
        if name := self.pick_queue(queue):
            self.pair.get(lane, name, no_ack=no_ack)

    @rule(lane=lanes, queue=picks, tag=consumer_tags, no_ack=rarely, exclusive=rarely, arguments=consumer_arguments)
    def consume(self, lane: int, queue: int, tag: str, no_ack: bool, exclusive: bool, arguments: Arguments) -> None:
        known, name = self.pair.lane(lane), self.pick_queue(queue)
        if name and tag not in known.consumers and not (known.is_limited and known.consumers):
            if self.pair.version == "3.10" and tag in known.used and known.unsettled:
                return  # RabbitMQ crashes where that is a quorum queue's
            known.consumers[tag] = no_ack
            known.used.add(tag)
            fields = {"no_ack": no_ack, "exclusive": exclusive}
            self.pair.do(lane, lambda channel: channel.consume(name, tag, arguments, **fields))

    @rule(lane=lanes, tag=consumer_tags)
    def cancel(self, lane: int, tag: str) -> None:
        known = self.pair.do(lane, lambda channel: channel.cancel(tag))
        known.consumers.pop(tag, None)

    # --- settling ----------------------------------------------------------------------------------------------------

    @rule(lane=lanes, pick=picks, how=outcomes, multiple=st.booleans())
    def settle(self, lane: int, pick: int, how: str, multiple: bool) -> None:
        lanes = [number for number in range(LANES) if self.pair.lane(number).unsettled]
        if not lanes:
            return
        lane = lanes[lane % len(lanes)]
        unsettled = self.pair.lane(lane).unsettled
        chosen = unsettled[pick % len(unsettled)]
        multiple = multiple and not how.startswith("reject") and all(theirs == ours for theirs, ours in unsettled)

        def settle(channel: Channel, tag: int) -> None:
            if how == "ack":
                channel.tell(methods.BasicAck(delivery_tag=tag, multiple=multiple))
            elif how.startswith("reject"):
                channel.tell(methods.BasicReject(delivery_tag=tag, requeue=how == "reject"))
            else:
                channel.tell(methods.BasicNack(delivery_tag=tag, multiple=multiple, requeue=how == "nack"))

        self.pair.settle(lane, chosen, multiple, settle)

    @rule(lane=lanes, count=st.integers(0, 3), for_all=rarely)
    def qos(self, lane: int, count: int, for_all: bool) -> None:
        known = self.pair.lane(lane)
        for_all = for_all and not known.consumers
        known.is_limited = for_all and count > 0
        self.pair.do(lane, lambda channel: channel.qos(count, for_all=for_all))

    @rule(lane=lanes)
    def recover(self, lane: int) -> None:
        self.pair.lane(lane).unsettled.clear()
        self.pair.do(lane, Channel.recover)

    # --- channels and connections ------------------------------------------------------------------------------------

    @rule(lane=lanes, what=modes)
    def have_confirmed_or_transact(self, lane: int, what: str) -> None:
        known = self.pair.lane(lane)
        if known.in_transaction is not None:
            if what == "roll back":
                known.unsettled = sorted(known.unsettled + known.in_transaction)
            known.in_transaction.clear()
            method = methods.TxRollback() if what == "roll back" else methods.TxCommit()
            self.pair.do(lane, lambda channel: channel.request(method))
        elif not known.sides[1].is_confirmed:
            if what == "confirm":
                self.pair.do(lane, Channel.confirm)
            else:
                known.in_transaction = []
                self.pair.do(lane, lambda channel: channel.request(methods.TxSelect()))

    @rule(lane=lanes, queue=queues, exchange=exchanges, what=st.sampled_from(sorted(ENDS)))
    def end_something(self, lane: int, queue: str, exchange: str, what: str) -> None:
        if what in ("close", "cut"):
            self.leave_alone(lane)
            self.pair.end_connection(lane // (LANES // 2), is_cut=what == "cut")
        else:
            self.pair.do(lane, lambda channel: ENDS[what](channel, queue, exchange))

    @rule(lane=lanes, mistake=st.sampled_from(sorted(MISTAKES)), really=rarely)
    def make_a_mistake(self, lane: int, mistake: str, really: bool) -> None:
        if really:
            self.leave_alone(lane)
            self.pair.do(lane, MISTAKES[mistake])

    def leave_alone(self, lane: int) -> None:
        """Close the other channel of the connection, which may end: in which order its channels do is not promised."""
        other = lane + 1 if lane % 2 == 0 else lane - 1
        if self.pair.is_open(other):
            self.pair.do(other, Channel.close)

    # --- what there is -----------------------------------------------------------------------------------------------

    def name(self, name: str) -> str:
        return self.pair.ours.name(name)

    @property
    def queues(self) -> Mapping[str, Any]:
        return self.pair.ours.world.vhosts["/"].queues

    def pick_queue(self, number: int) -> str:
        """One that is there; nothing if there is none."""
        return _pick([each for each in "abcd" if self.name(each) in self.queues], number)

    def pick_exchange(self, number: int) -> str:
        there = self.pair.ours.world.vhosts["/"].exchanges
        return _pick([each for each in "xyz" if self.name(each) in there], number)


def _pick(names: list[str], number: int) -> str:
    return names[number % len(names)] if names else ""


def test_random_sequences(rabbitmq: PrivateNode, version: str) -> None:
    host, port = rabbitmq.url.rpartition("@")[2].partition("/")[0].rsplit(":", 1)

    steps = list[int]()
    differences.clear()

    def start() -> Sequences:
        pair = Pair(host, int(port), version)
        if differences:
            pair.patience = LITTLE_PATIENCE
        return Sequences(pair, steps)

    run_state_machine_as_test(
        hypothesis.seed(SEED)(start),
        settings=settings(
            max_examples=SEQUENCES,
            stateful_step_count=100,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(f"{len(steps)} sequences of {sum(steps)} operations, at most {max(steps)}")
