"""The end of a run: the finalists are chosen, fitted on all rows, measured as deployed alone on the machine, and become the front."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Container, Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np

from automl.estimators import native
from automl.estimators.hardware import Watch, undisturbed

from .bagging import Bagging
from .blends import ENSEMBLES_FROM, Blends
from .ensemble import fit_of
from .estimate import estimates, exchangeable, held_apart, scoring
from .finalists import MOST, Finalists
from .fitting import Result
from .forecast import Outlook, run_kappa, with_forecasts
from .front import Floats, check, noise, nondominated, thin
from .growth import Growing
from .leftovers import Leftovers
from .measure import base
from .objective import value_of
from .plan import Plan, bag_of
from .race import NO_TIME, Serving, heats, race
from .refits import FIRST_SHARE, LAST, Finalist, Refits, far_ahead, groups
from .setting import NO_WALL
from .study import Study
from .trial import Measurement, Trial
from .twins import compiled_twins, threaded_twins

log = logging.getLogger("automl")

REFIT_SHARE = 0.2
"""At most this share of a wall budget is kept back for the fits on all rows."""
BATCH_SHARE = 0.3
"""A row of a batch takes this share of what it takes alone, about."""
FIRST_MEASURED = 3
"""So many of the most accurate models are measured before the others, but for the smallest."""
SCORED_BESIDE = 1.5
"""The ensembles, which are scored as well, take half of what all finalists do."""
RACE_EACH = 0.12
"""Seconds of measuring that an artifact needs: a model is offered on a second engine only where there are as many for all."""


class Finish:
    """What remains to be done after the search, and how long it will take."""

    def __init__(self, study: Study, *, extra_seconds: float = 0.0, extra_rows: float = 0.0) -> None:
        self.study = study
        self.extra_seconds, self.extra_rows = extra_seconds, extra_rows
        self.choice = Finalists(study)
        self.refits = Refits(study, self._after_fits)
        self.blends = Blends(study, self.refits, self.race_seconds, self._after_fits)
        self.growth = Growing(study)
        self.leftovers = Leftovers(study)
        self.bagging = Bagging(study)
        self._cached: tuple[int, float] = (-1, 0.0)
        self._scoring = extra_seconds
        self._due = 0.0

    @property
    def budget(self) -> float:
        return self.study.setting.limits.seconds

    def race_seconds(self) -> float:
        """Seconds for the measuring: 7 % of the budget, 0.4 to 15 s; 0.1 to 15 s of the time searched, if trials are counted."""
        if math.isinf(self.budget):
            return min(15.0, max(0.1, 0.1 * self.study.elapsed()))
        return min(15.0, max(0.4, 0.07 * self.budget))

    def _after_fits(self, loading: float = 0.0) -> float:
        """Seconds that are needed after the last of the fits: most of the measuring, or `loading`, and the writing."""
        return max(0.6 * self.race_seconds(), loading) + self._scoring + 0.3

    def reserve(self) -> float:
        """Seconds to keep back: the measuring, the writing, and the finalists' fits up to 20 % of the budget, as last reckoned."""
        if math.isinf(self.budget):
            return 0.0
        writing = min(0.6, 0.02 * self.budget)
        return self._cached[1] + self.race_seconds() + writing + self._scoring

    def reckon(self) -> None:
        """Reckons what `reserve` keeps for fits and scores anew where trials have ended since, with at most a twentieth of the time;
        what they have left on disk is kept for as long as it may be asked for.
        """
        self.leftovers.discard(self.choice.wanted)
        start = self.study.elapsed()
        if math.isinf(self.budget) or self._cached[0] == len(self.study.trials) or start < self._due:
            return
        finalists = self.choice.chosen()
        self._scoring = max(self.extra_seconds, SCORED_BESIDE * self._scoring_seconds(finalists))
        fits = min(1.15 * self.refits.seconds(groups(finalists)), REFIT_SHARE * self.budget)
        fits += self.growth.seconds([*finalists, *self.blends.runners_up(finalists)]) + self.blends.seconds(finalists)
        fits += self.bagging.seconds(finalists) if self.budget >= ENSEMBLES_FROM else 0.0
        self._cached = (len(self.study.trials), fits)
        self._due = start + 20 * (self.study.elapsed() - start)

    # -- finishing --------------------------------------------------------------------------------------------------

    def run(self) -> list[Finalist]:
        """Fits on all rows what there is time for, measures all exclusively, and keeps the front, most accurate first."""
        study = self.study
        finalists = self.choice.chosen()
        bags = self._bags(finalists)
        watch = Watch()
        ensembles = self.blends.chosen([bag for bag, _ in bags.values()])
        if study.setting.threads > 1 and ENSEMBLES_FROM <= self.budget < math.inf and not study.interrupted:
            self.refits.threads = undisturbed(study.setting.threads, watch.free())
        beside = {t.number: t for e in ensembles for t in self.blends.members(e) if t not in finalists}
        study.tell_listener("laws")  # an ensemble has those that all its members have
        self.growth.measure([*finalists, *beside.values()], self.refits.threads)
        fits, rest, alone = self._in_order(groups([*finalists, *beside.values()]), ensembles)
        # the best ensemble alone where other fits come after it, else all of them beside each other
        ahead, later = (ensembles[:1], ensembles[1:]) if rest else (ensembles, [])
        keep = self.blends.together(ahead)
        bagging = sum(self.bagging.fitting(base) for _, base in bags.values())
        fitted = self.refits.fit_all(fits, keep + bagging, alone=alone)
        fitted += [model for bag, base in bags.values() for model in self._bag(bag, base, keep)]
        blended = self.blends.finished(ahead, fitted)
        fitted += self.refits.fit_all(rest, self.blends.together(later))
        blended += self.blends.finished(later, fitted)
        if not blended:
            blended = self.blends.finished(self.blends.of_finished(ensembles), fitted)
        models = shown(fitted, finalists, beside)
        if not models:
            return []
        models = in_turn([*models, *blended])
        log.debug("finished %d models at %.1f s; the reserve was %.1f s", len(models), study.elapsed(), self.reserve())
        study.tell_listener("measuring")
        after = max(self.extra_seconds, self._scoring_seconds([m.trial for m in models]))
        left = self.race_seconds() if math.isinf(self.budget) else max(0.3, study.left() - 0.3 - after)
        seconds = min(left, 1.0) if study.interrupted else min(left, 1.5 * self.race_seconds())
        if not study.interrupted:
            if study.setting.compiled and (math.isinf(self.budget) or native.ready()):
                models += compiled_twins(models, int(seconds / RACE_EACH) - len(models))
            if any(objective.name == "throughput" for objective in study.setting.objectives):
                models += threaded_twins(models, int(seconds / RACE_EACH) - len(models), study.setting.threads)
        served = self._race(models, seconds)
        measured = []
        for model, serving in zip(models, served, strict=True):
            if isinstance(serving, str) and model.plan.hardware.engine != "onnx":
                log.debug("the model of trial %d is not on the compiled engine: %s", model.trial.number, serving)
            elif isinstance(serving, str) and not serving.startswith(NO_TIME):
                log.warning("the model of trial %d is left out: %s", model.trial.number, serving)
            else:
                measured.append(replace(model, measurement=self._measurement(model, serving)))
        kappa, measured = run_kappa(study.trials), self._scored(measured)
        found = estimates(study, [(m.trial, m.measurement) for m in measured]) if measured else []
        measured = [replace(m, measurement=one) for m, one in zip(measured, found, strict=True)]
        if study.setting.target_rows is None:  # else what the laws forecast there says which are on the front
            measured = self._front(measured)
        known = [
            replace(m, laws=m.laws or self.growth.laws(m.trial, self.refits.plan(m.trial), kappa)) for m in measured
        ]
        return known if study.setting.target_rows is None else self._front(known)

    def _in_order(
        self, fits: list[list[Trial]], ensembles: Sequence[Trial]
    ) -> tuple[list[list[Trial]], list[list[Trial]], bool]:
        """(the fits before the best ensemble is put together, those after, whether the first is far ahead of all).

        The most accurate first, then the cheap ones, the members of the best ensemble, and the others: where time runs out,
        only the dearest are kept as trained.
        """
        if not fits:
            return [], [], False
        wanted = {fit_of(t) for t in self.blends.members(ensembles[0])} if ensembles else set()
        alone = far_ahead(fits)
        ahead = 1 if alone or self.refits.predict(fits[0]) <= FIRST_SHARE * self.budget else 0
        ordered = sorted(fits[ahead:], key=lambda group: self.refits.urgency(group, wanted))
        rest = [group for group in ordered if ensembles and self.refits.urgency(group, wanted)[0] == LAST]
        return [*fits[:ahead], *(group for group in ordered if group not in rest)], rest, alone

    def _scored(self, models: list[Finalist]) -> list[Finalist]:
        """The models that have a score on the rows held apart, if any has: the metric may not be defined on what one predicts there."""
        losses = self.study.losses
        scored = [model for model in models if len(losses.holdout[model.trial.number])]
        if not scored and models:  # nothing to report from: the validation rows stand for them, for all models alike
            losses.holdout = {number: influence[:0] for number, influence in losses.holdout.items()}
            return models
        for model in models:
            if model not in scored:
                log.warning(
                    "the model of trial %d is left out: the metric %s is not defined on what it predicts on the holdout",
                    model.trial.number,
                    self.study.setting.metric.name,
                )
        return scored

    def _scoring_seconds(self, trials: Sequence[Trial]) -> float:
        """What scoring models on the rows of a test file will take, by the search's look at them: each is loaded once."""
        if not self.extra_rows:
            return 0.0
        rows = BATCH_SHARE * self.extra_rows
        looks = [t.measurement for t in trials]
        return sum((look.load_seconds or 0.0) + rows * (look.latency_p50_seconds or 0.0) for look in looks)

    # -- bags -------------------------------------------------------------------------------------------------------

    def _bags(self, finalists: Sequence[Trial]) -> dict[int, tuple[Trial, Trial]]:
        """The bags to finish, each with its single model; none where there is no time for ensembles."""
        if self.budget < ENSEMBLES_FROM:
            return {}
        self.study.tell_listener("ensembles")
        return self.bagging.judge(finalists)

    def _bag(self, bag: Trial, base: Trial, keep: float) -> list[Finalist]:
        """The bag, its models fitted and blended; none where there is no time, but for `keep` seconds, or its fits fail."""
        study, plan = self.study, replace(self.refits.plan(base), params=base.plan.params)
        room = study.left() - self._after_fits() - keep
        if study.interrupted or 1.1 * self.bagging.fitting(base) > room:
            log.info("the bag of trial %d is left out: no time is left for its fits", base.number)
            return []
        outcome = self.bagging.fit(bag, plan, min(room, 4 * self.bagging.fitting(base) + 1.0, NO_WALL))
        if outcome.status != "completed":
            log.info("the bag of trial %d is left out: %s, %s", base.number, outcome.status, outcome.reason)
            return []
        result: Result = outcome.value
        # it is taken to grow as its single model, whose laws are its own from what was measured of it
        laws = self.growth.laws(base, self.refits.plan(base), run_kappa(study.trials))
        folder, plan = self.bagging.folder(bag), bag_of(plan, len(bag.plan.members))
        return [Finalist(bag, plan, result.measurement, folder, result.proof, laws)]

    # -- measuring ----------------------------------------------------------------------------------------------------

    def _race(self, models: Sequence[Finalist], seconds: float) -> list[Serving | str]:
        """All of them at a time, or as many as the memory of the trials that run at a time holds."""
        served: list[Serving | str] = []
        end, room = time.monotonic() + seconds, self.study.setting.limits.memory_bytes
        needs = [m.trial.measurement.model_memory_bytes or m.measurement.size_bytes or 0.0 for m in models]
        for part in heats(needs, None if room is None else room * self.study.setting.here):
            share = len(part) / (len(models) - len(served))
            left = max(0.0, end - time.monotonic())
            artifacts = [models[i].artifact for i in part]
            served += race(artifacts, self.study.rows, share * left, cancel=self.study.cancel, must=not served)
        return served

    def _measurement(self, model: Finalist, serving: Serving | str) -> Measurement:
        """The finalist's training figures and the artifact's as deployed; what it will score is `estimates`' to say."""
        trial, trained = model.trial, model.measurement
        return Measurement(
            training_seconds=trained.training_seconds,
            training_cpu_seconds=trained.training_cpu_seconds,
            training_memory_bytes=trained.training_memory_bytes,
            size_bytes=trained.size_bytes,
            rows=trained.rows,
            score_rows=trial.rows,
            columns=trained.columns,
            **(self._unraced(trial) if isinstance(serving, str) else serving.as_dict()),
        )

    def _unraced(self, trial: Trial) -> dict[str, Any]:
        """The quick figures of the search for a model that the race had no time for; `disturbed` says that they are rough.

        What it didn't look at, the p99 and the intervals, is left open.
        """
        m = trial.measurement
        return {
            "latency_p50_seconds": m.latency_p50_seconds,
            "load_seconds": m.load_seconds,
            "serving_memory_bytes": base().memory_bytes + (m.model_memory_bytes or 0.0),
            "model_memory_bytes": m.model_memory_bytes,
            "disturbed": True,
        }

    def _front(self, models: list[Finalist]) -> list[Finalist]:
        """The non-dominated models by what was finally measured, the most accurate first."""
        if not models:
            return []
        models = sorted(
            models,
            key=lambda m: (m.measurement.error, self.study.values(m.trial), m.trial.number, *_served(m.plan)),
        )
        measured = [replace(m.trial, measurement=m.measurement) for m in models]
        losses = scoring(self.study)
        objectives = self.study.setting.objectives
        read = [[value_of(o, t.measurement) for o in objectives] for t in measured]
        values = np.array([[math.inf if value is None else value for value in row] for row in read])
        margin = noise(
            [t.measurement for t in measured], self.study.setting.objectives, [losses[t.number] for t in measured]
        )
        mask = nondominated(values, margin)
        if self.study.setting.target_rows is not None:  # what is best where the models will live may be beaten here
            mask |= nondominated(self._at_target(models), margin)
        mask[0] |= math.isinf(self.budget)  # of equal errors the first by what is the same in every run
        within = self._within(models)
        # a limit may be on what is no objective: the most accurate model that meets them all stays
        mask[within[:1]] = True
        # the reference stays unless a model is better with 95 % confidence, corrected for how many were compared on the
        # same rows (Bonferroni): the best of a hundred is one standard error ahead by luck alone
        # (`finalists.py` asks the same of what the search knows)
        steered = not held_apart(self.study) or exchangeable(self.study)
        compared = len(self.study.best_rung()) if steered else len({t.number for t in measured})
        sure = NormalDist().inv_cdf(1 - 0.05 / max(2, compared))
        for i, trial in enumerate(measured):
            if (
                trial.plan.id in self.study.references
                and not any(kept for m, kept in zip(models, mask, strict=True) if m.trial.number == trial.number)
                and not (values[i, 0] - values[:, 0] > sure * margin[i, :, 0]).any()
            ):
                mask[i] = True
        kept = [i for i, keep in enumerate(mask) if keep]
        if len(kept) > MOST:  # models as served in several ways
            always = {kept[0], *within[:1]}
            kept = sorted(always | {kept[i] for i in thin(values[kept], MOST - len(always), objectives)})
        return [models[i] for i in kept]

    def _at_target(self, models: Sequence[Finalist]) -> Floats:
        """(n, m) the objectives as the models' laws forecast them at the target; what has no law is as it was measured."""
        setting, found = self.study.setting, []
        for model in models:
            entry = {"plan": model.plan.as_dict(), "laws": model.laws, **model.measurement.as_dict()}
            outlook = Outlook(entry, setting.facts.columns, setting.facts.classes)
            forecasts = {name: forecast.value for name, forecast in outlook.at(self.study.target).items()}
            there = with_forecasts(model.measurement, forecasts)
            read = [value_of(objective, there) for objective in setting.objectives]
            found.append([math.inf if value is None else value for value in read])
        return np.array(found)

    def _within(self, models: Sequence[Finalist]) -> list[int]:
        """The numbers of the models that meet the user's limits, as measured; where they will have other rows, as expected."""
        setting = self.study.setting
        if not setting.bounds:
            return []
        if setting.target_rows is not None:
            found = self.choice.meeting([m.trial for m in models])
            return [i for i, meeting in enumerate(found) if meeting]
        greater = setting.metric.greater_is_better
        return [i for i, m in enumerate(models) if not check(m.measurement, setting.bounds, greater)]


def shown(fitted: Sequence[Finalist], finalists: Sequence[Trial], beside: Container[int]) -> list[Finalist]:
    """The fitted models that may stand on the front: all but those that were made for an ensemble alone, whose numbers are `beside`.

    One of these stands for the finalists of its fit where there is none of them; all do where there is no other model.
    """
    made = {m.trial.number for m in fitted}
    stood_for = {fit_of(t) for t in finalists} - {fit_of(t) for t in finalists if t.number in made}
    own = [m for m in fitted if m.trial.number not in beside or m.trial.number in stood_for]
    return own or list(fitted)


def in_turn(models: Sequence[Finalist]) -> list[Finalist]:
    """The models as they are measured: where time runs out it does so for the large ones, but for the most accurate. The smallest
    is the first, so that one is measured for sure.
    """
    first, *rest = sorted(models, key=lambda m: m.measurement.size_bytes or 0.0)
    best = sorted(rest, key=lambda m: m.trial.measurement.error or 0.0)[:FIRST_MEASURED]
    return [first, *best, *(m for m in rest if all(m is not one for one in best))]


def _served(plan: Plan) -> tuple[str, int]:
    return plan.hardware.engine, plan.hardware.serving_threads
