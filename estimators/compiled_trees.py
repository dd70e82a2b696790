"""Tree ensembles as the arrays that `kernel.c` walks: siblings side by side, leaves that lead to themselves."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .program_trees import EQ, LEQ, Trees

LANES = 8
"""Trees that the kernel walks at a time."""
NARROW, WIDE, SETS = 0, 1, 2
"""The kernel's operations: small nodes; large ones; large ones with category sets."""
NARROW_NODE = np.dtype([("threshold", "f4"), ("slot", "u2"), ("step", "u2")])
WIDE_NODE = np.dtype([("threshold", "f4"), ("slot", "u4"), ("step", "u4"), ("set", "u4")])
TREE = np.dtype([("root", "i8"), ("target", "i8")])
MOST_BITS = 1 << 28
"""Category sets beyond this many bits (32 MB) are left to onnxruntime."""


class NotLoweredError(ValueError):
    """Why a graph cannot run on the compiled engine."""


class Layout(NamedTuple):
    """`operation` is one of NARROW, WIDE and SETS; a slot is a `column` with its `kind` (1: NaN takes the first child, 2: a
    category column) and its `last` code; `leaves` are the rows of leaves with several numbers, with `base` at `base_at`
    (0: there is none); `scale` is what the trees' sum is multiplied by.
    """

    operation: int
    nodes: NDArray[Any]
    trees: NDArray[Any]
    column: NDArray[np.int32]
    kind: NDArray[np.int32]
    last: NDArray[np.int32]
    sets: NDArray[np.uint32]
    leaves: NDArray[np.float32]
    base_at: int
    scale: float


class _Placed(NamedTuple):
    """Every node of every tree: its split (or -1 - leaf), its tree, its place in it, and how far on its children are;
    and the mean depth of each tree's leaves.
    """

    code: NDArray[np.int64]
    tree: NDArray[np.int64]
    place: NDArray[np.int64]
    step: NDArray[np.int64]
    mean: NDArray[np.float64]


def lay_out(trees: Trees, width: int) -> Layout:
    """The layout of an ensemble over `width` columns. Raises NotLoweredError."""
    if trees.aggregate not in ("sum", "average"):
        raise NotLoweredError(f"a tree ensemble takes the {trees.aggregate} of its trees")
    if trees.splits and int(trees.feature.max()) >= width:
        raise NotLoweredError("a tree splits on a column that is not there")
    if not np.isfinite(trees.value).all():
        raise NotLoweredError("a leaf is not finite")
    placed, count = _place(trees), len(trees.roots)
    leaf = placed.code < 0
    sizes = np.bincount(placed.tree, minlength=count)
    order = np.argsort(placed.mean, kind="stable")  # trees that are walked together end at about the same time
    start = np.empty(count, np.int64)
    start[order] = np.cumsum(sizes[order]) - sizes[order]
    at = start[placed.tree] + placed.place

    split, splits = placed.code[~leaf], at[~leaf]
    slot_of, column, kind, last, sets, set_of = _slots(trees)
    slots = len(column)
    single, targets = _targets(trees, placed, leaf, count)
    small = not len(set_of) and slots < 65535 and int(placed.step.max(initial=0)) < 65535
    padding = -count % LANES
    nodes = np.zeros(
        len(at) + 1, NARROW_NODE if small else WIDE_NODE
    )  # the last is the leaf of trees that fill a group
    nodes["slot"] = slots
    nodes["slot"][splits], nodes["step"][splits] = slot_of[split], placed.step[~leaf]
    nodes["threshold"][splits] = np.where(trees.mode[split] == LEQ, trees.threshold[split], np.float32(0))
    if len(set_of):
        nodes["set"][splits] = set_of[split]
    numbers, leaves = -1 - placed.code[leaf], np.zeros(1, np.float32)
    if single:
        nodes["threshold"][at[leaf]] = trees.value[trees.entry[numbers]]
    else:
        rows = np.zeros((trees.leaves + 1, trees.outputs), np.float32)
        owner = np.repeat(np.arange(trees.leaves), np.diff(trees.entry))
        np.add.at(rows, (owner, trees.target), trees.value)
        bits = np.ascontiguousarray(nodes["threshold"]).view(np.int32)
        bits[at[leaf]], bits[-1] = numbers, trees.leaves
        nodes["threshold"] = bits.view(np.float32)
        leaves = rows.reshape(-1)
    table = np.zeros(count + padding, TREE)
    table["root"], table["target"] = len(at), 0 if single else -1
    table["root"][:count], table["target"][:count] = start[order], targets[order]
    base_at = len(leaves) if trees.base.any() else 0
    return Layout(
        SETS if len(set_of) else NARROW if small else WIDE,
        nodes,
        table,
        column,
        kind,
        last,
        sets,
        np.concatenate([leaves, trees.base]).astype(np.float32),
        base_at,
        1.0 / count if trees.aggregate == "average" else 1.0,
    )


def _place(trees: Trees) -> _Placed:
    """Level by level, all trees at once: the places of a split's children follow those of its tree's nodes before."""
    count = len(trees.roots)
    free = np.ones(count, np.int64)  # of each tree, the next place
    code, tree, place = trees.roots.astype(np.int32), np.arange(count, dtype=np.int32), np.zeros(count, np.int32)
    leaves, depths = np.zeros(count), np.zeros(count)
    found: list[tuple[NDArray[Any], ...]] = []
    total, most, depth = 0, 4 * (trees.splits + trees.leaves) + 4 * count, 0
    while len(code):
        total += len(code)
        if total > most:
            raise NotLoweredError("splits of a tree have several parents each")
        split = code >= 0
        parents, owner = code[split], tree[split]
        first = np.searchsorted(owner, owner)  # owners ascend: the rank of a split among its tree's
        children = free[owner] + 2 * (np.arange(len(owner)) - first)
        free += 2 * np.bincount(owner, minlength=count)
        step = np.zeros(len(code), np.int32)
        step[split] = children - place[split]
        found.append((code, tree, place, step))
        ended = np.bincount(tree[~split], minlength=count)
        leaves, depths = leaves + ended, depths + depth * ended
        code = np.column_stack([trees.true[parents], trees.false[parents]]).reshape(-1).astype(np.int32)
        tree = np.repeat(owner, 2)
        place = np.column_stack([children, children + 1]).reshape(-1).astype(np.int32)
        depth += 1
    codes, owners, places, steps = (np.concatenate([parts[i] for parts in found]) for i in range(4))
    return _Placed(codes, owners, places, steps, depths / leaves)


def _targets(trees: Trees, placed: _Placed, leaf: NDArray[np.bool_], count: int) -> tuple[bool, NDArray[np.int64]]:
    """(whether each leaf has one number, for one target in all of its tree, that target or -1 of each tree)."""
    if not (np.diff(trees.entry) == 1).all():
        return False, np.full(count, -1)
    target, owner = trees.target[trees.entry[-1 - placed.code[leaf]]], placed.tree[leaf]
    low, high = np.full(count, trees.outputs), np.full(count, -1)
    np.minimum.at(low, owner, target)
    np.maximum.at(high, owner, target)
    return (True, low) if (low == high).all() else (False, np.full(count, -1))


def _slots(trees: Trees) -> tuple[NDArray[Any], ...]:
    """(each split's slot; each slot's column, kind and last code; the sets' words; where each split's set begins)."""
    category = trees.mode != LEQ
    key = trees.feature.astype(np.int64) * 4 + 2 * category + trees.missing
    distinct, slot_of = np.unique(key, return_inverse=True)
    column, kind = (distinct // 4).astype(np.int32), (distinct % 4).astype(np.int32)
    last = np.zeros(len(distinct), np.int32)
    if not category.any():
        return slot_of, column, kind, last, np.zeros(1, np.uint32), np.empty(0, np.int64)
    owner = np.flatnonzero(category)
    equal = trees.mode[owner] == EQ
    sizes = np.where(equal, 1, trees.last[owner] - trees.first[owner])
    each = np.repeat(owner, sizes)
    place = trees.first[each] + np.arange(len(each)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    listed = trees.members if len(trees.members) else np.zeros(1, np.float32)
    codes = np.where(np.repeat(equal, sizes), trees.threshold[each], listed[np.minimum(place, len(listed) - 1)])
    if ((codes < -1) | (codes != np.floor(codes)) | (codes >= 1 << 24)).any():
        raise NotLoweredError("a set of categories holds what is no code")
    whole = codes.astype(np.int64)
    top = np.zeros(int(trees.feature.max()) + 1, np.int64)
    np.maximum.at(top, trees.feature[each], whole)
    last[:] = top[column]
    # the bit after the last is that of no code, and the next one that of -1
    words = (top[trees.feature[owner]] + 2) // 32 + 1
    whole = np.where(whole < 0, top[trees.feature[each]] + 2, whole)
    if 32 * int(words.sum()) > MOST_BITS:
        raise NotLoweredError("its sets of categories are too large")
    starts = 1 + np.cumsum(words) - words
    sets = np.zeros(1 + int(words.sum()), np.uint32)
    set_of = np.zeros(trees.splits, np.int64)
    set_of[owner] = starts
    np.bitwise_or.at(sets, set_of[each] + whole // 32, np.uint32(1) << (whole % 32).astype(np.uint32))
    return slot_of, column, kind, last, sets, set_of
