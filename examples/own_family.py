"""How do I search a model family of my own, beside the others?

    python examples/own_family.py [BUDGET]

Here: Huber's regression, which outliers pull less than ordinary least squares (Huber 1964).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from sklearn.datasets import load_diabetes

import automl
from automl.estimators.encoder import View
from automl.estimators.family import Facts, Family, Params
from automl.estimators.graph import Graph
from automl.estimators.hardware import Hardware
from automl.estimators.space import Float, Space


class Huber(Family):
    name: ClassVar[str] = "huber"
    tasks: ClassVar[frozenset[str]] = frozenset({"regression"})
    order: ClassVar[int] = 10  # the simplest families are tried first

    def views(self, facts: Facts) -> Sequence[View]:
        return (View(numeric="scaled", categories="onehot"),)

    def space(self, facts: Facts) -> Space:
        return {"epsilon": Float(1.05, 5.0), "alpha": Float(1e-6, 10.0, log=True)}

    def starts(self, facts: Facts) -> Sequence[dict[str, Any]]:
        return ({"epsilon": 1.35, "alpha": 1e-4},)

    def cost(self, params: Params, rows: int, columns: int, classes: int) -> dict[str, float]:
        return {"1": 1e4, "n d": 100.0 * rows * columns}

    def build(self, params: Params, task: str, hardware: Hardware, seed: int, categorical: Sequence[int] = ()) -> Any:
        from sklearn.linear_model import HuberRegressor

        return HuberRegressor(epsilon=params["epsilon"], alpha=params["alpha"], max_iter=1000)

    def to_onnx(self, model: Any, graph: Graph, x: str) -> str:
        weights, bias = graph.constant(model.coef_.reshape(-1, 1)), graph.constant(np.array([model.intercept_]))
        return graph.node("Gemm", x, weights, bias)


def main(budget: str) -> None:
    X, y = load_diabetes(return_X_y=True, as_frame=True)
    model = automl.fit(X, y, budget=budget, families=["baseline", Huber(), "tree"])
    print(model.front_)
    print("families on the front:", sorted({m.family for m in model.front_}))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "30s")
