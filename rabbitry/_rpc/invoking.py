"""`Invoking`: the user's handler, run with what a request carries, and what it returned as a message.

What must stay true: a handler that is no coroutine function runs in a thread, is never abandoned there, and no more
than `concurrency` of them run at a time; what a handler raises goes on unchanged.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import anyio
import anyio.to_thread

from rabbitry._errors import DecodeError
from rabbitry._rpc.envelope import Request
from rabbitry._rpc.service import Service, prepared
from rabbitry._values import converting
from rabbitry._values.annotations import payload_conversion
from rabbitry._values.codecs import Codec, codec_named, decode_from
from rabbitry._values.converting import Convert
from rabbitry._values.handlers import is_async
from rabbitry._values.message import Message

__all__ = ["BadRequest", "Handler", "Invoking"]

Handler: TypeAlias = Callable[[Any], Any] | Service | Sequence[Callable[..., Any]]


class BadRequest(Exception):
    """Carries what is wrong with a request, and so no failure of its handler."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class Invoking:
    """A function of the payload, or with `raw` of the `Delivery`; or a `Service`, or functions to make one of."""

    __slots__ = ("_codec", "_conversion", "_function", "_is_async", "_raw", "_service", "_threads")

    def __init__(
        self, handler: Handler, *, concurrency: int, codec: str | Codec, raw: bool, convert: Convert | None
    ) -> None:
        if convert is not converting.convert:
            if isinstance(handler, Service) and convert is not handler.convert:
                raise ValueError("a service has a converter of its own: Service(…, convert=…)")
            if raw and convert is not None:
                raise ValueError("raw=True passes the Delivery: there is nothing to convert")
        if isinstance(handler, Sequence):
            handler = Service(*handler, convert=convert)
        if not isinstance(handler, Service) and not callable(handler):
            raise TypeError(f"a handler is a function, a Service or a list of functions, not {handler!r}")
        self._service = handler if isinstance(handler, Service) else None
        self._function: Callable[[Any], Any] = _no_function if isinstance(handler, Service) else handler
        if raw and self._service is not None:
            raise ValueError("raw=True is for one handler: a service's functions take decoded arguments")
        self._is_async = is_async(self._function)
        self._conversion = None if raw else payload_conversion(self._function, convert)
        self._codec = codec_named(codec)
        self._raw = raw
        self._threads = anyio.CapacityLimiter(concurrency)

    async def answer(self, request: Request) -> Message:
        """What the handler returned for this request, as its reply. Raises `BadRequest`, and what the handler does."""
        properties = request.properties
        argument: Any = request.delivery
        if not self._raw:
            try:
                argument = decode_from(
                    argument.body, properties.content_type, self._codec, properties.content_encoding, is_request=True
                )
                if self._conversion is not None:
                    argument = self._conversion(argument)
            except DecodeError as error:
                raise BadRequest(error) from error
        # hot: the commonest kind of handler without another coroutine around it
        result = await (self._function(argument) if self._is_async else self._other(properties.type, argument))
        own: dict[str, Any] = {"correlation_id": properties.correlation_id, "delivery_mode": 1}
        if isinstance(result, Message):
            reply = result.replace(**own)
        elif self._raw:
            reply = Message(b"" if result is None else result, **own)
        else:
            reply = Message(self._codec.encode(result), content_type=self._codec.content_type, **own)
        reply.encoded_properties()  # refuses here, as the handler's failure, what it put into a Message
        return reply

    async def _other(self, method: str | None, argument: Any) -> Any:
        """What a service's method returned, or a function that runs in a worker thread."""
        if self._service is None:
            call: Callable[[], Any] = partial(self._function, argument)
        else:
            try:
                function, call = prepared(self._service, method, argument)
            except (AttributeError, TypeError, DecodeError) as error:
                raise BadRequest(error) from error
            if is_async(function):
                return await call()
        # Not abandoned when cancelled: it would go on beside the request's next handler, and beyond `concurrency`.
        # In a tuple, as trio refuses a function that returns an awaitable.
        (result,) = await anyio.to_thread.run_sync(lambda: (call(),), limiter=self._threads)
        return await result if inspect.isawaitable(result) else result


def _no_function(_: Any) -> None:
    """Stands where a service has functions instead."""
