"""The three faces of the encoder give the same bits: the coded table, a frame, and one row."""

from __future__ import annotations

import cProfile
import datetime
import gc
import json
import pickle
import pstats
import sys
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

from automl.estimators import native, runtime
from automl.estimators.columns import Column
from automl.estimators.compiled import Engine
from automl.estimators.compiled_row import Lowered
from automl.estimators.encoder import Encoder, View
from automl.estimators.errors import DataError
from automl.estimators.runtime import RowBuffer, RowEncoder
from automl.estimators.table import Table, Task, from_frame

VIEWS = (
    View(),
    View("scaled", "onehot", 8, 8),
    View("scaled", "target", 2, 4),
    View("raw", "hash", 2, 2),
    View("scaled", "ordinal"),
    View("raw", "target"),
)
PERCENT = {"percent": True, "thousands": ",", "currency": "$", "words": {"true": 1.0, "false": 0.0}}
NAMES = ("plain", "money", "epoch", "wild", "kind", "city", "when", "say", "s0", "s1", "s2")
WORDS = ("red", "green", "blue", "big", "small", "naïve", "Straße")


def make_table(raw: dict[str, list[Any]], task: Task, y: np.ndarray, levels: dict[str, list[str]]) -> Table:
    """A table by the runtime's own reading of raw cells, as `from_frame` does it."""
    columns, data = [], []
    for name in ("plain", "money", "epoch", "wild"):
        parse = PERCENT if name == "money" else {}
        columns.append(Column(name, "numeric", parse=parse))
        data.append(runtime.read_numbers(raw[name], parse))
    for name in ("kind", "city"):
        codes = {level: code for code, level in enumerate(levels[name])}
        found = []
        for value in raw[name]:
            level = value if isinstance(value, str) else None if runtime.is_missing(value) else runtime.level_of(value)
            known = level is not None and (level in codes or not runtime.is_missing(level))
            found.append(codes[level] if known else -1)
        columns.append(Column(name, "categorical", levels=tuple(levels[name])))
        data.append(np.asarray(found, np.int32))
    columns.append(Column("when", "date", parse={"format": "%d/%m/%Y"}))
    data.append(runtime.read_dates(raw["when"], {"format": "%d/%m/%Y"}))
    indptr, indices, counts = runtime.text_counts(raw["say"])
    columns.append(Column("say", "text"))
    data.append(sparse.csr_matrix((counts, indices, indptr), shape=(len(y), runtime.TEXT_BUCKETS)))
    columns.append(Column("block", "sparse", names=("s0", "s1", "s2")))
    stacked = np.column_stack([np.nan_to_num(runtime.read_numbers(raw[n], {})) for n in ("s0", "s1", "s2")])
    data.append(sparse.csr_matrix(stacked.astype(np.float32)))
    return Table(columns, data, y, task)


LEVELS = {"kind": ["3", "True", "a", "b", "None"], "city": [f"city {i}" for i in range(12)]}


@pytest.fixture(scope="module")
def training() -> dict[str, list[Any]]:
    rng, n = np.random.default_rng(0), 400
    days = pd.Timestamp("2024-02-27") + pd.to_timedelta(rng.integers(0, 900, n), "D")
    return {
        "plain": [None if i % 9 == 0 else float(v) for i, v in enumerate(rng.normal(40, 15, n))],
        "money": [f"${v:,.2f}" if v % 2 else "n/a" for v in rng.integers(1000, 90_000, n)],
        "epoch": (1.7e9 + rng.integers(0, 3000, n) * 1.0).tolist(),
        "wild": (rng.integers(0, 3, n) * 1e9 + rng.integers(0, 1000, n) / 1000).tolist(),
        "kind": [rng.choice(np.array(["a", "b", None, "None", True, 3], object)) for _ in range(n)],
        "city": [f"city {i}" for i in rng.integers(0, 11, n)],  # "city 11" is unseen in training
        "when": [d.strftime("%d/%m/%Y") for d in days],
        "say": [" ".join(rng.choice(WORDS, rng.integers(0, 5))) for _ in range(n)],
        "s0": rng.integers(0, 2, n).tolist(),
        "s1": (rng.integers(0, 2, n) * 100.5).tolist(),
        "s2": [0] * n,
    }


@pytest.fixture(scope="module", params=["binary", "multiclass", "regression"])
def table(request: pytest.FixtureRequest, training: dict[str, list[Any]]) -> Table:
    rng, n = np.random.default_rng(1), len(training["plain"])
    if request.param == "regression":
        return make_table(training, Task("regression"), rng.normal(1000, 50, n), LEVELS)
    count = 2 if request.param == "binary" else 12
    task = Task(request.param, tuple(f"c{i}" for i in range(count)))
    return make_table(training, task, rng.integers(0, count, n).astype(np.int32), LEVELS)


def dense(X: Any) -> np.ndarray:
    return X if isinstance(X, np.ndarray) else X.toarray()


def same(a: np.ndarray, b: np.ndarray, encoder: Encoder) -> None:
    assert a.dtype == b.dtype == np.float32
    differ = [n for j, n in enumerate(encoder.feature_names) if not np.array_equal(a[:, j], b[:, j], equal_nan=True)]
    assert not differ


@pytest.mark.parametrize("view", VIEWS, ids=lambda v: f"{v.numeric}-{v.categories}")
def test_table_frame_and_row_agree(table: Table, training: dict[str, list[Any]], view: View) -> None:
    rows = np.arange(0, table.rows, 2)
    encoder, fitted = Encoder.fit(table, rows, view, seed=3)
    every = np.arange(table.rows)
    coded = dense(encoder.transform(table, every))
    assert fitted.shape == (len(rows), encoder.width) == (len(rows), len(encoder.sources))
    server = RowEncoder(json.loads(json.dumps(encoder.tables)))
    frame = pd.DataFrame(training)
    same(coded, server.transform(frame), encoder)
    same(coded, server.transform(frame[list(reversed(frame.columns))].assign(more=1)), encoder)
    same(coded, server.transform({name: np.asarray(v, object) for name, v in training.items()}), encoder)
    same(coded, server.transform(frame.to_numpy(dtype=object)), encoder)
    records = [dict(zip(NAMES, row, strict=True)) for row in zip(*training.values(), strict=True)]
    same(coded, np.concatenate([server.transform_row(row) for row in records]), encoder)
    same(coded, server.transform(records), encoder)
    same(coded[:3], server.transform(frame[:3]), encoder)
    same(coded[:5], np.concatenate([server.transform_row(tuple(row.values())) for row in records[:5]]), encoder)
    assert server.transform(frame[:0]).shape == (0, encoder.width)
    if "onehot" not in view.categories or not encoder.sparse:
        same(dense(pickle.loads(pickle.dumps(encoder)).transform(table, every)), coded, encoder)


NUMBER = st.one_of(
    st.none(),
    st.floats(width=64),
    st.floats(width=32).map(np.float32),
    st.integers(-(2**70), 2**70),
    st.integers(-100, 100).map(np.int16),
    st.booleans(),
    st.booleans().map(np.bool_),
    st.floats(-1e6, 1e6).map(repr),
    st.sampled_from([1e308, -1e308, 10**400, "", " ", "NA", "nan", "inf", " 12 ", pd.NA, pd.NaT, float("inf"), -0.0]),
)
CATEGORY = st.one_of(
    st.sampled_from(["a", "b", "c", "None", "3", "True", None, "", "NA", " ", pd.NA, pd.NaT, "city 1", "city 11"]),
    st.sampled_from([3, 3.0, np.int64(3), np.float32(3), True, np.bool_(True), 1, 0.5, float("nan"), 1e20]),
    st.text(max_size=4),
)
DATE = st.one_of(
    st.none(),
    st.datetimes(),
    st.dates(),
    st.dates().map(lambda d: d.strftime("%d/%m/") + f"{d.year:04d}"),
    st.datetimes().map(lambda d: d.isoformat()),
    st.datetimes(timezones=st.just(datetime.timezone(datetime.timedelta(hours=-7)))),
    st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1)).map(pd.Timestamp),
    st.datetimes().map(np.datetime64),
    st.floats(-1e12, 1e12),
    st.sampled_from([pd.NaT, np.datetime64("NaT"), "", "NaT", float("nan"), "29/02/2024", 10**18, 1e300]),
)
SAID = st.one_of(
    st.none(), st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join), st.text(max_size=12), st.just(5)
)
ROW = st.fixed_dictionaries(
    {
        "plain": NUMBER,
        "money": st.one_of(NUMBER, st.sampled_from(["$1,234.50", "12 %", "TRUE", "-$3", "1,00,000"])),
        "epoch": NUMBER,
        "wild": NUMBER,
        "kind": CATEGORY,
        "city": CATEGORY,
        "when": DATE,
        "say": SAID,
        "s0": NUMBER,
        "s1": NUMBER,
        "s2": NUMBER,
    }
)


@pytest.fixture(scope="module")
def servers(training: dict[str, list[Any]]) -> list[Encoder]:
    y = np.random.default_rng(2).integers(0, 2, len(training["plain"])).astype(np.int32)
    table = make_table(training, Task("binary", (False, True)), y, LEVELS)
    return [Encoder.fit(table, np.arange(table.rows), view)[0] for view in VIEWS]


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(rows=st.lists(ROW, min_size=1, max_size=7))
def test_any_cell_is_read_alike_in_a_row_and_in_a_batch(servers: list[Encoder], rows: list[dict[str, Any]]) -> None:
    arrays = {}
    for name in NAMES:
        arrays[name] = np.empty(len(rows), object)
        arrays[name][:] = [row[name] for row in rows]
    for encoder in servers:
        alone = np.concatenate([encoder.rows.transform_row(row) for row in rows])
        same(alone, encoder.rows.transform(arrays), encoder)
        same(alone, encoder.rows.transform(pd.DataFrame(arrays, dtype=object)), encoder)
        assert not np.isinf(alone).any()


def test_pandas_dtypes_read_alike(servers: list[Encoder]) -> None:
    frame = pd.DataFrame(
        {
            "plain": pd.array([1, None, 3, 4, 5], "Int64"),
            "money": pd.array([True, None, False, True, True], "boolean"),
            "epoch": np.arange(5, dtype=np.float32),
            "wild": np.arange(5, dtype=np.uint8),
            "kind": pd.Categorical(["a", None, "zzz", "b", "None"]),
            "city": pd.array(["city 1", None, "x", "city 2", ""], "string"),
            "when": pd.to_datetime(["2024-02-29", None, "1999-12-31", "2030-01-01", "2024-03-01"], utc=True),
            "say": ["red green", "", None, "Straße big", "x"],
            "s0": np.zeros(5, bool),
            "s1": np.arange(5),
            "s2": [None] * 5,
        }
    )
    rows = [{name: frame[name].iloc[i] for name in NAMES} for i in range(5)]
    for encoder in servers:
        expected = np.concatenate([encoder.rows.transform_row(row) for row in rows])
        same(encoder.rows.transform(frame), expected, encoder)
        same(encoder.rows.transform(frame[:2]), expected[:2], encoder)


def test_near_values_stay_distinct(table: Table) -> None:
    rows = np.arange(table.rows)
    encoder, X = Encoder.fit(table, rows, View(), columns=[2, 3])
    assert encoder.feature_names == ["epoch", "wild 0", "wild 1"]
    assert len(np.unique(X[:, 0])) == len(np.unique(table.data[2]))
    assert len(np.unique(X[:, 1:], axis=0)) == len(np.unique(table.data[3]))
    assert encoder.sources == [2, 3, 3]


def test_levels_outside_the_training_rows_are_unseen(table: Table) -> None:
    rows = np.flatnonzero(table.data[5] != 0)
    encoder, _ = Encoder.fit(table, rows, View("scaled", "onehot", 40), columns=[5])
    assert "city=city 0" not in encoder.feature_names
    assert not encoder.rows.transform_row({"city": "city 0"}).any()
    ordinal, _ = Encoder.fit(table, rows, View(), columns=[5])
    assert ordinal.rows.transform_row({"city": "city 0"})[0, 0] == -1
    assert ordinal.categorical == [0]


def test_target_means_of_training_rows_leave_their_own_fold_out() -> None:
    rng, n = np.random.default_rng(0), 2000
    levels = tuple(str(i) for i in range(1000))
    codes = rng.permutation(np.repeat(np.arange(1000), 2)).astype(np.int32)
    y = rng.integers(0, 2, n).astype(np.int32)
    table = Table([Column("c", "categorical", levels=levels)], [codes], y, Task("binary", (0, 1)))
    encoder, X = Encoder.fit(table, np.arange(n), View("raw", "target"))
    assert abs(np.corrcoef(X[:, 0], y)[0, 1]) < 0.12  # noise stays noise
    served = encoder.transform(table, np.arange(n))
    assert np.corrcoef(served[:, 0], y)[0, 1] > 0.5  # serving uses the full means


def test_smoothed_means_are_those_of_scikit_learn() -> None:
    from sklearn.preprocessing import TargetEncoder

    rng, n = np.random.default_rng(5), 3000
    codes = rng.integers(0, 40, n).astype(np.int32)
    y = rng.normal(size=n) + codes % 7
    levels = tuple(f"{i:02d}" for i in range(40))
    table = Table([Column("c", "categorical", levels=levels)], [codes], y, Task("regression"))
    encoder, _ = Encoder.fit(table, np.arange(n), View("raw", "target"))
    theirs = TargetEncoder(target_type="continuous").fit(codes.reshape(-1, 1), y).encodings_[0]
    ours = [encoder.rows.transform_row({"c": level})[0, 0] for level in levels]
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_a_dropped_input_keeps_its_place_in_rows_by_position() -> None:
    table = Table(
        [Column("a", "numeric"), Column("c", "numeric")],
        [np.arange(4.0), np.arange(4.0) * 2],
        np.array([0, 1, 0, 1], np.int32),
        Task("binary", ("n", "y")),
        inputs=["a", "id", "c"],
    )
    encoder, X = Encoder.fit(table, np.arange(4), View())
    rows = np.column_stack([np.arange(4.0), np.full(4, 99.0), np.arange(4.0) * 2])
    assert np.array_equal(encoder.rows.transform(rows), X)
    assert encoder.rows.columns == ("a", "id", "c")
    assert encoder.rows.used == ("a", "c")
    assert np.array_equal(encoder.rows.transform_row([3.0, None, 6.0]), X[3:])


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"plain": "12,5"}, ["'plain'", "'12,5'", "not a number"]),
        ({"when": "yesterday"}, ["'when'", "yesterday", "a date"]),
        ({"wild": [1]}, ["'wild'", "[1]"]),
        ({"s1": "x"}, ["'block'", "'x'"]),
        ({"money": "1,23"}, ["'money'", "'1,23'"]),
    ],
)
def test_a_cell_that_does_not_read_names_its_column(
    servers: list[Encoder], training: dict[str, list[Any]], row: dict[str, Any], words: list[str]
) -> None:
    good = {name: values[1] for name, values in training.items()}
    frame = pd.DataFrame([good] * 6).astype(object)
    for name, value in row.items():
        frame.at[4, name] = value
    for encoder in servers:
        with pytest.raises(DataError) as alone:
            encoder.rows.transform_row({**good, **row})
        with pytest.raises(DataError) as batch:
            encoder.rows.transform(frame)
        assert all(word in str(alone.value) for word in words)
        assert "row 4" in str(batch.value)


def test_missing_columns_are_named_in_one_error(servers: list[Encoder], training: dict[str, list[Any]]) -> None:
    frame = pd.DataFrame(training)
    rows = servers[0].rows
    for wrong in (frame.drop(columns=["plain", "city"]), frame.drop(columns=["plain", "city"])[:1]):
        with pytest.raises(DataError, match="missing columns 'plain', 'city'"):
            rows.transform(wrong)
    with pytest.raises(DataError, match="missing columns 'plain', 'city'"):
        rows.transform_row({n: v[0] for n, v in training.items() if n not in ("plain", "city")})
    with pytest.raises(DataError, match="has 3 columns; the model was trained on 11"):
        rows.transform(np.zeros((2, 3)))
    with pytest.raises(DataError, match="has 2 columns"):
        rows.transform_row([1, 2])
    with pytest.raises(TypeError, match="2-D"):
        rows.transform(np.zeros(3))
    with pytest.raises(TypeError, match="a dict or a sequence"):
        rows.transform_row("a")
    with pytest.raises(DataError, match="stands 2 times"):
        rows.transform(pd.concat([frame, frame[["plain"]]], axis=1))
    with pytest.raises(DataError, match="differ in length"):
        rows.transform({name: values[: 5 + (name == "city")] for name, values in training.items()})


def test_an_absent_sparse_column_of_a_dict_is_zero(servers: list[Encoder], training: dict[str, list[Any]]) -> None:
    row = {name: values[0] for name, values in training.items()}
    without = {name: value for name, value in row.items() if not name.startswith("s") or name == "say"}
    for encoder in servers:
        zero = encoder.rows.transform_row({**row, "s0": 0, "s1": 0.0, "s2": None})
        assert np.array_equal(encoder.rows.transform_row(without), zero, equal_nan=True)


def test_a_sparse_row_is_found_by_keys_that_are_no_strings() -> None:
    block = sparse.csr_matrix(np.array([[0.0, 2.0, 0.0], [1.0, 0.0, 3.0]] * 6))
    encoder = Encoder.fit(from_frame(block, [0.5, 1.5] * 6, names=["1", "2", "3"]), np.arange(12), View())[0].rows
    for row in ({"1": 1.0, "3": 3.0}, {"1": 1.0, "2": 0.0, "3": 3.0, "more": 7.0}):
        expected = encoder.transform_row(row)
        assert expected.any()
        for kind in (int, np.int64):
            keys = [kind(name) if name.isdigit() else name for name in row]
            assert np.array_equal(encoder.transform_row(dict(zip(keys, row.values(), strict=True))), expected)


CODES = [2**53, 2**53 + 1, 10**17 + 1, 10**17 + 2, 5]


def coded(view: View, cells: Any) -> tuple[RowEncoder, np.ndarray]:
    """An encoder of a categorical column "c" beside a number, and the encoding of the rows that it was fitted on."""
    n = len(cells)
    table = from_frame({"c": cells, "x": np.arange(n) % 7.0}, np.arange(n) % 5 + 0.5)
    assert table.columns[0].kind == "categorical", table.notes
    encoder, fitted = Encoder.fit(table, np.arange(n), view)
    return encoder.rows, dense(fitted)


@pytest.mark.parametrize("view", [View(), View("raw", "onehot", 9), View("raw", "hash", 2, 64)])
@pytest.mark.parametrize("dtype", ["int64", "Int64", "UInt64", "int64[pyarrow]"])
def test_levels_of_whole_numbers_keep_all_their_digits(view: View, dtype: str) -> None:
    if "pyarrow" in dtype:
        pytest.importorskip("pyarrow")
    cells = pd.Series(CODES * 8, dtype=dtype)
    encoder, fitted = coded(view, cells.astype("category"))
    records = [{"c": code, "x": i % 7.0} for i, code in enumerate(CODES * 8)]
    x = np.array([row["x"] for row in records])
    assert len({row.tobytes() for row in fitted[:, :-1]}) > 1
    assert np.array_equal(np.concatenate([encoder.transform_row(row) for row in records]), fitted)
    for found in (cells.astype("category"), cells, cells.array):
        assert np.array_equal(encoder.transform({"c": found, "x": x}), fitted)
    frame = pd.DataFrame({"c": cells.astype("category"), "x": x})
    for few in (frame, frame.assign(c=cells)):
        assert np.array_equal(encoder.transform(few[:3]), fitted[:3])


@pytest.mark.parametrize("kind", ["Int64", "int64[pyarrow]", "arrow", "chunked", "dictionary"])
def test_a_missing_cell_beside_large_whole_numbers_rounds_none_of_them(kind: str) -> None:
    encoder, _ = coded(View(), pd.Series(CODES * 8).astype("category"))
    cells = [*CODES, None, 7] * 2
    if kind != "Int64":
        pa = pytest.importorskip("pyarrow")
    if kind in ("arrow", "dictionary"):
        column = pa.array(cells) if kind == "arrow" else pa.array(cells).dictionary_encode()
    else:
        column = pa.chunked_array([cells]) if kind == "chunked" else pd.Series(cells, dtype=kind)
    expected = np.concatenate([encoder.transform_row({"c": cell, "x": 1.0}) for cell in cells])
    assert len(np.unique(expected, axis=0)) == len(CODES) + 1  # 7 is as unknown as a missing cell
    assert np.array_equal(encoder.transform({"c": column, "x": np.ones(len(cells))}), expected)


def test_text_of_large_whole_numbers_is_their_digits() -> None:
    text = runtime.Text({"column": 0, "kept": sorted(runtime.text_buckets(str(2**53 + 1)))}, "t")
    counts = text.parse(pd.Series([2**53 + 1, 2**53, None], dtype="Int64"))
    assert counts.indices[: counts.indptr[1]].tolist() == text.kept
    assert np.diff(counts.indptr).tolist() == [1, 1, 0]


BYTES = {
    "category": ["a", "b", "", "é", "NA", "b"],
    "dialect": ["1,234", "12", "", "1,000,000", "-7", "12"],
    "date": ["2020-01-31", "2021-02-28", "", "2022-03-01", "2020-01-31", "2020-02-01"],
    "text": ["big red cat", "blue", "", "the big dog Straße", "red", "one more"],
}


@pytest.mark.parametrize("kind", list(BYTES))
@pytest.mark.parametrize("weighted", [False, True])
def test_bytes_are_read_as_text_in_training_and_in_every_row(kind: str, weighted: bool) -> None:
    texts, x = BYTES[kind] * 10, np.arange(60) % 7.0
    if kind == "text":
        texts = [f"{text} number {i}" if text else text for i, text in enumerate(texts)]
    data = np.array([text.encode() for text in texts])
    assert data.dtype.kind == "S"
    weights = np.array([0.0, *np.ones(59)]) if weighted else None
    tables = [
        from_frame({"c": cells, "x": x}, np.sin(np.arange(60.0)), weights=weights)
        for cells in (np.array(texts), data, data.astype(object))
    ]
    assert {t.columns[0].kind for t in tables} == {
        "numeric" if kind == "dialect" else "categorical" if kind == "category" else kind
    }
    assert {t.fingerprint() for t in tables} == {tables[0].fingerprint()}
    for view in (View(), View("scaled", "onehot", 9), View("raw", "hash", 2, 64)):
        encoder = Encoder.fit(tables[1], np.arange(tables[1].rows), view)[0].rows
        expected = encoder.transform({"c": np.array(texts), "x": x})
        for cells in (data, data.astype(object), data.tolist(), list(data)):
            assert np.array_equal(encoder.transform({"c": cells, "x": x}), expected, equal_nan=True)
        rows = [encoder.transform_row({"c": cell, "x": n}) for cell, n in zip(data, x, strict=True)]
        assert np.array_equal(np.concatenate(rows), expected, equal_nan=True)
        array = np.column_stack([data, x.astype("S4")])
        assert np.array_equal(encoder.transform(array), expected, equal_nan=True)
        assert np.array_equal(encoder.transform_row(array[3]), expected[3:4], equal_nan=True)


def test_equal_cells_of_two_levels_are_two_in_training_too() -> None:
    cells = np.array([True, 1, "x", 0, False, 1.0, Decimal("2.50"), 2.5, None, np.bool_(True)] * 4, object)
    encoder, fitted = coded(View(), cells)
    assert encoder.entries[-1].levels == ["0", "1", "2.5", "2.50", "False", "True", "x"]
    x = np.arange(len(cells)) % 7.0
    assert np.array_equal(encoder.transform({"c": cells, "x": x}), fitted)
    rows = [encoder.transform_row({"c": cell, "x": n}) for cell, n in zip(cells, x, strict=True)]
    assert np.array_equal(np.concatenate(rows), fitted)


def test_wide_one_hot_is_sparse_and_equal() -> None:
    rng, n = np.random.default_rng(0), 5000
    levels = tuple(f"{i:03d}" for i in range(300))
    codes = rng.integers(-1, 300, n).astype(np.int32)
    table = Table(
        [Column("c", "categorical", levels=levels), Column("v", "numeric")],
        [codes, rng.normal(size=n)],
        rng.normal(size=n),
        Task("regression"),
    )
    encoder, X = Encoder.fit(table, np.arange(n), View("scaled", "onehot", 500))
    assert sparse.issparse(X)
    assert X.has_sorted_indices
    records = [{"c": None if c < 0 else levels[c], "v": v} for c, v in zip(codes, table.data[1], strict=True)]
    assert np.array_equal(X.toarray(), np.concatenate([encoder.rows.transform_row(r) for r in records]))


@settings(deadline=None, max_examples=200)
@given(st.datetimes())
def test_date_parts_are_the_calendar(moment: datetime.datetime) -> None:
    seconds = runtime.date_reader({})(moment)
    found = runtime.date_parts(np.array([seconds]), runtime.DATE_PARTS)[0].tolist()
    calendar = [moment.year, moment.month, moment.weekday(), moment.timetuple().tm_yday]
    if moment.microsecond == 0:
        assert found[1:-1] == [*calendar, moment.hour]
        assert found[-1] == moment.toordinal() - 719_163
    assert found[0] == seconds / 86400


# --- many columns at a time -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS, ids=lambda v: f"{v.numeric}-{v.categories}")
def test_columns_together_are_columns_alone(
    table: Table, training: dict[str, list[Any]], view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, every = np.arange(0, table.rows, 2), np.arange(table.rows)
    frame = pd.DataFrame(training)
    together, fitted = Encoder.fit(table, rows, view, seed=3)
    found = [fitted, together.transform(table, every), together.rows.transform(frame)]
    monkeypatch.setattr(runtime, "TOGETHER_CELLS", 1)
    alone, fitted = Encoder.fit(table, rows, view, seed=3)
    assert alone.tables == together.tables
    expected = [fitted, alone.transform(table, every), alone.rows.transform(frame)]
    assert [dense(a).tobytes() for a in found] == [dense(a).tobytes() for a in expected]


@pytest.mark.parametrize("rows", [2, 7, 100, 1500])
def test_centers_and_scales_are_those_of_numpy(rows: int) -> None:
    rng = np.random.default_rng(rows)
    X = rng.normal(size=(rows, 60)) * np.exp(rng.normal(size=60))
    X[:, 20:40] = rng.random((rows, 20)) < 0.1  # the quartiles agree: the standard deviation
    X[rng.random(X.shape) < np.where(np.arange(60) % 2, 0.3, 0.0)] = np.nan
    X[0, :] = 1.0
    y = (np.arange(rows) % 2).astype(np.int32)
    columns = [Column(f"x{i}", "numeric") for i in range(60)]
    table = Table(columns, list(np.ascontiguousarray(X.T)), y, Task("binary", (0, 1)))
    entries = Encoder.fit(table, np.arange(rows), View("scaled"))[0].tables["encode"]
    for entry in (e for e in entries if e["as"] == "scaled"):
        values = X[:, entry["column"]]
        values = values[~np.isnan(values)]
        low, center, high = np.quantile(values, [0.25, 0.5, 0.75])
        assert entry["center"] == center
        assert entry["scale"] == ((high - low) or np.std(values) or 1.0)


def test_a_wide_table_costs_few_calls_a_column() -> None:
    width, rows = 3000, 60
    rng = np.random.default_rng(0)
    columns = [Column(f"x{i}", "numeric") for i in range(width)]
    y = (np.arange(rows) % 2).astype(np.int32)
    table = Table(columns, list(rng.normal(size=(width, rows))), y, Task("binary", (0, 1)))
    for view in (View(), View("scaled")):
        with cProfile.Profile() as profile:
            encoder, _ = Encoder.fit(table, np.arange(0, rows, 2), view)
            encoder.transform(table, np.arange(rows))
        calls = pstats.Stats(profile).total_calls / width  # type: ignore[attr-defined]
        assert calls < 40  # with a call of numpy or more for each column: over 100


# -- lowered -----------------------------------------------------------------------------------------------------------

compiled_only = pytest.mark.skipif(native.missing() is not None, reason=f"no compiled engine here: {native.missing()}")


def lowered(encoder: RowEncoder) -> tuple[RowBuffer, np.ndarray, Lowered]:
    """A row's memory, the answer, and the methods of a compiled engine whose graph adds the encoded numbers up."""
    from onnx import TensorProto, helper, numpy_helper

    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", w]) for n, w in (("x", encoder.width), ("y", 1))]
    weights = numpy_helper.from_array(np.ones((encoder.width, 1), np.float32), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "sum", ends[:1], ends[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    buffer, answer = RowBuffer(encoder.width), np.zeros(2, np.float32)
    found = Engine(model.SerializeToString()).lower(encoder, buffer, answer)
    assert found is not None
    return buffer, answer, found


@pytest.fixture(scope="module")
def lowered_servers(servers: list[Encoder]) -> list[tuple[Encoder, RowBuffer, np.ndarray, Lowered]]:
    return [(encoder, *lowered(encoder.rows)) for encoder in servers]


@compiled_only
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(row=ROW)
def test_a_lowered_row_has_the_same_bits_or_is_left_to_python(
    lowered_servers: list[tuple[Encoder, RowBuffer, np.ndarray, Lowered]], row: dict[str, Any]
) -> None:
    for encoder, buffer, answer, methods in lowered_servers:
        expected = encoder.rows.transform_row(row)
        for method, cells in ((methods.of_dict, row), (methods.of_tuple, encoder.rows.cells(row))):
            buffer.array[:] = np.nan
            answer[:] = 7.0
            if method(cells) is None:
                same(buffer.array, expected, encoder)
                total = answer[1]
                methods.encoded()
                assert np.array_equal(answer, np.array([np.float32(1.0) - total, total], np.float32), equal_nan=True)
            else:
                assert (answer == 7.0).all()


@compiled_only
def test_plain_rows_are_lowered(
    lowered_servers: list[tuple[Encoder, RowBuffer, np.ndarray, Lowered]], training: dict[str, list[Any]]
) -> None:
    kinds: list[Any] = [None, True, False, 3, 3.0, 4, "3", "None"]
    for view, (encoder, buffer, _, methods) in zip(VIEWS, lowered_servers, strict=True):
        for i in range(60):
            row: dict[str, Any] = {name: training[name][i] for name in NAMES}
            row["money"] = [None, float("nan"), 3, 2.5, True, np.float64(1.0), np.int64(7)][i % 7]
            row["city"] = [None, float("nan"), "nowhere", "city 1", "NA"][i % 5]
            row["kind"] = "None" if view.categories == "hash" else kinds[i % 8]
            assert methods.of_dict(row) is None, row
            same(buffer.array, encoder.rows.transform_row(row), encoder)


@compiled_only
def test_what_a_lowered_row_cannot_read_is_left_to_python(
    lowered_servers: list[tuple[Encoder, RowBuffer, np.ndarray, Lowered]], training: dict[str, list[Any]]
) -> None:
    row = {name: training[name][0] for name in NAMES}

    class Vanishing:
        """A number that leaves the row while it is read."""

        def __float__(self) -> float:
            cells.pop("plain", None)
            return 1.0

    class Broken:
        def __hash__(self) -> int:
            raise RuntimeError("no")

    for *_, methods in lowered_servers:
        for cell in ({"plain": "x"}, {"plain": [1]}, {"kind": ["a"]}, {"kind": Broken()}, {"plain": 10**400}):
            assert methods.of_dict({**row, **cell}) is True
        assert methods.of_dict({}) is True
        assert methods.of_tuple(()) is True
        cells = {**row, "money": 1.0, "plain": Vanishing()}
        methods.of_dict(cells)
        assert "plain" not in cells


@compiled_only
def test_a_lowered_row_outlives_what_it_was_made_of(servers: list[Encoder], training: dict[str, list[Any]]) -> None:
    row = {name: training[name][0] for name in NAMES} | {"money": 1.0}
    buffer, answer, methods = lowered(RowEncoder(json.loads(json.dumps(servers[4].tables))))
    of_dict = methods.of_dict
    del methods, buffer
    gc.collect()
    before = sys.getrefcount(row["plain"]), sys.getrefcount(None)
    for _ in range(2000):
        assert of_dict(row) is None
    assert answer[0] == np.float32(1.0) - answer[1]
    assert abs(sys.getrefcount(row["plain"]) - before[0]) < 100
    assert abs(sys.getrefcount(None) - before[1]) < 1000
