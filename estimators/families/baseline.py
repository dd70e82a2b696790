"""What needs no inputs: the class frequencies, or the mean. The floor that every other model must beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..family import Family, Params
from ..graph import Graph
from ..hardware import Hardware
from ..space import Space


class Prior:
    """Predicts the weighted class frequencies (classification) or the weighted mean (regression) of its training rows."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        """The fewest classes that y can have; 0 for regression."""

    def fit(self, X: Any, y: NDArray[Any], sample_weight: NDArray[np.float64] | None = None) -> Prior:
        if self.classes:
            counts = np.bincount(y, weights=sample_weight, minlength=self.classes)
            self.values = counts / counts.sum()
        else:
            self.values = np.array([np.average(y, weights=sample_weight)])
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        return np.tile(self.values, (X.shape[0], 1))

    def predict(self, X: Any) -> NDArray[np.float64]:
        return np.full(X.shape[0], self.values[0])


class Baseline(Family):
    """The constant prediction: class frequencies, or the mean. No hyperparameters."""

    name: ClassVar[str] = "baseline"
    reads: ClassVar[bool] = False
    bagged: ClassVar[bool] = False
    merges_duplicates: ClassVar[bool] = True
    order: ClassVar[int] = 0
    seconds_per_unit: ClassVar[float] = 5e-9

    def space(self, facts: Any) -> Space:
        return {}

    def cost(self, params: Params, rows: int, columns: int, classes: int) -> dict[str, float]:
        return {"1": 2e4, "n": float(rows)}

    def build(self, params: Params, task: str, hardware: Hardware, seed: int, categorical: Sequence[int] = ()) -> Prior:
        return Prior({"binary": 2, "multiclass": 3, "regression": 0}[task])

    def to_onnx(self, model: Prior, graph: Graph, x: str) -> str:
        from ..trees import constant_rows

        return constant_rows(graph, x, model.values[1:] if model.classes == 2 else model.values)
