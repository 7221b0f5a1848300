"""What functions say of their parameters and results, and what makes values be that.

What must stay true: annotations are evaluated once, before any value comes, and one that can't be is a `TypeError`
then; where nothing is said, or `Any`, there is nothing to call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial, wraps
from typing import Any, TypeAlias, get_type_hints

from rabbitry._errors import DecodeError, shown, text_of
from rabbitry._values.converting import Convert, convert, reader_of
from rabbitry._values.handlers import check_callable, is_async
from rabbitry._values.readers import UNKNOWN_HINT, Misfit

__all__ = [
    "Conversion",
    "Unfit",
    "argument_conversions",
    "check_convert",
    "converted",
    "payload_conversion",
    "result_conversion",
    "typed",
]

Conversion: TypeAlias = Callable[[Any], Any]
"""Makes of a decoded value what an annotation says, or raises `DecodeError`."""


class Unfit(DecodeError):
    """The body of a delivery is nothing that its handler takes: it would be so another time, too."""


Unfit.__name__ = Unfit.__qualname__ = DecodeError.__name__  # in logs and headers it is the error that users know
Unfit.__module__ = DecodeError.__module__


def check_convert(hook: object) -> None:
    """Refuse what can't be called."""
    if hook is not None and (not callable(hook) or is_async(hook)):
        raise TypeError(f"convert is a plain function of an annotation and a value, or None, not {hook!r:.200}")


def argument_conversions(function: Callable[..., Any], hook: Convert | None) -> dict[str, Conversion]:
    """What converts the arguments of a function, by the names of its parameters; none for those that take anything.
    `TypeError` where an annotation can't be evaluated, or converted to.
    """
    check_convert(hook)
    if hook is None:
        return {}
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # of a builtin that does not tell
        return {}
    said = {name: each.annotation for name, each in parameters.items() if each.annotation is not each.empty}
    if not said:
        return {}
    hints = _evaluated(function, said)
    return {name: found for name, hint in hints.items() if (found := _conversion(function, name, hint, hook))}


def payload_conversion(function: Callable[..., Any], hook: Convert | None) -> Conversion | None:
    """What converts the first argument of a function, which is called with it; None where that may be anything. Errors
    as above.
    """
    check_convert(hook)
    first = next(iter(_positional(function)), None)
    if hook is None or first is None or first.annotation is first.empty:
        return None
    hint = _evaluated(function, {first.name: first.annotation})[first.name]
    return _conversion(function, first.name, hint, hook)


def _positional(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters that may be given by position, `*args` the last."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # of a builtin that does not tell
        return []
    kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.VAR_POSITIONAL
    return [each for each in parameters if each.kind in kinds]


def result_conversion(function: Callable[..., Any], hook: Convert | None) -> Conversion | None:
    """What converts a function's result; None where it may be anything. Errors as above."""
    check_convert(hook)
    if hook is None:
        return None
    annotation = inspect.signature(function).return_annotation
    if annotation is inspect.Signature.empty:
        return None
    hint = _evaluated(function, {"return": annotation})["return"]
    return _conversion(function, f"{function.__name__}()", hint, hook)


def converted(conversions: Mapping[str, Conversion], bound: inspect.BoundArguments) -> None:
    """Convert the arguments of a call in their place."""
    parameters, arguments = bound.signature.parameters, bound.arguments
    for name, conversion in conversions.items():
        if name not in arguments:
            continue
        match parameters[name].kind:
            case inspect.Parameter.VAR_POSITIONAL:
                arguments[name] = tuple(map(conversion, arguments[name]))
            case inspect.Parameter.VAR_KEYWORD:
                arguments[name] = {each: conversion(value) for each, value in arguments[name].items()}
            case _:
                arguments[name] = conversion(arguments[name])


def _conversion(function: Callable[..., Any], where: str, annotation: Any, hook: Convert) -> Conversion | None:
    if annotation is Any or annotation is object:
        return None
    if hook is not convert:
        return partial(_by_hook, hook, annotation, where)
    try:
        read = reader_of(annotation).read
    except TypeError as error:
        raise TypeError(f"{_name(function)}, {where}: {error}") from error

    def conversion(value: Any) -> Any:
        try:
            return read(value)
        except Misfit as misfit:
            raise misfit.as_error(where) from misfit.__cause__
        except RecursionError:
            raise DecodeError(f"{where}: nested too deep") from None

    return conversion


def _by_hook(hook: Convert, annotation: Any, where: str, value: Any) -> Any:
    try:
        return hook(annotation, value)
    except Exception as error:
        raise DecodeError(f"{where}: {shown(text_of(error), 1000) or type(error).__name__}") from error


def _evaluated(function: Callable[..., Any], annotations: Mapping[str, Any]) -> dict[str, Any]:
    """The annotations, those that are text evaluated where the function was written."""

    def holder() -> None:
        """Has the annotations that are asked for, and no others that may not be evaluated."""

    holder.__annotations__ = dict(annotations)
    try:
        return get_type_hints(holder, globalns=getattr(_written(function), "__globals__", {}), include_extras=True)
    except Exception as error:
        raise TypeError(
            f"an annotation of {_name(function)} can't be evaluated, {text_of(error)}: {UNKNOWN_HINT}"
        ) from error


def _written(function: Any) -> Any:
    """The function as it was written, within what decorators, methods and partials put around it."""
    for _ in range(100):
        if isinstance(function, partial):
            function = function.func
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif inspect.ismethod(function):
            function = function.__func__
        elif isinstance(function, type):
            function = function.__init__  # type: ignore[misc]
        elif inspect.isroutine(function):
            break
        else:
            function = type(function).__call__
    return function


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", None) or repr(function)


# --- handlers of deliveries -------------------------------------------------------------------------------------------


def typed(handler: Callable[..., Any], hook: Convert) -> Callable[[Any], Any]:
    """A handler of deliveries around one of what they hold: of the decoded body as its first parameter's annotation
    says, and of the `Delivery` where there is a second one that has no default or is named "delivery".

    It raises `Unfit`, before the handler is called, where the body is nothing of the kind. A coroutine function where
    the handler is one.
    """
    check_callable(handler)
    check_convert(hook)
    is_given_both, conversion = _takes_both(handler), payload_conversion(handler, hook)

    def arguments(delivery: Any) -> tuple[Any, ...]:
        try:
            value = delivery.decode()
            if conversion is not None:
                value = conversion(value)
        except DecodeError as error:
            raise Unfit(*error.args) from error.__cause__
        return (value, delivery) if is_given_both else (value,)

    if is_async(handler):

        @wraps(handler, updated=())
        async def handle(delivery: Any) -> Any:
            return await handler(*arguments(delivery))

        return handle

    @wraps(handler, updated=())
    def call(delivery: Any) -> Any:
        return handler(*arguments(delivery))

    return call


def _takes_both(handler: Callable[..., Any]) -> bool:
    """Whether a handler takes the delivery beside the payload. `TypeError` where it takes neither, or more."""
    positional = _positional(handler)
    try:
        inspect.signature(handler).bind(*[None] * max(1, len(_needed(positional))))
    except TypeError as error:
        raise TypeError(f"with convert, the handler is called with the payload: {handler!r}, {error}") from None
    except ValueError:  # of a builtin that does not tell
        return False
    if len(_needed(positional)) > 2:
        raise TypeError(f"with convert, the handler is called with the payload and the delivery alone: {handler!r}")
    return len(positional) > 1 and (len(_needed(positional)) > 1 or positional[1].name == "delivery")


def _needed(parameters: list[inspect.Parameter]) -> list[inspect.Parameter]:
    return [each for each in parameters if each.default is each.empty and each.kind is not each.VAR_POSITIONAL]
