"""Which publish a channel was ended for: each row of the table against a real broker, and what may not be told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import rabbitry
import rabbitry.blocking
from rabbitry import ChannelClosed, Message
from rabbitry._channel.channel import life_of
from rabbitry._channel.confirmation import Confirmation
from rabbitry._values.culprit import find_culprit, is_like_refused
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.properties import Properties, encode_properties
from rabbitry.testing import PrivateNode
from tests.support.helpers import open_channel

LIMIT = 10_000


@pytest.fixture(scope="module")
def strict_node() -> Iterator[PrivateNode]:
    """Takes 10,000 bytes a message, and has a user who may publish to some exchanges only."""
    with PrivateNode(settings={"max_message_size": LIMIT}) as node:
        node.rabbitmqctl("add_user", "bob", "bob")
        node.rabbitmqctl("set_permissions", "-p", "/", "bob", ".*", "^topics$", ".*")
        node.rabbitmqctl("add_user", "carol", "carol")
        node.rabbitmqctl("set_permissions", "-p", "/", "carol", ".*", "^amq\\.topic$", ".*")
        with rabbitry.blocking.connect(node.url) as connection, connection.channel() as channel:
            channel.declare_exchange("topics", "topic")
        node.rabbitmqctl("set_topic_permissions", "-p", "/", "bob", "topics", "^a\\.", ".*")
        yield node


def encoded(**properties: Any) -> Message:
    """A message with properties that `Message` refuses."""
    message = Message(b"x")
    object.__setattr__(message, "_encoded", encode_properties(Properties(**properties)))
    return message


REFUSED: dict[str, tuple[int, Message | bytes | bytearray, str, str]] = {
    "size": (406, bytes(LIMIT + 1), "", "q"),
    "size of a mutable body": (406, bytearray(LIMIT + 1), "", "q"),
    "size of a message": (406, Message(bytes(LIMIT + 7), user_id="guest"), "", "q"),
    "user": (406, Message(b"x", user_id="mallory"), "", "q"),
    "user with odd letters": (406, Message(b"x", user_id="mäll'ory"), "", "q"),
    "user whose name fills the text": (406, Message(b"x", user_id="m" * 255), "", "q"),
    "nobody": (406, Message(b"x", user_id=""), "", "q"),
    "expiration": (406, encoded(expiration="5 s"), "", "q"),
    "exchange": (404, b"x", "missing", "q"),
    "exchange with odd letters": (404, b"x", "it's\na missing öne", "q"),
    "exchange whose name fills the text": (404, b"x", "m" * 255, "q"),
    "internal exchange": (403, b"x", "internal", "q"),
    "CC": (406, Message(b"x", headers={"CC": "q"}), "", "q"),
    "BCC": (406, Message(b"x", headers={"CC": ["q"], "BCC": {"a": 1}}), "", "q"),
    "direct reply-to without its consumer": (406, Message(b"x", reply_to="amq.rabbitmq.reply-to"), "", "q"),
}
INNOCENT = (
    b"x",
    Message(b"x", user_id="guest", expiration=60, headers={"CC": ["q"], "BCC": []}),
    Message(bytes(LIMIT), reply_to="somewhere"),
)


async def check_refused(
    channel: rabbitry.Channel, code: int, message: Any, exchange: str, routing_key: str, innocent: tuple[str, str]
) -> None:
    """Published amid others, the culprit is named, those before it are not certain, those behind it are."""
    await channel.publish(b"x", exchange=innocent[0], routing_key=innocent[1])
    confirmations = [channel.publish_nowait(each, exchange=innocent[0], routing_key=innocent[1]) for each in INNOCENT]
    confirmations.append(channel.publish_nowait(message, exchange=exchange, routing_key=routing_key))
    confirmations += [channel.publish_nowait(each, exchange=innocent[0], routing_key=innocent[1]) for each in INNOCENT]
    confirmations.append(channel.publish_nowait(message, exchange=exchange, routing_key=routing_key))
    failures: list[rabbitry.PublishFailed | None] = []
    for confirmation in confirmations:
        assert confirmation is not None
        try:
            await confirmation.wait()
        except rabbitry.PublishFailed as failure:
            failures.append(failure)
        else:
            failures.append(None)
    before, culprit, after = failures[:3], failures[3], failures[4:]
    assert all(failure is None or type(failure) is rabbitry.OutcomeUnknown for failure in before)
    assert type(culprit) is rabbitry.Refused and culprit.code == code and culprit.message is message
    assert isinstance(culprit.__cause__, ChannelClosed) and culprit.__cause__.text == culprit.text
    assert [type(failure) for failure in after] == [rabbitry.NotSent] * 4
    assert [is_like_refused(failure, failure.__cause__) for failure in after if failure] == [False] * 3 + [True]


@pytest.mark.parametrize("name", REFUSED)
async def test_what_rabbitmq_refuses(strict_node: PrivateNode, name: str) -> None:
    code, message, exchange, routing_key = REFUSED[name]
    async with open_channel(strict_node.url) as channel:
        internal = methods.ExchangeDeclare(exchange="internal", type="fanout", internal=True, auto_delete=True)
        await life_of(channel).call(internal)
        await check_refused(channel, code, message, exchange, routing_key, ("", "q"))


async def test_a_delivery_mode_that_there_is_not(strict_node: PrivateNode, broker_version: tuple[int, ...]) -> None:
    if broker_version >= (4,):
        pytest.skip("RabbitMQ 4 takes any")
    async with open_channel(strict_node.url) as channel:
        await check_refused(channel, 406, encoded(delivery_mode=7), "", "q", ("", "q"))


@pytest.mark.parametrize(
    ("exchange", "routing_key"),
    [("other", "q"), ("ändere", "q"), ("topics", "b.it's"), ("topics", "k" * 255)],
)
async def test_what_a_user_may_not(strict_node: PrivateNode, exchange: str, routing_key: str) -> None:
    url = strict_node.url.replace("guest:guest", "bob:bob")
    async with open_channel(url) as channel:
        await channel.publish(Message(b"x", user_id="bob"), exchange="topics", routing_key="a.b")
        before = channel.publish_nowait(b"x", exchange="topics", routing_key="a.b")
        culprit = channel.publish_nowait(b"x", exchange=exchange, routing_key=routing_key)
        after = channel.publish_nowait(b"x", exchange="topics", routing_key="a.b")
        assert before and culprit and after
        with pytest.raises(rabbitry.Refused, match="403 ACCESS_REFUSED"):
            await culprit.wait()
        assert before.outcome in ("confirmed", "unknown") and after.outcome == "unsent"


async def test_a_user_who_may_not_publish_to_the_default_exchange(strict_node: PrivateNode) -> None:
    async with open_channel(strict_node.url.replace("guest:guest", "carol:carol")) as channel:
        with pytest.raises(rabbitry.Refused, match=r"amq\.default"):
            await channel.publish(b"x", routing_key="q")


async def test_keys_in_headers_need_permission_too(strict_node: PrivateNode, broker_version: tuple[int, ...]) -> None:
    message = Message(b"x", headers={"CC": ["a.c", "b.c"]})
    async with open_channel(strict_node.url.replace("guest:guest", "bob:bob")) as channel:
        if broker_version < (4,):
            await channel.publish(message, exchange="topics", routing_key="a.b")
        else:
            with pytest.raises(rabbitry.Refused, match=r"b\.c"):
                await channel.publish(message, exchange="topics", routing_key="a.b")


# --- what is judged without a broker ----------------------------------------------------------------------------------


def closed(text: str, code: int = 406, method: str = "basic.publish") -> ChannelClosed:
    return ChannelClosed(text, code=code, method=method)


def published(message: Message | bytes = b"x", exchange: str = "", routing_key: str = "q") -> Confirmation:
    return Confirmation(message, exchange, routing_key)


def test_the_first_that_fits_is_the_culprit() -> None:
    end = closed("PRECONDITION_FAILED - message size 3 is larger than configured max size 2")
    assert find_culprit([published(b"1"), published(b"123"), published(b"123")], end) == 1
    assert find_culprit([published(b"1"), published(b"1234")], end) is None  # it would have said another size
    assert [is_like_refused(published(bytes(size)), end) for size in (2, 3, 4)] == [False, True, True]
    end = closed("PRECONDITION_FAILED - user_id property set to 'a' but authenticated user was 'me'")
    users = [published(), *(published(Message(b"", user_id=user)) for user in ("me", "b", "a"))]
    assert find_culprit(users, end) == 3
    assert [is_like_refused(user, end) for user in users] == [False, False, True, True]


@pytest.mark.parametrize(
    "end",
    [
        closed("NOT_FOUND - no exchange 'x' in vhost '/'", 404, "queue.bind"),
        closed("PRECONDITION_FAILED - no exchange 'x' in vhost '/'"),
        closed("NOT_FOUND - no exchange 'xy' in vhost '/'", 404),
        closed("NOT_FOUND - no queue 'x' in vhost '/'", 404),
        closed("PRECONDITION_FAILED - unknown delivery tag 7", method="basic.ack"),
        closed("INTERNAL_ERROR", 541, ""),
        closed(""),
        closed("the channel was closed by this program", 0, ""),
        rabbitry.ConnectionClosed("CONNECTION_FORCED - bye", code=320),
        rabbitry.NotConnected("no exchange 'x' in vhost '/'"),
        None,
    ],
)
def test_where_nothing_fits_nobody_is_named(end: rabbitry.RabbitryError | None) -> None:
    assert find_culprit([published(exchange="x"), published(exchange="y")], end) is None
    assert not is_like_refused(published(exchange="x"), end)


def test_a_text_cut_short_names_one_only_if_it_can_be_no_other() -> None:
    names = ["m" * 250, "m" * 255, "x"]
    text = f"NOT_FOUND - no exchange '{names[1]}' in vhost '/'"
    end = closed(text[:252] + "...", 404)
    assert find_culprit([published(exchange="x"), published(exchange=names[1])], end) == 1
    assert find_culprit([published(exchange=name) for name in names], end) is None
    assert find_culprit([published(exchange=names[1])] * 2, end) == 0
    # cut within a character, as RabbitMQ 3 does
    octets = f"NOT_FOUND - no exchange '{'€' * 85}' in vhost '/'".encode()[:252]
    end = closed(octets.decode("utf-8", "surrogateescape") + "...", 404)
    assert find_culprit([published(), published(exchange="€" * 85)], end) == 1


def test_a_connection_closed_over_a_publish() -> None:
    text = "PRECONDITION_FAILED - message size 3 is larger than max size 2"
    end = rabbitry.ConnectionClosed(text, code=406, method="basic.publish")
    assert find_culprit([published(b"1"), published(b"123")], end) == 1
