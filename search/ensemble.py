"""Ensembles of the trials of a search: weighted means of what several models predict, each in the end one artifact.

They are chosen by greedy selection with replacement on the rows that steer the search (Caruana et al. 2004), in which
every distinct member pays for its latency: a sweep of that price gives ensembles from the most accurate to the cheapest.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from automl.estimators.errors import DataError
from automl.estimators.table import Table

from .fitting import Result, judged
from .front import SURE, nondominated, paired_errors
from .metric import BLOCKS, Metric
from .objective import value_of
from .plan import ENSEMBLE, Plan, single_of
from .study import Study
from .trial import Measurement, Trial
from .variants import halves

log = logging.getLogger("automl")

STEPS = 25
"""Of the greedy selection, as many as AutoGluon takes."""
PATIENCE = 5
"""Steps in a row that bring nothing, after which no more are taken."""
PRICES = (0.0, 1e-4, 1e-3, 1e-2, 1e-1)
"""What a member as slow as the most accurate model costs, in shares of that model's error."""
MEMBERS = 8
"""An ensemble has at most so many distinct members."""
CANDIDATES, LEAST_CANDIDATES = 50, 3
CANDIDATE_CELLS = 5_000_000
"""All candidates' predictions hold at most so many numbers: they lie in the memory of the caller's process."""
CALLS = 24
"""How often a metric is computed for each candidate over a whole selection, about: what it takes is foreseen by that."""
JACKKNIFED = 2 * (BLOCKS + 1)
"""How often a metric that says nothing of single rows is computed to judge a blend."""
OF_FAMILY = 12
"""The candidates are so many of a family at the most: dozens of near copies of the best model fit the rows that choose among them,
and crowd out the models that err elsewhere.
"""

Floats = NDArray[np.float32]


@dataclass
class Pool:
    """Candidates (c, n) or (c, n, K), what they cost, and the rows that they predict.

    `costs` (c,) are in the unit of the error. The error of a blend is computed once: the selections share their first steps.
    """

    predictions: Floats
    costs: NDArray[np.float64]
    y: NDArray[np.float64]
    metric: Metric
    weights: NDArray[np.float64] | None = None
    _known: dict[tuple[int, ...], float] = field(default_factory=dict)

    def of(self, rows: NDArray[np.bool_]) -> Pool:
        """The same candidates on some of the rows."""
        weights = None if self.weights is None else self.weights[rows]
        return Pool(self.predictions[:, rows], self.costs, self.y[rows], self.metric, weights)

    def blend(self, chosen: Sequence[int]) -> Floats:
        """The mean of the candidates of these numbers, those that stand there twice counted twice."""
        counts = Counter(chosen)
        total = sum(self.predictions[j] * np.float32(count) for j, count in sorted(counts.items()))
        return np.asarray(total / np.float32(len(chosen)), np.float32)

    def error(self, chosen: tuple[int, ...]) -> float:
        """Of the blend of these candidates; inf where the metric isn't defined on it."""
        key = tuple(sorted(chosen))
        if key not in self._known:
            try:
                self._known[key] = self.metric.error(self.y, self.blend(key), self.weights)
            except DataError:
                self._known[key] = math.inf
        return self._known[key]


def greedy(pool: Pool, price: float, stop: Callable[[], bool] = lambda: False) -> tuple[int, ...]:
    """The candidates' numbers, sorted and with repeats, of the best ensemble on the greedy path, as far as it came till `stop`.

    Each step adds what leaves the smallest error plus `price` times the costs of the distinct members.
    """
    best, idle = math.inf, 0
    found: tuple[int, ...] = ()
    chosen: tuple[int, ...] = ()
    while len(chosen) < STEPS and idle < PATIENCE:
        own = sorted(set(chosen))
        paid = float(pool.costs[own].sum())
        steps = []
        for j in own if len(own) == MEMBERS else range(len(pool.costs)):
            if stop():
                return tuple(sorted(found))
            extra = 0.0 if j in own else float(pool.costs[j])
            steps.append((pool.error((*chosen, j)) + price * (paid + extra), extra > 0.0, j))
        value, _, j = min(steps)
        chosen, idle = (*chosen, j), idle + 1
        if value < best:
            best, found, idle = value, chosen, 0
    return tuple(sorted(found))


def optimism(
    parts: Sequence[Pool], chosen: tuple[int, ...], price: float, stop: Callable[[], bool] = lambda: False
) -> float:
    """How much smaller the error of an ensemble looks on the rows that it was chosen by, 0 at the least.

    The choice is made again on each of the two `parts` of the rows, and scored on the other one, beside the ensemble that was chosen
    on both: by half of the rows a choice is a little worse than by all, so that this is more.
    """
    gaps = []
    for half, other in zip(parts, parts[::-1], strict=True):
        again = greedy(half, price, stop)
        gaps.append(other.error(again) - other.error(chosen) if again else math.inf)
    known = [gap for gap in gaps if math.isfinite(gap)]
    return max(0.0, float(np.mean(known))) if known else 0.0


# -- from the trials ---------------------------------------------------------------------------------------------------


def select(
    study: Study,
    seconds: float,
    most: int,
    bags: Sequence[Trial] = (),
    usable: Callable[[Trial], bool] = lambda trial: True,
) -> list[Trial]:
    """At most `most` ensembles of the trials and of these bags, as completed trials that are not in the store, the most accurate first.

    Each is better than its best member by more than the noise of their difference, and no trial is as good as it in every
    objective. Their influences are among the study's losses from then on. It takes about `seconds`, and
    at most as long again to judge what was found. Only `usable` trials become members. Raises what the metric does, which may
    be the user's own code.
    """
    until = time.monotonic() + seconds

    def stop() -> bool:
        return study.interrupted or time.monotonic() > until

    scored = _Scored(study)
    trials = [t for t in _candidates(study, scored, seconds, bags) if usable(t)]
    if len(trials) < LEAST_CANDIDATES:
        return []
    pool = Pool(
        np.stack([scored.steering(t) for t in trials]),
        _prices(study, trials),
        scored.y[: scored.cut],
        study.setting.metric,
        None if scored.weights is None else scored.weights[: scored.cut],
    )
    paths: dict[tuple[int, ...], float] = {}
    for price in PRICES:
        paths.setdefault(greedy(pool, price, stop), price)
    log.debug("ensembles of %d candidates: %d paths by %.2f s", len(trials), len(paths), study.elapsed())
    ensembles, values = [], [study.values(t) for t in trials]
    parts: list[Pool] = []
    if scored.cut == len(scored.y):  # there is no holdout to tell how lucky a choice is
        part = halves(scored.cut, scored.clusters)
        parts = [pool.of(part == k) for k in np.unique(part)]
    until += seconds
    for chosen, price in paths.items():
        members = [(trials[j], weight) for j, weight in sorted(Counter(chosen).items())]
        if len(members) < 2:
            continue
        lucky = optimism(parts, chosen, price, stop) if len(parts) > 1 else 0.0
        if stop():
            log.debug("there was no time to judge all ensembles")
            break
        found = _ensemble(study, scored, members, lucky)
        if found is not None:
            ensembles.append(found)
            values.append(_values(study, found, [t for t, _ in members]))
    kept = nondominated(np.array(values))[len(trials) :]
    ensembles = [trial for trial, keep in zip(ensembles, kept, strict=True) if keep]
    return sorted(ensembles, key=lambda t: t.measurement.error or 0.0)[:most]


class _Scored:
    """The rows that every trial is scored on, and what trials predict for them; the first `cut` steer the search."""

    def __init__(self, study: Study) -> None:
        table, split = Table.open(study.setting.data / "table"), study.setting.split
        rows = split.scored
        self.study, self.task = study, table.task.kind
        self.y = np.asarray(table.y[rows])
        self.weights = None if table.weights is None else np.asarray(table.weights[rows])
        self.cut = len(rows) if split.cross_validated else len(split.validation)
        self.clusters = split.clusters[: self.cut]
        self.cells = self.cut * (len(table.task.classes) if self.task == "multiclass" else 1)

    def known(self, trial: Trial) -> bool:
        """Whether its predictions are there; a former process's, or those of one prefix too many, are not."""
        if not self.study.predictions(trial).exists():
            return False
        with np.load(self.study.predictions(trial)) as stored:
            return trial.plan.id in stored.files

    def all(self, trial: Trial) -> Floats:
        with np.load(self.study.predictions(trial)) as stored:
            return np.asarray(stored[trial.plan.id], np.float32)

    def steering(self, trial: Trial) -> Floats:
        return self.all(trial)[: self.cut]


def _candidates(study: Study, scored: _Scored, seconds: float, bags: Sequence[Trial]) -> list[Trial]:
    """The most accurate trials of the best one's rung and the non-dominated ones, as many as there is time to blend."""
    done = sorted([*study.best_rung(), *bags], key=lambda t: (t.measurement.error, t.number))
    done = [t for t in done if t.rung == done[0].rung]
    done = [t for t in of_many_families(done, OF_FAMILY) if scored.known(t)]
    if len(done) < LEAST_CANDIDATES:
        return []
    weights = None if scored.weights is None else scored.weights[: scored.cut]
    trial = Pool(scored.steering(done[0])[None], np.zeros(1), scored.y[: scored.cut], study.setting.metric, weights)
    times = []
    for again in range(3):  # the first call is slower than those to come
        start = time.monotonic()
        trial.error((0,) * (again + 1))
        times.append(time.monotonic() - start)
    each = CALLS * max(1e-6, min(times))
    most = min(CANDIDATES, CANDIDATE_CELLS // scored.cells)
    if math.isfinite(seconds):
        most = min(most, int(seconds / each))
    most = max(LEAST_CANDIDATES, most)
    front = np.flatnonzero(nondominated(np.array([study.values(t) for t in done])))
    near = [*range(len(done))][: most - min(len(front), most // 3)]
    near += [int(i) for i in front if i not in near]
    return [done[i] for i in sorted(near[:most])]


def of_many_families(trials: Sequence[Trial], most: int) -> list[Trial]:
    """The first `most` of each family, in their order."""
    found: Counter[str] = Counter()
    kept = []
    for trial in trials:
        family = single_of(trial.plan).family
        found[family] += 1
        if found[family] <= most:
            kept.append(trial)
    return kept


def _prices(study: Study, trials: Sequence[Trial]) -> NDArray[np.float64]:
    """(c,) latencies in units of the most accurate one's, times its error: what a price of 1 makes them cost."""
    seconds = np.array([study.steering(t).latency_p50_seconds or 0.0 for t in trials])
    return abs(trials[0].measurement.error or 0.0) * seconds / (seconds[0] or 1.0)


def _ensemble(study: Study, scored: _Scored, members: Sequence[tuple[Trial, int]], lucky: float) -> Trial | None:
    """The ensemble as a completed trial, its influences kept; None where it isn't better than its best member for sure.

    A standard error of their difference will do where there are rows that had no say in it, the holdout; where there are none
    it is better with 95 % confidence. On the rows that its weights were chosen by it is better by luck as well: the
    influences that are kept of them, which its reported score is reckoned from, are as much better than its best member's as the
    holdout's are, or where there is none less so by `lucky`.
    """
    result = _judge(study, scored, members)
    best = min((t for t, _ in members), key=lambda t: t.measurement.error or 0.0)
    own = study.losses.validation[best.number]
    gain = float(own.mean(dtype=np.float64) - result.validation.mean(dtype=np.float64)) - lucky
    strict = 1.0 if len(result.holdout) else SURE
    if gain <= strict * float(paired_errors([own, result.validation])[0, 1]):
        return None
    held = study.losses.holdout[best.number]
    if len(held) and len(result.holdout):
        true = float(held.mean(dtype=np.float64) - result.holdout.mean(dtype=np.float64))
        error = result.measurement.error or 0.0
        lucky = max(gain - true, -0.5 * error)  # no error becomes negative by it
    if lucky:
        measured = replace(result.measurement, error=(result.measurement.error or 0.0) + lucky)
        result = replace(result, validation=result.validation + np.float32(lucky), measurement=measured)
    first = members[0][0]
    plan = Plan(ENSEMBLE, members=tuple((t.plan, weight) for t, weight in members))
    trial = Trial(study.take_number(), plan, first.rows, first.rung, "completed", measurement=result.measurement)
    study.losses.validation[trial.number], study.losses.holdout[trial.number] = result.validation, result.holdout
    return trial


def _values(study: Study, ensemble: Trial, members: Sequence[Trial]) -> list[float]:
    """The objectives of an ensemble by what steers the search for its members, its error changed as its best member's is."""
    steering = [study.steering(t) for t in members]
    best = min(range(len(members)), key=lambda i: members[i].measurement.error or 0.0)
    change = (steering[best].error or 0.0) - (members[best].measurement.error or 0.0)
    expected = replace(together(members, steering), error=(ensemble.measurement.error or 0.0) + change)
    read = (value_of(objective, expected) for objective in study.setting.objectives)
    return [math.inf if value is None else value for value in read]


def _judge(study: Study, scored: _Scored, members: Sequence[tuple[Trial, int]]) -> Result:
    """What the blend of the members is like on the rows scored, with what it is expected to cost."""
    total = sum(scored.all(t) * np.float32(weight) for t, weight in members)
    mean = np.asarray(total) / np.float32(sum(weight for _, weight in members))
    counted = math.isinf(study.setting.limits.seconds)  # trials: then nothing goes by what clocks say
    costs = together([t for t, _ in members], [study.steering(t) if counted else t.measurement for t, _ in members])
    return judged(study.setting.metric, costs, scored.y, mean, scored.weights, scored.cut, study.setting.split.clusters)


def together(members: Sequence[Trial], measured: Sequence[Measurement]) -> Measurement:
    """What the members cost together: sums, the largest training memory, and each fit once of a model and its prefixes.

    The row of an ensemble is encoded once, so that its latency is expected to be this or less.
    """
    fits = {fit_of(t): m for t, m in zip(members, measured, strict=True)}

    def summed(name: str, of: Sequence[Measurement]) -> float | None:
        values = [getattr(m, name) for m in of]
        return None if any(v is None for v in values) else sum(values)

    each = list(fits.values())
    return Measurement(
        training_seconds=summed("training_seconds", each),
        training_cpu_seconds=summed("training_cpu_seconds", each),
        training_memory_bytes=max((m.training_memory_bytes or 0.0 for m in each), default=0.0),
        latency_p50_seconds=summed("latency_p50_seconds", measured),
        load_seconds=summed("load_seconds", measured),
        model_memory_bytes=summed("model_memory_bytes", measured),
        size_bytes=summed("size_bytes", measured),
        rows=min(m.rows or 0 for m in measured),
        columns=max(m.columns or 0 for m in measured),
    )


def fit_of(trial: Trial) -> int:
    """The number of the trial whose fit made it: its own, or its parent's."""
    return trial.number if trial.parent is None else trial.parent


def at_other_rows(study: Study, trial: Trial, seconds: float) -> list[Trial]:
    """The ensemble at all row counts that every member was fitted on, as trials to fit its laws to; none where judging it, which a
    metric of the user's own may be slow at, would take longer than `seconds`.

    Raises what the metric does.
    """
    scored = _Scored(study)
    found: list[Trial] = []
    curves: list[tuple[Mapping[int, Trial], int]] = []
    for plan, weight in trial.plan.members:
        plan = single_of(plan)  # a bag was judged at one row count: it is taken to grow as its single model
        key = (plan.whole.id, plan.variant)
        own = [t for t in study.trials if t.status == "completed" and (t.plan.whole.id, t.plan.variant) == key]
        curves.append(({t.rows: t for t in own if scored.known(t)}, weight))
    counts, began = sorted(set.intersection(*(set(curve) for curve, _ in curves))), time.monotonic()
    if counts and study.setting.metric.rows is None:
        study.setting.metric.error(scored.y, scored.all(curves[0][0][counts[0]]), scored.weights)
        if len(counts) * JACKKNIFED * (time.monotonic() - began) > seconds:
            return []
    for rows in counts:
        result = _judge(study, scored, [(curve[rows], weight) for curve, weight in curves])
        found.append(replace(trial, rows=rows, measurement=result.measurement))
    return found
