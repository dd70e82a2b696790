"""One decision tree (scikit-learn's CART): the model that a person can read; and what the two forests share with it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..encoder import View
from ..family import Facts, Family, Params
from ..graph import Graph
from ..hardware import Hardware
from ..space import Choice, Float, Int, Space, Value
from ..trees import Trees, write

CLASSES = {"binary": 2, "multiclass": 3, "regression": 0}
"""The fewest classes of a task; a multiclass model has as many as its largest code says."""


class SklearnTrees:
    """scikit-learn's trees and forests with one column per class code 0..K-1, those absent from the training rows included.

    `options` are the arguments of `maker`; a regression's `ccp_alpha` is in units of the variance of y.
    """

    def __init__(self, maker: str, options: Mapping[str, Any], task: str) -> None:
        self.maker, self.options, self.task = maker, dict(options), task

    def fit(self, X: Any, y: NDArray[Any], sample_weight: NDArray[np.float64] | None = None) -> SklearnTrees:
        from sklearn import ensemble, tree

        options = dict(self.options)
        self.shift = 0.0
        if self.task == "regression":
            self.shift = float(np.mean(y))
            y = y - self.shift  # scikit-learn compares sums of squares: a large mean would drown them
            options["ccp_alpha"] = options.get("ccp_alpha", 0.0) * float(np.var(y))
        if options["max_leaf_nodes"] >= X.shape[0]:
            options["max_leaf_nodes"] = None  # no limit, and the faster depth-first builder
        maker = getattr(tree, self.maker, None) or getattr(ensemble, self.maker)
        self.model = maker(**options).fit(_narrow(X), y, sample_weight=sample_weight)
        self.classes = 0 if self.task == "regression" else max(CLASSES[self.task], int(y.max()) + 1)
        if hasattr(self.model, "n_jobs"):
            self.model.n_jobs = 1  # prediction of one row must not wait for threads
        return self

    def predict(self, X: Any) -> NDArray[np.float64]:
        return np.asarray(self.model.predict(_narrow(X)), np.float64) + self.shift

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        found = np.zeros((X.shape[0], self.classes))
        found[:, self.model.classes_] = self.model.predict_proba(_narrow(X))
        return found

    @property
    def members(self) -> list[Any]:
        """scikit-learn's fitted trees: those of the forest, or the one that it is."""
        return list(getattr(self.model, "estimators_", [self.model]))

    @property
    def length(self) -> int:
        return len(self.members)

    @property
    def center(self) -> None:
        """A forest is a plain average: its first trees are neither bolder nor more timid than all."""
        return None

    def staged(self, X: Any, counts: Sequence[int]) -> Iterator[NDArray[np.float64]]:
        X = _narrow(X)
        classes = None if self.task == "regression" else self.model.classes_
        total = np.zeros((X.shape[0], self.classes or 1))
        for number, member in enumerate(self.members, 1):
            if classes is None:
                total[:, 0] += member.predict(X, check_input=False)
            else:
                total[:, classes] += member.predict_proba(X, check_input=False)
            if number in counts:
                yield total / number + self.shift

    def first(self, count: int, rescale: float) -> SklearnTrees:
        if rescale != 1.0:
            raise ValueError(f"a forest's average is not rescaled; got {rescale}")
        shorter = copy.copy(self)
        shorter.model = copy.copy(self.model)
        shorter.model.estimators_, shorter.model.n_estimators = self.members[:count], count
        return shorter


def _narrow(X: Any) -> Any:
    """CSR with 32-bit indices, which scikit-learn's trees insist on; dense matrices as they are."""
    if isinstance(X, np.ndarray) or X.indices.dtype == np.int32:
        return X
    narrow = X.copy()
    narrow.indices, narrow.indptr = X.indices.astype(np.int32), X.indptr.astype(np.int32)
    return narrow


def flatten(model: SklearnTrees) -> tuple[Trees, NDArray[np.float64]]:
    """The trees with their leaf values divided by their number, and the constants to add (a regression's mean)."""
    parts = [_flatten_one(member.tree_) for member in model.members]
    sizes, feature, threshold, missing, left, right, values = zip(*parts, strict=True)
    value = np.concatenate(values)
    if model.task == "regression":
        constants = np.array([float(np.mean([member.tree_.value[0, 0, 0] for member in model.members]))])
        value = value - constants
        constants = np.array([constants[0] + model.shift])
    else:
        wide = np.zeros((len(value), model.classes))
        wide[:, model.model.classes_] = value / value.sum(axis=1, keepdims=True)
        value = wide[:, 1:] if model.task == "binary" else wide
        constants = np.zeros(value.shape[1])
    trees = Trees(
        np.array(sizes),
        np.concatenate(feature),
        np.concatenate(threshold),
        np.concatenate(missing),
        np.concatenate(left),
        np.concatenate(right),
        value / len(parts),
    )
    return trees, constants


def _flatten_one(tree: Any) -> tuple[Any, ...]:
    leaf = tree.children_left < 0
    number = np.where(leaf, -np.cumsum(leaf), np.cumsum(~leaf) - 1)  # of splits 0, 1, ..., of leaves -1, -2, ...
    split = ~leaf
    return (
        int(split.sum()),
        tree.feature[split].astype(np.int64),
        tree.threshold[split].astype(np.float64),
        tree.missing_go_to_left[split].astype(np.bool_),
        number[tree.children_left[split]],
        number[tree.children_right[split]],
        tree.value[leaf][:, 0, :].astype(np.float64),
    )


def tree_views(facts: Facts) -> Sequence[View]:
    """Raw numbers and level codes, or target means of the levels; sparse tables imputed, since CSR trees take no NaN."""
    numeric = "scaled" if facts.sparse else "raw"
    return tuple(View(numeric, kind) for kind in (("ordinal", "target") if facts.categorical else ("ordinal",)))


def by_cost(family: Family, points: Sequence[dict[str, Value]], facts: Facts) -> list[dict[str, Value]]:
    """The points, cheapest first."""
    return sorted(points, key=lambda point: sum(family.cost(point, facts.rows, facts.columns, facts.classes).values()))


class Tree(Family):
    """CART with limits on depth, leaves and rows per leaf, and cost-complexity pruning."""

    name: ClassVar[str] = "tree"
    order: ClassVar[int] = 30
    filled: ClassVar[tuple[float, ...]] = (1.0, 0.3, 0.1)
    seconds_per_unit: ClassVar[float] = 5e-9
    defaults: ClassVar[dict[str, Value]] = {
        "max_depth": 24,
        "max_leaf_nodes": 512,
        "min_samples_leaf": 5,
        "ccp_alpha": 1e-7,
        "criterion": "gini",
    }

    def views(self, facts: Facts) -> Sequence[View]:
        return tree_views(facts)

    def space(self, facts: Facts) -> Space:
        space: Space = {
            "max_depth": Int(1, 24, log=True),
            "max_leaf_nodes": Int(2, 4096, log=True),
            "min_samples_leaf": Int(1, 256, log=True),
            "ccp_alpha": Float(1e-7, 1e-2, log=True),
        }
        if facts.task != "regression":
            space["criterion"] = Choice(("gini", "entropy"))
        return space

    def starts(self, facts: Facts) -> Sequence[dict[str, Value]]:
        points: list[dict[str, Value]] = [
            {"max_depth": 3, "max_leaf_nodes": 8},
            {"max_depth": 6, "max_leaf_nodes": 64},
            {"max_depth": 12, "max_leaf_nodes": 512, "min_samples_leaf": 10},
            {"max_depth": 24, "max_leaf_nodes": 4096, "min_samples_leaf": 3, "ccp_alpha": 1e-5},
        ]
        names = self.space(facts)
        return by_cost(
            self, [{k: v for k, v in {**self.defaults, **point}.items() if k in names} for point in points], facts
        )

    def cost(self, params: Params, rows: int, columns: int, classes: int) -> dict[str, float]:
        leaves = self.capacity(params, rows)
        return {
            "1": 1.5e5,
            "n d depth": 0.85 * rows * columns * math.log2(1 + leaves) * math.log2(2 + rows),
            "L": 250.0 * leaves,
        }

    def capacity(self, params: Params, rows: int) -> float:
        p = {**self.defaults, **params}
        most = min(float(p["max_leaf_nodes"]), float(2.0 ** float(p["max_depth"])))
        return min(most, 1 + rows / float(p["min_samples_leaf"]))

    def build(
        self, params: Params, task: str, hardware: Hardware, seed: int, categorical: Sequence[int] = ()
    ) -> SklearnTrees:
        options = {**self.defaults, **params, "random_state": seed}
        if task == "regression":
            options["criterion"] = "squared_error"
        return SklearnTrees(
            "DecisionTreeRegressor" if task == "regression" else "DecisionTreeClassifier", options, task
        )

    def to_onnx(self, model: SklearnTrees, graph: Graph, x: str) -> str:
        trees, constants = flatten(model)
        return write(graph, x, trees, trees.values.shape[1], constants)
