"""`bound`: an object with the methods of an interface, each of which is a call of a `Service`.

What must stay true: it has exactly the interface's public methods, each a coroutine function with the interface's
signature and docstring; a call is the one that the RPC makes, with its errors and its meaning of cancellation, and what
it returns is what the interface says.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from typing import Any, TypeVar, cast

from rabbitry._values.annotations import Conversion, check_convert, result_conversion
from rabbitry._values.converting import Convert
from rabbitry._values.interfaces import Bound, public_methods

__all__ = ["bound"]

T = TypeVar("T")


def bound(
    interface: Callable[..., T],
    call: Callable[..., Awaitable[Any]],
    routing_key: str,
    options: Mapping[str, Any],
    convert: Convert | None,
) -> T:
    """An object whose methods `call` a server with these options, and `convert` what it replied to what they say that
    they return. `TypeError` for what is no such interface.
    """
    check_convert(convert)
    if not isinstance(interface, type):
        raise TypeError(f"bind takes a class, such as a Protocol, not {interface!r}")
    methods = public_methods(interface)
    if not methods:
        raise TypeError(f"{interface.__name__} has no public method to call")
    instance = Bound(interface, routing_key)
    for name, function in methods.items():
        if not inspect.iscoroutinefunction(function):
            raise TypeError(f"{interface.__name__}.{name} must be 'async def': a call is awaited")
        method = _method(name, function, call, routing_key, options)
        conversion = result_conversion(function, convert)
        setattr(instance, name, method if conversion is None else _converting(method, conversion))
    return cast(T, instance)


def _method(
    name: str,
    function: Callable[..., Any],
    call: Callable[..., Awaitable[Any]],
    routing_key: str,
    options: Mapping[str, Any],
) -> Callable[..., Awaitable[Any]]:
    @wraps(function)
    async def method(*args: Any, **kwargs: Any) -> Any:
        return await call(routing_key, {"args": args, "kwargs": kwargs}, method=name, **options)

    return method


def _converting(method: Callable[..., Awaitable[Any]], conversion: Conversion) -> Callable[..., Awaitable[Any]]:
    @wraps(method)
    async def converting_method(*args: Any, **kwargs: Any) -> Any:
        return conversion(await method(*args, **kwargs))

    return converting_method
