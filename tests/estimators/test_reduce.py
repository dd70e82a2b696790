"""The reduction: orthogonal directions of most variance, the same in the graph, sparse or dense."""

from __future__ import annotations

import numpy as np
import pytest

from automl.estimators.graph import Graph, session
from automl.estimators.reduce import Reduction


def low_rank(rows: int = 300, width: int = 40, rank: int = 3) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, width)) + 2.0).astype(np.float32)


def test_distances_keep_their_ratios_when_the_rank_suffices() -> None:
    X = low_rank()
    Z = Reduction().fit(X, 3, seed=1).transform(X)
    before, after = (np.linalg.norm(A[1:] - A[:1], axis=1) for A in (X, Z))
    np.testing.assert_allclose(after / before, (after / before)[0], rtol=1e-3)
    assert Z.dtype == np.float32
    assert np.mean(Z.var(axis=0)) == pytest.approx(1.0, rel=0.02)


def test_the_graph_says_the_same() -> None:
    X = low_rank()
    reduction = Reduction().fit(X, 5)
    graph = Graph(X.shape[1])
    found = session(graph.model(reduction.to_onnx(graph, graph.x)).SerializeToString()).run(None, {"x": X})[0]
    np.testing.assert_allclose(found, reduction.transform(X), atol=1e-5)


def test_a_sparse_matrix_is_not_centred_and_equals_its_dense_image() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    rng = np.random.default_rng(0)
    S = sparse.csr_matrix((rng.random((200, 600)) < 0.02).astype(np.float32))
    reduction = Reduction().fit(S, 16, seed=0)
    assert reduction.width == 16
    assert not reduction.offset.any()
    np.testing.assert_allclose(reduction.transform(S), reduction.transform(S.toarray()), atol=1e-5)
    np.testing.assert_array_equal(reduction.components, Reduction().fit(S, 16, seed=0).components)


def test_no_more_directions_than_rows_or_columns_and_constants_are_fine() -> None:
    assert Reduction().fit(low_rank(rows=4), 64).width == 4
    assert np.isfinite(Reduction().fit(np.ones((20, 5), np.float32), 2).transform(np.ones((3, 5), np.float32))).all()
