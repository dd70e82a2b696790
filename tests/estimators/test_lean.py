"""Columns that a model does not look at are in neither its graph nor its encoder, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from automl.estimators import runtime
from automl.estimators.blend import blend
from automl.estimators.encoder import View
from automl.estimators.families import by_name
from automl.estimators.graph import Graph
from automl.estimators.lean import prune
from automl.estimators.pipeline import Pipeline
from automl.estimators.table import from_frame

ROWS = np.arange(800)
ONEHOT = View(numeric="scaled", categories="onehot", max_onehot=32)


def frame(task: str) -> tuple[pd.DataFrame, Any]:
    """Numbers, categories and a date of which the first two columns alone say something."""
    rng = np.random.default_rng(0)
    X = pd.DataFrame({f"n{i}": rng.normal(size=800) for i in range(8)})
    X["cat"] = rng.choice(list("abcd"), 800)
    X["when"] = pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 1000, 800), unit="D")
    X.loc[:20, "n5"] = np.nan
    score = X.n0 + 2 * X.n1
    edges = [0.0] if task == "binary" else [-1.0, 1.0]
    return X, score if task == "regression" else np.array(["a", "b", "c"])[np.digitize(score, edges)]


def fitted(task: str, name: str, params: dict[str, Any], view: View) -> tuple[Any, Pipeline, pd.DataFrame]:
    X, y = frame(task)
    table = from_frame(X, y)
    return table, Pipeline(by_name([name])[0], params, view=view).fit(table, ROWS), X


@pytest.mark.parametrize(
    ("task", "name", "params", "view"),
    [
        ("regression", "tree", {"max_leaf_nodes": 4}, View()),
        ("multiclass", "tree", {"max_leaf_nodes": 4}, View()),
        ("binary", "lightgbm", {"n_estimators": 5, "num_leaves": 4}, View()),
        ("multiclass", "linear", {"penalty": "l1", "C": 0.02}, ONEHOT),
    ],
)
def test_what_is_not_read_is_gone_and_the_rest_predicts_as_before(
    tmp_path: Path, task: str, name: str, params: dict[str, Any], view: View
) -> None:
    table, pipeline, X = fitted(task, name, params, view)
    before = pipeline.columns
    _, proof = pipeline.export(tmp_path / "a", table, ROWS)
    assert proof.largest_difference <= 1e-5
    assert 1 <= pipeline.columns < before == 10
    assert "when" not in {entry.name for entry in pipeline.deployed.rows.entries}
    model = runtime.load(tmp_path / "a")
    kept = X[[column for column in X if column in {entry.name for entry in pipeline.deployed.rows.entries}]]
    native = pipeline.predict(table, ROWS)
    found = model.predict(kept) if task == "regression" else model.predict_proba(kept)
    np.testing.assert_allclose(found, native, atol=2e-5)
    assert model.predict_one({str(k): v for k, v in kept.iloc[3].items()}) == model.predict(kept)[3]


def test_lean_models_of_different_columns_are_blended(tmp_path: Path) -> None:
    table, one, X = fitted("regression", "tree", {"max_leaf_nodes": 4}, View())
    _, other, _ = fitted("regression", "linear", {"penalty": "l1", "C": 0.05}, ONEHOT)
    parts = []
    for place, pipeline in (("a", one), ("b", other)):
        pipeline.export(tmp_path / place, table, ROWS)
        parts.append((tmp_path / place, 1))
    _, proof, columns = blend(tmp_path / "both", parts, table, ROWS, 0)
    assert proof.largest_difference <= 1e-5
    assert columns < 10
    mean = (one.predict(table, ROWS) + other.predict(table, ROWS)) / 2
    np.testing.assert_allclose(runtime.load(tmp_path / "both").predict(X), mean, atol=1e-4)


def test_a_model_that_reads_everything_or_nothing_is_left_whole() -> None:
    tables = {"encode": [{"column": 0}, {"column": 1}], "schema": []}
    graph = Graph(2)
    whole = graph.model(graph.node("Neg", graph.x))
    before = whole.SerializeToString()
    assert prune(whole, tables, [0, 1, 2]) == (tables, None)
    assert whole.SerializeToString() == before
    graph = Graph(2)
    nothing = graph.model(graph.node("MatMul", graph.x, graph.constant(np.zeros((2, 1)))))
    assert prune(nothing, tables, [0, 1, 2])[0]["encode"] == [{"column": 0}], "rows are counted by a column"
