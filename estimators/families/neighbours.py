"""Nearest neighbours by euclidean distance among at most 20,000 reference rows, written as one matrix product."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..encoder import View
from ..family import Facts, Family, Params
from ..hardware import Hardware
from ..narrow import LEAST, rounded
from ..space import Choice, Float, Int, Space, Value

if TYPE_CHECKING:
    from ..graph import Graph

LARGE_ROWS = 100_000
REFERENCES = 20_000
BLOCK_CELLS = 4_000_000
"""Distances held at a time by a native prediction."""
SHARPNESS = 10.0
"""How many times less a neighbour at the usual distance of the k-th weighs than one at distance 0 (about)."""


class Neighbours(Family):
    """k nearest neighbours: the mean target of the nearest of at most 20,000 reference rows, drawn to the overall mean as by `smoothing` further rows.

    Without that a probability of k equal neighbours is 0 or 1, and its log loss infinite.
    """

    name: ClassVar[str] = "neighbours"
    sparse: ClassVar[bool] = False
    reduces: ClassVar[bool] = True
    bagged: ClassVar[bool] = False
    order: ClassVar[int] = 20
    seconds_per_unit: ClassVar[float] = 4e-10

    def views(self, facts: Facts) -> Sequence[View]:
        onehot = View(numeric="scaled", categories="onehot", max_onehot=32)
        return (View(numeric="scaled", categories="target"), onehot) if facts.categorical else (onehot,)

    def space(self, facts: Facts) -> Space:
        return {
            "k": Int(1, 100, log=True),
            "weights": Choice(("uniform", "distance")),
            "references": Int(500, self.most(facts), log=True),
            "smoothing": Float(0.003, 10.0, log=True),
        }

    def starts(self, facts: Facts) -> Sequence[dict[str, Value]]:
        smoothing = 0.01 if facts.task == "regression" else 0.3
        points: list[tuple[int, int]] = [(10, 2_000), (40, self.most(facts))]
        return [
            {"k": k, "weights": "distance", "references": references, "smoothing": smoothing}
            for k, references in points
        ]

    def most(self, facts: Facts) -> int:
        """Reference rows at the most: on large tables a distance to each of 20,000 makes scoring slower than the fits."""
        return REFERENCES if facts.rows < LARGE_ROWS else REFERENCES // 4

    def cost(self, params: Params, rows: int, columns: int, classes: int) -> dict[str, float]:
        # the fit keeps rows and measures one distance scale; what costs is predicting, which the trial does as well
        references = self.capacity(params, rows)
        return {"1": 1e6, "n d": float(rows * max(1, columns)), "r d": 500.0 * references * max(1, columns)}

    def capacity(self, params: Params, rows: int) -> float:
        return float(min(rows, int(params.get("references", REFERENCES))))

    def build(
        self, params: Params, task: str, hardware: Hardware, seed: int, categorical: Sequence[int] = ()
    ) -> NeighboursModel:
        return NeighboursModel(params, task, seed)

    def narrowed(self, model: NeighboursModel, dtype: str) -> NeighboursModel | None:
        if model.references.size < LEAST:
            return None
        narrow = copy.copy(model)
        narrow.references = rounded(model.references, dtype)
        narrow.norms = lengths(narrow.references)
        return narrow

    def to_onnx(self, model: NeighboursModel, graph: Graph, x: str) -> str:
        centred = graph.node("Sub", x, graph.constant(model.mean[None, :]))
        references = graph.constant(model.references)
        scores = graph.node("Gemm", centred, references, graph.constant(model.norms), alpha=-2.0, transB=1)
        index = smallest(graph, scores, model.k)
        targets = graph.node("Gather", graph.constant(model.targets), index, axis=0)  # (n, k, outputs)
        weights = ""
        if model.distance:
            middle, last = (graph.constant(np.array([axis], np.int64)) for axis in (1, 2))
            near = graph.node("Gather", references, index, axis=0)  # (n, k, d)
            apart = graph.node("Sub", graph.node("Unsqueeze", centred, middle), near)
            squared = graph.node("ReduceSumSquare", apart, last, keepdims=0)
            ratio = graph.node("Mul", squared, graph.constant(np.array([model.sharpness], np.float32)))
            weights = graph.node("Reciprocal", graph.node("Add", ratio, graph.constant(np.ones(1, np.float32))))
        if model.row_weights is not None:
            own_weights = graph.node("Gather", graph.constant(model.row_weights), index, axis=0)
            weights = graph.node("Mul", weights, own_weights) if weights else own_weights
        prior = graph.constant(model.prior[None, :] * np.float32(model.smoothing))
        smoothing = graph.constant(np.array([[model.smoothing]], np.float32))
        # sums as products with constant 0/1 matrices: their rounding does not depend on where a row stands in a batch
        k, outputs = model.k, model.targets.shape[1]
        if weights:
            weighted = graph.node(
                "Mul", targets, graph.node("Unsqueeze", weights, graph.constant(np.array([2], np.int64)))
            )
            ones = graph.constant(np.ones((k, 1), np.float32))
            total = graph.node("Add", graph.node("MatMul", weights, ones), smoothing)
        else:
            weighted, total = targets, graph.constant(np.array([[k + model.smoothing]], np.float32))
        flat = graph.node("Reshape", weighted, graph.constant(np.array([-1, k * outputs], np.int64)))
        columns = graph.constant(np.tile(np.eye(outputs, dtype=np.float32), (k, 1)))
        summed = graph.node("Add", graph.node("MatMul", flat, columns), prior)
        mean = graph.node("Div", summed, total)
        if model.task != "regression":
            return mean
        spread = graph.node("Mul", mean, graph.constant(np.array([[model.scale]], np.float32)))
        return graph.node("Add", spread, graph.constant(np.array([[model.level]], np.float32)))


def smallest(graph: Graph, scores: str, k: int) -> str:
    """The positions of the k smallest scores of each row, equal ones by position (ONNX TopK)."""
    _, index = graph.nodes("TopK", 2, scores, graph.constant(np.array([k], np.int64)), axis=1, largest=0, sorted=1)
    return index


class NeighboursModel:
    """Reference rows and their targets as float32 arrays; `predict` computes what the exported graph computes."""

    references: NDArray[np.float32]
    """(R, d), less `mean` (d,), so that the squared distances lose no digits to a common offset."""
    norms: NDArray[np.float32]
    """(R,) squared lengths of the references."""
    targets: NDArray[np.float32]
    """(R, outputs): indicators of the classes (of the second one if binary), or standardised values."""
    row_weights: NDArray[np.float32] | None
    prior: NDArray[np.float32]
    """(outputs,) mean target of all training rows."""

    def __init__(self, params: Params, task: str, seed: int = 0) -> None:
        self.task = task
        self.seed = seed
        self.k = int(params.get("k", 10))
        self.limit = min(REFERENCES, int(params.get("references", REFERENCES)))
        self.distance = params.get("weights", "uniform") == "distance"
        self.smoothing = float(params.get("smoothing", 0.3))

    def fit(self, X: Any, y: NDArray[Any], sample_weight: NDArray[np.float64] | None = None) -> NeighboursModel:
        weights = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight, np.float64)
        targets = self._targets(y, weights)
        self.prior = np.average(targets, axis=0, weights=weights).astype(np.float32)
        chosen = spread_rows(y, self.limit, self.seed)
        rows = np.asarray(X[chosen] if isinstance(X, np.ndarray) else X[chosen].toarray(), np.float32)
        self.mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        self.references = np.ascontiguousarray(rows - self.mean)
        self.norms = lengths(self.references)
        self.targets = np.ascontiguousarray(targets[chosen])
        self.k = min(self.k, len(chosen))
        self.row_weights = None
        if np.ptp(weights[chosen]) > 0.0:
            self.row_weights = (weights[chosen] / weights[chosen].mean()).astype(np.float32)
        self.sharpness = self._sharpness() if self.distance else 0.0
        return self

    def _targets(self, y: NDArray[Any], weights: NDArray[np.float64]) -> NDArray[np.float32]:
        self.level, self.scale = 0.0, 1.0
        if self.task == "regression":
            self.level = float(np.average(y, weights=weights))
            self.scale = float(np.sqrt(np.average((y - self.level) ** 2, weights=weights))) or 1.0
            return ((np.asarray(y, np.float64) - self.level) / self.scale).astype(np.float32)[:, None]
        if self.task == "binary":
            return np.asarray(y, np.float32)[:, None]
        return np.eye(int(y.max()) + 1, dtype=np.float32)[np.asarray(y, np.int64)]

    def _sharpness(self) -> float:
        """SHARPNESS over the median squared distance of a reference to its k-th neighbour, which is taken no smaller than a
        twentieth of the mean squared length: where most references are equal, weights would tell single ones apart.
        """
        some = np.random.default_rng(self.seed).permutation(len(self.references))[:500]
        scores = self.norms - 2 * (self.references[some] @ self.references.T)
        kth = np.partition(scores, min(self.k, len(self.norms) - 1), axis=1)[:, min(self.k, len(self.norms) - 1)]
        usual = float(np.median(kth + self.norms[some]))
        return SHARPNESS / max(usual, 0.05 * float(self.norms.mean(dtype=np.float64)), 1e-12)

    def _scores(self, X: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(scores, rows): squared distances less the row's own squared length (n, R), and the rows less `mean` (n, d)."""
        centred = np.asarray(X if isinstance(X, np.ndarray) else X.toarray(), np.float32) - self.mean
        return np.float32(-2) * (centred @ self.references.T) + self.norms, centred

    def _nearest(self, scores: NDArray[np.float32]) -> NDArray[np.int64]:
        """(n, k) positions of the smallest scores; of equal ones the first, as ONNX's TopK has it."""
        if self.k == scores.shape[1]:
            return np.broadcast_to(np.arange(self.k), scores.shape)
        index = np.argpartition(scores, self.k - 1, axis=1)[:, : self.k]
        largest = np.take_along_axis(scores, index, axis=1).max(axis=1)
        for i in np.flatnonzero((scores <= largest[:, None]).sum(axis=1) > self.k):
            index[i] = np.argsort(scores[i], kind="stable")[: self.k]
        return index

    def _mean(self, X: Any) -> NDArray[np.float32]:
        scores, centred = self._scores(X)
        index = self._nearest(scores)
        weights = np.ones(index.shape, np.float32)
        if self.distance:  # of differences: a score of a long row has lost the digits of a short distance
            apart = centred[:, None, :] - self.references[index]
            squared = np.einsum("nkd,nkd->nk", apart, apart)
            weights = 1 / (squared * np.float32(self.sharpness) + np.float32(1))
        if self.row_weights is not None:
            weights = weights * self.row_weights[index]
        summed = np.einsum("nk,nko->no", weights, self.targets[index]) + self.prior * np.float32(self.smoothing)
        return np.asarray(summed / (weights.sum(axis=1, keepdims=True) + np.float32(self.smoothing)), np.float32)

    def _blocks(self, rows: int) -> list[slice]:
        count, width = self.references.shape
        step = max(1, BLOCK_CELLS // max(count, self.k * width))
        return [slice(i, i + step) for i in range(0, rows, step)]

    def _all(self, X: Any) -> NDArray[np.float32]:
        parts = [self._mean(X[block]) for block in self._blocks(X.shape[0])]
        return np.concatenate(parts) if parts else np.empty((0, len(self.prior)), np.float32)

    def predict(self, X: Any) -> NDArray[np.float32]:
        return self._all(X)[:, 0] * np.float32(self.scale) + np.float32(self.level)

    def predict_proba(self, X: Any) -> NDArray[np.float32]:
        mean = self._all(X)
        return np.hstack([1 - mean, mean]) if self.task == "binary" else mean

    def tied(self, X: Any) -> NDArray[np.bool_]:
        """Rows whose prediction hangs on a distance tie.

        Those with references of different targets or weights around the k-th distance that are apart by less than the
        rounding of the distances, so that another order of summation may choose others of them.
        """
        result = np.zeros(X.shape[0], bool)
        if self.k == len(self.references):
            return result
        largest = float(self.norms.max())
        for block in self._blocks(X.shape[0]):
            scores, centred = self._scores(X[block])
            own = lengths(centred)[:, None]
            kth = np.partition(scores, self.k - 1, axis=1)[:, self.k - 1 : self.k]
            slack = np.float32(16 * np.finfo(np.float32).eps) * (own + np.float32(largest))
            for i in np.flatnonzero((scores <= kth + slack).sum(axis=1) > self.k):
                around = np.abs(scores[i] - kth[i]) <= slack[i]
                differ = np.ptp(self.targets[around], axis=0).any()
                if self.row_weights is not None:
                    differ = differ or np.ptp(self.row_weights[around]) > 0
                result[block.start + i] = bool(differ)
        return result


def lengths(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n,) squared lengths of the rows."""
    return np.asarray(np.einsum("ij,ij->i", rows, rows), np.float32)


def spread_rows(y: NDArray[Any], count: int, seed: int) -> NDArray[np.int64]:
    """Positions of at most `count` rows in order, seeded, with the classes (or the values' quantiles) in their proportions."""
    if len(y) <= count:
        return np.arange(len(y))
    order = np.lexsort((np.random.default_rng(seed).permutation(len(y)), y))
    return np.sort(order[(np.arange(count) * (len(y) / count)).astype(np.int64)])
