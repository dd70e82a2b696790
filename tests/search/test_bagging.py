"""Bags: the mean of a plan's fold models, judged on rows that none of them saw, one artifact, a model like any other."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import TimeSeriesSplit

import automl
from automl import Budget, runtime
from automl.estimators.families import FAMILIES, by_name
from automl.estimators.pipeline import Pipeline
from automl.estimators.table import Table, from_frame
from automl.search.bagging import Bagging, BagJob, fit_bag, judge_bag, partitioned
from automl.search.fitting import Job, fit_job
from automl.search.metric import Metric
from automl.search.plan import ENSEMBLE, Plan, bag_of, from_point, single_of
from automl.search.split import Split, make_split
from automl.search.trial import Measurement, Trial


def prepared(folder: Path, X: Any, y: Any, family: str, **params: Any) -> tuple[Job, Table, Split]:
    """The job of one trial, and what it reads."""
    table = from_frame(X, y)
    split = make_split(np.asarray(table.y), table.task.kind, 0)
    table.save(folder / "table")
    split.save(folder / "split.npz")
    (folder / "rows.pickle").write_bytes(pickle.dumps([{"x0": 1.0, "x1": 0.0, "x2": 0.0}]))
    found = by_name([family])[0]
    plan = from_point({"family": family, **params}, found, table.facts(), 1)
    metric = Metric.resolve(None, table.task)
    return Job(plan, found, metric, folder, folder / "final" / "t0007", split.rungs()[-1], 0), table, split


def test_a_row_is_judged_by_models_that_did_not_see_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200, 3)), rng.normal(size=200)  # noise: the nearest neighbour knows only what it has seen
    job, _, split = prepared(tmp_path, X, y, "neighbours", k=1)
    one = fit_job(job)
    bag = bag_of(job.plan, len(split.folds))
    result = judge_bag(BagJob(job, bag))
    assert len(result.validation) == 200
    assert one.measurement.error == pytest.approx(np.sqrt(2), rel=0.15)
    assert 1.0 < (result.measurement.error or 0.0) < 0.95 * (one.measurement.error or 0.0)  # the mean of four
    with np.load(tmp_path / "predictions" / "t0007.npz") as kept:
        assert kept[bag.id].shape == (200,)


def test_the_artifact_is_the_mean_of_the_models_of_the_folds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(150, 3)), columns=list("abc"))
    y = np.asarray(X.a + X.b > 0.3).astype(int)
    job, table, split = prepared(tmp_path, X, y, "tree")
    result = fit_bag(BagJob(job, bag_of(job.plan, 5)))
    assert {file.name for file in job.folder.iterdir()} == {"manifest.json", "model.onnx"}
    assert result.measurement.rows == 150
    assert result.proof["rows"] >= 1000
    models = [Pipeline(job.family, dict(job.plan.params), view=job.plan.view).fit(table, t) for t, _ in split.folds]
    wanted = np.mean([model.predict(table, np.arange(150)) for model in models], axis=0)
    with runtime.load(job.folder) as model:
        np.testing.assert_allclose(model.predict_proba(X), wanted, atol=1e-5)


def test_folds_that_may_not_know_the_others_give_no_bag() -> None:
    y = np.arange(120.0)
    assert partitioned(make_split(y, "regression", 0))
    assert not partitioned(make_split(y, "regression", 0, splitter=TimeSeriesSplit(4)))


def test_a_bags_plan_is_plain_data_and_knows_its_single_model() -> None:
    single = Plan("tree", (("max_depth", 3),))
    bag = bag_of(single, 5)
    assert Plan.from_dict(json.loads(json.dumps(bag.as_dict()))) == bag
    assert [member["plan"]["fold"] for member in bag.as_dict()["members"]] == [0, 1, 2, 3, 4]
    assert "fold" not in single.as_dict()
    assert single_of(bag) == single
    assert single_of(single) is single
    several = Plan(ENSEMBLE, members=((bag, 2), (single, 1)))  # an ensemble of a bag and a model
    assert single_of(several) is several
    assert len({bag.id, several.id, single.id, bag_of(single, 4).id}) == 4


@pytest.fixture(scope="module")
def table(tmp_path_factory: Any) -> Path:
    """A smooth surface, on which one tree is rough and the mean of five less so."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 4))
    y = np.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2] + X[:, 3] + 0.3 * rng.normal(size=500)
    path: Path = tmp_path_factory.mktemp("bags") / "t.csv"
    pd.DataFrame(X, columns=list("abcd")).assign(y=y).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def fitted(table: Path) -> Any:
    options: dict[str, Any] = {"families": ["baseline", "tree", ENSEMBLE], "n_jobs": 1, "run_dir": table.parent / "run"}
    return automl.fit(table, target="y", budget=Budget(trials=4), **options)


def bags(model: Any) -> list[Any]:
    return [m for m in model.front_ if single_of(Plan.from_dict(m.plan)).family == "tree" and m.family == ENSEMBLE]


def test_a_bag_stands_on_the_front_beside_its_single_model(fitted: Any) -> None:
    (bag,) = bags(fitted)
    singles = [m for m in fitted.front_ if m.family == "tree"]
    assert bag.error < min(m.error for m in singles)
    assert bag.latency_p50_seconds > min(m.latency_p50_seconds for m in singles)
    assert bag.score_low < bag.score < bag.score_high
    assert bag.rows == 500
    assert bag.columns <= 4  # what no member reads is left out
    assert bag.training_seconds > 0
    assert "ensemble of 5 tree" in repr(fitted.front_)
    law = bag.laws["training_seconds"]
    assert len(law["rows"]) == 3
    assert fitted.front_.at("10k").get(bag.id).error < bag.error


def test_what_is_reported_of_it_holds_on_new_rows(fitted: Any) -> None:
    (bag,) = bags(fitted)
    rng = np.random.default_rng(1)
    X = pd.DataFrame(rng.normal(size=(4000, 4)), columns=list("abcd"))
    y = np.sin(2 * X.a) + X.b * X.c + X.d + 0.3 * rng.normal(size=4000)
    error = float(np.sqrt(np.mean((bag.predict(X) - y) ** 2)))
    assert bag.score_low - 0.05 < error < bag.score_high + 0.05
    assert error < min(float(np.sqrt(np.mean((m.predict(X) - y) ** 2))) for m in fitted.front_ if m.family == "tree")


def test_a_resumed_run_has_its_bags_again(fitted: Any, table: Path) -> None:
    assert bags(automl.api.resume(table.parent / "run", Budget(trials=5)))


def test_some_families_have_no_bags(table: Path) -> None:
    assert {f.name for f in FAMILIES if not f.bagged} == {"baseline", "linear", "neighbours", "network", "tabm"}
    model = automl.fit(table, target="y", budget=Budget(trials=2), families=["linear", ENSEMBLE], n_jobs=1)
    assert {m.family for m in model.front_} == {"linear"}


def test_of_a_prefix_the_whole_model_is_bagged() -> None:
    (family,) = by_name(["lightgbm"])
    setting = SimpleNamespace(
        limits=SimpleNamespace(seconds=60.0), ensembles=True, in_process=False, families={"lightgbm": family}
    )
    whole = Trial(3, Plan("lightgbm"), 100, 0, "completed", measurement=Measurement(error=0.3, training_seconds=0.1))
    half = replace(
        whole, number=4, parent=3, plan=Plan("lightgbm", prefix=0.5), measurement=replace(whole.measurement, error=0.29)
    )
    losses = np.random.default_rng(0).random(100).astype(np.float32)
    one = Bagging.__new__(Bagging)
    one.folds = 5
    one.study = SimpleNamespace(  # type: ignore[assignment]
        setting=setting, trials=[whole, half], losses=SimpleNamespace(validation={3: losses, 4: losses[::-1] - 0.001})
    )
    assert one.bases([half]) == [whole]
    assert one.bases([half, whole]) == [whole]
