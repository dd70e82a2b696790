"""`automl.fit` as a user calls it: what goes in, what comes out, and what every argument does."""

from __future__ import annotations

import inspect
import pickle
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import automl
from automl import Budget
from automl.cli.main import run
from automl.errors import DataError, InfeasibleError, UsageError, UsageTypeError
from automl.estimators.families.tree import Tree
from automl.front import open_run
from automl.search.objective import Objective

QUICK: dict[str, Any] = {"families": ["baseline", "linear", "tree"], "budget": Budget(trials=4)}


@pytest.fixture(scope="module")
def cancer() -> tuple[pd.DataFrame, pd.Series]:
    data = load_breast_cancer(as_frame=True)
    return data.data, data.target.map({0: "malignant", 1: "benign"}).rename("diagnosis")


@pytest.fixture(scope="module")
def fitted(cancer: tuple[pd.DataFrame, pd.Series]) -> Any:
    return automl.fit(*cancer, budget=Budget(trials=8), exclude=["network"])


def test_the_front_is_a_sequence_from_accurate_to_cheap(fitted: Any) -> None:
    front = fitted.front_
    assert len(front) >= 2
    errors = [m.error for m in front]
    assert errors == sorted(errors)
    assert fitted.best_.id == front[0].id
    assert all(m.latency_p50_seconds > 0 and m.size_bytes > 0 and m.training_seconds > 0 for m in front)
    assert all(m.score_low <= m.score <= m.score_high for m in front)


def test_predictions_keep_labels_and_probabilities_sum_to_one(fitted: Any, cancer: Any) -> None:
    X, y = cancer
    assert set(fitted.predict(X)) <= {"malignant", "benign"}
    proba = fitted.predict_proba(X)
    assert proba.shape == (len(X), 2)
    assert np.allclose(proba.sum(axis=1), 1.0, atol=1e-6)
    assert fitted.score(X, y) > 0.9
    one = fitted.predict_one(X.iloc[0].to_dict())
    assert one == fitted.predict(X.iloc[:1])[0]


def test_every_model_predicts_one_row_as_in_a_batch(fitted: Any, cancer: Any) -> None:
    X = cancer[0].iloc[:20]
    for model in fitted.front_:
        batch = model.predict_proba(X)
        for i, row in enumerate(X.to_dict("records")):
            assert np.array_equal(model.predict_proba_one(row), batch[i].astype(np.float32)), model


def test_the_leaderboard_has_units_in_its_names(fitted: Any) -> None:
    board = fitted.leaderboard()
    assert len(board) == len(fitted.front_)
    assert {"latency_p50_us", "size_kb", "training_time_s", "serving_memory_mb", "roc_auc"} <= set(board.columns)


def test_saving_loading_and_pickling_carry_the_artifacts(fitted: Any, cancer: Any, tmp_path: Path) -> None:
    X = cancer[0]
    before = fitted.predict_proba(X)
    fitted.save(tmp_path / "model.zip")
    for again in (automl.load(tmp_path / "model.zip"), pickle.loads(pickle.dumps(fitted))):
        assert np.array_equal(again.predict_proba(X), before)
        assert [m.id for m in again.front_] == [m.id for m in fitted.front_]
        assert list(again.classes_) == list(fitted.classes_)


def test_a_save_that_fails_keeps_what_was_saved_before(fitted: Any, tmp_path: Path, monkeypatch: Any) -> None:
    fitted.save(tmp_path / "model.zip")
    before = (tmp_path / "model.zip").read_bytes()

    def gone(self: Any) -> bytes:
        raise OSError("no space left")

    monkeypatch.setattr(type(fitted.front_), "to_bytes", gone)
    with pytest.raises(OSError, match="no space"):
        fitted.save(tmp_path / "model.zip")
    assert (tmp_path / "model.zip").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model.zip"]


def test_a_limit_is_kept_or_refused(fitted: Any) -> None:
    small = min(m.size_bytes for m in fitted.front_)
    assert fitted.front_.choose(max_size=small).size_bytes == small
    with pytest.raises(InfeasibleError, match="max_latency"):
        fitted.front_.choose(max_latency="1ns")
    assert fitted.front_.choose(prefer="cheapest_within", tolerance=1e6).latency_p50_seconds == min(
        m.latency_p50_seconds for m in fitted.front_
    )


def test_the_limits_of_a_run_hold_wherever_its_models_are_chosen(cancer: Any, tmp_path: Path, capsys: Any) -> None:
    free = automl.fit(*cancer, **QUICK)
    small = min(m.size_bytes for m in free.front_)
    assert free.best_.size_bytes > small
    model = automl.fit(*cancer, **QUICK, max_size=small, run_dir=tmp_path / "run")
    front = open_run(tmp_path / "run")
    assert front.limits == {"max_size": small}
    assert model.best_.size_bytes <= small < front[0].size_bytes
    assert front.choose().id == front.choose(prefer="knee").id == model.best_.id
    assert front.choose(max_size="1GB").id == front[0].id
    assert run(["export", str(tmp_path / "run"), "-o", str(tmp_path / "out"), "--quiet"]) == 0
    manifest = (tmp_path / "out" / "manifest.json").read_bytes()
    assert manifest == (model.best_.path / "manifest.json").read_bytes()
    assert run(["choose", str(tmp_path / "run"), "--max-latency", "1ns"]) == 4
    assert "max_latency" in capsys.readouterr().err


def test_fit_takes_what_the_estimators_take() -> None:
    own = inspect.signature(automl.AutoMLClassifier).parameters
    given = inspect.signature(automl.fit).parameters
    assert {name: one.default for name, one in own.items()} == {name: given[name].default for name in own}


def test_all_models_may_be_asked_for_on_onnxruntime(cancer: Any) -> None:
    model = automl.fit(*cancer, **QUICK, engine="onnx")
    assert {m.engine for m in model.front_} == {"onnx"}
    with pytest.raises(UsageError, match="auto, onnx"):
        automl.fit(*cancer, **QUICK, engine="fast")


def test_fit_with_a_limit_that_nothing_meets_keeps_the_run(cancer: Any, tmp_path: Path) -> None:
    with pytest.raises(InfeasibleError):
        automl.fit(*cancer, **QUICK, max_latency="1ns", run_dir=tmp_path / "run")
    assert len(open_run(tmp_path / "run")) >= 1


def test_a_regression_is_inferred_and_scored_by_rmse() -> None:
    X, y = load_diabetes(return_X_y=True, as_frame=True)
    model = automl.fit(X, y + 0.5, **QUICK)
    assert isinstance(model, automl.AutoMLRegressor)
    assert model.front_.found["metric"] == "rmse"
    assert model.front_[0].score < np.std(y)
    assert isinstance(model.predict_one(X.iloc[0].to_dict()), float)


def test_multiclass_by_arrays() -> None:
    X, y = load_iris(return_X_y=True)
    model = automl.fit(X, y, **QUICK)
    assert model.front_.found["metric"] == "log_loss"
    assert model.predict(X).dtype == y.dtype
    assert model.score(X, y) > 0.9


def test_a_budget_of_trials_is_reproducible(cancer: Any) -> None:
    def plans() -> tuple[list[str], float]:
        model = automl.fit(*cancer, budget=Budget(trials=6), exclude=["network"], random_state=3)
        return [model.best_.family, str(model.best_.plan["params"])], model.best_.error

    assert plans() == plans()


def test_a_wall_budget_is_kept(cancer: Any) -> None:
    start = time.monotonic()
    automl.fit(*cancer, budget=6, exclude=["network"])
    assert time.monotonic() - start < 7.0


@pytest.mark.parametrize("budget", [1, 2])
def test_a_budget_of_a_second_still_gives_a_front(cancer: Any, budget: float) -> None:
    model = automl.fit(*cancer, budget=budget)
    assert {m.family for m in model.front_} <= {"baseline", "linear"}
    assert len(model.front_) >= 1


def balanced(y_true: Any, y_pred: Any) -> float:
    return float(np.mean([np.mean(y_pred[y_true == c] == c) for c in np.unique(y_true)]))


@pytest.mark.parametrize("metric", ["accuracy", "neg_brier_score", balanced])
def test_a_metric_is_a_name_or_a_callable(cancer: Any, metric: Any) -> None:
    model = automl.fit(*cancer, **QUICK, metric=metric)
    assert np.isfinite(model.front_[0].score)


class Shallow(Tree):
    name: ClassVar[str] = "shallow"

    def starts(self, facts: Any) -> Sequence[dict[str, Any]]:
        return super().starts(facts)[:1]


class Columns2(Objective):
    name = "columns_squared"
    unit = ""
    quantity = "columns"

    def read(self, measurement: Any) -> float | None:
        return None if measurement.columns is None else float(measurement.columns) ** 2


def test_own_families_and_objectives_stand_in_the_same_lists(cancer: Any) -> None:
    model = automl.fit(
        *cancer, families=["baseline", Shallow()], objectives=["error", Columns2()], budget=Budget(trials=3)
    )
    assert {m.family for m in model.front_} <= {"baseline", "shallow"}


def test_weights_move_the_model() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 2))
    y = np.where(rng.random(400) < 0.5, "a", "b")
    heavy = automl.fit(X, y, sample_weight=np.where(y == "a", 9.0, 1.0), families=["baseline"], budget=Budget(trials=1))
    assert heavy.predict_proba(X[:1])[0, 0] == pytest.approx(
        9 * np.sum(y == "a") / (9 * np.sum(y == "a") + np.sum(y == "b")), abs=0.01
    )


def test_given_validation_rows_are_what_is_scored(cancer: Any) -> None:
    X, y = cancer
    model = automl.fit(X.iloc[:400], y.iloc[:400], X_val=X.iloc[400:], y_val=y.iloc[400:], **QUICK)
    assert model.front_[0].rows == len(X)


def test_groups_time_and_splitters_are_accepted(cancer: Any) -> None:
    X, y = cancer
    groups = np.arange(len(X)) // 5
    for held in ({"groups": groups}, {"time": np.arange(len(X))}, {"groups": groups, "splitter": GroupKFold(3)}):
        assert len(automl.fit(X, y, **QUICK, **held).front_) >= 1


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_any_executor_runs_the_trials(cancer: Any, pool: Any) -> None:
    with pool(2) as executor:
        model = automl.fit(*cancer, **QUICK, executor=executor)
    assert len(model.front_) >= 1


def test_a_run_in_memory_is_resumed(cancer: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    automl.fit(*cancer, families=["baseline", "linear", "tree"], budget=Budget(trials=3), run_dir=run)
    model = automl.fit(
        *cancer, families=["baseline", "linear", "tree"], budget=Budget(trials=6), run_dir=run, resume=True
    )
    assert model.front_.found["trials"]["completed"] == 6
    with pytest.raises(DataError, match="changed"):
        automl.fit(cancer[0] + 1.0, cancer[1], budget=Budget(trials=6), run_dir=run, resume=True)


def test_inside_a_pipeline(cancer: Any) -> None:
    X, y = cancer
    model = make_pipeline(FunctionTransformer(), automl.AutoMLClassifier(**QUICK)).fit(X, y)
    assert model.score(X, y) > 0.8


@pytest.mark.parametrize("word", ["time_limit", "time_budget", "max_runtime_secs", "timeout"])
def test_another_librarys_word_for_the_budget_names_ours(cancer: Any, word: str) -> None:
    with pytest.raises(UsageTypeError, match="budget="):
        automl.fit(*cancer, **{word: 60})


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"budget": 0}, UsageError, "budget"),
        ({"budget": -1}, UsageError, "budget"),
        ({"budget": "abc"}, UsageError, "budget"),
        ({"budget": Budget()}, UsageError, "budget"),
        ({"families": ["lightgmb"]}, UsageError, "lightgbm"),
        ({"metric": "roc_auk"}, UsageError, "roc_auc"),
        ({"objectives": ["latencyy", "error"]}, UsageError, "latency"),
        ({"objectives": ["latency"]}, UsageError, "error"),
        ({"strategy": "bayes"}, UsageError, "bayesian"),
        ({"device": "tpu"}, UsageError, "auto, cpu, cuda"),
        ({"max_latency": "fast"}, UsageError, "max_latency"),
        ({"budgett": 3}, UsageTypeError, "budget"),
        ({"random_state": "x"}, UsageError, "random_state"),
    ],
)
def test_wrong_arguments_say_what_is_known(cancer: Any, options: Mapping[str, Any], error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        automl.fit(*cancer, **{"budget": Budget(trials=1), "families": ["baseline"], **options})


def test_constant_target_and_infinite_values_are_refused(cancer: Any) -> None:
    X, y = cancer
    with pytest.raises(ValueError, match="class"):
        automl.fit(X, np.zeros(len(X)), task="binary", **QUICK)
    broken = X.copy()
    broken.iloc[3, 0] = np.inf
    with pytest.raises(DataError, match=X.columns[0]):
        automl.fit(broken, y, **QUICK)


class Raising(Tree):
    name: ClassVar[str] = "raising"

    def build(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("no such luck")


def test_where_all_trials_fail_the_causes_are_told(cancer: Any) -> None:
    with pytest.raises(InfeasibleError, match="no such luck"):
        automl.fit(*cancer, families=[Raising()], budget=Budget(trials=2))


def test_a_model_outlives_its_front_and_pickles(cancer: Any) -> None:
    X, y = cancer
    model = automl.fit(X, y, **QUICK).front_[-1]  # the front and the estimator are gone
    before = model.predict(X)
    again = pickle.loads(pickle.dumps(model))
    del model
    assert np.array_equal(again.predict(X), before)


def test_arrays_are_predicted_after_a_fit_from_a_file(cancer: Any, tmp_path: Path) -> None:
    X, y = cancer
    X.assign(target=y).to_csv(tmp_path / "data.csv", index=False)
    model = automl.fit(tmp_path / "data.csv", target="target", **QUICK)
    assert model.n_features_in_ == X.shape[1]
    assert list(model.predict(X.to_numpy()[:5])) == list(model.predict(X.iloc[:5]))
    assert automl.fit(X.to_numpy()[:200].tolist(), list(y[:200]), **QUICK).n_features_in_ == X.shape[1]


def test_a_clone_keeps_its_executor() -> None:
    with ThreadPoolExecutor(1) as executor:
        assert clone(automl.AutoMLClassifier(budget=7, executor=executor)).get_params()["executor"] is executor


def test_a_task_given_to_an_estimator_is_its_own(cancer: Any) -> None:
    X, y = cancer
    with pytest.raises(ValueError, match="3"):
        automl.AutoMLClassifier(**QUICK, task="binary").fit(*load_iris(return_X_y=True))
    with pytest.raises(UsageError, match="regression"):
        automl.AutoMLClassifier(**QUICK, task="regression").fit(X, y)
