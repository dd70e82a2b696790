"""Extremely randomized trees (scikit-learn): forests whose thresholds are drawn, not searched: faster, smoother."""

from __future__ import annotations

from typing import ClassVar

from ..family import Facts
from ..space import Choice, Float, Int, Space, Value
from .forest import Forest, root


class ExtraTrees(Forest):
    """Extremely randomized trees (Geurts, Ernst, Wehenkel 2006): random thresholds, every tree sees all rows."""

    name: ClassVar[str] = "extra_trees"
    order: ClassVar[int] = 50
    maker: ClassVar[str] = "ExtraTrees"
    defaults: ClassVar[dict[str, Value]] = {**Forest.defaults, "bootstrap": False}
    sorts: ClassVar[bool] = False

    def space(self, facts: Facts) -> Space:
        space: Space = {
            "n_estimators": Int(5, 300, log=True),
            "max_features": Float(min(0.4, root(facts)), 1.0),
            "max_leaf_nodes": Int(16, 32768, log=True),
            "min_samples_leaf": Int(1, 64, log=True),
        }
        if facts.task != "regression":
            space["criterion"] = Choice(("gini", "entropy"))
        return space

    def points(self, facts: Facts) -> list[dict[str, Value]]:
        """25 trees of 256 leaves, TabRepo's r172 and r42, AutoGluon's default."""
        few = 1.0 if facts.task == "regression" else root(facts)
        return [
            {"n_estimators": 25, "max_leaf_nodes": 256, "max_features": 0.75},
            {"n_estimators": 50, "max_leaf_nodes": 1024, "max_features": 1.0},
            {"n_estimators": 100, "max_leaf_nodes": 12845, "max_features": 1.0, "min_samples_leaf": 4},
            {"n_estimators": 300, "max_leaf_nodes": 15000, "max_features": few},
            {"n_estimators": 300, "max_leaf_nodes": 18392, "max_features": 0.75},
        ]
