"""A program says what its graph says, whichever family wrote it, and bytes that are no graph are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, softmax

from automl.estimators.errors import ArtifactError
from automl.estimators.families import FAMILIES
from automl.estimators.graph import Graph, session, tensor
from automl.estimators.program import Program, read
from automl.estimators.program_trees import EQ, LEQ, MEMBER, Trees

NAMES = [*(family.name for family in FAMILIES), "blend"]
TASKS = ("binary", "multiclass", "regression")


# -- a slow interpreter, to hold programs against onnxruntime ----------------------------------------------------------


def leaf_of(trees: Trees, root: int, row: NDArray[np.float32]) -> int:
    at = root
    while at >= 0:
        value = row[trees.feature[at]]
        members = trees.members[trees.first[at] : trees.last[at]]
        asked = {LEQ: value <= trees.threshold[at], EQ: value == trees.threshold[at], MEMBER: (members == value).any()}
        goes = asked[int(trees.mode[at])] or (np.isnan(value) and trees.missing[at])
        at = int(trees.true[at] if goes else trees.false[at])
    return -1 - at


def sums(trees: Trees, x: NDArray[np.float32]) -> NDArray[np.float32]:
    assert trees.aggregate == "sum"
    out = np.tile(trees.base.astype(np.float64), (len(x), 1))
    for i, row in enumerate(x):
        for root in trees.roots:
            leaf = leaf_of(trees, int(root), row)
            entries = slice(trees.entry[leaf], trees.entry[leaf + 1])
            np.add.at(out[i], trees.target[entries], trees.value[entries])
    return out.astype(np.float32)


def selu(x: NDArray[np.float32], alpha: float, gamma: float) -> NDArray[np.float32]:
    return np.asarray(gamma * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))), np.float32)


OPS: dict[str, Callable[..., Any]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Max": np.maximum, "Min": np.minimum, "Neg": np.negative,
    "MatMul": np.matmul, "Sigmoid": expit, "Identity": lambda x: x, "Reciprocal": np.reciprocal, "Clip": np.clip,
    "Relu": lambda x: np.maximum(x, 0), "Selu": selu, "Softmax": softmax,
    "Gather": lambda x, i, axis: np.take(x, i, axis), "Concat": lambda *x, axis: np.concatenate(x, axis),
    "Expand": lambda x, shape: x * np.ones(shape, x.dtype), "Shape": lambda x, start, end: np.array(x.shape[start:end]),
    "ReduceSumSquare": lambda x, axes, keepdims: np.square(x).sum(tuple(axes), keepdims=bool(keepdims)),
    "Unsqueeze": lambda x, axes: np.expand_dims(x, tuple(axes)), "Reshape": lambda x, shape: x.reshape(shape),
    "Tile": np.tile, "Squeeze": lambda x, axes: np.squeeze(x, tuple(axes)),
    "Gemm": lambda a, b, c, alpha=1.0, transB=0: alpha * (a @ (b.T if transB else b)) + c,
}  # fmt: skip


def top(x: NDArray[np.float32], k: NDArray[np.int64], axis: int, largest: int, sorted: int) -> tuple[Any, Any]:
    order = np.argsort(x, axis=1, kind="stable")[:, : int(k[0])]
    return np.take_along_axis(x, order, 1), order


def run(program: Program, x: NDArray[np.float32]) -> NDArray[np.float32]:
    values: dict[str, Any] = {program.input: x, **program.constants}
    for step in program.steps:
        given = [values[name] for name in step.inputs]
        if step.trees is not None:
            values[step.outputs[0]] = sums(step.trees, given[0])
        elif step.op == "TopK":
            values.update(zip(step.outputs, top(*given, **step.attributes), strict=True))
        else:
            values[step.outputs[0]] = OPS[step.op](*given, **step.attributes)
    return np.asarray(values[program.output], np.float32)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", NAMES)
def test_a_program_says_what_its_graph_says(made: Any, name: str, task: str) -> None:
    graph = made(name, task)
    program = read(graph.model)
    assert program.width == graph.x.shape[1]
    some = slice(0, None, 7)
    found = run(program, graph.x[some])
    scale = float(np.std(graph.y)) if task == "regression" else 1.0
    worst = np.abs(found - graph.y[some]) / np.maximum(scale, np.abs(graph.y[some]))
    assert np.quantile(worst, 0.98 if name == "neighbours" else 1.0) <= 1e-5  # ties of distances


# -- trees -------------------------------------------------------------------------------------------------------------


def test_every_mode_of_a_split_is_one_of_three() -> None:
    graph = Graph(1)
    modes = [0, 1, 2, 3, 4, 5]  # LEQ, LT, GTE, GT, EQ, NEQ: one stump each, to a target of its own
    y = graph.node(
        "TreeEnsemble",
        graph.x,
        domain="ai.onnx.ml",
        n_targets=6,
        tree_roots=np.arange(6),
        nodes_featureids=np.zeros(6, np.int64),
        nodes_splits=tensor(np.full(6, 2.0)),
        nodes_modes=tensor(np.array(modes, np.uint8)),
        nodes_truenodeids=np.arange(0, 12, 2),
        nodes_falsenodeids=np.arange(1, 12, 2),
        nodes_trueleafs=np.ones(6, np.int64),
        nodes_falseleafs=np.ones(6, np.int64),
        nodes_missing_value_tracks_true=np.array([0, 0, 0, 0, 0, 1]),
        leaf_targetids=np.repeat(np.arange(6), 2),
        leaf_weights=tensor(np.tile([1.0, -1.0], 6)),
    )
    model = graph.model(y).SerializeToString()
    x = np.array([[1.0], [2.0], [np.nextafter(np.float32(2), np.float32(0))], [3.0]], np.float32)
    program = read(model)
    trees = program.steps[0].trees
    assert trees is not None
    assert set(trees.mode.tolist()) == {LEQ, EQ}
    for row in x:  # a session of one mode each: onnxruntime 1.2x mixes the modes of one ensemble up in places
        expected = [1 if test else -1 for v in row for test in (v <= 2, v < 2, v >= 2, v > 2, v == 2, v != 2)]
        assert run(program, row[None])[0].tolist() == expected
    missing = run(program, np.array([[np.nan]], np.float32))[0].tolist()
    assert missing == [-1, -1, -1, -1, -1, 1]


def test_a_chain_of_equalities_is_one_set(made: Any) -> None:
    """The older operator, which a forest of several classes is written with, knows no sets."""
    from onnx import load_model_from_string

    from automl.estimators.trees import of_one_version

    newer, forest = made("lightgbm", "multiclass"), made("forest", "multiclass")
    models = [load_model_from_string(graph.model) for graph in (newer, forest)]
    of_one_version(models)
    models[0].opset_import[1].version = 3
    older = models[0].SerializeToString()
    assert b"TreeEnsembleRegressor" in older
    first, second = read(newer.model).steps[0].trees, read(older).steps[0].trees
    assert first is not None
    assert second is not None
    assert (second.splits, second.leaves) == (first.splits, first.leaves)
    assert (second.mode == MEMBER).sum() == (first.mode == MEMBER).sum()
    assert (
        session(older).run(None, {"x": newer.x[:50]})[0] == session(newer.model).run(None, {"x": newer.x[:50]})[0]
    ).all()
    assert np.abs(run(read(older), newer.x[:50]) - newer.y[:50]).max() <= 1e-5


# -- bytes that are no graph -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["linear", "lightgbm", "forest"])
def test_corrupt_bytes_are_refused_or_read_and_nothing_else(made: Any, name: str) -> None:
    good = made(name, "multiclass").model
    rng = np.random.default_rng(0)
    head = min(len(good), 3000)
    for _ in range(300):
        bad = bytearray(good)
        for _ in range(int(rng.integers(1, 4))):
            bad[rng.integers(head if rng.random() < 0.7 else len(bad))] = rng.integers(256)
        if rng.random() < 0.3:
            bad = bad[: rng.integers(len(bad))]
        try:
            program = read(bytes(bad))
        except ArtifactError:
            continue
        for step in program.steps:
            if step.trees is not None:
                check_bounds(step.trees)


def check_bounds(trees: Trees) -> None:
    for child in (trees.true, trees.false, trees.roots):
        assert (child < trees.splits).all()
        assert (child >= -trees.leaves).all()
    assert ((trees.first >= 0) & (trees.first <= trees.last) & (trees.last <= len(trees.members))).all()
    assert trees.entry[-1] == len(trees.value) == len(trees.target)
    assert ((trees.target >= 0) & (trees.target < trees.outputs)).all()


def test_a_circle_of_equalities_that_no_row_reaches_is_left_out() -> None:
    graph = Graph(1)
    y = graph.node(
        "TreeEnsemble",
        graph.x,
        domain="ai.onnx.ml",
        n_targets=1,
        tree_roots=np.array([0]),
        nodes_featureids=np.zeros(4, np.int64),
        nodes_splits=tensor(np.array([0.5, 1.0, 2.0, 3.0])),
        nodes_modes=tensor(np.array([0, EQ, EQ, EQ], np.uint8)),
        nodes_truenodeids=np.array([0, 1, 1, 1]),
        nodes_falsenodeids=np.array([1, 2, 3, 2]),  # 1 leads to 2, which leads to 3, which leads to 2
        nodes_trueleafs=np.ones(4, np.int64),
        nodes_falseleafs=np.array([1, 0, 0, 0]),
        leaf_targetids=np.zeros(2, np.int64),
        leaf_weights=tensor(np.array([1.0, 2.0])),
    )
    trees = read(graph.model(y).SerializeToString()).steps[0].trees
    assert trees is not None
    assert trees.splits == 1


def test_a_circle_of_splits_is_refused() -> None:
    graph = Graph(1)
    y = graph.node(
        "TreeEnsemble",
        graph.x,
        domain="ai.onnx.ml",
        n_targets=1,
        tree_roots=np.array([0]),
        nodes_featureids=np.array([0, 0]),
        nodes_splits=tensor(np.zeros(2)),
        nodes_modes=tensor(np.zeros(2, np.uint8)),
        nodes_truenodeids=np.array([1, 0]),
        nodes_falsenodeids=np.array([0, 0]),
        nodes_trueleafs=np.array([0, 0]),
        nodes_falseleafs=np.array([1, 1]),
        leaf_targetids=np.array([0]),
        leaf_weights=tensor(np.ones(1)),
    )
    with pytest.raises(ArtifactError, match="circle"):
        read(graph.model(y).SerializeToString())


@pytest.mark.parametrize("data", [b"", b"\xff" * 40, b"\x3a\x00", b"no graph at all"])
def test_no_graph_at_all(data: bytes) -> None:
    with pytest.raises(ArtifactError, match="graph"):
        read(data)
