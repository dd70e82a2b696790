"""Truncated singular value decomposition (principal components of a dense matrix) in front of a dense model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .graph import Graph

FIT_CELLS = 50_000_000
"""The decomposition is computed on at most about this many cells: a seeded subsample of the rows."""


class Reduction:
    """`transform(X) = X @ components + offset`, float32 (n, k).

    A dense matrix is centred first (PCA); a sparse one stays sparse (truncated SVD, offset 0). All components share one
    factor that brings their mean variance to 1, so that distances keep their ratios and networks meet unit scale.
    Halko, Martinsson and Tropp (2011), as in scikit-learn's randomized_svd.
    """

    components: NDArray[np.float32]
    """(d, k)."""
    offset: NDArray[np.float32]
    """(k,), minus the image of the columns' means."""

    def fit(self, X: Any, k: int, seed: int = 0) -> Reduction:
        """Learns at most k directions, fewer if X (n, d), dense without NaN or CSR, has fewer rows or columns."""
        from sklearn.utils.extmath import randomized_svd

        rows, width = X.shape
        limit = max(4 * k, FIT_CELLS // max(1, width))
        dense = isinstance(X, np.ndarray)
        if dense and rows > limit:
            X = X[np.sort(np.random.default_rng(seed).choice(rows, limit, replace=False))]
        mean = X.mean(axis=0, dtype=np.float64).astype(np.float32) if dense else np.zeros(width, np.float32)
        rank = max(1, min(k, *X.shape))
        centred = X - mean if dense else X
        _, values, rows_of_v = randomized_svd(centred, rank, power_iteration_normalizer="QR", random_state=seed)
        variance = float(np.square(values, dtype=np.float64).mean()) / X.shape[0]
        factor = 1.0 / np.sqrt(variance) if variance > 0.0 else 1.0
        self.components = np.ascontiguousarray(rows_of_v.T * factor, np.float32)
        self.offset = -(mean.astype(np.float64) @ self.components).astype(np.float32)
        return self

    @property
    def width(self) -> int:
        """How many columns it returns."""
        return int(self.components.shape[1])

    def transform(self, X: Any) -> NDArray[np.float32]:
        return np.asarray(X @ self.components, np.float32) + self.offset

    def to_onnx(self, graph: Graph, x: str) -> str:
        """Writes the projection of `x` (n, d) into the graph; returns the name of the (n, k) result."""
        return graph.node("Gemm", x, graph.constant(self.components), graph.constant(self.offset))
