"""The record of a study: the trials that have ended, what they say of costs and objectives, and what the strategy was told."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from automl.estimators.errors import UsageError
from automl.estimators.family import Family
from automl.estimators.space import Value

from .allocation import Falls
from .cost import OVERHEAD, CostModel, threads_share
from .fitting import Result, predictions_file
from .forecast import at_rows
from .front import exact_front
from .objective import value_of
from .plan import WHOLE
from .scaling import LEAST_POINTS
from .setting import Setting
from .space import JointSpace, complete
from .store import Store
from .strategy import Strategy
from .trial import STATUSES, Measurement, Trial

log = logging.getLogger("automl")

RUNG_SHARE = 0.06
"""New plans start at the largest rung where a typical first fit takes at most this share of the budget."""
ROOMS = 2.5
"""A budget has about so many times the room that is left once the first models are fitted; strong points are of one no larger."""
LEAST_SECONDS = 0.3
"""... or this many seconds, where that is more."""


@dataclass
class Losses:
    """Per-row influences of the completed trials, by trial number."""

    validation: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    holdout: dict[int, NDArray[np.float32]] = field(default_factory=dict)


class Record:
    """What has ended of a study. `trials` are in their order; the store holds the same on disk."""

    def __init__(self, setting: Setting, strategy: Strategy, store: Store) -> None:
        self.setting = setting
        self.strategy = strategy
        self.store = store
        self.trials: list[Trial] = []
        self.losses = Losses()
        self.cost = CostModel(setting.facts)
        self.rungs = setting.split.rungs()
        families, facts = setting.families.values(), setting.facts
        self.references = self._ids((f, p) for f in families if (p := f.reference(facts)) is not None)
        self.sized: dict[str, list[dict[str, Value]]] = dict(store.get_meta("strong") or {})
        self.strong = self._ids((f, p) for f in families for p in (*f.strong(facts), *self.sized.get(f.name, ())))
        self.base_rung = self._kept_base_rung()
        self.number = 0
        self.spent_before = float(store.get_meta("elapsed") or 0.0)
        self._front = np.empty((0, len(setting.objectives)))
        self._known: set[int] = set()
        self._shown: list[tuple[str, float, float, float]] = []
        self._shown_until = 0.0
        self._forecasts: dict[tuple[str, int, int], Measurement] = {}
        self._of_plan: dict[str, list[Trial]] = {}
        self.falls = Falls()

    def _ids(self, points: Iterable[tuple[Family, dict[str, Value]]]) -> set[str]:
        """The ids of the plans of points, each with its family."""
        return {self.setting.plan({"family": family.name, **point}, family).id for family, point in points}

    @property
    def favoured(self) -> set[str]:
        """The ids of the plans that go on to all rows whatever they cost for their gain."""
        return self.references | self.strong

    def size(self, family: Family, room: float = math.inf) -> list[dict[str, Value]]:
        """The family's strong points, as large as the budget affords by what its fits took in this run; a resumed one keeps them.

        Where little `room` is left for searching, in seconds, they are those of a budget of so many times that.
        """
        if family.name not in self.sized:
            s = self.setting
            speed = s.split.fits() * threads_share(family, s.trial_threads) * math.exp(self.cost.ratio(family))
            facts = replace(s.facts, budget_seconds=min(s.facts.budget_seconds, ROOMS * max(0.0, room)))
            self.sized[family.name] = list(family.strong(facts, speed))
            self.store.set_meta("strong", self.sized)
            self.strong |= self._ids((family, point) for point in self.sized[family.name])
        return [complete(self.strategy.branches, {"family": family.name, **p}) for p in self.sized[family.name]]

    def elapsed(self) -> float:
        return time.monotonic() - self.setting.start

    def left(self) -> float:
        """Seconds until the wall budget ends."""
        return self.setting.limits.seconds - self.elapsed()

    def folder(self, trial: Trial) -> Path:
        """Where the artifact of a trial lies while the search runs."""
        return self.setting.data / "trials" / f"t{trial.number:04d}"

    def predictions(self, trial: Trial) -> Path:
        """Where what a trial predicts for the rows scored lies, under its plan's id."""
        fit = trial if trial.parent is None else replace(trial, number=trial.parent)
        return predictions_file(self.setting.data, self.folder(fit).name)

    def take_number(self) -> int:
        """A number that no trial of the run has."""
        self.number += 1
        return self.number - 1

    def _kept_base_rung(self) -> int:
        """The base rung that the run began with: what a strategy is told comes from one and the same number of rows."""
        if self.store.get_meta("base_rung") is None:
            self.store.set_meta("base_rung", self._base_rung())
        return min(int(self.store.get_meta("base_rung")), len(self.rungs) - 1)

    def _base_rung(self) -> int:
        """The largest rung where the median of the families' starts is predicted to take at most 6 % of the budget."""
        setting = self.setting
        for rung in range(len(self.rungs) - 1, 0, -1):
            costs = []
            for family in setting.families.values():
                for start in family.starts(setting.facts):
                    plan = setting.plan({"family": family.name, **start}, family)
                    costs.append(self.cost.predict(family, plan, self.rungs[rung])[0])
            if float(np.median(costs)) <= max(LEAST_SECONDS, RUNG_SHARE * setting.limits.seconds):
                return rung
        return 0

    # -- what comes in --------------------------------------------------------------------------------------------

    def restore(self, trials: Sequence[Trial], losses: Losses) -> None:
        """Continues after `trials` of an earlier process: the strategy is told of each in its order."""
        self.losses = losses
        plans = {t.plan.id for t in trials if t.status != "skipped" and t.rung >= 0}
        for trial in trials:
            self._append(trial)
            self.number = max(self.number, trial.number + 1)
            if trial.status != "skipped" or trial.plan.id in plans:  # a plan skipped for want of time is open again
                self._learn(trial, fits=fits_in(self.strategy.branches, trial))

    def end(self, trial: Trial) -> None:
        """Keeps an ended trial: on disk, in the record, and what it says of costs and to the strategy."""
        self.store.add_trial(trial)
        self.store.set_meta("elapsed", self.spent_before + self.elapsed())
        self._append(trial)
        self._learn(trial)
        if trial.status == "completed":
            log.debug(
                "trial %d %s on %d rows: error %.5g in %.2f s",
                trial.number,
                trial.plan.family,
                trial.rows,
                trial.measurement.error or 0.0,
                trial.wall_seconds,
            )
        else:
            log.debug(
                "trial %d %s on %d rows: %s, %s",
                trial.number,
                trial.plan.family,
                trial.rows,
                trial.status,
                trial.reason,
            )
        if trial.status != "completed":
            shutil.rmtree(self.folder(trial), ignore_errors=True)

    def _append(self, trial: Trial) -> None:
        self.trials.append(trial)
        if trial.status == "completed":
            for before in self.of_plan(trial):
                if 0 <= before.rung < trial.rung and trial.parent is None:
                    errors = before.measurement.error or 0.0, trial.measurement.error or 0.0
                    self.falls.observe(trial.plan.family, trial.rows / before.rows, *errors)
            self._of_plan.setdefault(trial.plan.id, []).append(trial)

    def keep_losses(self, number: int, result: Result) -> None:
        """Keeps the influences that a job brought back, here and on disk."""
        self.losses.validation[number], self.losses.holdout[number] = result.validation, result.holdout
        self.store.put_array(number, "validation", result.validation)
        self.store.put_array(number, "holdout", result.holdout)

    def add_prefixes(self, parent: Trial, result: Result) -> None:
        """The prefixes that came with a trial's fit, as trials that cost nothing; none that another trial is as good as."""
        family, params = self.setting.families[parent.plan.family], dict(parent.refit)
        whole = self.cost.units(family, params, parent.plan, parent.rows)
        for plan, found in result.prefixes:
            part, m = self.cost.units(family, params, plan, parent.rows) / whole, found.measurement
            measurement = replace(
                m,
                training_seconds=part * (m.training_seconds or 0.0),
                training_cpu_seconds=part * (m.training_cpu_seconds or 0.0),
            )
            prefix = replace(
                parent, plan=plan, measurement=measurement, wall_seconds=0.0, cpu_seconds=0.0, parent=parent.number
            )
            if parent.rung < 0 or not (self._front <= self.values(prefix)).all(axis=1).any():
                prefix = replace(prefix, number=self.take_number())
                self.keep_losses(prefix.number, found)
                self.end(prefix)

    def _enter(self, trial: Trial) -> None:
        """Puts a completed trial among those that no other is as good as, in the place of those that it beats."""
        values = np.array(self.values(trial))
        if not (self._front <= values).all(axis=1).any():
            self._front = np.vstack([self._front[(self._front < values).any(axis=1)], values])

    def _learn(self, trial: Trial, *, fits: bool = True) -> None:
        """What an ended trial says of costs, and to the strategy if its point `fits` in the space."""
        family = self.setting.families.get(trial.plan.family)
        if family is None:
            return
        if trial.status == "completed" and trial.rung >= 0:
            self._enter(trial)
        if trial.plan.variant != WHOLE:  # no fit of its own
            return
        folds, wall = self.setting.split.fits(), trial.wall_seconds
        if trial.status == "completed":
            fit = trial.measurement.training_seconds or 0.0
            self.cost.observe(family, trial.plan, trial.rows, fit, wall - folds * fit)
        elif trial.status == "stopped":
            self.cost.observe(family, trial.plan, trial.rows, trial.measurement.training_seconds or 0.0, None)
        elif trial.status == "timeout" and wall > 0.0:  # it would have taken longer still
            self.cost.observe(family, trial.plan, trial.rows, 1.5 * wall / folds, None)
        if trial.rung == self.base_rung and fits:
            values = self.values(trial) if trial.status == "completed" else None
            self.strategy.tell(dict(trial.point), values, trial.rung, trial.number)

    # -- what it says ---------------------------------------------------------------------------------------------

    def asked(self) -> list[Trial]:
        """The trials of the search, without those that came with one's fit and the points of laws."""
        return [t for t in self.trials if t.parent is None and t.rung >= 0]

    def best_rung(self) -> list[Trial]:
        """The completed trials, each plan once, at the largest number of rows it was fitted on, and their prefixes."""
        latest: dict[str, Trial] = {}
        for trial in self.asked():
            known = trial.status == "completed" and trial.plan.family in self.setting.families
            if known and trial.rows >= latest.get(trial.plan.id, trial).rows:
                latest[trial.plan.id] = trial
        whole = {t.number for t in latest.values()}
        return [*latest.values(), *(t for t in self.trials if t.parent in whole)]

    def values(self, trial: Trial) -> list[float]:
        """The objectives of a completed trial, minimised; a missing one counts as infinitely bad."""
        return self._read(self.steering(trial))

    def _read(self, measurement: Measurement) -> list[float]:
        """What no completed trial has a value of is left for the end's measuring to tell: to the search it is the same for all."""
        read = [value_of(objective, measurement) for objective in self.setting.objectives]
        self._known |= {k for k, value in enumerate(read) if value is not None}
        return [(math.inf if k in self._known else 0.0) if value is None else value for k, value in enumerate(read)]

    def expected(self, trial: Trial) -> list[float]:
        """The objectives as `values`, of a trial on fewer rows as they are expected to be at the target."""
        return self._read(self.outlook(trial))

    def outlook(self, trial: Trial, *, clocked: bool = False) -> Measurement:
        """The measurement of a completed trial at the target: as it is there, else by the laws of its plan. `clocked`: as it was
        measured in a run of trials as well, which is steered by what no clock says.
        """
        family = self.setting.families.get(trial.plan.family)
        there = family is None or trial.rows == self.target
        if there and not clocked:
            return self.steering(trial)
        found = trial.measurement if family is None or there else self._at_target(trial, family)
        return self._steered(trial, None if clocked else family, found, self.target)

    def steering(self, trial: Trial) -> Measurement:
        """The measurement that steers the search. Where only trials are counted, times and memory, which differ from run to
        run, are read off what doesn't: the cost prior's seconds and the artifact's bytes. Then a run is a function of its
        seed: the plans, the finalists and the most accurate model. What is reported is measured all the same.
        """
        measured, family = trial.measurement, self.setting.families.get(trial.plan.family)
        rows = trial.rows
        if family is not None and self.setting.target_rows is not None:
            rows = self.setting.target_rows
            if trial.status == "completed" and trial.rung >= 0:
                measured = self._at_target(trial, family)
        return self._steered(trial, family, measured, rows)

    def _steered(self, trial: Trial, family: Family | None, measured: Measurement, rows: int) -> Measurement:
        """What steers, of a measurement at `rows`: what is only measured at the end goes by the latency till then. As it was
        measured without a `family`.
        """
        if trial.status == "completed" and measured.latency_p50_seconds:
            call = measured.latency_p50_seconds
            measured = replace(
                measured,
                latency_p99_seconds=measured.latency_p99_seconds or call,
                rows_per_second=measured.rows_per_second or 1.0 / call,
            )
        if family is None or math.isfinite(self.setting.limits.seconds):
            return measured
        seconds = self.cost.units(family, dict(trial.plan.params), trial.plan, rows)
        size = measured.size_bytes or 0.0
        call = 1e-5 + 5e-11 * size
        return replace(
            measured,
            training_seconds=seconds,
            training_cpu_seconds=seconds,
            training_memory_bytes=size,
            latency_p50_seconds=call,
            latency_p99_seconds=call,
            rows_per_second=1.0 / call,
            load_seconds=0.1 + 1e-9 * size,
            serving_memory_bytes=None if measured.serving_memory_bytes is None else size,
            model_memory_bytes=size,
        )

    @property
    def target(self) -> int:
        """The rows at which plans are compared: where the models will live, or all training rows."""
        return self.setting.target_rows or self.rungs[-1]

    def of_plan(self, trial: Trial) -> list[Trial]:
        """The completed trials of a trial's plan."""
        return self._of_plan.get(trial.plan.id, [])

    def _at_target(self, trial: Trial, family: Family) -> Measurement:
        """The measurement as the laws of the trial's plan forecast it at the target."""
        own = [t for t in self.of_plan(trial) if t.rows <= trial.rows] or [trial]
        key = (trial.plan.id, trial.rows, len(own))
        if key not in self._forecasts:
            facts = self.setting.facts
            self._forecasts[key] = at_rows(trial, own, family, self.target, facts.columns, facts.classes)
        found, error = self._forecasts[key], trial.measurement.error or 0.0
        if error > 0.0 and len({t.rows for t in own}) < LEAST_POINTS:  # no law of its own
            fall, _ = self.falls.ratio(family.name, self.target / trial.rows)
            found = replace(found, error=error * math.exp(fall))
        return found

    def point_seconds(self, trial: Trial, rows: int) -> float:
        """Predicted wall seconds of a completed trial's plan, whole, on `rows` rows: its own, by the ratio of the cost terms."""
        family, params = self.setting.families[trial.plan.family], dict(trial.plan.params)
        ratio = self.cost.units(family, params, trial.plan.whole, rows) / self.cost.units(
            family, params, trial.plan, trial.rows
        )
        fits = self.setting.split.fits()
        return OVERHEAD + fits * (trial.measurement.training_seconds or 0.1) * ratio

    def statuses(self) -> dict[str, int]:
        counts = Counter(t.status for t in self.asked())
        return {status: counts.get(status, 0) for status in STATUSES}

    def front_rows(self) -> list[tuple[str, float, float, float]]:
        """(family, error, one-row p50 seconds, artifact bytes) of the front so far, best error first.

        It is sought anew when twenty times as long as it took have passed: it is only for showing.
        """
        start = time.monotonic()
        if start < self._shown_until:
            return self._shown
        done = self.best_rung()
        front = [done[i] for i in exact_front(np.array([self.values(t) for t in done]))] if done else []
        front.sort(key=lambda t: t.measurement.error or 0.0)
        measured = [(t.plan.family, t.measurement) for t in front]
        self._shown = [
            (family, m.error or math.nan, m.latency_p50_seconds or math.nan, m.size_bytes or math.nan)
            for family, m in measured
        ]
        self._shown_until = 20 * (time.monotonic() - start) + start
        return self._shown


def fits_in(branches: JointSpace, trial: Trial) -> bool:
    """Whether the point of a former process's trial is one of the space as it is now: what is searched may have changed."""
    try:
        complete(branches, dict(trial.point))
    except UsageError as problem:
        log.info("trial %d counts, and the strategy is not told of it: %s", trial.number, problem)
        return False
    return True


def failures(trials: Sequence[Trial]) -> list[tuple[str, str, int]]:
    """(status, reason, count) of what did not complete, the commonest first."""
    counts = Counter(
        (t.status, t.reason)
        for t in trials
        if t.status not in ("completed", "stopped") and t.parent is None and t.rung >= 0
    )
    return [(status, reason, count) for (status, reason), count in counts.most_common()]
