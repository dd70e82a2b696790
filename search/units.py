"""What a person types and reads: "5m", "100us", "200MB", "10M". Inside there are only seconds, bytes and rows."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Callable
from decimal import Decimal

from automl.estimators.errors import UsageError, UsageTypeError

SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
BYTES = {
    "b": 1.0,
    "kb": 1e3,
    "mb": 1e6,
    "gb": 1e9,
    "tb": 1e12,
    "kib": 2.0**10,
    "mib": 2.0**20,
    "gib": 2.0**30,
    "tib": 2.0**40,
}
COUNTS = {"k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9}

_NUMBER = re.compile(r"([0-9][0-9_]*(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+)\s*([a-zµ]*)", re.IGNORECASE)


def seconds(value: object, name: str) -> float:
    """A time in seconds from a number (seconds) or text such as "90s", "5m", "1h30m" or "100us".

    `name` is the option or argument, for the message. Raises UsageError if it isn't a time above zero.
    """
    return _quantity(value, name, SECONDS, "a time", 'seconds (300), or "100us", "1ms", "90s", "5m", "1h"')


def size(value: object, name: str) -> int:
    """A number of bytes from a number (bytes) or text such as "200MB", "4GiB". Raises as `seconds` does."""
    return max(
        1, round(_quantity(value, name, BYTES, "a size", 'bytes (200000000), or "500kB", "200MB", "4GB", "1GiB"'))
    )


def count(value: object, name: str) -> int:
    """A whole number of things from a number or text such as "500k", "10M", "1e6". Raises as `seconds` does."""
    found = _quantity(value, name, COUNTS, "a count", 'a whole number (10000000), or "500k", "10M"')
    if found != int(found):
        raise UsageError(f"{name} is {value!r}, not a whole number")
    return int(found)


def _quantity(value: object, name: str, units: dict[str, float], what: str, write: str) -> float:
    found: float | None
    if isinstance(value, str):
        found = _parse(value, units)
    elif isinstance(value, numbers.Real) and not isinstance(value, bool):
        found = float(value)
    else:
        raise UsageTypeError(f"{name} is a {type(value).__name__}, not {what}; write {write}")
    if found is None:
        raise UsageError(f"{name} is {value!r}, not {what}; write {write}")
    if not (math.isfinite(found) and found > 0):
        raise UsageError(f"{name} is {value}, but must be above zero and finite; write {write}")
    return found


def _parse(text: str, units: dict[str, float]) -> float | None:
    """The sum of the number-unit pairs in `text`; None if it holds anything else."""
    text = text.strip()
    sign = -1.0 if text.startswith("-") else 1.0
    rest, total, pairs = text.removeprefix("-"), Decimal(0), 0
    while rest:
        match = _NUMBER.match(rest)
        if match is None:
            return None
        number, unit = match.groups()
        scale = units.get(unit) or units.get(unit.lower())
        if unit == "":
            scale = 1.0 if pairs == 0 and match.end() == len(rest) else None
        if scale is None:
            return None
        total += Decimal(number.replace("_", "")) * Decimal(str(scale))  # exact: "60us" is the float 6e-05
        rest, pairs = rest[match.end() :].lstrip(), pairs + 1
    return sign * float(total) if pairs else None


def show_seconds(value: float | None) -> str:
    """ "31 us", "2.1 s", "12 min": three significant digits in the unit that reads best."""
    if value is None or not math.isfinite(value):
        return "-"
    if value >= 3600:
        return f"{value / 3600:.3g} h"
    if value >= 600:
        return f"{value / 60:.3g} min"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= scale * 0.9995:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"


def show_bytes(value: float | None) -> str:
    """ "420 kB", "41 MB"."""
    return "-" if value is None else _decimal(value, ("B", "kB", "MB", "GB", "TB"))


def show_score(value: float | None) -> str:
    """ "0.91658", "524.91", "42,792": five significant digits, of large values all before the point; "-" for none."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.5g}"


def _decimal(value: float, units: tuple[str, ...]) -> str:
    if not math.isfinite(value):
        return "-"
    step = 0
    while abs(value) >= 999.5 and step < len(units) - 1:
        value, step = value / 1000, step + 1
    text = f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.3g}"
    return f"{text} {units[step]}".strip()


def enough(value: float, show: Callable[[float], str], read: Callable[[object, str], float]) -> str:
    """`value` as text, rounded up to three digits or so, such that the text read back is no less than `value`."""
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    for k in range(12):  # the shown digits may round down: a few steps up settle it
        text = show(value if k == 0 else math.ceil(value / step) * step + (k - 1) * step)
        if read(text, "value") >= value:
            return text
    return repr(value)
