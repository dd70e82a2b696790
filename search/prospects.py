"""The prospects of plans: what they may measure on all rows, or where the model will live, as samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from automl.estimators import native

from .allocation import Floats, normals, within
from .forecast import GROWTHS, law_points
from .front import LIMITS, normalise
from .measure import base
from .record import Record
from .scaling import ErrorLaw, RefusalError
from .trial import Trial

PARTS = {"serving_memory_bytes": "model_memory_bytes"}
"""What a trial measures in place of a limit's quantity: the part of it that is the model's own, beside its engine's."""
UNKNOWN_SD = 0.1
"""Standard deviation of the logarithm of what has no law."""


def lightest() -> int:
    """Bytes that an interpreter with the lighter of the engines to be had takes above a bare one."""
    return base(engine="compiled" if native.ready() else "onnx").memory_bytes


class Prospects:
    """Reads a record: its trials' forecasts at the target. `bounds` are the limits that the user set, by name."""

    def __init__(self, record: Record, bounds: Mapping[str, float]) -> None:
        self.record = record
        self.bounds = bounds

    def samples(self, trial: Trial) -> Floats:
        """(s, m) samples of a completed trial's objectives at the target; of the costs their middles.

        What a promotion tells is the error: a plan whose costs are a little uncertain is not worth a fit for them.
        """
        values = self.record.expected(trial)
        deviates = normals(len(values))
        drawn = np.tile(values, (len(deviates), 1))
        for k, objective in enumerate(self.record.setting.objectives):
            if objective.name == "error":
                drawn[:, k] = self._errors(trial, deviates[:, k])
        return drawn

    def _errors(self, trial: Trial, deviates: Floats) -> Floats:
        """By the plan's own law, else by how the errors of this run and family fall; of a metric that 0 doesn't bound as it is.

        The spread holds a quarter of the variance of the validation rows, the same for all, as the law's own does.
        """
        error, noise, own = trial.measurement.error or 0.0, (trial.measurement.error_sd or 0.0) / 2, self._own(trial)
        try:
            mean, sd = ErrorLaw(*law_points("error", own)).predictive(self.record.target)
            return np.asarray(np.maximum(0.0, mean + sd * deviates))
        except RefusalError:  # no law of its own: how errors fell in this run, below
            pass
        if error <= 0.0:
            return np.asarray(error + noise * deviates)
        mean, sd = self.record.falls.ratio(trial.plan.family, self.record.target / trial.rows)
        return np.asarray(error * np.exp(mean + math.hypot(sd, noise / error) * deviates))

    def _own(self, trial: Trial) -> Sequence[Trial]:
        return [t for t in self.record.of_plan(trial) if t.rows <= trial.rows]

    def ill_behaved(self, trial: Trial) -> bool:
        """Whether the errors of a trial's plan rise somewhere with the rows, by more than two standard errors."""
        _, errors, sd = law_points("error", self._own(trial))
        steps = zip(errors, errors[1:], sd, sd[1:], strict=False)
        return any(after - before > 2 * math.hypot(s, r) for before, after, s, r in steps)

    def _spread(self, quantity: str, trial: Trial) -> float:
        """Standard deviation of the logarithm of a cost's forecast at the target."""
        growth = GROWTHS.get(quantity)
        doublings = math.log2(max(1.0, self.record.target / trial.rows))
        return UNKNOWN_SD if growth is None else math.hypot(growth.floor, growth.spread * doublings)

    def feasible(self, trial: Trial, *, clocked: bool = False) -> float:
        """P(a completed trial's plan meets the limits at the target); what a search doesn't measure is taken to be met.

        A run of trials heeds limits on what clocks and meters say only in the end, where it is asked what was `clocked`: else it
        would be no function of its seed.
        """
        chance, counted = 1.0, math.isinf(self.record.setting.limits.seconds)
        steering = self.record.outlook(trial, clocked=clocked)
        for name, allowed in self.bounds.items():
            if name == "min_score":
                most = self.record.setting.metric.error_of(allowed)
                chance *= float((self._errors(trial, normals(1)[:, 0]) <= most).mean())
                continue
            quantity = LIMITS[name].quantity
            value = getattr(steering, quantity)
            if counted and not clocked and quantity != "size_bytes":
                continue
            if value is None and quantity in PARTS:
                value, allowed = getattr(steering, PARTS[quantity]), allowed - lightest()
            if value is not None:
                chance *= within(value, allowed, self._spread(quantity, trial)) if allowed > 0 else 0.0
        return chance

    def positions(self, values: Floats, known: Floats) -> Floats:
        """(n, m) values in the boxes of the objectives; that of the error reaches from the best to the worst of the `known`."""
        objectives = self.record.setting.objectives
        best = worst = None
        for k, objective in enumerate(objectives):
            finite = known[np.isfinite(known[:, k]), k]
            if objective.name == "error" and finite.size:
                best, worst = float(finite.min()), float(finite.max())
        return normalise(values, objectives, worst, best, self.record.setting.limits.seconds, known)
