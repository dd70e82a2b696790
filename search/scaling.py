"""Scaling laws: how a measured quantity grows with the training rows, and what it becomes beyond them, with an interval.

Every law is fitted to points (rows, value) of one model and gives a `Forecast` at any number of rows. A law that has too
few points, or that its points contradict, is refused with a `RefusalError` instead of guessed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Terms = Callable[[float], Sequence[float]]

LEAST_POINTS = 3
"""Row counts that an error law needs: two points fit every power law."""
INDICATIVE = 16.0
"""Beyond this many times the largest measured rows a forecast is called indicative: on the learning curves of LCDB 1.1
values are credible to about 4 times the rows, to 16 times as a range (Viering and Loog 2022 on power laws)."""
KAPPA = 1.3
"""Half-width of the error law's 90 % interval in predictive standard deviations: on curves such as those
of benchmarks/laws.py, whose validation rows are the same at all row counts, it covers about 90 %; single runs on changing
rows, as in LCDB 1.1, would need 2."""
Z90 = NormalDist().inv_cdf(0.95)
CONFORMAL_FROM = 20
"""From so many residuals of the run itself on, their quantile replaces KAPPA (split conformal prediction: Vovk et al. 2005)."""
BAD_FIT = 4.0
"""An error law is refused where its points lie this many of their standard deviations from it (root mean square)."""
MOST_RESIDUAL = 1.0
"""A cost law is refused where its points lie this far from it: root mean square of the logarithms, a factor of 2.7."""

STILL = 0.5
"""How much a doubling of the rows counts for the interval of a cost whose terms don't grow with it."""

Kind = Literal["measured", "forecast", "indicative"]


class RefusalError(ValueError):
    """Why no law can be given, in one line."""


@dataclass(frozen=True)
class Forecast:
    """A quantity at `rows` training rows: its middle, the 90 % interval, and whether it lies within what was measured."""

    rows: float
    value: float
    low: float
    high: float
    kind: Kind

    def scaled(self, factor: float, sd: float = 0.0) -> Forecast:
        """Times `factor`; `sd`, a relative error of it, widens the interval."""
        wide = [math.hypot(self.value - end, Z90 * sd * self.value) for end in (self.low, self.high)]
        middle = self.value * factor
        return Forecast(self.rows, middle, max(0.0, middle - wide[0] * factor), middle + wide[1] * factor, self.kind)


class Law(Protocol):
    """How one quantity grows. `measured` are the smallest and the largest rows that it was fitted on."""

    measured: tuple[float, float]

    def at(self, rows: float) -> Forecast: ...


def kind_of(rows: float, measured: tuple[float, float]) -> Kind:
    """Whether `rows` is within the measured ones, up to 16 times them, or beyond."""
    low, high = measured
    if 0.99 * low <= rows <= 1.01 * high:
        return "measured"
    return "indicative" if max(rows / high, low / rows) > INDICATIVE else "forecast"


# -- error -------------------------------------------------------------------------------------------------------------


class LevelLaw:
    """The error of a model that reads no column, to which more rows bring nothing: the last one measured, with its 90 % interval."""

    def __init__(self, rows: Sequence[float], errors: Sequence[float], deviations: Sequence[float]) -> None:
        if not rows:
            raise RefusalError("it was not measured")
        self.measured = (float(rows[0]), float(rows[-1]))
        self.last, self.deviation = float(errors[-1]), float(deviations[-1])

    def at(self, rows: float) -> Forecast:
        wide = Z90 * self.deviation
        return Forecast(rows, self.last, max(0.0, self.last - wide), self.last + wide, kind_of(rows, self.measured))


class ErrorLaw:
    """e(n) = a + b (n / n_L)^-c by its posterior on a grid of c and a, for errors that 0 bounds from below.

    The grid: c 26 values in [0.05, 1.6], a 31 shares in [0, 1] of the last error, b by weighted least squares, not under 0;
    the prior on it is flat. The predictive variance is that of the posterior, plus a quarter of the last point's, plus 2 %
    of the last error for every doubling. A curve that rises by more than two standard errors (about 15 % of the curves of
    LCDB 1.1 do) has its interval doubled and `ill_behaved` set.

    rows (k,) ascending; errors (k,); deviations (k,) their standard errors. Raises RefusalError under three points, or where the
    points contradict every curve of the grid.
    """

    def __init__(
        self, rows: Sequence[float], errors: Sequence[float], deviations: Sequence[float], kappa: float = KAPPA
    ) -> None:
        n, y, se = (np.asarray(values, np.float64) for values in (rows, errors, deviations))
        if len(n) < LEAST_POINTS:
            counts = "1 row count" if len(n) == 1 else f"{len(n)} row counts"
            raise RefusalError(f"the error was measured at {counts}, and a law needs {LEAST_POINTS}")
        if not (np.isfinite(y).all() and (y >= 0).all()):
            raise RefusalError(
                "the metric's error can be negative or infinite, and the law is for errors that 0 bounds"
            )
        self.measured = (float(n[0]), float(n[-1]))
        self.kappa, self.last, self.deviation = kappa, float(y[-1]), float(se[-1])
        rise = y[1:] - y[:-1] > 2 * np.hypot(se[1:], se[:-1])
        self.ill_behaved = bool(rise.any())
        # a law is off by 2 % of an error, and by 1 % of the largest: shares, so that the unit of the error makes no other law
        self._fit(n / n[-1], y, se**2 + (0.02 * y) ** 2 + (0.01 * y.max()) ** 2 + np.finfo(np.float64).tiny)

    def _fit(self, h: Floats, y: Floats, variance: Floats) -> None:
        c, share = np.meshgrid(np.geomspace(0.05, 1.6, 26), np.linspace(0.0, 1.0, 31), indexing="ij")
        self._c, self._a = c.ravel(), share.ravel() * self.last
        shape = h[None, :] ** -self._c[:, None]
        rest = y[None, :] - self._a[:, None]
        self._b = np.maximum(0.0, (rest * shape / variance).sum(1) / (shape**2 / variance).sum(1))
        chi2 = ((rest - self._b[:, None] * shape) ** 2 / variance).sum(1)
        worst = math.sqrt(float(chi2.min()) / len(y))
        if worst > BAD_FIT:
            raise RefusalError(
                f"the errors follow no power law: they lie {worst:.1f} standard deviations from the nearest"
            )
        weights = np.exp(-0.5 * (chi2 - chi2.min()))
        self._weights = weights / weights.sum()

    def predictive(self, rows: float) -> tuple[float, float]:
        """(mean, standard deviation) of the error at `rows`."""
        h = rows / self.measured[1]
        values = self._a + self._b * h**-self._c
        mean = float(self._weights @ values)
        drift = 0.02 * self.last * math.log2(2 * max(1.0, h))
        variance = float(self._weights @ (values - mean) ** 2) + self.deviation**2 / 4 + drift**2
        return mean, math.sqrt(variance) * (2.0 if self.ill_behaved else 1.0)

    def change(self, before: float, after: float) -> tuple[float, float]:
        """(mean, standard deviation) over the posterior of error(after) / error(before)."""
        first, second = (self._a + self._b * (rows / self.measured[1]) ** -self._c for rows in (before, after))
        ratio = second / np.maximum(first, 1e-300)
        mean = float(self._weights @ ratio)
        return mean, math.sqrt(float(self._weights @ (ratio - mean) ** 2)) * (2.0 if self.ill_behaved else 1.0)

    def at(self, rows: float) -> Forecast:
        mean, sd = self.predictive(rows)
        low, high = max(0.0, mean - self.kappa * sd), mean + self.kappa * sd
        return Forecast(rows, mean, low, high, kind_of(rows, self.measured))

    @property
    def exponent(self) -> Exponent:
        """c, with the 5 % and 95 % quantiles of its posterior."""
        order = np.argsort(self._c, kind="stable")
        mass = np.cumsum(self._weights[order])
        low, high = (float(self._c[order][min(len(order) - 1, int(np.searchsorted(mass, q)))]) for q in (0.05, 0.95))
        return Exponent(float(self._weights @ self._c), low, high, *self.measured)


def conformal(scores: Sequence[float], default: float = KAPPA) -> float:
    """The half-width in standard deviations that holds 90 % of `scores`, |measured - forecast| / sd of earlier forecasts.

    Split conformal prediction: the ceil(0.9 (n + 1))-th smallest. `default` where there are under 20.
    """
    if len(scores) < CONFORMAL_FROM:
        return default
    rank = min(len(scores), math.ceil(0.9 * (len(scores) + 1)))
    return sorted(scores)[rank - 1]


# -- costs -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Growth:
    """How a cost's law is fitted, and what its forecasts have been off by.

    `weight`: points count as (rows / largest rows)^weight, where small fits hide what grows (memory that was held before).
    `prior`: standard deviation of pseudo-points on the plain sum of the terms, scaled to the data, at the largest rows, 4 and
    16 times them: they decide between terms that the points don't tell apart; None where the terms have no common unit.
    `floor` and `spread`: standard deviation of the logarithm where measured, and what each doubling beyond adds: of the
    terms, or of the rows where they don't grow, each of which counts a half.
    """

    weight: float = 0.0
    prior: float | None = None
    floor: float = 0.15
    spread: float = 0.10


class CostLaw:
    """v(n) = sum of c_k term_k(n) with c_k >= 0: non-negative least squares on v/v, so that errors are relative.

    `terms` gives the terms at a number of rows: those of the family's own cost, for instance, as one exponent does not exist
    where trees stop growing once their leaves are full. The interval is lognormal: sd^2 = floor^2 + (spread log2 h)^2 + the
    residuals' variance, h how far the terms go beyond the measured rows. rows (k,) ascending; values (k,) positive.

    Raises RefusalError for values that are not positive, or that no mix of the terms comes near.
    """

    POINT_SD = 0.15

    def __init__(self, terms: Terms, rows: Sequence[float], values: Sequence[float], growth: Growth) -> None:
        from scipy.optimize import nnls

        v = np.asarray(values, np.float64)
        if not len(v) or not (np.isfinite(v).all() and (v > 0).all()):
            raise RefusalError("it was not measured" if not len(v) else "a measured value is not a positive number")
        self.terms, self.growth, self.measured = terms, growth, (float(rows[0]), float(rows[-1]))
        at = np.array([terms(float(n)) for n in rows], np.float64)
        weights = (np.asarray(rows, np.float64) / rows[-1]) ** growth.weight
        sides, aims = [weights[:, None] * at / v[:, None]], [weights]
        if growth.prior is not None:
            ratio = math.exp(float(np.mean(np.log(v / at.sum(1)))))
            far = np.array([terms(h * rows[-1]) for h in (1.0, 4.0, 16.0)], np.float64)
            weight = self.POINT_SD / growth.prior
            sides.append(weight * far / (ratio * far.sum(1))[:, None])
            aims.append(np.full(len(far), weight))
        stacked = np.vstack(sides)
        scale = stacked.max(axis=0)
        scale[scale == 0] = 1.0
        found, _ = nnls(stacked / scale, np.concatenate(aims))
        self.coefficients = found / scale
        residuals = weights * np.log(v / np.maximum(1e-300, at @ self.coefficients))
        self.residual = float(np.sqrt(np.mean(residuals**2)))
        if self.residual > MOST_RESIDUAL:
            raise RefusalError(f"the values lie {math.exp(self.residual):.1f} times off the law of its cost")

    def deviation(self, rows: float) -> float:
        """Standard deviation of the logarithm of the forecast."""
        first, last = self.measured
        doublings = math.log2(max(1.0, rows / last, first / rows))
        here, there = (np.asarray(self.terms(n), np.float64) for n in (min(max(rows, first), last), rows))
        grown = np.abs(np.log2(np.maximum(there, 1e-300) / np.maximum(here, 1e-300)))
        doublings = max(min(doublings, float(grown.max())), STILL * doublings)  # what cannot grow is surer
        return math.sqrt(self.growth.floor**2 + (self.growth.spread * doublings) ** 2 + self.residual**2)

    def at(self, rows: float) -> Forecast:
        value = float(np.asarray(self.terms(rows), np.float64) @ self.coefficients)
        wide = math.exp(Z90 * self.deviation(rows))
        return Forecast(rows, value, value / wide, value * wide, kind_of(rows, self.measured))


def linear_terms(rows: float) -> tuple[float, float]:
    """A constant and the rows: what memory grows with."""
    return 1.0, rows


# -- the measured Big-O ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exponent:
    """n^value with its 90 % interval, over the measured rows `first` to `last`."""

    value: float
    low: float
    high: float
    first: float
    last: float

    def text(self, what: str) -> str:
        """ "training time grows as n^0.94 (0.88 to 1.01) over 2,400 to 39,000 rows" """
        span = f"{self.first:,.0f} to {self.last:,.0f} rows"
        return f"{what} grows as n^{self.value:.2f} ({self.low:.2f} to {self.high:.2f}) over {span}"

    def as_dict(self) -> dict[str, float]:
        return {"exponent": self.value, "low": self.low, "high": self.high}


NOISE, NOISE_FREEDOM = 0.08, 3.0
"""What repeated fits of one plan differ by (standard deviation of the logarithm), and how many degrees of freedom that
knowledge is worth beside the points' own scatter."""


def exponent(rows: Sequence[float], values: Sequence[float]) -> Exponent:
    """The slope of log(values) on log(rows), with Student's t interval; the scatter is pooled with the noise of repeats.

    Raises RefusalError for fewer than two row counts or values that are not positive.
    """
    n, v = np.asarray(rows, np.float64), np.asarray(values, np.float64)
    if len(np.unique(n)) < 2 or not (np.isfinite(v).all() and (v > 0).all()):
        raise RefusalError("an exponent needs positive values at two row counts")
    from scipy.stats import t

    x, y = np.log(n), np.log(v)
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    scatter = float(((y - y.mean() - slope * centred) ** 2).sum())
    freedom = NOISE_FREEDOM + len(n) - 2
    sd = math.sqrt((NOISE_FREEDOM * NOISE**2 + scatter) / freedom / float(centred @ centred))
    half = float(t.ppf(0.95, freedom)) * sd
    return Exponent(slope, slope - half, slope + half, float(n.min()), float(n.max()))


# -- threads -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ThreadsLaw:
    """Amdahl's law: seconds(p) = one ((1 - parallel) + parallel / p); `parallel` is the share that more threads divide."""

    one: float
    parallel: float

    def speedup(self, threads: int) -> float:
        return 1.0 / ((1.0 - self.parallel) + self.parallel / threads)


def threads_law(threads: Sequence[int], seconds: Sequence[float]) -> ThreadsLaw:
    """The law through measured wall seconds at several thread counts, one of them 1; least squares on seconds / seconds(1)."""
    p, s = np.asarray(threads, np.float64), np.asarray(seconds, np.float64)
    if 1 not in threads or len(threads) < 2 or not (s > 0).all():
        raise RefusalError("a threads law needs positive seconds at one thread and at another count")
    one = float(s[p == 1].mean())
    gain, saved = 1.0 - 1.0 / p, 1.0 - s / one
    return ThreadsLaw(one, float(np.clip(gain @ saved / (gain @ gain), 0.0, 1.0)))


# -- looking back ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Backtest:
    """How good forecasts of one quantity were, `horizon` times beyond the rows that they were made from.

    `mape` and `median_ape` are relative errors, `bias` the mean of log(forecast / measured), `coverage` the share of
    measured values in their 90 % interval, `rank` Kendall's tau between the forecast and the measured order of the models,
    `ratio_to_last` the mean absolute error over that of taking the last measured value.
    """

    quantity: str
    horizon: int
    models: int
    mape: float
    median_ape: float
    bias: float
    coverage: float
    rank: float | None
    ratio_to_last: float


def judge(
    quantity: str, horizon: int, forecasts: Sequence[Forecast], measured: Sequence[float], last: Sequence[float]
) -> Backtest:
    """Compares forecasts with what was measured there; `last` are the largest measurements that each was made from."""
    from scipy.stats import kendalltau

    found, truth = np.array([f.value for f in forecasts]), np.asarray(measured, np.float64)
    off = np.abs(found - truth)
    relative = off / np.maximum(1e-12, truth)
    held = [f.low <= value <= f.high for f, value in zip(forecasts, truth, strict=True)]
    naive = float(np.abs(np.asarray(last, np.float64) - truth).mean())
    ordered: Any = kendalltau(found, truth) if len(truth) > 2 else None  # two can hardly be in a wrong order
    tau = math.nan if ordered is None else float(ordered.statistic)
    return Backtest(
        quantity,
        horizon,
        len(truth),
        float(relative.mean()),
        float(np.median(relative)),
        float(np.mean(np.log(np.maximum(1e-12, found) / np.maximum(1e-12, truth)))),
        float(np.mean(held)),
        None if math.isnan(tau) else tau,
        float(off.mean()) / max(1e-12, naive),
    )
