"""A load that changes over time, as people write it: ``1000:60,5000:10``, ``0..5000:30,5000``, ``1000+-500:60``.

A shape is a row of segments, each with its seconds: a constant rate, a ramp from one rate to another, or a wave around
a mean, one period long. The row is repeated, unless its last segment has no seconds: that one lasts. Before the shape
begins there may be a lead, at the rate with which it begins. All of it is on the absolute schedule of `schedule`: when
a message is due follows from the integral of the rate, whatever became of the messages before it.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import cos, inf, pi, sin, sqrt
from random import Random

from loadtest import units
from loadtest.scenarios.schedule import NANOSECONDS, Schedule, spread_phases

EXAMPLES = "2500, 1000:60,5000:10, 0..5000:30,5000 or 1000+-500:60"
_SEGMENT = re.compile(
    r"(?P<rate>[^:.+]*(?:\.\d[^:.+]*)?)(?:\.\.(?P<end>[^:+]+)|\+-(?P<swing>[^:]+))?(?::(?P<seconds>.+))?"
)
_STEPS = 60
"""Steps in which the time within a wave is found: more than doubles have bits."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a shape. Rates are messages per second; `swing` is that of a wave around `begin`."""

    begin: float
    end: float
    swing: float
    seconds: float

    def __str__(self) -> str:
        rate = f"{self.begin:.15g}"
        if self.swing:
            rate += f"+-{self.swing:.15g}"
        elif self.end != self.begin:
            rate += f"..{self.end:.15g}"
        return rate if self.seconds == inf else f"{rate}:{self.seconds:.15g}"

    def rate(self, t: float) -> float:
        """Messages per second, so many seconds after the segment's begin."""
        if self.swing:
            return self.begin + self.swing * sin(2 * pi * t / self.seconds)
        return self.begin + self._slope * t

    @property
    def peak(self) -> float:
        """The highest of its rates."""
        return max(self.begin + abs(self.swing), self.end)

    def count(self, t: float) -> float:
        """How many messages are due within that time."""
        if self.swing:
            turn = 2 * pi / self.seconds
            return self.begin * t + self.swing / turn * (1 - cos(turn * t))
        return (self.begin + self._slope * t / 2) * t

    def when(self, count: float) -> float:
        """After how many seconds so many messages are due: `count` the other way round."""
        if not count:
            return 0.0
        if self.swing:
            low, high = 0.0, self.seconds
            for _ in range(_STEPS):
                middle = (low + high) / 2
                low, high = (middle, high) if self.count(middle) < count else (low, middle)
            return high
        divisor = self.begin + sqrt(max(0.0, self.begin * self.begin + 2 * self._slope * count))
        return min(self.seconds, 2 * count / divisor) if divisor else self.seconds

    @property
    def _slope(self) -> float:
        return 0.0 if self.end == self.begin else (self.end - self.begin) / self.seconds


class Shape:
    """A row of segments, after a lead of so many seconds at the rate with which it begins."""

    def __init__(self, segments: Sequence[Segment], lead: float = 0.0) -> None:
        self.segments = tuple(segments)
        self.lead = lead
        self._led = self.segments[0].rate(0) * lead
        self._times = list(accumulate((each.seconds for each in self.segments), initial=0.0))
        self._counts = list(accumulate((each.count(each.seconds) for each in self.segments[:-1]), initial=0.0))
        self.is_repeated = self._times[-1] < inf
        self._cycle = self._counts[-1] + self.segments[-1].count(self.segments[-1].seconds) if self.is_repeated else inf

    def __str__(self) -> str:
        return ",".join(map(str, self.segments))

    @property
    def mean(self) -> float:
        """Messages per second over the whole row; of a row that ends in one that lasts, that one's."""
        return self._cycle / self._times[-1] if self.is_repeated else self.segments[-1].begin

    @property
    def peak(self) -> float:
        """Messages per second, at the most."""
        return max(each.peak for each in self.segments)

    def times(self, factor: float) -> Shape:
        """The same shape at so many times the rate."""
        return Shape(
            [replace(s, begin=s.begin * factor, end=s.end * factor, swing=s.swing * factor) for s in self.segments],
            self.lead,
        )

    def count(self, t: float) -> float:
        """How many messages are due within so many seconds from the begin of the lead."""
        if t <= self.lead:
            return self.segments[0].rate(0) * max(0.0, t)
        cycles, t = divmod(t - self.lead, self._times[-1]) if self.is_repeated else (0, t - self.lead)
        number = min(bisect_right(self._times, t), len(self.segments)) - 1
        before = self._counts[number] + (self._cycle * cycles if cycles else 0.0)
        return self._led + before + self.segments[number].count(t - self._times[number])

    def when(self, count: float) -> float:
        """How many seconds after the begin of the lead so many messages are due."""
        if count < self._led:
            return count / self.segments[0].rate(0)
        cycles, count = divmod(count - self._led, self._cycle) if self.is_repeated else (0, count - self._led)
        number = bisect_right(self._counts, count) - 1
        before = self._times[number] + (self._times[-1] * cycles if cycles else 0.0)
        return self.lead + before + self.segments[number].when(count - self._counts[number])

    def occurrences(self, seconds: float) -> Iterator[tuple[Segment, float, float]]:
        """Each segment in turn with the seconds from the begin of the lead at which it begins and ends, until then."""
        t, number = self.lead, 0
        while t < seconds:
            segment = self.segments[number % len(self.segments)]
            yield segment, t, min(t + segment.seconds, seconds)
            t, number = t + segment.seconds, number + 1


def parse_shape(text: str) -> Shape:
    """The shape that people write so; ValueError, with examples, for anything else."""
    words = text.split(",")
    segments = [_parse_segment(word, text, is_last=number == len(words)) for number, word in enumerate(words, 1)]
    shape = Shape(segments)
    if not shape.mean > 0:
        which = "a rate" if shape.is_repeated or len(segments) == 1 else "the last rate, which lasts,"
        raise ValueError(f"{text!r}: {which} must be above 0")
    return shape


def _parse_segment(word: str, text: str, *, is_last: bool) -> Segment:
    match = _SEGMENT.fullmatch(word.strip())
    if match is None:
        raise ValueError(f"{text!r} is no rate (write for example {EXAMPLES})")
    begin = units.parse_rate(match["rate"], may_be_zero=True)
    end = units.parse_rate(match["end"], may_be_zero=True) if match["end"] else begin
    swing = units.parse_rate(match["swing"]) if match["swing"] else 0.0
    seconds = units.parse_duration(match["seconds"]) if match["seconds"] else inf
    if swing > begin:
        raise ValueError(f"{word!r}: a rate below 0, as it swings by more than its mean")
    if not seconds:
        raise ValueError(f"{word!r}: a segment must last")
    if seconds == inf and (not is_last or swing or end != begin):
        raise ValueError(f"{word!r}: say for how many seconds, as in {word}:60 (only the last rate may go without)")
    return Segment(begin, end, swing, seconds)


@dataclass(frozen=True, slots=True)
class ShapedSchedule(Schedule):
    """When one client acts that follows a shape: its k-th is due when the shape has come to ``phase + k``."""

    shape: Shape

    def due(self, start: int, number: int) -> int:
        """The intended time of a message or call, counted from 0."""
        return start + int(self.shape.when(self.phase + number) * NANOSECONDS)

    def planned(self, start: int, end: int) -> int:
        """How many are due from ``start`` until before ``end``."""
        if end <= start:
            return 0
        number = max(0, int(self.shape.count((end - start) / NANOSECONDS) - self.phase) - 1)
        while self.due(start, number) < end:
            number += 1
        return number


def make_shaped_schedules(clients: int, shape: Shape, random: Random) -> tuple[ShapedSchedule, ...]:
    """Makes one schedule for each client; the shape is what each of them does."""
    interval = NANOSECONDS / shape.mean
    return tuple(ShapedSchedule(interval, phase, shape) for phase in spread_phases(clients, random))
