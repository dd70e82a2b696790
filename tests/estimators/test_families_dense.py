"""Linear models, nearest neighbours and networks: they learn, their graphs say what they say, and their traits hold."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from automl.estimators.families.linear import Linear, ridge
from automl.estimators.families.neighbours import Neighbours, spread_rows
from automl.estimators.families.network import Network, batch_size, coslog4, flat_cos
from automl.estimators.family import Facts, Family
from automl.estimators.graph import Graph, session
from automl.estimators.hardware import Hardware

ROWS, WIDTH = 600, 9
TASKS = ("binary", "multiclass", "regression")
HARDWARE = Hardware(threads=1)


def table(task: str, seed: int = 0, rows: int = ROWS) -> tuple[NDArray[np.float32], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, WIDTH)).astype(np.float32)
    X[:, 6:] = X[:, 6:] > 0.8  # one-hot-like columns
    signal = X[:, 0] + 0.7 * X[:, 1] - X[:, 7] + 0.3 * rng.normal(size=rows)
    if task == "regression":
        return X, 50_000.0 + 10_000.0 * signal.astype(np.float64)
    cuts = [0.0] if task == "binary" else [-0.6, 0.6]
    return X, np.digitize(signal, cuts).astype(np.int32)


def predict(model: Any, task: str, X: Any) -> NDArray[np.float64]:
    if task == "regression":
        return np.asarray(model.predict(X), np.float64)[:, None]
    return np.asarray(model.predict_proba(X), np.float64)


def through_graph(family: Family, model: Any, X: NDArray[np.float32]) -> NDArray[np.float64]:
    graph = Graph(X.shape[1])
    output = family.to_onnx(model, graph, graph.x)
    return np.asarray(session(graph.model(output).SerializeToString()).run(None, {"x": X})[0], np.float64)


def drift(family: Family, model: Any, task: str, X: NDArray[np.float32], spread: float = 1.0) -> float:
    """The largest difference between graph and model, relative to max(1, |value|) or to the target's spread."""
    native = predict(model, task, X)
    native = native[:, 1:] if task == "binary" else native
    found = through_graph(family, model, X)
    assert found.shape == native.shape
    difference = np.abs(found - native) / np.maximum(spread, np.abs(native))
    if hasattr(model, "tied"):
        difference = difference[~model.tied(X)]
    return float(difference.max())


def quality(task: str, y: NDArray[Any], prediction: NDArray[np.float64]) -> float:
    """Share of right labels, or of the variance explained."""
    if task == "regression":
        return 1.0 - float(np.mean((prediction[:, 0] - y) ** 2) / np.var(y))
    return float((prediction.argmax(axis=1) == y).mean())


LINEAR = [
    {},
    {"penalty": "l1", "C": 0.5, "max_iter": 50},
    {"penalty": "elasticnet", "C": 0.5, "l1_ratio": 0.5, "max_iter": 50},
    {"solver": "sgd", "max_iter": 20},
    {"C": 1e-4},
    {"C": 1e3, "max_iter": 20},
]
NEIGHBOURS = [
    {"k": 1, "weights": "uniform"},
    {"k": 5, "weights": "distance", "references": 500},
    {"k": 100, "weights": "distance", "smoothing": 3.0},
]
NETWORK = [
    {"layers": 1, "width": 32, "activation": "relu", "epochs": 15},
    {
        "layers": 2,
        "width": 32,
        "activation": "selu",
        "epochs": 15,
        "dropout": 0.2,
        "optimizer": "adam",
        "weight_decay": 0.01,
    },
    {"layers": 2, "width": 32, "activation": "mish", "epochs": 15, "early_stopping": True},
    {"layers": 1, "width": 32, "activation": "mish", "epochs": 30, "optimizer": "sgd", "weight_decay": 0.001},
]
CASES = [(Linear(), p) for p in LINEAR] + [(Neighbours(), p) for p in NEIGHBOURS] + [(Network(), p) for p in NETWORK]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("family", "params"), CASES, ids=lambda v: v.name if isinstance(v, Family) else str(v))
def test_learns_and_its_graph_says_the_same(family: Family, params: dict[str, Any], task: str) -> None:
    if not family.available():
        pytest.skip(f"{family.name} needs {family.needs}, which is not installed")
    X, y = table(task)
    model: Any = family.build(params, task, HARDWARE, 0)
    model.fit(X[:500], y[:500])
    held, truth = X[500:], y[500:]
    prediction = predict(model, task, held)
    floor = 0.0 if params.get("C") == 1e-4 else 0.5 if task == "regression" else 0.6
    assert quality(task, truth, prediction) > floor
    if task != "regression":
        np.testing.assert_allclose(prediction.sum(axis=1), 1.0, atol=1e-6)
    everything = np.vstack([X, np.zeros((1, WIDTH), np.float32), 3 * np.ones((1, WIDTH), np.float32)])
    assert drift(family, model, task, everything, float(np.std(y)) if task == "regression" else 1.0) <= 1e-5


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("family", [Linear(), Neighbours(), Network()], ids=lambda f: f.name)
def test_the_same_seed_gives_the_same_model_and_weights_count(family: Family, task: str) -> None:
    if not family.available():
        pytest.skip(f"{family.name} needs {family.needs}, which is not installed")
    X, y = table(task)
    X = X[np.random.default_rng(5).permutation(ROWS)]  # unrelated to y: what is learned is the target's level
    params = {**family.starts(Facts(task, ROWS, WIDTH))[0], "epochs": 5} if family.name == "network" else {}

    def fitted(weights: NDArray[np.float64] | None) -> NDArray[np.float64]:
        model: Any = family.build(params, task, HARDWARE, 3)
        model.fit(X, y, sample_weight=weights)
        assert drift(family, model, task, X, float(np.std(y)) if task == "regression" else 1.0) <= 1e-5
        return predict(model, task, X)

    plain = fitted(None)
    np.testing.assert_array_equal(plain, fitted(None))
    np.testing.assert_array_equal(plain, fitted(np.full(len(y), 1.0)))
    heavy = fitted(np.where(y >= np.mean(y), 5.0, 0.2))
    column = 0 if task == "regression" else -1
    assert heavy[:, column].mean() > plain[:, column].mean()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("params", LINEAR[:4], ids=str)
def test_linear_takes_csr_and_dense_alike(params: dict[str, Any], task: str) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    X, y = table(task)
    dense = Linear().build(params, task, HARDWARE, 0).fit(X, y)  # type: ignore[attr-defined]
    csr = Linear().build(params, task, HARDWARE, 0).fit(sparse.csr_matrix(X), y)  # type: ignore[attr-defined]
    np.testing.assert_allclose(predict(dense, task, X), predict(csr, task, sparse.csr_matrix(X)), rtol=0.02, atol=0.03)


def test_duplicates_merged_into_weights_leave_the_default_linear_fit_unchanged() -> None:
    for task in TASKS:
        X, y = table(task, rows=200)
        twice = Linear().build({"max_iter": 500}, task, HARDWARE, 0).fit(np.vstack([X, X]), np.concatenate([y, y]))  # type: ignore[attr-defined]
        merged = Linear().build({"max_iter": 500}, task, HARDWARE, 0).fit(X, y, np.full(200, 2.0))  # type: ignore[attr-defined]
        np.testing.assert_allclose(predict(twice, task, X), predict(merged, task, X), rtol=1e-3, atol=2e-3)


def test_ridge_is_scikit_learns() -> None:
    from sklearn.linear_model import Ridge

    X, y = table("regression")
    weight = np.random.default_rng(1).uniform(0.5, 2.0, ROWS)
    coef, intercept = ridge(X, y, weight, 3.0, 100)
    reference = Ridge(alpha=3.0).fit(X.astype(np.float64), y, sample_weight=weight)
    np.testing.assert_allclose(coef, reference.coef_, rtol=1e-6)
    assert intercept == pytest.approx(reference.intercept_, rel=1e-8)


def test_wide_one_hot_with_a_dependent_column_stays_finite() -> None:
    X = np.eye(40, dtype=np.float32)[np.arange(400) % 40]
    X = np.hstack([X, X[:, :5]])  # every column set sums to one, five are repeated
    y = (np.arange(400) % 40) * 1.0
    model = Linear().build({"C": 1e3}, "regression", HARDWARE, 0).fit(X, y)  # type: ignore[attr-defined]
    assert np.abs(model.weights).max() < 100.0
    assert quality("regression", y, predict(model, "regression", X)) > 0.99


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_l1_logistic_finds_scikit_learns_optimum(task: str) -> None:
    from sklearn.linear_model import LogisticRegression

    X, y = table(task)
    weight = np.random.default_rng(1).uniform(0.5, 2.0, ROWS)
    model: Any = Linear().build({"penalty": "l1", "C": 0.1, "max_iter": 500}, task, HARDWARE, 0)
    model.fit(X, y, weight)
    arguments = {"l1_ratio": 1.0, "solver": "saga", "C": 0.1, "max_iter": 5_000, "tol": 1e-7}
    if "penalty='deprecated'" not in repr(inspect.signature(LogisticRegression)):  # scikit-learn 1.7
        arguments["penalty"] = "elasticnet"
    reference = LogisticRegression(**arguments).fit(X.astype(np.float64), y, sample_weight=weight)
    np.testing.assert_allclose(model.weights, reference.coef_.T, atol=2e-3)
    np.testing.assert_allclose(predict(model, task, X), reference.predict_proba(X), atol=2e-3)


@pytest.mark.parametrize("family", [Linear(), Neighbours(), Network()], ids=lambda f: f.name)
def test_a_class_missing_from_a_small_rung_keeps_its_column(family: Family) -> None:
    if not family.available():
        pytest.skip(f"{family.name} needs {family.needs}, which is not installed")
    X, y = table("multiclass", rows=200)
    some = y != 1
    model: Any = family.build({"epochs": 3} if family.name == "network" else {}, "multiclass", HARDWARE, 0)
    model.fit(X[some], y[some])
    prediction = predict(model, "multiclass", X)
    assert prediction.shape == (200, 3)
    assert drift(family, model, "multiclass", X) <= 1e-5
    if family.name != "network":
        assert prediction[:, 1].max() < 0.01


def test_equal_distances_are_settled_by_position_and_reported() -> None:
    X = np.repeat(np.array([[0.0], [1.0], [2.0]], np.float32), 4, axis=0)
    y = np.array([0, 1, 0, 1, 0, 0, 0, 0, 1, 1, 1, 1], np.int32)
    model: Any = Neighbours().build({"k": 2, "smoothing": 0.003}, "binary", HARDWARE, 0)
    model.fit(X, y)
    assert model.tied(np.array([[0.0], [1.0], [2.0]], np.float32)).tolist() == [True, False, False]
    proba = model.predict_proba(np.array([[0.0]], np.float32))[0, 1]
    assert proba == pytest.approx(0.5, abs=0.01)  # the first two of the four rows at 0: one of each class


def test_neighbours_are_those_of_scikit_learn() -> None:
    from sklearn.neighbors import KNeighborsRegressor

    X, y = table("regression")
    model: Any = Neighbours().build({"k": 7, "smoothing": 1e-9}, "regression", HARDWARE, 0)
    model.fit(X[:500], y[:500])
    reference = KNeighborsRegressor(7).fit(X[:500], y[:500]).predict(X[500:])
    np.testing.assert_allclose(model.predict(X[500:]), reference, rtol=1e-5)


def test_short_distances_between_rows_far_out_are_exact() -> None:
    """Of squared lengths of 360,000 that are apart by 1, float32 has few digits left."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 4)).astype(np.float32)
    X[:12] += 300.0
    y = rng.integers(0, 2, 400).astype(np.int32)
    model: Any = Neighbours().build({"k": 12, "weights": "distance"}, "binary", HARDWARE, 0)
    model.fit(X, y)
    row = X[:1] + np.float32(0.25)  # the twelve are its nearest
    weights = 1 / (np.square(row.astype(np.float64) - X[:12]).sum(axis=1) * model.sharpness + 1)
    expected = (weights @ y[:12] + model.smoothing * y.mean()) / (weights.sum() + model.smoothing)
    assert model.predict_proba(row)[0, 1] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_references_are_a_seeded_spread_over_the_target(task: str) -> None:
    _, y = table(task, rows=2_000)
    rows = spread_rows(y, 500, 1)
    assert len(np.unique(rows)) == 500
    assert y[rows].mean() == pytest.approx(y.mean(), rel=0.02, abs=0.02)
    np.testing.assert_array_equal(rows, spread_rows(y, 500, 1))
    assert len(spread_rows(y, 5_000, 1)) == 2_000


def test_starts_lie_in_the_space_and_costs_are_positive() -> None:
    from automl.estimators.space import Choice

    for family in (Linear(), Neighbours(), Network()):
        for task in TASKS:
            for rows in (500, 1_000_000):
                facts = Facts(task, rows, 20, {"binary": 2, "multiclass": 5, "regression": 0}[task], categorical=3)
                space = family.space(facts)
                for start in family.starts(facts):
                    assert set(start) == set(space), (family.name, task)
                    for name, value in start.items():
                        bounds = space[name]
                        if isinstance(bounds, Choice):
                            assert value in bounds.options
                        else:
                            assert bounds.low <= float(value) <= bounds.high
                    assert all(v > 0 for v in family.cost(start, rows, 20, facts.classes).values())


def test_the_network_keeps_its_best_epoch_and_refits_for_as_many() -> None:
    pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(400, 20)).astype(np.float32), rng.integers(0, 2, 400)  # noise: any training is too much
    family = Network()
    params = {"layers": 2, "width": 64, "epochs": 40, "early_stopping": True, "learning_rate": 0.1}
    model: Any = family.build(params, "binary", HARDWARE, 0)
    model.fit(X, y)
    assert model.epochs_ < 20
    refit = family.refit_params(params, model, 4.0)
    assert refit["early_stopping"] is False
    assert refit["epochs"] == round(model.epochs_ * 4.0**0.3)


def test_a_network_that_diverges_says_so() -> None:
    pytest.importorskip("torch")
    X, y = table("regression")
    model: Any = Network().build(
        {"learning_rate": 1e30, "epochs": 3, "layers": 2, "width": 32}, "regression", HARDWARE, 0
    )
    with pytest.raises(FloatingPointError, match="learning_rate"):
        model.fit(X, y)


def test_schedules_and_batches() -> None:
    assert coslog4(0.0) == pytest.approx(0.0)
    assert coslog4(1.0) == pytest.approx(0.0, abs=1e-12)
    assert (flat_cos(0.2), flat_cos(1.0)) == (1.0, pytest.approx(0.0))
    assert [batch_size(n) for n in (100, 30_000, 1_000_000)] == [32, 256, 4_096]


def test_importing_the_modules_loads_no_heavy_library() -> None:
    code = (
        "import sys, automl.estimators.families.linear, automl.estimators.families.neighbours, "
        "automl.estimators.families.network, automl.estimators.select, automl.estimators.reduce; "
        "print([m for m in ('sklearn', 'torch', 'onnx', 'lightgbm', 'scipy', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
