"""Calibration: curves that are found again, that help on new rows, and graphs that say the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from automl.estimators import calibrate
from automl.estimators.graph import Graph, session


def drawn(classes: int, power: float, rows: int = 3000, seed: int = 0) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Labels of true probabilities, and these raised to 1 / `power`: what a temperature of `power` undoes."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(rows, classes)) * 2
    true = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    y = (rng.random((rows, 1)) > true.cumsum(axis=1)).sum(axis=1).clip(0, classes - 1)
    told = true ** (1.0 / power)
    return y, told / told.sum(axis=1, keepdims=True)


def loss(y: NDArray[Any], p: NDArray[np.float64]) -> float:
    return float(-np.log(np.maximum(p[np.arange(len(y)), y], 1e-7)).mean())


@pytest.mark.parametrize("power", [0.4, 2.5])
def test_a_temperature_is_found_again(power: float) -> None:
    y, p = drawn(4, power)
    found = calibrate.fit("temperature", y, p)
    assert found is not None
    assert found[1] == pytest.approx(power, rel=0.1)


@pytest.mark.parametrize(("method", "classes"), [("temperature", 5), ("platt", 2), ("isotonic", 2)])
@pytest.mark.parametrize("power", [0.5, 2.0])
def test_it_helps_on_rows_that_it_has_not_seen(method: str, classes: int, power: float) -> None:
    (y, p), (new, told) = drawn(classes, power), drawn(classes, power, seed=1)
    curve = calibrate.fit(method, y, p)
    assert curve is not None
    moved = calibrate.apply(method, curve, told)
    np.testing.assert_allclose(moved.sum(axis=1), 1.0)
    assert loss(new, moved) < loss(new, told) - 0.005


def test_a_floor_is_found_for_votes_of_few_trees() -> None:
    rng = np.random.default_rng(0)
    true = rng.dirichlet([0.3, 0.3, 0.3], 3000)
    votes = np.array([rng.multinomial(5, row) for row in true]) / 5
    y = np.array([rng.choice(3, p=row) for row in true])
    found = calibrate.fit("temperature", y, votes)
    assert found is not None
    assert found[0] > 0.0
    assert loss(y, calibrate.apply("temperature", found, votes)) < loss(y, votes) - 0.1


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_a_curve_never_falls_and_stays_inside(method: str) -> None:
    y, p = drawn(2, 0.6)
    curve = calibrate.fit(method, y, p)
    assert curve is not None
    at = np.linspace(0.0, 1.0, 1001)
    second = calibrate.apply(method, curve, np.column_stack([1 - at, at]))[:, 1]
    assert (np.diff(second) >= 0.0).all()
    assert 0.0 < second[0] < second[-1] < 1.0


@pytest.mark.parametrize(("method", "classes"), [("temperature", 5), ("platt", 2), ("isotonic", 2)])
@pytest.mark.parametrize("end", ["softmax", "plain"])
def test_the_graph_says_what_apply_does(method: str, classes: int, end: str) -> None:
    y, p = drawn(classes, 1.7)
    curve = calibrate.fit(method, y, p)
    assert curve is not None
    if method == "temperature":
        curve = (0.0 if end == "softmax" else 0.01, curve[1])
    width = 1 if classes == 2 else classes
    graph = Graph(width)
    x = np.log(p).astype("f4") if end == "softmax" and width > 1 else (p[:, 1:] if width == 1 else p).astype("f4")
    out = graph.node("Softmax", graph.x, axis=1) if end == "softmax" and width > 1 else graph.node("Identity", graph.x)
    model = graph.model(calibrate.to_onnx(method, curve, graph, out, classes))
    found = session(model.SerializeToString()).run(None, {"x": x})[0]
    wanted = calibrate.apply(method, curve, p)
    np.testing.assert_allclose(found, wanted[:, 1:] if width == 1 else wanted, atol=1e-5)
    pow_or_mul = {node.op_type for node in model.graph.node}
    assert ("Pow" in pow_or_mul) is (method == "temperature" and end == "plain")


def test_what_cannot_be_calibrated_is_not() -> None:
    assert calibrate.methods("regression", 5000) == ()
    assert calibrate.methods("binary", 500) == ("platt",)
    assert calibrate.methods("binary", 5000) == ("platt", "isotonic")
    y = np.arange(100) % 2
    constant = np.full((100, 2), 0.5)
    assert calibrate.fit("platt", y, constant) is None
    upside = np.column_stack([y, 1 - y]) * 0.8 + 0.1
    assert calibrate.fit("platt", y, upside) is None, "a curve that falls would turn the ranking round"
