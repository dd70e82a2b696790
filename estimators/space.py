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
