"""Random forests (scikit-learn): averages of deep trees grown on resampled rows and columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from ..encoder import View
from ..family import Facts, Family, Params
from ..graph import Graph
from ..hardware import Hardware
from ..prefix import count, halves
from ..space import Choice, Float, Int, Space, Value
from ..trees import write
from .tree import SklearnTrees, by_cost, flatten, tree_views


class Forest(Family):
    """Random forest (Breiman 2001): bagged trees, each split among some of the columns.

    The ranges are those of TabArena (arXiv 2506.16791), with few trees and few leaves added for speed; `max_features` is a
    fraction of the columns.
    """

    name: ClassVar[str] = "forest"
    parallel: ClassVar[bool] = True
    order: ClassVar[int] = 40
    iterations: ClassVar[str | None] = "n_estimators"
    filled: ClassVar[tuple[float, ...]] = (1.0, 0.3, 0.1)
    seconds_per_unit: ClassVar[float] = 4e-9
    maker: ClassVar[str] = "RandomForest"
    defaults: ClassVar[dict[str, Value]] = {
        "n_estimators": 50,
        "max_features": 0.5,
        "max_leaf_nodes": 1024,
        "min_samples_leaf": 1,
        "bootstrap": True,
        "max_samples": 1.0,
        "criterion": "gini",
    }
    sorts: ClassVar[bool] = True
    """Whether a split sorts its rows; otherwise it only looks at them."""

    def views(self, facts: Facts) -> Sequence[View]:
        return tree_views(facts)

    def space(self, facts: Facts) -> Space:
        space: Space = {
            "n_estimators": Int(5, 300, log=True),
            "max_features": Float(min(0.4, root(facts)), 1.0),
            "max_leaf_nodes": Int(16, 32768, log=True),
            "min_samples_leaf": Int(1, 64, log=True),
            "bootstrap": Choice((True, False)),
            "max_samples": Float(0.5, 1.0),
        }
        if facts.task != "regression":
            space["criterion"] = Choice(("gini", "entropy"))
        return space

    def points(self, facts: Facts) -> list[dict[str, Value]]:
        """Own tiny one, FLAML's b1 and b2, TabRepo's r34, AutoGluon's default."""
        few = min(1.0, 1 / 3) if facts.task == "regression" else root(facts)
        return [
            {"n_estimators": 10, "max_leaf_nodes": 128, "max_features": max(few, 0.25)},
            {"n_estimators": 50, "max_leaf_nodes": 102, "max_features": 0.25},
            {"n_estimators": 100, "max_leaf_nodes": 1156, "max_features": 0.25, "criterion": "entropy"},
            {"n_estimators": 100, "max_leaf_nodes": 18242, "max_features": 0.75, "min_samples_leaf": 40},
            {"n_estimators": 300, "max_leaf_nodes": 15000, "max_features": few},
        ]

    def starts(self, facts: Facts) -> Sequence[dict[str, Value]]:
        names, low = self.space(facts), min(0.4, root(facts))
        points = [{k: v for k, v in {**self.defaults, **point}.items() if k in names} for point in self.points(facts)]
        for point in points:
            point["max_features"] = min(1.0, max(low, float(point["max_features"])))
        return by_cost(self, points, facts)

    def adapted(self, point: Params, facts: Facts) -> dict[str, Value]:
        """As every family's; `max_features` may also be "sqrt", as scikit-learn writes it."""
        full = {**self.defaults, **point}
        if full["max_features"] == "sqrt":
            full["max_features"] = root(facts)
        return super().adapted(full, facts)

    def cost(self, params: Params, rows: int, columns: int, classes: int) -> dict[str, float]:
        p = {**self.defaults, **params}
        trees = float(p["n_estimators"])
        grown = rows * (float(p["max_samples"]) if p["bootstrap"] else 1.0)
        leaves = self.capacity(p, rows) / trees
        tried = max(1.0, float(p["max_features"]) * columns)
        entropy = 1.0 + 0.25 * max(2, classes) if p["criterion"] == "entropy" and classes else 1.0
        visits = trees * grown * (0.5 + tried) * math.log2(1 + leaves) * entropy
        work = (
            {"T n d depth log n": 0.55 * visits * math.log2(2 + grown)} if self.sorts else {"T n d depth": 1.3 * visits}
        )
        return {"T": 1.2e5 * trees, **work, "T L": trees * leaves * (60.0 + 5.0 * classes)}

    def capacity(self, params: Params, rows: int) -> float:
        p = {**self.defaults, **params}
        grown = rows * (float(p["max_samples"]) if p["bootstrap"] else 1.0)
        leaves = min(float(p["max_leaf_nodes"]), 1 + grown / float(p["min_samples_leaf"]))
        return float(p["n_estimators"]) * leaves

    def build(
        self, params: Params, task: str, hardware: Hardware, seed: int, categorical: Sequence[int] = ()
    ) -> SklearnTrees:
        options: dict[str, Any] = {**self.defaults, **params, "random_state": seed, "n_jobs": hardware.threads}
        if not options["bootstrap"]:
            options["max_samples"] = None
        if task == "regression":
            options["criterion"] = "squared_error"
        return SklearnTrees(self.maker + ("Regressor" if task == "regression" else "Classifier"), options, task)

    def prefixes(self, model: SklearnTrees) -> Sequence[float]:
        return halves(model.length)

    def shortened(self, params: Params, share: float) -> dict[str, Value]:
        trees = int(params.get("n_estimators", self.defaults["n_estimators"]))
        return {**params, "n_estimators": count(share, trees)}

    def to_onnx(self, model: SklearnTrees, graph: Graph, x: str) -> str:
        trees, constants = flatten(model)
        out = write(graph, x, trees, trees.values.shape[1], constants)
        if model.task == "regression":
            return out
        return graph.node("Clip", out, graph.constant(0.0), graph.constant(1.0))  # a float32 sum can pass 1 by 1e-7


def root(facts: Facts) -> float:
    """The fraction of the columns that is their square root."""
    return 1 / math.sqrt(max(1, facts.columns))
