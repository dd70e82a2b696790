"""A study survives whatever a family does: each way of failing is a status with its reason, and the wall bound holds."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pytest

import automl
from automl import Budget
from automl.estimators.families.tree import Tree
from automl.estimators.family import Facts
from automl.estimators.space import Choice, Space, Value

cloudpickle = pytest.importorskip("cloudpickle")
cloudpickle.register_pickle_by_value(sys.modules[__name__])

MODES = ("fine", "raises", "segfault", "exits", "allocates", "sleeps", "forks", "prints", "nan")


class Misbehaving:
    """An estimator whose fit does what its mode says."""

    def __init__(self, mode: str, inner: Any) -> None:
        self.mode, self.inner = mode, inner

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        if self.mode == "raises":
            raise RuntimeError("it raised on purpose")
        if self.mode == "segfault":
            ctypes.string_at(0)
        if self.mode == "exits":
            os._exit(3)
        if self.mode == "allocates":
            held = []
            while True:
                held.append(np.ones(16_000_000))
        if self.mode == "sleeps":
            ctypes.CDLL(None).sleep(60)
        if self.mode == "forks" and os.fork() == 0:
            time.sleep(60)
        if self.mode == "prints":
            for _ in range(100):
                os.write(1, b"x" * 1_000_000)
        self.inner.fit(X, y, sample_weight)
        return self

    def predict_proba(self, X: Any) -> Any:
        found = self.inner.predict_proba(X)
        return np.full_like(found, np.nan) if self.mode == "nan" else found


class Hostile(Tree):
    """A decision tree that misbehaves, a mode a plan."""

    name: ClassVar[str] = "hostile"
    order: ClassVar[int] = 50

    def space(self, facts: Facts) -> Space:
        return {**super().space(facts), "mode": Choice(MODES)}

    def starts(self, facts: Facts) -> Sequence[dict[str, Value]]:
        return [{**super(Hostile, self).starts(facts)[0], "mode": mode} for mode in MODES]

    def build(self, params: Any, task: str, hardware: Any, seed: int, categorical: Any = ()) -> Any:
        plain = {k: v for k, v in params.items() if k != "mode"}
        return Misbehaving(params["mode"], super().build(plain, task, hardware, seed, categorical))

    def to_onnx(self, model: Any, graph: Any, x: str) -> str:
        return super().to_onnx(model.inner, graph, x)


@pytest.fixture(scope="module")
def table() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(6000, 5))
    return X, (X[:, 0] + rng.normal(size=6000) > 0).astype(int)


def test_every_way_of_failing_is_a_status_and_the_wall_bound_holds(table: Any, tmp_path: Any) -> None:
    start = time.monotonic()
    budget = Budget(time=40, trials=1 + len(MODES))  # so that a busy machine doesn't decide how the hungry one ends
    model = automl.fit(
        *table, families=["baseline", Hostile()], budget=budget, memory_limit="800MB", run_dir=tmp_path / "run"
    )
    assert time.monotonic() - start < 41.5
    trials = model.front_.found["trials"]
    causes = " | ".join(f"{f['status']}: {f['reason']}" for f in model.front_.found["failures"])
    assert trials["crashed"] >= 2, causes  # the segmentation fault and the exit
    assert trials["timeout"] >= 1, causes
    assert trials["out_of_memory"] >= 1, causes
    assert "it raised on purpose" in causes
    assert trials["completed"] >= 3, causes  # the fine one, the one that printed, the one that forked
    assert any(m.family == "hostile" for m in model.front_)


class Dear(Tree):
    """A decision tree that is believed to take hours."""

    name: ClassVar[str] = "dear"
    order: ClassVar[int] = 50
    seconds_per_unit: ClassVar[float] = 10.0


def test_what_is_thought_too_dear_is_tried_where_nothing_else_is_left(table: Any) -> None:
    model = automl.fit(*table, families=["baseline", Dear()], budget=Budget(time=30, trials=2))
    assert any(m.family == "dear" for m in model.front_)


def test_strategies_end_with_a_front(table: Any) -> None:
    for strategy in ("random", "grid", "bayesian", "nsga2"):
        model = automl.fit(
            *table, families=["baseline", "linear", "tree"], strategy=strategy, budget=Budget(trials=6), random_state=1
        )
        assert model.front_.found["trials"]["completed"] >= 3, strategy


def test_large_tables_are_searched_on_rungs(monkeypatch: pytest.MonkeyPatch) -> None:
    """With too little time for full fits, plans start on fewer rows, and the best are promoted."""
    from automl.search import record

    monkeypatch.setattr(record, "RUNG_SHARE", 1e-9)
    monkeypatch.setattr(record, "LEAST_SECONDS", 1e-9)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60_000, 4))
    y = (X[:, 0] * X[:, 1] + 0.3 * rng.normal(size=60_000) > 0).astype(int)
    model = automl.fit(X, y, families=["baseline", "linear", "tree"], budget=Budget(time=15, trials=14))
    assert model.front_[0].score > 0.8
    assert all(m.rows == 60_000 for m in model.front_)
