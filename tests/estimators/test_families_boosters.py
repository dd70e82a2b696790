"""The optional boosted families, each where its library is installed: exact export of what that library does."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from automl.estimators.errors import ArtifactError, ResourceError
from automl.estimators.families import FAMILIES, by_name
from automl.estimators.families.catboost import CatBoost
from automl.estimators.families.ebm import EBM
from automl.estimators.families.xgboost import XGBoost
from automl.estimators.family import Facts, Family
from automl.estimators.graph import Graph, session
from automl.estimators.hardware import Hardware
from automl.estimators.space import Value

BOOSTERS = [
    pytest.param(
        family,
        id=family.name,
        marks=pytest.mark.skipif(not family.available(), reason=f"{family.needs} is not installed"),
    )
    for family in (XGBoost(), CatBoost(), EBM())
]
ROUNDED = [param for param in BOOSTERS if param.id != "ebm"]
"""Those that stop early on a slice of ours."""
needs_xgboost, needs_catboost, needs_interpret = (param.marks[0] for param in BOOSTERS)


def few(family: Family) -> dict[str, Value]:
    """Its cheapest start."""
    return dict(family.starts(Facts("binary", 1000, 4, 2, 1))[0])


def fit(family: Family, task: str, X: Any, y: Any, categorical: Any = (), threads: int = 1, **params: Any) -> Any:
    return family.build(params or few(family), task, Hardware(threads), 0, categorical).fit(X, y)


def difference(family: Family, model: Any, X: NDArray[np.float32], task: str, scale: float = 1.0) -> float:
    """The largest |graph - model|, relative to max(scale, |model|)."""
    graph = Graph(X.shape[1])
    found = session(graph.model(family.to_onnx(model, graph, graph.x)).SerializeToString()).run(None, {"x": X})[0]
    if task == "regression":
        expected = model.predict(X)[:, None]
    else:
        expected = model.predict_proba(X)[:, 1:] if task == "binary" else model.predict_proba(X)
    return float((np.abs(found - expected) / np.maximum(scale, np.abs(expected))).max())


def table(rows: int, levels: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Three numbers, the first at times missing, and a column of codes from -1; a value that hangs on all."""
    rng = np.random.default_rng(seed)
    X = np.column_stack([rng.normal(size=(rows, 3)), rng.integers(-1, levels, rows)]).astype(np.float32)
    X[rng.random(rows) < 0.1, 0] = np.nan
    effect = np.random.default_rng(9).normal(size=levels + 1)
    return X, np.nan_to_num(X[:, 0]) + X[:, 1] * X[:, 2] + effect[X[:, 3].astype(int)]


def targets(y: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    return {
        "binary": (y > 0).astype(np.int32),
        "multiclass": np.digitize(y, [-1.0, 1.0]).astype(np.int32),
        "regression": y,
    }


@pytest.mark.parametrize("family", BOOSTERS)
@pytest.mark.parametrize("levels", [2, 31, 32, 33, 300])
def test_category_codes_of_every_width(family: Family, levels: int) -> None:
    X, y = table(1500, levels)
    model = fit(family, "regression", X, y, [3])
    X[:700, 3] = np.arange(-1, 699)
    X[700:703, 3] = [np.nan, 5000, 2**20]
    assert difference(family, model, X, "regression", float(np.std(y))) <= 1e-6


@pytest.mark.parametrize("family", BOOSTERS)
def test_missing_values_of_columns_that_had_none(family: Family) -> None:
    X, y = table(1000, 5)
    model = fit(family, "regression", np.nan_to_num(X), y)
    X[:400, 1:3] = np.nan
    X[400:500] = 0.0
    X[500:600, :3] = -1e30
    assert difference(family, model, X, "regression", float(np.std(y))) <= 1e-6


@pytest.mark.parametrize("family", BOOSTERS)
def test_a_threshold_decides_alike_on_both_its_sides(family: Family) -> None:
    X, y = table(500, 5)
    X = np.round(X * 8) / 8  # so that thresholds are values, or half way between two
    model = fit(family, "regression", X, y)
    near = np.concatenate([np.nextafter(X, np.float32(-9)), X + np.float32(1 / 16), X + np.float32(0.0625001), X])
    assert difference(family, model, near, "regression", float(np.std(y))) <= 1e-6


@pytest.mark.parametrize("family", BOOSTERS)
def test_a_large_mean_and_a_small_spread(family: Family) -> None:
    X, y = table(1000, 5)
    model = fit(family, "regression", X, 1e7 + y)
    assert difference(family, model, X, "regression") <= 1e-7
    assert np.abs(model.predict(X) - 1e7 - y).mean() < 0.7 * np.std(y)


@pytest.mark.parametrize("family", BOOSTERS)
def test_many_classes(family: Family) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1300, 2)).astype(np.float32)
    code = ((X[:, 0] > 0) * 6 + np.clip((X[:, 1] + 2) * 1.5, 0, 5)).astype(np.int32)
    model = fit(family, "multiclass", X, code)
    assert difference(family, model, X, "multiclass") <= 1e-6
    assert (model.predict_proba(X).argmax(axis=1) == code).mean() > 0.75


@pytest.mark.parametrize("family", BOOSTERS)
def test_nothing_to_split_on(family: Family) -> None:
    y = np.arange(60) % 3
    for X in (np.ones((60, 2), np.float32), np.full((60, 2), np.nan, np.float32)):
        for task, target in (("multiclass", y), ("binary", (y > 0).astype(int)), ("regression", y.astype(float))):
            assert difference(family, fit(family, task, X, target), X, task) <= 1e-6
    X, _ = table(60, 5)
    assert difference(family, fit(family, "regression", X, np.full(60, 7.0)), X, "regression") <= 1e-6
    assert fit(family, "multiclass", X, np.full(60, 2)).predict_proba(X)[:, 2].min() > 0.99


@pytest.mark.parametrize("family", BOOSTERS)
def test_classes_of_two_and_three_rows(family: Family) -> None:
    X, _ = table(400, 5)
    code = np.zeros(400, np.int32)
    code[[7, 9]] = 1
    code[[11, 13, 15]] = 2
    model = fit(family, "multiclass", X, code)
    assert model.predict_proba(X).shape == (400, 3)
    assert difference(family, model, X, "multiclass") <= 1e-6


@pytest.mark.parametrize("family", ROUNDED)
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_early_stopping_watches_an_inner_slice(family: Any, task: str) -> None:
    X, y = table(1000, 5)
    target = targets(y + np.random.default_rng(1).normal(size=len(y)) * 3)[task]
    params = {**few(family), "n_estimators": 300, "learning_rate": 0.3, "early_stopping": True}
    model = fit(family, task, X, target, [3], **params)
    assert 1 <= model.iterations < 150
    assert difference(family, model, X, task, float(np.std(target))) <= 1e-6
    again = family.refit_params(params, model, 4.0)
    assert again == {**params, "early_stopping": False, "n_estimators": round(model.iterations * 4.0**0.3)}
    assert family.refit_params({"n_estimators": 7}, model, 4.0) == {"n_estimators": 7}


@pytest.mark.parametrize("family", BOOSTERS)
def test_training_is_quiet_and_writes_nothing(
    family: Family, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    X, y = table(300, 40)
    kept = X.copy()
    for task, target in targets(y).items():
        fit(family, task, X, target, [3], threads=2)
    fit(family, "binary", X, np.ones(300, np.int32), [3])
    assert np.array_equal(X, kept, equal_nan=True), "the caller's matrix was changed"
    assert os.listdir(tmp_path) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("family", BOOSTERS)
def test_the_number_of_threads_changes_nothing(family: Family) -> None:
    X, y = table(5000, 5)
    one, two = (fit(family, "regression", X, y, [3], threads=threads).predict(X) for threads in (1, 2))
    np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-6)


@needs_catboost
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_catboosts_trees_that_are_not_symmetric(task: str) -> None:
    X, y = table(600, 5)
    target = targets(y)[task]
    model = fit(CatBoost(), task, X, target, n_estimators=20, grow_policy="Depthwise", depth=5)
    X[:100] = np.nan
    assert difference(CatBoost(), model, X, task, float(np.std(target))) <= 1e-6


@needs_interpret
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_surfaces_of_two_columns(task: str) -> None:
    X, y = table(600, 40)
    target = targets(y)[task]
    model = fit(EBM(), task, X, target, [3], **{**few(EBM()), "interactions": 6, "max_leaves": 4})
    assert {len(columns) for columns in model.model.term_features_} == {1, 2}
    X[:100, 3] = np.arange(-1, 99)
    X[100:200, 1] = np.nan
    assert difference(EBM(), model, X, task, float(np.std(target))) <= 1e-6


@needs_interpret
def test_surfaces_pay_where_columns_multiply() -> None:
    X, y = table(1500, 2)
    curves, surfaces = (
        fit(EBM(), "regression", X, y, [3], max_rounds=200, outer_bags=1, interactions=pairs) for pairs in (0, 2)
    )
    losses = [float(np.mean((model.predict(X) - y) ** 2)) for model in (curves, surfaces)]
    assert losses[1] < 0.5 * losses[0]


@needs_xgboost
def test_xgboosts_weighted_trees_are_refused() -> None:
    X, y = table(500, 5)
    model: Any = XGBoost().build({"n_estimators": 10}, "regression", Hardware(), 0)
    model.params["booster"] = "dart"
    model.fit(X, y)
    with pytest.raises(ArtifactError, match="can be exported"):
        XGBoost().to_onnx(model, Graph(4), "x")


@needs_catboost
def test_catboosts_other_nan_mode_is_refused() -> None:
    X, y = table(500, 5)
    model: Any = CatBoost().build({"n_estimators": 10}, "regression", Hardware(), 0)
    model.params["nan_mode"] = "Max"
    model.fit(X, y)
    with pytest.raises(ArtifactError, match="'Max' cannot be exported"):
        CatBoost().to_onnx(model, Graph(4), "x")


@pytest.mark.parametrize("family", [XGBoost(), CatBoost(), EBM()], ids=lambda f: f.name)
def test_a_family_that_is_not_installed_is_missed_only_by_its_name(
    family: Family, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from automl.run import usable

    monkeypatch.setattr(type(family), "needs", "a_package_that_nobody_has")
    with pytest.raises(ResourceError, match=rf"{family.name!r} needs .* pip install \"automl-frontier\["):
        by_name([family.name])
    assert family.name in {known.name for known in by_name()}, "it is known"
    with caplog.at_level(logging.WARNING, "automl"):
        assert family.name not in {known.name for known in usable(FAMILIES, "binary", 60.0)}
    assert family.name not in caplog.text
