"""The compiled engine says what onnxruntime says, a row alone as in a batch, or says why it does not run a graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from automl.estimators import native
from automl.estimators.compiled import Engine, NotLoweredError, refusal
from automl.estimators.families import FAMILIES

NAMES = [*(family.name for family in FAMILIES), "blend"]
TASKS = ("binary", "multiclass", "regression")
NOT_LOWERED = {"neighbours": "TopK"}
"""Families whose graphs have a step that the kernel lacks."""

pytestmark = pytest.mark.skipif(native.missing() is not None, reason=f"no compiled engine here: {native.missing()}")


def alone(engine: Engine, x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([engine.run(row[None]) for row in x])


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_onnxruntime_says_and_a_row_alone_as_in_a_batch(made: Any, name: str, task: str) -> None:
    graph = made(name, task)
    if name in NOT_LOWERED:
        assert NOT_LOWERED[name] in str(refusal(graph.model))
        return
    engine = Engine(graph.model)
    found = engine.run(graph.x)
    scale = float(np.std(graph.y)) if task == "regression" else 1.0
    assert (np.abs(found - graph.y) / np.maximum(scale, np.abs(graph.y))).max() <= 1e-5
    assert (alone(engine, graph.x) == found).all()
    for size in (1, 2, 3, 7, 8, 9, 63, 64, 65):
        assert (engine.run(graph.x[5 : 5 + size]) == found[5 : 5 + size]).all()
