"""Columns that a fitted graph never looks at, taken out of it and of the encoder's tables: exact, and cheaper everywhere.

Trees name the columns that they split on, a product with constant weights the rows that are not zero. An entry of the
encoder goes where none of its outputs is read; an input column with its last entry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

TREES = {"TreeEnsemble": "nodes_featureids", "TreeEnsembleRegressor": "nodes_featureids"}
Mask = NDArray[np.bool_]


def prune(
    model: Any, tables: Mapping[str, Any], starts: Sequence[int]
) -> tuple[dict[str, Any], NDArray[np.int64] | None]:
    """Takes out of `model` (an `onnx.ModelProto`, changed in place) the encoder's entries of which it reads no output.

    `starts` are the entries' first outputs, and the width. Returns the tables that remain, and the positions among the
    outputs that they have; the tables as they are and None where all are read, or it isn't known which.
    """
    width = int(starts[-1])
    used = np.zeros(width, bool)
    for node in _readers(model):
        used |= _reads(model, node, width)
        if used.all():
            return dict(tables), None
    kept = [bool(used[start:stop].any()) for start, stop in pairwise(starts)]
    if not any(kept):
        kept[0] = True  # a matrix without columns has no rows to count either
    if all(kept):
        return dict(tables), None
    places = np.flatnonzero(np.repeat(kept, np.diff(starts)))
    for node in _readers(model):
        _narrow(model, node, places, width)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = len(places)
    entries = [entry for entry, keep in zip(tables["encode"], kept, strict=True) if keep]
    return {**tables, "encode": entries}, places


def _readers(model: Any) -> list[Any]:
    return [node for node in model.graph.node if "x" in node.input]


def _reads(model: Any, node: Any, width: int) -> Mask:
    """Which of the input's columns the node's output hangs on."""
    everything = np.ones(width, bool)
    if any(output.name == "x" for output in model.graph.output):
        return everything
    if node.op_type in TREES:
        return _split_on(node, width)
    if node.op_type == "Shape":  # of the rows: see trees.constant_rows
        return np.zeros(width, bool)
    if (weights := _weights(model, node)) is not None:
        return np.asarray((_array(weights) != 0).any(axis=1))
    if (index := _gathered(model, node)) is not None:
        found = np.zeros(width, bool)
        found[_array(index)] = True
        return found
    return everything


def _narrow(model: Any, node: Any, places: NDArray[np.int64], width: int) -> None:
    """Has the node read only the columns at `places`, which are all that the input has from now on."""
    after = np.zeros(width, np.int64)  # what is not read stands for the first one
    after[places] = np.arange(len(places))
    if node.op_type in TREES:
        ids = _attribute(node, TREES[node.op_type])
        ids.ints[:] = after[np.array(ids.ints, np.int64)].tolist()
    elif (weights := _weights(model, node)) is not None:
        _replace(weights, _array(weights)[places])
    elif (index := _gathered(model, node)) is not None:
        _replace(index, after[_array(index)])


def _split_on(node: Any, width: int) -> Mask:
    """The columns of the splits; those of which both sides add the same, as a constant written as a tree, are none."""
    feature = np.array(_attribute(node, TREES[node.op_type]).ints, np.int64)
    if node.op_type == "TreeEnsembleRegressor":
        splits = np.array([mode != b"LEAF" for mode in _attribute(node, "nodes_modes").strings])
    else:
        true, false, leaf_true, leaf_false = (
            np.array(_attribute(node, f"nodes_{name}").ints, np.int64)
            for name in ("truenodeids", "falsenodeids", "trueleafs", "falseleafs")
        )
        values = _array(_attribute(node, "leaf_weights").t)
        targets = np.array(_attribute(node, "leaf_targetids").ints, np.int64)
        ends = np.flatnonzero((leaf_true != 0) & (leaf_false != 0))
        a, b = true[ends], false[ends]
        splits = np.ones(len(feature), bool)
        splits[ends[(values[a] == values[b]) & (targets[a] == targets[b])]] = False
    return np.bincount(feature[splits], minlength=width).astype(bool)


def _weights(model: Any, node: Any) -> Any:
    """The constant (width, outputs) that the input is multiplied by, narrow ones by way of Cast and Mul; None if there is none."""
    flipped = any(a.name in ("transA", "transB") and a.i for a in node.attribute)
    if node.op_type not in ("Gemm", "MatMul") or flipped or node.input[0] != "x" or "x" in node.input[1:]:
        return None
    makers = {name: made for made in model.graph.node for name in made.output}
    name = node.input[1]
    while name in makers:
        if makers[name].op_type not in ("Cast", "Mul"):
            return None
        name = makers[name].input[0]
    if sum(name in other.input for other in model.graph.node) != 1:
        return None
    return _constant(model, name)


def _gathered(model: Any, node: Any) -> Any:
    """The constant positions of a Gather of the input's columns; None if it is none."""
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    if node.op_type != "Gather" or axis != 1 or node.input[0] != "x":
        return None
    if sum(node.input[1] in other.input for other in model.graph.node) != 1:
        return None
    return _constant(model, node.input[1])


def _constant(model: Any, name: str) -> Any:
    return next((tensor for tensor in model.graph.initializer if tensor.name == name), None)


def _attribute(node: Any, name: str) -> Any:
    return next(a for a in node.attribute if a.name == name)


def _array(tensor: Any) -> NDArray[Any]:
    from onnx import numpy_helper

    return np.asarray(numpy_helper.to_array(tensor))


def _replace(tensor: Any, array: NDArray[Any]) -> None:
    from onnx import numpy_helper

    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))
