"""Calibrated and narrow models come with a trial's fit, honest about what they gain, and are deployed as they were measured."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from automl.estimators import calibrate, runtime
from automl.estimators.families import by_name
from automl.estimators.family import Facts
from automl.estimators.hardware import Hardware
from automl.estimators.table import from_frame
from automl.search.fitting import Job, Result, fit_job
from automl.search.leaner import leaner
from automl.search.metric import Metric
from automl.search.plan import Plan, branches, from_point
from automl.search.split import Split
from automl.search.trial import Measurement, Trial
from automl.search.variants import Narrowed, calibrated, halves

ROWS = np.arange(1200)
SPLIT = Split(ROWS[:600], ROWS[600:900], ROWS[900:])


def data(width: int = 6, classes: int = 3) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1200, width))
    score = X[:, 0] + X[:, 1] * X[:, 2] + rng.normal(size=1200)
    return X, np.array(["a", "b", "c"])[np.digitize(score, [0.0] if classes == 2 else [-0.8, 0.8])]


def trial(folder: Path, family: str, metric: str, *, width: int = 6, final: Any = None, **options: Any) -> Result:
    X, y = data(width)
    table, one = from_frame(X, y), by_name([family])[0]
    table.save(folder / "table")
    SPLIT.save(folder / "split.npz")
    (folder / "rows.pickle").write_bytes(pickle.dumps([{f"x{i}": 0.5 for i in range(width)}]))
    facts = table.facts()
    plan = from_point({"family": family, **one.starts(facts)[0], **options}, one, facts, 1)
    job = Job(plan, one, Metric.resolve(metric, table.task), folder, folder / "a", 600, 0, narrow=True)
    if final is not None:
        job = Job(final, one, job.metric, folder, folder / "a", 1200, 0, final=True)
    return fit_job(job)


def test_a_forest_brings_calibrated_models_that_are_better_on_rows_without_a_say(tmp_path: Path) -> None:
    result = trial(tmp_path, "forest", "log_loss", n_estimators=10, max_leaf_nodes=512)
    found = [(plan, one) for plan, one in result.prefixes if plan.calibration != "none"]
    assert {plan.calibration for plan, _ in found} == {"temperature"}
    whole = next(one for plan, one in found if plan.prefix == 1.0)
    assert whole.measurement.error < (result.measurement.error or 0.0) - 0.05
    assert whole.holdout.mean() < result.holdout.mean() - 0.05
    assert abs(whole.holdout.mean() - whole.validation.mean()) < 0.15


def test_what_was_calibrated_is_deployed_so(tmp_path: Path) -> None:
    plan = next(
        plan
        for plan, _ in trial(tmp_path, "forest", "log_loss", n_estimators=10, max_leaf_nodes=512).prefixes
        if plan.calibration != "none" and plan.prefix == 1.0
    )
    result = trial(tmp_path, "forest", "log_loss", final=plan)
    assert result.proof["largest_difference"] <= 1e-5
    model, X = runtime.load(tmp_path / "a"), data()[0]
    floor, _ = plan.curve
    assert floor > 0.0
    assert model.predict_proba(X).min() > 0.0, "no class that few trees have not seen is impossible"


@pytest.mark.parametrize("metric", ["roc_auc", "accuracy"])
def test_a_metric_of_ranks_or_labels_has_nothing_calibrated(tmp_path: Path, metric: str) -> None:
    result = trial(tmp_path, "tree", metric)
    assert {plan.calibration for plan, _ in result.prefixes} <= {"none"}


def test_probabilities_that_are_right_are_left_alone_nearly_always() -> None:
    kept, task = 0, from_frame(*data(classes=2)).task
    metric = Metric.resolve("log_loss", task)
    none = np.empty(0, np.int64)
    for seed in range(30):
        rng = np.random.default_rng(seed)
        p = rng.random(1500)
        y = (rng.random(1500) < p).astype(np.int64)
        found = list(calibrated("binary", metric, y, np.column_stack([1 - p, p]), None, 1000, none))
        kept += bool(found)
        for _, _, moved in found:
            np.testing.assert_allclose(moved.sum(axis=1), 1.0)
    assert kept <= 6, "what is better by a standard error by luck is one in six at the most"


@pytest.mark.parametrize("rows", [2_000, 9_000])
def test_rows_whose_classes_stand_in_turn_are_calibrated_as_any(rows: int) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(rows) % 2
    p = 1 / (1 + np.exp(-3.0 * (2 * y - 1 + 1.5 * rng.normal(size=rows))))  # too sure of itself
    metric = Metric.resolve("log_loss", from_frame(rng.normal(size=(rows, 1)), y).task)
    prediction = np.column_stack([1 - p, p])
    found = list(calibrated("binary", metric, y, prediction, None, rows, np.empty(0, np.int64)))
    assert found
    assert metric.error(y, found[-1][2]) < metric.error(y, prediction) - 0.05


def test_a_group_is_moved_by_a_curve_that_had_no_part_of_it() -> None:
    metric = Metric.resolve("log_loss", from_frame(*data(classes=2)).task)
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(40), 25)
    p = rng.random(1000) * 0.9 + 0.05
    y = (rng.random(1000) < 0.35 + 0.3 * p).astype(np.int64)
    told = np.column_stack([1 - p, p])
    part = halves(1000, groups)
    assert all(len(set(part[groups == g])) == 1 for g in range(40))
    assert 0.3 < part.mean() < 0.7
    assert list(calibrated("binary", metric, y, told, None, 1000, groups))
    assert list(calibrated("binary", metric, y, told, None, 1000, np.zeros(1000, np.int64))) == [], "of one group"


def test_rows_that_steer_are_moved_by_curves_that_had_no_part_of_them() -> None:
    metric = Metric.resolve("log_loss", from_frame(*data(classes=2)).task)
    rng = np.random.default_rng(1)
    p = rng.random(400) * 0.9 + 0.05
    y = (rng.random(400) < 0.35 + 0.3 * p).astype(np.int64)
    told = np.column_stack([1 - p, p])
    (method, curve, moved), *_ = calibrated("binary", metric, y, told, None, 300, np.empty(0, np.int64))
    own = calibrate.apply(method, curve, told)
    np.testing.assert_array_equal(moved[300:], own[300:])
    assert (moved[:300] != own[:300]).any(axis=1).mean() > 0.9
    assert metric.error(y[:300], moved[:300]) > metric.error(y[:300], own[:300]), "that would be too good to be true"


def test_dense_models_bring_narrow_ones_where_size_counts(tmp_path: Path) -> None:
    result = trial(tmp_path, "neighbours", "log_loss", width=20)
    found = {plan.hardware.dtype: one for plan, one in result.prefixes if plan.hardware.dtype != "float32"}
    assert set(found) == {"float16", "int8"}
    size = result.measurement.size_bytes or 0.0
    assert (found["int8"].measurement.size_bytes or 0) < (found["float16"].measurement.size_bytes or 0) < 0.7 * size
    assert found["float16"].measurement.error == pytest.approx(result.measurement.error, abs=0.01)
    for dtype, one in found.items():
        plan = next(plan for plan, _ in result.prefixes if plan.hardware.dtype == dtype)
        final = trial(tmp_path, "neighbours", "log_loss", width=20, final=plan)
        assert final.proof["largest_difference"] <= 1e-5
        assert (final.measurement.size_bytes or 0) == pytest.approx(2 * (one.measurement.size_bytes or 0), rel=0.15), (
            "it is fitted on twice the rows, and keeps them"
        )


def test_nothing_is_narrowed_where_nobody_asks() -> None:
    narrowed = Narrowed(False)
    narrowed.predict(None, None, None, slice(None), None)  # type: ignore[arg-type]
    assert narrowed.predictions == {}


def test_a_variant_is_a_plan_of_its_own_and_knows_the_whole() -> None:
    plan = Plan("forest")
    moved = Plan("forest", calibration="temperature", curve=(0.01, 1.5))
    narrow = Plan("forest", hardware=Hardware(dtype="int8"))
    assert len({p.id for p in (plan, moved, narrow)}) == 3
    assert moved.id == Plan("forest", calibration="temperature", curve=(0.0, 1.1)).id, (
        "the curve is learned, not chosen"
    )
    assert moved.whole == narrow.whole == plan
    assert all(Plan.from_dict(p.as_dict()) == p for p in (plan, moved, narrow))


class Chosen:
    """What `leaner` asks of a study: 24 columns, and trials of which each dominates those before."""

    base_rung = 0

    def __init__(self, columns: int = 24) -> None:
        one, facts = by_name(["linear"])[0], Facts("regression", 400, columns)
        limits = SimpleNamespace(seconds=float("inf"), trials=10)
        self.setting = SimpleNamespace(facts=facts, limits=limits)
        self.strategy = SimpleNamespace(name="auto", branches=branches([one], facts, [1]))
        self.agenda = SimpleNamespace(queue=[])
        self.family, self.trials = one, []

    def running(self) -> list[Trial]:
        return []

    def add(self, point: Any, error: float, columns: int) -> Trial:
        point = {"family": "linear", **point}
        plan = from_point(point, self.family, self.setting.facts, 1)
        measured = Measurement(error=error, columns=columns)
        number = len(self.trials)
        self.trials.append(Trial(number, plan, 400, 0, "completed", measurement=measured, point=tuple(point.items())))
        return self.trials[-1]

    def asked(self) -> list[Trial]:
        return self.trials

    best_rung = asked

    def steering(self, trial: Trial) -> Measurement:
        return trial.measurement

    def values(self, trial: Trial) -> list[float]:
        return [trial.measurement.error or 0.0, float(trial.measurement.columns or 0)]


def test_the_best_model_is_tried_on_ever_fewer_columns_as_long_as_that_helps() -> None:
    study: Any = Chosen()
    assert leaner(study, study.add({"C": 1.0}, 0.5, 24)) == [], "too few models have been seen"
    study.add({"C": 2.0}, 0.4, 24)
    (half,) = leaner(study, study.add({"C": 3.0}, 0.6, 24))
    assert half == {"family": "linear", "C": 2.0, "selection": "value", "fraction": 0.5}
    (quarter,) = leaner(study, study.add(half, 0.41, 12))
    assert quarter == {**half, "fraction": 0.25}
    study.add({"C": 4.0}, 0.45, 3)
    assert leaner(study, study.add(quarter, 0.6, 6)) == [], "another model is better on fewer columns"


def test_few_columns_are_left_as_they_are_and_strategies_that_start_cold_alone() -> None:
    for study in (Chosen(19), Chosen()):
        study.strategy.name = "auto" if study.setting.facts.columns < 20 else "random"
        ended = [study.add({"C": float(c)}, 0.5, 24) for c in range(1, 6)][-1]
        assert leaner(study, ended) == []  # type: ignore[arg-type]
