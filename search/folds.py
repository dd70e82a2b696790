"""Folds as the fidelity of small tables: a trial ends after a fold where models of its family are better at no higher cost.

Stopping cross-validation early lets a search look at more models in its time, and at no loss (Bergman, Purucker, Hutter 2024,
"Don't Waste Your Time: Early Stopping Cross-Validation"). There a fold is held against the incumbent's error; here, where a
cheap model is worth having as well, against every model of the front so far, on the same rows. Only those of its own
family count: of the others an ensemble wants the best, whatever they cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from automl.estimators.errors import DataError

from .front import nondominated
from .metric import Metric
from .objective import Objective, value_of
from .trial import Measurement, Trial

if TYPE_CHECKING:
    from .record import Record

LOOKS = (1, 3)
"""The numbers of folds after which it is looked at."""
CERTAIN = 2.0
"""So many standard errors of the paired difference a model is worse than the other."""
MOST_RIVALS = 6
LEAST_SECONDS = 0.3
"""A trial that is predicted to take less is not looked at: looking costs as well, and there is little to be saved."""
STOPPED = "models of its family are better at no higher cost, by the folds so far"


@dataclass(frozen=True)
class Rival:
    """A model that a trial is held against: the id of its plan, the file with its predictions, and what it costs."""

    plan: str
    predictions: Path
    costs: tuple[float, ...]


@dataclass(frozen=True)
class Rivals:
    """The models that a trial is held against, by the `objectives` other than the error."""

    objectives: tuple[Objective, ...]
    models: tuple[Rival, ...]

    def beat(
        self,
        task: str,
        metric: Metric,
        y: NDArray[Any],
        weights: NDArray[Any] | None,
        clusters: NDArray[np.int64],
        made: Iterable[tuple[Measurement, NDArray[Any]]],
    ) -> bool:
        """Whether each model of a trial (its costs, its predictions for the first rows scored) is worse than a rival that costs no
        more. `y` are the targets of these rows, `clusters` the codes of their groups, if they have any. Where the metric is not
        defined on them nothing is known.
        """
        try:
            known = [(r.costs, metric.influence(y, found, weights, clusters)) for r, found in self._read(task, len(y))]
            return all(
                any(_worse(losses, others) and self._no_cheaper(costs, price) for price, others in known)
                for costs, losses in ((c, metric.influence(y, found[: len(y)], weights, clusters)) for c, found in made)
            )
        except DataError:
            return False

    def _read(self, task: str, rows: int) -> Iterable[tuple[Rival, NDArray[Any]]]:
        for rival in self.models:
            try:
                with np.load(rival.predictions) as stored:
                    found = stored[rival.plan][:rows].astype(np.float64) if rival.plan in stored.files else None
            except FileNotFoundError:  # a former process's, or no longer kept
                continue
            if found is not None:
                yield rival, np.column_stack([1.0 - found, found]) if task == "binary" else found

    def _no_cheaper(self, measurement: Measurement, price: Sequence[float]) -> bool:
        for objective, other in zip(self.objectives, price, strict=True):
            own = value_of(objective, measurement)
            if own is not None and own < other - objective.relative_noise * abs(other) - objective.absolute_noise:
                return False
        return True


def _worse(losses: NDArray[np.float64], others: NDArray[np.float64]) -> bool:
    difference = losses - others
    return bool(difference.mean() > CERTAIN * difference.std(ddof=1) / math.sqrt(len(difference)))


def rivals(record: Record, trial: Trial) -> Rivals | None:
    """What a trial about to start is held against; None where it makes one fit or is over soon, its costs are not those
    measured, limits say which models count, it is one that others are held against, or the metric says nothing of single rows.
    """
    setting = record.setting
    if len(setting.split.folds) < 2 or math.isinf(setting.limits.seconds) or setting.target_rows is not None:
        return None
    if setting.bounds or trial.plan.id in record.favoured or trial.rung < 0 or setting.metric.rows is None:
        return None
    family, fits = setting.families[trial.plan.family], len(setting.split.folds)
    if record.cost.predict(family, trial.plan, trial.rows, fits)[0] < LEAST_SECONDS:
        return None
    done = [t for t in record.best_rung() if t.plan.family == trial.plan.family and t.plan.hardware.dtype == "float32"]
    if not done:
        return None
    values = np.array([record.values(t) for t in done])
    front = sorted(np.flatnonzero(nondominated(values)), key=lambda i: done[i].measurement.error or 0.0)[:MOST_RIVALS]
    objectives = tuple(o for o in setting.objectives if o.name != "error")
    places = [k for k, o in enumerate(setting.objectives) if o.name != "error"]
    models = (Rival(done[i].plan.id, record.predictions(done[i]), tuple(values[i][places])) for i in front)
    return Rivals(objectives, tuple(models))
