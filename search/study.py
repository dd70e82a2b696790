"""The study: asks a strategy for plans, admits what fits in the budget, runs isolated trials, and promotes the best to more rows."""

from __future__ import annotations

import logging
import math
import pickle
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from automl.estimators.errors import UsageError
from automl.estimators.family import Facts, Family
from automl.estimators.space import Value

from .cost import OVERHEAD, CostModel
from .fitting import Job, Result, fit_here, fits_here, packed, supervise, supervise_packed
from .forecast import at_rows
from .front import nondominated_ranks
from .interrupt import Flag
from .leaner import leaner
from .metric import Metric
from .objective import Objective, value_of
from .plan import WHOLE, Plan, from_point
from .portfolio import starting_points
from .space import JointSpace, complete
from .split import ETA, Split
from .store import Store
from .strategy import Strategy
from .trial import STATUSES, Measurement, Trial
from .worker import Outcome

log = logging.getLogger("automl")

RUNG_SHARE = 0.06
"""New plans start at the largest rung where a typical first fit takes at most this share of the budget."""
LEAST_SECONDS = 0.3
"""... or this many seconds, where that is more."""
PROMOTE_FROM = 0.35
"""Promotions begin after this share of the budget: earlier, only the cheapest families have been seen."""
TRIAL_SHARE, NEW_SHARE = 0.35, 0.5
"""No single trial may be predicted to take more than the first share of the time left for searching.

The second is for a family of which none has completed or runs: another family says more than another variant.
"""
PATIENCE = 30
"""So many proposals in a row that do not fit in the time left, and no trial is started until another has ended."""
LEAST_WALL, FIRST_WALL = 0.06, 0.3
"""A trial may take this share of the budget before it is killed, however little was predicted.

The second is that of our own simplest families until a trial has completed: what one costs here isn't known yet.
"""


@dataclass(frozen=True)
class Limits:
    """What the search may spend: `seconds` of wall time (inf: counted in trials), `trials`, bytes of memory a trial."""

    seconds: float = math.inf
    trials: int | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Setting:
    """Everything a study is given and never changes. `start` is the monotonic time at which the budget began."""

    data: Path
    split: Split
    facts: Facts
    families: dict[str, Family]
    metric: Metric
    objectives: tuple[Objective, ...]
    limits: Limits
    slots: int
    threads: int
    seed: int
    merge: bool
    start: float
    in_process: bool = False
    device: str = "cpu"
    target_rows: int | None = None
    ensembles: bool = False

    @property
    def trial_threads(self) -> int:
        """Threads of a trial: one where several run at a time, else all; the fits on all rows, alone, have all."""
        return 1 if self.slots > 1 else self.threads


@dataclass(frozen=True)
class Progress:
    """A look at a running study. `front` lists (family, error, one-row p50 seconds, artifact bytes), best error first."""

    elapsed: float
    budget: float
    stage: str
    statuses: dict[str, int]
    front: list[tuple[str, float, float, float]]


@dataclass
class Losses:
    """Per-row influences of the completed trials, by trial number."""

    validation: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    holdout: dict[int, NDArray[np.float32]] = field(default_factory=dict)


class Study:
    """Runs trials until the budget says stop. `trials` is what has ended so far; the store holds the same on disk."""

    def __init__(
        self,
        setting: Setting,
        strategy: Strategy,
        store: Store,
        *,
        first: Sequence[dict[str, Value]] = (),
        executor: Executor | None = None,
        listener: Callable[[Progress], None] | None = None,
    ) -> None:
        self.setting = setting
        self.strategy = strategy
        self.store = store
        self.queue = list(first)
        self.executor = executor
        self.listener = listener
        self.trials: list[Trial] = []
        self.losses = Losses()
        self.cost = CostModel(setting.facts)
        self.cancel = Flag()
        self.interrupted = False
        self.rungs = setting.split.rungs()
        self.references = {
            from_point({"family": f.name, **point}, f, setting.facts, setting.trial_threads, setting.device).id
            for f in setting.families.values()
            if (point := f.reference(setting.facts)) is not None
        }
        self.base_rung = self._kept_base_rung()
        self.promoted: set[tuple[str, int]] = set()
        self.number = 0
        self.spent_before = float(store.get_meta("elapsed") or 0.0)
        self.rows: list[dict[str, Any]] = []
        self._front = np.empty((0, len(setting.objectives)))
        self._pending: dict[Future[Outcome], tuple[Trial, Job]] = {}
        self._refused, self._broken = 0, False
        self._forecasts: dict[tuple[int, int], Measurement] = {}

    # -- time -----------------------------------------------------------------------------------------------------

    def elapsed(self) -> float:
        return time.monotonic() - self.setting.start

    def left(self) -> float:
        """Seconds until the wall budget ends."""
        return self.setting.limits.seconds - self.elapsed()

    # -- resuming -------------------------------------------------------------------------------------------------

    def restore(self, trials: Sequence[Trial], losses: Losses) -> None:
        """Continues after `trials` of an earlier process: the strategy is told of each in its order."""
        self.losses = losses
        tried = [t for t in trials if t.status != "skipped" and t.rung >= 0]
        plans = {t.plan.id for t in tried}
        for trial in trials:
            self.trials.append(trial)
            self.number = max(self.number, trial.number + 1)
            if trial.status != "skipped" or trial.plan.id in plans:  # a plan skipped for want of time is open again
                self._learn(trial, fits=fits_in(self.strategy.branches, trial))
        self.promoted |= {(t.plan.id, t.rung - 1) for t in tried if t.rung > self.base_rung}
        done = {t.point for t in tried}
        self.queue = [p for p in self.queue if tuple(p.items()) not in done]

    def interrupt(self) -> None:
        """Ends the search early, with what is there. Safe in a signal handler: the loops look at what it sets."""
        self.interrupted = True
        self.cancel.set()

    # -- the loop -------------------------------------------------------------------------------------------------

    def run(self, reserve: Callable[[], float]) -> None:
        """Searches until the time left is the `reserve` that the finish needs, the trials are used up, or it is interrupted."""
        pool = self.executor or ThreadPoolExecutor(self.setting.slots, thread_name_prefix="automl-trial")
        try:
            while not self._finished(reserve):
                while len(self._pending) < self.setting.slots and self._submit(pool, reserve):
                    pass
                if not self._pending:
                    break
                self._collect(max(0.02, min(0.25, self.left() - reserve())))
                self.tell_listener("search")
            if self.interrupted:
                log.warning("interrupted: the front so far is kept")
            self._drain(reserve)
            self.cancel.clear()
            if not any(t.status == "completed" for t in self.trials):
                self._last_resort(pool)
        finally:
            self.cancel.set()
            if self.executor is None:
                pool.shutdown(wait=False, cancel_futures=True)
        self.cancel.clear()

    def _finished(self, reserve: Callable[[], float]) -> bool:
        limits = self.setting.limits
        if limits.trials is not None and self._used() >= limits.trials:
            return True
        return self._broken or self.interrupted or self.left() <= reserve()

    def _used(self) -> int:
        """Trials that count against a budget of trials: all but the skipped ones, and those still running."""
        return sum(t.status != "skipped" for t in self.asked()) + len(self._pending)

    def _drain(self, reserve: Callable[[], float]) -> None:
        """Waits for the running trials as long as there is time, then kills them; on an executor of the user's, which can't

        be told to kill, they are cancelled or left to their own deadline, and have timed out.
        """
        while self._pending:
            late = self.interrupted or self.left() <= reserve()
            if late:
                self.cancel.set()
            self._collect(0.05)
            if late and self.executor is not None:
                for future, (trial, _job) in list(self._pending.items()):
                    future.cancel()
                    del self._pending[future]
                    self._end(
                        replace(trial, status="timeout", reason="it had not ended on the executor when time was up")
                    )

    def _submit(self, pool: Executor, reserve: Callable[[], float]) -> bool:
        """Starts the next trial that fits in the time left. False if there is none."""
        limits = self.setting.limits
        if limits.trials is not None and self._used() >= limits.trials:
            return False
        skipped: list[tuple[tuple[bool, bool, float], float, Trial]] = []
        seen = {t.plan.family for t in self.trials if t.status == "completed"} | {
            t.plan.family for t, _ in self._pending.values()
        }
        for _ in range(PATIENCE):
            proposal = self._next()
            if proposal is None:
                break
            plan, rung, point = proposal
            family, rows = self.setting.families[plan.family], self.rungs[rung]
            middle, high = self.cost.predict(family, plan, rows, self.setting.split.fits())
            room = self.left() - reserve()
            trial = Trial(self.take_number(), plan, rows, rung, "skipped", point=tuple(point.items()))
            first = not any(t.status == "completed" for t in self.trials)
            if plan.id in self.references:  # what every other model is held against: worth more than its share
                dear = middle > 0.7 * room
            else:
                share = TRIAL_SHARE if plan.family in seen else NEW_SHARE
                dear = high > room or middle > max(1.0, share * room)
            if limits.seconds == math.inf or first or not dear:
                self._start(pool, trial, self._wall(family, middle, high, room, first))
                return True
            self._end(
                replace(
                    trial,
                    reason=f"predicted to take {middle:.1f} s (90 %: {high:.1f} s), {max(0.0, room):.1f} s are left for it",
                )
            )
            skipped.append(((middle > room, plan.family in seen, middle), high, trial))
        room = self.left() - reserve()
        if not skipped or self._pending or room < LEAST_SECONDS:
            return False
        # nothing runs and nothing fits: a prediction may be wrong, and time that is left over is worth nothing
        (_, _, middle), high, trial = min(skipped, key=lambda one: one[0])
        family = self.setting.families[trial.plan.family]
        self._start(pool, replace(trial, number=self.take_number()), self._wall(family, middle, high, room, False))
        return True

    def _wall(self, family: Family, middle: float, high: float, room: float, first: bool) -> float:
        """Seconds after which a trial of the predicted time is killed."""
        limits = self.setting.limits
        if limits.seconds == math.inf:
            return 3600.0
        least = FIRST_WALL if first and fits_here(family) else LEAST_WALL
        return max(0.2, min(max(4 * middle, high, least * limits.seconds) + 1.0, room))

    def add_points(self, wanted: Sequence[tuple[Trial, int]], seconds: float) -> None:
        """Fits plans of completed trials on other row counts for their laws, those in front first, for `seconds` at the most.

        What is predicted not to fit in the time left is left out.
        """
        end = time.monotonic() + seconds
        pool = self.executor or ThreadPoolExecutor(self.setting.slots, thread_name_prefix="automl-law")
        queue = list(wanted)
        try:
            while (queue or self._pending) and not (self.interrupted or self._broken) and time.monotonic() < end:
                while queue and len(self._pending) < self.setting.slots:
                    trial, rows = queue.pop(0)
                    left, needed = end - time.monotonic(), self.point_seconds(trial, rows)
                    if needed <= left:
                        point = Trial(self.take_number(), trial.plan.whole, rows, -1, "skipped", point=trial.point)
                        self._start(pool, point, 3600.0 if math.isinf(left) else min(left, 4 * needed + 1.0))
                self._collect(0.05)
            self._drain(lambda: math.inf)
        finally:
            self.cancel.clear()
            if self.executor is None:
                pool.shutdown(wait=False, cancel_futures=True)

    def point_seconds(self, trial: Trial, rows: int) -> float:
        """Predicted wall seconds of a completed trial's plan, whole, on `rows` rows: its own, by the ratio of the cost terms."""
        family, params = self.setting.families[trial.plan.family], dict(trial.plan.params)
        ratio = self.cost.units(family, params, trial.plan.whole, rows) / self.cost.units(
            family, params, trial.plan, trial.rows
        )
        fits = self.setting.split.fits()
        return OVERHEAD + fits * (trial.measurement.training_seconds or 0.1) * ratio

    def _last_resort(self, pool: Executor) -> None:
        """Fits the simplest family once more, in this process where it is ours: there is a model, however short the budget was."""
        families = list(self.setting.families.values())
        family = next((f for f in families if fits_here(f)), families[0])
        wall = min(3600.0, self.left())
        if not fits_here(family) and (wall < 0.3 or self.interrupted or self._broken):
            return
        if self.setting.limits.trials is not None and self._used() >= self.setting.limits.trials:
            return
        plan = from_point(
            {"family": family.name, **family.starts(self.setting.facts)[0]}, family, self.setting.facts, 1
        )
        trial = Trial(self.take_number(), plan, self.rungs[0], 0, "skipped", point=(("family", family.name),))
        self._start(pool, trial, wall, here=fits_here(family))
        self._drain(lambda: 0.0)
        self.cancel.clear()

    def _start(self, pool: Executor, trial: Trial, wall: float, here: bool = False) -> None:
        setting, family = self.setting, self.setting.families[trial.plan.family]
        job = Job(
            trial.plan,
            family,
            setting.metric,
            setting.data,
            self.folder(trial),
            trial.rows,
            setting.seed,
            merge=setting.merge,
            narrow=any(objective.name == "size" for objective in setting.objectives),
        )
        server, memory = "torch" if family.needs == "torch" else "core", setting.limits.memory_bytes
        future: Future[Outcome]
        try:
            if here or (setting.in_process and fits_here(family)):
                future = Future()
                future.set_result(fit_here(job))
            elif self.executor is None:
                future = pool.submit(supervise, job, wall, memory, server, self.cancel)
            else:
                future = pool.submit(supervise_packed, packed(job), wall, memory, server, time.time() + wall)
        except Exception as error:  # an executor that takes no more work, or a job that can't be sent to it
            future = Future()
            future.set_exception(error)
        self._pending[future] = (trial, job)

    def folder(self, trial: Trial) -> Path:
        """Where the artifact of a trial lies while the search runs."""
        return self.setting.data / "trials" / f"t{trial.number:04d}"

    def take_number(self) -> int:
        """A number that no trial of the run has."""
        self.number += 1
        return self.number - 1

    # -- what to try next -----------------------------------------------------------------------------------------

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
                    plan = from_point({"family": family.name, **start}, family, setting.facts, setting.trial_threads)
                    costs.append(self.cost.predict(family, plan, self.rungs[rung])[0])
            if float(np.median(costs)) <= max(LEAST_SECONDS, RUNG_SHARE * setting.limits.seconds):
                return rung
        return 0

    def _next(self) -> tuple[Plan, int, dict[str, Value]] | None:
        """A promotion if one is due, else the next of the first plans, else what the strategy asks for."""
        promotion = self._promotion()
        if promotion is not None:
            return promotion
        for _ in range(PATIENCE):
            if self.queue:
                point = self.queue.pop(0)
            else:
                asked = [] if self.strategy.exhausted else self.strategy.ask(1)
                if not asked:
                    return None
                point = asked[0]
            family = self.setting.families[str(point["family"])]
            plan = from_point(point, family, self.setting.facts, self.setting.trial_threads, self.setting.device)
            known = {t.plan.id: t.number for t in reversed(self.asked()) if t.status != "skipped"}
            if plan.id not in known and plan.id not in {t.plan.id for t, _ in self._pending.values()}:
                return plan, self.base_rung, point
            same = known.get(plan.id)
            reason = "the same plan is running" if same is None else f"the same plan as trial {same}"
            rows = self.rungs[self.base_rung]
            self._end(
                Trial(self.take_number(), plan, rows, self.base_rung, "skipped", reason, point=tuple(point.items()))
            )
        return None

    def _promotion(self) -> tuple[Plan, int, dict[str, Value]] | None:
        """The asynchronous halving rule (Li et al. 2020, ASHA) on the non-dominated order (Schmucker et al. 2021, MO-ASHA):

        a plan goes one rung up when it is among the best 1/eta of those completed at its rung.
        """
        if self.elapsed() < PROMOTE_FROM * self.setting.limits.seconds:
            return None
        for rung in range(len(self.rungs) - 2, self.base_rung - 1, -1):
            known = [t for t in self.asked() if t.plan.family in self.setting.families]
            done = [t for t in known if t.rung == rung and t.status == "completed"]
            if len(done) < ETA:
                continue
            ranks = nondominated_ranks(np.array([self.values(t) for t in done]))
            order = sorted(range(len(done)), key=lambda i: (ranks[i], done[i].measurement.error))
            for i in order[: len(done) // ETA]:
                trial = done[i]
                if (trial.plan.id, rung) not in self.promoted:
                    self.promoted.add((trial.plan.id, rung))
                    return trial.plan, rung + 1, dict(trial.point)
        return None

    def values(self, trial: Trial) -> list[float]:
        """The objectives of a completed trial, minimised; a missing one counts as infinitely bad."""
        steering = self.steering(trial)
        read = (value_of(objective, steering) for objective in self.setting.objectives)
        return [math.inf if value is None else value for value in read]

    def steering(self, trial: Trial) -> Measurement:
        """The measurement that steers the search. Where only trials are counted, times and memory, which differ from run to

        run, are read off what doesn't: the cost prior's seconds and the artifact's bytes. Then a run is a function of its
        seed: the plans, the finalists and the most accurate model. What is reported is measured all the same.
        """
        measured, family = trial.measurement, self.setting.families.get(trial.plan.family)
        target = self.setting.target_rows
        if family is None:
            return measured
        if target is not None and trial.status == "completed":
            measured = self._at_target(trial, family, target)
        if math.isfinite(self.setting.limits.seconds):
            return measured
        seconds = self.cost.units(family, dict(trial.plan.params), trial.plan, target or trial.rows)
        size = trial.measurement.size_bytes or 0.0
        call = 1e-5 + 5e-11 * size
        return replace(
            measured,
            training_seconds=seconds,
            training_cpu_seconds=seconds,
            training_memory_bytes=size,
            latency_p50_seconds=call,
            latency_p99_seconds=None if measured.latency_p99_seconds is None else call,
            rows_per_second=None if measured.rows_per_second is None else 1.0 / call,
            load_seconds=0.1 + 1e-9 * size,
            serving_memory_bytes=None if measured.serving_memory_bytes is None else size,
            model_memory_bytes=size,
        )

    def _at_target(self, trial: Trial, family: Family, rows: int) -> Measurement:
        """The measurement as the laws of the trial's plan forecast it where the model will live."""
        own = [t for t in self.trials if t.plan.id == trial.plan.id and t.rows <= trial.rows]
        key = (trial.number, len(own))
        if key not in self._forecasts:
            facts = self.setting.facts
            self._forecasts[key] = at_rows(trial, own, family, rows, facts.columns, facts.classes)
        return self._forecasts[key]

    # -- what has ended -------------------------------------------------------------------------------------------

    def _collect(self, seconds: float) -> None:
        done, _ = wait(list(self._pending), timeout=seconds, return_when=FIRST_COMPLETED)
        for future in sorted(done, key=lambda f: self._pending[f][0].number):
            trial, _job = self._pending.pop(future)
            outcome = self._outcome(future)
            measurement = Measurement()
            refit: tuple[tuple[str, Any], ...] = ()
            if outcome.status == "completed":
                result: Result = outcome.value
                measurement, refit = result.measurement, tuple(sorted(result.refit.items()))
                self._keep_losses(trial.number, result)
            ended = replace(
                trial,
                status=outcome.status,
                reason=outcome.reason,
                measurement=measurement,
                refit=refit,
                wall_seconds=outcome.wall_seconds,
                cpu_seconds=outcome.cpu_seconds,
            )
            self._end(ended)
            if outcome.status == "completed":
                self._add_prefixes(ended, outcome.value)
                self.queue += leaner(self, ended)

    def _add_prefixes(self, parent: Trial, result: Result) -> None:
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
                self._keep_losses(prefix.number, found)
                self._end(prefix)

    def _enter(self, trial: Trial) -> None:
        """Puts a completed trial among those that no other is as good as, in the place of those that it beats."""
        values = np.array(self.values(trial))
        if not (self._front <= values).all(axis=1).any():
            self._front = np.vstack([self._front[(self._front < values).any(axis=1)], values])

    def _outcome(self, future: Future[Outcome]) -> Outcome:
        """How the trial of a future that is done ended: what an executor does to it is a status as well.

        Where it is broken, or does so to many in a row, the search ends.
        """
        self._refused += 1
        try:
            outcome = future.result()
            self._refused = 0
            return outcome
        except CancelledError:
            return Outcome("crashed", "the executor cancelled it")
        except pickle.PicklingError as error:
            return Outcome("failed", f"it cannot be sent to the executor: {error}")
        except BrokenExecutor as error:
            self._refused = PATIENCE
            return Outcome("crashed", f"the executor broke: {error}")
        except Exception as error:
            return Outcome("crashed", f"executor: {type(error).__name__}: {error}")
        finally:
            if self._refused >= PATIENCE and not self._broken:
                log.warning("the executor runs no trials, and the search ends")
                self._broken = True

    def _keep_losses(self, number: int, result: Result) -> None:
        self.losses.validation[number], self.losses.holdout[number] = result.validation, result.holdout
        self.store.put_array(number, "validation", result.validation)
        self.store.put_array(number, "holdout", result.holdout)

    def _end(self, trial: Trial) -> None:
        self.store.add_trial(trial)
        self.store.set_meta("elapsed", self.spent_before + self.elapsed())
        self.trials.append(trial)
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
        elif trial.status == "timeout":  # it would have taken longer still
            self.cost.observe(family, trial.plan, trial.rows, 1.5 * wall / folds, None)
        if trial.rung == self.base_rung and fits:
            values = self.values(trial) if trial.status == "completed" else None
            self.strategy.tell(dict(trial.point), values, trial.rung, trial.number)

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

    def statuses(self) -> dict[str, int]:
        counts = Counter(t.status for t in self.asked())
        return {status: counts.get(status, 0) for status in STATUSES}

    def tell_listener(self, stage: str) -> None:
        if self.listener is None:
            return
        done = self.best_rung()
        rows = []
        if done:
            ranks = nondominated_ranks(np.array([self.values(t) for t in done]))
            for trial, rank in sorted(zip(done, ranks, strict=True), key=lambda pair: pair[0].measurement.error or 0.0):
                m = trial.measurement
                if rank == 0:
                    rows.append(
                        (
                            trial.plan.family,
                            m.error or math.nan,
                            m.latency_p50_seconds or math.nan,
                            m.size_bytes or math.nan,
                        )
                    )
        self.listener(Progress(self.elapsed(), self.setting.limits.seconds, stage, self.statuses(), rows))


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
        (t.status, t.reason) for t in trials if t.status != "completed" and t.parent is None and t.rung >= 0
    )
    return [(status, reason, count) for (status, reason), count in counts.most_common()]


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
