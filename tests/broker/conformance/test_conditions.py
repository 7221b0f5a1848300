"""What a broker does on a condition of its own, compared as the cases are: alarms, deliveries that are held too long,
dead letters that are sent again.

RabbitMQ is brought into each condition for one test, and out of it again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
from anyio.from_thread import start_blocking_portal

from rabbitry.broker import Broker
from rabbitry.protocol.wire import methods
from rabbitry.testing import PrivateNode
from tests.broker.conformance.cases_discards import buried, careful, crowded, lose
from tests.broker.conformance.conversation import Case, Connection, Conversation, transcript

TIMEOUT = 0.5
"""Seconds for which a delivery may be held."""


@pytest.fixture(scope="module")
def impatient(rabbitmq: PrivateNode) -> Iterator[PrivateNode]:
    """RabbitMQ, which gives up on consumers soon, and looks often."""
    rabbitmq.rabbitmqctl(
        "eval",
        f"application:set_env(rabbit, consumer_timeout, {round(TIMEOUT * 1000)}), "
        "application:set_env(rabbit, channel_tick_interval, 100).",
    )
    yield rabbitmq
    rabbitmq.rabbitmqctl(
        "eval",
        "application:set_env(rabbit, consumer_timeout, 1800000), "
        "application:set_env(rabbit, channel_tick_interval, 60000).",
    )


@contextmanager
def embedded_broker(version: str, **options: float) -> Iterator[str]:
    with start_blocking_portal() as portal:
        broker = Broker(compat=version, **options)  # type: ignore[arg-type]
        with portal.wrap_async_context_manager(broker):
            portal.call(broker.listen)
            yield broker.url


def held_from_a_classic_queue(c: Conversation) -> None:
    held(c, "classic")


def held_from_a_quorum_queue(c: Conversation) -> None:
    held(c, "quorum")


def held_by_who_knows_no_cancel(c: Conversation) -> None:
    held(c, "quorum", capabilities={})


def got_and_held(c: Conversation) -> None:
    ch = c.channel()
    ch.durable()
    ch.confirm()
    ch.publish(b"m")
    ch.get()
    ch.connection.wait(lambda: not ch.is_open, 4 * TIMEOUT)
    c.channel().drain()


def settled_in_time(c: Conversation) -> None:
    ch = c.channel()
    ch.durable()
    ch.confirm()
    ch.consume()
    ch.publish(b"m")
    ch.take()
    ch.ack(1)
    ch.silent(3 * TIMEOUT)


def held(c: Conversation, kind: str, capabilities: dict[str, object] | None = None) -> None:
    connection = c.connect(capabilities=capabilities)
    ch = connection.channel()
    ch.declare(arguments={"x-queue-type": kind}, durable=True)
    ch.confirm()
    ch.publish(b"m")
    ch.consume()
    ch.take()
    connection.wait(lambda: not ch.is_open or bool(ch.line), 4 * TIMEOUT)
    if ch.is_open and ch.line:
        ch.take()
        ch.ack(1)
    c.say("open" if ch.is_open else "closed")
    if kind == "quorum" or not ch.is_open:
        c.pause()
        c.channel().drain()


CASES = (
    held_from_a_classic_queue,
    held_from_a_quorum_queue,
    held_by_who_knows_no_cancel,
    got_and_held,
    settled_in_time,
)


@pytest.mark.parametrize("case", CASES)
def test_a_delivery_held_too_long(case: Case, impatient: PrivateNode, version: str) -> None:
    theirs = transcript(case, impatient.url)
    with embedded_broker(version, consumer_timeout=TIMEOUT) as url:
        ours = transcript(case, url, is_embedded=True)
    assert ours == theirs


# --- dead letters that must not be lost ------------------------------------------------------------------------------

RESENDING = 0.4
"""Seconds until they are sent again."""


@pytest.fixture
def resending(rabbitmq: PrivateNode, monkeypatch: pytest.MonkeyPatch) -> Iterator[PrivateNode]:
    """Both brokers, which send them again soon: from queues that are declared now."""
    setting = "application:set_env(rabbit, dead_letter_worker_publisher_confirm_timeout, {})."
    monkeypatch.setattr("rabbitry.broker.burials.RETRY_SECONDS", RESENDING)
    rabbitmq.rabbitmqctl("eval", setting.format(round(RESENDING * 1000)))
    yield rabbitmq
    rabbitmq.rabbitmqctl("eval", setting.format(180_000))


def kept_until_there_is_an_exchange(c: Conversation) -> None:
    ch = careful(c, x_max_length=1)
    lose(ch, b"1")
    lose(ch, b"2")
    ch.publish(b"full")
    buried(ch)
    ch.take(2)
    c.pause()
    ch.publish(b"room")
    ch.count()


def kept_until_there_is_room(c: Conversation) -> None:
    ch = careful(c)
    ch.exchange("dlx", "fanout")
    ch.quorum("dead", {"x-max-length": 1, "x-overflow": "reject-publish"})
    ch.bind("dead", "dlx")
    for body in (b"1", b"2"):
        ch.publish(body, "dead")
        c.pause()
    lose(ch, b"late")
    ch.count("dead")
    ch.consume("dead", no_ack=True)
    ch.take(3)


def kept_until_the_second_has_room(c: Conversation) -> None:
    ch = careful(c)
    buried(ch)
    ch.declare("small", {"x-max-length": 0, "x-overflow": "reject-publish"})
    ch.bind("small", "dlx")
    lose(ch, b"m")
    ch.take()
    ch.silent(1.5 * RESENDING)  # who has it does not get it again
    ch.unbind("small", "dlx")
    ch.silent(1.5 * RESENDING)


def kept_until_those_ahead_have_a_queue(c: Conversation) -> None:
    ch = careful(c)
    ch.exchange("dlx", durable=True)
    ch.declare("dead")
    ch.bind("dead", "dlx", "known")
    ch.consume("dead", "dead", no_ack=True)
    crowded(ch, 40)
    ch.silent(1.5 * RESENDING)
    ch.bind("dead", "dlx", "nowhere")
    ch.take(41)


@pytest.mark.parametrize(
    "case",
    [
        kept_until_there_is_an_exchange,
        kept_until_there_is_room,
        kept_until_the_second_has_room,
        kept_until_those_ahead_have_a_queue,
    ],
)
def test_dead_letters_are_sent_again(case: Case, resending: PrivateNode, embedded: str) -> None:
    theirs = transcript(case, resending.url)
    assert transcript(case, embedded, is_embedded=True) == theirs


# --- alarms ----------------------------------------------------------------------------------------------------------


class Alarm(NamedTuple):
    """Raises and clears the alarm of memory at one broker or the other."""

    raised: Callable[[], object]
    cleared: Callable[[], object]


def tell(connection: Connection) -> None:
    """What came on channel 0 since the handshake."""
    for method in connection.zero[3:]:
        fields = {field.name: getattr(method, field.name) for field in method.fields}
        connection.conversation.say(method.name, fields)
    del connection.zero[3:]


def publish_while_alarmed(c: Conversation, alarm: Alarm, capabilities: dict[str, object]) -> None:
    connection = c.connect(capabilities=capabilities)
    ch = connection.channel()
    ch.declare()
    ch.confirm()
    ch.publish(b"ahead")
    alarm.raised()
    try:
        c.say("others go on")
        ch.request(methods.QueueDeclare(queue=c.name("q"), passive=True))
        tell(connection)
        c.say("publishers wait")
        ch.content(methods.BasicPublish(routing_key=c.name("q")), b"1")
        ch.content(methods.BasicPublish(routing_key=c.name("q")), b"2")
        connection.read_for(0.3)
        tell(connection)
        c.say(sorted(ch.settled))
    finally:
        alarm.cleared()
    c.say("and go on")
    connection.wait(lambda: 3 in ch.settled)
    tell(connection)
    c.say(sorted(ch.settled))
    ch.drain()


@pytest.mark.parametrize("is_told", [True, False])
def test_an_alarm(is_told: bool, rabbitmq: PrivateNode, version: str) -> None:
    capabilities: dict[str, object] = {"connection.blocked": is_told}

    def high(mark: str) -> None:
        rabbitmq.rabbitmqctl("set_vm_memory_high_watermark", mark)
        time.sleep(0.2)  # connections are told a little later

    theirs = transcript(
        lambda c: publish_while_alarmed(c, Alarm(lambda: high("0.000001"), lambda: high("0.6")), capabilities),
        rabbitmq.url,
    )
    with start_blocking_portal() as portal:
        broker = Broker(compat=version)  # type: ignore[arg-type]
        with portal.wrap_async_context_manager(broker):
            portal.call(broker.listen)
            alarm = Alarm(lambda: portal.call(broker.raise_alarm), lambda: portal.call(broker.clear_alarm))
            ours = transcript(lambda c: publish_while_alarmed(c, alarm, capabilities), broker.url, is_embedded=True)
    assert ours == theirs
