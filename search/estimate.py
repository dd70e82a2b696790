"""What a finished model's score will be on new rows: what was measured, less the luck of having been chosen.

A model of the front was not drawn, it was chosen: of all that cost no more it had the smallest error on the rows that score, and
part of that is luck (the winner's curse), which the estimate takes off. Rows that steered the search and rows that it never saw
are both rows that no model was trained on, and both count, each less the luck of those choices that were made by them: the second
alone are too few to tell the best of a small table. The artifact is fitted on all rows, the model that was scored on fewer: what
its error law expects of the added ones is in the interval, and a third of it is credited. (A law of three points says too little
of so small a step: where all of it was, scores were too good, and where nothing was, too modest.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from .forecast import CREDIT, USUAL_EXPONENT, USUAL_SHARE
from .metric import Metric
from .objective import value_of
from .plan import Plan
from .scaling import Z90, ErrorLaw, RefusalError
from .study import Study
from .trial import Measurement, Trial

DRAWS = 1000
"""Of the parametric bootstrap: the standard error of a correction is then 3 % of a standard error at most."""
RIVALS = 100
"""So many of the most accurate that cost no more compete in it: the others win next to never."""
SAME_COST = 0.05
"""A cost that is more by up to this share of another counts as no more than it, as on fronts."""
WIDEST = 1.0
"""The standard deviation of a change, in shares of the error, is at most this: where an error was 0 on some rows its ratio to the others
says nothing.
"""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Change:
    """What the error is multiplied by where the training rows change, and the standard deviation of that."""

    ratio: float = 1.0
    sd: float = 0.0


# -- the luck of the chosen --------------------------------------------------------------------------------------------


def luck(influences: Sequence[NDArray[np.float32]], costs: Floats, of: Sequence[int], given: Sequence[bool]) -> Floats:
    """How much smaller than its true error that of each model in `of` is expected to look, for having been chosen.

    influences (n, rows), on the same rows; costs (n, m), minimised; `given` (n,) says which models were there before any
    was measured, which have had no luck. A model stands for the best among itself and those that cost no more and are no
    better. That choice is made again on errors drawn around the measured ones, with their covariance, and what the winner's
    error is then too small by is the answer: the parametric form of the bootstrap bias correction of Tsamardinos et al.
    (2018, BBC-CV).
    """
    errors = np.array([x.mean(dtype=np.float64) for x in influences])
    found = np.zeros(len(of))
    if not influences or len(influences[0]) < 2:  # of a single row or group nothing is known of luck
        return found
    for place, i in enumerate(of):
        if given[i]:
            continue
        beaten = (costs <= costs[i] + SAME_COST * np.abs(costs[i])).all(axis=1) & (errors >= errors[i])
        rivals = [int(j) for j in np.argsort(errors, kind="stable") if beaten[j] and j != i][: RIVALS - 1]
        some = [i, *rivals]
        covariance = np.atleast_2d(np.cov([influences[j] for j in some], dtype=np.float64)) / len(influences[i])
        drawn = np.random.default_rng(0).multivariate_normal(np.zeros(len(some)), covariance, size=DRAWS, method="eigh")
        winner = np.argmin(errors[some] + drawn, axis=1)
        found[place] = max(0.0, -float(drawn[np.arange(DRAWS), winner].mean()))
    return found


# -- the added rows ----------------------------------------------------------------------------------------------------


def change(
    plan: Plan, trials: Sequence[Trial], losses: Mapping[int, NDArray[np.float32]], before: float, after: float
) -> Change:
    """What the error of a plan becomes from `before` to `after` training rows, by its error law.

    The law is fitted to what the plan's trials measured, with the standard errors of their differences from the last: they
    were scored on the same rows. Without a law it is the usual curve. An ensemble changes as its members do.
    """
    if after == before:
        return Change()
    if plan.members:
        total = sum(weight for _, weight in plan.members)
        parts = [(change(member, trials, losses, before, after), weight / total) for member, weight in plan.members]
        return Change(sum(c.ratio * share for c, share in parts), sum(c.sd * share for c, share in parts))
    key = (plan.whole.id, plan.variant)
    own = {t.rows: t for t in trials if t.status == "completed" and (t.plan.whole.id, t.plan.variant) == key}
    curve = [own[rows] for rows in sorted(own) if own[rows].number in losses]
    try:
        return law_change(curve, losses, before, after)
    except RefusalError:  # too few points, or none that a law follows: the usual curve below
        pass
    usual = USUAL_SHARE + (1 - USUAL_SHARE) * (after / before) ** -USUAL_EXPONENT
    errors = np.maximum([t.measurement.error or 0.0 for t in curve], 1e-300)
    rise = float(np.diff(np.log(errors)).max(initial=0.0))  # with more rows: no law has that
    return Change(usual, min(WIDEST, math.hypot((1.0 - usual) / 2, rise)))


def law_change(
    curve: Sequence[Trial], losses: Mapping[int, NDArray[np.float32]], before: float, after: float
) -> Change:
    """`change` by the law of the trials, by rows; they lie as far from it as another fit will. Raises RefusalError where there
    is none.
    """
    rows = [float(t.rows) for t in curve]
    errors = [float(t.measurement.error or 0.0) for t in curve]
    deviations = []
    for trial in curve:
        apart = losses[trial.number].astype(np.float64) - losses[curve[-1].number]
        deviations.append(float(apart.std() / math.sqrt(2 * max(1, len(apart)))))
    law = ErrorLaw(rows, errors, deviations)
    ratio, sd = law.change(before, after)
    off = [math.log(max(e, 1e-300) / max(law.predictive(n)[0], 1e-300)) for n, e in zip(rows, errors, strict=True)]
    return Change(ratio, min(WIDEST, math.hypot(sd, ratio * float(np.sqrt(np.mean(np.square(off)))))))


# -- together ----------------------------------------------------------------------------------------------------------


def estimates(study: Study, models: Sequence[tuple[Trial, Measurement]]) -> list[Measurement]:
    """The finished models' measurements with their estimated errors and scores; (trial, costs) of each. A model that stands
    there on two engines is one competitor, with the costs of the later one.

    By the rows that steered the search all its trials competed for a place on the front, by what was measured of them then; by a
    holdout the finished models alone.
    """
    losses, objectives = study.losses, [o for o in study.setting.objectives if o.name != "error"]
    counted = math.isinf(study.setting.limits.seconds)  # trials: then nothing goes by what clocks say
    finished = {t.number: study.steering(t) if counted else m for t, m in models}
    tried = {t.number: study.steering(t) for t in [*study.best_rung(), *(t for t, _ in models)]}
    given = {t.number: t.plan.id in study.references for t in [*study.best_rung(), *(t for t, _ in models)]}
    parts = [(losses.holdout, finished)] if held_apart(study) else [(losses.validation, tried)]
    if held_apart(study) and exchangeable(study):
        parts.append((losses.validation, tried))
    lucky, rows_of_part = [], [max(map(len, kept.values()), default=0) for kept, _ in parts]
    for kept, rivals in parts:
        numbers = list(rivals)
        read = [[value_of(objective, rivals[number]) for objective in objectives] for number in numbers]
        costs = np.array([[math.inf if value is None else value for value in row] for row in read], np.float64)
        lucky.append(
            luck(
                [kept[number] for number in numbers],
                costs.reshape(len(numbers), len(objectives)),
                [numbers.index(t.number) for t, _ in models],
                [given[number] for number in numbers],
            )
        )
    folds = len(study.setting.split.folds)
    wider = math.sqrt(1 + folds / (folds - 1)) if folds > 1 else 1.0
    scored, found = scoring(study), []
    for place, (trial, measured) in enumerate(models):
        one = float(np.average([part[place] for part in lucky], weights=rows_of_part))
        rows = float(measured.rows or trial.rows)
        family = study.setting.families.get(trial.plan.family)
        grown = Change()
        if family is None or family.reads:
            grown = change(trial.plan, study.trials, losses.validation, float(trial.rows), rows)
        found.append(honest(measured, scored[trial.number], study.setting.metric, one, grown, wider))
    return found


def held_apart(study: Study) -> bool:
    """Whether there are rows that the search never saw."""
    return any(len(x) for x in study.losses.holdout.values())


def exchangeable(study: Study) -> bool:
    """Whether the rows that steered and those that did not were drawn alike: not where the user said how to split."""
    return study.setting.merge


def scoring(study: Study) -> dict[int, NDArray[np.float32]]:
    """The influences that reported errors come from: of all rows held out; of the holdout alone where the user said how to split;
    of those that steered the search where there is no other.
    """
    losses = study.losses
    if not held_apart(study):
        return losses.validation
    if not exchangeable(study):
        return losses.holdout
    return {number: np.concatenate([losses.validation[number], held]) for number, held in losses.holdout.items()}


def honest(
    measured: Measurement,
    influence: NDArray[np.float32],
    metric: Metric,
    lucky: float,
    grown: Change,
    wider: float = 1.0,
) -> Measurement:
    """The measurement with its error, standard error, score and 90 % interval as estimated for the artifact on new rows.

    Of few rows or groups the interval is wide by Student's t; of a single one the standard error is taken to be the error itself.
    The interval is that of a mean of skewed values to the second order (Johnson 1978; Hall 1992): of losses that are rarely
    large the upper side is the longer one. `wider` multiplies the standard error of the mean: in cross-validation the
    models of the folds depend on each other's rows (1.5 for five folds: Nadeau and Bengio 2003).
    """
    values = influence.astype(np.float64)
    n, error = len(values), float(values.mean())
    spread = float(values.std(ddof=1)) if n > 1 else abs(error)
    quantile = float(stdtrit(max(1, n - 1), 0.95))
    skew = float(((values - error) ** 3).mean() / spread**3) if spread > 0 else 0.0
    own = wider * spread / math.sqrt(n)
    chosen = error + lucky
    sd = math.hypot(own, lucky / 2, error * grown.sd)
    added = max(0.0, chosen * (1.0 - grown.ratio))  # what the added rows may bring
    mended = chosen - CREDIT * added
    lean = min(0.5, max(-0.5, skew * (2 * Z90**2 + 1) / (6 * math.sqrt(n)))) * own
    least = -math.inf if metric.best is None else 0.0  # no score is better than the best
    bounds = chosen - added + lean - quantile * sd, chosen + lean + quantile * sd
    ends = [metric.score_of(max(least, bound)) for bound in bounds]
    return replace(
        measured,
        error=mended,
        error_sd=sd,
        score=metric.score_of(mended),
        score_low=min(ends),
        score_high=max(ends),
        measured_error=error,
    )
