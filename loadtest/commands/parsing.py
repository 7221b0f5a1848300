"""What every command's parser is made of: refusals that show no password, and the types of flags."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, NoReturn, TypeVar

from loadtest import units
from loadtest.scenarios.completing import refuse
from loadtest.scenarios.layers import Takes
from loadtest.scenarios.settings import Argument
from loadtest.units import format_text
from loadtest.urls import redact_in

T = TypeVar("T")


class Parser(argparse.ArgumentParser):
    """A parser whose refusals show no password."""

    words: Sequence[str] = ()

    def error(self, message: str) -> NoReturn:
        """End the program with code 2, saying why."""
        super().error(format_text(redact_in(message, self.words)))

    @property
    def flags(self) -> dict[str, Takes]:
        """The flags that it takes, with their dashes, and what each of them takes."""
        return {
            flag: Takes.NOTHING if action.nargs == 0 else Takes.SEVERAL if action.default == [] else Takes.ONE
            for action in self._actions
            for flag in action.option_strings
            if flag.startswith("--")
        }


def pairs(flag: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    """What a repeatable flag of the form K=V was given."""
    found = []
    for text in texts:
        key, equals, value = text.partition("=")
        refuse(not equals or not key, f"{flag} {text!r}: write it as key=value")
        found.append((key, value))
    return found


def read_value(text: str) -> Argument:
    """A queue argument's value: what JSON takes for a number, true, false or "text", or else the text as it is."""
    try:
        value = json.loads(text, parse_constant=lambda _: None)
    except ValueError:
        return text
    return value if isinstance(value, str | int | float) else text


def typed(parse: Callable[[str], T]) -> Callable[[str], T]:
    """A flag's type, whose ValueError becomes the message."""

    def convert(value: str) -> T:
        try:
            return parse(value)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def checked(parse: Callable[[str], object]) -> Callable[[str], str]:
    """The text as it was written, once it was found to make sense."""

    def check(text: str) -> str:
        parse(text)
        return text

    return check


def number(*, least: int = 1, most: float = inf) -> dict[str, Any]:
    """The options of a flag that takes a whole number."""

    def parse(value: str) -> int:
        count = units.parse_count(value)
        refuse(count < least, f"{count} is less than {least}")
        refuse(count > most, f"{count} is more than {most}")
        return count

    return {"type": typed(parse), "metavar": "N"}


def duration(text: str, default: float | None, *, positive: bool = False) -> dict[str, Any]:
    """The options of a flag that takes seconds. Without a default of its own the text says what follows from what."""

    def parse(value: str) -> float:
        seconds = units.parse_duration(value)
        refuse(positive and not seconds, "it must be above 0")
        return seconds

    told = text if default is None else f"{text} (default {default:g} s)"
    return {"type": typed(parse), "metavar": "S", "default": default, "help": told}
