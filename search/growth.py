"""What the laws of the front's models are fitted to: their plans on fewer rows, and the best of them on one thread and on all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .cost import OVERHEAD
from .ensemble import fit_of
from .fitting import Job, Result, supervise
from .forecast import laws_of
from .plan import Plan
from .scaling import RefusalError, threads_law
from .study import Point, Study
from .trial import Trial

SHARE = 0.1
"""At most this share of a wall budget goes to fits on fewer rows."""
THREADS_SHARE = 0.03
"""... and this one to the fits that tell what threads bring; without room for them there is no threads law."""


class Growing:
    """The fits that only laws need, after a search and before the fits on all rows."""

    def __init__(self, study: Study) -> None:
        self.study = study

    @property
    def budget(self) -> float:
        return self.study.setting.limits.seconds

    def points(self, models: Sequence[Trial]) -> list[Point]:
        """What is still to be fitted for the models' laws: a law is whole before the next one's begins, the cheapest first."""
        study = self.study
        if study.setting.in_process:  # the budget is too short for any
            return []
        known = {(t.plan.id, t.rows) for t in study.trials if t.status == "completed"}
        wanted: dict[str, dict[int, Trial]] = {}
        for t in models:  # of a prefix itself: the search keeps none on fewer rows that others were better than there
            own = t.plan.id if t.plan.calibration == "none" else t.plan.whole.id
            for n in study.setting.split.law_rows(t.rows):
                if (own, n) not in known:
                    wanted.setdefault(t.plan.whole.id, {})[n] = t
        laws = [[Point(t, n, self._seconds(t, n)) for n, t in law.items()] for law in wanted.values()]
        if not math.isinf(self.budget):  # trials: then nothing goes by what clocks say
            laws.sort(key=lambda law: sum(point.seconds for point in law))
        return [point for law in laws for point in law]

    def _seconds(self, trial: Trial, rows: int) -> float:
        """Predicted wall seconds of the trial's plan on `rows` rows: predictions and artifact take what they took on all."""
        whole = next((t for t in self.study.trials if t.number == fit_of(trial)), trial)
        fits = self.study.setting.split.fits() * (whole.measurement.training_seconds or 0.1)
        return self.study.point_seconds(trial, rows) + max(0.0, whole.wall_seconds - fits - OVERHEAD)

    def seconds(self, models: Sequence[Trial]) -> float:
        """Wall seconds that `measure` will take at the most."""
        threads = self._threads_job(models)
        return self._points_seconds(self.points(models)) + (0.0 if threads is None else threads[1])

    def _points_seconds(self, points: Sequence[Point]) -> float:
        if math.isinf(self.budget):  # all: which ones there is time for would be chance
            return math.inf
        each = [point.seconds for point in points]
        needed = max(sum(each) / self.study.setting.slots, max(each, default=0.0))
        return min(1.2 * needed, SHARE * self.budget)

    def measure(self, models: Sequence[Trial], threads: int) -> None:
        """Makes the fits for the laws of the models, several at a time, then those for the threads law one at a time, where all
        `threads` of the run are left to it: on a busy machine it would be a law of the others' work.
        """
        points = self.points(models)
        self.study.add_points(points, self._points_seconds(points))
        if threads == self.study.setting.threads:
            self._measure_threads(models)

    def laws(self, trial: Trial, plan: Plan, kappa: float) -> dict[str, Any]:
        """The laws of a finalist, finally fitted as `plan`, from the trials of its plan, or of the same prefix of it."""
        setting, key = self.study.setting, (trial.plan.whole.id, trial.plan.variant)
        own = [t for t in self.study.trials if (t.plan.whole.id, t.plan.variant) == key]
        family, facts = setting.families[trial.plan.family], setting.facts
        return laws_of(plan, own, family, facts.columns, facts.classes, kappa)

    # -- threads ----------------------------------------------------------------------------------------------------

    def _threads_rows(self) -> int:
        return max(1, self.study.setting.split.rungs()[-1] // 4)

    def _threads_job(self, models: Sequence[Trial]) -> tuple[Trial, float] | None:
        """(the first model that trains on several threads, predicted seconds of its two fits), if there is room."""
        setting = self.study.setting
        if setting.threads < 2 or setting.in_process or self.study.executor is not None:
            return None
        on_cpu = [t for t in models if t.plan.hardware.device == "cpu"]
        trial = next((t for t in on_cpu if setting.families[t.plan.family].parallel), None)
        if trial is None or math.isinf(self.budget):
            return None
        one = self.study.point_seconds(trial, self._threads_rows())
        alone = max(1, trial.plan.hardware.threads)  # so many times as long one thread may take
        needed = (1 + alone) * (one - OVERHEAD) + 2 * OVERHEAD
        return (trial, needed) if needed <= THREADS_SHARE * self.budget else None

    def _measure_threads(self, models: Sequence[Trial]) -> None:
        """Fits one plan alone on the machine with one thread and with all, and keeps Amdahl's law of it in the store."""
        found, study = self._threads_job(models), self.study
        if found is None or study.interrupted:
            return
        (trial, needed), setting = found, study.setting
        rows, counts, seconds = self._threads_rows(), (1, setting.threads), []
        end = study.elapsed() + 2 * needed
        for threads in counts:
            plan = replace(trial.plan.whole, hardware=replace(trial.plan.hardware, threads=threads))
            folder = setting.data / "threads" / str(threads)
            job = Job(plan, setting.families[plan.family], setting.metric, setting.data, folder, rows, setting.seed)
            server = "torch" if job.family.needs == "torch" else "core"
            wall = max(0.2, min(end - study.elapsed(), study.left()))
            outcome = supervise(job, wall, setting.limits.memory_bytes, server, study.cancel)
            if outcome.status != "completed":
                return
            result: Result = outcome.value
            seconds.append(result.measurement.training_seconds or 0.0)
        try:
            law = threads_law(counts, seconds)
        except RefusalError:  # a fit too quick to be timed
            return
        told = {"family": trial.plan.family, "rows": rows, "threads": list(counts), "seconds": seconds}
        study.store.set_meta("threads", told | {"parallel": law.parallel, "speedup": law.speedup(setting.threads)})
