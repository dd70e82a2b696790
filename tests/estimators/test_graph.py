"""The graph writer, and the two tree operators against a walk in plain Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from automl.estimators.graph import Graph, below, session, tensor, written
from automl.estimators.protobuf import fields, read_node
from automl.estimators.trees import Trees, constant_rows, write

FLOATS = st.floats(width=32, allow_nan=False)


def run(graph: Graph, output: str, X: Any) -> NDArray[np.float32]:
    model = graph.model(output)
    onnx.checker.check_model(model)
    assert all(constant.data_type != onnx.TensorProto.DOUBLE for constant in model.graph.initializer)
    found: NDArray[np.float32] = session(model.SerializeToString()).run(["y"], {"x": np.asarray(X, np.float32)})[0]
    return found


def attributes(model: bytes) -> dict[str, Any]:
    """The attributes of the first node, as the deployed reader has them."""
    _, _, start, end = next(f for f in fields(model, 0, len(model)) if f[0] == 7)
    _, _, first, last = next(f for f in fields(model, start, end) if f[0] == 1)
    return read_node(model, first, last).attributes


def test_a_graph_computes_what_was_written() -> None:
    graph = Graph(3)
    total = graph.node("Add", graph.x, graph.constant(np.array([1.0, 2.0, 3.0])))
    graph.node("Neg", total)  # not needed: left out
    twice = graph.node("Mul", total, graph.constant([2.0]))
    assert run(graph, twice, [[0, 1, 2]]).tolist() == [[2, 6, 10]]
    assert len(graph.model(twice).graph.node) == 2
    assert run(graph, total, [[0, 1, 2]]).tolist() == [[1, 3, 5]]


def test_the_input_itself_can_be_the_output() -> None:
    graph = Graph(2)
    assert run(graph, graph.x, [[5, 6]]).tolist() == [[5, 6]]


def test_an_output_that_is_also_used_inside_keeps_its_readers() -> None:
    graph = Graph(1)
    first = graph.node("Neg", graph.x)
    graph.node("Abs", first)
    assert run(graph, first, [[2]]).tolist() == [[-2]]


def test_several_outputs() -> None:
    graph = Graph(4)
    values, places = graph.nodes("TopK", 2, graph.x, graph.constant([2]), axis=1)
    assert values != places
    assert run(graph, values, [[3, 9, 1, 5]]).tolist() == [[9, 5]]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=40),
    st.lists(st.integers(0, 300), max_size=40),
    st.lists(FLOATS, max_size=40),
)
def test_lists_of_numbers_are_written_packed_and_read_back(
    large: list[int], small: list[int], floats: list[float]
) -> None:
    graph = Graph(1)
    numbers = {
        "large": np.array(large, np.int64),
        "small": np.array(small, np.int64),
        "floats": np.array(floats, np.float32),
    }
    model = graph.model(graph.node("Any", graph.x, graph.constant([1.0]), alpha=0.5, word="a", **numbers))
    packed = written(model)
    assert onnx.load_model_from_string(packed) == model
    assert len(packed) <= len(model.SerializeToString()) - max(0, len(small) - 4) - max(0, len(floats) - 4)
    read = attributes(packed)
    assert read["large"].tolist() == large
    assert read["small"].tolist() == small
    assert read["floats"].tolist() == numbers["floats"].tolist()
    assert (read["alpha"], read["word"]) == (0.5, "a")


def test_a_packed_list_is_read_across_the_pieces_it_is_decoded_in() -> None:
    graph, numbers = Graph(1), np.arange(0, 900_000, 7)
    packed = written(graph.model(graph.node("Any", graph.x, graph.constant([1.0]), ints=numbers)))
    read = attributes(packed)["ints"]
    assert read.dtype == np.int32
    assert read.tolist() == numbers.tolist()


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (np.arange(3), onnx.AttributeProto.INTS),
        (np.array([True, False]), onnx.AttributeProto.INTS),
        (np.array([0.5, 1.5]), onnx.AttributeProto.FLOATS),
        (np.array([b"a", b"bc"]), onnx.AttributeProto.STRINGS),
        (tensor([0.5]), onnx.AttributeProto.TENSOR),
        (3, onnx.AttributeProto.INT),
        ("SUM", onnx.AttributeProto.STRING),
    ],
)
def test_attributes_keep_their_kind(value: Any, kind: int) -> None:
    graph = Graph(1)
    out = graph.node("Identity", graph.x, thing=value, nothing=None)
    (attribute,) = graph.model(out).graph.node[0].attribute
    assert attribute.type == kind


@given(FLOATS, st.floats(allow_nan=False, allow_infinity=False))
@settings(deadline=None, max_examples=300)
def test_a_rounded_threshold_decides_as_the_exact_one(x: float, threshold: float) -> None:
    assert bool(np.float32(x) <= below(np.array([threshold]))[0]) == (x <= threshold)


@given(FLOATS, st.integers(-3, 3))
@settings(deadline=None, max_examples=300)
def test_a_rounded_threshold_decides_next_to_the_value(x: float, ulps: int) -> None:
    threshold = np.float64(x)
    for _ in range(abs(ulps)):
        threshold = np.nextafter(threshold, np.inf * ulps)
    if np.isfinite(threshold):
        assert bool(np.float32(x) <= below(np.array([threshold]))[0]) == (x <= threshold)


def grow(rng: np.random.Generator, sizes: list[int], width: int, targets: int, sets: bool, many: bool) -> Trees:
    """Random trees: each new split takes the place of a random leaf."""
    left, right, leaf_count = [], [], 0
    for size in sizes:
        child: list[list[int]] = []
        open_places: list[tuple[int, int]] = []
        for split in range(size):
            if split:
                node, side = open_places.pop(int(rng.integers(len(open_places))))
                child[node][side] = split
            child.append([0, 0])
            open_places += [(split, 0), (split, 1)]
        for leaf, (node, side) in enumerate(open_places):
            child[node][side] = -1 - leaf
        left += [pair[0] for pair in child]
        right += [pair[1] for pair in child]
        leaf_count += size + 1
    nodes = sum(sizes)
    counts = rng.integers(0, 2, nodes) * rng.choice([1, 2, 12], nodes) if sets else None
    members = (
        np.concatenate([np.empty(0, np.int64), *(rng.choice(70, n, replace=False) for n in counts)]) if sets else None
    )  # type: ignore[union-attr]
    values = rng.normal(size=(leaf_count, targets if many else 1)) * (
        rng.random((leaf_count, targets if many else 1)) < 0.7
    )
    return Trees(
        np.array(sizes),
        rng.integers(0, width, nodes),
        rng.integers(-2, 60, nodes) + 0.5,
        rng.random(nodes) < 0.5 if counts is None else (rng.random(nodes) < 0.5) & (counts == 0),
        np.array(left, np.int64),
        np.array(right, np.int64),
        values,
        None if many else rng.integers(0, targets, leaf_count),
        counts,
        np.empty(0, np.int64) if members is None else members.astype(np.int64),
    )


def walk(trees: Trees, X: NDArray[np.float32], targets: int) -> NDArray[np.float64]:
    total = np.zeros((len(X), targets))
    nodes, leaves = np.cumsum(trees.sizes) - trees.sizes, trees.leaf_offsets
    ends = np.cumsum(trees.counts) if trees.counts is not None else None
    for row, x in enumerate(X):
        for tree, size in enumerate(trees.sizes):
            at = 0 if size else -1
            while at >= 0:
                node = nodes[tree] + at
                value = float(x[trees.feature[node]])
                if trees.counts is not None and ends is not None and trees.counts[node]:
                    goes = value in trees.members[ends[node] - trees.counts[node] : ends[node]]
                else:
                    goes = bool(trees.missing_left[node]) if np.isnan(value) else value <= trees.threshold[node]
                at = int((trees.left if goes else trees.right)[node])
            leaf = leaves[tree] - 1 - at
            if trees.targets is None:
                total[row] += trees.values[leaf]
            else:
                total[row, trees.targets[leaf]] += trees.values[leaf, 0]
    return total


@given(
    st.integers(0, 2**32),
    st.lists(st.integers(0, 9), min_size=1, max_size=6),
    st.integers(1, 3),
    st.sampled_from(["plain", "sets", "many"]),
)
@settings(deadline=None, max_examples=60)
def test_trees_decide_as_a_walk(seed: int, sizes: list[int], targets: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    trees = grow(rng, sizes, 3, targets, kind == "sets", kind == "many")
    X = rng.integers(-1, 72, (40, 3)).astype(np.float32)
    X[:4] = [[np.nan, -1, 5000], [np.inf, 0, 31], [-np.inf, 32, 63], [64, 2, -7]]
    if kind == "sets":
        X[1:3] = np.where(np.isfinite(X[1:3]), X[1:3], 30)  # a category code is never infinite
    constants = rng.normal(size=targets) * (rng.random(targets) < 0.7)
    graph = Graph(3)
    found = run(graph, write(graph, graph.x, trees, targets, constants), X)
    np.testing.assert_allclose(found, walk(trees, X, targets) + constants, rtol=0, atol=1e-5)


def test_constant_rows_need_no_column() -> None:
    graph = Graph(0)
    found = run(graph, constant_rows(graph, graph.x, np.array([0.25, 0.75])), np.empty((3, 0)))
    assert found.tolist() == [[0.25, 0.75]] * 3


def test_a_large_mean_costs_no_precision() -> None:
    rng = np.random.default_rng(0)
    trees = grow(rng, [30] * 300, 3, 1, sets=False, many=False)
    X = rng.normal(size=(50, 3)).astype(np.float32) * 30
    graph = Graph(3)
    found = run(graph, write(graph, graph.x, trees, 1, np.array([1e6])), X)
    assert np.abs(found - 1e6 - walk(trees, X, 1)).max() <= 0.04  # half a float32 step at 1e6 is 0.03
