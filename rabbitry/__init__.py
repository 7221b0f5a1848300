"""rabbitry: RabbitMQ (AMQP 0-9-1) for Python on structured concurrency, natively under trio and asyncio."""

from rabbitry._channel import Channel as Channel
from rabbitry._channel import QueueInfo as QueueInfo
from rabbitry._codecs import Codec as Codec
from rabbitry._confirmation import Confirmation as Confirmation
from rabbitry._connection import Connection as Connection
from rabbitry._consumer import Batch as Batch
from rabbitry._consumer import Batches as Batches
from rabbitry._consumer import Consumer as Consumer
from rabbitry._delivery import Death as Death
from rabbitry._delivery import Delivery as Delivery
from rabbitry._errors import AccessRefused as AccessRefused
from rabbitry._errors import AlreadySettled as AlreadySettled
from rabbitry._errors import AuthenticationFailed as AuthenticationFailed
from rabbitry._errors import ChannelClosed as ChannelClosed
from rabbitry._errors import Closed as Closed
from rabbitry._errors import ConnectFailed as ConnectFailed
from rabbitry._errors import ConnectionBlocked as ConnectionBlocked
from rabbitry._errors import ConnectionClosed as ConnectionClosed
from rabbitry._errors import ConsumerCancelled as ConsumerCancelled
from rabbitry._errors import ConsumerOverrun as ConsumerOverrun
from rabbitry._errors import DecodeError as DecodeError
from rabbitry._errors import LocalProtocolError as LocalProtocolError
from rabbitry._errors import Nacked as Nacked
from rabbitry._errors import NotConnected as NotConnected
from rabbitry._errors import NotFound as NotFound
from rabbitry._errors import NotSent as NotSent
from rabbitry._errors import OutcomeUnknown as OutcomeUnknown
from rabbitry._errors import PreconditionFailed as PreconditionFailed
from rabbitry._errors import ProtocolError as ProtocolError
from rabbitry._errors import PublishesFailed as PublishesFailed
from rabbitry._errors import PublishFailed as PublishFailed
from rabbitry._errors import RabbitryError as RabbitryError
from rabbitry._errors import RemoteError as RemoteError
from rabbitry._errors import RemoteProtocolError as RemoteProtocolError
from rabbitry._errors import ResourceLocked as ResourceLocked
from rabbitry._errors import StaleDelivery as StaleDelivery
from rabbitry._errors import Unroutable as Unroutable
from rabbitry._message import Message as Message
from rabbitry._publisher import Publisher as Publisher
from rabbitry._reactor import Reactor as Reactor
from rabbitry._reactor import connect as connect
from rabbitry._reactor import open_reactor as open_reactor
from rabbitry._rpc import RPC as RPC

__all__ = [name for name in dir() if not name.startswith("_") and name not in ("protocol", "transport", "testing")]

# Public names say where they are imported from, not where they are defined.
for _name in __all__:
    globals()[_name].__module__ = "rabbitry"
del _name
