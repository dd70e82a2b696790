"""The default: known good points first, then Bayesian optimization where trials are dear, and evolution where they are cheap.

Which plan goes on to more rows, and when, is the study's business (`agenda.py`); this answers only which is worth trying next.
"""

from __future__ import annotations

import math
from statistics import median

import numpy as np

from automl.estimators.space import Choice

from ..front import exact_front
from ..space import Point, branch_of, from_unit, key, sample, size, to_unit
from ..strategy import Told
from .bayesian import Bayesian

DEAR = 0.5
"""Seconds of the median trial, as predicted, from which on TPE proposes, whose asks cost some 30 ms; below it mutation does."""
RANDOM_EVERY = 5
"""Every so many proposals one is random: what is learned from stays honest."""
CHANGED, STEP, FRESH = 0.35, 0.12, 0.2
"""A mutant's parameters change with the first probability, by a normal step of the second size in the unit scale of their
range; with the third probability, and where a range has no order, they are drawn anew.
"""
ACCURATE, NEAR, FINE = 0.5, 3, 0.15
"""With the first probability the parent is one of so many most accurate members, and its parameters change with the third one:
what a front of cheap models adds to the hypervolume draws nearly all mutants to them, and the best error comes to a stop.
"""
MOST_PARENTS = 64
"""So many of the front's latest members may be parents: contributions to the hypervolume take long to compute for many."""


class Auto(Bayesian):
    """The `starts` in the order given, then TPE over all that was told, or mutants of the front where a trial costs little.

    `cost` tells trials dear from cheap; without it they are dear.
    """

    name = "auto"
    grows = True

    def propose(self, index: int, attempt: int) -> Point:
        start = next((point for point in self.starts if key(point) not in self._seen), None)
        if start is not None:
            return dict(start)
        rng = self.random(index, attempt)
        if index % RANDOM_EVERY == RANDOM_EVERY - 1:
            return sample(self.branches, rng)
        parents = [] if self._dear() else self._parents()
        if not parents:
            return super().propose(index, attempt)
        if rng.random() < ACCURATE:
            near = sorted(parents, key=lambda told: (told.values or (math.inf,))[0])[:NEAR]
            return self._mutant(near[int(rng.integers(len(near)))].point, rng, FINE)
        weights = contributions([told.values or () for told in parents])
        return self._mutant(parents[int(rng.choice(len(parents), p=weights))].point, rng, CHANGED)

    def _dear(self) -> bool:
        if self.cost is None:
            return True
        return not self.told or median(self.cost(told.point) for told in self.told.values()) >= DEAR

    def _parents(self) -> list[Told]:
        """The latest of the front's members whose family has points left, by their numbers."""
        done = [self.told[n] for n in sorted(self.told) if self.told[n].values is not None]
        if not done:
            return []
        front = [done[i] for i in exact_front(np.array([told.values for told in done]))]
        families = list(self._seen.values())
        left = {b.family for b in self.branches if families.count(b.family) < size(b)}
        return [told for told in front if told.point["family"] in left][-MOST_PARENTS:]

    def _mutant(self, parent: Point, rng: np.random.Generator, share: float) -> Point:
        """A copy with about a `share` of the parameters changed, one at least."""
        space = branch_of(self.branches, parent["family"]).space
        changed = rng.random(len(space)) < share
        if not changed.any():
            changed[int(rng.integers(len(space)))] = True
        child = dict(parent)
        for (name, range_), change in zip(space.items(), changed, strict=True):
            fresh, u, step = float(rng.random()), float(rng.random()), float(rng.normal(0.0, STEP))
            if change:
                near = min(max(to_unit(range_, parent[name]) + step, 0.0), 1.0)
                child[name] = from_unit(range_, u if fresh < FRESH or isinstance(range_, Choice) else near)
        return child


def contributions(values: list[tuple[float, ...]]) -> np.typing.NDArray[np.float64]:
    """(n,) shares of the hypervolume that only a front's member dominates, by its ranks in each objective: no unit matters."""
    import moocore

    array = np.asarray(values, np.float64)
    if array.shape[1] < 2:  # of one objective the front is one value
        return np.full(len(array), 1.0 / len(array))
    positions = (array[:, None, :] > array[None, :, :]).sum(axis=1) / len(array)
    found = np.asarray(moocore.hv_contributions(positions, ref=np.ones(array.shape[1])), np.float64)
    found = np.maximum(found, 0.0) + 1e-6
    return np.asarray(found / found.sum(), np.float64)
