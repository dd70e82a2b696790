"""The seconds per row when the deployed model predicts a batch of 10,000: one over rows a second."""

from __future__ import annotations

from ..objective import Objective
from ..trial import Measurement


class Throughput(Objective):
    name = "throughput"
    unit = "s"
    quantity = "rows_per_second"
    low = 1e-8
    high = 1e-2
    relative_noise = 0.05

    def read(self, measurement: Measurement) -> float | None:
        rate = measurement.rows_per_second
        return None if rate is None or rate <= 0 else 1.0 / rate
