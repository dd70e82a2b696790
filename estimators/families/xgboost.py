"""Gradient boosted trees (XGBoost, booster "gbtree" on histograms), with its native category splits and missing values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..boosting import affordable_rounds, inner_slice, intercepts, patience, probabilities, refit_rounds, write_boosted
from ..encoder import View
from ..errors import ArtifactError
from ..family import Facts, Family, Params
from ..graph import Graph
from ..hardware import Hardware
from ..space import Choice, Float, Int, Space, Value
from ..trees import Trees
from .tree import CLASSES, by_cost

OBJECTIVES = {"binary": "binary:logistic", "multiclass": "multi:softprob", "regression": "reg:squarederror"}
METRICS = {"binary": "logloss", "multiclass": "mlogloss", "regression": "rmse"}
CATEGORY_PARAMS = ("max_cat_to_onehot", "max_cat_threshold")
BLOCK = 2048
"""XGBoost deals the rows of a split to its threads in blocks of so many (its kPartitionBlockSize): on fewer rows a second
thread mostly waits, on a busy machine for a hundred times as long as the work takes."""
CHUNK = 50
"""XGBoost adds trees up in float32: predictions are sums, in float64, over so many rounds each."""


class XGBoosted:
    """An XGBoost booster. `params` are XGBoost's own; `stopping` says whether it stops early on an inner slice of its rows.

    Boosting begins at the shares of the classes (`constants`, given as a base margin), and a regression's y is standardised:
    XGBoost keeps labels, margins and their sums as float32. `iterations` is what prediction and export use.
    """

    def __init__(
        self, params: Mapping[str, Any], iterations: int, task: str, stopping: bool, categorical: Sequence[int]
    ) -> None:
        self.params, self.task, self.stopping, self.categorical = dict(params), task, stopping, list(categorical)
        self.iterations = iterations
        self.shift, self.scale = 0.0, 1.0

    def fit(self, X: Any, y: NDArray[Any], sample_weight: NDArray[np.float64] | None = None) -> XGBoosted:
        xgboost: Any = import_module("xgboost")  # by its name: this file has the same

        X = self._without_negative(X)
        params = {**self.params, "nthread": max(1, min(int(self.params["nthread"]), X.shape[0] // BLOCK))}
        self.classes = 0 if self.task == "regression" else max(CLASSES[self.task], int(y.max()) + 1)
        if self.task == "multiclass":
            params["num_class"] = self.classes
        if self.task == "regression":
            self.shift = float(np.mean(y))
            self.scale = float(np.std(y)) or 1.0
            y = (y - self.shift) / self.scale
        self.constants = intercepts(y, self.task, self.classes, sample_weight)
        types = ["c" if column in self.categorical else "q" for column in range(X.shape[1])]
        held = inner_slice(y, self.task, params["seed"]) if self.stopping else None

        def matrix(rows: Any, reference: Any = None) -> Any:
            weights = None if sample_weight is None else sample_weight[rows]
            labels = y[rows]
            return xgboost.QuantileDMatrix(
                X if rows is ... else X[rows],
                labels,
                weight=weights,
                base_margin=np.tile(self.constants, (len(labels), 1)),
                feature_types=types,
                enable_categorical=True,
                nthread=params["nthread"],
                max_bin=params["max_bin"],
                ref=reference,
            )

        if held is None:
            self.booster = xgboost.train(params, matrix(...), self.iterations)
            return self
        data = matrix(~held)
        self.booster = xgboost.train(
            params,
            data,
            self.iterations,
            evals=[(matrix(held, data), "held")],
            early_stopping_rounds=patience(len(y), self.iterations),
            verbose_eval=False,
        )
        self.iterations = self.booster.best_iteration + 1
        return self

    def _raw(self, X: Any) -> NDArray[np.float64]:
        """(n, outputs) margins."""
        X = self._without_negative(X)
        total = np.tile(self.constants, (X.shape[0], 1))
        for first in range(0, self.iterations, CHUNK):
            rounds = (first, min(first + CHUNK, self.iterations))
            some = self.booster.inplace_predict(X, iteration_range=rounds, predict_type="margin")
            total += some.reshape(total.shape)
        return total

    def _without_negative(self, X: Any) -> Any:
        """X with NaN for the category code -1, which XGBoost refuses."""
        negative = [column for column in self.categorical if (X[:, column] == -1).any()]
        if negative:
            X = X.copy()
        for column in negative:
            X[X[:, column] == -1, column] = np.nan
        return X

    def predict(self, X: Any) -> NDArray[np.float64]:
        return self._raw(X)[:, 0] * self.scale + self.shift

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        return probabilities(self._raw(X))


def parse(model: XGBoosted) -> tuple[Trees, NDArray[np.float64]]:
    """The trees of the booster, read from its saved JSON, and constants (one per output) to add to their sum.

    Raises ArtifactError for boosters that our graph doesn't carry (linear ones, DART's weighted trees).
    """
    booster = json.loads(bytes(model.booster.save_raw("json")))["learner"]["gradient_booster"]
    if booster["name"] != "gbtree":
        raise ArtifactError(f"only XGBoost's booster 'gbtree' can be exported, this one is {booster['name']!r}")
    width = len(model.constants)
    kept = slice(model.iterations * width)
    parts = [_flatten_one(tree) for tree in booster["model"]["trees"][kept]]
    sizes, feature, threshold, missing, left, right, values, counts, members = zip(*parts, strict=True)
    sets = np.concatenate(counts)
    value = np.concatenate(values)
    trees = Trees(
        sizes=np.array(sizes),
        feature=np.concatenate(feature),
        threshold=np.concatenate(threshold),
        missing_left=np.concatenate(missing),
        left=np.concatenate(left),
        right=np.concatenate(right),
        values=(value * model.scale)[:, None],
        targets=np.repeat(np.array(booster["model"]["tree_info"][kept]), np.array(sizes) + 1),
        counts=sets if sets.any() else None,
        members=np.concatenate(members),
    )
    return trees, model.constants * model.scale + model.shift


def _flatten_one(tree: Mapping[str, Any]) -> tuple[Any, ...]:
    """One tree as `Trees` wants it: a number goes left at x < t, which is x <= the float32 below t.

    A category goes right where it is in the split's set, and a missing one (-1 in our matrix, NaN in XGBoost's) the default
    way: here the two children change places, and -1 is in the set where it goes with it.
    """
    left, right = np.array(tree["left_children"], np.int64), np.array(tree["right_children"], np.int64)
    leaf, split = left < 0, left >= 0
    number = np.where(
        leaf, -np.cumsum(leaf, dtype=np.int64), np.cumsum(split) - 1
    )  # of splits 0, 1, ..., of leaves -1, -2, ...
    conditions = np.array(tree["split_conditions"], np.float32)
    missing = np.array(tree["default_left"], np.int64) == 1
    sets = np.array(tree["split_type"]) == 1
    counts = np.zeros(len(leaf), np.int64)
    holders, first = np.array(tree["categories_nodes"], np.int64), np.array(tree["categories_segments"], np.int64)
    counts[holders] = np.array(tree["categories_sizes"], np.int64) + np.logical_not(missing[holders])
    members = np.insert(np.array(tree["categories"], np.int64), first[np.logical_not(missing[holders])], -1)
    left, right = np.where(sets, right, left), np.where(sets, left, right)
    return (
        int(split.sum()),
        np.array(tree["split_indices"], np.int64)[split],
        np.nextafter(conditions[split], np.float32(-np.inf)).astype(np.float64),
        (missing != sets)[split],
        number[left[split]],
        number[right[split]],
        conditions[leaf].astype(np.float64),
        counts[split],
        members,
    )


class XGBoost(Family):
    """Gradient boosted trees (XGBoost: Chen and Guestrin 2016), with native categories and missing values.

    The ranges are those of TabArena (arXiv 2506.16791), with XGBoost's own defaults and small, fast ends inside them. A sparse
    table is made dense: XGBoost reads an absent cell as missing, not as zero.
    """

    name: ClassVar[str] = "xgboost"
    needs: ClassVar[str | None] = "xgboost"
    optional: ClassVar[bool] = True
    sparse: ClassVar[bool] = False
    parallel: ClassVar[bool] = True
    order: ClassVar[int] = 62
    iterations: ClassVar[str | None] = "n_estimators"
    copies: ClassVar[float] = 1.5
    seconds_per_unit: ClassVar[float] = 1e-9
    defaults: ClassVar[dict[str, Value]] = {
        "n_estimators": 100,
        "learning_rate": 0.3,
        "max_depth": 6,
        "max_leaves": 1024,
        "grow_policy": "depthwise",
        "min_child_weight": 1.0,
        "subsample": 1.0,
        "colsample_bylevel": 1.0,
        "colsample_bynode": 1.0,
        "reg_alpha": 1e-4,
        "reg_lambda": 1.0,
        "max_bin": 256,
        "early_stopping": False,
        "max_cat_to_onehot": 4,
        "max_cat_threshold": 64,
    }

    def views(self, facts: Facts) -> Sequence[View]:
        return (View(), View(categories="target")) if facts.categorical else (View(),)

    def space(self, facts: Facts) -> Space:
        space: Space = {
            "n_estimators": Int(5, 2000, log=True),
            "learning_rate": Float(5e-3, 0.5, log=True),
            "max_depth": Int(1, 10, log=True),
            "max_leaves": Int(2, 1024, log=True),
            "grow_policy": Choice(("depthwise", "lossguide")),
            "min_child_weight": Float(5e-6, 64.0, log=True),
            "subsample": Float(0.5, 1.0),
            "colsample_bylevel": Float(0.5, 1.0),
            "colsample_bynode": Float(0.5, 1.0),
            "reg_alpha": Float(1e-4, 5.0, log=True),
            "reg_lambda": Float(1e-4, 5.0, log=True),
            "max_bin": Choice((16, 64, 256)),
            "early_stopping": Choice((False, True)),
        }
        if facts.categorical:
            space["max_cat_to_onehot"] = Int(4, 100, log=True)
            space["max_cat_threshold"] = Int(16, 256, log=True)
        return space

    def starts(self, facts: Facts) -> Sequence[dict[str, Value]]:
        """Own corners, XGBoost's defaults, pytabkit's TD short and full, and one of AutoGluon's portfolio.

        The last two get as many rounds as fit in a tenth of the budget, and a rate of at least 15 or 20 over their number.
        """
        td = TD_REGRESSION if facts.task == "regression" else TD
        short, full = affordable_rounds(self, facts, td, 40, 150), affordable_rounds(self, facts, td, 150, 1000)
        late: dict[str, Value] = {"n_estimators": full, "early_stopping": True}
        points: list[dict[str, Value]] = [
            {"n_estimators": 10, "learning_rate": 0.5, "max_depth": 3},
            {},
            {**td, "n_estimators": short, "learning_rate": min(0.3, 15 / short)},
            {**td, **late, "learning_rate": max(float(td["learning_rate"]), 20 / full)},
            {**R40, **late, "learning_rate": max(float(R40["learning_rate"]), 15 / full)},
        ]
        names = self.space(facts)
        return by_cost(
            self, [{k: v for k, v in {**self.defaults, **point}.items() if k in names} for point in points], facts
        )

    def cost(self, params: Params, rows: int, columns: int, classes: int) -> dict[str, float]:
        p = {**self.defaults, **params}
        trees = float(p["n_estimators"]) * (classes if classes > 2 else 1)
        leaves = self.capacity(p, rows) / float(p["n_estimators"])
        tried = max(1.0, columns * float(p["colsample_bylevel"]) * float(p["colsample_bynode"]))
        bins = min(float(p["max_bin"]), rows / 3) / 256
        return {
            "n d": 90.0 * rows * columns + 3e6,
            "T": 4e4 * trees,
            "T L d": 1700.0 * trees * leaves * tried * bins,
            "T n": 40.0 * trees * rows,
            "T n d log L": 1.1 * trees * rows * float(p["subsample"]) * columns * math.log2(1 + leaves),
        }

    def capacity(self, params: Params, rows: int) -> float:
        p = {**self.defaults, **params}
        leaves = min(float(p["max_leaves"]), float(2.0 ** float(p["max_depth"])), rows / 4)
        return float(p["n_estimators"]) * max(1.0, leaves)

    def build(
        self, params: Params, task: str, hardware: Hardware, seed: int, categorical: Sequence[int] = ()
    ) -> XGBoosted:
        p = {**self.defaults, **params}
        iterations, stopping = int(p.pop("n_estimators")), bool(p.pop("early_stopping"))
        options: dict[str, Any] = {
            **{name: value for name, value in p.items() if categorical or name not in CATEGORY_PARAMS},
            "objective": OBJECTIVES[task],
            "eval_metric": METRICS[task],
            "tree_method": "hist",
            "base_score": 0.5 if task == "binary" else 0.0,  # a margin of 0: the base margin is all
            "nthread": hardware.threads,
            "seed": seed,
            "verbosity": 0,
        }
        return XGBoosted(options, iterations, task, stopping, categorical)

    def refit_params(self, params: Params, model: XGBoosted, rows_ratio: float) -> dict[str, Value]:
        stops = bool(params.get("early_stopping", self.defaults["early_stopping"]))
        return refit_rounds(params, stops, model.iterations, rows_ratio)

    def to_onnx(self, model: XGBoosted, graph: Graph, x: str) -> str:
        trees, constants = parse(model)
        return write_boosted(graph, x, trees, constants, model.task)


TD: dict[str, Value] = {
    "learning_rate": 0.08,
    "max_depth": 6,
    "min_child_weight": 5e-6,
    "reg_lambda": 1e-4,
    "subsample": 0.65,
    "colsample_bylevel": 0.9,
}
"""pytabkit's meta-tuned defaults for classification; below those for regression (arXiv 2407.04491)."""
TD_REGRESSION: dict[str, Value] = {
    "learning_rate": 0.05,
    "max_depth": 9,
    "min_child_weight": 2.0,
    "reg_lambda": 1e-4,
    "subsample": 0.7,
}
R40: dict[str, Value] = {
    "colsample_bylevel": 0.6377,
    "colsample_bynode": 0.9238,
    "grow_policy": "lossguide",
    "learning_rate": 0.01125,
    "max_cat_to_onehot": 33,
    "max_depth": 10,
    "max_leaves": 35,
    "min_child_weight": 0.1403,
    "reg_alpha": 3.496,
    "reg_lambda": 1.306,
    "subsample": 0.6949,
}
"""AutoGluon `zeroshot_portfolio_2025`, r40."""
