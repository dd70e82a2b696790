"""A blend predicts the mean of its members' own artifacts, encodes nothing twice, and is an artifact like any other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from automl.estimators import artifact, runtime
from automl.estimators.blend import blend, merge_graphs, merge_tables
from automl.estimators.errors import ArtifactError
from automl.estimators.families import by_name
from automl.estimators.graph import Graph, session
from automl.estimators.pipeline import Pipeline
from automl.estimators.table import Table, Task
from automl.inputs import assemble

ROWS = np.arange(500)
TASKS = ("binary", "multiclass", "regression")


def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(600, 4)), columns=list("abcd"))
    X.loc[::9, "b"] = np.nan
    return X.assign(e=rng.choice(list("uvwxyz"), 600))


def table(task: str, X: pd.DataFrame) -> Table:
    score = np.asarray(X.a + (X.c > 0) + X.e.isin(["u", "w", "z"]) * X.d)
    y: Any = score * 1000.0 if task == "regression" else pd.qcut(score, 2 if task == "binary" else 3, labels=False)
    return assemble(X, np.asarray(y), None, None, None, None, None, None, task)[0]


def export(folder: Path, given: Table, family: str, view: int = 0) -> Path:
    """The artifact of a family's first start, fitted on the first rows of the table."""
    found, facts = by_name([family])[0], given.facts()
    pipeline = Pipeline(found, found.starts(facts)[0], view=found.views(facts)[view])
    pipeline.fit(given, ROWS).export(folder / f"{family}{view}", given, ROWS)
    return folder / f"{family}{view}"


def odd_rows(count: int = 1000) -> list[dict[str, Any]]:
    """Rows with missing values, levels never seen, and numbers far out."""
    rng = np.random.default_rng(1)
    rows = frame().sample(count, replace=True, random_state=0).to_dict("records")
    for row in rows:
        name = rng.choice(list("abcde"))
        odd = [None, "never seen"] if name == "e" else [None, float("nan"), 1e30, -7.5]
        row[name] = odd[rng.integers(len(odd))]
    return [{str(k): v for k, v in row.items()} for row in rows]


def said(place: Path, rows: Sequence[dict[str, Any]]) -> NDArray[np.float64]:
    with runtime.load(place) as model:
        return np.asarray(model.predict(rows) if model.task == "regression" else model.predict_proba(rows), np.float64)


@pytest.fixture(scope="module", params=TASKS)
def blended(request: Any, tmp_path_factory: Any) -> tuple[Path, list[tuple[Path, int]], Table]:
    """Six members of two views, among them both tree operators where there are three classes, and one encoder shared."""
    folder = tmp_path_factory.mktemp(request.param)
    given = table(request.param, frame())
    members = [
        (export(folder, given, "linear"), 1),
        (export(folder, given, "neighbours"), 2),
        (export(folder, given, "tree"), 1),
        (export(folder, given, "forest"), 3),
        (export(folder, given, "lightgbm"), 4),
        (export(folder, given, "lightgbm", 1), 1),
    ]
    size, proof, columns = blend(folder / "blend", members, given, ROWS, 0)
    assert size == sum(file.stat().st_size for file in (folder / "blend").iterdir())
    assert proof.rows == 1000
    assert proof.largest_difference < 1e-6
    assert columns == 5
    return folder / "blend", members, given


def test_a_blend_is_the_weighted_mean_of_its_members(blended: Any) -> None:
    place, members, given = blended
    rows = odd_rows()
    total = sum(weight * said(member, rows) for member, weight in members)
    mean = np.asarray(total) / sum(weight for _, weight in members)
    scale = np.maximum(np.std(given.y), np.abs(mean)) if given.task.kind == "regression" else 1.0
    assert np.abs((said(place, rows) - mean) / scale).max() < 1e-6


def test_a_row_alone_has_the_bits_that_it_has_in_a_batch(blended: Any) -> None:
    rows = odd_rows(300)
    with runtime.load(blended[0]) as model:
        regression = model.task == "regression"
        one, many = (model.predict_one, model.predict) if regression else (model.predict_proba_one, model.predict_proba)
        alone = np.stack([one(row) for row in rows])
        assert (alone == many(rows)).all()
        assert (alone[7:60] == many(rows[7:60])).all()


def test_a_blend_is_an_artifact_like_any_other(blended: Any, tmp_path: Path) -> None:
    place = blended[0]
    manifest = runtime.check(place)
    archive = artifact.pack(place, tmp_path / "blend.zip")
    assert (said(archive, odd_rows(20)) == said(place, odd_rows(20))).all()
    assert all(kind == np.float32 for kind in kinds(place))
    assert manifest["batch"] >= 1


def kinds(place: Path) -> set[Any]:
    import onnx

    model = onnx.load(place / "model.onnx")
    held = {onnx.helper.tensor_dtype_to_np_dtype(c.data_type) for c in model.graph.initializer}
    return {np.dtype(kind).type for kind in held if np.dtype(kind).kind == "f"}


def test_members_of_one_view_are_encoded_once(blended: Any) -> None:
    place, members, _ = blended
    manifests = [runtime.check(member) for member, _ in members]
    entries = [json.dumps(entry) for m in manifests for entry in m["encoder"]["encode"]]
    merged = runtime.check(place)["encoder"]["encode"]
    assert len(entries) > len(merged) == len({json.dumps(entry) for entry in merged}) == len(set(entries))


def test_only_models_of_one_target_and_one_table_are_blended(tmp_path: Path) -> None:
    binary, several = (table(task, frame()) for task in ("binary", "multiclass"))
    members = [(export(tmp_path, binary, "linear"), 1), (export(tmp_path, several, "tree"), 1)]
    with pytest.raises(ArtifactError, match="different things"):
        blend(tmp_path / "blend", members, binary, ROWS, 0)
    fewer = assemble(frame()[list("abc")], np.asarray(binary.y), None, None, None, None, None, None, "binary")[0]
    members[1] = (export(tmp_path, fewer, "tree"), 1)
    with pytest.raises(ArtifactError, match="different columns"):
        blend(tmp_path / "blend", members, binary, ROWS, 0)
    assert not (tmp_path / "blend").exists()
    assert isinstance(binary.task, Task)


def constant(value: float, width: int = 1) -> bytes:
    """A graph that says `value` of every row."""
    graph = Graph(width)
    zero = graph.node("MatMul", graph.x, graph.constant(np.zeros((width, 1))))
    return bytes(graph.model(graph.node("Add", zero, graph.constant([value]))).SerializeToString())


def test_no_rounding_takes_a_probability_beyond_one() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        weights = [int(w) for w in rng.integers(1, 9, size=rng.integers(2, 8))]
        model = merge_graphs([constant(1.0) for _ in weights], weights, [np.arange(1) for _ in weights], 1)
        assert session(model).run(None, {"x": np.zeros((1, 1), np.float32)})[0].tolist() == [[1.0]]


def test_each_graph_reads_its_own_columns() -> None:
    graphs = []
    for width in (2, 1, 3):
        graph = Graph(width)
        graphs.append(
            bytes(graph.model(graph.node("MatMul", graph.x, graph.constant(np.ones((width, 1))))).SerializeToString())
        )
    model = merge_graphs(graphs, [1, 1, 1], [np.array([2, 0]), np.array([1]), np.arange(3)], 3)
    found = session(model).run(None, {"x": np.array([[1.0, 10.0, 100.0]], np.float32)})[0]
    assert found[0, 0] == pytest.approx((101 + 10 + 111) / 3)


def test_merged_entries_stand_in_the_order_of_their_kinds() -> None:
    schema = [["a", "numeric"], ["b", "categorical"]]
    number = {"as": "number", "column": 0}
    hot = {"as": "onehot", "column": 1, "levels": ["x", "y"]}
    scaled = {"as": "scaled", "column": 0, "center": 0.0, "scale": 1.0}
    merged, places = merge_tables(
        [{"schema": schema, "encode": [scaled, hot]}, {"schema": schema, "encode": [number, hot]}]
    )
    assert [entry["as"] for entry in merged["encode"]] == ["number", "scaled", "onehot"]
    assert [each.tolist() for each in places] == [[1, 2, 3], [0, 2, 3]]
