"""A trial fits the split's own training rows, places its predictions, and survives a holdout that cannot be scored."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import TimeSeriesSplit

from automl.estimators.errors import DataError
from automl.estimators.families import by_name
from automl.estimators.table import from_frame
from automl.search.fitting import Job, Result, fit_job
from automl.search.folds import Rivals
from automl.search.metric import Metric
from automl.search.plan import from_point
from automl.search.split import Split, make_split


def run(
    folder: Path,
    X: Any,
    y: Any,
    split: Split | None = None,
    metric: Any = None,
    rivals: Rivals | None = None,
    **options: Any,
) -> Result:
    """One trial of the baseline."""
    table = from_frame(X, y)
    facts, family = table.facts(), by_name(["baseline"], ())[0]
    if split is None:
        split = make_split(np.asarray(table.y), table.task.kind, 0, **options)
    table.save(folder / "table")
    split.save(folder / "split.npz")
    (folder / "rows.pickle").write_bytes(pickle.dumps([{"x0": 1.0}] if len(X) else []))
    plan = from_point({"family": "baseline", **family.starts(facts)[0]}, family, facts, 1)
    job = Job(
        plan, family, Metric.resolve(metric, table.task), folder, folder / "a", split.rungs()[-1], 0, rivals=rivals
    )
    return fit_job(job)


def test_each_fold_is_predicted_from_its_own_training_rows(tmp_path: Path) -> None:
    y = np.arange(60.0) ** 2
    result = run(tmp_path, np.arange(60.0)[:, None], y, metric="mae", splitter=TimeSeriesSplit(4))
    expected = [np.abs(y[v] - y[t].mean()).mean() for t, v in TimeSeriesSplit(4).split(y)]
    assert result.measurement.error == pytest.approx(np.mean(expected), rel=1e-5)
    assert result.measurement.rows == 48
    assert len(result.validation) == 48


def test_a_holdout_that_the_metric_refuses_does_not_fail_the_trial(tmp_path: Path) -> None:
    y = np.array(["a", "b"])[np.arange(120) % 2]
    rows = np.arange(120)
    split = Split(rows[:60], rows[60:100], rows[100::2])  # the holdout is of one class
    result = run(tmp_path, np.arange(120.0)[:, None], y, split)
    assert len(result.validation) == 40
    assert not len(result.holdout)


def test_validation_that_the_metric_refuses_fails_the_trial(tmp_path: Path) -> None:
    y = np.array(["a", "b"])[np.arange(120) % 2]
    rows = np.arange(120)
    with pytest.raises(DataError, match="one class"):
        run(tmp_path, np.arange(120.0)[:, None], y, Split(rows[:60], rows[60:100:2], rows[100:]))


def test_a_column_missing_in_every_training_row_leaves_the_baseline(tmp_path: Path) -> None:
    X = np.full((60, 1), np.nan)
    X[50:, 0] = np.arange(10)
    split = Split(np.arange(40), np.arange(40, 60), np.empty(0, np.int64))
    assert run(tmp_path, X, np.arange(60.0), split).measurement.error is not None


def test_of_folds_that_grow_with_time_every_trial_is_looked_at_on_the_last(tmp_path: Path) -> None:
    X, y = np.random.default_rng(0).normal(size=(600, 3)), np.arange(600) % 2
    split = make_split(y, "binary", 0, splitter=TimeSeriesSplit(5))
    assert not split.even
    assert make_split(y, "binary", 0).even
    for folder, rivals in ((tmp_path / "a", None), (tmp_path / "b", Rivals((), ()))):
        assert run(folder, X, y, split, rivals=rivals).measurement.rows == max(len(train) for train, _ in split.folds)
