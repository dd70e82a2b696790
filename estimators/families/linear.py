"""Linear models: ridge, lasso, elastic net, logistic regression and averaged SGD behind one set of hyperparameters."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..encoder import View
from ..family import Facts, Family, Params
from ..hardware import Hardware, threadpool_limits
from ..narrow import LEAST, rounded
from ..space import Choice, Float, Int, Space, Value

if TYPE_CHECKING:
    from ..graph import Graph

LARGE_ROWS = 100_000
"""From this many training rows on, averaged SGD is part of the space."""
EXACT_COLUMNS = 1_500
"""Ridge regression is solved exactly (by the Gram matrix) up to this many columns, iteratively above."""
SGD_EPOCHS = 20
BLOCK_CELLS = 4_000_000


class Linear(Family):
    """Ridge, lasso or elastic net for regression, logistic regression with the same penalties for classification.

    `C` is the inverse strength of the regularization on the sum of the losses, as in scikit-learn's LogisticRegression;
    for regression, on a standardised target, it stands for alpha = 1 / C (ridge) and 1 / (C n) (elastic net).
    """

    name: ClassVar[str] = "linear"
    reduces: ClassVar[bool] = True
    bagged: ClassVar[bool] = False
    order: ClassVar[int] = 10
    copies: ClassVar[float] = 4.0
    seconds_per_unit: ClassVar[float] = 6e-10

    def views(self, facts: Facts) -> Sequence[View]:
        onehot = View(numeric="scaled", categories="onehot", max_onehot=64)
        return (onehot, View(numeric="scaled", categories="target")) if facts.categorical else (onehot,)

    def space(self, facts: Facts) -> Space:
        large = facts.rows >= LARGE_ROWS
        return {
            "penalty": Choice(("l2", "l1", "elasticnet")),
            "C": Float(1e-4, 1e3, log=True),
            "l1_ratio": Float(0.05, 0.95),
            "max_iter": Int(20, 200 if large else 500, log=True),
            **({"solver": Choice(("batch", "sgd"))} if large else {}),
        }

    def starts(self, facts: Facts) -> Sequence[dict[str, Value]]:
        large = facts.rows >= LARGE_ROWS
        base: dict[str, Value] = {"penalty": "l2", "C": 1.0, "l1_ratio": 0.5, "max_iter": 50 if large else 100}
        if large:
            base["solver"] = "batch"
        points = [base, *({**base, "C": c} for c in (0.1, 10.0, 0.01))]
        points += [{**base, "penalty": "l1", "C": c} for c in (1.0, 0.1, 0.01)]
        if large:
            points.insert(0, {**base, "solver": "sgd", "max_iter": 20})
        return points

    def cost(self, params: Params, rows: int, columns: int, classes: int) -> dict[str, float]:
        width, outputs = max(1, columns), max(1, classes if classes > 2 else 1)
        penalty, iterations = params.get("penalty", "l2"), float(params.get("max_iter", 100))
        if params.get("solver") == "sgd":
            return {"1": 1e6, "n d": 4.0 * min(iterations, SGD_EPOCHS) * rows * width * outputs}
        if classes == 0 and penalty == "l2":
            return {"1": 1e6, "n d d": 0.35 * rows * width * min(width, EXACT_COLUMNS)}
        passes = 1.0 if penalty == "l2" else 4.0 if classes == 0 else 2.0
        return {"1": 1e6, "n d": passes * iterations * rows * width * outputs}

    def build(
        self, params: Params, task: str, hardware: Hardware, seed: int, categorical: Sequence[int] = ()
    ) -> LinearModel:
        return LinearModel(params, task, hardware.threads, seed)

    def narrowed(self, model: LinearModel, dtype: str) -> LinearModel | None:
        if model.weights.size < LEAST:
            return None
        narrow = copy.copy(model)
        narrow.weights = rounded(model.weights, dtype)
        return narrow

    def to_onnx(self, model: LinearModel, graph: Graph, x: str) -> str:
        scores = graph.node("Gemm", x, graph.constant(model.weights), graph.constant(model.bias))
        if model.link == "identity":
            return scores
        if model.link == "softmax":
            return graph.node("Softmax", scores, axis=1)
        odds = graph.node("Sigmoid", scores)
        if model.link == "sigmoid":
            return odds
        total = graph.node("MatMul", odds, graph.constant(np.ones((model.weights.shape[1], 1), np.float32)))
        return graph.node("Div", odds, total)


class LinearModel:
    """A linear model kept as plain arrays after the fit: `weights` (d, outputs), `bias` (outputs,), both float32.

    `link` turns the scores into the prediction: "identity", "sigmoid" (P(second class)), "softmax" or "ovr" (sigmoids
    divided by their sum).
    """

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    link: str

    def __init__(self, params: Params, task: str, threads: int = 1, seed: int = 0) -> None:
        self.task = task
        self.threads = threads
        self.seed = seed
        self.penalty = str(params.get("penalty", "l2"))
        self.C = float(params.get("C", 1.0))
        self.max_iter = int(params.get("max_iter", 100))
        self.solver = str(params.get("solver", "batch"))
        mixed = float(params.get("l1_ratio", 0.5))
        self.l1_ratio = {"l2": 0.0, "l1": 1.0, "elasticnet": mixed}[self.penalty]

    def fit(self, X: Any, y: NDArray[Any], sample_weight: NDArray[np.float64] | None = None) -> LinearModel:
        """Fits on X (n, d) float32, dense or CSR. Raises ValueError when the solution is not finite."""
        with bounded(self.threads):
            coef, bias = (
                self._regress(X, y, sample_weight) if self.task == "regression" else self._classify(X, y, sample_weight)
            )
        if not (np.isfinite(coef).all() and np.isfinite(bias).all()):
            raise ValueError(f"the linear model diverged (penalty={self.penalty}, C={self.C:g}, solver={self.solver})")
        self.weights = np.ascontiguousarray(coef, np.float32)
        self.bias = np.asarray(bias, np.float32)
        return self

    def _regress(
        self, X: Any, y: NDArray[Any], weight: NDArray[np.float64] | None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(d, 1) coefficients and (1,) intercept on the target's own scale."""
        self.link = "identity"
        w = np.ones(len(y)) if weight is None else np.asarray(weight, np.float64)
        mean = float(np.average(y, weights=w))
        scale = float(np.sqrt(np.average((y - mean) ** 2, weights=w))) or 1.0
        target = (np.asarray(y, np.float64) - mean) / scale
        if self.solver == "sgd":
            coef, bias = self._sgd_regression(X, target, weight)
        elif self.l1_ratio == 0.0:
            coef, bias = ridge(X, target, w, 1.0 / self.C, self.max_iter)
        else:
            coef, bias = self._elastic_net(X, target, w)
        return coef.reshape(-1, 1) * scale, np.array([bias * scale + mean])

    def _elastic_net(
        self, X: Any, target: NDArray[np.float64], weight: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], float]:
        from sklearn.linear_model import ElasticNet

        dense = isinstance(X, np.ndarray)
        net = ElasticNet(
            alpha=1.0 / (self.C * weight.sum()),
            l1_ratio=self.l1_ratio,
            max_iter=self.max_iter,
            tol=1e-4,
            precompute=dense and X.shape[0] > 2 * X.shape[1],
        )
        # float64: the Gram matrix of a float32 copy is checked against X by scikit-learn and refused on wide scales
        net.fit(X.astype(np.float64), target, sample_weight=None if np.ptp(weight) == 0.0 else weight)
        return np.asarray(net.coef_, np.float64), float(net.intercept_)

    def _sgd_regression(
        self, X: Any, target: NDArray[np.float64], weight: NDArray[np.float64] | None
    ) -> tuple[NDArray[np.float64], float]:
        from sklearn.linear_model import SGDRegressor

        model = SGDRegressor(penalty=self.penalty, **self._sgd(X))
        model.fit(with_ones(X), target.astype(np.float32), sample_weight=weight)
        coef, bias = split_intercept(model)
        return coef, float(bias[0])

    def _sgd(self, X: Any) -> dict[str, Any]:
        """Averaged SGD with a constant step below the curvature's bound (Bach and Moulines, 2013)."""
        rows = X.shape[0]
        squared = float(X.multiply(X).sum() if not isinstance(X, np.ndarray) else np.einsum("ij,ij->", X, X)) / rows
        return {
            "alpha": 1.0 / (self.C * rows),
            "l1_ratio": self.l1_ratio,
            "learning_rate": "constant",
            "eta0": 0.5 / (1.0 + squared),
            "average": rows,
            "fit_intercept": isinstance(X, np.ndarray),
            "max_iter": min(self.max_iter, SGD_EPOCHS),
            "n_iter_no_change": 2,
            "random_state": self.seed,
        }

    def _classify(
        self, X: Any, y: NDArray[Any], weight: NDArray[np.float64] | None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(d, outputs) coefficients and (outputs,) intercepts; a class absent from y gets a very small probability."""
        from sklearn.linear_model import LogisticRegression

        sgd = self.solver == "sgd"
        self.link = "sigmoid" if self.task == "binary" else "ovr" if sgd else "softmax"
        found = np.unique(np.asarray(y, np.int64))
        if len(found) == 1:
            return constant(X.shape[1], int(found[0]), self.task == "binary")
        if sgd:
            coef, bias = self._sgd_classification(X, y, weight)
        elif self.l1_ratio > 0.0:
            coef, bias = sparse_logistic(X, y, weight, self.C, self.l1_ratio, self.max_iter)
        else:
            model = LogisticRegression(C=self.C, max_iter=self.max_iter).fit(X, y, sample_weight=weight)
            coef, bias = np.asarray(model.coef_, np.float64).T, np.asarray(model.intercept_, np.float64)
        if self.task == "binary":
            return coef, bias
        if coef.shape[1] == 1:  # only two of the classes are there: two opposite scores
            half = 1.0 if sgd else 0.5
            coef, bias = np.hstack([-half * coef, half * coef]), np.concatenate([-half * bias, half * bias])
        count = int(found[-1]) + 1
        full, offsets = np.zeros((coef.shape[0], count)), np.full(count, bias.min() - 20.0)
        full[:, found], offsets[found] = coef, bias
        return full, offsets

    def _sgd_classification(
        self, X: Any, y: NDArray[Any], weight: NDArray[np.float64] | None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        from sklearn.linear_model import SGDClassifier

        model = SGDClassifier(loss="log_loss", penalty=self.penalty, **self._sgd(X))
        model.fit(with_ones(X), y, sample_weight=weight)
        return split_intercept(model)

    def _scores(self, X: Any) -> NDArray[np.float32]:
        return np.asarray(X @ self.weights, np.float32) + self.bias

    def predict(self, X: Any) -> NDArray[np.float32]:
        return self._scores(X)[:, 0]

    def predict_proba(self, X: Any) -> NDArray[np.float32]:
        scores = self._scores(X)
        if self.link == "softmax":
            return softmax(scores)
        odds = sigmoid(scores)
        if self.link == "ovr":
            return np.asarray(odds / odds.sum(axis=1, keepdims=True), np.float32)
        return np.hstack([1 - odds, odds])


def sigmoid(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / (1 + exp(-scores)), without overflow."""
    small = np.exp(-np.abs(scores))
    return np.asarray(np.where(scores >= 0, 1 / (1 + small), small / (1 + small)), np.float32)


def softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


@contextmanager
def bounded(threads: int) -> Iterator[None]:
    """At most `threads` BLAS and OpenMP threads; stopping at `max_iter` is a choice of the plan, not worth a warning."""
    from sklearn.exceptions import ConvergenceWarning

    with threadpool_limits(threads), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def with_ones(X: Any) -> Any:
    """A sparse matrix with a column of ones added: scikit-learn's SGD learns its intercept a hundred times slower there."""
    if isinstance(X, np.ndarray):
        return X
    from scipy.sparse import csr_matrix, hstack

    return hstack([X, csr_matrix(np.ones((X.shape[0], 1), np.float32))], format="csr")


def split_intercept(model: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(d, outputs) coefficients and (outputs,) intercepts of a fit on `with_ones`."""
    coef = np.atleast_2d(np.asarray(model.coef_, np.float64)).T
    if model.fit_intercept:
        return coef, np.asarray(model.intercept_, np.float64)
    return coef[:-1], coef[-1]


def constant(width: int, code: int, binary: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coefficients and intercepts that always predict the one class there is."""
    if binary:
        return np.zeros((width, 1)), np.array([20.0 if code else -20.0])
    bias = np.full(code + 1, -20.0)
    bias[code] = 20.0
    return np.zeros((width, code + 1)), bias


def sparse_logistic(
    X: Any, y: NDArray[Any], weight: NDArray[np.float64] | None, C: float, l1_ratio: float, max_iter: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """L1 or elastic net logistic regression: (d, outputs) coefficients of the classes found, and the intercepts.

    Minimises C * sum of log losses + l1_ratio * |w| + (1 - l1_ratio) / 2 * |w|^2, as scikit-learn does, by accelerated
    proximal steps with restarts (Beck and Teboulle, 2009; O'Donoghue and Candes, 2015). The columns are centred and
    scaled to one variance within the products, so that dense and sparse matrices take the same path. Measured on adult
    (39,000 x 108): 1 s of saga or 10 s of liblinear buy what 0.3 s do here.
    """
    codes = np.unique(y, return_inverse=True)[1]
    classes = int(codes.max()) + 1
    truth = (
        np.eye(classes, dtype=np.float32)[codes][:, 1:] if classes == 2 else np.eye(classes, dtype=np.float32)[codes]
    )
    w = np.ones((len(y), 1), np.float32) if weight is None else np.asarray(weight, np.float32)[:, None]
    total = float(w.sum(dtype=np.float64))
    mean, scale = moments(X, w, total)
    chances = (truth * w).sum(axis=0, dtype=np.float64) / total

    def gradient(
        coef: NDArray[np.float64], bias: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        scores = X @ (coef / scale[:, None]).astype(np.float32) + (bias - (mean / scale) @ coef).astype(np.float32)
        residual = w * ((sigmoid(scores) if classes == 2 else softmax(scores)) - truth)
        summed = residual.sum(axis=0, dtype=np.float64)
        raw = np.asarray(X.T @ residual, np.float64) - mean[:, None] * summed
        return raw / scale[:, None] / total, summed / total

    bound = (0.25 if classes == 2 else 0.5) * max(1.0, largest_eigenvalue(X, w, mean, scale, total))
    ridge_part, lasso_part = (1 - l1_ratio) / (C * total) / scale[:, None] ** 2, l1_ratio / (C * total) / scale[:, None]
    step = 1.0 / bound
    coef = ahead = np.zeros((X.shape[1], truth.shape[1]))
    bias = ahead_bias = np.log(chances / (1 - chances)) if classes == 2 else np.log(chances)
    momentum = 1.0
    for _ in range(max_iter):
        slope, bias_slope = gradient(ahead, ahead_bias)
        moved = ahead - step * slope
        after = np.sign(moved) * np.maximum(0.0, np.abs(moved) - step * lasso_part) / (1.0 + step * ridge_part)
        after_bias = ahead_bias - step * bias_slope
        change, bias_change = after - coef, after_bias - bias
        if float(np.sum((ahead - after) * change) + np.sum((ahead_bias - after_bias) * bias_change)) > 0.0:
            momentum = 1.0  # the momentum points uphill: start it again
        following = (1.0 + np.sqrt(1.0 + 4.0 * momentum**2)) / 2.0
        share = (momentum - 1.0) / following
        coef, bias, momentum = after, after_bias, following
        ahead, ahead_bias = coef + share * change, bias + share * bias_change
        if np.abs(change).max(initial=0.0) < 1e-5 and np.abs(bias_change).max() < 1e-5:
            break
    coef = coef / scale[:, None]
    return coef, bias - mean @ coef


def moments(X: Any, w: NDArray[np.float32], total: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weighted mean (d,) and standard deviation (d,) of the columns; 1 for a constant column, at least a thousandth."""
    mean = np.asarray(X.T @ w, np.float64)[:, 0] / total
    squares = X.multiply(X) if not isinstance(X, np.ndarray) else np.square(X)
    variance = np.asarray(squares.T @ w, np.float64)[:, 0] / total - mean**2
    scale = np.sqrt(np.maximum(variance, 1e-6))
    return mean, np.where(variance <= 1e-10, 1.0, scale)


def largest_eigenvalue(
    X: Any, w: NDArray[np.float32], mean: NDArray[np.float64], scale: NDArray[np.float64], total: float
) -> float:
    """Of the columns' weighted correlation matrix, by power iteration, with a tenth for safety."""
    vector, value = np.random.default_rng(0).normal(size=len(mean)), 1.0
    for _ in range(12):
        vector /= np.linalg.norm(vector) or 1.0
        image = w[:, 0] * (X @ (vector / scale).astype(np.float32) - np.float32((mean / scale) @ vector))
        vector = (np.asarray(X.T @ image, np.float64) - mean * float(image.sum(dtype=np.float64))) / scale / total
        value = float(np.linalg.norm(vector))
    return 1.1 * value


def ridge(
    X: Any, target: NDArray[np.float64], weight: NDArray[np.float64], alpha: float, max_iter: int
) -> tuple[NDArray[np.float64], float]:
    """Weighted ridge regression with a free intercept: exact by the Gram matrix, summed in float64 over blocks of rows.

    Above EXACT_COLUMNS columns it is scikit-learn's conjugate gradient (sparse) or LSQR (dense).
    """
    rows, width = X.shape
    if width > EXACT_COLUMNS:
        from sklearn.linear_model import Ridge

        solver = "lsqr" if isinstance(X, np.ndarray) else "sparse_cg"
        model = Ridge(alpha=alpha, solver=solver, max_iter=max_iter, tol=1e-4).fit(X, target, sample_weight=weight)
        return np.asarray(model.coef_, np.float64), float(model.intercept_)
    gram, moment, sums = np.zeros((width, width)), np.zeros(width), np.zeros(width)
    step = max(1, BLOCK_CELLS // max(1, width))
    for i in range(0, rows, step):
        part = X[i : i + step]
        block = np.asarray(part if isinstance(part, np.ndarray) else part.toarray(), np.float64)
        weighted = block * weight[i : i + step][:, np.newaxis]
        gram += weighted.T @ block
        moment += weighted.T @ target[i : i + step]
        sums += weighted.sum(axis=0)
    total = float(weight.sum())
    mean, level = sums / total, float(weight @ target) / total
    gram -= total * np.outer(mean, mean)
    gram[np.diag_indices(width)] += alpha + 1e-12 * np.trace(gram) / max(1, width)
    coef = np.asarray(np.linalg.solve(gram, moment - total * mean * level), np.float64)
    return coef, level - float(mean @ coef)
