"""The portfolio: hyperparameters known to be good from other tables, in the order in which they are tried on a new one.

`portfolio.json` beside this holds them, with the command, the tables and the held-out figures that they come from;
`benchmarks/portfolio.py` makes it. They were picked one by one, each the one whose model adds most hypervolume to the front
for a second of CPU time: an expensive member in the middle makes the anytime curve flat for many times its price.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from automl.estimators.families import FAMILIES
from automl.estimators.family import Facts, Family
from automl.estimators.space import Value

from .space import Point, key

FILE = Path(__file__).with_name("portfolio.json")
COUNTS = ((100, 4), (500, 8), (2_500, 15), (10_000, 40), (100_000, 100))
"""(rows, points that are tried on a table of so many at most): AutoGluon's guard against choosing by chance on few rows."""
SHARE = 0.2
"""A point predicted to take more than this share of the budget (twice what `Family.adapted` aims at) waits for the others."""


@dataclass(frozen=True)
class Entry:
    """One point of a family for some tasks. `gain_per_second`: hypervolume added to its predecessors' by a CPU second."""

    family: str
    point: dict[str, Value]
    tasks: tuple[str, ...]
    source: str
    gain_per_second: float


@cache
def entries() -> tuple[Entry, ...]:
    """The portfolio that is shipped, in its order."""
    return tuple(Entry(**{**e, "tasks": tuple(e["tasks"])}) for e in json.loads(FILE.read_text())["entries"])


def starting_points(
    families: Sequence[Family],
    facts: Facts,
    seconds: Callable[[dict[str, Any]], float],
    portfolio: Iterable[Entry] | None = None,
) -> list[Point]:
    """The points to begin with, each with its family, in order: `portfolio` (the shipped one by default) as far as its

    families are ours, adapted to the table and its budget, and at most `most(rows)` of them. A family that it doesn't know
    (a user's own) has a turn with each of its `starts` in as many points as there are families. Families alternate. What is
    predicted to take a large share of the budget (by `seconds` of a point) comes last, the cheapest first, where the k-th of
    a family counts k times its price: variants of one model wait for the other families' first.
    """
    kinds = {type(family) for family in FAMILIES}
    ours = {family.name: family for family in families if type(family) in kinds}
    listed = [
        entry
        for entry in (entries() if portfolio is None else portfolio)
        if facts.task in entry.tasks and entry.family in ours
    ]
    adapted = [{"family": e.family, **ours[e.family].adapted(e.point, facts)} for e in listed]
    distinct = {key(point): point for point in adapted}
    turns = [(float(i), point) for i, point in enumerate(list(distinct.values())[: most(facts.rows)])]
    known = {entry.family for entry in listed}
    for family in families:
        if family.name not in known:
            turns += [
                (k * len(families) - 0.5, {"family": family.name, **start})
                for k, start in enumerate(family.starts(facts))
            ]
    ordered = _alternating([point for _, point in sorted(turns, key=lambda turn: turn[0])])
    return _dear_last(ordered, seconds, SHARE * facts.budget_seconds)


def most(rows: int) -> int:
    """How many points of the portfolio are tried on a table of so many rows, by interpolation between `COUNTS`."""
    logs = [(math.log(n), math.log(count)) for n, count in COUNTS]
    x = min(max(math.log(max(1, rows)), logs[0][0]), logs[-1][0])
    below = max(i for i, (n, _) in enumerate(logs[:-1]) if n <= x)
    (low, few), (high, many) = logs[below], logs[below + 1]
    return round(math.exp(few + (many - few) * (x - low) / (high - low)))


def _alternating(points: Iterable[Point]) -> list[Point]:
    """The points in their order, but none after one of the same family while there is one of another."""
    waiting, order = list(points), list[Point]()
    while waiting:
        last = order[-1]["family"] if order else None
        order.append(waiting.pop(next((i for i, point in enumerate(waiting) if point["family"] != last), 0)))
    return order


def _dear_last(points: Iterable[Point], seconds: Callable[[dict[str, Any]], float], bound: float) -> list[Point]:
    """The points in their order, those that take more than `bound` seconds after the others."""
    ready, late, count = list[Point](), list[tuple[float, Point]](), Counter[Value]()
    for point in points:
        price = seconds(point)
        if price <= bound:
            ready.append(point)
        else:
            count[point["family"]] += 1
            late.append((count[point["family"]] * price, point))
    return ready + [point for _, point in sorted(late, key=lambda pair: pair[0])]
