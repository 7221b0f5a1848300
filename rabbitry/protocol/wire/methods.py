"""Every method of AMQP 0-9-1 as RabbitMQ extends it, one row each: specification, codec and documentation at once.

What must stay true: a row's annotations are the method's fields in wire order, and nothing else describes them. Fields
that RabbitMQ ignores keep their place and have defaults, so nobody passes them. Knows nothing of states: which method
is legal when, and what it does, is the business of `connection` and `channel`.

Names are the specification's, without hyphens, but for those that Python or this module needs: `global_`, and
`failing_class_id`, `failing_method_id` (a method has a class id of its own).
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError

from rabbitry._errors import RemoteProtocolError
from rabbitry.protocol.wire.codec import (
    NO_TABLE,
    Bit,
    Long,
    LongLong,
    LongStr,
    Method,
    Octet,
    Route,
    Secret,
    Short,
    ShortStr,
    Table,
    method,
)
from rabbitry.protocol.wire.constants import FRAME_METHOD, NOT_IMPLEMENTED, SYNTAX_ERROR

__all__ = ["METHODS", "Method", "decode_method", "encode_method_frame", "method_name"]

# --- connection (specification 1.4) --------------------------------------------------------------------------------


@method(10, 10, replies=("ConnectionStartOk",))
class ConnectionStart(Method):
    """The broker offers its protocol version, authentication mechanisms and locales (the two separated by spaces)."""

    version_major: Octet = 0
    version_minor: Octet = 9
    server_properties: Table = NO_TABLE
    mechanisms: LongStr = b"PLAIN"
    locales: LongStr = b"en_US"


@method(10, 11)
class ConnectionStartOk(Method):
    """The client chooses a mechanism and gives its first response."""

    client_properties: Table = NO_TABLE
    mechanism: ShortStr = "PLAIN"
    response: Secret
    locale: ShortStr = "en_US"


@method(10, 20, replies=("ConnectionSecureOk",))
class ConnectionSecure(Method):
    """The broker asks for more, if the mechanism has further steps."""

    challenge: LongStr


@method(10, 21)
class ConnectionSecureOk(Method):
    """The client answers the challenge."""

    response: Secret


@method(10, 30, replies=("ConnectionTuneOk",))
class ConnectionTune(Method):
    """The broker proposes limits; 0 is no limit, a `heartbeat` of 0 seconds none."""

    channel_max: Short = 0
    frame_max: Long = 0
    heartbeat: Short = 0


@method(10, 31)
class ConnectionTuneOk(Method):
    """The client settles the limits, at most those proposed."""

    channel_max: Short = 0
    frame_max: Long = 0
    heartbeat: Short = 0


@method(10, 40, replies=("ConnectionOpenOk",))
class ConnectionOpen(Method):
    """The client enters a virtual host."""

    virtual_host: ShortStr = "/"
    capabilities: ShortStr = ""  # ignored
    insist: Bit = False  # ignored


@method(10, 41)
class ConnectionOpenOk(Method):
    """The connection is open."""

    known_hosts: ShortStr = ""  # always empty


@method(10, 50, replies=("ConnectionCloseOk",))
class ConnectionClose(Method):
    """Either side ends the connection. The ids are those of the method that caused it, 0 if none did."""

    reply_code: Short
    reply_text: ShortStr = ""
    failing_class_id: Short = 0
    failing_method_id: Short = 0


@method(10, 51)
class ConnectionCloseOk(Method):
    """The last word on a connection."""


@method(10, 60)
class ConnectionBlocked(Method):
    """RabbitMQ: the broker has stopped reading from this connection, because of an alarm of memory or disk."""

    reason: ShortStr = ""


@method(10, 61)
class ConnectionUnblocked(Method):
    """RabbitMQ: the alarm is over."""


@method(10, 70, replies=("ConnectionUpdateSecretOk",))
class ConnectionUpdateSecret(Method):
    """RabbitMQ: the client renews the token it authenticated with."""

    new_secret: Secret
    reason: ShortStr = ""


@method(10, 71)
class ConnectionUpdateSecretOk(Method):
    """RabbitMQ: the new token is accepted."""


# --- channel (specification 1.5) -----------------------------------------------------------------------------------


@method(20, 10, replies=("ChannelOpenOk",))
class ChannelOpen(Method):
    """The client opens the channel whose number the frame carries."""

    out_of_band: ShortStr = ""  # ignored


@method(20, 11)
class ChannelOpenOk(Method):
    """The channel is open."""

    channel_id: LongStr = b""  # always empty


@method(20, 20, replies=("ChannelFlowOk",))
class ChannelFlow(Method):
    """Asks the other side to pause or resume sending content. RabbitMQ sends it no more and refuses `active=False`."""

    active: Bit


@method(20, 21)
class ChannelFlowOk(Method):
    """Whether content will be sent from now on."""

    active: Bit


@method(20, 40, replies=("ChannelCloseOk",))
class ChannelClose(Method):
    """Either side ends the channel. The ids are those of the method that caused it, 0 if none did."""

    reply_code: Short
    reply_text: ShortStr = ""
    failing_class_id: Short = 0
    failing_method_id: Short = 0


@method(20, 41)
class ChannelCloseOk(Method):
    """The channel is closed, its number free again."""


# --- access (AMQP 0-8 and 0-9; RabbitMQ still answers it) ----------------------------------------------------------


@method(30, 10, replies=("AccessRequestOk",))
class AccessRequest(Method):
    """Asked for a ticket to a realm once. RabbitMQ has no realms and grants everything."""

    realm: ShortStr = "/data"
    exclusive: Bit = False
    passive: Bit = True
    active: Bit = True
    write: Bit = True
    read: Bit = True


@method(30, 11)
class AccessRequestOk(Method):
    """A ticket, which RabbitMQ ignores wherever it occurs."""

    ticket: Short = 1


# --- exchange (specification 1.6) ----------------------------------------------------------------------------------


@method(40, 10, replies=("ExchangeDeclareOk",))
class ExchangeDeclare(Method):
    """Creates an exchange, or checks that it exists: as described, or, if `passive`, at all."""

    ticket: Short = 0  # ignored
    exchange: ShortStr
    type: ShortStr = "direct"
    passive: Bit = False
    durable: Bit = False
    auto_delete: Bit = False
    internal: Bit = False
    nowait: Bit = False
    arguments: Table = NO_TABLE


@method(40, 11)
class ExchangeDeclareOk(Method):
    """The exchange exists."""


@method(40, 20, replies=("ExchangeDeleteOk",))
class ExchangeDelete(Method):
    """Deletes an exchange."""

    ticket: Short = 0  # ignored
    exchange: ShortStr
    if_unused: Bit = False
    nowait: Bit = False


@method(40, 21)
class ExchangeDeleteOk(Method):
    """The exchange is gone."""


@method(40, 30, replies=("ExchangeBindOk",))
class ExchangeBind(Method):
    """RabbitMQ: `destination` gets what matches `routing_key` at `source`; both are exchanges."""

    ticket: Short = 0  # ignored
    destination: ShortStr
    source: ShortStr
    routing_key: ShortStr = ""
    nowait: Bit = False
    arguments: Table = NO_TABLE


@method(40, 31)
class ExchangeBindOk(Method):
    """RabbitMQ: the exchanges are bound."""


@method(40, 40, replies=("ExchangeUnbindOk",))
class ExchangeUnbind(Method):
    """RabbitMQ: removes a binding between exchanges."""

    ticket: Short = 0  # ignored
    destination: ShortStr
    source: ShortStr
    routing_key: ShortStr = ""
    nowait: Bit = False
    arguments: Table = NO_TABLE


@method(40, 51)
class ExchangeUnbindOk(Method):
    """RabbitMQ: the binding is gone. Its number is 51, not 41, by an old mistake that stayed."""


# --- queue (specification 1.7) -------------------------------------------------------------------------------------


@method(50, 10, replies=("QueueDeclareOk",))
class QueueDeclare(Method):
    """Creates a queue, its name made up if empty, or checks that it exists: as described, or if `passive` at all."""

    ticket: Short = 0  # ignored
    queue: ShortStr = ""
    passive: Bit = False
    durable: Bit = False
    exclusive: Bit = False
    auto_delete: Bit = False
    nowait: Bit = False
    arguments: Table = NO_TABLE


@method(50, 11)
class QueueDeclareOk(Method):
    """The queue exists; the counts are of messages ready for delivery and of consumers."""

    queue: ShortStr
    message_count: Long
    consumer_count: Long


@method(50, 20, replies=("QueueBindOk",))
class QueueBind(Method):
    """The queue gets what matches `routing_key` at the exchange."""

    ticket: Short = 0  # ignored
    queue: ShortStr
    exchange: ShortStr
    routing_key: ShortStr = ""
    nowait: Bit = False
    arguments: Table = NO_TABLE


@method(50, 21)
class QueueBindOk(Method):
    """The queue is bound."""


@method(50, 30, replies=("QueuePurgeOk",))
class QueuePurge(Method):
    """Drops all messages that are ready for delivery."""

    ticket: Short = 0  # ignored
    queue: ShortStr
    nowait: Bit = False


@method(50, 31)
class QueuePurgeOk(Method):
    """How many messages were dropped."""

    message_count: Long


@method(50, 40, replies=("QueueDeleteOk",))
class QueueDelete(Method):
    """Deletes a queue, and its messages with it."""

    ticket: Short = 0  # ignored
    queue: ShortStr
    if_unused: Bit = False
    if_empty: Bit = False
    nowait: Bit = False


@method(50, 41)
class QueueDeleteOk(Method):
    """How many messages were in the queue."""

    message_count: Long


@method(50, 50, replies=("QueueUnbindOk",))
class QueueUnbind(Method):
    """Removes a binding of a queue. There is no `nowait`."""

    ticket: Short = 0  # ignored
    queue: ShortStr
    exchange: ShortStr
    routing_key: ShortStr = ""
    arguments: Table = NO_TABLE


@method(50, 51)
class QueueUnbindOk(Method):
    """The binding is gone."""


# --- basic (specification 1.8) -------------------------------------------------------------------------------------


@method(60, 10, replies=("BasicQosOk",))
class BasicQos(Method):
    """Limits unacknowledged deliveries: of each later consumer; if `global_`, of the channel (as RabbitMQ has it)."""

    prefetch_size: Long = 0  # RabbitMQ refuses others than 0
    prefetch_count: Short = 0
    global_: Bit = False


@method(60, 11)
class BasicQosOk(Method):
    """The limit holds."""


@method(60, 20, replies=("BasicConsumeOk",))
class BasicConsume(Method):
    """Starts a consumer. The broker makes up an empty `consumer_tag`."""

    ticket: Short = 0  # ignored
    queue: ShortStr
    consumer_tag: ShortStr = ""
    no_local: Bit = False  # ignored
    no_ack: Bit = False
    exclusive: Bit = False
    nowait: Bit = False
    arguments: Table = NO_TABLE


@method(60, 21)
class BasicConsumeOk(Method):
    """The consumer has started; deliveries may follow."""

    consumer_tag: ShortStr


@method(60, 30, replies=("BasicCancelOk",))
class BasicCancel(Method):
    """Ends a consumer. RabbitMQ sends it too, with `nowait`, when a consumer's queue goes away."""

    consumer_tag: ShortStr
    nowait: Bit = False


@method(60, 31)
class BasicCancelOk(Method):
    """No more deliveries follow for this consumer."""

    consumer_tag: ShortStr


@method(60, 40, has_content=True)
class BasicPublish(Method):
    """Publishes the message that follows. RabbitMQ refuses `immediate`."""

    ticket: Short = 0  # ignored
    exchange: Route = ""
    routing_key: Route = ""
    mandatory: Bit = False
    immediate: Bit = False


@method(60, 50, has_content=True)
class BasicReturn(Method):
    """Gives back a mandatory message that reached no queue. Its ack or nack follows."""

    reply_code: Short
    reply_text: ShortStr = ""
    exchange: Route
    routing_key: Route


@method(60, 60, has_content=True)
class BasicDeliver(Method):
    """Delivers the message that follows to a consumer."""

    consumer_tag: ShortStr
    delivery_tag: LongLong
    redelivered: Bit = False
    exchange: Route
    routing_key: Route


@method(60, 70, replies=("BasicGetOk", "BasicGetEmpty"))
class BasicGet(Method):
    """Asks for one message of a queue."""

    ticket: Short = 0  # ignored
    queue: ShortStr
    no_ack: Bit = False


@method(60, 71, has_content=True)
class BasicGetOk(Method):
    """The message follows; `message_count` are left in the queue."""

    delivery_tag: LongLong
    redelivered: Bit = False
    exchange: Route
    routing_key: Route
    message_count: Long


@method(60, 72)
class BasicGetEmpty(Method):
    """The queue has no message to give."""

    cluster_id: ShortStr = ""  # always empty


@method(60, 80)
class BasicAck(Method):
    """Settles a delivery as processed; from the broker, confirms a publish. `multiple`: and all before; tag 0: all."""

    delivery_tag: LongLong
    multiple: Bit = False


@method(60, 90)
class BasicReject(Method):
    """Settles a delivery as not processed: back into the queue, or dropped or dead-lettered."""

    delivery_tag: LongLong
    requeue: Bit = True


@method(60, 100)
class BasicRecoverAsync(Method):
    """Like basic.recover, without an answer. Deprecated, and refused by RabbitMQ 4."""

    requeue: Bit = False


@method(60, 110, replies=("BasicRecoverOk",))
class BasicRecover(Method):
    """Puts all unsettled deliveries of the channel back into their queues. RabbitMQ refuses `requeue=False`."""

    requeue: Bit = False


@method(60, 111)
class BasicRecoverOk(Method):
    """The deliveries are back in their queues."""


@method(60, 120)
class BasicNack(Method):
    """RabbitMQ: like basic.reject, with `multiple`; from the broker, it could not take a publish."""

    delivery_tag: LongLong
    multiple: Bit = False
    requeue: Bit = True


# --- confirm (RabbitMQ) --------------------------------------------------------------------------------------------


@method(85, 10, replies=("ConfirmSelectOk",))
class ConfirmSelect(Method):
    """RabbitMQ: from now on the broker confirms each publish on this channel."""

    nowait: Bit = False


@method(85, 11)
class ConfirmSelectOk(Method):
    """RabbitMQ: the channel is in confirm mode."""


# --- tx (specification 1.9) ----------------------------------------------------------------------------------------


@method(90, 10, replies=("TxSelectOk",))
class TxSelect(Method):
    """Makes the channel transactional."""


@method(90, 11)
class TxSelectOk(Method):
    """The channel is transactional."""


@method(90, 20, replies=("TxCommitOk",))
class TxCommit(Method):
    """Carries out the publishes and acknowledgements since the last commit."""


@method(90, 21)
class TxCommitOk(Method):
    """The publishes and acknowledgements are carried out."""


@method(90, 30, replies=("TxRollbackOk",))
class TxRollback(Method):
    """Forgets the publishes and acknowledgements since the last commit."""


@method(90, 31)
class TxRollbackOk(Method):
    """The publishes and acknowledgements are forgotten."""


# --- the table -----------------------------------------------------------------------------------------------------

METHODS: dict[bytes, type[Method]] = {
    row.key: row
    for row in list(globals().values())
    if isinstance(row, type) and issubclass(row, Method) and row is not Method
}
"""Every method by the four octets that begin its payload."""

_FRAME_HEADER = Struct(">BHI")


def decode_method(payload: bytes) -> Method:
    """The method in a method frame's payload. `RemoteProtocolError` if it is unknown, too short or too long."""
    row = METHODS.get(payload[:4])
    if row is None:
        raise RemoteProtocolError(f"unknown method {payload[:4].hex(' ', 2)}", NOT_IMPLEMENTED)
    try:
        decoded: Method = row.decode(payload)
    except RemoteProtocolError as exc:
        raise RemoteProtocolError(f"{row.name}: {exc}", exc.code) from None
    except StructError:
        raise RemoteProtocolError(f"{row.name}: its arguments are truncated", SYNTAX_ERROR) from None
    return decoded


def encode_method_frame(channel: int, method: Method) -> bytes:
    """A whole frame with the method. `TypeError` or `ValueError` names what can't be encoded."""
    payload = method.encode()
    try:
        return _FRAME_HEADER.pack(FRAME_METHOD, channel, len(payload)) + payload + b"\xce"
    except StructError:
        raise ValueError(f"a channel's number is 0 to 65535, not {channel!r}") from None


def method_name(class_id: int, method_id: int) -> str:
    """The name of the method with these ids, for messages; "" for 0 and 0, which stand for none."""
    if not class_id and not method_id:
        return ""
    row = next((row for row in METHODS.values() if (row.class_id, row.method_id) == (class_id, method_id)), None)
    return row.name if row is not None else f"method {class_id}.{method_id}"
