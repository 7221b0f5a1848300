"""`Settings`: how to connect, from the arguments of `connect` over the URI's over the defaults, checked once.

What must stay true: settings are values, shared by all connections made alike; what can't be sent or kept is refused
here, before anything is dialled. `Kinds` says which classes a connection makes, so that it need not know those that
tell what happens.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypedDict, Unpack

from anyio.abc import ByteStream

from rabbitry._channel.channel import Channel
from rabbitry._channel.delivery import Delivery, DeliveryHandler
from rabbitry._channel.life import ChannelLife
from rabbitry._endpoint import Endpoint
from rabbitry._rpc.caller import RPC
from rabbitry._secrets import Secret
from rabbitry._values.address import Address, parse_uri
from rabbitry._values.arguments import whole
from rabbitry._values.codecs import Codec
from rabbitry._values.durations import seconds
from rabbitry._values.options import DEFAULT_MAX_MESSAGE_SIZE, ReplyTo
from rabbitry.protocol.wire.constants import FRAME_MAX_SIZE, FRAME_MIN_SIZE
from rabbitry.protocol.wire.tables import encode_table

if TYPE_CHECKING:
    import ssl

__all__ = [
    "DEFAULT_CHANNEL_MAX",
    "DEFAULT_CONNECT_TIMEOUT",
    "DEFAULT_FRAME_MAX",
    "DEFAULT_HEARTBEAT",
    "PLAIN",
    "ConnectionOptions",
    "Dial",
    "Kinds",
    "Settings",
    "connection_settings",
    "default_name",
]

logger = logging.getLogger("rabbitry")

Dial: TypeAlias = Callable[[str, int], Awaitable[ByteStream]]

DEFAULT_HEARTBEAT = 30
DEFAULT_CONNECT_TIMEOUT = 15.0
DEFAULT_FRAME_MAX = 131072
DEFAULT_CHANNEL_MAX = 2047


class Kinds(NamedTuple):
    """What a connection makes: channels, deliveries and RPC callers; and what it has around a handler of deliveries."""

    channel: Callable[[Endpoint, bool, int], Channel]
    delivery: type[Delivery]
    rpc: Callable[[Channel, str | Codec, ReplyTo], RPC]
    observed: Callable[[DeliveryHandler], DeliveryHandler]


def _plain_channel(endpoint: Endpoint, confirm: bool, prefetch: int) -> Channel:
    return Channel(ChannelLife(endpoint, confirm, prefetch))


def _unobserved(handler: DeliveryHandler) -> DeliveryHandler:
    return handler


PLAIN = Kinds(_plain_channel, Delivery, RPC, _unobserved)
"""The kinds of a connection without instrumentation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to connect; shared by all connections made alike."""

    address: Address
    name: str
    heartbeat: int
    connect_timeout: float
    frame_max: int
    channel_max: int
    max_message_size: int
    client_properties: tuple[tuple[str, Any], ...]
    dial: Dial | None
    ssl_context: ssl.SSLContext | None
    kinds: Kinds = PLAIN


class ConnectionOptions(TypedDict, total=False):
    """The arguments of `connect` beside the URL and the instrumentation: see there."""

    name: str | None
    heartbeat: float | timedelta | None
    connect_timeout: float | timedelta | None
    frame_max: int | None
    channel_max: int | None
    max_message_size: int
    client_properties: Mapping[str, Any] | None
    dial: Dial | None
    ssl_context: ssl.SSLContext | None


@lru_cache(maxsize=64)
def _parsed(url: Secret[str]) -> Address:
    """Thousands of connections to one URL share what it says."""
    return parse_uri(url)


def connection_settings(url: Secret[str], kinds: Kinds = PLAIN, **options: Unpack[ConnectionOptions]) -> Settings:
    """The arguments of `connect`, checked, over the URI's, over the defaults."""
    address = _parsed(url)
    settings = Settings(
        address=address,
        name=_first(options.get("name"), address.name, default_name()),
        heartbeat=ceil(seconds(_first(options.get("heartbeat"), address.heartbeat, DEFAULT_HEARTBEAT))),
        connect_timeout=seconds(
            _first(options.get("connect_timeout"), address.connection_timeout, DEFAULT_CONNECT_TIMEOUT)
        ),
        frame_max=_first(options.get("frame_max"), address.frame_max, DEFAULT_FRAME_MAX),
        channel_max=_first(options.get("channel_max"), address.channel_max, DEFAULT_CHANNEL_MAX),
        max_message_size=options.get("max_message_size", DEFAULT_MAX_MESSAGE_SIZE),
        client_properties=_items(options.get("client_properties")),
        dial=options.get("dial"),
        ssl_context=options.get("ssl_context"),
        kinds=kinds,
    )
    for name, number in (
        ("frame_max", settings.frame_max),
        ("channel_max", settings.channel_max),
        ("max_message_size", settings.max_message_size),
    ):
        whole(number, name)
    if not isinstance(settings.name, str):
        raise TypeError(f"name must be text, not {settings.name!r}")
    if settings.dial is not None and not callable(settings.dial):
        raise TypeError(f"dial must be a coroutine function, not {settings.dial!r}")
    if settings.ssl_context is not None and (not address.tls or settings.dial is not None):
        raise ValueError("ssl_context is for amqps:// URLs or tls=True, and where dial opens the stream it makes TLS")
    if not 0 <= settings.heartbeat <= 65535:
        raise ValueError(f"heartbeat must be 0 (none) to 65,535 seconds, not {options.get('heartbeat')}")
    if settings.connect_timeout <= 0:
        raise ValueError(f"connect_timeout must be positive, not {options.get('connect_timeout')}")
    if settings.frame_max and not FRAME_MIN_SIZE <= settings.frame_max <= FRAME_MAX_SIZE:
        raise ValueError(
            f"frame_max must be 0 (the broker's) or at least {FRAME_MIN_SIZE} bytes, not {settings.frame_max}"
        )
    if not 0 <= settings.channel_max <= 65535:
        raise ValueError(f"channel_max must be 0 (the broker's) to 65,535, not {settings.channel_max}")
    if address.verify is False and settings.ssl_context is None and settings.dial is None:
        _warn_unverified(address.unix_path or f"{address.host}:{address.port}")
    encode_table(
        {**dict(settings.client_properties), "connection_name": settings.name}
    )  # refuses what can't be sent, here rather than amid the handshake
    if settings.max_message_size < 1:
        raise ValueError(f"max_message_size must be positive, not {settings.max_message_size}")
    return settings


@lru_cache(maxsize=256)
def _warn_unverified(where: str) -> None:
    """Once for each broker, not for each connection."""
    logger.warning(
        "%s: verify=verify_none: whoever stands in between can read and change everything, the password included", where
    )


def default_name() -> str:
    """What a connection is called unless named: the program and its process id."""
    return f"{os.path.basename(sys.argv[0]) or 'python'}-{os.getpid()}"


def _items(properties: Mapping[str, Any] | None) -> tuple[tuple[str, Any], ...]:
    if properties is not None and not isinstance(properties, Mapping):
        raise TypeError(f"client_properties must be a mapping, not {properties!r}")
    return tuple((properties or {}).items())


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)
