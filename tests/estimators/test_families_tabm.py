"""TabM: what it predicts is what the authors' package computes, on columns of every kind, in one graph of few operators."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from automl.estimators.artifact import _batch
from automl.estimators.families import by_name, tabm
from automl.estimators.families.network import limited_threads
from automl.estimators.families.tabm import Recipe, TabM, Training
from automl.estimators.family import Facts
from automl.estimators.graph import Graph, session
from automl.estimators.hardware import Hardware
from automl.estimators.piecewise import edges_of

pytestmark = pytest.mark.skipif(not TabM().available(), reason="torch, tabm or rtdl_num_embeddings is not installed")
TASKS = ("binary", "multiclass", "regression")
SMALL: dict[str, Any] = {"k": 4, "d_block": 32, "n_bins": 8, "d_embedding": 4, "epochs": 12, "learning_rate": 0.01}


def table(task: str, rows: int = 600) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Numbers, one of them nearly always zero and then telling, a column of two values, and one of a single value."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, 6)).astype(np.float32)
    X[:, 2] = np.where(rng.random(rows) < 0.9, 0.0, rng.exponential(size=rows))
    X[:, 3], X[:, 4] = X[:, 3] > 0, 1.0
    score = np.sin(2 * X[:, 0]) - X[:, 1] + X[:, 3] + 2 * (X[:, 2] > 0) + 0.2 * rng.normal(size=rows)
    if task == "regression":
        return X, 5e4 + 1e4 * score.astype(np.float64)
    return X, np.digitize(score, [0.5] if task == "binary" else [-0.3, 1.0]).astype(np.int32)


def fitted(task: str, **params: Any) -> Any:
    model = TabM().build({**SMALL, **params}, task, Hardware(), 0)
    return model.fit(*table(task))


def graph_of(model: Any, width: int = 6) -> bytes:
    graph = Graph(width)
    return bytes(graph.model(TabM().to_onnx(model, graph, graph.x)).SerializeToString())


def said(model: Any, X: NDArray[np.float32]) -> NDArray[Any]:
    if model.task == "regression":
        return np.asarray(model.predict(X)).reshape(-1, 1)
    found = np.asarray(model.predict_proba(X))
    return found[:, 1:] if model.task == "binary" else found


@pytest.mark.parametrize("task", TASKS)
def test_it_learns_and_its_graph_says_what_it_says(task: str) -> None:
    model = fitted(task)
    X, y = table(task)
    found, graph = said(model, X), graph_of(model)
    if task == "regression":
        assert np.mean((found[:, 0] - y) ** 2) < 0.3 * np.var(y)
    else:
        assert ((found[:, 0] > 0.5 if task == "binary" else found.argmax(axis=1)) == y).mean() > 0.75
    odd = np.vstack([X, 50 * X, np.zeros((1, 6), np.float32)])  # far beyond the outermost bins
    scale = np.maximum(np.std(y) if task == "regression" else 1.0, np.abs(said(model, odd)))
    assert np.abs((session(graph).run(None, {"x": odd})[0] - said(model, odd)) / scale).max() <= 1e-5
    assert _batch(graph) > 1  # its operators give a row the same bits in any batch


@pytest.mark.parametrize("n_bins", [8, 0])
def test_the_weights_folded_predict_as_the_packages_modules_do(n_bins: int) -> None:
    import torch

    X, y = table("regression")
    target = ((y - y.mean()) / y.std()).astype(np.float32)
    with limited_threads(1):
        training = Training(Recipe.of({**SMALL, "n_bins": n_bins}), "cpu", X, 1)
        training.run(X, target, None, 0)
    training.modules.eval()
    with torch.no_grad():
        wanted = training.forward(torch.from_numpy(X))[:, :, 0].mean(dim=1).numpy()
    found = training.net("regression", 0.0, 1.0).scores(X)[:, :, 0].sum(axis=1)
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_columns_of_two_values_go_in_as_they_are_and_a_rare_value_has_its_bins() -> None:
    bins, columns = edges_of(table("binary")[0], 8)
    assert columns.tolist() == [0, 1, 2, 5]
    assert all(2 < len(edges) <= 9 for edges in bins)
    assert (np.asarray(bins[2]) > 0).sum() >= 4  # 60 of the 600 rows: quantiles alone would have one edge there
    only_binary = (np.random.default_rng(0).random((50, 3)) > 0.5).astype(np.float32)
    assert edges_of(only_binary, 8)[0] == []
    assert edges_of(table("binary")[0][:8], 8)[0] == []  # fewer rows than bins


def test_many_heads_are_written_one_by_one(monkeypatch: Any) -> None:
    model = fitted("multiclass", epochs=4)
    wanted, together = said(model, table("multiclass")[0]), len(graph_of(model))
    monkeypatch.setattr(tabm, "HEAD_CELLS", 100)
    graph = graph_of(model)
    assert len(graph) < together
    assert _batch(graph) > 1
    assert np.abs(session(graph).run(None, {"x": table("multiclass")[0]})[0] - wanted).max() <= 1e-5


def test_it_keeps_its_best_epoch_and_refits_for_as_many() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(300, 6)).astype(np.float32), rng.integers(0, 2, 300)  # noise: any training is too much
    params = {**SMALL, "epochs": 40, "early_stopping": True}
    model: Any = TabM().build(params, "binary", Hardware(), 0)
    model.fit(X, y)
    assert model.epochs_ < 36
    refit = TabM().refit_params(params, model, 4.0)
    assert refit["early_stopping"] is False
    assert refit["epochs"] == max(4, min(40, round(model.epochs_ * 4.0**0.3)))


def test_training_that_diverges_says_so() -> None:
    with pytest.raises(FloatingPointError, match="learning_rate"):
        fitted("regression", learning_rate=1e30)


def test_it_is_not_searched_where_a_package_is_missing(monkeypatch: Any) -> None:
    from automl.run import usable

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "tabm" else found(name, *a))
    assert "tabm" not in {f.name for f in usable(by_name(), "binary", 300.0)}


def test_a_short_budget_cuts_the_epochs_of_its_starts() -> None:
    def epochs(budget: float) -> list[Any]:
        facts = Facts("regression", 30_000, 12, budget_seconds=budget)
        return [start["epochs"] for start in TabM().starts(facts)]

    assert epochs(7200.0) == [32, 32, 64]
    assert epochs(60.0)[0] < 32
    assert min(epochs(60.0)) >= 4
