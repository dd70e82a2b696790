"""The fits on all rows: what each takes, which are made alone on the machine and which beside each other, and what stands in for one
that there is no time for.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from automl.estimators.hardware import Hardware

from .ensemble import fit_of
from .fitting import Job, Result, fit_here, fits_here, supervise
from .plan import WHOLE, Plan
from .setting import NO_WALL
from .study import Study
from .trial import Measurement, Trial
from .worker import Outcome

log = logging.getLogger("automl")

ONE_THREAD_CELLS = 100_000
"""Under so many cells a fit has one thread: each round is shorter than the wait for a thread that a busy machine holds up."""
EXPORT_SECONDS, EXPORT_SHARE = 0.05, 0.6
"""What an artifact costs beside the fit, its graph, written and proven: at least the first for each, and of what the trial took beside
its fits, which was predictions as well, the second share.
"""
QUICK_SHARE, FIRST_SHARE = 0.02, 0.18
"""A final fit that takes less than the first share of the budget comes before those of an ensemble's members, and these before the
other dear ones. That of the most accurate model comes first of all, unless it takes more than the second share, and its error is not
FAR_AHEAD below the next model's: the others are worth more together, and it is kept as its trial fitted it where no time is left.
"""
FAR_AHEAD = 0.05
PACE_PRIOR, SLOWEST, TOLD_FROM = 0.01, 2.0, 1.0
"""How fast the final fits of a family go is told by those that were predicted to take a second or more, as if this share of the budget
had gone as predicted before; they count as twice as slow at the most.
"""
NOW, MEMBER, LAST = 0, 1, 2
"""The ranks of final fits: the quick ones, those of an ensemble's members, and the others."""


@dataclass(frozen=True)
class Finalist:
    """A model of the front: its plan as finally fitted, what was measured, and where its artifact lies."""

    trial: Trial
    plan: Plan
    measurement: Measurement
    artifact: Path
    proof: dict[str, float] = field(default_factory=dict)
    laws: dict[str, Any] = field(default_factory=dict)


class Refits:
    """The fits on all rows of a study's finalists; `kept()` are the seconds that are needed after the last of them."""

    def __init__(self, study: Study, kept: Callable[[], float]) -> None:
        self.study, self.kept = study, kept
        self.threads = study.setting.threads
        """What a fit alone on the machine has; fewer where others keep it busy."""
        self._beside: set[int] = set()  # the trials whose fits have others beside them
        self._paces: dict[str, tuple[float, float]] = {}  # by family: seconds predicted, and taken
        self._lock = threading.Lock()

    @property
    def budget(self) -> float:
        return self.study.setting.limits.seconds

    def fit_all(self, fits: Sequence[list[Trial]], keep: float, *, alone: bool = False) -> list[Finalist]:
        """These final fits, in this order: the cheap ones alone on the machine, and then the dear ones, as many at a time as the
        search had trials, each on one thread as there; on a busy machine, where all have one thread, all of them so.

        `keep` seconds are left after them; by the first, if it is far ahead and so stands `alone`, no more than the measuring needs.
        """
        many = self.study.setting.here > 1 and math.isfinite(self.budget)
        dear = [group for group in fits if many and (self._single or self.urgency(group, ())[0] > NOW)]
        self._beside |= {fit_of(group[0]) for group in dear}

        def fit(group: list[Trial]) -> list[Finalist]:
            return self.fit(group, 0.0 if alone and group is fits[0] else keep)

        self.study.tell_listener("finishing")  # here: a listener need not bear threads
        found = [fit(group) for group in fits if group not in dear]
        with ThreadPoolExecutor(self.study.setting.here) as pool:
            found += pool.map(fit, dear)
        return [model for models in found for model in models]

    def seconds(self, fits: Sequence[list[Trial]]) -> float:
        """Seconds of final fits as `fit_all` does them."""
        each = [(group, *self.urgency(group, ())) for group in fits]
        many = self.study.setting.here > 1
        dear = [self.predict(group, beside=True) if many else seconds for group, rank, seconds in each if rank]
        together = max(sum(dear) / self.study.setting.here, max(dear, default=0.0))
        return sum(seconds for _, rank, seconds in each if not rank) + together

    @property
    def _single(self) -> bool:
        """Whether others keep the machine so busy that a fit has one thread, where it would have more."""
        return self.threads == 1 < self.study.setting.threads

    def plan(self, trial: Trial, *, beside: bool = False) -> Plan:
        """The plan with early stopping resolved, on all the threads that the run may use, where they have enough to do; on one
        where another fit runs `beside` it.
        """
        setting = self.study.setting
        parallel = setting.families[trial.plan.family].parallel
        beside = beside or fit_of(trial) in self._beside
        threads = (
            1
            if beside
            or (setting.here == 1 and trial.plan.hardware.threads == 1 < setting.trial_threads)
            or setting.facts.rows * setting.facts.columns < ONE_THREAD_CELLS
            else self.threads
        )
        known = setting.devices.get(trial.plan.family, ("cpu",))  # a run may be resumed where there is no GPU
        device = trial.plan.hardware.device if trial.plan.hardware.device in known else known[0]
        hardware = Hardware(threads if parallel else 1, device, trial.plan.hardware.dtype)
        return replace(trial.plan, params=trial.refit or trial.plan.params, hardware=hardware)

    def plans(self, group: list[Trial]) -> list[Plan]:
        """The final plans of a model and its prefixes as parts of one fit, which is no longer than the longest of them."""
        plans, longest = [self.plan(t) for t in group], max(t.plan.prefix for t in group)
        if longest == 1.0:
            return plans
        family = self.study.setting.families[plans[0].family]
        params = tuple(sorted(family.shortened(dict(plans[0].params), longest).items()))
        return [replace(plan, params=params, prefix=plan.prefix / longest) for plan in plans]

    def _all_rows(self) -> int:
        split = self.study.setting.split
        return len(split.train) + len(split.validation) + len(split.holdout)

    def predict(self, group: list[Trial], *, beside: bool = False) -> float:
        """Seconds of one fit on all rows: the trial's own, scaled by the prior's ratio, and what a process and exports cost."""
        study, trial = self.study, max(group, key=lambda t: t.plan.prefix)
        plan, family = self.plan(trial, beside=beside), study.setting.families[trial.plan.family]
        before = study.cost.units(family, dict(plan.params), trial.plan, trial.rows)
        after = study.cost.units(family, dict(plan.params), plan, self._all_rows())
        fit = trial.measurement.training_seconds or 0.1
        return fit * after / before + self.exporting(trial) + EXPORT_SECONDS * len(group)

    def exporting(self, trial: Trial) -> float:
        """Seconds of what is done beside a fit: its process, its graph, the proof."""
        whole = next((t for t in self.study.trials if t.number == fit_of(trial)), trial)
        fits = self.study.setting.split.fits() * (whole.measurement.training_seconds or 0.1)
        return max(0.1, EXPORT_SHARE * (whole.wall_seconds - fits))

    def urgency(self, group: list[Trial], wanted: Collection[int]) -> tuple[int, float]:
        """What the order of the final fits goes by; `wanted` are the numbers of the fits of an ensemble's members."""
        seconds = self.predict(group)
        dear = math.isfinite(self.budget) and seconds > QUICK_SHARE * self.budget
        return (NOW if not dear else MEMBER if fit_of(group[0]) in wanted else LAST), seconds

    def _as_trained(self, group: list[Trial]) -> list[Finalist]:
        """The model as its trial left it; none where its artifact is gone, as that of an earlier process may be.

        Its prefixes have no artifacts before the fit on all rows: the whole model stands for them.
        """
        number = fit_of(group[0])
        for trial in group:
            if trial.number != number:
                log.info(
                    "trial %d, made of the model of trial %d, is left out: there is no fit on all rows",
                    trial.number,
                    number,
                )
        whole = next(t for t in self.study.trials if t.number == number)
        folder = self.study.folder(whole)
        return [Finalist(whole, whole.plan, whole.measurement, folder)] if (folder / "manifest.json").exists() else []

    def fit(self, group: list[Trial], keep: float = 0.0) -> list[Finalist]:
        """The finalists of one fit on all rows, or as its trial left it where there is no time, or it is interrupted.

        `keep` are seconds to leave beside those that are kept anyhow.
        """
        # what may be refused at export, narrow weights and steep curves, after what may not: the first one has to be exported
        group = sorted(group, key=lambda t: t.plan.variant[1:] != WHOLE[1:])
        study, setting, trial = self.study, self.study.setting, group[0]
        room = study.left() - self.kept() - keep
        predicted = self.predict(group)
        seconds = self.pace(trial.plan.family) * predicted
        if study.interrupted or (not math.isinf(self.budget) and 1.1 * seconds > room):
            log.info("trial %d is kept as fitted on %d rows: no time for a fit on all", fit_of(trial), trial.rows)
            return self._as_trained(group)
        folders = [setting.data / "final" / f"t{t.number:04d}" for t in group]
        plans, family = self.plans(group), setting.families[trial.plan.family]
        job = Job(
            plans[0],
            family,
            setting.metric,
            setting.data,
            folders[0],
            self._all_rows(),
            setting.seed,
            final=True,
            merge=setting.merge,
            others=tuple(zip(plans[1:], folders[1:], strict=True)),
        )
        outcome = self._run(job, min(room, 4 * seconds + 1.0), group)
        self._learn(trial.plan.family, predicted, outcome.wall_seconds)
        if study.interrupted and outcome.status != "completed":
            log.warning("interrupted: the front is finished with what there is")
            return self._as_trained(group)
        if outcome.status != "completed":
            log.warning(
                "trial %d is kept as fitted on %d rows: its fit on all rows ended as %s, %s",
                fit_of(trial),
                trial.rows,
                outcome.status,
                outcome.reason,
            )
            return self._as_trained(group)
        result: Result = outcome.value
        log.debug(
            "final fit of trial %d %s: predicted %.2f s, took %.2f s",
            fit_of(trial),
            trial.plan.family,
            predicted,
            outcome.wall_seconds,
        )
        made = {plans[0]: result, **dict(result.prefixes)}
        return [
            Finalist(t, self.plan(t), made[plan].measurement, place, made[plan].proof)
            for t, plan, place in zip(group, plans, folders, strict=True)
            if plan in made
        ]

    def pace(self, family: str) -> float:
        """How many times as long as predicted fits of a family take here and now: 1 to SLOWEST, by those that were made."""
        prior = PACE_PRIOR * self.budget if math.isfinite(self.budget) else 1.0
        with self._lock:
            predicted, took = self._paces.get(family, (0.0, 0.0))
        return min(SLOWEST, max(1.0, (prior + took) / (prior + predicted)))

    def _learn(self, family: str, predicted: float, took: float) -> None:
        if predicted < TOLD_FROM:
            return
        with self._lock:
            before = self._paces.get(family, (0.0, 0.0))
            self._paces[family] = before[0] + predicted, before[1] + took

    def _run(self, job: Job, room: float, group: list[Trial]) -> Outcome:
        """The final fit; alone on the machine, it may have the memory of all the trials that ran at a time."""
        setting, family = self.study.setting, job.family
        if setting.in_process and fits_here(family):
            return fit_here(job)
        wall = NO_WALL if math.isinf(self.budget) else max(0.2, room)
        each, times = setting.limits.memory_bytes, 1 if fit_of(group[0]) in self._beside else setting.here
        server = "torch" if family.needs == "torch" else "core"
        return supervise(job, wall, None if each is None else each * times, server, self.study.cancel)


def groups(trials: list[Trial]) -> list[list[Trial]]:
    """The trials that one fit makes together, a model and its prefixes, in the order of their first ones."""
    found: dict[int, list[Trial]] = {}
    for trial in trials:
        found.setdefault(fit_of(trial), []).append(trial)
    return list(found.values())


def far_ahead(fits: Sequence[list[Trial]]) -> bool:
    """Whether the best of the first fit's models has an error by a share of FAR_AHEAD below those of all other fits."""
    best, *others = [min(t.measurement.error or 0.0 for t in group) for group in fits]
    return all(best + FAR_AHEAD * abs(best) < other for other in others)
