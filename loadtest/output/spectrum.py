"""The percentile spectrum: how long the slowest of ten, a hundred, a thousand … had to wait, from a result's histogram.

It owns the reading of an exported histogram. It is for text and charts alike.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from math import log10
from typing import Any, NamedTuple

STEPS_A_DECADE = 24
"""Points of a spectrum for each tenfold of 1 / (1 - p): a line through them can't be told from one through all."""

KINDS = {
    "confirm": "confirm",
    "confirm_service": "confirm, once sent",
    "end_to_end": "end to end",
    "rpc": "RPC",
    "rpc_service": "RPC, once called",
    "connect": "connect",
}
"""The histograms that are shown, and what they are called."""


class Step(NamedTuple):
    """So many of the samples, as 1 / (1 - p), took no longer than this."""

    one_in: float
    milliseconds: float


def read_spectrum(encoded: str | None) -> list[Step]:
    """The spectrum of a histogram as HdrHistogram V2; empty where there is none, or none that can be read.

    The last step is the maximum, at the number of samples.
    """
    steps: list[Step] = []
    for reached, count, microseconds in _cumulated(encoded):
        one_in = count / max(1, count - reached)
        if not steps or reached == count or log10(one_in) >= log10(steps[-1].one_in) + 1 / STEPS_A_DECADE:
            steps.append(Step(one_in, microseconds / 1000))
    return steps


def spectra(result: Mapping[str, Any]) -> dict[str, list[Step]]:
    """Every spectrum of a result, by what it is called. In a closed loop the service times are the same ones again."""
    found = {}
    for key, name in KINDS.items():
        if key.endswith("_service") and result["loop"] == "closed":
            continue
        if steps := read_spectrum((result.get("histograms") or {}).get(key)):
            found[name] = steps
    return found


def _cumulated(encoded: str | None) -> Iterator[tuple[int, int, int]]:
    from hdrh import codec  # the format's own library; needed where a report is made only
    from hdrh.histogram import HdrHistogram

    refusals = (codec.HdrCookieException, codec.HdrLengthException, codec.HdrHistogramSettingsException)
    if not encoded:
        return
    try:
        histogram = HdrHistogram.decode(encoded)
    except (ValueError, TypeError, IndexError, zlib.error, *refusals):
        return
    total = histogram.get_total_count()
    reached = 0
    for item in histogram.get_recorded_iterator():
        reached += item.count_added_in_this_iter_step
        yield reached, total, item.value_iterated_to
