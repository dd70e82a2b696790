"""What tells rows apart is checked and put in order; validation rows are stacked below, whatever the frame."""

from __future__ import annotations

import importlib
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest

import automl
from automl.errors import DataError, UsageError
from automl.estimators.table import from_frame
from automl.inputs import aligned, assemble, split_target, stack

TABLE = from_frame(np.arange(12.0).reshape(4, 3), np.array([1.5, 2.5, 0.5, 3.5]))


@pytest.mark.parametrize(
    "time",
    [
        ["3/14/2019", "12/1/2018", "10/2/2020", "1/5/2021"],
        ["9", "-2", "10", "11"],
        np.array(["2019-03-14", "2018-12-01", "2020-10-02", "2021-01-05"]),
        np.array([9, -2, 10, 11], "datetime64[ns]"),
        pd.to_datetime(["2019-03-14", "2018-12-01", "2020-10-02", "2021-01-05"]).tz_localize("Europe/Berlin"),
        pd.Series([9, -2, 10, 11], dtype="Int64"),
        [9, -2, 10, 11],
    ],
    ids=["dates", "numbers as text", "iso", "datetime64", "zoned", "nullable", "list"],
)
def test_time_is_put_in_its_own_order(time: Any) -> None:
    found = aligned(time, "time", 4, TABLE)
    assert found is not None
    assert np.argsort(found).tolist() == [1, 0, 2, 3]


@pytest.mark.parametrize("name", ["time", "groups"])
@pytest.mark.parametrize(
    "values",
    [
        [1, 2, None, 4],
        np.array([1, 2, np.nan, 4]),
        np.array([1, 2, "NaT", 4], "datetime64[s]"),
        pd.Series([1, 2, None, 4], dtype="Int64"),
        ["1", "2", " ", "4"],
    ],
    ids=["None", "nan", "NaT", "NA", "blank"],
)
def test_a_missing_value_is_refused_by_its_row(name: str, values: Any) -> None:
    with pytest.raises(DataError, match=f"{name} is missing in row 2"):
        aligned(values, name, 4, TABLE)


def test_time_that_has_no_order_is_refused() -> None:
    with pytest.raises(DataError, match=r"neither as numbers nor as dates.*'spring'"):
        aligned(["spring", "summer", "autumn", "winter"], "time", 4, TABLE)


def test_groups_of_any_kind_are_told_apart() -> None:
    for values in (
        ["a", "b", "a", "NA"],
        [("x", 1), ("y", 1), ("x", 1), ("z", 2)],
        pd.Categorical(["p", "q", "p", "r"]),
    ):
        cells: Any = np.empty(4, object)
        cells[:] = list(values)
        found = aligned(cells, "groups", 4, TABLE)
        assert found is not None
        assert found.tolist() == [0, 1, 0, 2]


def test_validation_rows_weigh_as_the_mean_of_the_others() -> None:
    X, y = np.arange(12.0).reshape(4, 3), np.array([1.5, 2.5, 0.5, 3.5])
    for scale in (1e-6, 1.0, 1e6):
        table, _ = assemble(X, y, np.array([1.0, 3.0, 1.0, 3.0]) * scale, X + 100.0, y, None, None, None, None)
        assert table.weights is not None
        np.testing.assert_allclose(table.weights, [0.5, 1.5, 0.5, 1.5, 1, 1, 1, 1])
    with pytest.raises(DataError, match="shape"):
        assemble(X, y, np.ones(3), X, y, None, None, None, None)


@pytest.mark.parametrize("name", ["groups", "time", "splitter"])
def test_validation_rows_exclude_other_ways_of_splitting(name: str) -> None:
    X, y = np.arange(12.0).reshape(4, 3), np.array([1.5, 2.5, 0.5, 3.5])
    given: dict[str, Any] = {"groups": None, "time": None, "splitter": None, name: np.arange(4)}
    with pytest.raises(UsageError, match=f"X_val and {name}"):
        assemble(X, y, None, X, y, given["groups"], given["time"], given["splitter"], None)


def test_targets_of_both_parts_are_joined_whatever_their_shape() -> None:
    X, y = np.arange(12.0).reshape(4, 3), np.array([1.5, 2.5, 0.5, 3.5])
    table, rows = assemble(X, y[:, None], None, X, y, None, None, None, "regression")
    assert np.asarray(table.y).tolist() == [*y, *y]
    assert rows.validation is not None
    assert rows.validation.tolist() == [4, 5, 6, 7]
    with pytest.raises(DataError, match="y holds numbers and y_val holds text"):
        assemble(X, [0, 1, 0, 1], None, X, ["0", "1", "0", "1"], None, None, None, None)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"y": [0, 1]}, "y is given, and X is a file"),
        ({"sample_weight": [1, 2]}, "sample_weight is a list"),
        ({"X_val": [[1]], "y_val": [1]}, "X_val is given"),
        ({"groups": [1, 2]}, "groups is a list"),
    ],
)
def test_what_a_file_cannot_be_given_with_is_refused(given: dict[str, Any], said: str, tmp_path: Any) -> None:
    path = tmp_path / "t.csv"
    path.write_text("x,w,y\n" + "1,1,0\n2,1,1\n" * 20)
    with pytest.raises(UsageError, match=re.escape(said)):
        automl.fit(str(path), target="y", **given)
    with pytest.raises(UsageError, match="reading is for a file"):
        automl.fit([[1]] * 20, [0, 1] * 10, reading={"sep": ";"})


def test_the_target_is_a_column_of_any_frame() -> None:
    plain = {"x": np.arange(4), "y": np.array([0, 1, 0, 1])}
    frames: list[Any] = [plain, pd.DataFrame(plain)]
    frames += [arrow.table(plain)] if (arrow := _module("pyarrow")) else []
    frames += [polars.DataFrame(plain)] if (polars := _module("polars")) else []
    for frame in frames:
        X, y = split_target(frame, None, "y")
        assert list(X.columns) == ["x"]
        assert y.tolist() == [0, 1, 0, 1]
        with pytest.raises(UsageError, match="'z' is not a column"):
            split_target(frame, None, "z")


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def test_frames_of_every_library_are_stacked() -> None:
    above, below = {"a": [1, 2], "b": ["x", "y"]}, {"b": ["z"], "a": [3]}
    polars = pytest.importorskip("polars")
    for make in (dict, pd.DataFrame, polars.DataFrame):
        found = stack(make(above), make(below))
        assert found["a"].tolist() == [1, 2, 3]
        assert found["b"].tolist() == ["x", "y", "z"]
    with pytest.raises(DataError, match="lacks the columns 'b'"):
        stack(above, {"a": [3]})
    with pytest.raises(DataError, match="same columns"):
        stack(np.ones((2, 3)), np.ones((2, 2)))
    with pytest.raises(DataError, match="has not"):
        stack(above, np.ones((1, 2)))
