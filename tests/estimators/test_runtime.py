"""The deployed path: cells are read one way, one row equals that row in a batch, and nothing heavy is imported."""

from __future__ import annotations

import importlib
import math
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automl.estimators import artifact, native, runtime
from automl.estimators.encoder import Encoder, View
from automl.estimators.errors import DataError, DataTypeError, UsageError
from automl.estimators.families import by_name
from automl.estimators.pipeline import Pipeline
from automl.estimators.runtime import CellError, is_missing, level_of
from automl.estimators.table import from_frame

onnx = pytest.importorskip("onnx")


@pytest.mark.parametrize(
    ("value", "level"),
    [
        ("a", "a"),
        (True, "True"),
        (np.bool_(False), "False"),
        (3, "3"),
        (3.0, "3"),
        (np.float32(0.5), "0.5"),
        (-0.0, "0"),
    ],
)
def test_levels(value: object, level: str) -> None:
    assert level_of(value) == level


def test_missing_cells() -> None:
    for value in (None, math.nan, np.float32("nan"), pd.NA, pd.NaT, np.datetime64("NaT"), "", "  ", "NA", "null"):
        assert is_missing(value)
    for value in (0, False, "a", "none at all", [], np.zeros(3), math.inf):
        assert not is_missing(value)


@settings(deadline=None, max_examples=200)
@given(st.floats(allow_nan=False), st.sampled_from([",", ".", "'", " "]), st.sampled_from([".", ","]))
def test_a_number_written_with_separators_reads_back(number: float, thousands: str, decimal: str) -> None:
    if thousands == decimal or abs(number) > 1e15:
        return
    text = f"{number:,.6f}".replace(",", "\0").replace(".", decimal).replace("\0", thousands)
    read = runtime.number_reader({"thousands": thousands, "decimal": decimal})
    assert read(text) == float(f"{number:.6f}")


def test_numbers_as_text() -> None:
    read = runtime.number_reader({"percent": True, "currency": "$", "thousands": ",", "words": {"yes": 1.0}})
    assert [read(v) for v in ("5 %", "-$1,234.5", "YES", "12")] == [5.0, -1234.5, 1.0, 12.0]
    plain = runtime.number_reader({})
    assert plain(" 41 ") == 41.0
    for text in ("1_000", "12,5", "5%", "", "abc"):
        assert math.isnan(plain(text)) if not text else True
        if text:
            with pytest.raises(CellError, match="is not a number"):
                plain(text)


def test_dates() -> None:
    read = runtime.date_reader({"format": "%d.%m.%Y"})
    for value in ("02.01.1970", "1970-01-02", np.datetime64("1970-01-02"), pd.Timestamp("1970-01-02"), 86400):
        assert read(value) == 86400.0
    assert read("1970-01-02T00:00:00+01:00") == 82800.0
    assert read("0001-01-01") < read("9999-12-31")
    with pytest.raises(CellError, match="a date"):
        read("31.02.2020")


def test_text_counts_are_counts_of_words_and_pairs() -> None:
    indptr, indices, data = runtime.text_counts(["Big big cat", None, "", "cat"])
    assert np.diff(indptr).tolist() == [4, 0, 0, 1]
    assert sorted(data[:4].tolist()) == [1.0, 1.0, 1.0, 2.0]
    assert runtime.text_buckets("cat")[0] == indices[4]


# --- models -----------------------------------------------------------------------------------------------------------


def frame_of(n: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    numbers = {f"n{i}": rng.normal(50, 20, n) for i in range(4)}
    frame = pd.DataFrame({**numbers, "count": rng.integers(0, 99, n), "job": rng.choice(["a", "b", "c", None], n)})
    frame["place"] = rng.choice([f"p{i}" for i in range(30)], n)
    frame.loc[rng.random(n) < 0.1, "n0"] = np.nan
    return frame


def write(folder: Path, task: str, classes: list[Any], y: Any, view: View) -> Path:
    """An artifact with a linear graph over the encoding."""
    table = from_frame(frame_of(600), y)
    encoder, _ = Encoder.fit(table, np.arange(600), view)
    outputs, rng = len(classes) if task == "multiclass" else 1, np.random.default_rng(1)
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    last = {"binary": "Sigmoid", "multiclass": "Softmax", "regression": "Identity"}[task]
    nodes = [
        helper.make_node("IsNaN", ["x"], ["absent"]),
        helper.make_node("Where", ["absent", "zero", "x"], ["known"]),
        helper.make_node("Gemm", ["known", "w"], ["s"]),
        helper.make_node(last, ["s"], ["y"]),
    ]
    weights = (rng.normal(size=(encoder.width, outputs)) * 0.02).astype("f4")
    held = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.zeros((), "f4"), "zero")]
    given = helper.make_tensor_value_info("x", 1, [None, encoder.width])
    body = helper.make_graph(nodes, "g", [given], [helper.make_tensor_value_info("y", 1, [None, outputs])], held)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    artifact.save(folder, tables=encoder.tables, model=model.SerializeToString(), task=task, classes=classes)
    return folder


LABELS = {
    "strings": ("binary", ["no", "yes"]),
    "booleans": ("binary", [False, True]),
    "integers": ("multiclass", [1, 5, 9]),
    "floats": ("multiclass", [0.5, 1.5, 2.5]),
    "numbers": ("regression", []),
}


@pytest.fixture(scope="module", params=list(LABELS))
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    task, classes = LABELS[request.param]
    rng = np.random.default_rng(3)
    y = rng.normal(size=600) if task == "regression" else np.asarray(classes)[rng.integers(0, len(classes), 600)]
    if request.param == "floats":
        y = np.asarray([str(v) for v in y])  # only the labels in the manifest matter here
    view = View() if task == "binary" else View("scaled", "onehot", 10)
    return write(tmp_path_factory.mktemp("model") / request.param, task, classes, y, view)


@pytest.mark.parametrize("view", [View(), View("scaled")], ids=["raw", "scaled"])
def test_infinities_taken_as_missing_in_training_are_missing_in_a_row_too(view: View) -> None:
    rng = np.random.default_rng(0)
    cells = {"a": rng.normal(size=40), "b": 1e9 + rng.random(40), "c": rng.normal(size=40)}
    cells["a"][3], cells["b"][5] = np.inf, -np.inf
    table = from_frame(pd.DataFrame(cells), rng.normal(size=40), infinite="missing")
    encoder = Encoder.fit(table, np.arange(40), view)[0].rows
    absent = encoder.transform_row({"a": None, "b": np.nan, "c": 1.0})
    for infinite in (np.inf, -np.inf, np.float32(np.inf), "inf", 10**400):
        np.testing.assert_array_equal(encoder.transform_row({"a": infinite, "b": infinite, "c": 1.0}), absent)
        frame = pd.DataFrame({"a": [infinite] * 9, "b": [infinite] * 9, "c": [1.0] * 9})
        np.testing.assert_array_equal(encoder.transform(frame), np.repeat(absent, 9, axis=0))
    for infinite in (np.inf, "inf"):  # there were none in training: it is a large number
        row = encoder.transform_row({"a": 1.0, "b": 1e9, "c": infinite})
        assert np.isfinite(row).all()
    with pytest.raises(runtime.DataError, match="'a'"):
        encoder.transform_row({"a": "much", "b": 1.0, "c": 1.0})


@pytest.mark.parametrize("buckets", [0, -1])
def test_a_hashed_category_has_a_bucket(buckets: int) -> None:
    entry = {"as": "hashed", "column": 0, "buckets": buckets}
    with pytest.raises(ValueError, match="buckets"):
        runtime.RowEncoder({"schema": [["a", "categorical"]], "encode": [entry]})


def test_one_row_is_that_row_in_a_batch(path: Path) -> None:
    frame, model = frame_of(700, 5), runtime.load(path)
    records = frame.to_dict("records")
    alone = [model.predict_one(row) for row in records]
    batch = model.predict(frame)
    assert batch.tolist() == alone
    labels = LABELS[path.name][1]
    assert all(type(label) is type(labels[0] if labels else 0.0) for label in alone[:5])
    if model.task == "regression":
        with pytest.raises(UsageError, match="no probabilities"):
            model.predict_proba_one(records[0])
        with pytest.raises(UsageError, match="no probabilities"):
            model.predict_proba(frame)
        return
    proba = model.predict_proba(frame)
    assert proba.dtype == np.float32
    assert proba.shape == (700, len(labels))
    assert np.array_equal(proba, np.stack([model.predict_proba_one(row) for row in records]))
    assert model.classes_.tolist() == labels
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-6)


def test_every_container_predicts_alike(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame, model = frame_of(90, 6), runtime.load(path)
    expected = model.predict(frame).tolist()
    records = frame.to_dict("records")
    assert model.predict(frame[frame.columns[::-1]].assign(extra="x")).tolist() == expected
    assert model.predict({name: frame[name].to_numpy() for name in frame}).tolist() == expected
    assert model.predict({name: frame[name].tolist() for name in frame}).tolist() == expected
    assert model.predict(frame.to_numpy(dtype=object)).tolist() == expected
    assert model.predict(records).tolist() == expected
    assert model.predict([tuple(row) for row in frame.itertuples(index=False)]).tolist() == expected
    assert model.predict(frame.set_index(frame["job"])).tolist() == expected
    assert model.predict(frame[:1]).tolist() == expected[:1]
    wide = pd.concat(
        [frame.assign(label="no input"), pd.DataFrame(np.ones((90, 900)), columns=[f"w{i}" for i in range(900)])],
        axis=1,
    )
    assert [model.predict(wide[i : i + 1]).tolist()[0] for i in range(90)] == expected
    if arrow := _module("pyarrow"):
        coded = arrow.Table.from_pandas(frame)
        coded = coded.set_column(coded.column_names.index("job"), "job", coded["job"].dictionary_encode())
        assert model.predict(coded).tolist() == expected
    assert model.predict(frame[:0]).shape == (0,)
    assert model.predict([]).shape == (0,)
    assert runtime.load(path, threads=2).predict(frame).tolist() == expected
    monkeypatch.setattr(runtime, "BLOCK_ROWS", 7)
    assert model.predict(frame).tolist() == expected
    assert model.predict({name: frame[name].to_numpy() for name in frame}).tolist() == expected


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def test_a_frame_with_levels_of_names_predicts_as_it_was_fitted(tmp_path: Path) -> None:
    X = pd.DataFrame(
        np.random.default_rng(0).random((60, 2)), columns=pd.MultiIndex.from_tuples([("a", "b"), ("a", "c")])
    )
    table, rows = from_frame(X, X[("a", "b")].to_numpy() > 0.5), np.arange(60)
    pipeline = Pipeline(by_name(["tree"])[0], {"max_leaf_nodes": 4}, view=View())
    pipeline.fit(table, rows).export(tmp_path / "model", table, rows)
    model = runtime.load(tmp_path / "model")
    flat = X.set_axis(["a_b", "a_c"], axis=1)
    assert model.predict(X).tolist() == model.predict(flat).tolist() == (X[("a", "b")] > 0.5).tolist()
    assert model.predict(pd.concat([X] * 20)).tolist() == model.predict(X).tolist() * 20


def test_names_that_are_no_strings_are_found_as_fit_names_them(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((60, 2))
    X, y = pd.DataFrame(values), values[:, 0] > 0.5
    table, rows = from_frame(X, y), np.arange(60)
    pipeline = Pipeline(by_name(["tree"])[0], {"max_leaf_nodes": 4}, view=View())
    pipeline.fit(table, rows).export(tmp_path / "model", table, rows)
    for engine in runtime.ENGINES if native.missing() is None else ("onnx",):
        model = runtime.load(tmp_path / "model", engine=engine)
        for labels in ([0, 1], [np.int64(0), np.int64(1)], ["0", 1]):
            records = [dict(zip(labels, row, strict=True)) for row in values.tolist()]
            assert model.predict(dict(zip(labels, values.T, strict=True))).tolist() == y.tolist()
            assert model.predict(records).tolist() == y.tolist()
            assert [model.predict_one(row) for row in records] == y.tolist()
        assert [model.predict_one(row) for _, row in X.iterrows()] == y.tolist()
        assert model.predict_one({"0": 0.9, 0: 0.1, "1": 0.0}) == model.predict_one({"0": 0.9, "1": 0.0})
        for wrong in ({1: 0.5}, X.iloc[0][1:]):
            with pytest.raises(DataError, match="missing column '0'"):
                model.predict_one(wrong)
        with pytest.raises(DataError, match="missing column '0'"):
            model.predict({1: values[:, 1]})


def test_arrow_batches_and_arrays_predict_as_tables_do(path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    frame, model = frame_of(90, 6), runtime.load(path)
    frame["count"] = frame["count"].astype("Int64").mask(frame["count"] > 90)
    table, expected = pa.Table.from_pandas(frame), model.predict(frame).tolist()
    for found in (table, table.combine_chunks().to_batches()[0], pa.RecordBatch.from_pandas(frame)):
        assert model.predict(found).tolist() == expected
        coded = {name: found[name].dictionary_encode() for name in ("job", "place")}
        assert model.predict({**{name: found[name] for name in frame}, **coded}).tolist() == expected


@pytest.mark.parametrize("rows", [1, 4, 5])
def test_a_series_is_no_table(path: Path, rows: int) -> None:
    with pytest.raises(DataTypeError, match="1 dimensions; one row: predict_one"):
        runtime.load(path).predict(frame_of(9)["n0"][:rows])


def test_mistakes_are_named(path: Path) -> None:
    frame, model = frame_of(20, 6), runtime.load(path)
    row = frame.to_dict("records")[0]
    with pytest.raises(DataError, match="missing columns 'n1', 'job'"):
        model.predict_one({name: value for name, value in row.items() if name not in ("n1", "job")})
    with pytest.raises(DataError, match="'count': 'many' is not a number"):
        model.predict_one({**row, "count": "many"})
    assert model.predict_one({**row, "count": str(row["count"])}) == model.predict_one(row)
    model.close()
    with pytest.raises(UsageError, match="closed"):
        model.predict_one(row)


def test_threads_share_one_model(path: Path) -> None:
    frame, model = frame_of(200, 9), runtime.load(path)
    records, expected, wrong = frame.to_dict("records"), model.predict(frame).tolist(), []

    def work(start: int) -> None:
        for i in range(600):
            j = (start + i) % 200
            if model.predict_one(records[j]) != expected[j]:
                wrong.append(j)

    threads = [threading.Thread(target=work, args=(k * 37,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


ALONE = """
import sys
class Only:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"pandas", "scipy", "sklearn", "lightgbm", "torch", "onnx", "optuna", "automl", "joblib"}:
            raise ImportError(name)
sys.meta_path.insert(0, Only())
import runtime
model = runtime.load(sys.argv[1])
row = {"n0": None, "n1": 1, "n2": "2.5", "n3": 4.0, "count": 5, "job": "a", "place": "nowhere"}
print(repr(model.predict_one(row)))
try:
    model.predict_one({"n0": 1})
except runtime.DataError as error:
    print("missing columns" in str(error))
try:
    runtime.load("nowhere")
except runtime.UsageError:
    print("refused")
"""


def test_the_file_alone_serves_an_artifact(path: Path, tmp_path: Path) -> None:
    shutil.copy(str(runtime.__file__), tmp_path / "runtime.py")
    (tmp_path / "use.py").write_text(ALONE)
    command = [sys.executable, "-W", "error", "use.py", str(path)]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    row = {"n0": None, "n1": 1, "n2": "2.5", "n3": 4.0, "count": 5, "job": "a", "place": "nowhere"}
    assert run.stdout.split("\n")[:3] == [repr(runtime.load(path).predict_one(row)), "True", "refused"]


def test_importing_the_runtime_loads_numpy_only() -> None:
    code = "import sys, automl.runtime; print([m for m in sys.argv[1:] if m in sys.modules])"
    heavy = ["pandas", "scipy", "sklearn", "lightgbm", "torch", "onnx", "onnxruntime", "optuna"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", code, *heavy]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment)
    assert run.stdout.strip() == "[]"
