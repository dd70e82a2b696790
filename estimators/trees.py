"""Tree ensembles as flat arrays, and their ONNX form.

Two operators carry them. `TreeEnsemble` (ai.onnx.ml 5) where a leaf adds to one target: boosted trees, and the forests of
two classes or one value; it is the smaller (about 25 bytes a node) and has set membership for category splits. The older
`TreeEnsembleRegressor` (ai.onnx.ml 3) where a leaf carries a value for each of several classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .graph import Graph, below, tensor

LEQ, EQ, MEMBER = 0, 4, 6
"""Node modes of `TreeEnsemble`."""
LARGE = 16.0
"""The margin of a class is nearly never beyond: a probability of 1e-7."""


@dataclass(frozen=True)
class Trees:
    """Binary trees, node arrays of one tree after another; tree t has `sizes[t]` splits and `sizes[t] + 1` leaves.

    `left`, `right`: the child's number within its tree, a split where 0 or more, else leaf -1 - number; the root is split 0.
    A row goes left where `x[feature] <= threshold` (float64), where x is missing and `missing_left`, or, where `counts` is
    not 0, where x is one of the split's `counts` category codes (`members`, one split's after another; anything else,
    unknown codes included, goes right).
    `values` (leaves, k) is what a leaf adds: with `targets` (leaves,) its one value (k = 1) to that target, otherwise value
    j to target j.
    """

    sizes: NDArray[np.int64]
    feature: NDArray[np.int64]
    threshold: NDArray[np.float64]
    missing_left: NDArray[np.bool_]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    values: NDArray[np.float64]
    targets: NDArray[np.int64] | None = None
    counts: NDArray[np.int64] | None = None
    members: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def leaf_offsets(self) -> NDArray[np.int64]:
        """The number of each tree's first leaf."""
        return np.cumsum(self.sizes + 1) - (self.sizes + 1)


def steadied(trees: Trees, constants: NDArray[np.float64]) -> tuple[Trees, NDArray[np.float64]]:
    """The same sums of trees and `constants` (width,), of which float32 loses nothing by a few trees with runaway leaves (of a
    rare class, by Newton steps without a penalty).

    A sum that passes through 9,000 and ends near 0 is rounded by 5e-4 on its way. So each tree with a leaf beyond LARGE is
    written twice: first with multiples of one power of two, of which float32 sums are exact in any order, and among the others
    with what is left of its leaves. A constant that goes with such trees is shared between the two in the same way.
    """
    if trees.targets is None:
        return trees, constants
    leaf_tree = np.repeat(np.arange(len(trees.sizes)), trees.sizes + 1)
    largest = np.zeros(len(trees.sizes))
    np.maximum.at(largest, leaf_tree, np.abs(trees.values[:, 0]))
    large = (largest > LARGE) & (trees.sizes > 0)
    if not large.any():
        return trees, constants
    targets = trees.targets[trees.leaf_offsets]
    reach = np.bincount(targets[large], largest[large], len(constants))
    step = 2.0 ** (np.ceil(np.log2((reach + np.abs(constants)).max())) - 23)  # float32 has 24 bits
    nodes, leaves = np.repeat(large, trees.sizes), large[leaf_tree]
    coarse = np.where(leaves[:, None], np.round(trees.values / step) * step, 0.0)
    fine, early = trees.values - coarse, np.where(reach > 0.0, np.round(constants / step) * step, 0.0)
    _, first = np.unique(targets[large], return_index=True)
    carriers = np.flatnonzero(large)[first]  # one tree of each such target adds its constant
    coarse[:, 0] += np.where(np.isin(leaf_tree, carriers), early[trees.targets], 0.0)
    twice = {
        name: np.concatenate([getattr(trees, name), getattr(trees, name)[nodes]])
        for name in ("feature", "threshold", "missing_left", "left", "right")
    }
    counts, members = trees.counts, trees.members
    if counts is not None:
        members = np.concatenate([members, members[np.repeat(nodes, counts)]])
        counts = np.concatenate([counts, counts[nodes]])
    steady = Trees(  # the last are the first to be summed
        **twice,
        sizes=np.concatenate([trees.sizes, trees.sizes[large]]),
        values=np.concatenate([fine, coarse[leaves]]),
        targets=np.concatenate([trees.targets, trees.targets[leaves]]),
        counts=counts,
        members=members,
    )
    return steady, constants - early


def write(graph: Graph, x: str, trees: Trees, width: int, constants: NDArray[np.float64]) -> str:
    """Writes `constants` (width,) plus the sum of the trees; returns the name of the (n, width) output.

    The sums are float32 in the order of the trees, last to first, constants at the end: a boosted model's small late
    corrections meet before its large early ones, and a large mean is added once.
    """
    if not (trees.sizes > 0).any():
        return constant_rows(graph, x, _fold(trees, constants))
    if trees.values.shape[1] == 1:
        return _write_single(graph, x, trees, width, _fold(trees, constants))
    return _write_many(graph, x, trees, width, _fold(trees, constants))


def constant_rows(graph: Graph, x: str, values: NDArray[np.float64]) -> str:
    """(n, k) rows that are all `values` (k,), whatever the input (NaN or no column at all included)."""
    rows = graph.node("Shape", x, start=0, end=1)
    shape = graph.node("Concat", rows, graph.constant([1]), axis=0)
    return graph.node("Expand", graph.constant(values.reshape(1, -1)), shape)


def _fold(trees: Trees, constants: NDArray[np.float64]) -> NDArray[np.float64]:
    """The constants, with the trees that are one leaf."""
    total = np.array(constants, np.float64)
    alone = trees.leaf_offsets[trees.sizes == 0]
    if trees.targets is None:
        return np.asarray(total + trees.values[alone].sum(axis=0))
    np.add.at(total, trees.targets[alone], trees.values[alone, 0])
    return total


def _write_single(graph: Graph, x: str, trees: Trees, width: int, constants: NDArray[np.float64]) -> str:
    nodes = int(trees.sizes.sum())
    first_node = np.repeat(np.cumsum(trees.sizes) - trees.sizes, trees.sizes)
    first_leaf = np.repeat(trees.leaf_offsets, trees.sizes)
    extra = np.flatnonzero(constants)  # one tree of depth one for each: both leaves hold the constant
    leaves = len(trees.values) + 2 * np.arange(len(extra))
    modes, splits, members = _modes(trees)
    missing = np.concatenate([trees.missing_left, np.zeros(len(extra), np.bool_)])
    roots = (np.cumsum(trees.sizes) - trees.sizes)[trees.sizes > 0][::-1]
    targets = np.zeros(len(trees.values), np.int64) if trees.targets is None else trees.targets
    more = np.zeros(len(extra), np.int64)
    return graph.node(
        "TreeEnsemble",
        x,
        domain="ai.onnx.ml",
        n_targets=width,
        aggregate_function=1,
        post_transform=0,
        tree_roots=np.concatenate([roots, nodes + np.arange(len(extra))]),
        nodes_featureids=np.concatenate([trees.feature, more]),
        nodes_splits=tensor(np.concatenate([splits, more])),
        nodes_modes=tensor(np.concatenate([modes, more]).astype(np.uint8)),
        nodes_truenodeids=np.concatenate([_child(trees.left, first_node, first_leaf), leaves]),
        nodes_falsenodeids=np.concatenate([_child(trees.right, first_node, first_leaf), leaves + 1]),
        nodes_trueleafs=np.concatenate([trees.left < 0, more + 1]).astype(np.int64),
        nodes_falseleafs=np.concatenate([trees.right < 0, more + 1]).astype(np.int64),
        nodes_missing_value_tracks_true=missing.astype(np.int64) if missing.any() else None,
        membership_values=tensor(members) if len(members) else None,
        leaf_targetids=np.concatenate([targets, np.repeat(extra, 2)]),
        leaf_weights=tensor(np.concatenate([trees.values[:, 0], np.repeat(constants[extra], 2)])),
    )


def _child(child: NDArray[np.int64], first_node: NDArray[np.int64], first_leaf: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.where(child >= 0, child + first_node, -1 - child + first_leaf)


def _modes(trees: Trees) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """(mode, split value, membership values) of every split; a set of one category is an equality."""
    splits = below(trees.threshold)
    if trees.counts is None:
        return np.zeros(len(splits), np.int64), splits, np.empty(0, np.float32)
    modes = np.where(trees.counts == 0, LEQ, np.where(trees.counts == 1, EQ, MEMBER))
    first = np.cumsum(trees.counts) - trees.counts
    splits[modes == EQ] = trees.members[first[modes == EQ]]
    kept = np.repeat(modes == MEMBER, trees.counts)
    ends = np.cumsum(trees.counts[modes == MEMBER])
    members = np.insert(trees.members[kept].astype(np.float32), ends, np.float32(np.nan))  # each set ends with a NaN
    return modes, splits, members


def _write_many(graph: Graph, x: str, trees: Trees, width: int, constants: NDArray[np.float64]) -> str:
    """Leaves of several targets, or of one each: `TreeEnsembleRegressor`, nodes numbered within their tree, its splits
    before its leaves. A category set is a chain of equalities that share what they lead to, as onnxruntime understands it.
    """
    tree = np.arange(len(trees.sizes))
    size = np.repeat(trees.sizes, trees.sizes)
    node_tree, leaf_tree = np.repeat(tree, trees.sizes), np.repeat(tree, trees.sizes + 1)
    node_id = np.arange(len(node_tree)) - np.repeat(np.cumsum(trees.sizes) - trees.sizes, trees.sizes)
    leaf_id = np.arange(len(leaf_tree)) - np.repeat(trees.leaf_offsets - trees.sizes, trees.sizes + 1)
    kept = trees.sizes[leaf_tree] > 0
    owner, numbers, false, sets, splits = _chains(
        trees, node_tree, node_id, np.where(trees.right >= 0, trees.right, size - 1 - trees.right)
    )
    order = np.argsort(np.concatenate([node_tree[owner], leaf_tree[kept]]), kind="stable")
    none = np.zeros(int(kept.sum()), np.int64)

    def arranged(nodes: NDArray[Any], leaves: NDArray[Any] = none) -> NDArray[Any]:
        return np.concatenate([nodes, leaves])[order]

    if trees.targets is None:
        filled = trees.values != 0
        filled[~filled.any(axis=1), 0] = True  # onnxruntime wants a target of every leaf
        leaf, column = np.nonzero(filled & kept[:, None])
        target = column
    else:
        leaf = np.flatnonzero(kept)
        column, target = np.zeros(len(leaf), np.int64), trees.targets[leaf]
    missing = arranged(trees.missing_left[owner])
    modes = np.concatenate([np.where(sets, b"BRANCH_EQ", b"BRANCH_LEQ"), np.full(len(none), b"LEAF")])
    total = graph.node(
        "TreeEnsembleRegressor",
        x,
        domain="ai.onnx.ml",
        n_targets=width,
        nodes_treeids=arranged(node_tree[owner], leaf_tree[kept]),
        nodes_nodeids=arranged(numbers, leaf_id[kept]),
        nodes_modes=modes[order],
        nodes_featureids=arranged(trees.feature[owner]),
        nodes_values=arranged(splits),
        nodes_truenodeids=arranged(np.where(trees.left >= 0, trees.left, size - 1 - trees.left)[owner]),
        nodes_falsenodeids=arranged(false),
        nodes_missing_value_tracks_true=missing if missing.any() else None,
        target_treeids=leaf_tree[leaf],
        target_nodeids=leaf_id[leaf],
        target_ids=target,
        target_weights=trees.values[leaf, column],
    )
    # not its base_values: onnxruntime leaves them out of a target that no leaf of the row has added to
    return graph.node("Add", total, graph.constant(constants)) if constants.any() else total


def _chains(
    trees: Trees, node_tree: NDArray[np.int64], node_id: NDArray[np.int64], false: NDArray[np.int64]
) -> tuple[NDArray[Any], ...]:
    """Every split once, and one of k category codes k times in a row, each testing one and leading on to the next.

    (the split behind each, its number within its tree, where it leads if untrue, whether it tests a code, its value).
    """
    counts = np.zeros(len(node_id), np.int64) if trees.counts is None else trees.counts
    length = np.maximum(counts, 1)
    owner = np.repeat(np.arange(len(length)), length)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(length) - length, length)
    further = place > 0  # their numbers follow those of the tree's leaves
    more = np.bincount(node_tree, length - 1, len(trees.sizes)).astype(np.int64)
    rank = np.cumsum(further) - 1 - (np.cumsum(more) - more)[node_tree[owner]]
    numbers = np.where(further, 2 * trees.sizes[node_tree[owner]] + 1 + rank, node_id[owner])
    leads = np.where(np.append(further[1:], False), np.append(numbers[1:], 0), false[owner])
    sets, splits = counts[owner] > 0, below(trees.threshold)[owner]
    splits[sets] = trees.members
    return owner, numbers, leads, sets, splits


# -- one version for several graphs ------------------------------------------------------------------------------------


def of_one_version(models: Sequence[Any]) -> None:
    """Brings `onnx.ModelProto`s that are to become one graph to one version of `ai.onnx.ml`, in place.

    Where both operators occur the newer one is written as the older: a graph has a single version, in which the other
    operator does not exist.
    """
    names = {node.op_type for model in models for node in model.graph.node}
    if not {"TreeEnsemble", "TreeEnsembleRegressor"} <= names:
        return
    for model in models:
        for node in model.graph.node:
            if node.op_type == "TreeEnsemble":
                node.CopyFrom(_older(node))


def _older(node: Any) -> Any:
    """The `TreeEnsembleRegressor` that says what a `TreeEnsemble` of `_write_single` says, its trees in the same order."""
    from onnx import helper, numpy_helper

    read: dict[str, Any] = {}
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        read[attribute.name] = numpy_helper.to_array(value) if hasattr(value, "raw_data") else np.asarray(value)
    roots = read["tree_roots"]
    starts = np.sort(roots)
    ends = dict(zip(starts.tolist(), [*starts[1:].tolist(), len(read["nodes_modes"])], strict=True))
    spans = [(start, ends[start]) for start in roots.tolist()]
    sizes = np.array([end - start for start, end in spans])
    order = np.concatenate([np.arange(start, end) for start, end in spans])
    base = np.repeat(roots, sizes)
    children = [
        (read[f"nodes_{side}nodeids"][order], read[f"nodes_{side}leafs"][order] != 0) for side in ("true", "false")
    ]
    # a tree's leaves stand together as well: its first is the smallest that a split of it names
    smallest = [np.where(leaf, ids, np.iinfo(np.int64).max) for ids, leaf in children]
    lowest = np.minimum.reduceat(np.minimum(*smallest), np.cumsum(sizes) - sizes)
    first = np.repeat(lowest, sizes)
    left, right = (np.where(leaf, -1 - (ids - first), ids - base) for ids, leaf in children)
    leaves = np.concatenate([np.arange(low, low + size + 1) for low, size in zip(lowest, sizes, strict=True)])
    counts, members = _members(read, order)
    missing = read.get("nodes_missing_value_tracks_true", np.zeros(len(order), np.int64))
    trees = Trees(
        sizes=sizes,
        feature=read["nodes_featureids"][order],
        threshold=read["nodes_splits"][order].astype(np.float64),
        missing_left=missing[order] != 0,
        left=left,
        right=right,
        values=read["leaf_weights"][leaves].astype(np.float64).reshape(-1, 1),
        targets=read["leaf_targetids"][leaves],
        counts=counts,
        members=members,
    )
    width = int(read["n_targets"])
    scratch = Graph(0)
    written = scratch.model(_write_many(scratch, node.input[0], trees, width, np.zeros(width))).graph.node[0]
    written.output[:] = list(node.output)
    return written


def _members(read: dict[str, Any], order: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(how many category codes each split tests, the codes of one split after another), the splits in this order."""
    modes = read["nodes_modes"]
    listed = read.get("membership_values", np.empty(0, np.float32))
    ends = np.flatnonzero(np.isnan(listed))  # a set ends with a NaN
    counts = (modes == EQ).astype(np.int64)
    counts[modes == MEMBER] = np.diff(ends, prepend=-1) - 1
    each = np.repeat(modes, counts)
    codes = np.empty(len(each), np.int64)
    codes[each == EQ] = read["nodes_splits"][modes == EQ]
    codes[each == MEMBER] = listed[~np.isnan(listed)]
    first, sizes = (np.cumsum(counts) - counts)[order], counts[order]
    return sizes, codes[np.repeat(first - (np.cumsum(sizes) - sizes), sizes) + np.arange(len(codes))]
