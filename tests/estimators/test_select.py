"""Rankings of input columns: each method finds the columns that matter, whatever the task, missing cells and sparsity."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from automl.estimators.errors import UsageError
from automl.estimators.select import METHODS, keep, quantile_codes, rank

REAL = METHODS[1:]


def table(task: str, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """12 columns of which 2, 5 and 9 matter."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(900, 12)).astype(np.float32)
    X[:, 5] = rng.integers(0, 3, 900)
    signal = X[:, 2] + X[:, 5] - 0.8 * X[:, 9] + 0.2 * rng.normal(size=900)
    if task == "regression":
        return X, signal.astype(np.float64)
    return X, np.digitize(signal, [1.0] if task == "binary" else [0.0, 2.0]).astype(np.int32)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("method", REAL)
def test_the_columns_that_matter_come_first(method: str, task: str) -> None:
    X, y = table(task)
    assert set(rank(X, y, task, method, range(12), 0)[:3].tolist()) == {2, 5, 9}
    holes = X.copy()
    holes[np.random.default_rng(1).random(X.shape) < 0.1] = np.nan
    holes[:, 0] = np.nan
    order = rank(holes, y, task, method, range(12), 0)
    assert set(order[:3].tolist()) == {2, 5, 9}
    assert sorted(order.tolist()) == list(range(12))


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("method", REAL)
def test_rows_count_by_their_weights(method: str, task: str) -> None:
    X, y = table(task)
    other = X[:, ::-1].copy()  # of these rows the columns 6, 2 and 9 say what 5, 9 and 2 did
    both, targets = np.vstack([X, other]), np.concatenate([y, y])
    for light, wanted in ((0, {2, 6, 9}), (1, {2, 5, 9})):
        weights = np.where(np.arange(1800) < 900, *((1e-3, 1.0) if light == 0 else (1.0, 1e-3)))
        assert set(rank(both, targets, task, method, range(12), 0, None, weights)[:3].tolist()) == wanted


@pytest.mark.parametrize("method", REAL)
def test_a_source_is_judged_by_all_its_columns(method: str) -> None:
    X, y = table("binary")
    sources = [7, 7, 7, 4, 4, 4, 1, 1, 1, 1, 1, 1]
    order = rank(X, y, "binary", method, sources, 0).tolist()
    assert sorted(order) == [1, 4, 7]
    np.testing.assert_array_equal(order, rank(X, y, "binary", method, sources, 0))


@pytest.mark.parametrize("method", REAL)
def test_sparse_ranks_as_dense_does(method: str) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    rng = np.random.default_rng(0)
    X = (rng.random((800, 30)) < 0.1).astype(np.float32)
    y = ((X[:, 3] + X[:, 20]) > 0).astype(np.int32)
    found = rank(sparse.csr_matrix(X), y, "binary", method, range(30), 0)
    assert set(found[:2].tolist()) == {3, 20}
    if method not in ("gain", "value"):  # only a dense matrix gets shadow columns
        np.testing.assert_array_equal(found, rank(X, y, "binary", method, range(30), 0))


@pytest.mark.parametrize("method", METHODS)
def test_constant_columns_and_constant_targets_are_ranked_too(method: str) -> None:
    X = np.ones((60, 4), np.float32)
    y = np.arange(60) % 2
    assert sorted(rank(X, y, "binary", method, [3, 2, 1, 0], 0).tolist()) == [0, 1, 2, 3]


def test_a_wide_table_takes_seconds() -> None:
    rng = np.random.default_rng(0)
    X = rng.poisson(0.1, size=(5_000, 856)).astype(np.float32)
    y = (X[:, :20].sum(axis=1) + rng.integers(0, 2, 5_000)).clip(0, 8).astype(np.int32)
    for method in REAL:
        started = time.process_time()
        order = rank(X, y, "multiclass", method, range(856), 0)
        # goal 2 s, measured 1 to 2; the limit leaves room for a busy machine
        assert time.process_time() - started < 8.0, method
        assert len(set(order[:20].tolist()) & set(range(20))) >= 15, method


def test_unknown_methods_and_fractions_are_refused() -> None:
    X, y = table("binary")
    with pytest.raises(UsageError, match="gain, l1"):
        rank(X, y, "binary", "magic", range(12), 0)
    with pytest.raises(UsageError, match="fraction"):
        keep([1, 2], 0.0)


def test_keep_takes_the_best_and_at_least_one() -> None:
    assert keep([4, 2, 7, 1], 0.5) == [4, 2]
    assert keep([4, 2, 7], 0.01) == [4]
    assert len(keep(list(range(30)), 0.1)) == 3
    assert keep([4, 2], 1.0) == [4, 2]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.sampled_from([0.0, 1.0, 2.5, -3.0, float("nan")]) | st.floats(-1e6, 1e6, width=32), min_size=1, max_size=80
    ),
    st.integers(2, 16),
)
def test_quantile_codes_are_ordered_like_the_values(values: list[float], bins: int) -> None:
    column = np.array(values, np.float32)[:, None]
    codes = quantile_codes(column, bins)[:, 0]
    missing = np.isnan(column[:, 0])
    assert (codes[missing] == bins).all()
    present, found = column[~missing, 0], codes[~missing]
    assert ((found >= 0) & (found < bins)).all()
    order = np.argsort(present, kind="stable")
    assert (np.diff(found[order]) >= 0).all()
