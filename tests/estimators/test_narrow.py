"""Narrow storage is exact once a model is rounded, and its graph is float32 again when it is loaded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automl.estimators.families import by_name
from automl.estimators.graph import Graph, session
from automl.estimators.narrow import DTYPES, LEAST, narrowed, rounded
from automl.estimators.pipeline import Pipeline
from automl.estimators.table import Table, from_frame


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.sampled_from(DTYPES), st.floats(-6, 4))
def test_what_was_rounded_is_stored_without_a_further_loss(seed: int, dtype: str, magnitude: float) -> None:
    rng = np.random.default_rng(seed)
    weights = (rng.normal(size=(40, 20)) * 10.0**magnitude * rng.random(20)).astype("f4")
    weights[:, 3] = 0.0
    found = narrowed(rounded(weights, dtype), dtype)
    assert found is not None
    cells, scales = found
    wide = cells.astype("f4") if scales is None else cells.astype("f4") * scales
    np.testing.assert_array_equal(wide, rounded(weights, dtype))
    assert np.abs(wide - weights).max() <= np.abs(weights).max() * (0.005 if dtype == "int8" else 0.001) + 3e-8


def test_what_a_dtype_does_not_hold_stays_as_it_is() -> None:
    weights = np.random.default_rng(0).normal(size=(40, 20)).astype("f4")
    assert all(narrowed(weights, dtype) is None for dtype in (*DTYPES, "float32"))
    assert narrowed(np.ones(LEAST - 1, "f4"), "float16") is None
    with pytest.raises(OverflowError, match="65,504"):
        rounded(np.full((30, 30), 1e6, "f4"), "float16")


@pytest.fixture(scope="module")
def table() -> Table:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 30))
    return from_frame(X, np.array(["a", "b", "c"])[np.digitize(X[:, :3].sum(axis=1), [-1, 1])])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "params"),
    [("linear", {}), ("neighbours", {"references": 500}), ("network", {"width": 64, "layers": 2, "epochs": 3})],
)
def test_a_narrow_model_is_smaller_and_proven(
    table: Table, tmp_path: Any, name: str, params: dict[str, Any], dtype: str
) -> None:
    family = by_name([name])[0]
    if not family.available():
        pytest.skip(f"{name} needs {family.needs}")
    rows, facts = np.arange(600), table.facts()
    pipeline = Pipeline(family, {**family.starts(facts)[0], **params}, view=family.views(facts)[0]).fit(table, rows)
    narrow = pipeline.narrowed(dtype)
    if name == "linear":
        assert narrow is None, "there is nothing to gain on ninety weights"
        return
    assert narrow is not None
    whole_size, _ = pipeline.export(tmp_path / "whole", table, rows)
    size, proof = narrow.export(tmp_path / "narrow", table, rows)
    assert proof.largest_difference <= 1e-5
    graphs = [len(p.graph()[0]) for p in (pipeline, narrow)]
    assert graphs[1] < graphs[0] * (0.65 if dtype == "float16" else 0.5)
    assert whole_size - size == pytest.approx(graphs[0] - graphs[1], abs=2)  # the digits of its own size
    assert np.abs(narrow.predict(table, rows) - pipeline.predict(table, rows)).mean() < 0.02


def test_weights_are_float32_again_when_a_graph_is_loaded(tmp_path: Any) -> None:
    """onnxruntime folds Cast and Mul of constants, and not DequantizeLinear, which would be run for every row."""
    onnx = pytest.importorskip("onnx")
    import onnxruntime

    weights = np.random.default_rng(0).normal(size=(64, 32)).astype("f4")
    for dtype in DTYPES:
        graph = Graph(64, dtype)
        y = graph.node("MatMul", graph.x, graph.constant(rounded(weights, dtype)))
        model = graph.model(y).SerializeToString()
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / f"{dtype}.onnx")
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        assert [n.op_type for n in onnx.load(tmp_path / f"{dtype}.onnx").graph.node] == ["MatMul"]
        x = np.ones((2, 64), "f4")
        np.testing.assert_allclose(
            session(model).run(None, {"x": x})[0], x @ rounded(weights, dtype), rtol=1e-5, atol=1e-5
        )
