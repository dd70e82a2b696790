"""Metrics: how predictions are scored, the error that is minimised, and each row's influence on it.

Classifiers give a matrix of probabilities (n, K) in the order of the task's classes (for a binary task also (n,) or
(n, 1) of the second class), regressors values (n,); `y` are the codes 0..K-1, or the values. The metrics named here
need numpy only.

An influence is a per-row array whose mean is the error and whose standard deviation / sqrt(n) is the error's standard
error, so that two models' influences on the same rows give the paired standard error of their difference. It is exact
for means over rows, by DeLong's placement values for the area under the ROC curve (DeLong et al. 1988; computed as
Sun and Xu 2014, IEEE Signal Processing Letters 21), by the delta method for rmse, and by a jackknife over 50 blocks
for the rest.
"""

from __future__ import annotations

import difflib
import inspect
import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from automl.estimators.errors import AutoMLError, DataError, UsageError, UsageTypeError

Array: TypeAlias = NDArray[Any]
Rows: TypeAlias = NDArray[np.float64]
Score: TypeAlias = Callable[[Array, Array, Rows | None], float]
Influence: TypeAlias = Callable[[Array, Array, Rows], Rows]

BLOCKS = 50
SMALLEST = float(np.finfo(np.float32).eps)
"""Probabilities are cut at this in log_loss: artifacts give float32, which knows nothing between it and certainty."""


class TaskLike(Protocol):
    """What a metric needs of a task: its kind, and the labels of its classes in their original type."""

    @property
    def kind(self) -> str: ...
    @property
    def classes(self) -> tuple[Any, ...]: ...


@dataclass(frozen=True)
class Metric:
    """A metric for one task: `Metric.resolve("roc_auc", task)`.

    `best` is the best value that it can take, None where that isn't known: then the error is -score and follows no law.
    """

    name: str
    greater_is_better: bool
    best: float | None
    needs_proba: bool
    function: Score
    rows: Influence | None = None

    @classmethod
    def resolve(cls, metric: str | Callable[..., Any] | None, task: TaskLike) -> Metric:
        """The metric of that name (ours, or any scikit-learn scorer's), scorer object or callable(y_true, y_pred).

        None is the task's default: roc_auc, log_loss or rmse. A callable is given labels (values for regression),
        higher being better. Raises UsageError for an unknown name, one that this task cannot have, or a loss of scikit-learn.
        """
        if metric is None:
            metric = {"binary": "roc_auc", "multiclass": "log_loss"}.get(task.kind, "rmse")
        if isinstance(metric, Metric):
            return metric
        if isinstance(metric, str):
            return _ours(metric, task) if metric in KNOWN else _scorer(metric, task)
        if hasattr(metric, "_score_func") and hasattr(metric, "_sign"):
            return _from_scorer(metric, getattr(metric._score_func, "__name__", "scorer"), task, labelled=True)
        if callable(metric):
            name = getattr(metric, "__name__", type(metric).__name__)
            if str(getattr(metric, "__module__", "")).startswith("sklearn.") and name.endswith(("_error", "_loss")):
                proba = ', response_method="predict_proba"' if name in ("log_loss", "brier_score_loss") else ""
                raise UsageError(
                    f"metric {name} is a loss, and of a callable more is better: give its scorer's name, or "
                    f"sklearn.metrics.make_scorer({name}, greater_is_better=False{proba})"
                )
            return cls(name, True, None, False, partial(_call, metric, name, _labels_of(task)))
        raise UsageTypeError(f"metric is a {type(metric).__name__}, not a name or a callable(y_true, y_pred)")

    @property
    def own(self) -> bool:
        """Whether it is one of ours, not the user's code."""
        return self.name in KNOWN and self.function is KNOWN[self.name].function

    def score(self, y: Array, prediction: Array, weights: Rows | None = None) -> float:
        """The metric as its users know it. Raises DataError if it is not one finite number."""
        return self._checked(y, np.asarray(prediction), weights)

    def error(self, y: Array, prediction: Array, weights: Rows | None = None) -> float:
        """What is minimised: best - score (score - best for a loss), or -score where no best is known."""
        return self.error_of(self.score(y, prediction, weights))

    def error_of(self, score: float) -> float:
        """The error of a score."""
        best = 0.0 if self.best is None else self.best
        return best - score if self.greater_is_better else score - best

    def score_of(self, error: float) -> float:
        """The score of an error: `error_of` backwards."""
        best = 0.0 if self.best is None else self.best
        return best - error if self.greater_is_better else error + best

    def influence(
        self, y: Array, prediction: Array, weights: Rows | None = None, clusters: NDArray[np.int64] | None = None
    ) -> Rows:
        """(n,) float64: its mean is the error, its standard deviation / sqrt(n) the error's standard error.

        `clusters` (n,) are the codes of the rows' groups, none where it is empty: rows of a group depend on each other, groups do
        not. Then it is (groups,), and the standard error that of clustered rows (Liang and Zeger 1986).
        """
        prediction, y = np.asarray(prediction), np.asarray(y)
        error = self.error(y, prediction, weights)
        groups = None if clusters is None or not len(clusters) else np.unique(clusters, return_inverse=True)[1]
        if self.rows is None:
            spread = self._jackknife(y, prediction, weights, error, groups)
        else:
            spread = self.rows(y, prediction, _weights(weights, len(y)))
            spread = -spread if self.greater_is_better else spread
            spread = spread if groups is None else np.bincount(groups, spread) * ((groups.max() + 1) / len(y))
        return np.asarray(spread - spread.mean() + error, np.float64)

    def _jackknife(
        self, y: Array, prediction: Array, weights: Rows | None, error: float, groups: NDArray[np.int64] | None
    ) -> Rows:
        """Pseudo-values of the error over blocks of rows or of whole groups, spread evenly over the sorted targets (of groups their
        means).
        """
        unit = np.arange(len(y)) if groups is None else groups
        order = (
            np.asarray(y) if groups is None else np.bincount(groups, np.asarray(y, np.float64)) / np.bincount(groups)
        )
        n = len(order)
        blocks = min(BLOCKS, n // 2 if groups is None else n)
        if blocks < 2:
            return np.zeros(n)
        block = np.empty(n, np.int64)
        block[np.argsort(order, kind="stable")] = np.arange(n) % blocks
        without = np.array([self._without(block[unit] == b, y, prediction, weights, error) for b in range(blocks)])
        pseudo = (blocks - 1) * (error - without)
        return np.asarray((pseudo - pseudo.mean())[block] * math.sqrt(n / blocks), np.float64)

    def _without(self, gone: Array, y: Array, prediction: Array, weights: Rows | None, error: float) -> float:
        kept = ~gone
        try:
            return self.error(y[kept], prediction[kept], None if weights is None else weights[kept])
        except DataError:  # not defined without this block (it holds the only rows of a class): it says nothing
            return error

    def _checked(self, y: Array, prediction: Array, weights: Rows | None) -> float:
        if len(y) != len(prediction):
            raise DataError(f"metric {self.name}: {len(y)} targets and {len(prediction)} predictions")
        return _number(self.function(np.asarray(y), prediction, weights), self.name)


def _number(value: Any, name: str) -> float:
    """The metric's value as a float. Raises DataError for a text, a complex number, an array, NaN or infinity."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise DataError(f"metric {name} returned {value!r:.80}, a {type(value).__name__}, not one real number")
    if not math.isfinite(value):
        raise DataError(f"metric {name} returned {value!r}, not a finite number")
    return float(value)


# -- shapes ------------------------------------------------------------------------------------------------------------


def probabilities(prediction: Array) -> Rows:
    """(n, K) float64 probabilities from (n, K), or from P(second class) as (n,) or (n, 1)."""
    p = np.asarray(prediction, np.float64)
    if p.ndim == 1 or p.shape[1] == 1:
        p = p.reshape(-1)
        return np.column_stack([1.0 - p, p])
    return p


def codes(prediction: Array) -> NDArray[np.int64]:
    """(n,) predicted classes 0..K-1: the most probable, the first one of equals."""
    return np.asarray(np.argmax(probabilities(prediction), axis=1), np.int64)


def _weights(weights: Rows | None, n: int) -> Rows:
    """Weights whose mean is 1."""
    if weights is None:
        return np.ones(n)
    w = np.asarray(weights, np.float64)
    return np.asarray(w / w.mean(), np.float64)


def _mean(rows: Rows, weights: Rows | None) -> float:
    return float(np.mean(rows) if weights is None else np.average(rows, weights=weights))


# -- means over rows ---------------------------------------------------------------------------------------------------


def _absolute(y: Array, p: Array) -> Rows:
    return np.asarray(np.abs(np.asarray(y, np.float64) - p), np.float64)


def _squared(y: Array, p: Array) -> Rows:
    return np.asarray((np.asarray(y, np.float64) - p) ** 2, np.float64)


def _log_loss_rows(y: Array, p: Array) -> Rows:
    chosen = probabilities(p)[np.arange(len(y)), np.asarray(y, np.int64)]
    return np.asarray(-np.log(np.clip(chosen, SMALLEST, 1.0)), np.float64)


def _brier_rows(y: Array, p: Array) -> Rows:
    matrix = probabilities(p)
    if matrix.shape[1] == 2:
        return _squared(y, matrix[:, 1])
    hit = np.asarray(y, np.int64)[:, None] == np.arange(matrix.shape[1])
    return np.asarray(((matrix - hit) ** 2).sum(axis=1), np.float64)


def _correct(y: Array, p: Array) -> Rows:
    return np.asarray(codes(p) == y, np.float64)


def _mean_score(rows: Callable[[Array, Array], Rows], y: Array, p: Array, weights: Rows | None) -> float:
    return _mean(rows(y, p), weights)


def _mean_influence(rows: Callable[[Array, Array], Rows], y: Array, p: Array, weights: Rows) -> Rows:
    each = rows(y, p)
    return np.asarray(weights * (each - _mean(each, weights)), np.float64)


def _rmse(y: Array, p: Array, weights: Rows | None) -> float:
    return math.sqrt(_mean(_squared(y, p), weights))


def _rmse_influence(y: Array, p: Array, weights: Rows) -> Rows:
    root = _rmse(y, p, weights)
    return np.asarray(_mean_influence(_squared, y, p, weights) / (2 * root or 1.0), np.float64)


# -- ranks -------------------------------------------------------------------------------------------------------------


def _placements(truth: NDArray[np.bool_], scores: Rows, weights: Rows) -> Rows:
    """Of each positive row the weighted share of negatives below it, of each negative that of positives above.

    Ties count half; O(n log n). Both groups' weighted mean is the area under the ROC curve (DeLong et al. 1988; Sun and Xu 2014).
    """
    positive, negative = np.where(truth, weights, 0.0), np.where(truth, 0.0, weights)
    _, tie = np.unique(scores, return_inverse=True)
    up, down = np.bincount(tie, positive), np.bincount(tie, negative)
    below = np.cumsum(down) - 0.5 * down
    above = up.sum() - (np.cumsum(up) - 0.5 * up)
    return np.asarray(np.where(truth, below[tie] / down.sum(), above[tie] / up.sum()), np.float64)


def _truths(y: Array, p: Array) -> list[tuple[NDArray[np.bool_], Rows]]:
    """(truth, score) of the second class of a binary task, of each class present against the rest otherwise."""
    matrix, y = probabilities(p), np.asarray(y)
    classes = [1] if matrix.shape[1] == 2 else range(matrix.shape[1])
    pairs = [(y == c, matrix[:, c]) for c in classes]
    both = [(truth, score) for truth, score in pairs if truth.any() and not truth.all()]
    if not both:
        raise DataError("roc_auc and average_precision are not defined where all rows are of one class")
    return both


def _auc(y: Array, p: Array, weights: Rows | None) -> float:
    w = _weights(weights, len(y))
    areas = []
    for truth, score in _truths(y, p):
        place = _placements(truth, score, w)
        areas.append(float(np.average(place[truth], weights=w[truth])))
    return float(np.mean(areas))


def _auc_influence(y: Array, p: Array, weights: Rows) -> Rows:
    """The linearised area: a row moves it by (placement - area) x n / (weight of its own group)."""
    total = np.zeros(len(y))
    pairs = _truths(y, p)
    for truth, score in pairs:
        place = _placements(truth, score, weights)
        group = np.where(truth, weights[truth].sum(), weights[~truth].sum())
        area = float(np.average(place[truth], weights=weights[truth]))
        total += weights * len(y) / group * (place - area)
    return total / len(pairs)


def _average_precision(y: Array, p: Array, weights: Rows | None) -> float:
    """Sum of precision x step of recall over the distinct scores, as scikit-learn; of several classes the mean."""
    w = _weights(weights, len(y))
    found = []
    for truth, score in _truths(y, p):
        _, tie = np.unique(-score, return_inverse=True)
        hits = np.bincount(tie, np.where(truth, w, 0.0))
        precision = np.cumsum(hits) / np.cumsum(np.bincount(tie, w))
        found.append(float((precision * hits).sum() / hits.sum()))
    return float(np.mean(found))


# -- counts ------------------------------------------------------------------------------------------------------------


def _confusion(y: Array, p: Array, weights: Rows | None) -> Rows:
    """(K, K) weights by true and predicted class."""
    k = probabilities(p).shape[1]
    pairs = np.asarray(y, np.int64) * k + codes(p)
    return np.bincount(pairs, weights, minlength=k * k).reshape(k, k).astype(np.float64)


def _balanced_accuracy(y: Array, p: Array, weights: Rows | None) -> float:
    table = _confusion(y, p, weights)
    rows = table.sum(axis=1)
    return float(np.mean(table.diagonal()[rows > 0] / rows[rows > 0]))


def _f1_of_classes(y: Array, p: Array, weights: Rows | None) -> Rows:
    """F1 of each class that is true or predicted somewhere (NaN for the others)."""
    table = _confusion(y, p, weights)
    total = table.sum(axis=0) + table.sum(axis=1)
    return np.asarray(np.divide(2 * table.diagonal(), total, out=np.full(len(total), np.nan), where=total > 0))


def _f1(y: Array, p: Array, weights: Rows | None) -> float:
    return float(np.nan_to_num(_f1_of_classes(y, p, weights)[1]))


def _f1_macro(y: Array, p: Array, weights: Rows | None) -> float:
    return float(np.nanmean(_f1_of_classes(y, p, weights)))


def _r2(y: Array, p: Array, weights: Rows | None) -> float:
    values = np.asarray(y, np.float64)
    total = _mean((values - _mean(values, weights)) ** 2, weights)
    if total == 0:
        raise DataError("r2 is not defined where all targets are equal")
    return 1.0 - _mean(_squared(y, p), weights) / total


# -- names -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    tasks: str  # of b(inary), m(ulticlass), r(egression)
    greater: bool
    proba: bool
    function: Score
    rows: Influence | None = None


def _means(tasks: str, greater: bool, proba: bool, rows: Callable[[Array, Array], Rows]) -> _Entry:
    return _Entry(tasks, greater, proba, partial(_mean_score, rows), partial(_mean_influence, rows))


KNOWN: dict[str, _Entry] = {
    "roc_auc": _Entry("bm", True, True, _auc, _auc_influence),
    "log_loss": _means("bm", False, True, _log_loss_rows),
    "rmse": _Entry("r", False, False, _rmse, _rmse_influence),
    "mae": _means("r", False, False, _absolute),
    "accuracy": _means("bm", True, False, _correct),
    "balanced_accuracy": _Entry("bm", True, False, _balanced_accuracy),
    "f1": _Entry("b", True, False, _f1),
    "f1_macro": _Entry("bm", True, False, _f1_macro),
    "r2": _Entry("r", True, False, _r2),
    "average_precision": _Entry("bm", True, True, _average_precision),
    "brier": _means("bm", False, True, _brier_rows),
}
"""Our own metrics. roc_auc and average_precision of several classes are the mean over the classes, each against the
rest.
"""


def names(task: TaskLike) -> list[str]:
    """Our own metrics for a task."""
    return [name for name, entry in KNOWN.items() if task.kind[0] in entry.tasks]


def _ours(name: str, task: TaskLike) -> Metric:
    entry = KNOWN[name]
    if task.kind[0] not in entry.tasks:
        raise UsageError(f"metric {name!r} is not for a {task.kind} task; there are {', '.join(names(task))}")
    return Metric(name, entry.greater, 1.0 if entry.greater else 0.0, entry.proba, entry.function, entry.rows)


# -- scikit-learn's scorers and callables ------------------------------------------------------------------------------


def _scorer(name: str, task: TaskLike) -> Metric:
    from sklearn.metrics import get_scorer, get_scorer_names

    if name not in get_scorer_names():
        close = difflib.get_close_matches(name, [*names(task), *get_scorer_names()], n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UsageError(
            f"unknown metric {name!r}; {hint}Known for a {task.kind} task: {', '.join(names(task))}, and the scorers of"
            " scikit-learn"
        )
    return _from_scorer(get_scorer(name), name, task, labelled=False)


def _from_scorer(scorer: Any, name: str, task: TaskLike, *, labelled: bool) -> Metric:
    """A scorer's best value is 0 for a negated loss and 1 for a score, except for the one that has none, and for what is not
    scikit-learn's own: a profit has no bound. A user's own scorer is given the `labelled` classes, as scikit-learn gives them;
    one of scikit-learn's by its name the codes, which any labels can be, and so is one whose positive class is none of the labels,
    or where these are numbers and text, which it could not sort.
    """
    own = str(getattr(scorer._score_func, "__module__", "")).startswith("sklearn.")
    best = None if name == "positive_likelihood_ratio" or not own else (0.0 if scorer._sign < 0 else 1.0)
    proba = "predict" not in np.atleast_1d(scorer._response_method)
    kind = "classifier" if task.kind != "regression" else "regressor"
    labels = _labels_of(task) if labelled else None
    if labels is not None and (
        _array_of(labels).dtype == object or (task.kind == "binary" and _lacks_positive(scorer, labels))
    ):
        labels = None
    return Metric(name, True, best, proba, partial(_score_by, scorer, name, kind, labels))


def _score_by(
    scorer: Any,
    name: str,
    kind: str,
    labels: tuple[Any, ...] | None,
    y: Array,
    prediction: Array,
    weights: Rows | None,
) -> float:
    """The scorer on an estimator that only returns what was predicted: `labels`, or the codes of the classes without them."""
    original = None if labels is None else _array_of(labels)
    estimator = _estimator(kind, prediction, original)
    y = y if original is None else original[np.asarray(y, np.int64)]
    keywords = {} if weights is None or not _takes_weights(scorer._score_func) else {"sample_weight": weights}
    try:
        return scorer(estimator, np.zeros((len(y), 1)), y, **keywords)  # type: ignore[no-any-return]
    except AutoMLError:
        raise
    except Exception as problem:
        raise DataError(f"metric {name} raised {type(problem).__name__}: {problem}") from problem


def _lacks_positive(scorer: Any, labels: Sequence[Any]) -> bool:
    """Whether a scorer's function asks for a positive class which the scorer does not name, its default being none of the labels."""
    if "pos_label" in scorer._kwargs or "labels" in scorer._kwargs:
        return False
    try:
        known = inspect.signature(scorer._score_func).parameters.get("pos_label")
    except (TypeError, ValueError):  # a callable without a signature
        return False
    return known is not None and known.default not in labels


def _estimator(kind: str, prediction: Array, labels: Array | None = None) -> Any:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

    class Regressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
        """Returns the stored prediction, whatever it is asked."""

        fitted_ = True

        def predict(self, X: Any) -> Array:
            return prediction

    class Classifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
        """Returns the stored probabilities, or their classes, whatever it is asked."""

        fitted_ = True
        classes_: Array | None = None

        def predict(self, X: Any) -> Array:
            found = codes(prediction)
            return found if labels is None else np.asarray(labels[found])

        def predict_proba(self, X: Any) -> Array:
            return probabilities(prediction)

    if kind != "classifier":
        return Regressor()
    found = Classifier()
    found.classes_ = np.arange(probabilities(prediction).shape[1]) if labels is None else labels
    return found


def _labels_of(task: TaskLike) -> tuple[Any, ...] | None:
    return None if task.kind == "regression" else tuple(task.classes) or None


def _array_of(labels: tuple[Any, ...]) -> Array:
    """(K,) the labels in their original types: numpy would make one type of numbers and text."""
    kinds = {isinstance(label, str) for label in labels}
    return np.array(labels, object if len(kinds) > 1 else None)


def _takes_weights(function: Callable[..., Any]) -> bool:
    try:
        return "sample_weight" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # a callable without a signature is given two arguments
        return False


def _call(
    function: Callable[..., Any],
    name: str,
    labels: tuple[Any, ...] | None,
    y: Array,
    prediction: Array,
    weights: Rows | None,
) -> Any:
    """A user's callable(y_true, y_pred), on labels in their original type; with sample_weight if it takes that."""
    if labels is not None:
        original = _array_of(labels)
        y, prediction = original[np.asarray(y, np.int64)], original[codes(prediction)]
    keywords = {} if weights is None or not _takes_weights(function) else {"sample_weight": weights}
    try:
        return function(y, prediction, **keywords)
    except Exception as problem:
        raise DataError(f"metric {name} raised {type(problem).__name__}: {problem}") from problem
