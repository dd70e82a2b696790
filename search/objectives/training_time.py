"""The wall seconds of one fit on all rows, alone on the machine; CPU seconds are steered by while the search runs."""

from __future__ import annotations

import math
from typing import ClassVar

from ..objective import Objective


class TrainingTime(Objective):
    name = "training_time"
    unit = "s"
    quantity = "training_seconds"
    law = "training_seconds"
    low: ClassVar[float] = 0.01
    high: ClassVar[float] = 10.0
    relative_noise = 0.05

    def box(self, budget_seconds: float) -> tuple[float, float]:
        """Up to the budget, at least 10 s."""
        return self.low, max(budget_seconds, self.high) if math.isfinite(budget_seconds) else self.high
