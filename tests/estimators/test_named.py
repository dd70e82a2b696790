"""The encoder written as ONNX nodes gives the runtime's bits, for every kind of column; what it cannot say is refused."""

from __future__ import annotations

import datetime
import math
from typing import Any

import numpy as np
import pytest

from automl.estimators import runtime
from automl.estimators.errors import ArtifactError
from automl.estimators.graph import Graph, session
from automl.estimators.named import NamedGraph, encoded, feeds, named_model

onnx = pytest.importorskip("onnx")
FLOAT = 1
NUMBERS: list[Any] = [
    0.0, -0.0, 1.5, None, math.nan, math.inf, -math.inf, 3.4028235e38, 1e39, -1e39, 1e-45, 1.7e9 + 1 / 3, 5e-324, "7", "NA",
]  # fmt: skip
LEVELS: list[Any] = ["u", "None", "r2", "", None, "NA", " ", "\t", "\u00a0", "\u3000\x1c", "never", "ü", "U", math.nan]
MOMENTS: list[Any] = [
    None,
    *(
        datetime.datetime(*parts)
        for parts in [
            (1, 1, 1), (4, 2, 29, 23, 59, 59), (100, 2, 28), (400, 2, 29), (1582, 10, 15), (1899, 12, 31, 12), (1900, 2, 28),
            (1969, 12, 31, 23, 59, 59, 999999), (1970, 1, 1), (2000, 2, 29), (2000, 3, 1), (2023, 12, 31, 23), (2024, 1, 1),
            (2024, 2, 29, 5, 6, 7, 8), (2100, 3, 1), (9999, 12, 31, 23, 59, 59, 999999),
        ]
    ),
]  # fmt: skip
CASES: dict[str, tuple[str, list[Any], list[dict[str, Any]]]] = {
    "number": ("numeric", NUMBERS, [{"as": "number"}]),
    "scaled": ("numeric", NUMBERS, [{"as": "scaled", "center": 0.3, "scale": 1.7}, {"as": "absent"}]),
    "shifted": ("numeric", NUMBERS, [{"as": "shifted", "shift": 1.7e9}]),
    "split": ("numeric", NUMBERS, [{"as": "shifted", "shift": 1.7e9, "split": True}]),
    "ordinal": ("categorical", LEVELS, [{"as": "ordinal", "levels": ["u", "None", "ü"]}]),
    "empty": ("categorical", LEVELS, [{"as": "ordinal", "levels": []}]),
    "onehot": ("categorical", LEVELS, [{"as": "onehot", "levels": ["u", "None"], "rare": ["r1", "r2"]}]),
    "onehot with missing": ("categorical", LEVELS, [{"as": "onehot", "levels": ["u", "None"], "missing": True}]),
    "target": (
        "categorical",
        LEVELS,
        [{"as": "target", "levels": ["u", "None"], "values": [[0.1, 2.0], [0.2, 3.0]], "missing": [5.0, 6.0], "other": [7.0, 8.0]}],
    ),
    "date": ("date", MOMENTS, [{"as": "date", "parts": list(runtime.DATE_PARTS), "center": [19000.0, 0, 0, 0, 0, 0, 18000.0]}]),
    "scaled date": (
        "date",
        MOMENTS,
        [{"as": "date", "parts": ["days", "hour"], "center": [1.0, 2.0], "scale": [300.0, 5.0], "absent": True}],
    ),
}  # fmt: skip


def matrix(tables: dict[str, Any], columns: dict[str, list[Any]]) -> Any:
    """The encoded matrix of the columns, by the graph."""
    encoder, graph = runtime.RowEncoder(tables), NamedGraph()
    value = encoded(graph, encoder)
    model = graph.named_model({"matrix": (value, FLOAT, encoder.width)})
    onnx.checker.check_model(model)
    return session(model.SerializeToString()).run(None, feeds(encoder, columns))[0]


@pytest.mark.parametrize("case", CASES)
def test_the_nodes_give_the_runtimes_bits(case: str) -> None:
    kind, cells, entries = CASES[case]
    tables = {"schema": [["a b", kind]], "encode": [{**entry, "column": 0} for entry in entries]}
    wanted = runtime.RowEncoder(tables).transform({"a b": cells})
    assert np.array_equal(matrix(tables, {"a b": cells}), wanted, equal_nan=True)
    assert len(np.unique(wanted, axis=0)) > (0 if case == "empty" else 2)


def test_many_dates_give_the_runtimes_bits() -> None:
    seconds = np.random.default_rng(0).integers(-62_135_596_800, 253_402_300_799, 20_000).tolist()
    cells = [datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=s) for s in seconds]
    entry = {"as": "date", "column": 0, "parts": list(runtime.DATE_PARTS), "center": [0.0] * 7}
    tables = {"schema": [["d", "date"]], "encode": [entry]}
    assert np.array_equal(matrix(tables, {"d": cells}), runtime.RowEncoder(tables).transform({"d": cells}))


def test_a_sparse_block_is_one_input() -> None:
    entry = {"as": "sparse", "column": 0, "kept": [0, 2], "scale": [0.5, 2.0]}
    tables = {"schema": [["block", "sparse", ["p", "q", "r"]]], "encode": [entry]}
    columns: dict[str, list[Any]] = {"p": [1.0, None, 1e39], "q": [0.0, 1.0, 2.0], "r": [2.5, 0.0, -1e39]}
    assert np.array_equal(matrix(tables, columns), runtime.RowEncoder(tables).transform(columns))


@pytest.mark.parametrize(
    ("kind", "entry", "why"),
    [
        ("text", {"as": "text", "kept": [1, 2]}, "column 'a'.* words are hashed by CRC-32"),
        ("categorical", {"as": "hashed", "buckets": 8}, "column 'a'.* levels are hashed by CRC-32"),
        ("categorical", {"as": "ordinal", "levels": ["\ud800"]}, "not UTF-8"),
    ],
)
def test_what_onnx_cannot_say_is_refused_with_the_reason(kind: str, entry: dict[str, Any], why: str) -> None:
    tables = {"schema": [["a", kind]], "encode": [{**entry, "column": 0}]}
    with pytest.raises(ArtifactError, match=why):
        encoded(NamedGraph(), runtime.RowEncoder(tables))


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800"])
def test_a_name_that_onnx_cannot_have_is_refused(name: str) -> None:
    tables = {"schema": [[name, "numeric"]], "encode": [{"as": "number", "column": 0}]}
    with pytest.raises(ArtifactError, match="rename it"):
        encoded(NamedGraph(), runtime.RowEncoder(tables))


@pytest.mark.parametrize("name", ["x", "y", "v0", "c0", "_x", "label", "probabilities", "in:a", "ü ☃", "a\nb"])
def test_a_column_may_have_any_name_of_the_graphs_own(name: str) -> None:
    found, outputs = labels(["no", "yes"], name=name)
    assert found == ["no", "yes"]
    assert outputs["label"] == ("label_" if name == "label" else "label")


@pytest.mark.parametrize("classes", [[False, True], [3, 7], [0.5, 2.5], ["no", "yes"]])
def test_labels_have_their_own_type(classes: list[Any]) -> None:
    found, _ = labels(classes)
    assert found == classes
    assert {type(label) for label in found} == {type(classes[0])}


def test_labels_of_several_classes_are_the_likeliest() -> None:
    graph = Graph(1)
    scores = graph.node("Gemm", graph.x, graph.constant([[1.0, 0.0, -1.0]]), graph.constant([0.0, 0.5, 0.0]))
    model = graph.model(graph.node("Softmax", scores, axis=1))
    found = run(model, ["a", "b", "c"], "multiclass", "n", [9.0, 0.1, -9.0])
    assert found["label"].tolist() == ["a", "b", "c"]
    assert found["probabilities"].shape == (3, 3)


def labels(classes: list[Any], name: str = "n") -> tuple[list[Any], dict[str, str]]:
    graph = Graph(1)
    model = graph.model(graph.node("Sigmoid", graph.x))
    manifest = manifest_of(classes, "binary", name)
    outputs = named_model(manifest, model.SerializeToString())[1]
    found = run(model, classes, "binary", name, [-1.0, 1.0])
    np.testing.assert_allclose(found[outputs["probabilities"]].sum(axis=1), 1.0, atol=1e-6)
    return found[outputs["label"]].tolist(), outputs


def manifest_of(classes: list[Any], task: str, name: str) -> dict[str, Any]:
    tables = {"schema": [[name, "numeric"]], "encode": [{"as": "number", "column": 0}]}
    return {"task": task, "classes": classes, "encoder": tables}


def run(model: Any, classes: list[Any], task: str, name: str, numbers: list[float]) -> dict[str, Any]:
    named, _ = named_model(manifest_of(classes, task, name), model.SerializeToString())
    onnx.checker.check_model(named)
    opened = session(named.SerializeToString())
    found = opened.run(None, {name: np.array(numbers).reshape(-1, 1)})
    return dict(zip([output.name for output in opened.get_outputs()], found, strict=True))
