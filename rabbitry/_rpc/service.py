"""`Service`: functions and methods that can be called by name, for `serve`.

What must stay true: only public names can be called, and of an object only what its class defines as methods: no
attribute is looked up by a name that came from a peer. Arguments are checked before anything runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from rabbitry._values.interfaces import public_methods

__all__ = ["Service", "prepared"]


class Service:
    """Functions that `serve` calls by name: `client.serve("calculator", rabbitry.Service(Calculator()))`.

    Each part is a function, known by its name, a mapping of names to functions, or an object, whose public methods can
    be called; of those only the methods of `interface`, if that is given. Functions may be coroutine functions or not:
    those run in worker threads. Names with a leading underscore can't be called.

    The name travels in a request's `type` property, the arguments in its payload: `{"args": […], "kwargs": {…}}`.
    `rpc.bind` makes such calls. An unknown name is an `AttributeError` there, wrong arguments are a `TypeError`: they
    reach the caller as `RemoteError`. Types of arguments are not checked.
    """

    __slots__ = ("_functions",)

    def __init__(self, *parts: Any, interface: type | None = None) -> None:
        self._functions: dict[str, tuple[Callable[..., Any], inspect.Signature | None]] = {}
        for part in parts:
            self._add(_functions_of(part))
        if interface is not None:
            wanted = public_methods(interface)
            if missing := wanted.keys() - self._functions.keys():
                raise TypeError(f"{interface.__name__} has methods that nothing here has: {', '.join(sorted(missing))}")
            self._functions = {name: self._functions[name] for name in wanted}
        if not self._functions:
            raise TypeError("a service needs at least one public function")

    def __repr__(self) -> str:
        return f"<Service of {', '.join(self._functions)}>"

    @property
    def methods(self) -> tuple[str, ...]:
        """The names that can be called."""
        return tuple(self._functions)

    def _add(self, functions: Mapping[str, Callable[..., Any]]) -> None:
        for name, function in functions.items():
            if not isinstance(name, str) or not name or name.startswith(("_", "<")):  # <lambda>
                raise TypeError(f"a method's name is public, not {name!r}: give it one by a mapping")
            if not callable(function):
                raise TypeError(f"method {name!r} must be a function, not {function!r}")
            if name in self._functions:
                raise TypeError(f"there are two methods named {name!r}")
            self._functions[name] = function, _signature(function)


def prepared(service: Service, name: str | None, payload: Any) -> tuple[Callable[..., Any], Callable[[], Any]]:
    """The function that a request names, and its call with the request's arguments."""
    functions = service._functions
    if name is None or name not in functions:
        raise AttributeError(f"no method {name!r}: there are {', '.join(functions)}")
    function, signature = functions[name]
    match payload:
        case {"args": list() | tuple() as args, "kwargs": dict() as kwargs} if len(payload) == 2:
            pass
        case _:
            raise TypeError('the payload of a call is {"args": […], "kwargs": {…}}')
    if signature is not None:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{name}(): {error}") from None
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
