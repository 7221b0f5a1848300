"""Quantities that vary, as people write them: ``5ms``, ``exp:5ms``, ``uniform:1ms,9ms``, ``lognormal:5ms,0.5``.

Parentheses may stand in place of the colon, where the shell lets them. What is drawn is drawn from a given random
generator, so that a seed gives the same again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import exp, log
from random import Random
from typing import TypeVar

from loadtest import units

T = TypeVar("T")

_CALL = re.compile(r"([a-z]+)(?:\((.*)\)|:(.*))")
_KINDS = {"exp": 1, "uniform": 2, "lognormal": 2}
LARGEST_BODY = 512 * 2**20
"""Bytes that RabbitMQ takes as one message, however it is configured."""
WORK = "5ms, exp:5ms, uniform:1ms,9ms or lognormal:5ms,0.5"
SIZES = "128, 1KiB,16KiB:10%, uniform:100,10k, exp:4KiB or lognormal:1KiB,1"


@dataclass(frozen=True, slots=True)
class Distribution:
    """A quantity that varies: `constant`, `exp` (its mean), `uniform` (least, most), `lognormal` (its median, and the
    standard deviation of its logarithm).
    """

    kind: str
    numbers: tuple[float, ...]

    def sampler(self, random: Random) -> Callable[[], float]:
        """What draws the next value."""
        first, *rest = self.numbers
        if self.kind == "exp":
            return lambda: random.expovariate(1 / first)
        if self.kind == "uniform":
            return lambda: random.uniform(first, rest[0])
        if self.kind == "lognormal":
            return lambda: random.lognormvariate(log(first), rest[0])
        return lambda: first

    @property
    def mean(self) -> float:
        """The mean of what is drawn."""
        if self.kind == "uniform":
            return sum(self.numbers) / 2
        return self.numbers[0] * (exp(self.numbers[1] ** 2 / 2) if self.kind == "lognormal" else 1)


def parse_work(text: str) -> Distribution:
    """How long consumers work on a message, in seconds; ValueError, with examples, for anything else."""
    return _parse(text, units.parse_duration, "time", WORK)


def _parse(text: str, parse: Callable[[str], float], kind: str, examples: str) -> Distribution:
    call = _CALL.fullmatch(text.strip())
    if call is None:
        return Distribution("constant", (parse(text),))
    name, words = call[1], (call[2] or call[3] or "").split(",")
    if len(words) != _KINDS.get(name):
        raise ValueError(f"{text!r} is no {kind} (write for example {examples})")
    numbers = [parse(words[0])]
    if name == "uniform":
        numbers.append(parse(words[1]))
        if numbers[1] < numbers[0]:
            raise ValueError(f"{text!r}: the least is more than the most")
    elif name == "lognormal":
        numbers.append(_parse_number(words[1], "the logarithm's standard deviation", text, most=5))
    if not numbers[0] > 0 and name != "uniform":
        raise ValueError(f"{text!r}: it must be above 0")
    return Distribution(name, tuple(numbers))


def _parse_number(word: str, name: str, text: str, *, most: int) -> float:
    try:
        number = float(word)
    except ValueError:
        number = 0.0
    if not 0 < number <= most:
        raise ValueError(f"{text!r}: {name} is a number above 0, and at most {most}")
    return number


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of bodies in bytes: some with their weights, or a distribution, cut off at its least and its most."""

    weights: tuple[tuple[int, float], ...] = ()
    distribution: Distribution | None = None

    def draw(self, random: Random, number: int, *, least: int, most: int) -> list[int]:
        """So many sizes."""
        if self.distribution is not None:
            sample = self.distribution.sampler(random)
            return [min(most, max(least, round(sample()))) for _ in range(number)]
        return draw_exactly([size for size, _ in self.weights], [weight for _, weight in self.weights], random, number)

    @property
    def mean(self) -> float:
        """The mean of what is drawn, but for what is cut off."""
        if self.distribution is not None:
            return self.distribution.mean
        return sum(size * weight for size, weight in self.weights)

    @property
    def least(self) -> int:
        """The smallest size there is; 0 if it is cut off."""
        if self.distribution is None:
            return min(size for size, _ in self.weights)
        return round(self.distribution.numbers[0]) if self.distribution.kind == "uniform" else 0


def parse_sizes(text: str) -> int | Sizes:
    """One size in bytes, or several; ValueError, with examples, for anything else. Who has no share gets what is left
    over, all alike.
    """
    if _CALL.fullmatch(text.strip()):
        return Sizes(distribution=_parse(text, units.parse_size, "size", SIZES))
    if "," not in text and ":" not in text:
        return _parse_size(text)
    sizes: list[int] = []
    shares: list[float | None] = []
    for word in text.split(","):
        size, colon, share = word.partition(":")
        sizes.append(_parse_size(size))
        shares.append(parse_share(share) if colon else None)
    told = sum(share for share in shares if share is not None)
    others = shares.count(None)
    if told > 1 + 1e-9 or (not others and told < 1 - 1e-9) or (others and told > 1 - 1e-9):
        raise ValueError(f"{text!r}: the shares must make 100%, or leave some for the sizes without one")
    rest = (1 - told) / others if others else 0.0
    return Sizes(tuple((size, rest if share is None else share) for size, share in zip(sizes, shares, strict=True)))


def _parse_size(text: str) -> int:
    size = units.parse_size(text)
    if size > LARGEST_BODY:
        raise ValueError(f"{text!r} is more than RabbitMQ ever takes as one message, 512 MiB")
    return size


def parse_share(text: str) -> float:
    """A share from ``10%`` or ``0.1``; ValueError for anything else, less than 0 or more than 1."""
    word = text.strip()
    try:
        share = float(word[:-1]) / 100 if word.endswith("%") else float(word)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ValueError(f"{text!r} is no share (write for example 10% or 0.1)")
    return share


def parse_skew(text: str) -> Callable[[int], list[float]]:
    """How unevenly queues are chosen: a function that gives so many queues their shares.

    ``zipf:1.1`` gives the k-th queue a share in proportion to 1/k^1.1, ``80%`` the first queue that share and the
    others the rest. ValueError, with examples, for anything else.
    """
    call = _CALL.fullmatch(text.strip())
    if call is None:
        share = parse_share(text)
        return lambda queues: [share, *[(1 - share) / (queues - 1)] * (queues - 1)] if queues > 1 else [1.0]
    if call[1] != "zipf":
        raise ValueError(f"{text!r} is no choice of queues (write for example zipf:1.1, or 80%)")
    exponent = _parse_number(call[2] or call[3] or "", "the exponent", text, most=10)

    def weigh(queues: int) -> list[float]:
        weights = [k**-exponent for k in range(1, queues + 1)]
        total = sum(weights)
        return [weight / total for weight in weights]

    return weigh


def draw_exactly(values: Sequence[T], shares: Sequence[float], random: Random, number: int) -> list[T]:
    """So many of the values, shuffled, each as often as its share says: to within one."""
    bounds = [round(each * number) for each in accumulate(shares, initial=0.0)]
    drawn = [value for value, (low, high) in zip(values, pairwise(bounds), strict=True) for _ in range(high - low)]
    random.shuffle(drawn)
    return drawn
