"""The law of the memory that a fit takes: what it holds of the data, what it builds, and what can't be seen under a floor."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from .scaling import MOST_RESIDUAL, Z90, Forecast, RefusalError, kind_of

Floats = NDArray[np.float64]

HIDDEN = (0.0, 0.1e6, 0.25e6, 0.5e6, 1e6, 2e6, 4e6)
"""Bytes of data that a fit may hold before its peak rises: heap that was free already, and peaks of other moments. The
grid of the law's posterior; what the trees of benchmarks/laws.py show is 0.3 to 1 MB."""
POINT_SD = 0.03
"""Relative standard deviation of a measured peak: pages, and how allocators grow."""
COPIES_SD = 0.7
"""Relative standard deviation of the prior number of float64 copies of the data that a fit holds."""
VECTORS = 4
"""Beside its columns a fit holds so many numbers for each row: target, weight, gradients or row numbers."""
EARLIER = 1.0
"""A point counts as (rows / largest rows) to this power: where memory comes from changes with its size."""
FLOOR, SPREAD = 0.12, 0.06
"""Standard deviation of the logarithm where measured, and what each doubling of the rows beyond adds: on 90 curves of five tables
(benchmarks/laws.py) the 90 % intervals hold 86, 89 and 96 % of what was measured at 2, 4 and 16 times the rows (0.08: 80, 87, 91)."""


class MemoryLaw:
    """m(n) = K + w max(0, 8 n d - hidden) + g built(f n), K, w and g >= 0, averaged over a posterior of `hidden` and f.

    `built` says what a fit on a number of rows builds (leaves, kept rows, the numbers of a step), as if every row made a leaf where
    the hyperparameters allow it; `filled` are the shares f of the rows that may. K, w and g by non-negative least squares on
    relative errors, with a weak prior of w, `copies`, and of g where there are `built_bytes`, so that what was hidden under a floor at
    all measured rows still grows beyond them. rows (k,) ascending; values (k,) positive bytes.

    Raises RefusalError for values that are not positive, or that no such law comes near.
    """

    def __init__(
        self,
        columns: int,
        built: Callable[[float], float],
        rows: Sequence[float],
        values: Sequence[float],
        copies: float = 1.0,
        filled: Sequence[float] = (1.0,),
        built_bytes: float | None = None,
    ) -> None:
        v = np.asarray(values, np.float64)
        if not len(v) or not (np.isfinite(v).all() and (v > 0).all()):
            raise RefusalError("it was not measured" if not len(v) else "a measured value is not a positive number")
        self.columns, self.built = columns + VECTORS, built
        self.copies, self.built_bytes = copies, built_bytes
        self.measured = (float(rows[0]), float(rows[-1]))
        weight = (np.asarray(rows, np.float64) / rows[-1]) ** EARLIER
        self.grid = [(hidden, share) for hidden in HIDDEN for share in filled]
        fits = [self._fit(place, rows, v, weight) for place in self.grid]
        chi2 = np.array([one[1] for one in fits])
        self.coefficients = [one[0] for one in fits]
        share = np.exp(-0.5 * (chi2 - chi2.min()))
        self.shares: Floats = share / share.sum()
        found = np.array([self._value(float(n)) for n in rows])
        self.residual = float(np.sqrt(np.mean((weight * np.log(v / np.maximum(found, 1.0))) ** 2)))
        if self.residual > MOST_RESIDUAL:
            raise RefusalError(f"the values lie {math.exp(self.residual):.1f} times off the law of its cost")

    def _terms(self, rows: float, place: tuple[float, float]) -> Floats:
        hidden, share = place
        return np.array([1.0, max(0.0, 8.0 * rows * self.columns - hidden), self.built(share * rows)])

    def _fit(
        self, place: tuple[float, float], rows: Sequence[float], v: Floats, weight: Floats
    ) -> tuple[Floats, float]:
        """(coefficients, chi squared) at a place of the grid."""
        from scipy.optimize import nnls

        at = np.array([self._terms(float(n), place) for n in rows])
        priors = [(0.0, 1.0 / (COPIES_SD * self.copies), 0.0)]
        priors += [] if self.built_bytes is None else [(0.0, 0.0, 1.0 / (COPIES_SD * self.built_bytes))]
        stacked = np.vstack([(weight / (v * POINT_SD))[:, None] * at, priors])
        aims = np.append(weight / POINT_SD, [1.0 / COPIES_SD] * len(priors))
        scale = np.maximum(stacked.max(axis=0), 1e-300)
        found, rest = nnls(stacked / scale, aims)
        return found / scale, rest**2

    def _each(self, rows: float) -> Floats:
        """The value at `rows` for each place of the grid."""
        return np.array([self._terms(rows, p) @ c for p, c in zip(self.grid, self.coefficients, strict=True)])

    def _value(self, rows: float) -> float:
        return float(self.shares @ self._each(rows))

    def deviation(self, rows: float) -> float:
        """Standard deviation of the logarithm of the forecast."""
        first, last = self.measured
        doublings = math.log2(max(1.0, rows / last, first / rows))
        middle = max(self._value(rows), 1.0)
        unsure = float(self.shares @ (self._each(rows) / middle - 1.0) ** 2)
        return math.sqrt(FLOOR**2 + (SPREAD * doublings) ** 2 + unsure + self.residual**2)

    def at(self, rows: float) -> Forecast:
        value, wide = self._value(rows), math.exp(Z90 * self.deviation(rows))
        return Forecast(rows, value, value / wide, value * wide, kind_of(rows, self.measured))
