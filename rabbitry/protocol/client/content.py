"""A received message as it came off the wire: what is cheap is decoded, the rest when somebody asks.

Owns the lazy decoding of exchange, routing key and properties. It keeps the channel that it can be settled on, and
settles nothing: the public `Delivery` does.
"""

from __future__ import annotations

from typing import Any

from rabbitry._errors import DecodeError, RemoteProtocolError
from rabbitry.protocol.client.settling import Settling
from rabbitry.protocol.wire.properties import Properties, decode_properties

__all__ = ["PUBLISH_TAG_HEADER", "Content", "seems_streamed"]

PUBLISH_TAG_HEADER = "x-rabbitry-publish-tag"
"""Header added to mandatory messages on confirm channels. basic.return carries no tag, so this names the publish it
answers. Nobody who receives such a message is shown it.
"""

STREAM_OFFSET = "x-stream-offset"
"""The header in which RabbitMQ tells a stream's deliveries their offset."""

_STREAM_OFFSET_OCTETS = STREAM_OFFSET.encode()


def seems_streamed(header: bytes) -> bool:
    """Whether a delivery with this header may be a stream's, which takes nothing back: RabbitMQ closes the connection
    (540) over a nack. Publishers may forge it, so such deliveries are left alone, not acknowledged.
    """
    return _STREAM_OFFSET_OCTETS in header


class Content:
    """One message: `body` is complete, `route` and `header` are the undecoded bytes of exchange + routing key and
    properties.

    `consumer` is the token given to `ProtocolChannel.consume`, None for a get or a return. `redelivered` is the
    broker's flag.
    """

    __slots__ = ("_channel", "_header", "_route", "body", "consumer", "delivery_tag", "redelivered")

    def __init__(
        self,
        channel: Settling,
        consumer: Any,
        delivery_tag: int,
        redelivered: bool,
        route: bytes,
        header: bytes,
        body: bytes,
    ) -> None:
        self._channel = channel
        self.consumer: Any = consumer
        self.delivery_tag: int = delivery_tag
        self.redelivered: bool = redelivered
        self._route = route
        self._header: bytes | Properties = header
        self.body: bytes = body

    @property
    def exchange(self) -> str:
        """The exchange the message was published to; "" is the default exchange."""
        route = self._route
        return route[1 : 1 + route[0]].decode("utf-8", "surrogateescape")

    @property
    def routing_key(self) -> str:
        """The routing key it was published with. Bytes that are not UTF-8 appear as surrogate escapes."""
        route = self._route
        return route[2 + route[0] :].decode("utf-8", "surrogateescape")

    @property
    def seems_streamed(self) -> bool:
        """Whether it may be a stream's, which takes nothing back."""
        header = self._header
        if type(header) is bytes:
            return seems_streamed(header)
        assert isinstance(header, Properties)
        return STREAM_OFFSET in (header.headers or {})

    @property
    def properties(self) -> Properties:
        """The fourteen properties, decoded at first use, as they were published: without the header that this library
        adds. `DecodeError` if the publisher sent malformed ones.
        """
        header = self._header
        if type(header) is bytes:
            try:
                header = decode_properties(header)
            except RemoteProtocolError as exc:
                raise DecodeError(f"the message's properties are malformed: {exc}") from exc
            if header.headers and header.headers.pop(PUBLISH_TAG_HEADER, None) is not None:
                header.headers = header.headers or None  # as it was, without
            self._header = header
        assert isinstance(header, Properties)
        return header

    @property
    def headers(self) -> dict[str, Any]:
        """The headers property; an empty dict if the message has none."""
        return self.properties.headers or {}
