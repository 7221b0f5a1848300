"""`Service`: functions and methods that can be called by name, for `serve`.

What must stay true: only public names can be called, and of an object only what its class defines as methods: no
attribute is looked up by a name that came from a peer. Arguments are checked and converted before anything runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from rabbitry._values import converting
from rabbitry._values.annotations import Conversion, argument_conversions, converted
from rabbitry._values.converting import Convert
from rabbitry._values.interfaces import public_methods

__all__ = ["Service", "prepared"]


class Served(NamedTuple):
    """A function, what it takes, and what its arguments become before, by the names of its parameters."""

    function: Callable[..., Any]
    signature: inspect.Signature | None
    conversions: Mapping[str, Conversion] = MappingProxyType({})


class Service:
    """Functions that `serve` calls by name: `client.serve("calculator", rabbitry.Service(Calculator()))`.

    Each part is a function, known by its name, a mapping of names to functions, or an object, whose public methods can
    be called; of those only the methods of `interface`, if that is given. Functions may be coroutine functions or not:
    those run in worker threads. Names with a leading underscore can't be called.

    The name travels in a request's `type` property, the arguments in its payload: `{"args": […], "kwargs": {…}}`.
    `rpc.bind` makes such calls. An unknown name is an `AttributeError` there, wrong arguments are a `TypeError`: they
    reach the caller as `RemoteError`.

    Each argument is what its parameter's annotation says, by `convert(annotation, value)`: `rabbitry.convert` unless
    given, which knows dataclasses, datetimes, enums and the like. One that does not fit is a `DecodeError`, which
    reaches the caller, too. What has no annotation, or `Any`, and with `convert=None` all, is as it was decoded.
    `TypeError`, here, for an annotation that can't be evaluated, or that `rabbitry.convert` makes nothing of.
    """

    __slots__ = ("_convert", "_functions")

    def __init__(
        self, *parts: Any, interface: type | None = None, convert: Convert | None = converting.convert
    ) -> None:
        self._convert = convert
        self._functions: dict[str, Served] = {}
        for part in parts:
            self._add(_functions_of(part))
        if interface is not None:
            wanted = public_methods(interface)
            if missing := wanted.keys() - self._functions.keys():
                raise TypeError(f"{interface.__name__} has methods that nothing here has: {', '.join(sorted(missing))}")
            self._functions = {name: self._functions[name] for name in wanted}
        for name, served in self._functions.items():
            conversions = argument_conversions(served.function, convert)
            self._functions[name] = Served(served.function, served.signature, conversions)
        if not self._functions:
            raise TypeError("a service needs at least one public function")

    def __repr__(self) -> str:
        return f"<Service of {', '.join(self._functions)}>"

    @property
    def methods(self) -> tuple[str, ...]:
        """The names that can be called."""
        return tuple(self._functions)

    @property
    def convert(self) -> Convert | None:
        """What converts arguments."""
        return self._convert

    def _add(self, functions: Mapping[str, Callable[..., Any]]) -> None:
        for name, function in functions.items():
            if not isinstance(name, str) or not name or name.startswith(("_", "<")):  # <lambda>
                raise TypeError(f"a method's name is public, not {name!r}: give it one by a mapping")
            if not callable(function):
                raise TypeError(f"method {name!r} must be a function, not {function!r}")
            if name in self._functions:
                raise TypeError(f"there are two methods named {name!r}")
            self._functions[name] = Served(function, _signature(function))


def prepared(service: Service, name: str | None, payload: Any) -> tuple[Callable[..., Any], Callable[[], Any]]:
    """The function that a request names, and its call with the request's arguments. `AttributeError`, `TypeError` or
    `DecodeError` where it can't be called with them.
    """
    functions = service._functions
    if name is None or name not in functions:
        raise AttributeError(f"no method {name!r}: there are {', '.join(functions)}")
    function, signature, conversions = functions[name]
    match payload:
        case {"args": list() | tuple() as args, "kwargs": dict() as kwargs} if len(payload) == 2:
            pass
        case _:
            raise TypeError('the payload of a call is {"args": […], "kwargs": {…}}')
    if signature is not None:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{name}(): {error}") from None
        if conversions:
            converted(conversions, bound)
            args, kwargs = bound.args, bound.kwargs
    return function, partial(function, *args, **kwargs)


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    """What the function takes; None of a builtin that does not tell, and checks for itself."""
    try:
        return inspect.signature(function)
    except ValueError:
        return None


def _functions_of(part: Any) -> Mapping[str, Callable[..., Any]]:
    if isinstance(part, Mapping):
        return part
    if isinstance(part, type):
        raise TypeError(f"serve an object of {part.__name__}, not the class")
    if inspect.isroutine(part):
        return {part.__name__: part}
    if type(part).__module__ == "builtins":
        raise TypeError(f"a service is made of functions, as Service(*functions), or an object, not {part!r}")
    return {name: getattr(part, name) for name in public_methods(type(part))}
