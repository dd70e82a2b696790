"""The joint search space as plain data: one branch a family.

A point in it is a flat dict `{"family": ..., name: value, ...}`. A family is chosen first; only its own parameters are then part of the point. Everything here is a pure function of its
arguments, so that two processes (or a run and its resumption) see the same points.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from automl.estimators.errors import UsageError
from automl.estimators.space import Choice, Int, Range, Space, Value


@dataclass(frozen=True)
class Branch:
    """One family's part of the joint space: its name and the ranges of its parameters."""

    family: str
    space: Space


JointSpace: TypeAlias = tuple[Branch, ...]
Point: TypeAlias = dict[str, Value]


def key(point: Mapping[str, Value]) -> str:
    """The point as canonical JSON: equal points have equal keys, whatever the order of their names."""
    return json.dumps(dict(point), sort_keys=True, separators=(",", ":"))


def branch_of(branches: JointSpace, family: Value) -> Branch:
    """The branch of `family`. Raises UsageError naming the known ones."""
    for branch in branches:
        if branch.family == family:
            return branch
    raise UsageError(f"no family {family!r} in this search space; it has {', '.join(b.family for b in branches)}")


def default(range_: Range) -> Value:
    """The default of one range: a choice's first option, a number's middle (the geometric one where `log`)."""
    return range_.options[0] if isinstance(range_, Choice) else from_unit(range_, 0.5)


def defaults(branch: Branch) -> Point:
    """The branch's default point."""
    return {"family": branch.family, **{name: default(range_) for name, range_ in branch.space.items()}}


def complete(branches: JointSpace, point: Mapping[str, Value]) -> Point:
    """The point with the names that it left out at their defaults, in the branch's order.

    Raises UsageError if it has an unknown family or name, or a value outside its range.
    """
    if "family" not in point:
        raise UsageError(f"the point {dict(point)!r} names no family")
    branch = branch_of(branches, point["family"])
    full = defaults(branch) | dict(point)
    validate(branches, full)
    return full


def contains(range_: Range, value: Value) -> bool:
    """Whether `value` lies in the range, with its type (an Int holds no fraction and no boolean)."""
    if isinstance(range_, Choice):
        return any(type(value) is type(option) and value == option for option in range_.options)
    if isinstance(value, (bool, str)) or (isinstance(range_, Int) and not isinstance(value, int)):
        return False
    return range_.low <= value <= range_.high


def validate(branches: JointSpace, point: Mapping[str, Value]) -> None:
    """Raises UsageError unless the point has exactly its family's names, each with a value inside its range."""
    branch = branch_of(branches, point.get("family", ""))
    names = set(point) - {"family"}
    unknown, missing = sorted(names - set(branch.space)), sorted(set(branch.space) - names)
    if unknown or missing:
        found = "; ".join(
            f"{what} {', '.join(which)}" for what, which in (("unknown", unknown), ("missing", missing)) if which
        )
        raise UsageError(f"a point of family {branch.family} has the wrong parameters: {found}")
    for name, range_ in branch.space.items():
        if not contains(range_, point[name]):
            raise UsageError(f"{branch.family}.{name} = {point[name]!r} is outside {range_}")


def from_unit(range_: Range, u: float) -> Value:
    """The value at position `u` in [0, 1] of a range: evenly in the value, or in its logarithm where `log`."""
    if isinstance(range_, Choice):
        return range_.options[min(int(u * len(range_.options)), len(range_.options) - 1)]
    if isinstance(range_, Int):  # half a step wider on both sides, so that both ends are as likely as the others
        low, high = range_.low - 0.5, range_.high + 0.5
        if range_.log and range_.low >= 1:
            raw = math.exp(math.log(low) + u * (math.log(high) - math.log(low)))
        else:
            raw = low + u * (high - low)
        return min(max(round(raw), range_.low), range_.high)
    if range_.log:
        value = math.exp(math.log(range_.low) + u * (math.log(range_.high) - math.log(range_.low)))
    else:
        value = range_.low + u * (range_.high - range_.low)
    return min(max(value, range_.low), range_.high)


def to_unit(range_: Range, value: Value) -> float:
    """The position of `value` in its range, in [0, 1]; of a choice, the middle of its option's share."""
    if isinstance(range_, Choice):
        return (range_.options.index(value) + 0.5) / len(range_.options)
    if range_.low == range_.high:
        return 0.5
    low, high, x = float(range_.low), float(range_.high), float(value)
    if isinstance(range_, Int):
        low, high = low - 0.5, high + 0.5
    if range_.log and low > 0:
        low, high, x = math.log(low), math.log(high), math.log(x)
    return min(max((x - low) / (high - low), 0.0), 1.0)


def unit(branches: JointSpace, point: Mapping[str, Value]) -> dict[str, float]:
    """Every parameter's position in [0, 1], by name, the family itself left out."""
    branch = branch_of(branches, point.get("family", ""))
    return {name: to_unit(range_, point[name]) for name, range_ in branch.space.items()}


def sample_branch(branch: Branch, rng: np.random.Generator) -> Point:
    """A uniform draw from one branch (in the logarithm where `log`)."""
    positions = rng.random(len(branch.space))
    drawn = {
        name: from_unit(range_, float(u)) for (name, range_), u in zip(branch.space.items(), positions, strict=True)
    }
    return {"family": branch.family, **drawn}


def sample(branches: JointSpace, rng: np.random.Generator) -> Point:
    """A uniform draw: the family first, each as likely as the others, then its own parameters."""
    return sample_branch(branches[int(rng.integers(len(branches)))], rng)


def size(branch: Branch) -> float:
    """How many points a branch has: inf as soon as one range is a real interval."""
    total = 1.0
    for range_ in branch.space.values():
        if isinstance(range_, Choice):
            total *= len(set(range_.options))
        elif range_.low == range_.high:
            continue
        else:
            total *= range_.high - range_.low + 1 if isinstance(range_, Int) else math.inf
    return total


def steps(range_: Range, count: int) -> list[Value]:
    """At most `count` distinct values of a range, the default first: of a choice its options, of a number the middles
    of `count` equal shares (`count` = 3: at 1/6, 1/2 and 5/6 of the range)."""
    if isinstance(range_, Choice):
        return list(dict.fromkeys(range_.options))[: max(count, 1)]
    values = dict.fromkeys([default(range_), *(from_unit(range_, (i + 0.5) / count) for i in range(count))])
    return list(values)[: max(count, 1)]


def grid(
    branches: JointSpace,
    step_count: int = 3,
    limit: int = 256,
    cost: Callable[[Point], float] | None = None,
) -> Iterator[Point]:
    """The Cartesian product of a few steps per range, each point once.

    A family's ranges take `step_count` values each, in the order in which the family lists them, as long as its
    product stays within `limit` points; the ranges after that stay at their default (twelve ranges of three steps
    would be half a million points). Without `cost` the families take turns, each from its default outward; with it
    the points come from the cheapest to the most expensive, ties in the former order.
    """
    products = [_branch_grid(branch, step_count, limit) for branch in branches]
    turns = (point for row in itertools.zip_longest(*products) for point in row if point is not None)
    return turns if cost is None else iter(sorted(turns, key=cost))


def enumerate_branch(branch: Branch) -> Iterator[Point]:
    """Every point of a finite branch, lazily. Raises ValueError if the branch holds a real interval."""
    values: list[list[Value] | range] = []
    for range_ in branch.space.values():
        if isinstance(range_, Choice):
            values.append(list(dict.fromkeys(range_.options)))
        elif isinstance(range_, Int):
            values.append(range(range_.low, range_.high + 1))
        elif range_.low == range_.high:
            values.append([range_.low])
        else:
            raise ValueError(f"the branch {branch.family} has a real interval and cannot be enumerated")
    for chosen in itertools.product(*values):
        yield {"family": branch.family, **dict(zip(branch.space, chosen, strict=True))}


def _branch_grid(branch: Branch, step_count: int, limit: int) -> list[Point]:
    columns: list[list[Value]] = []
    total = 1
    for range_ in branch.space.values():
        values = steps(range_, step_count)
        if total * len(values) > limit:
            values = values[:1]
        total *= len(values)
        columns.append(values)
    chosen = itertools.product(*(range(len(values)) for values in columns))
    outward = sorted(chosen, key=lambda places: (sum(place > 0 for place in places), places))
    return [
        {"family": branch.family, **{n: c[i] for n, c, i in zip(branch.space, columns, places, strict=True)}}
        for places in outward
    ]
