"""Times, rates and sizes as people write them: ``"5ms"``, ``"10mbit"``, ``"64KiB"``."""

from __future__ import annotations

import re

_TIME_NS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "min": 60 * 10**9, "h": 3600 * 10**9}
_RATE = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_SIZE = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_NUMBER = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*([a-zA-Z/]*)\s*")


def _parse(value: int | str, table: dict[str, int], what: str, example: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError(f"{what} {value!r}: give an int or text like {example!r}")
    if isinstance(value, int):
        number: float = value
        scale = 1
    else:
        match = _NUMBER.fullmatch(value)
        if match is None or match[2].lower() not in table:
            raise ValueError(f"{what} {value!r}: write it like {example!r} ({', '.join(table)})")
        number, scale = float(match[1]), table[match[2].lower()]
    if number < 0:
        raise ValueError(f"{what} {value!r}: must not be negative")
    return round(number * scale)


def duration_ns(value: int | str) -> int:
    """Nanoseconds of a duration: an int is nanoseconds, text has a unit (``"250us"``, ``"5ms"``, ``"2s"``).

    Raises
    ------
    ValueError
        Negative, or text without a known unit.
    TypeError
        Neither int nor str: a float would leave open what it counts.
    """
    return _parse(value, _TIME_NS, "duration", "5ms")


def rate_bits(value: int | str) -> int:
    """Bits per second of a rate: an int, or text (``"10mbit"``; decimal prefixes, as links are sold)."""
    return _parse(value, _RATE, "rate", "10mbit")


def size_bytes(value: int | str) -> int:
    """Bytes of a size: an int, or text (``"64KiB"``, ``"1MB"``)."""
    return _parse(value, _SIZE, "size", "64KiB")
