"""Gradient boosted trees (LightGBM, boosting "gbdt"), with its native category splits and missing values."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..boosting import inner_slice, patience, refit_rounds, write_boosted
from ..encoder import View
from ..errors import ArtifactError
from ..family import Facts, Family, Params
from ..graph import Graph
from ..hardware import Hardware
from ..prefix import count, halves, link
from ..space import Choice, Float, Int, Space, Value
from ..trees import Trees
from .tree import CLASSES, by_cost

OBJECTIVES = {"binary": "binary", "multiclass": "multiclass", "regression": "regression"}
METRICS = {"binary": "binary_logloss", "multiclass": "multi_logloss", "regression": "l2"}
CATEGORY_PARAMS = ("cat_smooth", "cat_l2", "max_cat_to_onehot", "min_data_per_group")
WIDE = 1_000
MOST_LEAVES = 1024
FASTEST = 0.3
"""No rate is raised beyond this where rounds are fewer."""
CACHED_LEAVES = 8_192
"""Rows go through so many leaves at a time, which a core's cache holds (about 50 bytes each): LightGBM takes every row through
all of its trees, of 1,043 with 128 leaves in twice as long (17,600 rows of 54 columns, one thread, tried once).
"""


class Boosted:
    """A LightGBM booster. `params` are LightGBM's own; `stopping` says whether it stops early on an inner slice of its rows.

    A regression's y is standardised before it is handed over: LightGBM keeps labels as float32, and its L1 penalty has the
    unit of y. `iterations` is what prediction and export use; `start` (k,) is where boosting starts from (the mean, or the
    classes' shares as log-odds or logarithms), `rescale` what the distance of the trees' sum from it is multiplied by.
    """

    def __init__(
        self, params: Mapping[str, Any], iterations: int, task: str, stopping: bool, categorical: Sequence[int]
    ) -> None:
        self.params, self.task, self.stopping, self.categorical = dict(params), task, stopping, list(categorical)
        self.iterations = iterations
        self.shift, self.scale, self.rescale = 0.0, 1.0, 1.0
        self.start = np.zeros(1)

    def fit(self, X: Any, y: NDArray[Any], sample_weight: NDArray[np.float64] | None = None) -> Boosted:
        lightgbm: Any = import_module("lightgbm")  # by its name: this file has the same

        X = _without_negative(X, self.categorical)
        params = {**self.params, **({"enable_bundle": False} if _full(X) else {})}
        self.classes = 0 if self.task == "regression" else max(CLASSES[self.task], int(y.max()) + 1)
        if self.task == "multiclass":
            params["num_class"] = self.classes
        if self.task == "regression":
            self.shift = float(np.mean(y))
            self.scale = float(np.std(y)) or 1.0
            y = (y - self.shift) / self.scale
        else:
            self.start = _log_shares(y, self.classes, sample_weight)
        held = inner_slice(y, self.task, params["seed"]) if self.stopping else None
        # otherwise the model is written as text and read back
        train = partial(lightgbm.train, keep_training_booster=True)

        def dataset(rows: Any, reference: Any = None) -> Any:
            weights = None if sample_weight is None else sample_weight[rows]
            inputs = X if rows is ... else X[rows]
            return lightgbm.Dataset(
                inputs, y[rows], reference, weights, params=params, categorical_feature=self.categorical
            )

        if held is None:
            self.booster = train(params, dataset(...), self.iterations)
        else:
            data, watch = dataset(~held), lightgbm.early_stopping(patience(len(y), self.iterations), verbose=False)
            self.booster = train(params, data, self.iterations, [dataset(held, data)], callbacks=[watch])
        self.iterations = self.booster.best_iteration if held is not None else self.booster.current_iteration()
        return self

    def _scores(self, X: Any) -> NDArray[np.float64]:
        """(n, k) log-odds (k = 1), logarithms of probabilities up to a constant (k classes) or values (k = 1)."""
        return self.center + self.rescale * next(self.staged(X, [self.iterations]))

    def predict(self, X: Any) -> NDArray[np.float64]:
        return self._scores(X)[:, 0]

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        return link(self.task, self._scores(X))

    @property
    def length(self) -> int:
        return self.iterations

    @property
    def center(self) -> NDArray[np.float64]:
        return self.start * self.scale + self.shift

    def staged(self, X: Any, counts: Sequence[int]) -> Iterator[NDArray[np.float64]]:
        leaves = int(self.params["num_leaves"]) * (self.classes if self.task == "multiclass" else 1)
        total, begin, most = np.tile(-self.start, (X.shape[0], 1)), 0, max(1, CACHED_LEAVES // leaves)
        for end in counts:
            while begin < end:
                rounds = min(end, begin + most) - begin
                raw = self.booster.predict(X, begin, rounds, raw_score=True, num_threads=self.params["num_threads"])
                total += np.asarray(raw).reshape(total.shape)
                begin += rounds
            yield total * self.scale

    def first(self, count: int, rescale: float) -> Boosted:
        shorter = copy.copy(self)
        shorter.iterations, shorter.rescale = count, self.rescale * rescale
        return shorter


def _log_shares(y: NDArray[Any], classes: int, weights: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """The log-odds of the second of two classes (1,), or the logarithms of the shares of several (K,)."""
    shares = np.log(np.maximum(np.bincount(y, weights, classes), 1e-6))
    return shares[1:] - shares[:1] if classes == 2 else shares - shares.max()


def _without_negative(X: Any, categorical: Sequence[int]) -> Any:
    """X with NaN for the category code -1; LightGBM reads both alike, but prints a warning for each column with the second.

    (Its log level holds for one thread only, so "verbosity" does not silence it.)
    """
    if not categorical:
        return X
    if isinstance(X, np.ndarray):
        negative = [column for column in categorical if (X[:, column] < 0).any()]
        if negative:
            X = X.copy()
        for column in negative:
            X[X[:, column] < 0, column] = np.nan
        return X
    X = X.copy()
    X.data[np.isin(X.indices, categorical) & (X.data < 0)] = np.nan
    return X


def _full(X: Any) -> bool:
    """Whether a wide dense matrix has few zeros: no columns then exclude each other, and LightGBM bundles none.

    Its search for them would take longer than the binning: 0.6 s for 20,000 columns of 80 rows.
    """
    return isinstance(X, np.ndarray) and X.shape[1] > WIDE and bool(np.count_nonzero(X[:100]) > 0.9 * X[:100].size)


def parse(model: Boosted) -> tuple[Trees, NDArray[np.float64]]:
    """The trees of the booster, read from its model text, latest first, and constants (one per class) to add to their sum.

    Each tree's mean leaf (by rows) is moved into the constants, so that float32 sums stay small. Raises ArtifactError for
    boosters that our graph doesn't carry (linear leaves, averaged trees, zero as missing with a default of its own).
    """
    text = model.booster.model_to_string(num_iteration=model.iterations)
    head, body = text.split("\nTree=", 1)
    fields = _fields(body.split("\nend of trees", 1)[0])
    if "average_output" in head or "1" in fields["is_linear"]:
        raise ArtifactError("only LightGBM's boosting 'gbdt' with constant leaves can be exported")
    leaves = _numbers(fields["num_leaves"])
    sizes = leaves - 1
    flags, thresholds = _numbers(fields["decision_type"]), _floats(fields["threshold"])
    counts, members = _categories(fields, sizes, flags, thresholds)
    numeric, kind = (flags & 1) == 0, (flags >> 2) & 3
    zero_left, default_left = thresholds >= 0, (flags & 2) > 0
    if (numeric & (kind == 1) & (zero_left != default_left)).any():
        raise ArtifactError("LightGBM's zero_as_missing cannot be exported")
    missing_left = numeric & np.where(kind == 0, zero_left, default_left)  # kind "none" reads a missing value as zero
    values, rows = _floats(fields["leaf_value"]), _floats(fields["leaf_count"])
    tree = np.repeat(np.arange(len(sizes)), leaves)
    means = np.bincount(tree, values * rows) / np.maximum(1.0, np.bincount(tree, rows))
    width = model.classes if model.task == "multiclass" else 1
    constants = np.zeros(width)
    np.add.at(constants, np.arange(len(sizes)) % width, means)
    constants = constants * model.rescale + model.start * (1.0 - model.rescale)
    trees = Trees(
        sizes=sizes,
        feature=_numbers(fields["split_feature"]),
        threshold=thresholds,
        missing_left=missing_left,
        left=_numbers(fields["left_child"]),
        right=_numbers(fields["right_child"]),
        values=((values - means[tree]) * (model.scale * model.rescale))[:, None],
        targets=tree % width,
        counts=counts if len(members) else None,
        members=members,
    )
    return trees, constants * model.scale + model.shift


def _fields(body: str) -> dict[str, list[str]]:
    """The text after "key=" of every tree, by key."""
    found: dict[str, list[str]] = {}
    for line in body.split("\n"):
        key, _, value = line.partition("=")
        found.setdefault(key, []).append(value)
    return found


def _floats(lines: list[str]) -> NDArray[np.float64]:
    """The numbers of every tree, one tree after another."""
    return np.array(" ".join(lines).split(), np.float64)


def _numbers(lines: list[str]) -> NDArray[np.int64]:
    return _floats(lines).astype(np.int64)


def _categories(
    fields: dict[str, list[str]], sizes: NDArray[np.int64], flags: NDArray[np.int64], thresholds: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(how many categories go left at each split, 0 for numeric ones; these categories, split after split).

    A tree's bitsets are words of 32 bits in "cat_threshold", bounded by "cat_boundaries"; a split's threshold is the number
    of its bitset within the tree.
    """
    counts = np.zeros(len(flags), np.int64)
    sets = _numbers(fields["num_cat"])
    if not sets.any():
        return counts, np.empty(0, np.int64)
    bounds, words = _numbers(fields["cat_boundaries"]), _numbers(fields["cat_threshold"]).astype("<u4")
    holders = np.flatnonzero(sets)
    inner = np.cumsum(sets[holders] + 1) - 1  # each tree has one bound more than bitsets
    lengths = np.delete(np.diff(bounds), inner[:-1])
    bitset = np.repeat(np.arange(len(lengths)), lengths)
    word = np.arange(len(words)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    at, bit = np.nonzero(np.unpackbits(words.view(np.uint8), bitorder="little").reshape(-1, 32))
    category, owner = 32 * word[at] + bit, bitset[at]
    split = np.flatnonzero(flags & 1)
    first = np.zeros(len(sizes), np.int64)
    first[holders] = np.cumsum(sets[holders]) - sets[holders]
    used = first[np.repeat(np.arange(len(sizes)), sizes)[split]] + thresholds[split].astype(np.int64)
    size = np.bincount(owner, minlength=len(lengths))
    start = np.cumsum(size) - size
    counts[split] = size[used]
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(size[used]) - size[used], size[used])
    return counts, category[np.repeat(start[used], size[used]) + within]


class LightGBM(Family):
    """Gradient boosted trees (LightGBM: Ke et al. 2017), with native categories and missing values.

    The ranges are those of TabArena (arXiv 2506.16791), with LightGBM's own defaults and small, fast ends inside them, and
    as many leaves as FLAML (Wang et al. 2021) finds use for on large tables.
    """

    name: ClassVar[str] = "lightgbm"
    parallel: ClassVar[bool] = True
    order: ClassVar[int] = 60
    iterations: ClassVar[str | None] = "n_estimators"
    copies: ClassVar[float] = 1.5
    seconds_per_unit: ClassVar[float] = 1e-9
    defaults: ClassVar[dict[str, Value]] = {
        "n_estimators": 100,
        "learning_rate": 0.1,
        "num_leaves": 31,
        "min_data_in_leaf": 20,
        "min_sum_hessian_in_leaf": 1e-3,
        "feature_fraction": 1.0,
        "bagging_fraction": 1.0,
        "extra_trees": False,
        "lambda_l1": 0.0,
        "lambda_l2": 0.0,
        "max_bin": 255,
        "early_stopping": False,
        "cat_smooth": 10.0,
        "cat_l2": 10.0,
        "max_cat_to_onehot": 4,
        "min_data_per_group": 100,
    }

    def views(self, facts: Facts) -> Sequence[View]:
        views = (View(), View(categories="target")) if facts.categorical else (View(),)
        return (*views, View(dates="days")) if facts.days else views

    def space(self, facts: Facts) -> Space:
        space: Space = {
            "n_estimators": Int(5, 2000, log=True),
            "learning_rate": Float(5e-3, 0.5, log=True),
            "num_leaves": Int(2, MOST_LEAVES, log=True),
            "min_data_in_leaf": Int(1, 64, log=True),
            "min_sum_hessian_in_leaf": Choice((1e-3, 1e-7)),
            "feature_fraction": Float(0.1 if _few(facts) else 0.4, 1.0),
            "bagging_fraction": Float(0.7, 1.0),
            "extra_trees": Choice((False, True)),
            "lambda_l1": Float(0.0, 1.0),
            "lambda_l2": Float(0.0, 2.0),
            "max_bin": Choice((15, 63, 255)),
            "early_stopping": Choice((False, True)),
        }
        if facts.categorical:
            space["cat_smooth"] = Float(1e-3, 100.0, log=True)
            space["cat_l2"] = Float(5e-3, 10.0, log=True)
            space["max_cat_to_onehot"] = Int(4, 100, log=True)
            space["min_data_per_group"] = Int(2, 100, log=True)
        return space

    def starts(self, facts: Facts) -> Sequence[dict[str, Value]]:
        """Own corners, LightGBM's defaults, pytabkit's TD short and full, and two of AutoGluon's CPU portfolio."""
        td = TD_REGRESSION if facts.task == "regression" else TD
        late: dict[str, Value] = {"n_estimators": 1000, "early_stopping": True}
        points: list[dict[str, Value]] = [
            {"n_estimators": 10, "learning_rate": 0.5, "num_leaves": 8},
            {"n_estimators": 25, "learning_rate": 0.3},
            {"n_estimators": 100, "learning_rate": 0.3, "num_leaves": 2},
            {**td, "n_estimators": 150, "learning_rate": 0.1},
            {**td, **late},
            {**R177, **late},
            {**R163, **late},
        ]
        return by_cost(self, [self.reference(facts), *(self.adapted(point, facts) for point in points)], facts)

    def adapted(self, point: Params, facts: Facts) -> dict[str, Value]:
        """As every family's, the names left out at LightGBM's defaults; fewer rounds learn at a higher rate.

        Points tuned for thousands of rounds with early stopping have a rate of at least 15 over the rounds that they get here,
        others one that keeps its product with the rounds (a rule of thumb); where each round is a tree for each of many
        classes, the rounds are fewer, and a penalty keeps the leaves of rare classes from running away.
        """
        full = {**self.defaults, **point}
        rounds, rate = float(full["n_estimators"]), float(full["learning_rate"])
        enough = 15.0 if full["early_stopping"] else min(15.0, rounds * rate)
        full["n_estimators"] = round(min(rounds, max(100.0, 8 * rounds / max(8, facts.classes))))
        if facts.classes > 2:
            full["lambda_l2"] = max(STRONG_L2, float(full["lambda_l2"]))
        found = super().adapted(full, facts)
        found["learning_rate"] = max(rate, min(FASTEST, enough / float(found["n_estimators"])))
        return found

    def reference(self, facts: Facts) -> dict[str, Value]:
        """LightGBM's own defaults: 100 trees of 31 leaves at a rate of 0.1."""
        names = self.space(facts)
        return {k: v for k, v in self.defaults.items() if k in names}

    def strong(self, facts: Facts, speed: float = 1.0) -> Sequence[dict[str, Value]]:
        each = replace(facts, budget_seconds=10 * STRONG_SHARE / speed * facts.budget_seconds)
        some = STRONG_REGRESSION if facts.task == "regression" else STRONG
        if _few(facts):
            some = (RANDOM_SPLITS, *some[1:])
        some = some[:1] if facts.classes > 2 else some
        if facts.days:  # what else happened on a row's day may tell more than anything else of the row
            some = (*some, LARGE_TREES if facts.rows >= MANY_ROWS else some[-1])
        points = [_slower(point, self.adapted(point, each)) for point in some]
        return [*points[:-1], {**points[-1], "view": len(self.views(facts)) - 1}] if facts.days else points

    def larger(self, point: Params) -> Sequence[dict[str, Value]]:
        """Half as many trees of four times the leaves first, each with a larger step, then twice the rounds.

        On the one table where it was tried (57,000 rows, 7 classes) 75 trees of 512 leaves beat 298 of 128 in less time.
        """
        longer = super().larger(point)
        if not longer or int(point["num_leaves"]) > MOST_LEAVES // 4:
            return longer
        rate = max(float(point["learning_rate"]), min(FASTEST, float(point["learning_rate"]) * math.sqrt(2)))
        wider = {
            "n_estimators": int(point["n_estimators"]) // 2,
            "num_leaves": 4 * int(point["num_leaves"]),
        }
        return [{**point, **wider, "learning_rate": rate}, *longer]

    def cost(self, params: Params, rows: int, columns: int, classes: int) -> dict[str, float]:
        p = {**self.defaults, **params}
        trees = float(p["n_estimators"]) * (classes if classes > 2 else 1)
        leaves = self.capacity(p, rows) / float(p["n_estimators"])
        used = rows * float(p["bagging_fraction"]) * max(1.0, columns * float(p["feature_fraction"]))
        scanned = 0.4 if p["extra_trees"] else float(p["feature_fraction"])  # extra trees try one threshold a column
        bins = min(float(p["max_bin"]), rows / 3) / 255
        return {
            "n d": 90.0 * rows * columns + 1e7,
            "T": 5e4 * trees,
            "T L d": 2.2e3 * trees * leaves * columns * bins * scanned,
            "T n": 20.0 * trees * rows,
            "T n d log L": 1.3 * trees * used * math.log2(1 + leaves),
        }

    def capacity(self, params: Params, rows: int) -> float:
        p = {**self.defaults, **params}
        leaves = min(float(p["num_leaves"]), rows / (1.5 * float(p["min_data_in_leaf"])))
        return float(p["n_estimators"]) * max(1.0, leaves)

    def build(
        self, params: Params, task: str, hardware: Hardware, seed: int, categorical: Sequence[int] = ()
    ) -> Boosted:
        p = {**self.defaults, **params}
        iterations, stopping = int(p.pop("n_estimators")), bool(p.pop("early_stopping"))
        options: dict[str, Any] = {
            **{name: value for name, value in p.items() if categorical or name not in CATEGORY_PARAMS},
            "objective": OBJECTIVES[task],
            "metric": METRICS[task],
            "bagging_freq": 1 if float(p["bagging_fraction"]) < 1 else 0,
            "num_threads": hardware.threads,
            "seed": seed,
            "deterministic": True,
            "force_col_wise": True,  # LightGBM would time both ways on every fit; needed for "deterministic" as well
            "verbosity": -1,
        }
        return Boosted(options, iterations, task, stopping, categorical)

    def refit_params(self, params: Params, model: Boosted, rows_ratio: float) -> dict[str, Value]:
        stops = bool(params.get("early_stopping", self.defaults["early_stopping"]))
        return refit_rounds(params, stops, model.iterations, rows_ratio)

    def prefixes(self, model: Boosted) -> Sequence[float]:
        return halves(model.length)

    def shortened(self, params: Params, share: float) -> dict[str, Value]:
        trees = int(params.get("n_estimators", self.defaults["n_estimators"]))
        return {**params, "n_estimators": count(share, trees)}

    def to_onnx(self, model: Boosted, graph: Graph, x: str) -> str:
        trees, constants = parse(model)
        return write_boosted(graph, x, trees, constants, model.task)


TD: dict[str, Value] = {
    "learning_rate": 0.04,
    "num_leaves": 50,
    "min_data_in_leaf": 40,
    "bagging_fraction": 0.75,
    "min_sum_hessian_in_leaf": 1e-7,
}
"""pytabkit's meta-tuned defaults for classification; below those for regression (arXiv 2407.04491)."""
TD_REGRESSION: dict[str, Value] = {
    **TD,
    "learning_rate": 0.05,
    "num_leaves": 100,
    "min_data_in_leaf": 3,
    "bagging_fraction": 0.7,
}
STRONG_L2 = 1.0
STRONG_SHARE = 0.18
"""The share of the budget that a fit of a strong point may take."""
STRONG: tuple[dict[str, Value], ...] = (
    {
        "n_estimators": 300,
        "learning_rate": 0.1,
        "num_leaves": 128,
        "min_data_in_leaf": 40,
        "bagging_fraction": 0.75,
        "lambda_l2": STRONG_L2,
    },
    {
        "n_estimators": 900,
        "learning_rate": 0.03,
        "num_leaves": 64,
        "feature_fraction": 0.6,
        "bagging_fraction": 0.75,
        "lambda_l2": STRONG_L2,
    },
)
"""TD with larger trees for fewer rounds, and with the penalty that keeps the leaves of rare classes from running away; and more
cautious steps on some of the columns each, where there are no classes to make a tree for (with 7 and 26 it was the worse and took
as long). Chosen on validation rows of public tables. Where the noise is large half of the rounds are enough, which is seen for
nothing (`prefixes`).
"""
MANY_ROWS = 50_000
LARGE_TREES: dict[str, Value] = {
    "n_estimators": 300,
    "learning_rate": 0.1,
    "num_leaves": 512,
    "feature_fraction": 0.6,
    "bagging_fraction": 0.75,
    "lambda_l2": STRONG_L2,
}
"""Where days are categories, and so many rows that a tree may tell many of them apart: on the one such table at hand (91,000 rows,
3,400 days) it had 1 - AUC .0825 on validation rows in 13 s, the point above .0842 in 25; of 12,000 rows that one was better.
"""
STRONG_REGRESSION = (STRONG[0], {**STRONG[1], "n_estimators": 1500, "min_data_in_leaf": 5})
ROWS_A_COLUMN = 100
RANDOM_SPLITS: dict[str, Value] = {
    "n_estimators": 300,
    "learning_rate": 0.07,
    "min_data_in_leaf": 10,
    "feature_fraction": 0.3,
    "extra_trees": True,
    "lambda_l2": STRONG_L2,
}
"""The first strong point where there are fewer than `ROWS_A_COLUMN` rows for each column: the best of many splits is then often
one of the noise, and one random threshold for each of a third of the columns (as in extremely randomised trees, Geurts et al.
2006) is better, and quicker. Validation rows of public tables, the other strong point and this: log loss .163 and .140 (784
columns, 8 rows each), .936 and .365 (856, 1), .075 and .066 (64, 22), RMSE 19,600 and 18,200 (79, 11), 1 - AUC .235 and .188 (20, 30);
with 342 rows for each column (27) RMSE 13.2 and 16.0.
"""


def _few(facts: Facts) -> bool:
    return facts.rows < ROWS_A_COLUMN * facts.columns


def _slower(point: Params, found: dict[str, Value]) -> dict[str, Value]:
    """`found`, a point cut to fewer rounds, at a rate that rises with the square root of what was cut.

    On validation rows of four public tables 225 rounds at 0.077 were better by 3 to 8 % than at 0.2, which keeps the product.
    """
    cut = float(point["n_estimators"]) / float(found["n_estimators"])
    return {**found, "learning_rate": min(0.3, float(point["learning_rate"]) * math.sqrt(cut))}


R177: dict[str, Value] = {
    "bagging_fraction": 0.8769,
    "cat_l2": 0.3418,
    "cat_smooth": 15.43,
    "extra_trees": True,
    "feature_fraction": 0.4622,
    "lambda_l1": 0.2375,
    "lambda_l2": 0.3552,
    "learning_rate": 0.01786,
    "max_cat_to_onehot": 16,
    "min_data_in_leaf": 3,
    "min_data_per_group": 9,
    "num_leaves": 39,
}
"""AutoGluon `zeroshot_portfolio_cpu_2025_12_18`, r177 and r163."""
R163: dict[str, Value] = {
    "bagging_fraction": 0.9784,
    "cat_l2": 0.1553,
    "cat_smooth": 0.009312,
    "feature_fraction": 0.528,
    "lambda_l1": 0.02693,
    "lambda_l2": 0.8375,
    "learning_rate": 0.01139,
    "max_cat_to_onehot": 42,
    "min_data_in_leaf": 3,
    "min_data_per_group": 75,
    "num_leaves": 84,
}
