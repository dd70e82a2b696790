"""Graphs of every family, fitted once: what reads or runs graphs is held against onnxruntime on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from automl.estimators.blend import merge_graphs
from automl.estimators.families import FAMILIES
from automl.estimators.family import Facts, Family
from automl.estimators.graph import Graph, session
from automl.estimators.hardware import Hardware

ROWS, LEVELS, TASKS = 400, (3, 40), {"binary": 2, "multiclass": 4, "regression": 0}
MORE: dict[str, dict[str, Any]] = {"network": {"epochs": 2}, "ebm": {"max_rounds": 30}}
"""Less than the families' defaults, where those take seconds."""


class Made(NamedTuple):
    """A graph's bytes, rows to run it on (strange ones among them), and what onnxruntime says of them."""

    model: bytes
    x: NDArray[np.float32]
    y: NDArray[np.float32]


def rows(task: str, raw: bool) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Four numbers and two category codes, with missing values where `raw`; y hangs on both kinds."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(ROWS, 6)).astype(np.float32)
    for column, levels in zip((4, 5), LEVELS, strict=True):
        X[:, column] = rng.integers(-1, levels, ROWS)
    score = X[:, 0] - X[:, 1] * (X[:, 4] > 0) + np.sin(X[:, 5]) + 0.3 * rng.normal(size=ROWS)
    if raw:
        X[:, :4][rng.random((ROWS, 4)) < 0.1] = np.nan
    else:
        X[:, 4:] /= LEVELS
    if task == "regression":
        return X, 5000.0 + 40.0 * score
    return X, np.digitize(score, np.quantile(score, np.linspace(0, 1, TASKS[task] + 1)[1:-1])).astype(np.int32)


def strange(X: NDArray[np.float32], raw: bool) -> NDArray[np.float32]:
    """These rows, and some with codes and numbers that no training row had."""
    odd = X[:40].copy()
    odd[:10, 4], odd[10:20, 5] = -1, -1
    if raw:
        odd[20:30, 4:], odd[:40:2, :4] = 1000, np.nan
    odd[30:, 0], odd[35:, 1] = 3e38, -3e38
    return np.concatenate([X, odd])


def _make(family: Family, task: str) -> Made:
    facts = Facts(task, ROWS, 6, TASKS[task], 2)
    view = family.views(facts)[0]
    raw = view.numeric == "raw"
    X, y = rows(task, raw)
    params = {**family.starts(facts)[0], **MORE.get(family.name, {})}
    model = family.build(params, task, Hardware(), 0, [4, 5] if view.categories == "ordinal" else [])
    model.fit(X, y)
    graph = Graph(6)
    x = strange(X, raw)
    if not raw:
        x = np.clip(x, -3.0, 3.0)  # as the encoder squashes them
    return _run(graph.model(family.to_onnx(model, graph, graph.x)).SerializeToString(), x)


def _run(model: bytes, x: NDArray[np.float32]) -> Made:
    return Made(model, x, session(model).run(None, {"x": x})[0])


@pytest.fixture(scope="session")
def made() -> Callable[[str, str], Made]:
    """The graph of a family, or "blend", for a task; skips where what the family needs is not installed."""
    known: dict[tuple[str, str], Made] = {}
    by_name = {family.name: family for family in FAMILIES}

    def get(name: str, task: str) -> Made:
        if (name, task) not in known:
            if name == "blend":
                parts = [get(part, task) for part in ("linear", "tree", "forest", "lightgbm")]
                raw, squashed = parts[3].x, parts[0].x
                places = [np.arange(6, 12), np.arange(6), np.arange(6), np.arange(6)]
                merged = merge_graphs([part.model for part in parts], [1, 1, 2, 3], places, 12)
                known[name, task] = _run(merged, np.concatenate([raw, squashed], axis=1))
            else:
                if not by_name[name].available():
                    pytest.skip(f"{name} needs {by_name[name].needs}, which is not installed")
                known[name, task] = _make(by_name[name], task)
        return known[name, task]

    return get
