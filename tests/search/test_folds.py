"""A cross-validated trial ends after a fold where models of its family are better at no higher cost, and goes on elsewhere."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer

import automl
from automl.estimators.families import by_name
from automl.estimators.table import from_frame
from automl.search import folds
from automl.search.fitting import Job, Result, fit_job, predictions_file
from automl.search.folds import STOPPED, Rival, Rivals
from automl.search.metric import Metric
from automl.search.objective import value_of
from automl.search.objectives import by_name as objectives
from automl.search.plan import from_point
from automl.search.split import make_split
from automl.search.store import Store

COSTS = objectives(["training_time", "latency", "size"])
FREE = {"training_seconds": 0.0, "latency_p50_seconds": 0.0, "size_bytes": 0.0}
BAD = {"n_estimators": 400, "num_leaves": 2}
"""Stumps, which together cannot say how two columns act on each other."""


def data(task: str) -> tuple[pd.DataFrame, pd.Series]:
    """A target that hangs on the product of two waves."""
    X = pd.DataFrame(np.random.default_rng(0).random((600, 3)), columns=["a", "b", "c"])
    wave = np.sin(6 * X["a"]) * np.sin(6 * X["b"])
    return X, wave if task == "regression" else pd.cut(wave, 2 if task == "binary" else 3, labels=False).astype(str)


@pytest.fixture(params=["binary", "multiclass", "regression"])
def trial(request: Any, tmp_path: Path) -> Any:
    """Runs a trial of LightGBM in this process: (how it ended, its job)."""
    X, y = data(request.param)
    table = from_frame(X, y)
    split = make_split(np.asarray(table.y), table.task.kind, 0)
    table.save(tmp_path / "table")
    split.save(tmp_path / "split.npz")
    (tmp_path / "rows.pickle").write_bytes(pickle.dumps(X.head(20).to_dict("records")))
    family, facts, metric = by_name(["lightgbm"], ())[0], table.facts(), Metric.resolve(None, table.task)

    def run(name: str, rivals: Rivals | None = None, **params: Any) -> tuple[Result, Job]:
        point = {"family": "lightgbm", **(family.reference(facts) or {}), **params}
        plan = from_point(point, family, facts, 1)
        job = Job(plan, family, metric, tmp_path, tmp_path / name, split.rungs()[-1], 0, rivals=rivals)
        return fit_job(job), job

    return run


def held_against(*trials: tuple[Result, Job], **costs: float) -> Rivals:
    """The models of these trials, at their own costs or those given."""
    models = []
    for result, job in trials:
        measured = replace(result.measurement, **costs)
        read = tuple(value_of(objective, measured) or 0.0 for objective in COSTS)
        models.append(Rival(job.plan.id, predictions_file(job.data, job.folder.name), read))
    return Rivals(COSTS, tuple(models))


def test_a_model_that_is_worse_and_dearer_ends_after_the_first_fold(trial: Any) -> None:
    held = held_against(trial("good"), **FREE)
    bad, job = trial("bad", held, **BAD)
    assert bad.stopped == STOPPED
    assert bad.measurement.training_seconds > 0.0
    assert not len(bad.validation)
    assert not predictions_file(job.data, job.folder.name).exists()


def test_a_model_that_is_worse_and_cheaper_goes_on(trial: Any) -> None:
    held = held_against(trial("good"))
    small, _ = trial("small", held, n_estimators=5, learning_rate=0.3, num_leaves=2)
    assert not small.stopped
    assert small.measurement.error is not None


def test_the_same_model_goes_on_though_it_costs_more(trial: Any) -> None:
    result, job = trial("good")
    same, _ = trial("same", held_against((result, job), **FREE))
    assert not same.stopped
    assert same.measurement.error == result.measurement.error
    assert (same.validation == result.validation).all()


def test_a_rival_whose_predictions_are_gone_beats_nobody(trial: Any) -> None:
    held = held_against(trial("good"), **FREE)
    for rival in held.models:
        rival.predictions.unlink()
    assert not trial("bad", held, **BAD)[0].stopped


def test_a_search_of_a_small_table_stops_trials_and_none_that_others_are_held_against(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folds, "LEAST_SECONDS", 0.0)
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    model = automl.AutoMLClassifier(budget=12, families=["lightgbm", "linear"], run_dir=tmp_path, random_state=0).fit(
        X, y
    )
    with Store.open(next(tmp_path.rglob("*.db"))) as store:
        trials = store.trials()
    stopped = [t for t in trials if t.status == "stopped"]
    assert stopped
    assert all(t.measurement.error is None and t.reason == STOPPED for t in stopped)
    reference = by_name(["lightgbm"], ())[0].reference(from_frame(X, y).facts())
    assert not [t for t in stopped if dict(t.plan.params) == reference]
    assert model.front_.found["trials"]["stopped"] == len(stopped)
    assert not any(f["status"] == "stopped" for f in model.front_.found["failures"])
