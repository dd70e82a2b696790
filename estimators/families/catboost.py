"""Gradient boosted trees (CatBoost), symmetric by default: every node of a level asks the same question."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
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

OBJECTIVES = {"binary": "Logloss", "multiclass": "MultiClass", "regression": "RMSE"}
NO_COLUMN = "All features are either constant or ignored"
"""What CatBoost's error says where nothing can be split."""


class CatBoosted:
    """A CatBoost model. `params` are CatBoost's own; `stopping` says whether it stops early on an inner slice of its rows.

    Boosting begins at the shares of the classes (`constants`, given as a baseline), and a regression's y is standardised:
    CatBoost keeps labels as float32. `iterations` is how many rounds it kept, `present` the outputs that it has trees for:
    all, but for the classes of a multiclass task without a row, which it refuses.
    """

    def __init__(self, params: Mapping[str, Any], iterations: int, task: str, stopping: bool) -> None:
        self.params, self.task, self.stopping = dict(params), task, stopping
        self.iterations = iterations
        self.shift, self.scale = 0.0, 1.0

    def fit(self, X: Any, y: NDArray[Any], sample_weight: NDArray[np.float64] | None = None) -> CatBoosted:
        catboost: Any = import_module("catboost")  # by its name: this file has the same

        params = {**self.params, "iterations": self.iterations}
        self.classes = 0 if self.task == "regression" else max(CLASSES[self.task], int(y.max()) + 1)
        if self.task == "regression":
            self.shift = float(np.mean(y))
            self.scale = float(np.std(y)) or 1.0
            y = (y - self.shift) / self.scale
        self.constants = intercepts(y, self.task, self.classes, sample_weight)
        self.present = np.arange(len(self.constants))
        if self.task == "multiclass":
            self.present, y = np.unique(y, return_inverse=True)
        if self.task != "regression":
            params["class_names"] = list(range(max(2, len(self.present))))
        if len(self.present) < 2 and self.task == "multiclass":
            self.iterations = 0  # there is nothing to tell apart
            return self
        held = inner_slice(y, self.task, params["random_seed"]) if self.stopping else None

        def pool(rows: Any) -> Any:
            labels, weights = y[rows], None if sample_weight is None else sample_weight[rows]
            baseline = np.tile(self.constants[self.present], (len(labels), 1))
            return catboost.Pool(X if rows is ... else X[rows], labels, weight=weights, baseline=baseline)

        self.model = catboost.CatBoost(params)
        try:
            if held is None:
                self.model.fit(pool(...))
            else:
                self.model.fit(
                    pool(~held), eval_set=pool(held), early_stopping_rounds=patience(len(y), self.iterations)
                )
            self.iterations = int(self.model.tree_count_)
        except catboost.CatBoostError as error:
            if NO_COLUMN not in str(error):
                raise
            self.iterations = 0
        return self

    def _raw(self, X: Any) -> NDArray[np.float64]:
        """(n, outputs) margins."""
        total = np.tile(self.constants, (X.shape[0], 1))
        if self.iterations and X.shape[0]:
            threads = self.params["thread_count"]
            found = self.model.predict(X, prediction_type="RawFormulaVal", thread_count=threads)
            total[:, self.present] += np.asarray(found).reshape(len(total), -1)
        return total

    def predict(self, X: Any) -> NDArray[np.float64]:
        return self._raw(X)[:, 0] * self.scale + self.shift

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        return probabilities(self._raw(X))


def parse(model: CatBoosted) -> tuple[Trees, NDArray[np.float64]]:
    """The trees of the model, read from its saved JSON, and constants (one per output) to add to their sum.

    A row goes right at x > border; a missing value never does (nan_mode "Min", the only one that a model here has). Raises
    ArtifactError for models that our graph doesn't carry (CatBoost's own category statistics, the other nan_mode).
    """
    constants = model.constants * model.scale + model.shift
    if not model.iterations:
        none = np.empty(0, np.int64)
        return Trees(none, none, np.empty(0), np.empty(0, np.bool_), none, none, np.empty((0, 1))), constants
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.json"
        model.model.save_model(str(path), format="json")
        saved = json.loads(path.read_text())
    features = saved["features_info"]
    if features.get("categorical_features") or features.get("ctrs"):
        raise ArtifactError("CatBoost's own category statistics cannot be exported: give it encoded categories")
    if any(feature["nan_value_treatment"] == "AsTrue" for feature in features["float_features"]):
        raise ArtifactError("CatBoost's nan_mode 'Max' cannot be exported")
    scale, bias = saved["scale_and_bias"]
    columns = np.array([feature["flat_feature_index"] for feature in features["float_features"]])
    if "oblivious_trees" in saved:
        parts = [_symmetric(tree, len(model.present)) for tree in saved["oblivious_trees"]]
    else:
        parts = [_flatten_one(tree) for tree in saved["trees"]]
    sizes, feature, threshold, left, right, values = zip(*parts, strict=True)
    leaves = np.concatenate(values)
    wide = np.zeros((len(leaves), len(model.constants)))
    wide[:, model.present] = leaves * scale * model.scale
    constants[model.present] += np.array(bias) * model.scale
    splits = np.concatenate(threshold).astype(np.float32).astype(np.float64)  # the text may be a rounded double
    trees = Trees(
        sizes=np.array(sizes),
        feature=columns[np.concatenate(feature).astype(np.int64)],
        threshold=splits,
        missing_left=np.ones(len(splits), np.bool_),
        left=np.concatenate(left).astype(np.int64),
        right=np.concatenate(right).astype(np.int64),
        values=wide,
    )
    return trees, constants


def _symmetric(tree: Mapping[str, Any], width: int) -> tuple[Any, ...]:
    """A tree whose level l asks one question: bit i of a leaf's number is the answer to question i; the last one is the root."""
    questions = (tree["splits"] or [])[::-1]
    depth = len(questions)
    level = np.repeat(np.arange(depth), 2 ** np.arange(depth))
    inner = 2**depth - 1
    children = 2 * np.arange(inner)[:, None] + np.array([1, 2])  # nodes in the order of a heap, the leaves behind them
    children = np.where(children < inner, children, inner - 1 - children)
    return (
        inner,
        np.array([question["float_feature_index"] for question in questions])[level],
        np.array([question["border"] for question in questions])[level],
        children[:, 0],
        children[:, 1],
        np.array(tree["leaf_values"], np.float64).reshape(-1, width),
    )


def _flatten_one(tree: Mapping[str, Any]) -> tuple[Any, ...]:
    """A tree of nested nodes (grow_policy "Depthwise"), its splits and its leaves numbered as they are met."""
    feature: list[int] = []
    border: list[float] = []
    left: list[int] = []
    right: list[int] = []
    values: list[Any] = []

    def visit(node: Mapping[str, Any]) -> int:
        if "value" in node:
            values.append(np.ravel(node["value"]))
            return -len(values)
        number = len(feature)
        feature.append(node["split"]["float_feature_index"])
        border.append(node["split"]["border"])
        left.append(0)
        right.append(0)
        left[number], right[number] = visit(node["left"]), visit(node["right"])
        return number

    visit(tree)
    return len(feature), np.array(feature), np.array(border), np.array(left), np.array(right), np.array(values)


class CatBoost(Family):
    """Gradient boosted trees (CatBoost: Prokhorenkova et al. 2018), symmetric or grown by levels.

    The ranges are those of TabArena (arXiv 2506.16791), with small, fast ends inside them. Categories come encoded, as target
    means by default: CatBoost's own statistics of categories cannot be exported.
    """

    name: ClassVar[str] = "catboost"
    needs: ClassVar[str | None] = "catboost"
    optional: ClassVar[bool] = True
    parallel: ClassVar[bool] = True
    order: ClassVar[int] = 64
    iterations: ClassVar[str | None] = "n_estimators"
    copies: ClassVar[float] = 1.5
    seconds_per_unit: ClassVar[float] = 1e-9
    defaults: ClassVar[dict[str, Value]] = {
        "n_estimators": 150,
        "learning_rate": 0.1,
        "depth": 6,
        "grow_policy": "SymmetricTree",
        "l2_leaf_reg": 3.0,
        "leaf_estimation_iterations": 1,
        "subsample": 0.8,
        "rsm": 1.0,
        "random_strength": 1.0,
        "max_bin": 254,
        "early_stopping": False,
    }

    def views(self, facts: Facts) -> Sequence[View]:
        if not facts.categorical:
            return (View(),)
        return View(categories="target"), View(), View(categories="onehot")

    def space(self, facts: Facts) -> Space:
        return {
            "n_estimators": Int(5, 2000, log=True),
            "learning_rate": Float(5e-3, 0.5, log=True),
            "depth": Int(1, 9),
            "grow_policy": Choice(("SymmetricTree", "Depthwise")),
            "l2_leaf_reg": Float(1e-5, 10.0, log=True),
            "leaf_estimation_iterations": Int(1, 20, log=True),
            "subsample": Float(0.7, 1.0),
            "rsm": Float(0.5, 1.0),
            "random_strength": Float(0.0, 1.0),
            "max_bin": Choice((32, 128, 254)),
            "early_stopping": Choice((False, True)),
        }

    def starts(self, facts: Facts) -> Sequence[dict[str, Value]]:
        """Own corners, pytabkit's TD short and full, and one of AutoGluon's portfolio.

        The last two get as many rounds as fit in a tenth of the budget, and a rate of at least 15 or 20 over their number.
        """
        td = TD_REGRESSION if facts.task == "regression" else TD
        short, full = affordable_rounds(self, facts, td, 40, 150), affordable_rounds(self, facts, td, 150, 1000)
        late: dict[str, Value] = {"n_estimators": full, "early_stopping": True}
        points: list[dict[str, Value]] = [
            {"n_estimators": 15, "learning_rate": 0.5, "depth": 3},
            {"n_estimators": 60, "learning_rate": 0.25},
            {**td, "n_estimators": short, "learning_rate": min(0.3, 15 / short)},
            {**td, **late, "learning_rate": max(float(td["learning_rate"]), 20 / full)},
            {**R91, **late, "learning_rate": max(float(R91["learning_rate"]), 15 / full)},
        ]
        return by_cost(self, [{**self.defaults, **point} for point in points], facts)

    def cost(self, params: Params, rows: int, columns: int, classes: int) -> dict[str, float]:
        p = {**self.defaults, **params}
        trees, width = float(p["n_estimators"]), float(classes if classes > 2 else 1)
        by_level = p["grow_policy"] == "Depthwise"
        leaves = 2 * min(2.0 ** float(p["depth"]), float(rows)) if by_level else 2.0 ** float(p["depth"])
        tried = max(1.0, columns * float(p["rsm"]))
        bins = min(float(p["max_bin"]), rows / 3) / 254
        steps = float(p["leaf_estimation_iterations"])
        return {
            "n d": 60.0 * rows * columns + 5e6,
            "T": 1.3e5 * trees,
            "T L d": 1200.0 * trees * leaves * tried * bins * width,
            "T n": 8.0 * trees * rows * width * (1.0 + steps),
            "T n d depth": 1.6 * trees * rows * tried * float(p["depth"]) * width,
        }

    def capacity(self, params: Params, rows: int) -> float:
        p = {**self.defaults, **params}
        full = float(2.0 ** float(p["depth"]))  # an oblivious tree keeps its empty leaves
        return float(p["n_estimators"]) * (min(full, float(rows)) if p["grow_policy"] == "Depthwise" else full)

    def build(
        self, params: Params, task: str, hardware: Hardware, seed: int, categorical: Sequence[int] = ()
    ) -> CatBoosted:
        p = {**self.defaults, **params}
        iterations, stopping = int(p.pop("n_estimators")), bool(p.pop("early_stopping"))
        options: dict[str, Any] = {
            **p,
            "loss_function": OBJECTIVES[task],
            "boosting_type": "Plain",
            "bootstrap_type": "Bernoulli",
            "boost_from_average": False,  # the baseline is all that boosting begins from
            "nan_mode": "Min",
            "allow_const_label": True,
            "allow_writing_files": False,
            "logging_level": "Silent",
            "thread_count": hardware.threads,
            "random_seed": seed,
        }
        return CatBoosted(options, iterations, task, stopping)

    def refit_params(self, params: Params, model: CatBoosted, rows_ratio: float) -> dict[str, Value]:
        stops = bool(params.get("early_stopping", self.defaults["early_stopping"]))
        return refit_rounds(params, stops, model.iterations, rows_ratio)

    def to_onnx(self, model: CatBoosted, graph: Graph, x: str) -> str:
        trees, constants = parse(model)
        return write_boosted(graph, x, trees, constants, model.task)


TD: dict[str, Value] = {
    "learning_rate": 0.08,
    "depth": 7,
    "l2_leaf_reg": 1e-5,
    "subsample": 0.9,
    "random_strength": 0.8,
}
"""pytabkit's meta-tuned defaults for classification; below those for regression (arXiv 2407.04491)."""
TD_REGRESSION: dict[str, Value] = {
    "learning_rate": 0.09,
    "depth": 9,
    "l2_leaf_reg": 1e-5,
    "subsample": 0.9,
    "random_strength": 0.0,
    "leaf_estimation_iterations": 20,
}
R91: dict[str, Value] = {
    "rsm": 0.8959,
    "depth": 4,
    "l2_leaf_reg": 0.002692,
    "leaf_estimation_iterations": 12,
    "learning_rate": 0.04752,
    "subsample": 0.7986,
}
"""AutoGluon `zeroshot_portfolio_2025`, r91."""
