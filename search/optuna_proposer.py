"""The only module that touches Optuna: it proposes the next point from what was told, and keeps no truth of its own.

A study of Optuna is a function of its sampler's random state and of its trials' order, so a resumed one drifts from
an uninterrupted one. Here each proposal has a fresh sampler, seeded by (run seed, index of the proposal), and the
study holds exactly the told trials in the order of their numbers (and the pending ones, running): what is proposed
depends on these only.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from automl.estimators.space import Choice, Int, Range, Value

from .space import JointSpace, Point, branch_of, sample_branch
from .strategy import Told

POPULATION = 20
GENERATION = "NSGAIISampler:generation"  # where Optuna keeps a trial's generation (samplers/_ga/_base.py)

logging.getLogger("optuna.storages._in_memory").setLevel(logging.WARNING)  # "A new study created", at every rebuild


class Proposer:
    """Optuna's TPE ("tpe") or NSGA-II ("nsga2") behind one call.

    The space is conditional: the family first, then its parameters under names with its prefix. TPE handles that as it
    is. NSGA-II crosses only what all trials share, so its trials carry the genes of every family: those of the families
    not chosen are silent, drawn from the trial's number, and wake when a child crosses over to that family.
    """

    def __init__(self, engine: str, branches: JointSpace, seed: int, objectives: int) -> None:
        self._engine = engine
        self._branches = branches
        self._seed = seed
        self._objectives = objectives
        self._families = CategoricalDistribution([branch.family for branch in branches])
        self._ranges = {b.family: {f"{b.family}.{n}": _distribution(r) for n, r in b.space.items()} for b in branches}
        self._study = self._new_study()
        self._added: list[Told] = []
        self._completed = 0

    def propose(self, told: Mapping[int, Told], pending: Sequence[Point], index: int, attempt: int) -> Point:
        """The next point after `told` (by trial number), `pending` ones being on their way."""
        self._catch_up([told[number] for number in sorted(told)])
        seed = int(np.random.SeedSequence([self._seed, index, attempt]).generate_state(1)[0])
        self._study.sampler = self._sampler(seed)
        running = [self._running(point) for point in pending] if self._engine == "tpe" else []
        distributions = self._all_ranges() if self._engine == "nsga2" else {}
        trial = self._study.ask(distributions)
        branch = branch_of(self._branches, str(trial.suggest_categorical("family", self._families.choices)))
        point: Point = {"family": branch.family}
        for name, distribution in self._ranges[branch.family].items():
            point[name.removeprefix(f"{branch.family}.")] = _suggest(trial, name, distribution)
        for number in (*running, trial.number):  # the study keeps the told trials only
            self._study.tell(number, state=TrialState.FAIL)
        return point

    def _new_study(self) -> optuna.Study:
        return optuna.create_study(directions=[StudyDirection.MINIMIZE] * self._objectives, sampler=self._sampler(0))

    def _sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        if self._engine == "tpe":
            return optuna.samplers.TPESampler(seed=seed, multivariate=False)
        active = sum(len(branch.space) + 1 for branch in self._branches) / len(self._branches)
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=POPULATION, mutation_prob=1 / active)

    def _all_ranges(self) -> dict[str, BaseDistribution]:
        merged: dict[str, BaseDistribution] = {"family": self._families}
        for ranges in self._ranges.values():
            merged |= ranges
        return merged

    def _catch_up(self, told: list[Told]) -> None:
        """Adds the new trials, or all to a new study if one was told out of order or replaced."""
        if told[: len(self._added)] != self._added:
            self._study, self._added, self._completed = self._new_study(), [], 0
        for one in told[len(self._added) :]:
            self._study.add_trial(self._frozen(one))
            self._completed += one.values is not None
        self._added = told

    def _frozen(self, told: Told) -> FrozenTrial:
        params, distributions = self._genes(told.point, told.number)
        if told.values is None:  # TPE counts a pruned trial as bad; NSGA-II passes over it
            return create_trial(state=TrialState.PRUNED, params=params, distributions=distributions)
        attributes = {GENERATION: self._completed // POPULATION} if self._engine == "nsga2" else {}
        return create_trial(values=told.values, params=params, distributions=distributions, system_attrs=attributes)

    def _running(self, point: Point) -> int:
        params, distributions = self._genes(point, 0)
        self._study.add_trial(create_trial(state=TrialState.RUNNING, params=params, distributions=distributions))
        return len(self._study.get_trials(deepcopy=False)) - 1

    def _genes(self, point: Point, number: int) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
        """Optuna's names, values and distributions of a point, with silent genes for NSGA-II."""
        family = str(point["family"])
        params = {"family": family, **_prefixed(family, point)}
        if self._engine == "tpe":
            return params, {"family": self._families, **self._ranges[family]}
        rng = np.random.default_rng([self._seed, number])
        for branch in self._branches:
            silent = _prefixed(branch.family, sample_branch(branch, rng))
            params = silent | params
        return params, self._all_ranges()


def _prefixed(family: str, point: Mapping[str, Value]) -> dict[str, Value]:
    return {f"{family}.{name}": value for name, value in point.items() if name != "family"}


def _distribution(range_: Range) -> BaseDistribution:
    if isinstance(range_, Choice):
        return CategoricalDistribution(list(dict.fromkeys(range_.options)))
    if isinstance(range_, Int):
        return IntDistribution(range_.low, range_.high, log=range_.log and range_.low >= 1)
    return FloatDistribution(range_.low, range_.high, log=range_.log)


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Value:
    if isinstance(distribution, CategoricalDistribution):
        value: Any = trial.suggest_categorical(name, distribution.choices)
    elif isinstance(distribution, IntDistribution):
        value = trial.suggest_int(name, distribution.low, distribution.high, log=distribution.log)
    elif isinstance(distribution, FloatDistribution):
        value = trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)
    else:
        raise TypeError(f"no such range: {distribution}")
    return value  # type: ignore[no-any-return]
