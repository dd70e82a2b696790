"""The front: which models are worth keeping, how much they cover, and which one meets a person's limits.

Values are (n, m) arrays, one row a model, one column an objective, all minimised; a value that wasn't measured is inf.
A row with NaN is never on a front.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from automl.estimators.errors import InfeasibleError, UsageError, UsageTypeError

from . import units
from .objective import Objective, value_of
from .objectives import DEFAULT
from .objectives import by_name as objectives_by_name
from .trial import Measurement

Floats: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]

SURE = 1.645
"""Standard errors for one-sided 95 %."""

# -- dominance ---------------------------------------------------------------------------------------------------------


def paired_errors(influences: Sequence[NDArray[Any]]) -> Floats:
    """(n, n) standard errors of the differences of n models' errors, from their per-row influences on the same rows."""
    stacked = np.stack([np.asarray(x, np.float64) for x in influences])
    n, rows = stacked.shape
    if rows < 2:
        return np.zeros((n, n))
    covariance = np.atleast_2d(np.cov(stacked))
    own = covariance.diagonal()
    return np.asarray(np.sqrt(np.maximum(own[:, None] + own[None, :] - 2 * covariance, 0.0) / rows), np.float64)


def noise(
    measurements: Sequence[Measurement],
    objectives: Sequence[Objective],
    influences: Sequence[NDArray[Any]] | None = None,
) -> Floats:
    """(n, n, m) differences that count as none: of the error one paired standard error (without `influences`

    the two models' own standard errors, as if independent), of the others what the objective says.
    """
    n = len(measurements)
    found = np.zeros((n, n, len(objectives)))
    for k, objective in enumerate(objectives):
        if objective.name == "error" and influences is not None:
            found[:, :, k] = paired_errors(influences)
        elif objective.name == "error":
            own = np.array([m.error_sd or 0.0 for m in measurements])
            found[:, :, k] = np.hypot(own[:, None], own[None, :])
        else:
            read = [value_of(objective, m) for m in measurements]
            each = np.array([0.0 if value is None else objective.noise(value) for value in read])
            found[:, :, k] = np.maximum(each[:, None], each[None, :])
    return found


def dominance(values: Floats, noise: Floats | None = None, strict: Floats | float = 1.0) -> Mask:
    """(n, n): whether i dominates j: nowhere worse by more than the noise, and somewhere better by more than it.

    `noise` is (n, m), the noise of each value (of a pair the larger counts), or (n, n, m), that of each difference;
    `strict` scales it, for all or per objective, where the difference must be sure (`SURE` for a standard error).
    Without noise it is Pareto dominance. With noise it is not transitive, and may run in circles of three or more.
    """
    values = np.asarray(values, np.float64)
    if noise is None:
        margin: Floats = np.zeros((1, 1, values.shape[1]))
    elif noise.ndim == 2:
        margin = np.maximum(noise[:, None, :], noise[None, :, :])
    else:
        margin = np.asarray(noise)
    a, b = values[:, None, :], values[None, :, :]
    worse_nowhere = (a <= b + margin).all(axis=2)
    better_somewhere = (a + margin * np.maximum(strict, 1.0) < b).any(axis=2)
    return np.asarray(worse_nowhere & better_somewhere, dtype=np.bool_)


def nondominated(values: Floats, noise: Floats | None = None, *, strict: Floats | float = 1.0) -> Mask:
    """(n,) the front under `dominance`, of which the model best in the first objective is always part.

    It is the kernel of the dominance graph: no model on it is dominated by another on it, and each that is left out
    is dominated by one on it, so nothing is dropped in favour of a model that is itself dropped. Where noise makes a
    circle, exact dominance decides inside it; then the kernel exists, is unique, and doesn't depend on the order of
    the rows. It is empty only if every row has a NaN.
    """
    values = np.asarray(values, np.float64)
    front = ~np.isnan(values).any(axis=1)
    exact = dominance(values)
    edges = exact.copy() if noise is None else _without_circles(dominance(values, noise, strict), exact)
    edges[~front] = False
    if front.any():
        best = front & (values[:, 0] == values[front, 0].min())
        edges[np.ix_(~best, best)] = False  # of equals in it the others may still be beaten: an engine by another
    undecided, kept = front.copy(), np.zeros(len(values), np.bool_)
    while undecided.any():
        sources = undecided & ~edges[undecided].any(axis=0)
        kept |= sources
        undecided &= ~sources & ~edges[sources].any(axis=0)
    return kept


def exact_front(values: Floats) -> list[int]:
    """The numbers of the rows (n, m) that no other row dominates, without noise, ascending; equal ones are all kept (moocore)."""
    import moocore

    if not len(values):
        return []
    return [int(i) for i in np.flatnonzero(moocore.is_nondominated(np.asarray(values, np.float64), keep_weakly=True))]


def _without_circles(edges: Mask, exact: Mask) -> Mask:
    """The edges, those inside a circle replaced by exact dominance, which has no circles."""
    reach = edges.copy()
    for _ in range(max(1, math.ceil(math.log2(max(2, len(edges)))))):
        grown = reach | (reach.astype(np.float32) @ reach.astype(np.float32) > 0)
        if (grown == reach).all():
            break
        reach = grown
    circle = reach & reach.T
    return np.asarray(np.where(circle, exact & edges, edges), np.bool_)


# -- hypervolume -------------------------------------------------------------------------------------------------------


def scaled(values: Floats, objectives: Sequence[Objective]) -> Floats:
    """The values, those compared by ratios as log10 (what is not above zero counts as the smallest double)."""
    columns = [
        np.log10(np.maximum(column, np.finfo(np.float64).tiny)) if objective.log else column
        for objective, column in zip(objectives, np.asarray(values, np.float64).T, strict=True)
    ]
    return np.column_stack(columns)


def normalise(
    values: Floats,
    objectives: Sequence[Objective],
    baseline_error: float | None = None,
    best_error: float | None = None,
    budget_seconds: float = 60.0,
    like: Floats | None = None,
) -> Floats:
    """(n, m) positions u = (z - low) / (high - low) in the objectives' boxes, cut at 0; from 1 on they count nothing.

    Where an objective has no box, the range of the values at hand serves, or that of `like` (k, m); where they are all the
    same, the objective tells nothing apart, and its positions are 0.

    The error runs from best - 10 % of (baseline - best) to the baseline's (by default the worst at hand),
    the costs by their logarithm over fixed boxes, so that runs with the same `baseline_error` and `best_error`
    compare.
    """
    z = scaled(values, objectives)
    ranges = z if like is None else scaled(like, objectives)
    found = np.ones_like(z)
    for k, objective in enumerate(objectives):
        finite = ranges[np.isfinite(ranges[:, k]), k]
        box = objective.box(budget_seconds)
        if box is not None:
            low, high = scaled(np.array([[box[0]], [box[1]]]), [objective])[:, 0]
        elif finite.size:
            best = finite.min() if objective.name != "error" or best_error is None else best_error
            high = finite.max() if objective.name != "error" or baseline_error is None else baseline_error
            low = best - 0.1 * (high - best)
        else:
            continue
        if high > low:
            found[:, k] = np.maximum((z[:, k] - low) / (high - low), 0.0)
        elif objective.name != "error":
            found[np.isfinite(z[:, k]), k] = 0.0
    return found


def hypervolume(
    values: Floats,
    objectives: Sequence[Objective],
    baseline_error: float | None = None,
    best_error: float | None = None,
    budget_seconds: float = 60.0,
) -> float:
    """The share of the unit box that the models dominate after `normalise`, in [0, 1]; the reference is (1, ..., 1)."""
    return volume(normalise(values, objectives, baseline_error, best_error, budget_seconds))


def volume(positions: Floats) -> float:
    """The hypervolume of normalised positions (n, m) below the reference (1, ..., 1); exact (moocore)."""
    inside = _inside(positions)
    if not len(inside):
        return 0.0
    import moocore

    return float(moocore.hypervolume(inside, ref=np.ones(inside.shape[1])))


def thin(
    values: Floats,
    k: int,
    objectives: Sequence[Objective] = DEFAULT,
    baseline_error: float | None = None,
    best_error: float | None = None,
    budget_seconds: float = 60.0,
) -> list[int]:
    """At most `k` row numbers, in ascending order: the best of each objective, then those that add most hypervolume.

    Greedy addition keeps at least 1 - 1/e of what the best choice would add (Nemhauser et al. 1978; Guerreiro, Fonseca
    and Paquete 2016 for the hypervolume). Rows that add nothing come in by their order in the objectives.
    """
    values = np.asarray(values, np.float64)
    if len(values) <= k:
        return list(range(len(values)))
    positions = normalise(values, objectives, baseline_error, best_error, budget_seconds)
    order = [
        int(i) for i in np.lexsort(values.T[::-1])
    ]  # ties go to the smaller values: the rows' order doesn't matter
    chosen: list[int] = []
    for column in values.T:
        best = min(order, key=lambda i: column[i])
        if best not in chosen and len(chosen) < k:
            chosen.append(best)
    while len(chosen) < k:
        rest = [i for i in order if i not in chosen]
        chosen.append(max(rest, key=lambda i: volume(positions[[*chosen, i]])))
    return sorted(chosen)


def _inside(positions: Floats) -> Floats:
    """The rows better than the reference in every objective."""
    return np.asarray(positions[(positions < 1.0).all(axis=1)], np.float64)


def knee(values: Floats, weights: Sequence[float] | None = None) -> int:
    """The row number of the best compromise: the closest to the ideal point, objectives scaled to the rows' range.

    Euclidean distance to the utopia point, its squares weighted by `weights` (compromise programming: Yu 1973, Zeleny 1973);
    for two objectives close to the largest distance from the chord (Das 1999), which for more has no unique plane. Give costs
    as logarithms (`scaled`).
    """
    values = np.asarray(values, np.float64)
    if not len(values):
        raise ValueError("there is no knee of no rows")
    finite = np.where(np.isfinite(values), values, np.nan)
    low = np.array([np.nan if np.isnan(c).all() else np.nanmin(c) for c in finite.T])
    high = np.array([np.nan if np.isnan(c).all() else np.nanmax(c) for c in finite.T])
    span = np.where(high > low, high - low, 1.0)
    place = np.nan_to_num((finite - low) / span, nan=2.0)  # not measured is worse than the worst
    order = np.lexsort(values.T[::-1])
    distance = place**2 @ np.asarray(weights if weights is not None else np.ones(values.shape[1]))
    return int(min(order, key=lambda i: distance[i]))


# -- limits ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limit:
    """What a limit's name stands for: the quantity of `Measurement` that it bounds, how it is read and shown."""

    quantity: str
    read: Callable[[object, str], float]
    show: Callable[[float], str]


def _read_score(value: object, name: str) -> float:
    try:
        score = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise UsageTypeError(f"{name} is {value!r}, not a number such as 0.9") from None
    if not math.isfinite(score):
        raise UsageError(f"{name} is {value!r}, not a finite number")
    return score


def _show_score(value: float) -> str:
    return f"{value:.6g}"


LIMITS: dict[str, Limit] = {
    "max_latency": Limit("latency_p50_seconds", units.seconds, units.show_seconds),
    "max_latency_p99": Limit("latency_p99_seconds", units.seconds, units.show_seconds),
    "max_memory": Limit("serving_memory_bytes", units.size, units.show_bytes),
    "max_size": Limit("size_bytes", units.size, units.show_bytes),
    "max_training_time": Limit("training_seconds", units.seconds, units.show_seconds),
    "max_training_memory": Limit("training_memory_bytes", units.size, units.show_bytes),
    "min_score": Limit("score", _read_score, _show_score),
}
"""Every limit: latencies of one row, memory above a bare interpreter, the artifact's size, the time of one fit on all
rows, and the score as its metric's users know it (for a metric where lower is better, at most that).
"""


@dataclass(frozen=True)
class Violation:
    """A limit that a model doesn't meet; `found` is nan where the quantity was not measured."""

    limit: str
    found: float
    allowed: float

    @property
    def excess(self) -> float:
        """How far beyond, as a ratio above 1; inf where it was not measured."""
        if math.isnan(self.found):
            return math.inf
        if self.limit == "min_score":
            return 1.0 + abs(self.found - self.allowed) / max(abs(self.allowed), 1e-9)
        return self.found / self.allowed

    def to_lift(self, greater_is_better: bool = True) -> str:
        """The limit's value that this model would meet, as one would type it."""
        if self.limit == "min_score":
            shown = _show_score(self.found)
            if (float(shown) <= self.found) if greater_is_better else (float(shown) >= self.found):
                return shown
            step = 10.0 ** (math.floor(math.log10(max(abs(self.found), 1e-9))) - 4)
            rounded = math.floor(self.found / step) if greater_is_better else math.ceil(self.found / step)
            return f"{rounded * step:.5g}"
        limit = LIMITS[self.limit]
        found = math.ceil(self.found) if limit.quantity.endswith("_bytes") else self.found
        return units.enough(found, limit.show, limit.read)


def parse_limits(limits: Mapping[str, object]) -> dict[str, float]:
    """The limits in seconds, bytes and score, from numbers or text such as "1ms" and "200MB"; None means no limit.

    Raises UsageError for an unknown name or a value that makes no sense.
    """
    parsed: dict[str, float] = {}
    for name, value in limits.items():
        if name not in LIMITS:
            close = difflib.get_close_matches(name, LIMITS, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise UsageError(f"unknown limit {name!r}; {hint}There are {', '.join(LIMITS)}")
        if value is not None:
            parsed[name] = float(LIMITS[name].read(value, name))
    return parsed


def check(measurement: Measurement, limits: Mapping[str, float], greater_is_better: bool = True) -> list[Violation]:
    """The limits (from `parse_limits`) that a model doesn't meet. What was not measured meets no limit."""
    violations = []
    for name, allowed in limits.items():
        value = getattr(measurement, LIMITS[name].quantity)
        found = math.nan if value is None else float(value)
        upward = name == "min_score" and greater_is_better
        if not (found >= allowed if upward else found <= allowed):
            violations.append(Violation(name, found, allowed))
    return violations


# -- choosing ----------------------------------------------------------------------------------------------------------

PREFER = ("accuracy", "knee", "cheapest_within")


def choose(
    measurements: Sequence[Measurement],
    limits: Mapping[str, float] | None = None,
    *,
    prefer: str = "accuracy",
    tolerance: float = 0.01,
    cost: str = "latency",
    names: Sequence[str] | None = None,
    objectives: Sequence[Objective] = DEFAULT,
    greater_is_better: bool = True,
    bounds: Sequence[Measurement] | None = None,
    constant: Collection[int] = (),
) -> int:
    """The index of the model to take among those that meet all `limits` (from `parse_limits`).

    `prefer` "accuracy" takes the smallest error, "knee" the best compromise over `objectives`, where the error weighs as much as
    all costs together, which mostly rise and fall as one, and those of the numbers `constant`, which read no column, are none, "cheapest_within" the
    smallest `cost` (an objective's name) among those whose error is within `tolerance` (a share of the best one's
    error). The limits are held against `bounds`, the worse ends of forecasts, where given. Raises InfeasibleError, naming the nearest models (by `names`) and the one limit to lift and by how much;
    UsageError for an unknown `prefer` or `cost`, or a negative tolerance.
    """
    if prefer not in PREFER:
        raise UsageError(f"prefer is {prefer!r}; it can be {', '.join(PREFER)}")
    if not tolerance >= 0:
        raise UsageError(f"tolerance is {tolerance!r}; it is a share of the best error, such as 0.01")
    price = objectives_by_name([cost])[0]
    violations = [check(m, limits or {}, greater_is_better) for m in bounds or measurements]
    met = [i for i, found in enumerate(violations) if not found]
    if not met:
        labels = list(names) if names is not None else [f"model {i}" for i in range(len(measurements))]
        raise infeasible(labels, violations, limits or {}, greater_is_better)
    errors = {i: _known(measurements[i].error) for i in met}
    costs = {i: _known(price.read(measurements[i])) for i in met}
    if prefer == "knee":
        met = [i for i in met if i not in constant] or met
        values = np.array([[_known(o.read(measurements[i])) for o in objectives] for i in met])
        costs_share = 1.0 / max(1, len(objectives) - 1)
        weights = [1.0 if o.name == "error" else costs_share for o in objectives]
        return met[knee(scaled(values, objectives), weights)]
    if prefer == "cheapest_within":
        best = min(errors.values())
        return min((i for i in met if errors[i] <= best + tolerance * abs(best)), key=lambda i: (costs[i], errors[i]))
    return min(met, key=lambda i: (errors[i], costs[i]))


def _known(value: float | None) -> float:
    return math.inf if value is None else value


def infeasible(
    names: Sequence[str],
    violations: Sequence[Sequence[Violation]],
    limits: Mapping[str, float],
    greater_is_better: bool = True,
) -> InfeasibleError:
    """The error to raise where every model violates a limit: what is nearest, and which one limit to lift to what."""
    asked = ", ".join(f"{name} {LIMITS[name].show(value)}" for name, value in limits.items())
    if not names:
        return InfeasibleError(f"there is no model to choose from (limits: {asked or 'none'})")
    order = sorted(range(len(names)), key=lambda i: (len(violations[i]), sum(v.excess for v in violations[i])))
    nearest = tuple((names[i], v.limit, v.found, v.allowed) for i in order[:3] for v in violations[i])
    told = "; ".join(f"{names[i]} has {_told(violations[i])}" for i in order[:3])
    ways: dict[str, str] = {}  # each limit that is enough to lift alone, to the nearest model's value
    for i in order:
        if len(violations[i]) == 1 and math.isfinite(violations[i][0].excess):
            one = violations[i][0]
            ways.setdefault(one.limit, f"{one.limit} to {one.to_lift(greater_is_better)} for {names[i]}")
    if ways:
        advice = f"lift {', or '.join(ways.values())}" + ("" if len(limits) == 1 else "; the other limits can stay")
    else:
        advice = (
            f"more than one limit must be lifted: {names[order[0]]} {_needs(violations[order[0]], greater_is_better)}"
        )
    return InfeasibleError(f"no model meets the limits ({asked}): {told}. To get one, {advice}.", nearest)


def _told(violations: Sequence[Violation]) -> str:
    """What a model has where it violates limits: "latency 10 us, size 20 kB"."""
    parts = []
    for v in violations:
        what = v.limit.removeprefix("max_").removeprefix("min_")
        parts.append(f"no measured {what}" if math.isnan(v.found) else f"{what} {LIMITS[v.limit].show(v.found)}")
    return ", ".join(parts)


def _needs(violations: Sequence[Violation], greater_is_better: bool) -> str:
    """The limits that a model would meet, all of them, and those for which nothing was measured."""
    lifted = [f"{v.limit} {v.to_lift(greater_is_better)}" for v in violations if math.isfinite(v.excess)]
    unknown = [v.limit for v in violations if not math.isfinite(v.excess)]
    parts = ["needs " + " and ".join(lifted)] if lifted else []
    parts += ["was not measured for " + " and ".join(unknown)] if unknown else []
    return " and ".join(parts)
