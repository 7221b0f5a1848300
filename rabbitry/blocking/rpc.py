"""`RPC`: calls that wait for their replies.

What must stay true: replies, deadlines and errors are those of the async RPC; nothing is decided here but what an
interface whose methods are ordinary ones may look like.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeAlias, TypeVar, cast

import rabbitry
from rabbitry import Exchange, Message
from rabbitry._values import converting
from rabbitry._values.annotations import Conversion, check_convert, result_conversion
from rabbitry._values.converting import Convert
from rabbitry._values.interfaces import Bound, public_methods
from rabbitry.blocking.block import Block
from rabbitry.blocking.portal import Timeout

__all__ = ["RPC"]

AnyRPC: TypeAlias = rabbitry.RPC | rabbitry.ClientRPC

T = TypeVar("T")


class RPC(Block[AnyRPC]):
    """Calls servers and gives their replies; made by `client.rpc()` or `connection.rpc()`, and used inside its `with`
    block, by any number of threads at once.
    """

    _what = "the RPC"
    _call = "client.rpc()"

    @property
    def late_replies(self) -> int:
        """Replies that came when nobody waited for them any more."""
        return self._entered.late_replies if self._entered is not None else 0

    def call(
        self,
        routing_key: str,
        payload: Any = None,
        *,
        exchange: str | Exchange = "",
        mandatory: bool = True,
        headers: Mapping[str, Any] | None = None,
        method: str | None = None,
        raw: bool = False,
        idempotent: bool = False,
        timeout: Timeout = None,
    ) -> Any:
        """Send a request and return the reply's payload; the arguments are those of the async `call`. `idempotent` is
        for a client's RPC.

        The request expires with `timeout`. Timed out or interrupted, a late reply is dropped and counted.
        """
        rpc = self._async
        options: dict[str, Any] = {
            "exchange": exchange,
            "mandatory": mandatory,
            "headers": headers,
            "method": method,
            "raw": raw,
        }
        if idempotent:
            self._check_idempotent()
            options["idempotent"] = True
        return self._portal.run(lambda: rpc.call(routing_key, payload, **options), timeout)

    def request(
        self,
        message: Message,
        routing_key: str = "",
        *,
        exchange: str | Exchange = "",
        mandatory: bool = True,
        idempotent: bool = False,
        timeout: Timeout = None,
    ) -> Message:
        """Send a request with properties of its own, and return the reply with its properties; as the async `request`.
        `idempotent` and `timeout` as for `call`.
        """
        rpc = self._async
        options: dict[str, Any] = {"exchange": exchange, "mandatory": mandatory}
        if idempotent:
            self._check_idempotent()
            options["idempotent"] = True
        return self._portal.run(lambda: rpc.request(message, routing_key, **options), timeout)

    def bind(
        self,
        interface: Callable[..., T],
        routing_key: str,
        *,
        exchange: str | Exchange = "",
        mandatory: bool = True,
        idempotent: bool = False,
        convert: Convert | None = converting.convert,
        timeout: Timeout = None,
    ) -> T:
        """An object whose methods call those of a `Service`: `calculator = rpc.bind(Calculator, "calculator")`.

        As the async `bind`, but `interface`'s public methods are ordinary ones: `calculator.add(1, 2)` is a call, and
        returns its reply. `timeout` is for each call; bind twice where some take longer.
        """
        if idempotent:
            self._check_idempotent()
        methods = public_methods(interface) if isinstance(interface, type) else {}
        if not methods:
            raise TypeError(f"bind takes a class with public methods, such as a Protocol, not {interface!r}")
        check_convert(convert)
        options = {"exchange": exchange, "mandatory": mandatory, "idempotent": idempotent, "timeout": timeout}
        instance = Bound(cast(type, interface), routing_key)
        for name, function in methods.items():
            if inspect.iscoroutinefunction(function):
                raise TypeError(f"{instance!r}: {name} must be 'def', not 'async def': nobody awaits its call here")
            conversion = result_conversion(function, convert)
            setattr(instance, name, self._method(name, function, routing_key, options, conversion))
        return cast(T, instance)

    def _method(
        self,
        name: str,
        function: Callable[..., Any],
        routing_key: str,
        options: Mapping[str, Any],
        conversion: Conversion | None,
    ) -> Callable[..., Any]:
        @wraps(function)
        def method(*args: Any, **kwargs: Any) -> Any:
            reply = self.call(routing_key, {"args": args, "kwargs": kwargs}, method=name, **options)
            return reply if conversion is None else conversion(reply)

        return method

    def _check_idempotent(self) -> None:
        if not isinstance(self._async, rabbitry.ClientRPC):
            raise ValueError("a connection's RPC sends nothing again: idempotent=True is for client.rpc()")
