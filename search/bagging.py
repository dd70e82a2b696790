"""Bags: on a table that is cross-validated, the models of a plan's folds as one model, their mean, beside its single fit on all rows.

(Breiman 1996, bagging; by folds as AutoGluon does on small tables.) A row of the table has been seen by all models of the
bag but one, so what the mean does on new rows cannot be read off their own predictions: the losses of the models alone are
only an upper bound of it. So bagging is cross-validated itself: a model is fitted for each pair of folds on the rows of
neither, and a row is predicted by the mean of those that left its fold out. These are one fewer than the bag's, on three
quarters of the rows: the score reported, with its interval, is that of a smaller bag on fewer rows.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from .cost import OVERHEAD
from .ensemble import fit_of, together
from .fitting import Job, Meter, Result, judged, kept, opened, pipeline_of, write_predictions
from .front import paired_errors
from .plan import WHOLE, Plan, bag_of
from .setting import NO_WALL
from .split import Split
from .study import Study
from .trial import Measurement, Trial
from .worker import Outcome, run_isolated

log = logging.getLogger("automl")

MOST = 2
"""At most so many bags are judged: with one in it an ensemble has as many graphs as there are folds."""
SHARE = 0.1
"""At most this share of a wall budget goes to them, their fits at the end included."""
LEAST_FOLDS = 3
NEAR = 2.0
"""Standard errors of the difference that a model whose bag is judged is behind the most accurate one at the most."""
PAIR_ROWS = 0.75
"""A fit without two of five folds takes this share of one without one of them."""
MEMBER_SECONDS, BLEND_SECONDS = 0.05, 0.5
"""What a bag takes beside its fits: a graph for each, written and proven, and all of them blended."""


@dataclass(frozen=True)
class BagJob:
    """A bag to judge, or to fit and write: `job` is that of its single model, `bag` its plan."""

    job: Job
    bag: Plan


class Bagging:
    """The bags of a run's finalists: which there is time for, what they are like, and their fits."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.folds = len(study.setting.split.folds) if partitioned(study.setting.split) else 0

    def bases(self, finalists: Sequence[Trial]) -> list[Trial]:
        """The most accurate fits of finalists whose bags there is time for: whole models, one of a family that bagging helps.

        Only those near the most accurate finalist: a bag is better than its single model by little.
        """
        setting, losses = self.study.setting, self.study.losses.validation
        room, found = SHARE * setting.limits.seconds, list[Trial]()
        if self.folds < LEAST_FOLDS or not setting.ensembles or setting.in_process or not finalists:
            return []
        fits = {fit_of(t) for t in finalists}  # of a finalist that is a prefix the whole model may be bagged
        wholes = [t for t in self.study.trials if t.number in fits and t not in finalists]
        ranked = sorted([*finalists, *wholes], key=lambda t: (t.measurement.error, t.number))
        for trial in ranked:
            own, best = losses[trial.number], losses[ranked[0].number]
            behind = float(own.mean(dtype=np.float64) - best.mean(dtype=np.float64))
            if len(found) == MOST or behind > NEAR * float(paired_errors([own, best])[0, 1]):
                break
            needed = self._judging(trial) + self.fitting(trial)
            helps = setting.families[trial.plan.family].bagged and trial.plan.variant == WHOLE
            if helps and needed <= room and trial.plan.family not in {t.plan.family for t in found}:
                found.append(trial)
                room -= needed
        return found

    def seconds(self, finalists: Sequence[Trial]) -> float:
        """Wall seconds to keep back for the bags of these finalists."""
        bases = self.bases(finalists)
        judging = [self._judging(t) for t in bases]
        together = max(sum(judging) / self.study.setting.here, max(judging, default=0.0))  # each is one process
        return together + sum(self.fitting(t) for t in bases)

    def _judging(self, base: Trial) -> float:
        pairs = self.folds * (self.folds - 1) / 2
        return OVERHEAD + pairs * PAIR_ROWS * (base.measurement.training_seconds or 0.1)

    def fitting(self, base: Trial) -> float:
        """Predicted wall seconds of the fits of a bag and its artifact."""
        each = MEMBER_SECONDS + (base.measurement.training_seconds or 0.1)
        return OVERHEAD + BLEND_SECONDS + self.folds * each

    def judge(self, finalists: Sequence[Trial]) -> dict[int, tuple[Trial, Trial]]:
        """(bag, its single model) by the bag's number, the bag a completed trial that is not in the store.

        Only those that are more accurate than their single model by a standard error of the difference. Their influences
        are among the study's losses from then on, and what they predict beside the trials', for the ensembles.
        """
        bases = [] if self.study.interrupted else self.bases(finalists)
        found: dict[int, tuple[Trial, Trial]] = {}
        if not bases:
            return found
        with ThreadPoolExecutor(self.study.setting.here, thread_name_prefix="automl-bag") as pool:
            bags = [self._trial(base) for base in bases]
            outcomes = list(pool.map(self._judged, bags, bases))
        for bag, base, outcome in zip(bags, bases, outcomes, strict=True):
            if outcome.status != "completed":
                log.info("the bag of trial %d is left out: %s, %s", base.number, outcome.status, outcome.reason)
                continue
            result: Result = outcome.value
            own, losses = self.study.losses.validation[base.number], self.study.losses
            gain = float(own.mean(dtype=np.float64) - result.validation.mean(dtype=np.float64))
            log.debug("the bag of trial %d is better by %.3g, in %.2f s", base.number, gain, outcome.wall_seconds)
            if gain > float(paired_errors([own, result.validation])[0, 1]):
                told = result.measurement
                measured = replace(bag.measurement, error=told.error, error_sd=told.error_sd)
                losses.validation[bag.number], losses.holdout[bag.number] = result.validation, result.holdout
                found[bag.number] = replace(bag, measurement=measured), base
        return found

    def _trial(self, base: Trial) -> Trial:
        """The bag, its costs as they are expected: those of as many models as there are folds."""
        models = [replace(base, number=fold) for fold in range(self.folds)]
        costs = together(models, [self.study.steering(base)] * self.folds)
        plan = bag_of(base.plan, self.folds)
        return Trial(self.study.take_number(), plan, base.rows, base.rung, "completed", measurement=costs)

    def _judged(self, bag: Trial, base: Trial) -> Outcome:
        room = min(NO_WALL, self.study.left())
        return self._run(judge_bag, bag, base.plan, min(room, 4 * self._judging(base) + 1.0), 1)

    def fit(self, bag: Trial, plan: Plan, wall_seconds: float) -> Outcome:
        """Fits the models of the bag's folds by `plan`, alone on the machine, and writes the artifact to its folder."""
        return self._run(fit_bag, bag, plan, wall_seconds, self.study.setting.here)

    def _run(
        self, function: Callable[[BagJob], Result], bag: Trial, plan: Plan, wall_seconds: float, slots: int
    ) -> Outcome:
        study, setting = self.study, self.study.setting
        family, folder = setting.families[plan.family], self.folder(bag)
        job = Job(plan, family, setting.metric, setting.data, folder, bag.rows, setting.seed, merge=setting.merge)
        each = setting.limits.memory_bytes
        return run_isolated(
            function,
            BagJob(job, bag.plan),
            wall_seconds=max(0.2, wall_seconds),
            memory_bytes=None if each is None else each * slots,
            server="torch" if family.needs == "torch" else "core",
            cleanup=[folder],
            cancel=study.cancel,
        )

    def folder(self, bag: Trial) -> Path:
        """Where the artifact of a bag is written; by its name what the bag predicts is found, as every trial's."""
        return self.study.setting.data / "final" / self.study.folder(bag).name


def partitioned(split: Split) -> bool:
    """Whether each fold trains on the rows that all others validate: not so where the past may not know the future."""
    folds = split.folds
    return all(np.isin(folds[j][1], folds[i][0]).all() for i in range(len(folds)) for j in range(len(folds)) if i != j)


def judge_bag(job: BagJob) -> Result:
    """What bagging is like on the rows scored, by a model for each pair of folds. Runs in a process of its own."""
    single = job.job
    with opened(single) as (table, split):
        task, folds, scored = table.task.kind, split.folds, split.scored
        ends = np.cumsum([len(validation) for _, validation in folds])
        places = [slice(end - len(validation), end) for end, (_, validation) in zip(ends, folds, strict=True)]
        total = np.zeros((len(scored),) if task == "regression" else (len(scored), len(table.task.classes)))
        for pair in combinations(range(len(folds)), 2):
            (train, _), (_, other) = folds[pair[0]], folds[pair[1]]
            pipeline = pipeline_of(single)
            pipeline.fit(table, train[~np.isin(train, other)], merge=single.merge)
            for fold in pair:
                total[places[fold]] += pipeline.predict(table, scored[places[fold]])
        prediction = total / (len(folds) - 1)
        y, weights = np.asarray(table.y[scored]), None if table.weights is None else np.asarray(table.weights[scored])
        write_predictions(single.data, single.folder.name, {job.bag.id: kept(task, prediction)})
        return judged(single.metric, Measurement(), y, prediction, weights, len(scored), split.clusters)


def fit_bag(job: BagJob) -> Result:
    """The models of the folds, as cross-validation fitted them, and their blend. Runs in a process of its own."""
    from automl.estimators.blend import blend

    meter, single, members = Meter(), job.job, []
    with opened(single) as (table, split):
        for fold, (train, _) in enumerate(split.folds):
            pipeline = pipeline_of(single)
            with meter.fit():
                pipeline.fit(table, train, merge=single.merge)
            members.append((single.folder / str(fold), 1))
            pipeline.export(members[-1][0], table, train)
        size, proof, columns = blend(single.folder, members, table, split.train, single.seed)
        rows = len(split.train)
    for place, _ in members:
        shutil.rmtree(place)
    measured = Measurement(
        training_seconds=meter.wall,
        training_cpu_seconds=meter.cpu,
        training_memory_bytes=meter.peak,
        size_bytes=size,
        rows=rows,
        columns=columns,
    )
    return Result(measured, proof=proof.as_dict())
