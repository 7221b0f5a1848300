"""Publishing: where messages go, what is returned, refused and confirmed."""

from __future__ import annotations

from struct import pack

from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.tables import MAX_DEPTH
from tests.broker.conformance.catalogue import case
from tests.broker.conformance.conversation import Channel, Conversation


def with_queues(c: Conversation, *names: str) -> Channel:
    ch = c.channel()
    for name in names:
        ch.declare(name)
    return ch


@case
def to_a_queue_by_its_name(c: Conversation) -> None:
    ch = with_queues(c, "q")
    ch.publish(b"body", content_type="text/plain", headers={"a": 1, "b": [True, None, "x"]}, delivery_mode=2)
    ch.get()
    ch.get()


@case
def an_empty_body(c: Conversation) -> None:
    ch = with_queues(c, "q")
    ch.publish(b"")
    ch.get()


@case
def a_body_of_several_frames(c: Conversation) -> None:
    ch = with_queues(c, "q")
    ch.publish(b"x" * 20000)
    ch.get()


@case
def to_an_unknown_exchange(c: Conversation) -> None:
    ch = c.channel()
    ch.publish(exchange="missing")
    ch.sync()
    ch.publish()


@case
def to_an_internal_exchange(c: Conversation) -> None:
    ch = c.channel()
    ch.exchange("x", "direct", internal=True)
    ch.publish(exchange="x")
    ch.sync()


@case
def immediate(c: Conversation) -> None:
    ch = c.channel()
    ch.publish(immediate=True)
    ch.sync()


@case
def mandatory_and_unroutable(c: Conversation) -> None:
    ch = c.channel()
    ch.publish(b"back", "missing", mandatory=True, message_id="id", headers={"h": 1})
    ch.take()
    ch.publish(b"gone", "missing")
    ch.silent()


@case
def mandatory_confirmed_after_its_return(c: Conversation) -> None:
    ch = with_queues(c, "q")
    ch.confirm()
    ch.publish(b"back", "missing", mandatory=True)
    ch.take()
    ch.publish(b"there", "q", mandatory=True)
    ch.publish(b"gone", "missing")


@case
def an_empty_exchange_and_key(c: Conversation) -> None:
    ch = with_queues(c, "q")
    ch.publish(b"m", "", mandatory=True)
    ch.take()


@case
def expirations_that_are_none(c: Conversation) -> None:
    for expiration in ("abc", "", "10ms", "-1", "+5", "1.5", " 5", "315360000001", "0x10"):
        ch = with_queues(c, "q")
        ch.publish(expiration=expiration)
        ch.sync()
        ch.conversation.say(ch.is_open)


@case
def a_user_id_of_somebody_else(c: Conversation) -> None:
    ch = with_queues(c, "q")
    ch.publish(user_id="guest")
    ch.get()
    ch.publish(user_id="somebody")
    ch.sync()


@case
def doubly_wrong_the_first_check_is_told(c: Conversation) -> None:
    for fields in ({"expiration": "x", "user_id": "somebody"}, {"exchange": "missing", "expiration": "x"}):
        ch = c.channel()
        ch.publish(**fields)  # type: ignore[arg-type]
        ch.sync()


@case
def carbon_copies(c: Conversation) -> None:
    ch = with_queues(c, "q", "copy", "blind")
    ch.publish(b"m", "q", headers={"CC": [c.name("copy")], "BCC": [c.name("blind")], "h": 1})
    for name in ("q", "copy", "blind"):
        ch.get(name)


@case
def carbon_copies_to_the_same_queue(c: Conversation) -> None:
    ch = with_queues(c, "q")
    ch.publish(b"m", "q", headers={"CC": [c.name("q"), c.name("q")]})
    ch.drain()


@case
def carbon_copies_that_are_no_list(c: Conversation) -> None:
    ch = with_queues(c, "q")
    ch.publish(headers={"CC": "q"})
    ch.sync()
    ch = with_queues(c, "q2")
    ch.publish(headers={"BCC": 5})
    ch.sync()


@case
def direct_exchange(c: Conversation) -> None:
    ch = with_queues(c, "a", "b")
    ch.exchange()
    ch.bind("a", "x", "1")
    ch.bind("b", "x", "1")
    ch.bind("b", "x", "2")
    for key in ("1", "2", "3"):
        ch.publish(key.encode(), key, "x")
    ch.drain("a")
    ch.drain("b")


@case
def bound_twice_delivered_once(c: Conversation) -> None:
    ch = with_queues(c, "q")
    ch.exchange("x", "topic")
    for key in ("a.*", "a.#", "*.b", "a.b"):
        ch.bind("q", "x", key)
    ch.publish(b"m", "a.b", "x")
    ch.drain()


@case
def the_same_binding_with_other_arguments(c: Conversation) -> None:
    ch = with_queues(c, "q")
    ch.exchange()
    ch.bind("q", "x", "k", {"a": 1})
    ch.bind("q", "x", "k", {"a": 2})
    ch.unbind("q", "x", "k", {"a": 1})
    ch.publish(b"m", "k", "x")
    ch.drain()


@case
def fanout_exchange(c: Conversation) -> None:
    ch = with_queues(c, "a", "b")
    ch.exchange("x", "fanout")
    ch.bind("a", "x", "1")
    ch.bind("b", "x", "2")
    ch.publish(b"m", "whatever", "x")
    ch.drain("a")
    ch.drain("b")


TOPIC_KEYS = ("", ".", "a", "a.", ".a", "a.b", "a..b", "a.b.c", "b.a", "#", "*", "a.*", "a.#.b", "a.a.b.b", "a.x.y.b")


def topic(c: Conversation, pattern: str) -> None:
    ch = with_queues(c, "q")
    ch.exchange("x", "topic")
    ch.bind("q", "x", pattern)
    for key in TOPIC_KEYS:
        ch.publish(key.encode(), key, "x")
    ch.drain()


@case
def topic_any(c: Conversation) -> None:
    topic(c, "#")


@case
def topic_nothing(c: Conversation) -> None:
    topic(c, "")


@case
def topic_one_word(c: Conversation) -> None:
    topic(c, "*")


@case
def topic_two_words(c: Conversation) -> None:
    topic(c, "*.*")


@case
def topic_three_words(c: Conversation) -> None:
    topic(c, "*.*.*")


@case
def topic_beginning(c: Conversation) -> None:
    topic(c, "a.#")


@case
def topic_end(c: Conversation) -> None:
    topic(c, "#.b")


@case
def topic_both_ends(c: Conversation) -> None:
    topic(c, "a.#.b")


@case
def topic_somewhere(c: Conversation) -> None:
    topic(c, "#.a.#")


@case
def topic_mixed(c: Conversation) -> None:
    topic(c, "#.*")


@case
def topic_exact(c: Conversation) -> None:
    topic(c, "a..b")


@case
def topic_unbound(c: Conversation) -> None:
    ch = with_queues(c, "q")
    ch.exchange("x", "topic")
    ch.bind("q", "x", "a.#")
    ch.bind("q", "x", "a.#.b")
    ch.unbind("q", "x", "a.#")
    for key in TOPIC_KEYS:
        ch.publish(key.encode(), key, "x")
    ch.drain()


HEADERS: tuple[dict[str, object], ...] = (
    {},
    {"a": 1},
    {"a": "1"},
    {"a": True},
    {"a": 1.0},
    {"b": "two"},
    {"a": 1, "b": "two"},
    {"a": 1, "b": "other"},
    {"a": None},
    {"x-a": 1},
    {"x-a": 2, "a": 1, "b": "two"},
    {"x-a": 1, "a": 1, "b": "two", "c": []},
)


def headers(c: Conversation, arguments: dict[str, object]) -> None:
    ch = with_queues(c, "q")
    ch.exchange("x", "headers")
    ch.bind("q", "x", "", arguments)
    for index, each in enumerate(HEADERS):
        ch.publish(str(index).encode(), "", "x", headers=each)
    ch.publish(b"none", "", "x")
    ch.drain()


@case
def headers_all_by_default(c: Conversation) -> None:
    headers(c, {"a": 1, "b": "two"})


@case
def headers_all(c: Conversation) -> None:
    headers(c, {"x-match": "all", "a": 1})


@case
def headers_any(c: Conversation) -> None:
    headers(c, {"x-match": "any", "a": 1, "b": "two"})


@case
def headers_all_of_nothing(c: Conversation) -> None:
    headers(c, {"x-match": "all"})


@case
def headers_any_of_nothing(c: Conversation) -> None:
    headers(c, {"x-match": "any"})


@case
def headers_presence(c: Conversation) -> None:
    headers(c, {"a": None})


@case
def headers_with_x_ignored(c: Conversation) -> None:
    headers(c, {"x-match": "all", "x-a": 1, "a": 1})


@case
def headers_all_with_x(c: Conversation) -> None:
    headers(c, {"x-match": "all-with-x", "x-a": 1, "a": 1})


@case
def headers_any_with_x(c: Conversation) -> None:
    headers(c, {"x-match": "any-with-x", "x-a": 1, "b": "two"})


@case
def from_exchange_to_exchange(c: Conversation) -> None:
    ch = with_queues(c, "q")
    ch.exchange("first", "fanout")
    ch.exchange("second", "topic")
    ch.bind_exchange("second", "first")
    ch.bind("q", "second", "a.*")
    ch.bind("q", "first", "")
    ch.publish(b"1", "a.b", "first")
    ch.publish(b"2", "b", "first")
    ch.unbind_exchange("second", "first")
    ch.unbind("q", "first", "")
    ch.publish(b"3", "a.b", "first")
    ch.drain()


@case
def exchanges_in_a_circle(c: Conversation) -> None:
    ch = with_queues(c, "q")
    for name in ("first", "second"):
        ch.exchange(name, "fanout")
    ch.bind_exchange("second", "first")
    ch.bind_exchange("first", "second")
    ch.bind_exchange("first", "first")
    ch.bind("q", "second")
    ch.publish(b"m", "", "first")
    ch.drain()


@case
def the_alternate_exchange(c: Conversation) -> None:
    ch = with_queues(c, "q", "rest")
    ch.exchange("other", "fanout")
    ch.exchange("x", "direct", {"alternate-exchange": "other"})
    ch.bind("rest", "other")
    ch.bind("q", "x", "k")
    ch.confirm()
    ch.publish(b"1", "k", "x", mandatory=True)
    ch.publish(b"2", "else", "x", mandatory=True)
    ch.drain("q")
    ch.drain("rest")


@case
def a_chain_of_alternate_exchanges(c: Conversation) -> None:
    ch = with_queues(c, "q")
    ch.exchange("x", "direct", {"alternate-exchange": "y"})
    ch.exchange("y", "direct", {"alternate-exchange": "z"})
    ch.exchange("z", "direct", {"alternate-exchange": "x"})
    ch.bind("q", "z", "k")
    ch.publish(b"1", "k", "x", mandatory=True)
    ch.publish(b"2", "else", "x", mandatory=True)
    ch.take()
    ch.drain()


@case
def an_alternate_exchange_that_is_missing(c: Conversation) -> None:
    ch = c.channel()
    ch.exchange("x", "direct", {"alternate-exchange": "missing"})
    ch.publish(b"1", "k", "x", mandatory=True)
    ch.take()


@case
def confirms_of_many(c: Conversation) -> None:
    ch = with_queues(c, "q")
    ch.confirm()
    ch.confirm()
    ch._confirms = 1
    ch.publish_all([b"1", b"2", b"3"])
    ch.drain()


@case
def transactions_and_confirms_exclude_each_other(c: Conversation) -> None:
    ch = c.channel()
    ch.confirm()
    ch.request(methods.TxSelect())
    ch = c.channel()
    ch.request(methods.TxSelect())
    ch.confirm()


@case
def commit_and_rollback_without_a_transaction(c: Conversation) -> None:
    c.channel().request(methods.TxCommit())
    c.channel().request(methods.TxRollback())


@case
def a_transaction_is_committed(c: Conversation) -> None:
    ch = with_queues(c, "q")
    ch.request(methods.TxSelect())
    ch.publish(b"1")
    ch.publish(b"back", "missing", mandatory=True)
    ch.get()
    ch.request(methods.TxCommit())
    ch.take()
    ch.drain()


@case
def a_transaction_is_rolled_back(c: Conversation) -> None:
    ch = with_queues(c, "q")
    ch.publish(b"before")
    ch.request(methods.TxSelect())
    ch.publish(b"1")
    tag = ch.get()
    ch.ack(tag)
    ch.request(methods.TxRollback())
    ch.ack(tag)
    ch.request(methods.TxCommit())
    ch.ack(tag)


@case
def a_transaction_is_left_open(c: Conversation) -> None:
    ch = c.channel()
    ch.durable()
    ch.publish(b"before")
    ch.request(methods.TxSelect())
    ch.publish(b"1")
    ch.ack(ch.get())
    ch.close()
    other = c.channel()
    other.count()
    other.drain()


@case
def a_mistake_in_a_transaction_is_told_at_once(c: Conversation) -> None:
    ch = c.channel()
    ch.request(methods.TxSelect())
    ch.publish(b"1", "k", "missing")
    ch.sync()


def with_octets(c: Conversation, octets: bytes) -> None:
    """A message whose properties are these octets."""
    ch = with_queues(c, "q")
    ch.tell(methods.BasicPublish(routing_key=c.name("q")))
    ch.connection.send_frame(2, 1, pack(">HHQ", 60, 0, 1) + octets)
    ch.connection.send_frame(3, 1, b"m")
    ch.connection.read_for(0.3)
    if not ch.connection.is_over and ch.is_open:
        ch.conversation.say(ch.request(methods.BasicGet(queue=c.name("q")), quiet=True))


@case
def headers_of_an_unknown_type(c: Conversation) -> None:
    with_octets(c, b"\x20\x00" + pack(">I", 4) + b"\x01a?x")


@case
def headers_that_end_too_soon(c: Conversation) -> None:
    with_octets(c, b"\x20\x00" + pack(">I", 40) + b"\x01aS")


@case
def properties_that_end_too_soon(c: Conversation) -> None:
    with_octets(c, b"\x80\x00\x20abc")


@case
def octets_behind_the_properties(c: Conversation) -> None:
    with_octets(c, b"\x10\x00\x02xyz")


@case
def a_text_that_is_not_utf_8(c: Conversation) -> None:
    with_octets(c, b"\x80\x00\x02\xff\xfe")


@case
def a_routing_key_that_is_not_utf_8(c: Conversation) -> None:
    ch = with_queues(c, "q")
    ch.bind("q", "amq.fanout")
    ch.publish(b"m", "\udcff\udcfe", "amq.fanout")
    ch.get()


@case
def a_queue_name_that_is_not_utf_8(c: Conversation) -> None:
    ch = c.channel()
    ch.connection.send_frame(1, 1, pack(">HHH", 50, 10, 0) + b"\x02\xff\xfe\x02" + pack(">I", 0))
    ch.connection.read_for(0.5)


@case
def nothing_but_bcc_in_the_headers(c: Conversation) -> None:
    ch = with_queues(c, "q")
    ch.publish(b"1", headers={"BCC": []})
    ch.publish(b"2", headers={"BCC": [c.name("q")]})
    ch.drain()


@case
def a_transaction_whose_queue_is_deleted(c: Conversation) -> None:
    ch = with_queues(c, "q")
    ch.request(methods.TxSelect())
    ch.publish(b"1", mandatory=True)
    ch.delete()
    ch.request(methods.TxCommit())
    ch.silent()


@case
def a_transaction_one_of_whose_queues_is_deleted(c: Conversation) -> None:
    ch = with_queues(c, "q", "r")
    ch.bind("q", "amq.fanout")
    ch.request(methods.TxSelect())
    ch.publish(b"1", "q", headers={"CC": [c.name("r")]})
    ch.delete()
    ch.request(methods.TxCommit())
    c.pause()
    ch.get("r")


@case
def a_transaction_whose_queue_is_full(c: Conversation) -> None:
    ch = c.channel()
    ch.declare(arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    ch.request(methods.TxSelect())
    ch.publish(b"1")
    ch.publish(b"2")
    ch.request(methods.TxCommit())
    c.channel().request(methods.TxSelect())
    ch.get()


@case
def a_transaction_routes_when_something_is_published(c: Conversation) -> None:
    ch = with_queues(c, "q")
    ch.exchange("x", "fanout")
    ch.request(methods.TxSelect())
    ch.publish(b"early", "k", "x", mandatory=True)
    ch.bind("q", "x")
    ch.publish(b"bound", "k", "x", mandatory=True)
    ch.unbind("q", "x")
    ch.request(methods.TxCommit())
    ch.take()
    ch.drain()


@case
def a_transaction_whose_exchange_is_deleted(c: Conversation) -> None:
    ch = with_queues(c, "q")
    ch.exchange("x", "fanout")
    ch.bind("q", "x")
    ch.request(methods.TxSelect())
    ch.publish(b"1", "k", "x")
    ch.delete_exchange("x")
    ch.request(methods.TxCommit())
    ch.drain()


def deep_headers() -> bytes:
    """Properties whose headers are deeper than is decoded here."""
    table = b"\0\0\0\0"
    for _ in range(MAX_DEPTH):
        table = b"\x01hF" + table
        table = len(table).to_bytes(4, "big") + table
    return b"\x20\0" + table


@case
def headers_that_are_deep_are_passed_on(c: Conversation) -> None:
    ch = with_queues(c, "q")
    ch.send_content(methods.BasicPublish(routing_key=c.name("q")), deep_headers(), b"m")
    ch.drain()


@case
def headers_that_are_deep_and_a_delivery_that_fails(c: Conversation) -> None:
    ch = c.channel()
    ch.quorum()
    ch.confirm()
    ch.send_content(methods.BasicPublish(routing_key=c.name("q")), deep_headers(), b"m")
    ch.connection.wait(lambda: 1 in ch.settled)
    ch.reject(ch.get())
    c.pause()
    ch.drain()


@case
def headers_that_are_deep_and_a_death(c: Conversation) -> None:
    ch = with_queues(c, "dead")
    ch.declare("q", {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": c.name("dead")})
    ch.send_content(methods.BasicPublish(routing_key=c.name("q")), deep_headers(), b"m")
    ch.reject(ch.get(), requeue=False)
    c.pause()
    ch.drain("dead")
