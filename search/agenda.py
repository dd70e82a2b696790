"""The agenda of a study: which plan is tried next and on how many rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeAlias

import numpy as np

from automl.estimators.family import Facts, Family
from automl.estimators.space import Value

from .front import nondominated_ranks
from .plan import Plan, from_point
from .portfolio import starting_points
from .record import Record
from .split import ETA
from .trial import Trial

PROMOTE_FROM = 0.35
"""Promotions begin after this share of the budget: earlier, only the cheapest families have been seen."""
PATIENCE = 30
"""So many proposals in a row that are known already, and none is asked for until another trial has ended."""

Proposal: TypeAlias = tuple[Plan, int, dict[str, Value]]
"""A plan, the rung that it is to be tried at, and the point that it is of."""


class Agenda:
    """What to try next: a promotion if one is due, else the next of the first plans, else what the strategy asks for."""

    def __init__(self, record: Record, first: Sequence[dict[str, Value]] = ()) -> None:
        self.record = record
        self.queue = list(first)
        self.promoted: set[tuple[str, int]] = set()

    def restored(self) -> None:
        """Goes on after what the record holds of an earlier process."""
        tried = [t for t in self.record.trials if t.status != "skipped" and t.rung >= 0]
        self.promoted |= {(t.plan.id, t.rung - 1) for t in tried if t.rung > self.record.base_rung}
        done = {t.point for t in tried}
        self.queue = [p for p in self.queue if tuple(p.items()) not in done]

    def next(self, running: Collection[str]) -> Proposal | None:
        """The next plan, none of those whose ids are `running`; None if there is no more."""
        promotion = self._promotion()
        return self._new(running) if promotion is None else promotion

    def _new(self, running: Collection[str]) -> Proposal | None:
        """The next of the first plans, else of the strategy's; one that is known already is recorded as skipped."""
        record, setting = self.record, self.record.setting
        for _ in range(PATIENCE):
            if self.queue:
                point = self.queue.pop(0)
            else:
                asked = [] if record.strategy.exhausted else record.strategy.ask(1)
                if not asked:
                    return None
                point = asked[0]
            family = setting.families[str(point["family"])]
            plan = from_point(point, family, setting.facts, setting.trial_threads, setting.device)
            known = {t.plan.id: t.number for t in reversed(record.asked()) if t.status != "skipped"}
            if plan.id not in known and plan.id not in running:
                return plan, record.base_rung, point
            same = known.get(plan.id)
            reason = "the same plan is running" if same is None else f"the same plan as trial {same}"
            rows = record.rungs[record.base_rung]
            number = record.take_number()
            record.end(Trial(number, plan, rows, record.base_rung, "skipped", reason, point=tuple(point.items())))
        return None

    def _promotion(self) -> Proposal | None:
        """The asynchronous halving rule (Li et al. 2020, ASHA) on the non-dominated order (Schmucker et al. 2021, MO-ASHA):

        a plan goes one rung up when it is among the best 1/eta of those completed at its rung.
        """
        record = self.record
        if record.elapsed() < PROMOTE_FROM * record.setting.limits.seconds:
            return None
        for rung in range(len(record.rungs) - 2, record.base_rung - 1, -1):
            known = [t for t in record.asked() if t.plan.family in record.setting.families]
            done = [t for t in known if t.rung == rung and t.status == "completed"]
            if len(done) < ETA:
                continue
            ranks = nondominated_ranks(np.array([record.values(t) for t in done]))
            order = sorted(range(len(done)), key=lambda i: (ranks[i], done[i].measurement.error))
            for i in order[: len(done) // ETA]:
                trial = done[i]
                if (trial.plan.id, rung) not in self.promoted:
                    self.promoted.add((trial.plan.id, rung))
                    return trial.plan, rung + 1, dict(trial.point)
        return None


def first_plans(
    families: Sequence[Family], facts: Facts, seconds: Callable[[dict[str, Any]], float]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(points to fit before anything else, points for a strategy that starts warm).

    The two simplest families come first, so that a valid front exists at once, and the usual first choice, which every
    other model is held against; then the portfolio and the families' starts.
    """
    ahead = [{"family": f.name, **start} for f in families[:2] for start in f.starts(facts)[:1]]
    ahead += [{"family": f.name, **point} for f in families if (point := f.reference(facts)) is not None]
    return ahead, [point for point in starting_points(families, facts, seconds) if point not in ahead]
