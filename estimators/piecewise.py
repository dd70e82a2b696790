"""Piecewise-linear embeddings of numbers (Gorishniy, Rubachev and Babenko 2022, arXiv 2203.05556): the package's for training, folded for predicting."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .graph import Graph

BIN_ROWS = 50_000
"""The embeddings' edges are found on at most so many rows."""
OPEN = float(np.finfo(np.float32).max)
"""The bound of a bin that has none: the outermost ones go on as straight lines."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Bins:
    """The piecewise-linear embeddings as they predict, float32.

    Each bin is min(max((x - left) * slope, low), high) of column `columns[j]`; `weights` (bins, d e) and `base` (d e,) make
    the embeddings of them. The edge is taken off before the slope is multiplied on: exact to the bit near the edge.
    """

    columns: NDArray[np.int64]
    left: Floats
    slope: Floats
    low: Floats
    high: Floats
    weights: Floats
    base: Floats

    def __call__(self, X: Floats) -> Floats:
        bins = np.minimum(np.maximum((X[:, self.columns] - self.left) * self.slope, self.low), self.high)
        return np.asarray(bins @ self.weights + self.base, np.float32)

    def to_onnx(self, graph: Graph, x: str) -> str:
        h = graph.node("Gather", x, graph.constant(self.columns), axis=1)
        h = graph.node("Mul", graph.node("Sub", h, graph.constant(self.left)), graph.constant(self.slope))
        h = graph.node("Min", graph.node("Max", h, graph.constant(self.low)), graph.constant(self.high))
        return graph.node("Gemm", h, graph.constant(self.weights), graph.constant(self.base))


def edges_of(X: Floats, count: int) -> tuple[list[Any], NDArray[np.int64]]:
    """(the bins' edges, the columns that they are of): quantiles, `count` bins at most.

    Where most of these are one value (a column that is nearly always zero), those of the distinct values are added: the
    rows that differ are what such a column says. Columns of two values have none.
    """
    import torch
    from rtdl_num_embeddings import compute_bins

    some = X[:: -(-len(X) // BIN_ROWS)]
    several = np.flatnonzero((np.diff(np.sort(some, axis=0), axis=0) > 0).sum(axis=0) > 1)
    if count < 2 or len(some) <= count or not len(several):
        return [], several[:0]
    given = torch.from_numpy(np.ascontiguousarray(some[:, several]))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*just two bin edges")
        bins = compute_bins(given, count)
    steps = torch.linspace(0.0, 1.0, count // 2 + 1)
    for i, edges in enumerate(bins):
        if len(edges) - 1 < count / 2:
            bins[i] = torch.cat([edges, torch.quantile(given[:, i].unique(), steps)]).unique()
    kept = [i for i, edges in enumerate(bins) if len(edges) > 2]
    return [bins[i] for i in kept], several[kept]


def folded_embedding(
    embedding: Any, edges: Sequence[NDArray[np.float64]], columns: NDArray[np.int64], array: Callable[[Any], Any]
) -> Bins:
    """The package's embedding, a line and what its bins add to it: the line is a sum of the same bins, from the first edge on.

    Its layout of a column's bins is the leading ones first, the last one at the end.
    """
    line, offset, table = array(embedding.linear0.weight), array(embedding.linear0.bias), array(embedding.linear.weight)
    size = table.shape[2]
    counts = [len(each) - 1 for each in edges]
    starts = np.concatenate([[0], np.cumsum(counts)])
    folded = np.zeros((starts[-1], len(edges) * size))
    low, high = np.zeros(starts[-1]), np.ones(starts[-1])
    low[starts[:-1]], high[starts[1:] - 1] = -OPEN, OPEN
    for i, each in enumerate(edges):
        own = np.vstack([table[i, : counts[i] - 1], table[i, -1:]])
        folded[starts[i] : starts[i + 1], i * size : (i + 1) * size] = own + np.diff(each)[:, None] * line[i]
    left = np.concatenate([each[:-1] for each in edges])
    slope = 1.0 / np.concatenate([np.diff(each) for each in edges])
    base = offset + np.array([each[0] for each in edges])[:, None] * line
    return Bins(np.repeat(columns, counts), *map(floats, (left, slope, low, high, folded, base.reshape(-1))))


def floats(array: NDArray[Any]) -> Floats:
    return np.ascontiguousarray(array, np.float32)
