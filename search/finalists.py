"""The trials of a search that are finished: its front by its own measurements, references that may stay, and the most accurate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from .ensemble import OF_FAMILY, fit_of, of_many_families
from .front import Floats, exact_front, noise, nondominated, thin
from .plan import WHOLE
from .study import Study
from .trial import Trial

MOST = 24
"""A front shows at most this many models."""
MOST_ACCURATE = 50
"""Beside the exact front, so many of the most accurate are compared with their noise for the finalists."""


class Finalists:
    """Reads a study: which of its trials to finish."""

    def __init__(self, study: Study) -> None:
        self.study = study

    def most(self) -> int:
        """max(6, budget / 5 s) finalists are finished, 24 at the most."""
        budget = self.study.setting.limits.seconds
        return MOST if math.isinf(budget) else int(min(MOST, max(6, budget / 5)))

    def chosen(self) -> list[Trial]:
        """The trials to finish, the most accurate first: the front by the search's own measurements, thinned by hypervolume, the
        references that may stay, and the best of each of the most accurate fits.

        The errors are those measured, the costs those expected on all rows. Of a run with limits up to half of them are the front
        of those that are expected to meet the limits, the most accurate ones first of all.
        """
        done = self._near()  # pairing all would take n^3
        if not done:
            return []
        objectives = self.study.setting.objectives
        values = np.array([self._expected(t) for t in done])
        meets = self.meeting(done)
        margin = noise(
            [self.study.steering(t) for t in done], objectives, [self.study.losses.validation[t.number] for t in done]
        )
        picked: list[int] = []
        if not all(meets):
            within = [i for i, meeting in enumerate(meets) if meeting]
            own = [within[i] for i in np.flatnonzero(nondominated(values[within], margin[np.ix_(within, within)]))]
            own = [own[i] for i in thin(values[own], self.most() // 2, objectives)] if own else []
            picked = [*within[:2], *(i for i in own if i not in within[:2])]
        kept = [int(i) for i in np.flatnonzero(nondominated(values, margin))]
        chosen = thin(values[kept], self.most() - len(picked), objectives)
        picked += [kept[i] for i in chosen if kept[i] not in picked]
        picked += [i for i in self._references(done, values, margin) if i not in picked]
        # the three most accurate and a short front's runners-up are finished as well, each as what is best of its fit: the whole
        # model or a prefix, which takes less
        best: dict[int, int] = {}
        for i, t in enumerate(done):
            if t.plan.variant[1:] == WHOLE[1:]:
                best.setdefault(fit_of(t), i)
        fits = list(best.values())
        for i in fits:
            if i not in picked and (i in fits[:3] or len(picked) < 6) and len(picked) < self.most():
                picked.append(i)
        return [done[i] for i in sorted(picked)]

    def _references(self, trials: Sequence[Trial], values: Floats, margin: Floats) -> list[int]:
        """The numbers of the references among the trials that none, fitted on no more rows, is better than with 95 % confidence, corrected
        for how many were compared on the same rows (Bonferroni): the best of a hundred is one standard error ahead by luck alone.
        """
        sure = NormalDist().inv_cdf(1 - 0.05 / max(2, len(self.study.best_rung())))
        found = [i for i, t in enumerate(trials) if t.plan.id in self.study.references]
        rows = np.array([t.rows for t in trials])
        ahead = [(values[i, 0] - values[:, 0] > sure * margin[i, :, 0]) & (rows <= rows[i]) for i in found]
        return [i for i, better in zip(found, ahead, strict=True) if not better.any()]

    def _near(self) -> list[Trial]:
        """The trials that may be finished, the most accurate first: the exact front, and beside it the most accurate ones of all
        and of those that are expected to meet the limits.
        """
        done = self._ranked()
        meets = self.meeting(done)
        within = [i for i in range(len(done)) if meets[i]]
        most_accurate = {*range(min(len(done), MOST_ACCURATE)), *within[:MOST_ACCURATE]}
        front = exact_front(np.array([self._expected(t) for t in done])) if done else []
        return [done[i] for i in sorted(most_accurate | {*front})]

    def wanted(self) -> list[Trial]:
        """The trials that the end may ask for, to finish them alone or in an ensemble of many families, and those that the folds
        of others are held against.
        """
        ranked = self._ranked()
        same = [t for t in ranked if t.rung == ranked[0].rung]
        families = [[t for t in ranked if t.plan.family == name] for name in self.study.setting.families]
        fronts = [own[i] for own in families if own for i in exact_front(np.array([self.study.values(t) for t in own]))]
        return [*self._near(), *of_many_families(same, OF_FAMILY)[:MOST_ACCURATE], *fronts]

    def _ranked(self) -> list[Trial]:
        return sorted(self.study.best_rung(), key=lambda t: (t.measurement.error, t.number))

    def _expected(self, trial: Trial) -> list[float]:
        """The objectives of a trial: its error as measured, its costs as they are expected to be on all rows."""
        found = zip(self.study.setting.objectives, self.study.values(trial), self.study.expected(trial), strict=True)
        return [measured if objective.name == "error" else expected for objective, measured, expected in found]

    def meeting(self, trials: Sequence[Trial]) -> list[bool]:
        """Which trials' models will rather meet the user's limits than not."""
        if not self.study.setting.bounds:
            return [True] * len(trials)
        return [self.study.agenda.prospects.feasible(t, clocked=True) >= 0.5 for t in trials]
