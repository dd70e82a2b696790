"""The portfolio: hyperparameters known to be good from other tables, in the order in which they are tried on a new one.

`portfolio.json` beside this holds them, with the command, the tables and the held-out figures that they come from;
`benchmarks/portfolio.py` makes it. They were picked one by one, each the one whose model adds most to the front (half by its
hypervolume, half by its best error) for a second of CPU time: an expensive member in the middle makes the anytime curve
flat for many times its price.
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
"""(rows, points of the portfolio that are tried on so many at most): AutoGluon's guard against choosing by chance on few rows."""
SHARE = 0.2
"""A point predicted to take more than this share of the budget (twice what `Family.adapted` aims at) waits for the others."""


@dataclass(frozen=True)
class Entry:
    """One point of a family for some tasks. `gain_per_second`: what it added to its predecessors' front by a CPU second."""

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
    """The points to begin with, each with its family: `portfolio` (the shipped one by default), then the families' `starts`.

    Of the portfolio those of our families, adapted to the table and its budget, and at most `most(rows)`. A family that it
    doesn't know (a user's own) has a turn with each of its starts in as many points as there are families. Families
    alternate. What is predicted to take a large share of the budget (by `seconds` of a point) waits, and goes with the
    starts that the portfolio left out: the cheapest first, where the k-th of a family counts k times its price, so that
    variants of one model wait for the other families' first.
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
    rest: list[Point] = []
    for family in families:
        starts: list[Point] = [{"family": family.name, **start} for start in family.starts(facts)]
        if family.name in known:
            rest += starts
        else:
            turns += [(k * len(families) - 0.5, start) for k, start in enumerate(starts)]
    ordered = _alternating([point for _, point in sorted(turns, key=lambda turn: turn[0])])
    ready = [point for point in ordered if seconds(point) <= SHARE * facts.budget_seconds]
    given = {key(point) for point in ready}
    waiting = {key(point): point for point in ordered + rest if key(point) not in given}
    return ready + cheapest_first(list(waiting.values()), seconds)


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


def cheapest_first(points: Iterable[Point], seconds: Callable[[dict[str, Any]], float]) -> list[Point]:
    """The cheapest first, where the k-th of a family counts k times its price."""
    weighed, count = list[tuple[float, Point]](), Counter[Value]()
    for point in points:
        count[point["family"]] += 1
        weighed.append((count[point["family"]] * seconds(point), point))
    return [point for _, point in sorted(weighed, key=lambda pair: pair[0])]
