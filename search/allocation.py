"""Where the next second is best spent: the expected hypervolume improvement of an action for a second of its cost.

Positions are those of `front.normalise`: 0 the best, 1 the reference, all minimised. Improvements are counted on a fixed
cloud of Sobol points in the unit box (Bader and Zitzler 2011 estimate hypervolume by such samples): how many of those
that the front leaves open a candidate would dominate.
"""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

POINTS, SAMPLES = 2048, 32
"""Points of the cloud, and samples of a candidate's forecast: 1 / 2048 of the box is seen, in about a millisecond."""
LEAST_POWER = 0.3
"""The power of the cost at the end of the budget: by then what a second brings counts less than what is brought at all."""
FROZEN = 0.05
"""A plan that improves the front with less than this probability is never promoted."""


@cache
def sobol(dimensions: int, points: int) -> Floats:
    """(points, dimensions) in the unit box, the same in every run; `points` a power of two."""
    from scipy.stats import qmc

    return np.asarray(qmc.Sobol(dimensions, scramble=True, rng=0).random(points), np.float64)


@cache
def normals(dimensions: int) -> Floats:
    """(SAMPLES, dimensions) standard normal deviates, the same for all candidates, whose differences are then their own."""
    inverse = np.vectorize(NormalDist().inv_cdf)
    return np.asarray(inverse(np.clip(sobol(dimensions, SAMPLES), 1e-6, 1 - 1e-6)), np.float64)


def open_points(front: Floats) -> Floats:
    """The points of the cloud that no row of `front` (n, m) dominates."""
    cloud = sobol(front.shape[1], POINTS)
    taken = np.zeros(len(cloud), np.bool_)
    for row in front:
        taken |= (cloud >= row).all(axis=1)
    return cloud[~taken]


def improvements(front: Floats, samples: Floats) -> Floats:
    """(c,) expected hypervolume improvement of `front` (n, m) by each candidate, of `samples` (c, s, m)."""
    points = open_points(front)
    found = np.zeros(len(samples))
    for i, sample in enumerate(samples):
        inside = np.ones((len(sample), len(points)), np.bool_)
        for k in range(points.shape[1]):
            inside &= sample[:, k, None] <= points[None, :, k]
        found[i] = inside.sum() / (len(sample) * POINTS)
    return found


def chances(front: Floats, samples: Floats) -> Floats:
    """(c,) the share of each candidate's samples that improve `front`: within the box, and no row as good in everything."""
    better = (samples < 1.0).all(axis=2)
    for row in front:
        better &= (samples < row).any(axis=2)
    return np.asarray(better.mean(axis=1), np.float64)


def power(spent: float) -> float:
    """gamma of the index after the share `spent` of the budget: from 1 to 0.3 (cost cooling, as Lee et al. 2020, CArBO)."""
    return max(LEAST_POWER, 1.0 - spent)


def index(gain: float, seconds: float, overhead: float, spent: float) -> float:
    """What an action is worth that is expected to gain so much: gain / (seconds to its completion + overhead)^gamma."""
    return gain / math.pow(max(0.0, seconds) + overhead, power(spent))


def within(value: float, most: float, sd: float) -> float:
    """P(a lognormal quantity with the median `value` and the deviation `sd` of its logarithm is at most `most`)."""
    if not (value > 0.0 and most > 0.0):
        return float(value <= most)
    return NormalDist().cdf(math.log(most / value) / max(sd, 1e-9))


class Falls:
    """How much the error falls to the target: log(error there / error here), by family and by how many times the rows.

    Normal, around the usual curve (the fall over h times the rows is `usual(h)`), whose offset for a doubling is learned:
    of all families together, and of each, shrunk to all's as if that had been seen once.
    """

    SD, FLOOR = 0.12, 0.03
    """Standard deviation of a doubling's log ratio before anything is seen, and the least afterwards."""

    def __init__(self) -> None:
        self.seen: dict[str, list[float]] = {}

    @staticmethod
    def usual(times: float) -> float:
        """The log ratio over `times` the rows by the medians of LCDB 1.1's curves."""
        from .forecast import USUAL_EXPONENT, USUAL_SHARE

        return math.log(USUAL_SHARE + (1 - USUAL_SHARE) * times**-USUAL_EXPONENT)

    def observe(self, family: str, times: float, error: float, then: float) -> None:
        """A plan's error at a number of rows, and `then` at `times` as many."""
        if error > 0.0 and then > 0.0 and times > 1.0:
            off = (math.log(then / error) - self.usual(times)) / math.log2(times)
            self.seen.setdefault(family, []).append(max(-0.5, min(0.5, off)))

    def ratio(self, family: str, times: float) -> tuple[float, float]:
        """(mean, standard deviation) of the log ratio over `times` the rows."""
        if times <= 1.0:
            return 0.0, 0.0
        every = [off for seen in self.seen.values() for off in seen]
        run = sum(every) / (1 + len(every))
        own = self.seen.get(family, [])
        offset = (run + sum(own)) / (1 + len(own))
        squares = self.SD**2 + sum((off - offset) ** 2 for off in own)
        doublings = math.log2(times)
        sd = max(self.FLOOR, math.sqrt(squares / (1 + len(own)))) * doublings
        return self.usual(times) + offset * doublings, sd
