"""What an objective is: one measured quantity that is minimised, with its unit, noise, law and box of the hypervolume.

A new objective is one file in `objectives/` and one word in `objectives/__init__.py`. A user's own objective is a
subclass of `Objective`, passed to `automl.fit(..., objectives=["error", MyObjective()])` in the same list as ours.
"""

from __future__ import annotations

import logging
import math
import weakref
from abc import ABC
from typing import ClassVar

from .trial import Measurement

log = logging.getLogger("automl")
_told: weakref.WeakSet[Objective] = weakref.WeakSet()


class Objective(ABC):
    """A quantity of a model, minimised. Subclasses set the class attributes, and write `read` where it takes a formula."""

    name: ClassVar[str]
    """Its one word in lists and on the command line."""
    unit: ClassVar[str]
    """The unit of what `read` returns: "s", "B", or "" for a plain number."""
    quantity: ClassVar[str]
    """The attribute of `Measurement` (and the name in the JSON) that it reads."""
    law: ClassVar[str | None] = None
    """The quantity whose law forecasts it at other row counts; None if it is taken not to change."""
    log: ClassVar[bool] = True
    """Whether it is compared by ratios: its logarithm goes into the hypervolume and the knee."""
    low: ClassVar[float | None] = None
    high: ClassVar[float | None] = None
    """The box [low, high] of the hypervolume, fixed so that runs can be compared; the error's comes from the run.

    Without one the range of the values at hand serves."""
    relative_noise: ClassVar[float] = 0.0
    absolute_noise: ClassVar[float] = 0.0

    def read(self, measurement: Measurement) -> float | None:
        """The value to minimise, None where it was not measured."""
        value = getattr(measurement, self.quantity)
        return None if value is None else float(value)

    def noise(self, value: float) -> float:
        """The difference from `value` that counts as none, in the objective's unit."""
        return max(self.relative_noise * abs(value), self.absolute_noise)

    def box(self, budget_seconds: float) -> tuple[float, float] | None:
        """(low, high) for a run with that budget, None if the objective fixes none."""
        return None if self.low is None or self.high is None else (self.low, self.high)


def value_of(objective: Objective, measurement: Measurement) -> float | None:
    """What the objective reads; None where it raises or reads NaN, which is warned of once: a user's slip loses no run."""
    try:
        value = objective.read(measurement)
        value = None if value is None else float(value)
    except Exception as error:  # a user's own code
        _tell(objective, f"read raises {type(error).__name__}: {error}")
        return None
    if value is not None and math.isnan(value):
        _tell(objective, "read gives NaN")
        return None
    return value


def _tell(objective: Objective, what: str) -> None:
    if objective not in _told:
        _told.add(objective)
        log.warning("objective %s: %s; such models count as the worst", objective.name, what)
