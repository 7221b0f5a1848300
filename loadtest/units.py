"""Quantities as people write and read them: ``1KiB``, ``10m``, ``4,500/s``.

It owns the suffixes of the command line and the rounding of the summary. Inside the program a size is always bytes and
a duration always seconds; nothing else parses or prints a unit.
"""

from __future__ import annotations

import re

_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-z]*)\s*")
_DURATIONS = {"us": 1e-6, "ms": 1e-3, "": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_SIZES = {"": 1, "b": 1, "k": 1000, "kb": 1000, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9}
_SIZES |= {"kib": 2**10, "mib": 2**20, "gib": 2**30}
_COUNTS = {"": 1, "k": 1000, "m": 10**6}
_LARGEST = 1e12
"""The largest that a quantity may be: 30,000 years, a terabyte, a million million messages. Whatever is larger is a
slip.
"""


def parse_duration(text: str) -> float:
    """Seconds from ``20``, ``20s``, ``500ms``, ``10m``, ``2h`` or ``1d``; ValueError for anything else."""
    return _parse(text, _DURATIONS, "duration", "20, 500ms, 20s, 10m, 2h")


def parse_size(text: str) -> int:
    """Bytes from ``128``, ``16kB`` (thousands) or ``1KiB`` (1,024); ValueError for anything else."""
    return _whole(text, _parse(text, _SIZES, "size", "128, 16kB, 1KiB"))


def parse_count(text: str) -> int:
    """A whole number from ``10000``, ``10k`` or ``1m`` (a million); ValueError for anything else."""
    return _whole(text, _parse(text, _COUNTS, "number", "10000, 10k, 1m"))


def parse_rate(text: str, *, may_be_zero: bool = False) -> float:
    """Messages each second from ``2500``, ``0.5`` or ``10k``; ValueError for anything else, and for zero unless
    it ``may_be_zero``.
    """
    rate = _parse(text, _COUNTS, "rate", "2500, 0.5, 10k")
    if not rate and not may_be_zero:
        raise ValueError("a rate must be above 0")
    return rate


def parse_share(text: str) -> float:
    """A share from ``0.5`` or ``50%``, above 0 and at most 1; ValueError for anything else."""
    number, percent, rest = text.strip().partition("%")
    match = _QUANTITY.fullmatch(number)
    share = float(match[1]) / (100 if percent else 1) if match and not match[2] and not rest else 0.0
    if not 0 < share <= 1:
        raise ValueError(f"{text!r} is no share above 0 and at most 1 (write for example 0.5, 50%)")
    return share


def parse_address(text: str) -> tuple[str, int]:
    """A host and a port: ``127.0.0.1:9100``, ``[::1]:9100``, or ``:9100`` for this machine alone. ValueError else."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    if not colon or not port.isascii() or not port.isdecimal() or int(port) > 65535 or set(host) & set("/@ "):
        raise ValueError(f"{text!r} is no HOST:PORT, such as 127.0.0.1:9100")
    return host, int(port)


def format_count(value: float) -> str:
    """``12,345``; one decimal only where the number is small and broken."""
    return f"{value:,.0f}" if value >= 99.95 or value == int(value) else f"{value:,.1f}"


def format_milliseconds(value: float | None) -> str:
    """A latency with three significant digits and its unit; a dash where there were too few samples."""
    if value is None:
        return "–"
    # the unit is that of what is shown: 999.6 ms are 1.00 s, not "1000 ms"
    shown, unit = (value * 1000, "µs") if value < 0.9995 else (value, "ms") if value < 999.5 else (value / 1000, "s")
    return f"{shown:.{2 if shown < 9.995 else 1 if shown < 99.95 else 0}f} {unit}"


def format_bytes(value: float | None) -> str:
    """``1.4 GiB``, ``5.3 KiB``; a dash for None."""
    if value is None:
        return "–"
    for unit, digits in (("B", 0), ("KiB", 1), ("MiB", 1)):
        if round(abs(value), digits) < 1024:
            return f"{value:.{digits}f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def format_duration(seconds: float) -> str:
    """``7.3 s``, ``2 m 05 s``, ``1 h 02 m``."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} m {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} m"


def _parse(text: str, units: dict[str, float] | dict[str, int], kind: str, examples: str) -> float:
    match = _QUANTITY.fullmatch(text)
    unit = match and units.get(match[2].lower())
    if match is None or unit is None:
        raise ValueError(f"{text!r} is no {kind} (write for example {examples})")
    value = float(match[1]) * unit
    if value > _LARGEST:
        raise ValueError(f"{text[:40]!r} is too large a {kind}")
    return value


def _whole(text: str, value: float) -> int:
    if value != int(value):
        raise ValueError(f"{text!r} is not a whole number")
    return int(value)


def format_text(text: str) -> str:
    """What a broker or a library says, with whatever is no letter, sign or space escaped: line breaks, controls, marks
    of direction, lone surrogates.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
