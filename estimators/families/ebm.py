"""Explainable boosting (InterpretML): a sum of curves, one of each column, and of a few surfaces of two columns."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..boosting import write_boosted
from ..encoder import View
from ..errors import ArtifactError
from ..family import Facts, Family, Params
from ..graph import Graph
from ..hardware import Hardware
from ..space import Choice, Float, Int, Space, Value
from ..trees import Trees
from .tree import CLASSES, by_cost

NEVER = -1e3
"""The margin of a class without a training row: its probability is 0 in float32."""
LINKS = {"binary": "logit", "multiclass": "mlogit", "regression": "identity"}
PAIR_COLUMNS = 50
"""Pairs are looked for in the starts of tables up to this width: ranking them takes time as its square."""


class Additive:
    """An explainable boosting machine. `params` are InterpretML's own; it averages "outer_bags" fits, made in threads.

    Each stops early on an inner slice of its rows. A regression's y is standardised. `present` are the class codes with a
    row; where there is only one, there is no model.
    """

    def __init__(self, params: Mapping[str, Any], task: str, categorical: Sequence[int]) -> None:
        self.params, self.task, self.categorical = dict(params), task, list(categorical)
        self.shift, self.scale = 0.0, 1.0

    def fit(self, X: Any, y: NDArray[Any], sample_weight: NDArray[np.float64] | None = None) -> Additive:
        from interpret.glassbox import ExplainableBoostingClassifier, ExplainableBoostingRegressor
        from joblib import parallel_config

        self.classes = 0 if self.task == "regression" else max(CLASSES[self.task], int(y.max()) + 1)
        self.present = np.unique(y) if self.classes else np.zeros(1, np.int64)
        self.model = None
        if self.task == "regression":
            self.shift = float(np.mean(y))
            self.scale = float(np.std(y)) or 1.0
            y = (y - self.shift) / self.scale
        elif len(self.present) < 2:
            return self
        maker = ExplainableBoostingRegressor if self.task == "regression" else ExplainableBoostingClassifier
        types = ["nominal" if column in self.categorical else "continuous" for column in range(X.shape[1])]
        with warnings.catch_warnings(), parallel_config(backend="threading"):
            warnings.simplefilter("ignore")  # what its plots do not show
            self.model = maker(feature_types=types, **self.params).fit(X, y, sample_weight=sample_weight)
        return self

    def predict(self, X: Any) -> NDArray[np.float64]:
        assert self.model is not None
        return np.asarray(self.model.predict(X), np.float64) * self.scale + self.shift

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        found = np.zeros((X.shape[0], self.classes))
        found[:, self.present] = 1.0 if self.model is None else self.model.predict_proba(X)
        return found


@dataclass(frozen=True)
class _Axis:
    """How one column of a term is cut: slot i holds x <= cuts[i], the last one all above; `bins` are their score rows."""

    feature: int
    cuts: NDArray[np.float64]
    bins: NDArray[np.int64]


@dataclass
class _Growing:
    """The arrays of one tree while it grows, as `Trees` wants them."""

    feature: list[int] = field(default_factory=list)
    threshold: list[float] = field(default_factory=list)
    missing: list[bool] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    right: list[int] = field(default_factory=list)
    values: list[NDArray[np.float64]] = field(default_factory=list)

    def leaf(self, value: NDArray[np.float64]) -> int:
        self.values.append(value)
        return -len(self.values)

    def split(self, feature: int, threshold: float, missing_left: bool) -> int:
        """A node whose children are set when they are there."""
        self.feature.append(feature)
        self.threshold.append(threshold)
        self.missing.append(missing_left)
        self.left.append(0)
        self.right.append(0)
        return len(self.feature) - 1

    def term(self, scores: NDArray[np.float64], axes: Sequence[_Axis]) -> int:
        """The number of the root of a tree for `scores` (rows of the first axis, of the second, ..., outputs)."""
        if not axes:
            return self.leaf(scores)
        axis, missing, slots = axes[0], scores[0], scores[axes[0].bins]
        differs = np.flatnonzero((slots[1:] != slots[:-1]).any(axis=tuple(range(1, slots.ndim))))
        cuts, slots = axis.cuts[differs], slots[np.append(differs, len(slots) - 1)]
        if np.array_equal(missing, slots[0]) or np.array_equal(missing, slots[-1]):
            return self.halves(axis.feature, cuts, slots, axes[1:], np.array_equal(missing, slots[0]))
        root = self.split(axis.feature, -np.inf, True)
        self.left[root] = self.term(missing, axes[1:])
        self.right[root] = self.halves(axis.feature, cuts, slots, axes[1:], False)
        return root

    def halves(
        self, feature: int, cuts: NDArray[np.float64], slots: NDArray[np.float64], rest: Sequence[_Axis], first: bool
    ) -> int:
        """A balanced tree over the slots of one column; a missing value goes to the `first` slot or to the last."""
        if not len(cuts):
            return self.term(slots[0], rest)
        middle = len(cuts) // 2
        node = self.split(feature, float(cuts[middle]), first)
        self.left[node] = self.halves(feature, cuts[:middle], slots[: middle + 1], rest, first)
        self.right[node] = self.halves(feature, cuts[middle + 1 :], slots[middle + 1 :], rest, first)
        return node


def _axis(model: Any, feature: int, level: int, rows: int) -> _Axis:
    """The cuts of a column in terms of `level` columns, which have `rows` score rows: the first for missing, the last for unknown.

    A number is in bin i where cuts[i - 1] <= x < cuts[i]. A category code is in the bin of its text, or in the unknown's.
    """
    known = model.bins_[feature][min(level, len(model.bins_[feature])) - 1]
    if not isinstance(known, dict):
        cuts = np.asarray(np.nextafter(np.asarray(known, np.float64), -np.inf))
        return _Axis(feature, cuts, np.arange(1, len(cuts) + 2))
    of_code = {int(float(text)): number for text, number in known.items()}
    codes = np.arange(min(of_code, default=0), max(of_code, default=0) + 1)
    inner = [of_code.get(int(code), rows - 1) for code in codes]
    cuts = np.asarray(np.append(codes, codes[-1:] + 1) - 0.5, np.float64)
    return _Axis(feature, cuts, np.array([rows - 1, *inner, rows - 1]))


def parse(model: Additive) -> tuple[Trees, NDArray[np.float64]]:
    """Every term as one tree whose leaves are its bins, neighbours with the same score merged, and the constants to add.

    Raises ArtifactError for a link that our graph doesn't carry.
    """
    width = 1 if model.task != "multiclass" else model.classes
    constants = np.full(width, 0.0 if model.task == "regression" else NEVER)
    if model.model is None:
        constants[model.present if width > 1 else 0] = 0.0 if width > 1 else NEVER * (1 - 2 * float(model.present[0]))
        none = np.empty(0, np.int64)
        return Trees(none, none, np.empty(0), np.empty(0, np.bool_), none, none, np.empty((0, width))), constants
    fitted, several = model.model, np.ndim(model.model.intercept_) == 1 and len(model.model.intercept_) > 1
    if fitted.link_ not in LINKS.values():
        raise ArtifactError(f"an explainable boosting machine with the link {fitted.link_!r} cannot be exported")
    constants[model.present if width > 1 else 0] = 0.0
    outputs = np.array(model.present if several else model.present[-1:] if width > 1 else [0])
    constants[outputs] = np.ravel(fitted.intercept_) * model.scale
    grown, values = [], []
    for columns, scores in zip(fitted.term_features_, fitted.term_scores_, strict=True):
        tree = _Growing()
        tree.term(
            scores if several else scores[..., None],
            [_axis(fitted, column, len(columns), scores.shape[i]) for i, column in enumerate(columns)],
        )
        grown.append(tree)
        values += tree.values
    wide = np.zeros((len(values), width))
    wide[:, outputs] = np.array(values) * model.scale
    trees = Trees(
        sizes=np.array([len(tree.feature) for tree in grown]),
        feature=np.array([number for tree in grown for number in tree.feature], np.int64),
        threshold=np.array([number for tree in grown for number in tree.threshold], np.float64),
        missing_left=np.array([number for tree in grown for number in tree.missing], np.bool_),
        left=np.array([number for tree in grown for number in tree.left], np.int64),
        right=np.array([number for tree in grown for number in tree.right], np.int64),
        values=wide,
    )
    return trees, constants + model.shift


class EBM(Family):
    """Explainable boosting machine (Lou et al. 2013; InterpretML: Nori et al. 2019): curves of one column, surfaces of two.

    The starts are the defaults of InterpretML and smaller ones. Unlike the other boosted models it averages fits on
    different parts of the rows, so that a final fit keeps its early stopping.
    """

    name: ClassVar[str] = "ebm"
    needs: ClassVar[str | None] = "interpret"
    optional: ClassVar[bool] = True
    sparse: ClassVar[bool] = False
    parallel: ClassVar[bool] = True
    order: ClassVar[int] = 66
    seconds_per_unit: ClassVar[float] = 1e-9
    defaults: ClassVar[dict[str, Value]] = {
        "max_rounds": 1000,
        "learning_rate": 0.04,
        "outer_bags": 4,
        "interactions": 0,
        "max_bins": 256,
        "max_leaves": 2,
        "min_samples_leaf": 4,
        "smoothing_rounds": 75,
        "greedy_ratio": 10.0,
    }

    def views(self, facts: Facts) -> Sequence[View]:
        return (View(), View(categories="target")) if facts.categorical else (View(),)

    def space(self, facts: Facts) -> Space:
        return {
            "max_rounds": Int(20, 10_000, log=True),
            "learning_rate": Float(5e-3, 0.5, log=True),
            "outer_bags": Int(1, 14, log=True),
            "interactions": Int(0, 30),
            "max_bins": Choice((32, 256, 1024)),
            "max_leaves": Int(2, 5),
            "min_samples_leaf": Int(2, 64, log=True),
            "smoothing_rounds": Int(0, 500),
            "greedy_ratio": Float(0.0, 10.0),
        }

    def starts(self, facts: Facts) -> Sequence[dict[str, Value]]:
        """Own corners and InterpretML's defaults, with as many pairs as the table is narrow enough for."""
        pairs = min(10, facts.columns) if facts.columns <= PAIR_COLUMNS else 0
        rate, smooth = (0.04, 500) if facts.task == "regression" else (0.015, 75)
        points: list[dict[str, Value]] = [
            {"max_rounds": 50, "learning_rate": 0.3, "outer_bags": 1, "max_bins": 32, "smoothing_rounds": 0},
            {"max_rounds": 300, "learning_rate": 0.1, "outer_bags": 2, "smoothing_rounds": 25},
            {"max_rounds": 1000, "interactions": pairs, "smoothing_rounds": smooth},
            {
                "max_rounds": 10_000,
                "learning_rate": rate,
                "outer_bags": 14,
                "interactions": pairs,
                "max_bins": 1024,
                "smoothing_rounds": smooth,
            },
        ]
        return by_cost(self, [{**self.defaults, **point} for point in points], facts)

    def cost(self, params: Params, rows: int, columns: int, classes: int) -> dict[str, float]:
        p = {**self.defaults, **params}
        bags, width = float(p["outer_bags"]), float(classes if classes > 2 else 1)
        pairs = min(float(p["interactions"]), columns * (columns - 1) / 2)
        # early stopping ends most fits some 20 / rate rounds after the smoothing
        rounds = min(float(p["max_rounds"]), 100.0 + float(p["smoothing_rounds"]) + 20.0 / float(p["learning_rate"]))
        steps = bags * rounds * (columns + 3.0 * pairs)
        ranked = bags * columns**2 / 2 if pairs else 0.0
        return {
            "n d": 3e3 * rows * columns + 2e7,
            "B R d": 4e4 * steps,
            "B R d n": 3.0 * steps * rows * width,
            "B n d^2": ranked * (5.0 * rows * width + 1.5e5),
        }

    def build(
        self, params: Params, task: str, hardware: Hardware, seed: int, categorical: Sequence[int] = ()
    ) -> Additive:
        options = {**self.defaults, **params, "n_jobs": hardware.threads, "random_state": seed}
        return Additive(options, task, categorical)

    def to_onnx(self, model: Additive, graph: Graph, x: str) -> str:
        trees, constants = parse(model)
        return write_boosted(graph, x, trees, constants, model.task)
