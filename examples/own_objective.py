"""How do I trade something else than latency and memory?

    python examples/own_objective.py [BUDGET]

Here: what a million predictions cost, in euros, from the CPU time of one and the storage of the model.
"""

from __future__ import annotations

import sys
from typing import ClassVar

from sklearn.datasets import load_breast_cancer

import automl
from automl.search.objective import Objective
from automl.search.trial import Measurement

EUROS_PER_CPU_HOUR = 0.04
EUROS_PER_GIGABYTE = 0.02


class Bill(Objective):
    name: ClassVar[str] = "bill"
    unit: ClassVar[str] = "EUR"
    low: ClassVar[float] = 1e-5  # the box that runs are compared in
    high: ClassVar[float] = 1e2
    relative_noise: ClassVar[float] = 0.1  # as much as the latency's: a smaller difference counts as none

    def read(self, measurement: Measurement) -> float | None:
        if measurement.latency_p50_seconds is None or measurement.size_bytes is None:
            return None
        hours = 1e6 * measurement.latency_p50_seconds / 3600
        return hours * EUROS_PER_CPU_HOUR + measurement.size_bytes / 1e9 * EUROS_PER_GIGABYTE


def main(budget: str) -> None:
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    model = automl.fit(X, y, budget=budget, objectives=["error", Bill()])
    for m in model.front_:
        euros = Bill().read(Measurement.from_dict(m.as_dict()))
        print(f"{m.family:12s} roc_auc {m.score:.4f}   a million predictions: {euros:.5f} EUR")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "30s")
