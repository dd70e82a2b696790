"""The portfolio: hyperparameters known to be good from other tables, in the order in which they are tried on a new one.

`portfolio.json` beside this holds them, with the command, the tables and the held-out figures that they come from;
`benchmarks/portfolio.py` makes it. They were picked one by one, each the one whose model adds most hypervolume to the front
for a second of CPU time: an expensive member in the middle makes the anytime curve flat for many times its price.
"""

from __future__ import annotations

import json
import math
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
SHARE = 0.1
"""A point predicted to take more than this share of the budget waits for those that don't."""


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
    (a user's own) has a turn with each of its `starts` in as many points as there are families. Families alternate, and what
    is predicted to take more than a tenth of the budget (by `seconds` of a point) comes last, the cheapest first.
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
    priced = [(seconds(point), point) for _, point in sorted(turns, key=lambda turn: turn[0])]
    bound = SHARE * facts.budget_seconds
    late = sorted((pair for pair in priced if pair[0] > bound), key=lambda pair: pair[0])
    return _alternating([point for price, point in priced if price <= bound]) + [point for _, point in late]


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
