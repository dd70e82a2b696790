"""The ensembles of a run: chosen among its trials, and each put together into one artifact from its finished members."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from .ensemble import at_other_rows, fit_of, select, together
from .fitting import BlendJob, Result, blend_job
from .forecast import laws_of, run_kappa
from .plan import Plan
from .refits import FIRST_SHARE, Finalist, Refits, groups
from .setting import NO_WALL
from .study import Study
from .trial import Trial
from .worker import run_isolated

log = logging.getLogger("automl")

ENSEMBLES_FROM = 10.0
"""Seconds of a wall budget under which there is no time for ensembles; for each of these one is finished, four at the most."""
MOST_ENSEMBLES = 4
SELECT_SHARE = 0.01
"""The share of a wall budget that the selection of ensembles may take, and as much to judge them, which is rarely needed."""
MEMBER_SHARE, MEMBER_FITS, USUAL = 0.05, 4, 2
"""Kept back for the fits on all rows of members that are no finalists: this share of it, for so many fits, at the most; and
the time for so many ensembles.
"""
BLEND_SECONDS = 0.5
"""What an ensemble takes beside its members' fits and exports: a process of its own."""
BAG_SECONDS, LEAST_ROOM = 0.1, 0.8
"""What a bag among its members adds, and the share of what putting it together is predicted to take that has to be left."""
LOADS = 3.0
"""The measuring gives one model a third of its time to load (`race.py`): an ensemble has to be left so many times what its members take."""


class Blends:
    """The ensembles of a study, whose members `refits` fits; `race_seconds()` are those of the measuring, and `kept(loading)` those
    that are needed after the last fit, where that many are needed to load a model.
    """

    def __init__(
        self, study: Study, refits: Refits, race_seconds: Callable[[], float], kept: Callable[[float], float]
    ) -> None:
        self.study, self.refits, self.race_seconds, self.kept = study, refits, race_seconds, kept
        # the finished models by the ids of their trials' plans, members that were fitted late among them
        self._made: dict[str, Finalist] = {}

    @property
    def budget(self) -> float:
        return self.study.setting.limits.seconds

    def chosen(self, bags: Sequence[Trial]) -> list[Trial]:
        """The ensembles to finish, as trials; none where they are not wanted, there is no time, or it is interrupted."""
        most = MOST_ENSEMBLES
        if not self.study.setting.ensembles or self.study.interrupted or self.budget < ENSEMBLES_FROM:
            return []
        if math.isfinite(self.budget):
            most = min(most, int(self.budget / ENSEMBLES_FROM))
        self.study.tell_listener("ensembles")
        return self._select(most, bags, self._affordable)

    def of_finished(self, ensembles: Sequence[Trial]) -> list[Trial]:
        """The best ensemble of the models that `finished` was given or fitted, where each of the `ensembles` has a member that is none
        of these; none where no time is left.
        """
        whole = any(all(plan.id in self._made for plan, _ in e.plan.members) for e in ensembles)
        room = self.study.left() - self.kept(0.0)
        if not ensembles or whole or self.study.interrupted or room < 2 * SELECT_SHARE * self.budget + BLEND_SECONDS:
            return []
        bags = [m.trial for m in self._made.values() if m.trial.plan.members]
        return self._select(1, bags, lambda t: t.plan.id in self._made)

    def _select(self, most: int, bags: Sequence[Trial], usable: Callable[[Trial], bool]) -> list[Trial]:
        try:
            return select(self.study, SELECT_SHARE * self.budget, most, bags, usable)
        except Exception as error:  # the metric may be the user's own code, and it runs here for the first time
            log.warning("there are no ensembles: %s: %s", type(error).__name__, error)
            return []

    def _affordable(self, trial: Trial) -> bool:
        """Whether there will be time to fit a member on all rows; one that is dearer would leave its ensemble out."""
        return bool(trial.plan.members) or not self.refits.predict([trial]) > FIRST_SHARE * self.budget

    def seconds(self, finalists: Sequence[Trial]) -> float:
        """Wall seconds to keep back for ensembles, before it is known which: of the next most accurate models' fits."""
        if not self.study.setting.ensembles or self.budget < ENSEMBLES_FROM or not finalists:
            return 0.0
        fits = min(self.refits.seconds([[t] for t in self.runners_up(finalists)]), MEMBER_SHARE * self.budget)
        best = sorted(self.study.best_rung(), key=lambda t: t.measurement.error or 0.0)[:1]
        many = min(USUAL, int(self.budget / ENSEMBLES_FROM))
        return SELECT_SHARE * self.budget + fits + self.blending(best) * max(1.0, many / self.study.setting.here)

    def runners_up(self, finalists: Sequence[Trial]) -> list[Trial]:
        """The most accurate fits that are no finalists: an ensemble will have some of them."""
        if not self.study.setting.ensembles or self.budget < ENSEMBLES_FROM or not finalists:
            return []
        made = {fit_of(t) for t in finalists}
        rest = [t for t in self.study.best_rung() if t.rung == finalists[0].rung and fit_of(t) not in made]
        return sorted((t for t in rest if t.parent is None), key=lambda t: t.measurement.error or 0.0)[:MEMBER_FITS]

    def blending(self, members: Sequence[Trial]) -> float:
        """Seconds that putting an ensemble together takes: its graph holds those of its members, and is proven as they were."""
        return BLEND_SECONDS + sum(self.refits.exporting(t) for t in members)

    def together(self, ensembles: Sequence[Trial]) -> float:
        """Seconds to keep back for these ensembles, or the usual number of them, as many at a time as there are cores for."""
        each = [self.blending(self.members(e)) + BAG_SECONDS * self._bags(e) for e in ensembles[:USUAL]]
        return max(sum(each) / self.study.setting.here, max(each, default=0.0))

    def finished(self, ensembles: Sequence[Trial], models: Sequence[Finalist]) -> list[Finalist]:
        """The ensembles of the finished models; where one of these was given up to keep time, it is tried once more.

        One core puts each together, as many at a time as there are cores for; the most accurate come first.
        """
        setting, made = self.study.setting, self._made
        made |= {m.trial.plan.id: m for m in models}
        whole: list[tuple[Trial, list[tuple[Finalist, int]]]] = []
        for trial in ensembles:
            members = self.members(trial)
            for group in groups([t for t in members if t.plan.id not in made]):
                keep = self.blending(members) + 0.4 * self.race_seconds()
                made |= {m.trial.plan.id: m for m in self.refits.fit(group, keep)}
            parts = [(made[plan.id], weight) for plan, weight in trial.plan.members if plan.id in made]
            if len(parts) < len(trial.plan.members):
                log.info("an ensemble of %d models is left out: not all could be fitted", len(trial.plan.members))
            else:
                whole.append((trial, parts))
        with ThreadPoolExecutor(setting.here) as pool:
            found = list(pool.map(lambda one: self._blend(*one), whole))
        # the laws here: they are judged by the metric, which may be the user's own code and bear no threads
        return [replace(e, laws=self._laws(e.trial, e.plan)) for e in found if e is not None]

    def members(self, ensemble: Trial) -> list[Trial]:
        """The trials that the ensemble is made of; its bags are none of the search's."""
        known = {t.plan.id: t for t in self.study.best_rung()}
        return [known[plan.id] for plan, _ in ensemble.plan.members if plan.id in known]

    def _bags(self, ensemble: Trial) -> int:
        return sum(bool(plan.members) for plan, _ in ensemble.plan.members)

    def _blend(self, trial: Trial, parts: Sequence[tuple[Finalist, int]]) -> Finalist | None:
        """The one artifact of an ensemble of finished models."""
        study, setting = self.study, self.study.setting
        members = [m.trial for m, _ in parts]
        loading = sum(t.measurement.load_seconds or 0.0 for t in members)
        room = study.left() - self.kept(LOADS * loading)
        if study.interrupted or room < LEAST_ROOM * self.blending(members):
            log.info("an ensemble of %d models is left out: no time is left for it", len(parts))
            return None
        folder = setting.data / "final" / f"t{trial.number:04d}"
        job = BlendJob(tuple((m.artifact, weight) for m, weight in parts), setting.data, folder, setting.seed)
        each = setting.limits.memory_bytes
        outcome = run_isolated(
            blend_job,
            job,
            wall_seconds=min(room, NO_WALL),
            memory_bytes=each,
            cleanup=[folder],
            cancel=study.cancel,
        )
        if outcome.status != "completed":
            log.info("an ensemble of %d models is left out: %s, %s", len(parts), outcome.status, outcome.reason)
            return None
        log.debug("blended %d models in %.2f s", len(parts), outcome.wall_seconds)
        result: Result = outcome.value
        costs = together([m.trial for m, _ in parts], [m.measurement for m, _ in parts])
        own, plan = result.measurement, replace(trial.plan, members=tuple((m.plan, weight) for m, weight in parts))
        return Finalist(
            trial,
            plan,
            replace(costs, size_bytes=own.size_bytes, columns=own.columns),
            folder,
            result.proof,
        )

    def _laws(self, trial: Trial, plan: Plan) -> dict[str, Any]:
        """The laws of an ensemble whose members were finally fitted as `plan` says, from what its members predicted at all row counts that they were fitted on."""
        facts = self.study.setting.facts
        try:
            points = at_other_rows(self.study, trial, self.study.left() - self.kept(0.0))
        except Exception as error:  # the metric may be the user's own code
            log.warning("an ensemble has no laws: %s: %s", type(error).__name__, error)
            points = []
        return laws_of(plan, points, None, facts.columns, facts.classes, run_kappa(self.study.trials))
