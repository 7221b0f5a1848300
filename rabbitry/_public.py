"""The public names: what `rabbitry.__all__` lists, `from rabbitry import …` finds and type checkers see.

What is not here is not public, and nothing else imports this module: `rabbitry` does, when a name is asked for.
"""

from inspect import get_annotations

from rabbitry._api import Reactor, connect, open_client, open_reactor, start_client
from rabbitry._channel.batches import Batch, Batches
from rabbitry._channel.channel import Channel
from rabbitry._channel.confirmation import Confirmation
from rabbitry._channel.consumer import Consumer
from rabbitry._channel.declaring import QueueInfo
from rabbitry._channel.delivery import Death, Delivery
from rabbitry._channel.publisher import Publisher
from rabbitry._client.changes import Change
from rabbitry._client.client import Client
from rabbitry._client.link import Credentials
from rabbitry._client.publisher import ClientPublisher
from rabbitry._client.rpc import ClientRPC
from rabbitry._client.subscription import Subscription, SubscriptionBatches
from rabbitry._concurrency.tracebacks import escape_tracebacks
from rabbitry._connection.connection import Connection
from rabbitry._errors import (
    AccessRefused,
    AlreadySettled,
    AuthenticationFailed,
    ChannelClosed,
    Closed,
    ConnectFailed,
    ConnectionBlocked,
    ConnectionClosed,
    ConsumerCancelled,
    ConsumerOverrun,
    ConsumingStopped,
    DecodeError,
    LocalProtocolError,
    MessageTooLarge,
    Nacked,
    NotConnected,
    NotFound,
    NotSent,
    OutcomeUnknown,
    PreconditionFailed,
    ProtocolError,
    PublishesFailed,
    PublishFailed,
    RabbitryError,
    Refused,
    RemoteError,
    RemoteProtocolError,
    ResourceLocked,
    StaleDelivery,
    Unroutable,
)
from rabbitry._instrumentation import (
    CallOperation,
    Event,
    GetOperation,
    Instrumentation,
    Operation,
    ProcessOperation,
    PublishOperation,
)
from rabbitry._rpc.caller import RPC
from rabbitry._rpc.requests import RequestCounts
from rabbitry._rpc.service import Service
from rabbitry._signatures import hide_constructors
from rabbitry._values.backoff import Backoff
from rabbitry._values.codecs import Codec, register_codec
from rabbitry._values.converting import convert
from rabbitry._values.message import Message
from rabbitry._values.retry import Retry
from rabbitry._values.stopping import Stop
from rabbitry._values.topology import Binding, Exchange, ExchangeBinding, Queue

__all__ = [
    "RPC",
    "AccessRefused",
    "AlreadySettled",
    "AuthenticationFailed",
    "Backoff",
    "Batch",
    "Batches",
    "Binding",
    "CallOperation",
    "Change",
    "Channel",
    "ChannelClosed",
    "Client",
    "ClientPublisher",
    "ClientRPC",
    "Closed",
    "Codec",
    "Confirmation",
    "ConnectFailed",
    "Connection",
    "ConnectionBlocked",
    "ConnectionClosed",
    "Consumer",
    "ConsumerCancelled",
    "ConsumerOverrun",
    "ConsumingStopped",
    "Credentials",
    "Death",
    "DecodeError",
    "Delivery",
    "Event",
    "Exchange",
    "ExchangeBinding",
    "GetOperation",
    "Instrumentation",
    "LocalProtocolError",
    "Message",
    "MessageTooLarge",
    "Nacked",
    "NotConnected",
    "NotFound",
    "NotSent",
    "Operation",
    "OutcomeUnknown",
    "PreconditionFailed",
    "ProcessOperation",
    "ProtocolError",
    "PublishFailed",
    "PublishOperation",
    "Publisher",
    "PublishesFailed",
    "Queue",
    "QueueInfo",
    "RabbitryError",
    "Reactor",
    "Refused",
    "RemoteError",
    "RemoteProtocolError",
    "RequestCounts",
    "ResourceLocked",
    "Retry",
    "Service",
    "StaleDelivery",
    "Stop",
    "Subscription",
    "SubscriptionBatches",
    "Unroutable",
    "connect",
    "convert",
    "open_client",
    "open_reactor",
    "register_codec",
    "start_client",
]

escape_tracebacks()

# What `connect` and `open_client` give, and what is made from that.
hide_constructors(RPC, ClientRPC, Channel, Client, Connection, Delivery, Publisher, ClientPublisher, Reactor)
hide_constructors(Batches, Consumer, Subscription, SubscriptionBatches)

# Public names say where they are imported from, not where they are defined. The annotations of their fields are
# evaluated before: what builds objects from data (msgspec, cattrs) looks names up in the module that a class is from.
for _public in [globals()[name] for name in __all__]:
    if isinstance(_public, type) and get_annotations(_public):  # (its own: inherited ones are another class's)
        _public.__annotations__ = get_annotations(_public, eval_str=True)
    _public.__module__ = "rabbitry"
