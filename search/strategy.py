"""What a search strategy is: it proposes points (`ask`) and hears what became of them (`tell`).

It sees a space and values, never the study. A new strategy is one file in `strategies/` and one word in `strategies/__init__.py`; it writes `propose`. What it
proposes must be a function of its seed, the proposal's index and what it was told, and of nothing else: then a run that
was interrupted and told its trials again proposes what the uninterrupted run would have.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from automl.estimators.errors import UsageError
from automl.estimators.space import Value

from .space import Branch, JointSpace, Point, complete, enumerate_branch, key, sample_branch, size

RETRIES = 2  # fresh proposals in place of one that is known already, before a random unseen point is taken
RANDOM_RETRIES = 32


@dataclass(frozen=True)
class Told:
    """What became of a point: its values (all minimised), None if it failed, and the rung at which they were
    measured.
    """

    number: int
    point: Point
    values: tuple[float, ...] | None
    rung: int


class Strategy(ABC):
    """Proposes points of a joint space, none of them twice.

    Parameters
    ----------
    branches : the joint space, one branch a family, simplest first.
    seed : everything that is drawn follows from it.
    objectives : how many values `tell` brings.
    starts : known good points (names left out take their default). Only strategies that say so use them.
    cost : predicted seconds of a point. Only strategies that say so use it.
    """

    name: ClassVar[str]
    """Its one word in lists and on the command line."""
    grows: ClassVar[bool] = False
    """Whether the study also tries larger forms of the most accurate boosted model, as long as that pays."""

    def __init__(
        self,
        branches: JointSpace,
        seed: int = 0,
        objectives: int = 1,
        *,
        starts: Sequence[Mapping[str, Value]] = (),
        cost: Callable[[Point], float] | None = None,
    ) -> None:
        if not branches:
            raise UsageError("the search space has no family")
        self.branches = branches
        self.seed = seed
        self.objectives = objectives
        self.cost = cost
        self.starts = [complete(branches, point) for point in starts]
        self.told: dict[int, Told] = {}
        self.pending: dict[str, Point] = {}
        self._index = 0
        self._seen: dict[str, str] = {}  # key of every point ever asked or told -> its family

    @abstractmethod
    def propose(self, index: int, attempt: int) -> Point | None:
        """Proposal number `index` (`attempt` > 0 if the former ones were known already); None when there is no more."""

    def ask(self, k: int = 1) -> list[Point]:
        """The next `k` points, fewer when the space or the strategy is exhausted. None is given twice."""
        points: list[Point] = []
        while len(points) < k:
            point = self._fresh()
            if point is None:
                break
            self._index += 1
            self._remember(point)
            self.pending[key(point)] = point
            points.append(point)
        return points

    def tell(
        self, point: Mapping[str, Value], values: Sequence[float] | None, rung: int = 0, number: int | None = None
    ) -> None:
        """What became of a point, asked here or before an interruption; names that it leaves out are at their defaults.

        `values` are the objectives, all minimised, and for all that is told from one and the same rung; None, or a
        value that is not finite, means that the trial failed. `number` is the trial's own (a later tell of the same
        number replaces the former; without it the next free one is taken). Raises UsageError if the point is not of
        this space or the values are not `objectives` many.
        """
        full = complete(self.branches, point)
        number = max(self.told, default=-1) + 1 if number is None else number
        if values is not None and len(values) != self.objectives:
            raise UsageError(f"trial {number}: {self.objectives} values are needed, found {list(values)}")
        finite = values is not None and all(math.isfinite(v) for v in values)
        known = self.pending.pop(key(full), None)
        if known is None and number not in self.told:  # asked before an interruption, or added from outside
            self._index += 1
        self._remember(full)
        self.told[number] = Told(
            number, full, tuple(map(float, values)) if finite and values is not None else None, rung
        )

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left to propose: every point of a finite space was given."""
        return not self._open()

    def random(self, *index: int) -> np.random.Generator:
        """The random numbers of one proposal: a function of the run's seed and of `index`."""
        return np.random.default_rng([self.seed, *index])

    def _remember(self, point: Point) -> None:
        self._seen[key(point)] = str(point["family"])

    def _open(self) -> list[Branch]:
        """The branches that still hold a point not given."""
        families = list(self._seen.values())
        return [branch for branch in self.branches if families.count(branch.family) < size(branch)]

    def _fresh(self) -> Point | None:
        for attempt in range(RETRIES + 1):
            point = self.propose(self._index, attempt)
            if point is None:
                return None
            if key(point) not in self._seen:
                return point
        return self._unseen(self.random(self._index, RETRIES + 1))

    def _unseen(self, rng: np.random.Generator) -> Point | None:
        """A random point that was not given yet, None if there is none."""
        open_branches = self._open()
        if not open_branches:
            return None
        branch = open_branches[int(rng.integers(len(open_branches)))]
        for _ in range(RANDOM_RETRIES):
            point = sample_branch(branch, rng)
            if key(point) not in self._seen:
                return point
        return next((point for point in enumerate_branch(branch) if key(point) not in self._seen), None)
