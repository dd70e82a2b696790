"""The agenda of a study: which plan is tried next and on how many rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from automl.estimators.family import Facts, Family
from automl.estimators.space import Value, nearest

from .allocation import FROZEN, Floats, chances, improvements, index
from .cost import OVERHEAD
from .plan import Plan
from .portfolio import starting_points
from .prospects import Prospects
from .record import Record
from .space import branch_of
from .split import ETA
from .trial import Trial

PATIENCE = 30
"""So many proposals in a row that are known already or do not fit in the time left, and none is asked for until another trial has
ended.
"""
GAIN, GROWN_SHARE = 0.005, 0.6
"""A larger form of the best boosted model is tried where the second half of its rounds took the first share off its error, and
where that is predicted to take at most the second share of the time left for searching.
"""
GROWABLE = 3
"""So many of the most accurate may be grown: the best itself may be too dear."""
FLOOR = 0.1
"""The probability that the next new plan is tried, whatever the index says of promotions."""
RECENT = 5.0
"""What new plans bring is a mean over those before, whose weight falls to 1/e in so many of them."""
TRIAL_SHARE = 0.35
"""No single trial may be predicted to take more than this share of the time left for searching."""

Proposal: TypeAlias = tuple[Plan, int, dict[str, Value]]
"""A plan, the rung that it is to be tried at, and the point that it is of."""


class Agenda:
    """What to try next: the first plans; then, by the index of what each may bring for its cost, a promotion to more rows,
    or the next plan of the strategy.
    """

    def __init__(self, record: Record, first: Sequence[dict[str, Value]] = ()) -> None:
        self.record = record
        self.queue = list(first)
        self.promoted: set[tuple[str, int]] = set()
        self.prospects = Prospects(record, record.setting.bounds)
        self._next: Proposal | None = None
        self._grown: set[str] = set()
        self._brought: list[
            tuple[str, float]
        ] = []  # what each new plan's trial was expected to bring when it had ended
        self._read = 0

    def restored(self) -> None:
        """Goes on after what the record holds of an earlier process."""
        tried = [t for t in self.record.trials if t.status != "skipped" and t.rung >= 0]
        self.promoted |= {(t.plan.id, t.rung - 1) for t in tried if t.rung > self.record.base_rung}
        done = {t.point for t in tried}
        sized = self.record.sized  # the strong points of such a family were as large as was affordable then
        strong = [
            p
            for name, family in self.record.setting.families.items()
            if name in sized
            for p in self.record.size(family)
        ]
        first = [p for p in self.queue if not (p["family"] in sized and self._plan(p).id in self.record.strong)]
        self.queue = [p for p in (*strong, *first) if tuple(p.items()) not in done]

    def next(self, running: Sequence[Trial], room: float) -> Proposal | None:
        """The next plan, none of those `running`, with `room` seconds left; None if there is no more."""
        ids = {t.plan.id for t in running}
        if self.queue:
            return self._new(ids, room)
        waiting = [] if self.record.base_rung == len(self.record.rungs) - 1 else self._promotable(ids, room)
        first = next((t for t in waiting if t.plan.id in self.record.favoured), None)
        if first is not None:
            return self._promote(first)
        if self.record.strategy.grows and self.record.favoured.isdisjoint(ids):
            larger = self._larger(ids, room)
            if larger is not None:
                return larger
        if not waiting:
            return self._take(ids, room)
        tried = len(self.record.asked()) + len(running)
        if np.random.default_rng([self.record.setting.seed, tried]).random() < FLOOR:
            return self._take(ids, room)
        self._next = self._next or self._new(ids, room)
        trial, worth = self._best(waiting)
        if trial is None or worth < self._worth_of_new():
            return self._take(ids, room)
        return self._promote(trial)

    def _larger(self, running: Collection[str], room: float) -> Proposal | None:
        """A larger form of one of the most accurate models on all rows, where its own last iterations brought something.

        What they brought is seen without a fit, as the difference to the prefix of half of them. (FLAML, Wang et al. 2021, grows
        models from cheap to dear as well, there by a random direct search.)
        """
        record, top = self.record, len(self.record.rungs) - 1
        done = [t for t in record.asked() if t.status == "completed" and t.rung == top]
        if not self._grown.isdisjoint(running):
            return None
        done.sort(key=lambda t: t.measurement.error or 0.0)
        for trial in done[:GROWABLE]:
            if self._pays(trial, done[0]) and (found := self._larger_than(trial, running, room)) is not None:
                return found
        return None

    def _pays(self, trial: Trial, best: Trial) -> bool:
        """Whether the last half of its iterations brought something, half of which once more would make it the best."""
        error, least = trial.measurement.error or 0.0, best.measurement.error or 0.0
        for half in self.record.trials:
            if half.parent == trial.number and half.plan.prefix == 0.5 and half.plan.calibration == "none":
                brought = (half.measurement.error or 0.0) - error
                return brought >= GAIN * abs(error) and error - brought / 2 <= least
        return False

    def _larger_than(self, trial: Trial, running: Collection[str], room: float) -> Proposal | None:
        record, family = self.record, self.record.setting.families.get(trial.plan.family)
        if family is None:
            return None
        space = branch_of(record.strategy.branches, family.name).space
        for larger in family.larger(dict(trial.point)):
            point = {name: nearest(space[name], value) if name in space else value for name, value in larger.items()}
            plan = self._plan(point)
            if plan.id in running or any(t.plan.id == plan.id for t in record.asked()):
                continue
            times = record.cost.units(family, dict(plan.params), plan, trial.rows)
            times /= record.cost.units(family, dict(trial.plan.params), trial.plan, trial.rows)
            if times * trial.wall_seconds <= GROWN_SHARE * room:
                self._grown.add(plan.id)
                record.strong.add(plan.id)
                return plan, len(record.rungs) - 1, point
        return None

    def _promote(self, trial: Trial) -> Proposal:
        self.promoted.add((trial.plan.id, trial.rung))
        return trial.plan, trial.rung + 1, dict(trial.point)

    def _take(self, running: Collection[str], room: float) -> Proposal | None:
        found, self._next = self._next or self._new(running, room), None
        return found

    # -- the index ------------------------------------------------------------------------------------------------

    def _promotable(self, running: Collection[str], room: float) -> list[Trial]:
        """The completed trials whose plans may go on to the next rung: there is time for it, and it wasn't tried yet."""
        record, top = self.record, len(self.record.rungs) - 1
        found = []
        for t in record.asked():
            if t.status != "completed" or t.rung >= top or (t.plan.id, t.rung) in self.promoted or t.plan.id in running:
                continue
            family = record.setting.families.get(t.plan.family)
            if family is None or not family.reads:
                continue
            middle, high = record.cost.predict(family, t.plan, record.rungs[t.rung + 1], record.setting.split.fits())
            if high <= room and middle <= max(1.0, TRIAL_SHARE * room):
                found.append(t)
        return found

    def _best(self, waiting: Sequence[Trial]) -> tuple[Trial | None, float]:
        """The promotion with the largest index, and that; none of the frozen ones."""
        prospects, record = self.prospects, self.record
        known = np.array([record.expected(t) for t in self._rivals()])
        samples = np.stack([prospects.positions(prospects.samples(t), known) for t in waiting])
        gains = self._gains(prospects.positions(known, known), samples)
        best: tuple[Trial | None, float] = (None, 0.0)
        for trial, gain, may in zip(waiting, gains, self.alive(waiting), strict=True):
            worth = self._index(float(gain) * prospects.feasible(trial), self._to_the_top(trial)) if may else 0.0
            if worth > best[1]:
                best = trial, worth
        return best

    def alive(self, waiting: Sequence[Trial]) -> NDArray[np.bool_]:
        """(c,) which plans may improve the others' front; one whose errors rise is not judged by what they would be."""
        prospects, rivals = self.prospects, self._rivals()
        known = np.array([self.record.expected(t) for t in rivals])
        errors = [k for k, o in enumerate(self.record.setting.objectives) if o.name == "error"]
        front, found = prospects.positions(known, known), np.ones(len(waiting), np.bool_)
        for i, trial in enumerate(waiting):
            sample = prospects.positions(prospects.samples(trial), known)
            if prospects.ill_behaved(trial):
                sample[:, errors] = 0.0
            others = [t.plan.id != trial.plan.id for t in rivals]
            found[i] = chances(front[others], sample[None])[0] >= FROZEN
        return found

    def _gains(self, front: Floats, samples: Floats) -> Floats:
        """(c,) half the hypervolume, half the least error, as the portfolio was picked: what candidates are expected to add."""
        gains = improvements(front, samples)
        for k, objective in enumerate(self.record.setting.objectives):
            if objective.name == "error":
                gains = 0.5 * gains + 0.5 * np.maximum(0.0, front[:, k].min() - samples[:, :, k]).mean(axis=1)
        return gains

    def _index(self, gain: float, seconds: float) -> float:
        spent = self.record.elapsed() / self.record.setting.limits.seconds
        return index(gain, seconds, OVERHEAD, spent)

    def _to_the_top(self, trial: Trial) -> float:
        return sum(self.record.point_seconds(trial, rows) for rows in self.record.rungs[trial.rung + 1 :])

    def _rivals(self) -> list[Trial]:
        """The models that a plan has to improve on, as they are expected to be at the target, its own among them: those that
        are likely to meet the limits, or all if none is.
        """
        done = self.record.best_rung()
        if not self.prospects.bounds:
            return done
        return [t for t in done if self.prospects.feasible(t) >= 0.5] or done

    def _worth_of_new(self) -> float:
        """The index of the next new plan: what the recent ones brought, its own family's above all, for what it is to cost.

        One of a family that wasn't seen yet may bring what the others' first ones did. Its completion is a fit on the base
        rung, and for one in `ETA` of them all the further ones.
        """
        if self._next is None:
            return 0.0
        self._learn()
        record, (plan, rung, _point) = self.record, self._next
        run = _recent([gain for _, gain in self._brought], 0.0)
        own = [gain for family, gain in self._brought if family == plan.family]
        firsts = list(dict(reversed(self._brought)).values())
        gain = _recent(own, run) if own else max(run, sum(firsts) / max(1, len(firsts)))
        family, fits = record.setting.families[plan.family], record.setting.split.fits()
        first, *rest = (record.cost.predict(family, plan, rows, fits)[0] for rows in record.rungs[rung:])
        return self._index(gain, first + sum(rest) / ETA)

    def _learn(self) -> None:
        """What the new plans that ended since were expected to bring to all that had ended before."""
        record = self.record
        for number, t in enumerate(record.trials):
            if number < self._read or t.parent is not None or t.rung != record.base_rung or t.status == "skipped":
                continue
            gain = 0.0
            before = [b for b in record.trials[:number] if b.status == "completed" and b.rung >= 0]
            if t.status == "completed" and before:
                known = np.array([record.expected(b) for b in (*before, t)])
                sample = self.prospects.positions(self.prospects.samples(t), known)
                front = self.prospects.positions(known[:-1], known)
                gain = float(self._gains(front, sample[None])[0]) * self.prospects.feasible(t)
            self._brought.append((t.plan.family, gain))
        self._read = len(record.trials)

    # -- new plans ------------------------------------------------------------------------------------------------

    def _plan(self, point: dict[str, Value]) -> Plan:
        setting = self.record.setting
        return setting.plan(point, setting.families[str(point["family"])])

    def _first(self, running: Collection[str], room: float) -> dict[str, Value] | None:
        """The next of the first plans. Strong ones wait for the references that run: their time tells how large they may be."""
        record = self.record
        for i, point in enumerate(self.queue):
            family = record.setting.families[str(point["family"])]
            if self._plan(point).id in record.strong and family.name not in record.sized:
                if not record.references.isdisjoint(running):
                    continue
                strong = [p for p in self.queue if p["family"] == family.name and self._plan(p).id in record.strong]
                others = [p for p in self.queue[i:] if p not in strong]
                self.queue = [*self.queue[:i], *record.size(family, room), *others]
            return self.queue.pop(i)
        return None

    def _new(self, running: Collection[str], room: float) -> Proposal | None:
        """The next of the first plans, else of the strategy's; one that is known already is recorded as skipped."""
        record = self.record
        for _ in range(PATIENCE):
            point = self._first(running, room)
            if point is None:
                asked = [] if record.strategy.exhausted else record.strategy.ask(1)
                if not asked:
                    return None
                point = asked[0]
            plan = self._plan(point)
            known = {t.plan.id: t.number for t in reversed(record.asked()) if t.status != "skipped"}
            if plan.id not in known and plan.id not in running:
                return plan, record.base_rung, point
            same = known.get(plan.id)
            reason = "the same plan is running" if same is None else f"the same plan as trial {same}"
            rows = record.rungs[record.base_rung]
            number = record.take_number()
            record.end(Trial(number, plan, rows, record.base_rung, "skipped", reason, point=tuple(point.items())))
        return None


def _recent(gains: Sequence[float], prior: float) -> float:
    """The mean of the gains, the last ones above all, shrunk to `prior` as if that had been one of them."""
    weights = np.exp(-np.arange(len(gains))[::-1] / RECENT)
    return float((weights @ np.asarray(gains) + prior) / (weights.sum() + 1.0))


def first_plans(
    families: Sequence[Family], facts: Facts, seconds: Callable[[dict[str, Any]], float]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(points to fit before anything else, points for a strategy that starts warm).

    The two simplest families come first, so that a valid front exists at once, and the usual first choice, which every
    other model is held against, with strong points of its family: the portfolio has what is cheap for its gain first, and
    on a large table would come to it too late. Then the portfolio and the families' starts.
    """
    ahead = [{"family": f.name, **start} for f in families[:2] for start in f.starts(facts)[:1]]
    ahead += [{"family": f.name, **point} for f in families if (point := f.reference(facts)) is not None]
    ahead += [{"family": f.name, **point} for f in families for point in f.strong(facts)]
    return ahead, [point for point in starting_points(families, facts, seconds) if point not in ahead]
