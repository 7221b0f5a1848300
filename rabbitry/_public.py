"""The public names: what `rabbitry.__all__` lists, `from rabbitry import …` finds and type checkers see.

What is not here is not public, and nothing else imports this module: `rabbitry` does, when a name is asked for.
"""

from rabbitry._backoff import Backoff
from rabbitry._channel import Channel, QueueInfo
from rabbitry._client import Client
from rabbitry._client_rpc import ClientRPC
from rabbitry._codecs import Codec, register_codec
from rabbitry._confirmation import Confirmation
from rabbitry._connection import Connection
from rabbitry._consumer import Batch, Batches, Consumer
from rabbitry._delivery import Death, Delivery
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
    DecodeError,
    LocalProtocolError,
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
    RemoteError,
    RemoteProtocolError,
    ResourceLocked,
    StaleDelivery,
    Unroutable,
)
from rabbitry._hooks import (
    CallOperation,
    Event,
    GetOperation,
    Instrumentation,
    Operation,
    ProcessOperation,
    PublishOperation,
)
from rabbitry._link import Change, Credentials
from rabbitry._message import Message
from rabbitry._open_client import open_client, start_client
from rabbitry._publisher import Publisher
from rabbitry._publishing import ClientPublisher
from rabbitry._reactor import Reactor, connect, open_reactor
from rabbitry._rpc import RPC
from rabbitry._service import Service
from rabbitry._serving import RequestCounts
from rabbitry._subscription import Subscription, SubscriptionBatches
from rabbitry._topology import Binding, Exchange, ExchangeBinding, Queue

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
    "RemoteError",
    "RemoteProtocolError",
    "RequestCounts",
    "ResourceLocked",
    "Service",
    "StaleDelivery",
    "Subscription",
    "SubscriptionBatches",
    "Unroutable",
    "connect",
    "open_client",
    "open_reactor",
    "register_codec",
    "start_client",
]

# Public names say where they are imported from, not where they are defined.
for _public in [globals()[name] for name in __all__]:
    _public.__module__ = "rabbitry"
