"""The study: admits what fits in the budget of what its agenda proposes, runs isolated trials, and records what ends."""

from __future__ import annotations

import logging
import math
import pickle
import time
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
from dataclasses import replace
from typing import Any, NamedTuple

from automl.estimators.family import Family
from automl.estimators.space import Value

from .agenda import PATIENCE, TRIAL_SHARE, Agenda
from .fitting import Job, Result, fit_here, fits_here, packed, supervise, supervise_packed
from .folds import rivals
from .interrupt import Flag
from .leaner import leaner
from .plan import from_point
from .record import LEAST_SECONDS, Losses, Record
from .setting import NO_WALL, Progress, Setting
from .store import Store
from .strategy import Strategy
from .trial import Measurement, Trial
from .worker import Outcome

log = logging.getLogger("automl")

NEW_SHARE = 0.5
"""The share of the time left that a trial may take where none of its family has completed or runs: another family says more
than another variant.
"""
RESORT_SECONDS = 0.7
"""Kept back for a model made here as long as an executor of the user's has sent none."""
LEAST_WALL, FIRST_WALL = 0.06, 0.3
"""A trial may take this share of the budget before it is killed, however little was predicted.

The second is that of our own simplest families until a trial has completed: what one costs here isn't known yet.
"""


class Point(NamedTuple):
    """A completed trial whose plan is to be fitted on `rows` rows for its laws, and the wall seconds that it is predicted to take."""

    trial: Trial
    rows: int
    seconds: float


class Study(Record):
    """Runs trials until the budget says stop: it starts what its agenda proposes and fits in, and records what ends."""

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
        super().__init__(setting, strategy, store)
        self.agenda = Agenda(self, first)
        self.executor = executor
        self.listener = listener
        self.cancel = Flag()
        self.interrupted = False
        self.rows: list[dict[str, Any]] = []
        self._pending: dict[Future[Outcome], tuple[Trial, Job]] = {}
        self._refused, self._broken = 0, False

    def restore(self, trials: Sequence[Trial], losses: Losses) -> None:
        super().restore(trials, losses)
        self.agenda.restored()

    def interrupt(self) -> None:
        """Ends the search early, with what is there. Safe in a signal handler: the loops look at what it sets."""
        self.interrupted = True
        self.cancel.set()

    def running(self) -> list[Trial]:
        return [trial for trial, _ in self._pending.values()]

    # -- the loop -------------------------------------------------------------------------------------------------

    def run(self, reserve: Callable[[], float], reckon: Callable[[], None] = lambda: None) -> None:
        """Searches until the time left is the `reserve` that the finish needs, the trials are used up, or it is interrupted.

        `reckon` is called while trials run, so that none waits for it: to reckon the reserve anew.
        """
        pool = self.executor or ThreadPoolExecutor(self.setting.slots, thread_name_prefix="automl-trial")

        def kept() -> float:
            return reserve() + (RESORT_SECONDS if self.executor is not None and not self._has_model() else 0.0)

        try:
            reckon()
            more = True  # after many proposals that did not fit, none is asked for until a trial has ended
            while not self._finished(kept):
                while more and len(self._pending) < self.setting.slots:
                    more = self._submit(pool, kept)
                if not self._pending:
                    break
                running = len(self._pending)
                reckon()
                self._collect(max(0.02, min(0.25, self.left() - kept())))
                more = more or len(self._pending) < running
                if self.setting.in_process:  # its trials have ended by now
                    reckon()
                self.tell_listener("search")
            if self.interrupted:
                log.warning("interrupted: the front so far is kept")
            self._drain(kept)
            self.cancel.clear()
            if not self._has_model():
                self._last_resort(pool)
        finally:
            self.cancel.set()
            if self.executor is None:
                pool.shutdown(wait=False, cancel_futures=True)
        self.cancel.clear()

    def _has_model(self) -> bool:
        return any(t.status == "completed" for t in self.trials)

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
                    self.end(
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
            room = self.left() - reserve()
            proposal = self.agenda.next(self.running(), room)
            if proposal is None:
                break
            plan, rung, point = proposal
            family, rows = self.setting.families[plan.family], self.rungs[rung]
            middle, high = self.cost.predict(family, plan, rows, self.setting.split.fits())
            trial = Trial(self.take_number(), plan, rows, rung, "skipped", point=tuple(point.items()))
            first = not self._has_model()
            if plan.id in self.favoured:  # what others are held against, or likely the best: worth more than its share
                dear = middle > 0.7 * room
            else:
                share = TRIAL_SHARE if plan.family in seen else NEW_SHARE
                dear = high > room or middle > max(1.0, share * room)
            stoppable = not (self.setting.in_process and fits_here(family))  # or else it takes what it takes
            if limits.seconds == math.inf or (first and (stoppable or middle <= room)) or not dear:
                self._start(pool, trial, self._wall(family, middle, high, room, first))
                return True
            self.end(
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
        if self.setting.in_process and fits_here(family):  # it could not be ended
            return False
        self._start(pool, replace(trial, number=self.take_number()), self._wall(family, middle, high, room, False))
        return True

    def _wall(self, family: Family, middle: float, high: float, room: float, first: bool) -> float:
        """Seconds after which a trial of the predicted time is killed."""
        limits = self.setting.limits
        if limits.seconds == math.inf:
            return NO_WALL
        least = FIRST_WALL if first and fits_here(family) else LEAST_WALL
        return max(0.2, min(max(4 * middle, high, least * limits.seconds) + 1.0, room))

    def add_points(self, wanted: Sequence[Point], seconds: float) -> None:
        """Fits plans of completed trials on other row counts for their laws, in this order, for `seconds` at the most.

        What is predicted not to fit in the time left is left out.
        """
        end = time.monotonic() + seconds
        pool = self.executor or ThreadPoolExecutor(self.setting.slots, thread_name_prefix="automl-law")
        queue = list(wanted)
        try:
            while (queue or self._pending) and not (self.interrupted or self._broken) and time.monotonic() < end:
                while queue and len(self._pending) < self.setting.slots:
                    trial, rows, needed = queue.pop(0)
                    left = end - time.monotonic()
                    if needed <= left:
                        point = Trial(self.take_number(), trial.plan.whole, rows, -1, "skipped", point=trial.point)
                        self._start(pool, point, NO_WALL if math.isinf(left) else min(left, 4 * needed + 1.0))
                self._collect(0.05)
            self._drain(lambda: math.inf)
        finally:
            self.cancel.clear()
            if self.executor is None:
                pool.shutdown(wait=False, cancel_futures=True)

    def _last_resort(self, pool: Executor) -> None:
        """Fits the simplest family once more, in this process where it and the metric are ours, which neither hang nor crash: there
        is a model, however short the budget was.
        """
        families = list(self.setting.families.values())
        family = next((f for f in families if fits_here(f)), families[0])
        wall, here = min(NO_WALL, self.left()), fits_here(family) and self.setting.metric.own
        if not here and (wall < 0.3 or self.interrupted or self._broken):
            return
        if self.setting.limits.trials is not None and self._used() >= self.setting.limits.trials:
            return
        plan = from_point(
            {"family": family.name, **family.starts(self.setting.facts)[0]}, family, self.setting.facts, 1
        )
        trial = Trial(self.take_number(), plan, self.rungs[0], 0, "skipped", point=(("family", family.name),))
        self._start(pool, trial, wall, here=here)
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
            rivals=rivals(self, trial),
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
                if result.stopped:
                    outcome = replace(outcome, status="stopped", reason=result.stopped)
                else:
                    self.keep_losses(trial.number, result)
            ended = replace(
                trial,
                status=outcome.status,
                reason=outcome.reason,
                measurement=measurement,
                refit=refit,
                wall_seconds=outcome.wall_seconds,
                cpu_seconds=outcome.cpu_seconds,
            )
            self.end(ended)
            if outcome.status == "completed":
                self.add_prefixes(ended, outcome.value)
                self.agenda.queue += leaner(self, ended)

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

    def tell_listener(self, stage: str) -> None:
        if self.listener is None:
            return
        self.listener(Progress(self.elapsed(), self.setting.limits.seconds, stage, self.statuses(), self.front_rows()))
