"""The tree families: export of what LightGBM and scikit-learn do with categories, missing values and rare cases."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from automl.estimators import hardware
from automl.estimators.boosting import patience
from automl.estimators.errors import ArtifactError
from automl.estimators.families import lightgbm
from automl.estimators.families.extra_trees import ExtraTrees
from automl.estimators.families.forest import Forest
from automl.estimators.families.lightgbm import LightGBM
from automl.estimators.families.tree import Tree
from automl.estimators.family import Facts, Family
from automl.estimators.graph import Graph, session
from automl.estimators.hardware import Hardware
from automl.estimators.trees import Trees, steadied, write


def fit(family: Family, task: str, X: Any, y: Any, categorical: Any = (), threads: int = 1, **params: Any) -> Any:
    return family.build(params, task, Hardware(threads), 0, categorical).fit(X, y)


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
    rng = np.random.default_rng(seed)
    X = np.column_stack([rng.normal(size=(rows, 3)), rng.integers(-1, levels, rows)]).astype(np.float32)
    X[rng.random(rows) < 0.1, 0] = np.nan
    effect = np.random.default_rng(9).normal(size=levels + 1)
    return X, np.nan_to_num(X[:, 0]) + X[:, 1] * X[:, 2] + effect[X[:, 3].astype(int)]


@pytest.mark.parametrize("levels", [2, 30, 31, 32, 64, 700])
def test_category_sets_of_every_width(levels: int) -> None:
    X, y = table(3000, levels)
    model = fit(LightGBM(), "regression", X, y, [3], min_data_per_group=5, cat_smooth=1.0, n_estimators=40)
    X[:700, 3] = np.arange(-2, 698)
    X[700:704, 3] = [np.nan, 5000, 2**24, -1e6]
    assert difference(LightGBM(), model, X, "regression", float(np.std(y))) <= 1e-6


def test_without_bundles_a_wide_full_matrix_gives_the_same_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 1200)).astype(np.float32)
    y = X[:, 0] + X[:, 1]
    assert lightgbm._full(X)
    assert not lightgbm._full(X * (rng.random(X.shape) < 0.1))
    found = fit(LightGBM(), "regression", X, y, n_estimators=5)
    monkeypatch.setattr(lightgbm, "_full", lambda X: False)
    assert (fit(LightGBM(), "regression", X, y, n_estimators=5).predict(X) == found.predict(X)).all()


def test_missing_values_of_columns_that_had_none() -> None:
    X, y = table(1000, 5)
    model = fit(LightGBM(), "regression", np.nan_to_num(X), y, n_estimators=20)
    X[:400, 1:3] = np.nan
    X[400:500] = 0.0
    assert difference(LightGBM(), model, X, "regression", float(np.std(y))) <= 1e-6


@pytest.mark.parametrize("family", [Tree(), Forest(), ExtraTrees()], ids=str)
def test_missing_values_in_scikit_learns_trees(family: Family) -> None:
    X, y = table(1000, 5)
    code = np.digitize(y, [-1.0, 0.0, 1.0]).astype(np.int32)
    few = {"n_estimators": 20} if "n_estimators" in family.space(Facts("binary", 1, 1)) else {}
    model = fit(family, "multiclass", X, code, **few)
    X[:400, 1:] = np.nan  # no missing value was there to learn from
    assert difference(family, model, X, "multiclass") <= 1e-6


def test_a_large_mean_and_a_small_spread() -> None:
    X, y = table(2000, 20)
    for family in (LightGBM(), Tree(), Forest(), ExtraTrees()):
        model = fit(family, "regression", X, 1e7 + y)
        assert difference(family, model, X, "regression") <= 1e-7
        assert np.abs(model.predict(X) - 1e7 - y).mean() < 0.8


def test_many_classes() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2600, 4)).astype(np.float32)
    code = ((X[:, 0] > 0) * 13 + np.clip((X[:, 1] + 2) * 3, 0, 12)).astype(np.int32)
    model = fit(LightGBM(), "multiclass", X, code, n_estimators=10)
    assert difference(LightGBM(), model, X, "multiclass") <= 1e-6
    assert (model.predict_proba(X).argmax(axis=1) == code).mean() > 0.9


def test_nothing_to_split_on() -> None:
    X = np.ones((60, 2), np.float32)
    y = np.arange(60) % 3
    for family in (LightGBM(), Tree(), Forest(), ExtraTrees()):
        assert difference(family, fit(family, "multiclass", X, y.astype(np.int32)), X, "multiclass") <= 1e-6
        assert difference(family, fit(family, "regression", X, y.astype(float)), X, "regression") <= 1e-6
        assert difference(family, fit(family, "binary", X, (y > 0).astype(np.int32)), X, "binary") <= 1e-6


@pytest.mark.parametrize(("name", "value"), [("linear_tree", True), ("boosting", "rf"), ("zero_as_missing", True)])
def test_boosters_that_cannot_be_exported_are_refused(name: str, value: Any) -> None:
    X, y = table(500, 5)
    model = LightGBM().build({"n_estimators": 10, "bagging_fraction": 0.7}, "regression", Hardware(), 0)
    model.params[name] = value  # type: ignore[attr-defined]
    model.fit(np.nan_to_num(X), y)
    with pytest.raises(ArtifactError, match=r"can(not)? be exported"):
        LightGBM().to_onnx(model, Graph(4), "x")  # type: ignore[arg-type]


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_early_stopping_watches_an_inner_slice(task: str) -> None:
    X, y = table(1500, 5)
    y = y + np.random.default_rng(1).normal(size=len(y)) * 3
    target: Any = {
        "binary": (y > 0).astype(np.int32),
        "multiclass": np.digitize(y, [-1, 1]).astype(np.int32),
        "regression": y,
    }[task]
    params = {"n_estimators": 400, "learning_rate": 0.2, "early_stopping": True}
    model = fit(LightGBM(), task, X, target, [3], **params)
    assert 1 <= model.iterations < 200
    assert difference(LightGBM(), model, X, task, float(np.std(target))) <= 1e-6
    again = LightGBM().refit_params(params, model, 4.0)
    assert again == {**params, "early_stopping": False, "n_estimators": round(model.iterations * 4.0**0.3)}
    assert LightGBM().refit_params({"n_estimators": 7}, model, 4.0) == {"n_estimators": 7}


def test_early_stopping_needs_rows() -> None:
    X, y = table(150, 5)
    assert fit(LightGBM(), "regression", X, y, n_estimators=15, early_stopping=True).iterations == 15
    assert patience(5_000, 1000) == 300
    assert patience(5_000, 150) == 45
    assert patience(10**6, 2000) == 20
    assert patience(10**6, 50) == 10


def test_training_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    X, y = table(800, 40)
    kept = X.copy()
    fit(LightGBM(), "binary", X, np.ones(800, np.int32), [3], threads=2, n_estimators=5)
    fit(LightGBM(), "multiclass", X, (y > 0).astype(np.int32), [3], threads=2, bagging_fraction=0.8, n_estimators=5)
    assert np.array_equal(X, kept, equal_nan=True), "the caller's matrix was changed"
    assert capfd.readouterr() == ("", "")


def test_forest_probabilities_stay_probabilities() -> None:
    X, y = table(600, 5)
    model = fit(Forest(), "binary", X, (y > 9).astype(np.int32), n_estimators=90)
    graph = Graph(4)
    found = session(graph.model(Forest().to_onnx(model, graph, "x")).SerializeToString()).run(None, {"x": X})[0]
    assert found.min() >= 0
    assert found.max() <= 1


def test_starts_hold_the_rival_and_fit_the_budget() -> None:
    for task, classes in (("binary", 2), ("multiclass", 26), ("regression", 0)):
        facts = Facts(task, 20_000, 16, classes, 3)
        starts = LightGBM().starts(facts)
        plain = {name: value for name, value in LightGBM.defaults.items() if name in LightGBM().space(facts)}
        assert plain in starts
        assert plain["n_estimators"] == 100
        short = LightGBM().starts(Facts(task, 700_000, 12, classes, 3, budget_seconds=60))
        assert max(float(point["n_estimators"]) for point in short) < max(
            float(point["n_estimators"]) for point in starts
        )
    assert all(math.isfinite(float(point["learning_rate"])) for point in starts)


def test_pruning_has_no_unit() -> None:
    X, y = table(1000, 5)
    leaves = [fit(Tree(), "regression", X, y * unit, ccp_alpha=3e-3).model.get_n_leaves() for unit in (1.0, 1e4)]
    assert leaves[0] == leaves[1] < 200


def test_the_strong_points_are_those_for_the_shape_of_the_table() -> None:
    family = LightGBM()
    many, few = Facts("binary", 100_000, 20), Facts("binary", 2_000, 80)
    assert [p["extra_trees"] for p in family.strong(many)] == [False, False]
    first, second = family.strong(few)
    assert (first["extra_trees"], first["feature_fraction"], second["extra_trees"]) == (True, 0.3, False)
    assert len(family.strong(Facts("multiclass", 2_000, 80, 10))) == 1
    assert family.space(few)["feature_fraction"].low < family.space(many)["feature_fraction"].low  # type: ignore[union-attr]
    for rows, leaves in ((12_000, 64), (90_000, 512)):  # days tell rows apart where there are many
        dated = family.strong(Facts("binary", rows, 20, days=1))
        assert [p.get("view") for p in dated] == [None, None, 1]
        assert dated[-1]["num_leaves"] == leaves


def test_thread_pools_that_are_known_are_limited_without_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    from threadpoolctl import ThreadpoolController, threadpool_info

    monkeypatch.setattr(hardware, "_pools", None)
    hardware.know_threadpools()
    monkeypatch.setattr(ThreadpoolController, "_load_libraries", lambda self: pytest.fail("it looked for them again"))
    with hardware.threadpool_limits(1):
        monkeypatch.undo()
        assert {pool["num_threads"] for pool in threadpool_info()} == {1}


@pytest.mark.parametrize("sets", [False, True])
def test_runaway_leaves_do_not_round_what_is_left_of_their_sum(sets: bool) -> None:
    rng = np.random.default_rng(0)
    n, width, count = 4000, 3, 60
    X = np.column_stack([rng.normal(size=(n, 2)), rng.integers(0, 40, n)]).astype(np.float32)
    large = np.arange(count) % 3 == 1  # of the second class alone, as the trees of LightGBM's defaults on a rare one
    steps = np.where(large, 9000.0, 0.0) + rng.normal(size=count)
    values = np.column_stack([steps, -steps + rng.normal(size=count)])
    codes = np.sort(rng.permuted(np.tile(np.arange(40), (count, 1)), axis=1)[:, :20], axis=1)
    feature = np.full(count, 2) if sets else np.arange(count) % 2
    trees = Trees(
        sizes=np.ones(count, np.int64),
        feature=feature,
        threshold=rng.normal(size=count),
        missing_left=np.zeros(count, np.bool_),
        left=np.full(count, -1),
        right=np.full(count, -2),
        values=values.reshape(-1, 1),
        targets=np.repeat(np.arange(count) % width, 2),
        counts=np.full(count, 20) if sets else None,
        members=codes.ravel() if sets else np.empty(0, np.int64),
    )
    within = (X[:, 2, None, None] == codes).any(axis=2)
    goes = within if sets else X[:, feature] <= trees.threshold
    leaf = np.where(goes, values[:, 0], values[:, 1])
    raw = np.column_stack([leaf[:, np.arange(count) % width == k].sum(axis=1) for k in range(width)])
    constants = np.array([0.5, -3.3, 0.25])
    raw += constants
    near = np.abs(raw[:, 1]) < 100.0  # of many a row the sum comes back to about nothing
    assert near.sum() > 100

    def worst(tried: Trees, kept: Any) -> float:
        graph = Graph(3)
        found = session(graph.model(write(graph, graph.x, tried, width, kept)).SerializeToString()).run(None, {"x": X})[
            0
        ]
        return float(np.abs(found[near] - raw[near]).max())

    steady, left = steadied(trees, constants)
    assert np.count_nonzero(large) == len(steady.sizes) - len(trees.sizes)
    assert worst(steady, left) < 1e-5 < worst(trees, constants)


def test_trees_without_runaway_leaves_are_left_as_they_are() -> None:
    few = Trees(
        *(np.array([v]) for v in (1, 0)),
        np.array([0.5]),
        np.array([False]),
        np.array([-1]),
        np.array([-2]),
        np.array([[1.0], [-1.0]]),
    )
    assert steadied(few, np.zeros(1))[0] is few
    aimed = replace(few, targets=np.zeros(2, np.int64))
    assert steadied(aimed, np.zeros(1))[0] is aimed
