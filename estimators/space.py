"""Search spaces as plain data: a mapping from a parameter's name to one of three ranges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

Value: TypeAlias = bool | int | float | str


@dataclass(frozen=True)
class Float:
    """A real number in [low, high]; `log` draws it uniformly in its logarithm."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Int:
    """A whole number in [low, high], both ends included; `log` draws it uniformly in its logarithm."""

    low: int
    high: int
    log: bool = False


@dataclass(frozen=True)
class Choice:
    """One of `options`, simplest first."""

    options: tuple[Value, ...]


Range: TypeAlias = Float | Int | Choice
Space: TypeAlias = dict[str, Range]


def nearest(range_: Range, value: Value) -> Value:
    """The value moved into the range: a number to the nearer end, an unknown option to the first."""
    if isinstance(range_, Choice):
        return value if value in range_.options else range_.options[0]
    within = min(max(float(value), range_.low), range_.high)
    return round(within) if isinstance(range_, Int) else within
