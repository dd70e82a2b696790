"""Tables: how columns are typed and read, what is dropped and said, the target, storing, and orders of rows."""

from __future__ import annotations

import datetime
import decimal
import json
import math
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from scipy import sparse

from automl.estimators.errors import DataError, DataTypeError, UsageError
from automl.estimators.runtime import date_reader, number_reader, read_dates, read_numbers
from automl.estimators.table import Column, Table, Task, from_frame, infer_task, merge_duplicates, nested_order

LABELS = ["no", "yes"]
few = settings(deadline=None, max_examples=40)


def labels(n: int) -> list[str]:
    """Two classes without order by row."""
    return [LABELS[int(v)] for v in np.random.default_rng(5).integers(0, 2, n)]


def table_of(cells: Any, **options: Any) -> Table:
    """A table whose first column "c" has the cells, beside a number "x" that is always kept."""
    n = len(cells)
    return from_frame(pd.DataFrame({"c": cells, "x": np.random.default_rng(1).random(n)}), labels(n), **options)


def column_of(cells: Any) -> tuple[Column, Any, str]:
    table = table_of(cells)
    assert table.columns[0].name == "c", table.notes
    return table.columns[0], table.data[0], " ".join(table.notes)


def notes_of(cells: Any) -> str:
    table = table_of(cells)
    assert [c.name for c in table.columns] == ["x"]
    return " ".join(table.notes)


# --- kinds of columns ---


@pytest.mark.parametrize(
    "cells",
    [
        np.array([1, 2, 4], np.int8),
        np.array([1, 2, 4], np.uint64),
        np.array([1, 2, 4], np.float16),
        pd.array([1, 2, 4], "Int64"),
        pd.array([1, 2, 4], "Float32"),
        np.array([1, 2.0, decimal.Decimal(4)], object),
        ["1", "2", "4"],
        [" 1", "2 ", "4.0"],
        pd.array(["1", "2", "4"], "string"),
        pd.arrays.SparseArray([1.0, 2.0, 4.0]),
    ],
)
def test_numbers_of_every_type_read_alike(cells: Any) -> None:
    column, data, _ = column_of(pd.concat([pd.Series(cells)] * 10, ignore_index=True))
    assert column.kind == "numeric"
    assert data.dtype == np.float64
    assert data[:3].tolist() == [1.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("texts", "numbers", "parse"),
    [
        (["1,234", "12", "1,234,567"], [1234.0, 12.0, 1234567.0], {"thousands": ",", "decimal": "."}),
        (["1.234,5", "12", "0,25"], [1234.5, 12.0, 0.25], {"thousands": ".", "decimal": ","}),
        (["1,5", "2,25", "3"], [1.5, 2.25, 3.0], {"decimal": ","}),
        (["5%", "12.5 %", "-3%"], [5.0, 12.5, -3.0], {"percent": True}),
        (["$5", "$1,200.50", "-$3"], [5.0, 1200.5, -3.0], {"currency": "$", "thousands": ",", "decimal": "."}),
        (["5 €", "7,5 €", "8 €"], [5.0, 7.5, 8.0], {"currency": "€", "decimal": ","}),
        (["True", "false", "TRUE"], [1.0, 0.0, 1.0], {"words": {"true": 1.0, "false": 0.0}}),
        (["1 000", "2 500,5", "3"], [1000.0, 2500.5, 3.0], {"thousands": " ", "decimal": ","}),
        (["1e3", "-.5", "+7"], [1000.0, -0.5, 7.0], {}),
    ],
)
def test_numbers_written_as_text(texts: list[str], numbers: list[float], parse: dict[str, Any]) -> None:
    column, data, _ = column_of([*texts, None] * 6)
    assert (column.kind, dict(column.parse)) == ("numeric", parse)
    np.testing.assert_array_equal(data[:4], [*numbers, np.nan])
    np.testing.assert_array_equal(read_numbers(np.array([*texts, None], object), column.parse), data[:4])


def test_ambiguous_comma_is_said_and_settled_by_the_decimal_character() -> None:
    table = table_of(["1,234", "2,345", "3,456"] * 5)
    assert table.data[0][0] == 1234.0
    assert "thousands" in " ".join(table.notes)
    assert table_of(["1,234", "2,345", "3,456"] * 5, decimal=",").data[0][0] == 1.234


@pytest.mark.parametrize(
    "cells", [["007", "012", "100"], ["1.2.3", "1.2.4", "2.0.0"], ["5%", "5", "6"], ["12:30", "13:45", "9:10"]]
)
def test_codes_are_categories(cells: list[str]) -> None:
    column, _, _ = column_of(cells * 10)
    assert column.kind == "categorical"
    assert column.levels == tuple(sorted(cells))


def test_numbers_that_were_made_categories_stay_categories() -> None:
    column, data, notes = column_of(pd.Series([8001, 1010, None, 8001] * 6).astype("category"))
    assert column == Column("c", "categorical", levels=("1010", "8001"))
    assert data[:4].tolist() == [1, 0, -1, 1]
    assert "'c'" not in notes
    assert column_of(pd.Series([True, False] * 12).astype("category"))[0].kind == "numeric"
    assert column_of(pd.Series(pd.Categorical([1, 10, 2] * 8, ordered=True)))[0].kind == "numeric"


def test_the_decimal_character_holds_for_the_target_as_well() -> None:
    prices = ["950", "1.234", "2.500", *(str(100 + i) for i in range(40))]
    assert from_frame(np.arange(43.0)[:, None], prices, decimal=",").y[:3].tolist() == [950.0, 1234.0, 2500.0]
    table = from_frame(np.arange(43.0)[:, None], ["$1,250", *(f"${100 + i}" for i in range(42))], target="price")
    assert table.y[0] == 1250.0
    assert "column 'price' is read as numbers (currency '$', thousands ','" in " ".join(table.notes)


def test_mixed_numbers_and_text_are_categories_and_the_first_odd_cell_is_named() -> None:
    column, data, notes = column_of([12, 7, "-", 12.5, None] * 5)
    assert column.levels == ("-", "12", "12.5", "7")
    assert data[:5].tolist() == [1, 3, 0, 2, -1]
    assert "'-'" in notes
    assert "row 2" in notes


def test_equal_level_strings_are_one_level() -> None:
    column, data, _ = column_of(["a", 1, "1", 2.0, "2"] * 5)
    assert column.levels == ("1", "2", "a")
    assert data[:5].tolist() == [2, 0, 0, 1, 1]


@pytest.mark.parametrize("dtype", ["object", "str", "string", "category", "string[pyarrow]"])
def test_categories_of_every_type_read_alike(dtype: str) -> None:
    if "pyarrow" in dtype:
        pytest.importorskip("pyarrow")
    column, data, _ = column_of(pd.Series(["b", None, "a", " ", "None"] * 6, dtype=dtype))
    assert column == Column("c", "categorical", levels=("None", "a", "b"))
    assert data.dtype == np.int32
    assert data[:5].tolist() == [2, -1, 1, -1, 0]


def test_thousands_of_repeated_levels_of_several_words_are_categories() -> None:
    names = [f"Company number {i} of {i % 7} towns" for i in range(4000)]
    column, _, _ = column_of(names * 5)
    assert column.kind == "categorical"
    assert len(column.levels) == 4000


def test_short_texts_become_hashed_counts_with_the_cells_kept_for_records() -> None:
    texts = [f"the {w} fox jumps over number {i}" for i, w in enumerate(["red", "quick", "brown"] * 20)] + [None, ""]
    table = table_of(texts)
    assert table.columns[0].kind == "text"
    assert table.data[0].shape == (62, 1024)
    assert table.data[0][0].sum() == 13  # 7 words and 6 pairs
    assert table.data[0][60].nnz == table.data[0][61].nnz == 0
    assert [r["c"] for r in table.records(np.array([0, 60]))] == [texts[0], None]


@pytest.mark.parametrize(
    ("texts", "form"),
    [
        (["2016-07-02", "2017-12-31", "0001-01-01"], None),
        (["2020-02-29T10:00:00+02:00", "2020-03-01 00:00:00Z", "9999-12-31"], None),
        (["31/12/2020", "01/02/2020", "15/06/2021"], "%d/%m/%Y"),
        (["12/31/2020", "01/02/2020", "06/15/2021"], "%m/%d/%Y"),
        (["31.12.2020 10:15", "01.02.2020 00:00", "29.02.2020 23:59"], "%d.%m.%Y %H:%M"),
        (["Jan 5, 2021", "Feb 28, 2020", "Dec 1, 1999"], "%b %d, %Y"),
        (["05-Jan-2021", "28-Feb-2020", "01-Dec-1999"], "%d-%b-%Y"),
        (["12/31/2020 1:05 PM", "01/02/2020 12:00 AM", "06/15/2021 9:30 AM"], "%m/%d/%Y %I:%M %p"),
        (["2016-07", "2016-08", "2017-01"], "%Y-%m"),
    ],
)
def test_dates_written_as_text(texts: list[str], form: str | None) -> None:
    column, data, notes = column_of([*texts, None] * 6)
    assert column.kind == "date"
    assert column.parse.get("format") == form
    read = date_reader(column.parse)
    np.testing.assert_array_equal(data[:4], [*(read(t) for t in texts), np.nan])
    assert "dates" in notes


def test_day_and_month_that_could_be_exchanged_are_said() -> None:
    _, _, notes = column_of(["01/02/2020", "03/04/2020", "05/06/2020"] * 6)
    assert "other way round" in notes


@pytest.mark.parametrize("odd", ["2020-02-30", "soon", "32/13/2020"])
def test_one_cell_that_is_no_date_makes_categories(odd: str) -> None:
    column, _, _ = column_of(["2020-01-01", "2020-01-02", odd] * 8)
    assert column.kind == "categorical"


@pytest.mark.parametrize(
    "cells",
    [
        pd.to_datetime(["2020-01-01 00:00", None, "2021-06-01 12:00"]),
        pd.to_datetime(["2020-01-01 00:00", None, "2021-06-01 12:00"], utc=True),
        pd.Series(pd.to_datetime(["2020-01-01 00:00", None, "2021-06-01 12:00"])).astype("datetime64[s]"),
        [datetime.datetime(2020, 1, 1), None, datetime.datetime(2021, 6, 1, 12)],
        pd.Series(["2020-01-01", None, "2021-06-01 12:00"], dtype="category"),
    ],
)
def test_moments_of_every_type_read_alike(cells: Any) -> None:
    column, data, _ = column_of(pd.concat([pd.Series(cells)] * 8, ignore_index=True))
    assert column.kind == "date"
    np.testing.assert_array_equal(data[:3], [1577836800.0, np.nan, 1622548800.0])


def test_dates_of_any_year() -> None:
    assert column_of([datetime.date(1970, 1, 2), datetime.date(9999, 12, 31)] * 8)[1][0] == 86400.0


@pytest.mark.parametrize(
    ("cells", "how"),
    [
        (pd.period_range("1970-01", periods=24, freq="M"), "to_timestamp"),
        (pd.to_timedelta(range(24), unit="s"), "total_seconds"),
        ([datetime.timedelta(1), None, "a"] * 8, "total_seconds"),
    ],
)
def test_durations_and_periods_are_refused_with_what_to_give(cells: Any, how: str) -> None:
    with pytest.raises(DataTypeError, match=f"'c'.*{how}"):
        table_of(cells)


def test_dates_agree_with_the_runtime_for_moments() -> None:
    cells = pd.Series(pd.date_range("1969-12-30", periods=30, freq="7h"))
    np.testing.assert_array_equal(column_of(cells)[1], read_dates(cells.to_numpy(), {}))


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ([3.5] * 30, "constant"),
        (["a"] * 30, "constant"),
        ([None] * 30, "all missing"),
        ([""] * 30, "all missing"),
        ([float("nan")] * 30, "all missing"),
        ([f"user-{i}" for i in range(30)], "identifier"),
    ],
)
def test_useless_columns_are_dropped_and_named(cells: list[Any], said: str) -> None:
    assert f"column 'c' dropped: {said}." in notes_of(cells)


def test_what_only_looks_useless_is_kept() -> None:
    assert column_of(["a"] * 20 + [None] * 10)[0].kind == "categorical"
    assert column_of([1.0] * 20 + [None] * 10)[0].kind == "numeric"
    assert column_of(np.linspace(0, 1, 30))[0].kind == "numeric"
    assert column_of(np.arange(30))[0].kind == "numeric"  # no name of an identifier, few rows


def test_row_numbers_are_dropped_by_name_or_where_the_target_has_no_order() -> None:
    n, y = 300, labels(300)
    x = np.random.default_rng(0).random(n)
    for name in ("id", "ID", "customer_id", "customerId", "Unnamed: 0", "row_number"):
        table = from_frame(pd.DataFrame({name: np.random.default_rng(1).permutation(10 * n)[:n], "x": x}), y)
        assert [c.name for c in table.columns] == ["x"]
        assert f"column {name!r} dropped: identifier." in table.notes
    for name in ("bid", "paid", "humid", "idle"):
        assert len(from_frame(pd.DataFrame({name: np.random.default_rng(1).permutation(n), "x": x}), y).columns) == 2
    counter = pd.DataFrame({"n": np.arange(1, n + 1), "x": x})
    assert [c.name for c in from_frame(counter, y).columns] == ["x"]
    assert len(from_frame(counter, np.arange(n) * 0.5 + x).columns) == 2  # a trend along the rows: a feature
    assert len(from_frame(counter.to_numpy(), y).columns) == 2
    assert len(from_frame(pd.DataFrame({"id": x, "x": x[::-1]}), y).columns) == 2  # a fraction is no identifier


def test_columns_with_the_same_cells_are_dropped_and_named() -> None:
    x = np.random.default_rng(0).random(40)
    frame = pd.DataFrame({"a": x, "b": x, "c": x + 1, "u": list("pq") * 20, "v": list("pq") * 20, "w": list("rs") * 20})
    table = from_frame(frame, labels(40))
    assert [c.name for c in table.columns] == ["a", "c", "u", "w"]
    assert "2 columns 'b' (as 'a'), 'v' (as 'u') dropped: the same as another column." in table.notes


def test_no_column_left_is_an_error() -> None:
    with pytest.raises(DataError, match=r"no input column is left.*'c' dropped: constant"):
        from_frame(pd.DataFrame({"c": [1] * 30}), labels(30))


def test_a_feature_that_equals_the_target_is_named() -> None:
    y = labels(50)
    x = np.random.default_rng(0).random(50)
    table = from_frame(pd.DataFrame({"leak": [{"no": "n", "yes": "j"}[v] for v in y], "x": x}), y)
    assert any("'leak' equals the target" in n for n in table.notes)
    table = from_frame(pd.DataFrame({"leak": x * 3, "x": np.sin(x * 99)}), x * 3)
    assert any("'leak' equals the target" in n for n in table.notes)
    assert not any("'x' equals" in n for n in table.notes)


# --- infinite, weights, what the caller holds ---


def test_infinite_inputs_are_refused_by_column_and_row_or_taken_as_missing() -> None:
    cells = [1.0, 2.0, math.inf, 4.0] * 5
    with pytest.raises(DataError, match=r"column 'c' holds an infinite value.* in row 2"):
        table_of(cells)
    with pytest.raises(DataError, match="row 4"):
        table_of(cells, first_row=2)
    table = table_of(cells, infinite="missing")
    assert np.isnan(table.data[0]).sum() == 5
    with pytest.raises(DataError, match="infinite"):
        table_of([10**400, 1, 2] * 5)
    assert table_of([1e308, -1e308, 0.0] * 5).data[0].max() == 1e308
    with pytest.raises(UsageError, match="infinite"):
        table_of([1.0, 2.0] * 5, infinite="maybe")


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([1.0] * 19, "shape"),
        ([1.0] * 19 + [-1.0], "row 19"),
        ([float("nan")] + [1.0] * 19, "row 0"),
        ([0.0] * 20, "every"),
        (["a"] * 20, "not all numbers"),
    ],
)
def test_bad_weights_are_refused(weights: list[Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        table_of(np.arange(20.0), weights=weights)


def test_rows_of_weight_zero_are_left_out() -> None:
    n = 40
    frame = pd.DataFrame({"x": np.arange(n) * 1.5}, index=[7] * n)
    weights = np.ones(n)
    weights[[3, 8]] = 0
    y: list[Any] = labels(n)
    y[5] = None
    table = from_frame(frame, y, weights=weights)
    assert table.rows == 37
    assert table.kept.tolist() == [i for i in range(n) if i not in (3, 5, 8)]
    assert table.data[0].tolist() == (table.kept * 1.5).tolist()
    assert table.weights is not None
    assert table.weights.tolist() == [1.0] * 37
    assert any("2 rows have the weight 0" in note for note in table.notes)


def test_arrays_matrices_dicts_and_frames_of_other_libraries() -> None:
    x = np.random.default_rng(0).random((30, 3))
    y = labels(30)
    expected = [x[:, j].tolist() for j in range(3)]
    readonly = np.asfortranarray(x)
    readonly.flags.writeable = False
    names = ["x0", "x1", "x2"]
    frame = pd.DataFrame(x, columns=names, index=[0] * 30)
    for X in (x, readonly, x.tolist(), x.astype(object), dict(zip(names, x.T, strict=True)), frame, Foreign(frame)):
        table = from_frame(X, y)
        assert [c.name for c in table.columns] == names
        assert [d.tolist() for d in table.data] == expected
    assert from_frame(x, y, names=["a", "b", "c"]).inputs == ("a", "b", "c")


class Foreign:
    """A frame of another library, which pandas can be made of."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame = frame

    def to_pandas(self) -> pd.DataFrame:
        return self.frame


def test_arrow_tables_and_arrow_backed_columns() -> None:
    pa = pytest.importorskip("pyarrow")
    cells = {
        "i": [1, None, 3] * 5,
        "s": ["a", "b", None] * 5,
        "b": [True, None, False] * 5,
        "d": [datetime.date(2020, 1, d + 1) for d in range(15)],
    }
    table = from_frame(pa.table(cells), labels(15))
    backed = from_frame(pa.table(cells).to_pandas(types_mapper=pd.ArrowDtype), labels(15))
    assert (
        [c.kind for c in table.columns]
        == [c.kind for c in backed.columns]
        == ["numeric", "categorical", "numeric", "date"]
    )
    assert table.fingerprint() == backed.fingerprint()


@pytest.mark.parametrize("kind", ["array", "chunked", "table"])
def test_an_arrow_target_keeps_its_labels_where_rows_have_the_weight_zero(kind: str) -> None:
    pa = pytest.importorskip("pyarrow")
    y = {"array": pa.array, "chunked": lambda c: pa.chunked_array([c]), "table": lambda c: pa.table({"y": c})}[kind]
    X, weights = pd.DataFrame({"x": np.arange(30.0) ** 2}), np.array([0.0, *np.ones(29)])
    for cells in (labels(30), [3, 5] * 15, [True, False] * 15):
        task = from_frame(X, y(cells), weights=weights).task
        assert task == from_frame(X, cells).task
        assert {type(c) for c in task.classes} == {type(cells[0])}


def test_sparse_matrices_are_one_column() -> None:
    X = sparse.random(40, 12, 0.3, format="coo", random_state=0)
    table = from_frame(X, labels(40))
    assert [(c.kind, len(c.names)) for c in table.columns] == [("sparse", 12)]
    assert table.data[0].format == "csr"
    np.testing.assert_allclose(table.data[0].toarray(), X.toarray(), rtol=1e-6)
    assert table.facts().sparse
    assert table.facts().columns == 12
    assert table.records([3])[0]["x5"] == pytest.approx(X.toarray()[3, 5])
    broken = X.tocsr()
    broken.data[0] = np.inf
    with pytest.raises(DataError, match="column 'x"):
        from_frame(broken, labels(40))


@pytest.mark.parametrize(
    ("X", "error", "said"),
    [
        (np.zeros((30, 2), complex), DataTypeError, "complex"),
        (pd.DataFrame({"a": [1j] * 30}), DataTypeError, "'a'.*complex"),
        (pd.DataFrame({"a": [[1]] * 30}), DataTypeError, "'a'.*list.*row 0"),
        (np.zeros(30), DataError, "2"),
        (np.zeros((29, 2)), DataError, "29"),
        (np.zeros((30, 0)), DataError, "no columns"),
        (pd.DataFrame(np.zeros((30, 2)), columns=["a", "a"]), DataError, "'a' stands twice"),
        (pd.DataFrame(np.zeros((30, 2)), columns=[1, "1"]), DataError, "'1' stands twice"),
        ([[1, 2], [3]] * 15, DataError, "different lengths"),
        (object(), DataTypeError, "object"),
        ({"a": [1] * 30, "b": [1] * 20}, DataError, "'b' has 20 rows"),
    ],
)
def test_what_is_no_table_is_refused(X: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        from_frame(X, labels(30))


def test_names_of_a_multi_index_are_joined() -> None:
    frame = pd.DataFrame(
        np.random.default_rng(0).random((20, 2)), columns=pd.MultiIndex.from_tuples([("a", "b"), ("a", "")])
    )
    assert from_frame(frame, labels(20)).inputs == ("a_b", "a")


# --- the target ---


@pytest.mark.parametrize(
    ("y", "kind", "classes"),
    [
        (["b", "a"] * 10, "binary", ("a", "b")),
        ([True, False] * 10, "binary", (False, True)),
        ([1, 0] * 10, "binary", (0, 1)),
        (np.array([2, 7, 9] * 20, np.uint8), "multiclass", (2, 7, 9)),
        ([1.0, 2.0] * 10, "binary", (1.0, 2.0)),
        ([0.5, 1.5, 2.5] * 10, "regression", ()),
        (list(range(100)), "regression", ()),
        ([f"{i}.5" for i in range(100)], "regression", ()),
        (pd.Series(["x", "y", "z"] * 10, dtype="category"), "multiclass", ("x", "y", "z")),
        (pd.Series([1, 2, None] * 10, dtype="Int64"), "binary", (1, 2)),
    ],
)
def test_task_is_inferred_with_labels_in_their_type(y: Any, kind: str, classes: tuple[Any, ...]) -> None:
    task = infer_task(y)
    assert task == Task(kind, classes)
    assert [type(c) for c in task.classes] == [type(c) for c in classes]


def target_notes(y: Any, **options: Any) -> Table:
    return from_frame(np.random.default_rng(0).random((len(y), 2)), y, **options)


def test_how_the_task_was_inferred_is_said_and_can_be_overridden() -> None:
    table = target_notes([1, 2, 3] * 20)
    assert table.task.kind == "multiclass"
    assert "--task" in table.notes[0]
    table = target_notes([1, 2, 3] * 20, task="regression")
    assert (table.task.kind, table.y.dtype) == ("regression", np.float64)
    assert target_notes(["1,5", "2,5"] * 10, task="regression").y[0] == 1.5
    assert target_notes([0.1, 0.2, 0.3] * 10, task="classification").task.classes == (0.1, 0.2, 0.3)


def test_a_target_whose_differences_float32_loses_is_refused_and_one_beside_it_is_not() -> None:
    near = np.random.default_rng(0).normal(size=60)
    with pytest.raises(DataError, match=r"'target' varies by .* around 1764\d+: .*subtract a constant near 1.76e\+09"):
        from_frame(pd.DataFrame({"x": near}), 1_764_000_000 + 1_000.0 * near)
    assert from_frame(pd.DataFrame({"x": near}), 2_000.0 + near).task.kind == "regression"


def test_rows_without_a_target_are_dropped_and_counted() -> None:
    table = target_notes(["a", None, "b", "", float("nan")] * 10)
    assert table.rows == 20
    assert any("30 of 50 rows have no target" in n for n in table.notes)
    assert table.kept[:4].tolist() == [0, 2, 5, 7]


@pytest.mark.parametrize(
    ("y", "options", "error", "said"),
    [
        ([None] * 20, {}, DataError, "no value"),
        (["a"] * 20, {}, DataError, "only one class"),
        ([3.5] * 20, {}, DataError, "the same value"),
        ([1.5, math.inf] * 10, {}, DataError, "infinite in row 1"),
        (["a", "b", "c"] * 10, {"task": "binary"}, DataError, "3 distinct"),
        (["a", "b", "c"] * 10, {"task": "regression"}, DataError, "'a'"),
        (["a", "b", "c"] * 10, {"task": "multi"}, UsageError, "multiclass"),
        ([f"u{i}" for i in range(2000)], {}, DataError, "--task multiclass"),
        (pd.date_range("2020", periods=20), {}, DataTypeError, "dates"),
        (np.zeros((20, 2)), {}, DataError, "2 columns"),
        ([[1], [2]] * 10, {}, DataTypeError, "plain values"),
    ],
)
def test_targets_that_cannot_be_learned(y: Any, options: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        target_notes(y, **options)


def test_rare_classes_few_rows_and_labels_of_one_number_are_said() -> None:
    notes = " ".join(target_notes(["a", "b"] * 10 + ["c"]).notes)
    assert "'c'" in notes
    assert "single row" in notes
    assert "only 4 rows" in " ".join(target_notes(["a", "b"] * 2).notes)
    table = target_notes(["1", "1.0"] * 10)
    assert table.task.classes == ("1", "1.0")
    assert "same number" in " ".join(table.notes)
    assert target_notes([1, "a"] * 10).task.classes == (1, "a")


@pytest.mark.parametrize(
    ("y", "said"),
    [
        ([1, "1"] * 10, r"1 \(int\) and '1' \(str\)"),
        ([1.0, "a", "1"] * 10, r"1.0 \(float\) and '1' \(str\)"),
        (["True", False, True, "no"] * 10, r"'True' \(str\) and True \(bool\)"),
        ([True, 1, 0, False] * 10, r"True \(bool\) and 1 \(int\)"),
        ([2, 0, None, False, 1] * 10, r"0 \(int\) and False \(bool\)"),
        ([b"a", "a", "b"] * 10, "'a'"),
    ],
)
def test_labels_that_no_prediction_tells_apart_are_refused(y: list[Any], said: str) -> None:
    with pytest.raises(DataError, match=f"the labels {said}.*write them alike.*or rename one"):
        target_notes(pd.Series(y, dtype=object), task="classification")


def test_labels_of_types_that_agree_are_no_twins() -> None:
    assert target_notes(pd.Series([1, 1.0, 0] * 10, dtype=object)).task.classes == (0, 1)
    assert target_notes(["1.0", 1] * 10).task.classes == (1, "1.0")
    assert target_notes([True, "yes", np.bool_(True)] * 10).task.classes == (True, "yes")
    values = target_notes(pd.Series([True, 1, 0, 2.5] * 10, dtype=object), task="regression").y
    assert values[:4].tolist() == [1.0, 1.0, 0.0, 2.5]


def test_labels_of_bytes_are_text() -> None:
    for y in (np.array([b"yes", b"no"] * 10), np.array([b"yes", b"no"] * 10, object)):
        assert target_notes(y).task.classes == ("no", "yes")


# --- storing ---


def mixed_table() -> Table:
    rng = np.random.default_rng(3)
    n = 60
    frame = pd.DataFrame(
        {
            "number": rng.normal(size=n),
            "gap": [None, 1.0, 2.0] * 20,
            "level": list("abc") * 19 + [None, "a", "b"],
            "day": pd.date_range("2020-01-01 10:30", periods=n),
            "said": [f"some words about {w} and the {i}" for i, w in enumerate(rng.choice(["cats", "dogs"], n))],
        }
    )
    return from_frame(frame, labels(n), weights=rng.random(n) + 0.1)


def test_saved_and_opened_is_the_same_table(tmp_path: Any) -> None:
    table = mixed_table()
    table.save(tmp_path / "table")
    opened = Table.open(tmp_path / "table")
    assert opened.columns == table.columns
    assert (opened.task, opened.notes, opened.inputs) == (table.task, table.notes, table.inputs)
    assert opened.fingerprint() == table.fingerprint()
    assert opened.records(opened.sample_rows) == table.records(table.sample_rows)
    assert not opened.data[0].flags.writeable
    assert merge_duplicates(opened, np.arange(60))[0].tolist() == list(range(60))
    assert not list((tmp_path / "table").glob("*.pkl"))
    regression = from_frame(sparse.random(30, 5, 0.5, "csr", random_state=1), np.arange(30) / 7)
    regression.save(tmp_path / "sparse")
    assert Table.open(tmp_path / "sparse").fingerprint() == regression.fingerprint()


def test_a_torn_table_is_refused(tmp_path: Any) -> None:
    mixed_table().save(tmp_path)
    path = tmp_path / "float64.npy"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match="not a whole"):
        Table.open(tmp_path)
    (tmp_path / "meta.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(DataError, match="format 99"):
        Table.open(tmp_path)
    with pytest.raises(DataError, match="not a whole saved table"):
        Table.open(tmp_path / "nothing")


def test_fingerprint_changes_with_the_content() -> None:
    x = np.random.default_rng(0).random((30, 2))
    first = from_frame(x, labels(30)).fingerprint()
    assert from_frame(x.copy(), labels(30)).fingerprint() == first
    assert from_frame(x, labels(30), names=["a", "b"]).fingerprint() != first
    assert from_frame(x + (x == x[3, 1]), labels(30)).fingerprint() != first
    assert from_frame(x, labels(30), weights=np.full(30, 2.0)).fingerprint() != first


def test_records_are_rows_as_a_user_gives_them() -> None:
    row = mixed_table().records([57])[0]
    assert row["gap"] is None
    assert row["level"] is None
    assert row["day"] == "2020-02-27T10:30:00"
    assert row["said"].startswith("some words")
    assert isinstance(row["number"], float)


def test_facts_say_what_a_family_may_know() -> None:
    facts = mixed_table().facts(rows=50, budget=9.0)
    assert (
        facts.task,
        facts.rows,
        facts.columns,
        facts.classes,
        facts.categorical,
        facts.sparse,
        facts.budget_seconds,
    ) == ("binary", 50, 5, 2, 1, False, 9.0)


CELLS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_infinity=False),
    st.text(max_size=8),
    st.datetimes(),
    st.dates(),
    st.sampled_from(["a", "b", "1", "NA"]),
)
COLUMNS = st.one_of(
    st.lists(CELLS, min_size=12, max_size=12),
    st.lists(st.text(max_size=4), min_size=12, max_size=12),
    st.lists(st.one_of(st.none(), st.datetimes()), min_size=12, max_size=12),
    st.lists(st.floats(allow_infinity=False), min_size=12, max_size=12),
)


@few
@given(st.lists(COLUMNS, min_size=1, max_size=4))
def test_any_frame_loads_saves_and_opens_or_is_refused_by_name(tmp_path_factory: Any, columns: list[list[Any]]) -> None:
    frame = pd.DataFrame({f"c{i}": pd.Series(cells, dtype=object) for i, cells in enumerate(columns)})
    try:
        table = from_frame(frame, ["a", "b"] * 6)
    except (DataError, DataTypeError) as error:
        assert "infinite" in str(error) or "no input column" in str(error)  # noqa: PT017 - the message is the property
        return
    folder = tmp_path_factory.mktemp("table")
    table.save(folder)
    opened = Table.open(folder)
    assert opened.fingerprint() == table.fingerprint()
    for column, data in zip(table.columns, table.data, strict=True):
        cells = frame[column.name].tolist()
        if column.kind == "numeric":
            read = number_reader(column.parse)
            np.testing.assert_array_equal(data, [read(c) for c in cells])
        elif column.kind == "date":
            read = date_reader(column.parse)
            np.testing.assert_array_equal(data, [read(c) for c in cells])
        elif column.kind == "categorical":
            assert data.max() == len(column.levels) - 1
            assert list(column.levels) == sorted(set(column.levels))


# --- rows ---


def test_of_weights_only_the_ratios_count() -> None:
    frame = pd.DataFrame({"x": np.arange(40.0) ** 2})
    given = np.arange(40.0)
    small, large = (from_frame(frame, labels(40), weights=given * scale) for scale in (1e-9, 1e9))
    assert small.weights is not None
    np.testing.assert_allclose(small.weights, given[1:] / given[1:].mean())
    np.testing.assert_allclose(small.weights, np.asarray(large.weights))
    huge = from_frame(frame, labels(40), weights=np.full(40, 1e308))
    assert huge.weights is not None
    assert huge.weights.tolist() == [1.0] * 40


def test_identical_rows_merge_into_weights() -> None:
    base = pd.DataFrame({"x": [1.0, -0.0, np.nan, 0.0] * 10, "c": ["a", "b", None, "b"] * 10})
    table = from_frame(base, ["p", "q", "p", "q"] * 10, weights=np.arange(1.0, 41.0))
    rows, weights = merge_duplicates(table, np.arange(40))
    assert rows.tolist() == [0, 1, 2]
    mean = np.arange(1, 41).mean()
    assert weights.sum() == pytest.approx(40.0)
    assert weights[1] == pytest.approx(sum(range(2, 41, 2)) / mean)
    rows, weights = merge_duplicates(table, np.array([5, 4, 8]))
    assert rows.tolist() == [5, 4]
    assert weights.tolist() == pytest.approx([6.0 / mean, 14.0 / mean])


def test_sparse_rows_merge_by_content() -> None:
    block = sparse.csr_matrix(np.array([[1.0, 0, 2], [0, 1, 2], [1, 0, 2], [2, 0, 1]] * 5))
    rows, weights = merge_duplicates(from_frame(block, ["a", "b", "a", "b"] * 5), np.arange(20))
    assert rows.tolist() == [0, 1, 3]
    assert weights.tolist() == [10.0, 5.0, 5.0]


@few
@given(st.lists(st.integers(0, 4), min_size=1, max_size=300), st.integers(0, 99))
def test_every_prefix_of_the_nested_order_is_stratified(y: list[int], seed: int) -> None:
    values = np.array(y, np.int32)
    order = nested_order(values, "multiclass", seed)
    assert sorted(order.tolist()) == list(range(len(y)))
    assert np.array_equal(order, nested_order(values, Task("multiclass"), seed))
    present = np.unique(values)
    assert set(values[order[: len(present)]].tolist()) == set(present.tolist())
    counts = np.bincount(values)
    for m in range(1, len(y) + 1):
        found = np.bincount(values[order[:m]], minlength=len(counts))
        assert np.abs(found - counts * m / len(y)).max() <= len(present)


def test_nested_order_of_a_regression_keeps_the_distribution() -> None:
    y = np.random.default_rng(0).exponential(size=5000)
    order = nested_order(y, "regression", 3)
    for m in (200, 1000, 3000):
        assert abs(y[order[:m]].mean() - 1) < 0.12
    assert len(nested_order(y[:0], "regression", 0)) == 0
