"""Leaner encoders: the most accurate model that is not dear on nested parts of the columns, those first that bring most for what they cost.

The parts are those of the selection method "value", a greedy knapsack of gain by cost. Each is a plan like any other,
with the hyperparameters of the model that it is made of, and has to be fitted.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from automl.estimators.space import Value

from .plan import FRACTIONS, LEAN
from .trial import Trial

if TYPE_CHECKING:
    from .study import Study

FROM = 0.3
"""The share of the budget before which too few models have been seen for one of them to be the most accurate."""
STARTS = 2
"""So many models are tried on the largest part of the columns, at most; on the next smaller one only where that helped."""
SHARE = 0.1
"""A model whose trial took more of the budget than this is not tried on parts of the columns while there are others."""
METHOD = "value"
PARTS = tuple(fraction for fraction in FRACTIONS if fraction <= 0.5)


def leaner(study: Study, ended: Trial) -> list[dict[str, Value]]:
    """The points to fit next now that a trial has completed: none, or one.

    A part of the columns is followed by the next smaller one where no other model dominates the trial: one that is beaten on
    half of the columns brings no volume to the front on a quarter.
    """
    setting = study.setting
    if setting.facts.columns < LEAN or setting.facts.sparse or study.strategy.name != "auto":
        return []
    if ended.status != "completed" or ended.rung != study.base_rung or ended.parent is not None:
        return []
    point = dict(ended.point)
    if point.get("selection") == METHOD:
        smaller = [part for part in PARTS if part < float(point.get("fraction", 1.0))]
        return [{**point, "fraction": smaller[0]}] if smaller and not _dominated(study, ended) else []
    if _spent(study) < FROM:
        return []
    done = [t for t in study.asked() if t.status == "completed" and t.rung == study.base_rung]
    cheap = [t for t in done if t.wall_seconds <= SHARE * setting.limits.seconds] or done
    best = min(cheap, key=lambda t: (study.steering(t).error or math.inf, t.number))
    begun = [dict(t.point) for t in (*done, *study.running())] + study.agenda.queue
    begun = [p for p in begun if p.get("selection") == METHOD and p.get("fraction") == PARTS[0]]
    wanted: dict[str, Value] = {**dict(best.point), "selection": METHOD, "fraction": PARTS[0]}
    if not _selects(study, best) or best.plan.selection != "none" or wanted in begun or len(begun) >= STARTS:
        return []
    return [wanted]


def _selects(study: Study, trial: Trial) -> bool:
    """Whether the family's branch of the space has the method."""
    branch = next((b for b in study.strategy.branches if b.family == trial.plan.family), None)
    choice = branch.space.get("selection") if branch is not None else None
    return METHOD in getattr(choice, "options", ())


def _spent(study: Study) -> float:
    """The share of the budget that is spent, of time or of trials."""
    limits = study.setting.limits
    shares = [0.0 if math.isinf(limits.seconds) else study.elapsed() / limits.seconds]
    if limits.trials:
        shares.append(sum(t.status != "skipped" for t in study.asked()) / limits.trials)
    return max(shares)


def _dominated(study: Study, trial: Trial) -> bool:
    values = np.array(study.values(trial))
    others = [study.values(t) for t in study.best_rung() if t.number != trial.number]
    return any(bool((np.array(other) <= values).all()) for other in others)
