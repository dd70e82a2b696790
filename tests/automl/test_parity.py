"""The rows that exports are proven on reach what a model decides by, and a wrong export is found on them."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pytest

from automl.errors import ArtifactError
from automl.estimators import artifact, runtime
from automl.estimators.graph import Graph
from automl.estimators.trees import Trees, write
from automl.parity import MOST_DIFFERENCE, Reference, dict_rows, predictions, prove, sample_rows

SCHEMA = [
    ["n", "numeric"],
    ["c", "categorical"],
    ["d", "date"],
    ["t", "text"],
    ["s", "sparse", ["s0", "s1"]],
    ["unused", "numeric"],
]
ENTRIES: list[dict[str, Any]] = [
    {"as": "number", "column": 0},
    {"as": "ordinal", "column": 1, "levels": ["u", "NA"]},
    {"as": "absent", "column": 0},
    {"as": "date", "column": 2, "parts": ["days", "hour"], "center": [18000.0, 0.0]},
    {"as": "text", "column": 3, "kept": [3, 500]},
    {"as": "sparse", "column": 4},
]
THRESHOLD = np.float32(0.7)


def stump(width: int) -> bytes:
    trees = Trees(
        np.array([1]), np.array([0]), np.array([float(THRESHOLD)]), np.array([True]), np.array([-1]), np.array([-2]),
        np.array([[1.0], [5.0]]),
    )  # fmt: skip
    graph = Graph(width)
    return bytes(graph.model(write(graph, "x", trees, 1, np.zeros(1))).SerializeToString())


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    place = tmp_path_factory.mktemp("model") / "a"
    tables = {"schema": SCHEMA, "encode": ENTRIES}
    artifact.save(place, tables=tables, model=stump(runtime.RowEncoder(tables).width), task="regression")
    return Reference.open(place)


def test_rows_hold_the_columns_that_are_used_as_plain_values(reference: Reference) -> None:
    kinds = {name: {type(cell) for cell in cells} for name, cells in reference.rows.items()}
    assert set(kinds) == {"n", "c", "d", "t", "s0", "s1"}
    assert kinds["n"] == {float, type(None)}
    assert kinds["c"] == {str, type(None)}
    assert kinds["d"] == {datetime.datetime, type(None)}
    assert kinds["s0"] == {float}
    assert len(dict_rows(reference.rows)) == 1000


def test_a_column_has_missing_known_and_unseen_cells(reference: Reference) -> None:
    codes = {runtime.Ordinal(ENTRIES[1], "c").code(cell) for cell in reference.rows["c"]}
    assert codes == {runtime.MISSING, runtime.UNSEEN, 0, 1}
    assert any(runtime.text_buckets(text) and text for text in reference.rows["t"])


def test_a_number_stands_on_and_just_beside_a_threshold(reference: Reference) -> None:
    numbers = set(reference.rows["n"])
    assert {float(THRESHOLD), *(float(np.nextafter(THRESHOLD, np.float32(to))) for to in (0, 1))} <= numbers


def test_the_same_seed_makes_the_same_rows(reference: Reference) -> None:
    graph = reference.members["model.onnx"]
    first, again, other = (repr(sample_rows(reference.manifest, graph, 50, seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_an_equal_export_passes_and_says_on_how_many_rows(reference: Reference) -> None:
    said = reference.prove(lambda rows: predictions(reference.model, rows), "same")
    assert said.pop("artifact")
    assert said == {"format": "same", "rows": 1000, "largest_difference": 0.0, "allowed": MOST_DIFFERENCE}


def test_an_export_that_decides_otherwise_on_the_threshold_is_refused(reference: Reference) -> None:
    def wrong(rows: Any) -> Any:  # less, in the place of less or equal
        numbers = np.array([np.nan if v is None else v for v in rows["n"]])
        return np.where(np.isnan(numbers) | (numbers < THRESHOLD), 1.0, 5.0)

    with pytest.raises(ArtifactError, match="differ by"):
        prove(reference.model, reference.rows, wrong, "wrong")


@pytest.mark.parametrize("found", [np.zeros((1000, 2)), np.full(1000, np.nan)])
def test_other_shapes_and_no_numbers_are_refused(reference: Reference, found: Any) -> None:
    with pytest.raises(ArtifactError):
        prove(reference.model, reference.rows, lambda rows: found, "wrong")
