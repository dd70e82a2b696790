"""Days as categories: what else happened on a row's day may tell more of it than anything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from automl.estimators import runtime
from automl.estimators.encoder import View
from automl.estimators.families.lightgbm import LightGBM
from automl.estimators.pipeline import Pipeline
from automl.estimators.table import Table
from automl.exporters import by_name
from automl.inputs import assemble

ROWS, DAYS = 3_000, 60


def stations(rows: int = ROWS, days: int = DAYS) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows of days each of which has a level of its own, some without a date."""
    rng = np.random.default_rng(0)
    day, levels = rng.integers(0, days, rows), rng.normal(size=days)
    X = pd.DataFrame({"a": rng.normal(size=rows), "when": pd.Timestamp("2021-03-01") + pd.to_timedelta(day, "D")})
    y = levels[day] + 0.3 * X["a"].to_numpy() + 0.1 * rng.normal(size=rows)
    X.loc[::17, "when"] = pd.NaT
    return X, np.where(y > 0.0, "wet", "dry")


@pytest.fixture(scope="module")
def table() -> Table:
    return assemble(*stations(), None, None, None, None, None, None, "binary")[0]


def test_days_are_offered_where_they_repeat_and_rows_to_come_may_be_of_them(table: Table) -> None:
    family = LightGBM()
    views = family.views(table.facts())
    assert views[-1] == View(dates="days")
    assert [point.get("view") for point in family.strong(table.facts())] == [None, None, len(views) - 1]
    assert family.views(table.facts(later=True)) == (View(),)
    rare = assemble(*stations(days=2_000), None, None, None, None, None, None, "binary")[0]
    assert rare.facts().days == 0


def test_a_model_that_knows_the_days_is_better_and_is_exported_equal(table: Table, tmp_path: Path) -> None:
    train, rest = np.arange(2_000), np.arange(2_000, ROWS)
    params = {"n_estimators": 40, "num_leaves": 4, "min_data_per_group": 5}
    errors = {}
    for dates in ("parts", "days"):
        pipeline = Pipeline(LightGBM(), params, view=View(dates=dates)).fit(table, train)
        predicted = pipeline.predict(table, rest)[:, 1] > 0.5
        errors[dates] = np.mean(predicted != np.asarray(table.y)[rest])
        pipeline.export(tmp_path / dates, table, train)
    assert errors["days"] < 0.7 * errors["parts"]
    for name in ("onnx", "c", "python"):  # each is proven on rows with odd cells before it is written
        by_name(name).export(tmp_path / "days", tmp_path / name)
    X = stations()[0]
    beyond = pd.DataFrame(
        {"a": [0.1] * 4, "when": pd.to_datetime(["1970-01-01", "2021-02-28", "2021-04-30", "9999-01-01"])}
    )
    for rows in (X.iloc[rest], beyond):
        wanted = None
        for engine in ("onnx", "compiled"):
            with runtime.load(tmp_path / "days", engine=engine) as model:
                found = model.predict_proba(rows)
                one = [model.predict_proba_one(row) for row in rows.to_dict("records")]
            np.testing.assert_array_equal(found, one)
            wanted = found if wanted is None else wanted
            np.testing.assert_allclose(found, wanted, atol=1e-6)
