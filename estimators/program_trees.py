"""Tree ensembles of a graph, whichever operator of `ai.onnx.ml` they were written with, as one kind of flat arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .protobuf import MODES, ArtifactError

LEQ, EQ, MEMBER = 0, 4, 6
"""What a split of `Trees` asks of the feature: at most its threshold, equal to it, or one of its members."""
_LT, _GTE, _GT, _NEQ = 1, 2, 3, 5
_LEAF = 7
MOST_LEVELS = 100_000
"""A tree deeper than this is taken for a circle."""
_AGGREGATES = ("average", "sum", "min", "max")


class Trees(NamedTuple):
    """A tree ensemble: splits and leaves of all trees, each in one row of arrays.

    A row of x goes to the `true` child of a split where `x[feature]` is at most the `threshold` (mode LEQ), equals it (EQ),
    or is one of the `members[first:last]` (MEMBER), and where it is NaN and `missing` is set; else to the `false`
    one. Comparisons are in float32, and NaN is equal to nothing. A child is a split's number, or -1 - number for a leaf;
    `roots` are children in that sense, one a tree. A leaf adds `value[e]` to the output `target[e]` for its entries e, from
    `entry[leaf]` to `entry[leaf + 1]`. `aggregate` (sum, average, min or max) joins the trees' values of each of `outputs`
    targets; `base` (outputs,) is added in the end. No split is its own descendant; a split may have several parents.
    """

    feature: NDArray[np.int64]
    mode: NDArray[np.uint8]
    threshold: NDArray[np.float32]
    missing: NDArray[np.bool_]
    true: NDArray[np.int64]
    false: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    members: NDArray[np.float32]
    roots: NDArray[np.int64]
    entry: NDArray[np.int64]
    target: NDArray[np.int64]
    value: NDArray[np.float32]
    outputs: int
    aggregate: str
    base: NDArray[np.float32]

    @property
    def splits(self) -> int:
        return len(self.feature)

    @property
    def leaves(self) -> int:
        return len(self.entry) - 1


def _array(attributes: dict[str, Any], name: str, dtype: Any, length: int | None = None) -> NDArray[Any]:
    """A list or a tensor among the attributes, of this length; zeros where it is left out and the length is known."""
    value = attributes.pop(name, None)  # each is read once, and then its memory is free
    if value is None or (isinstance(value, np.ndarray) and not value.size and length):
        if length is None:
            raise ArtifactError(f"the graph is corrupt: a tree ensemble has no {name}")
        return np.zeros(length, dtype)
    array = np.asarray(value).reshape(-1)
    if array.dtype.kind not in "fiub":
        raise ArtifactError(f"the graph is corrupt: {name} are no numbers")
    if length is not None and len(array) != length:
        raise ArtifactError(f"the graph is corrupt: {len(array)} {name} for {length} nodes")
    if dtype == np.int64 and array.dtype == np.int32:
        return array  # as wide as they need to be
    with np.errstate(over="ignore"):
        return array.astype(dtype, copy=False)


def newer(attributes: dict[str, Any]) -> Trees:
    """`TreeEnsemble` of ai.onnx.ml 5."""
    feature = _array(attributes, "nodes_featureids", np.int64)
    count = len(feature)
    mode = _array(attributes, "nodes_modes", np.int64, count)
    if ((mode < 0) | (mode > MEMBER)).any():
        raise ArtifactError("the graph is corrupt: a split has an unknown mode")
    leaf_target = _array(attributes, "leaf_targetids", np.int64)
    leaf_value = _array(attributes, "leaf_weights", np.float32, len(leaf_target))

    def child(side: str) -> NDArray[np.int64]:
        ids = _array(attributes, f"nodes_{side}nodeids", np.int64, count)
        leaf = _array(attributes, f"nodes_{side}leafs", np.int64, count) != 0
        if (ids < 0).any() or (ids >= np.where(leaf, len(leaf_target), count)).any():
            raise ArtifactError("the graph is corrupt: a split leads to a node that does not exist")
        return np.where(leaf, -1 - ids, ids)

    listed = _array(attributes, "membership_values", np.float32, 0 if "membership_values" not in attributes else None)
    ends = np.flatnonzero(np.isnan(listed))  # a set ends with a NaN
    sets = np.flatnonzero(mode == MEMBER)
    if len(ends) != len(sets):
        raise ArtifactError(f"the graph is corrupt: {len(ends)} sets of categories for {len(sets)} splits")
    first, last = np.zeros(count, np.int64), np.zeros(count, np.int64)
    first[sets], last[sets] = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends, ends
    if attributes.get("post_transform", 0) not in (0, "NONE"):
        raise ArtifactError("the graph is refused: a tree ensemble transforms its sums, which is not read")
    outputs = int(attributes.get("n_targets", 0))
    splits = _Splits(
        feature,
        mode,
        _array(attributes, "nodes_splits", np.float32, count),
        _array(attributes, "nodes_missing_value_tracks_true", np.int64, count) != 0,
        child("true"),
        child("false"),
        first,
        last,
        listed,
    )
    return _checked(
        splits,
        _array(attributes, "tree_roots", np.int64),
        np.arange(len(leaf_target) + 1),
        leaf_target,
        leaf_value,
        outputs,
        _aggregate(int(attributes.get("aggregate_function", 1))),
        np.zeros(outputs, np.float32),
    )


def _aggregate(number: int) -> str:
    if not 0 <= number < len(_AGGREGATES):
        raise ArtifactError(f"the graph is corrupt: {number} is no aggregate function")
    return _AGGREGATES[number]


def older(attributes: dict[str, Any]) -> Trees:
    """`TreeEnsembleRegressor` of ai.onnx.ml 3: nodes are named by their tree and their number in it, leaves among them."""
    tree = _array(attributes, "nodes_treeids", np.int64)
    count = len(tree)
    number = _array(attributes, "nodes_nodeids", np.int64, count)
    mode = _modes(attributes, count)
    stride = int(max(number.max(initial=0), 0)) + 1
    if (tree < 0).any() or (number < 0).any() or int(tree.max(initial=0)) * stride >= 1 << 62:
        raise ArtifactError("the graph is corrupt: a node's number is out of range")
    keys = tree.astype(np.int64) * stride + number
    in_order = bool((keys[1:] > keys[:-1]).all())
    order = np.arange(count) if in_order else np.argsort(keys, kind="stable")
    ordered = keys if in_order else keys[order]
    if (ordered[1:] == ordered[:-1]).any():
        raise ArtifactError("the graph is corrupt: two nodes have one number")

    def place(trees: NDArray[np.int64], numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        wanted = trees.astype(np.int64) * stride + numbers
        at = np.searchsorted(ordered, wanted)
        inside = (numbers >= 0) & (numbers < stride) & (at < count)
        if not (inside & (ordered[np.minimum(at, count - 1)] == wanted)).all():
            raise ArtifactError("the graph is corrupt: a split leads to a node that does not exist")
        return order[at]

    leaf = mode == _LEAF
    code = np.where(leaf, -np.cumsum(leaf), np.cumsum(~leaf) - 1)  # a child's number
    split = ~leaf

    def child(side: str) -> NDArray[np.int64]:
        numbers = _array(attributes, f"nodes_{side}nodeids", np.int64, count)[split]
        return code[place(tree[split], numbers)] if len(numbers) else numbers

    entries = place(_array(attributes, "target_treeids", np.int64), _array(attributes, "target_nodeids", np.int64))
    target = _array(attributes, "target_ids", np.int64, len(entries))
    value = _array(attributes, "target_weights", np.float32, len(entries))
    kept = np.flatnonzero(leaf[entries])
    by_leaf = -1 - code[entries[kept]]
    arranged = kept[np.argsort(by_leaf, kind="stable")]
    outputs = int(attributes.get("n_targets", 1))
    if attributes.get("post_transform", "NONE") != "NONE":
        raise ArtifactError("the graph is refused: a tree ensemble transforms its sums, which is not read")
    trees, aggregate = np.unique(tree, return_index=True)[1], str(attributes.get("aggregate_function", "SUM")).lower()
    if aggregate not in _AGGREGATES:
        raise ArtifactError(f"the graph is corrupt: {aggregate!r} is no aggregate function")
    none = np.zeros(int(split.sum()), np.int64)
    splits = _Splits(
        _array(attributes, "nodes_featureids", np.int64, count)[split],
        mode[split],
        _array(attributes, "nodes_values", np.float32, count)[split],
        _array(attributes, "nodes_missing_value_tracks_true", np.int64, count)[split] != 0,
        child("true"),
        child("false"),
        none,
        none,
        np.empty(0, np.float32),
    )
    return _checked(
        splits,
        code[np.sort(trees)],
        np.concatenate([[0], np.cumsum(np.bincount(by_leaf, minlength=int(leaf.sum())))]),
        target[arranged],
        value[arranged],
        outputs,
        aggregate,
        _array(attributes, "base_values", np.float32, outputs),
    )


def _modes(attributes: dict[str, Any], count: int) -> NDArray[np.int64]:
    """The modes of a forest as numbers; they were read as words."""
    modes = attributes.get("nodes_modes")
    if isinstance(modes, list):
        unknown = next(word for word in modes if word.encode() not in MODES)
        raise ArtifactError(f"the graph is corrupt: {unknown!r} is no mode of a node")
    if not isinstance(modes, np.ndarray) or len(modes) != count:
        raise ArtifactError("the graph is corrupt: a tree ensemble has not as many modes as nodes")
    return modes.astype(np.int64)


def _checked(
    parts: _Splits,
    roots: NDArray[np.int64],
    entry: NDArray[np.int64],
    target: NDArray[np.int64],
    value: NDArray[np.float32],
    outputs: int,
    aggregate: str,
    base: NDArray[np.float32],
) -> Trees:
    """The `Trees`, with modes LEQ, EQ and MEMBER alone, sets for chains of equalities, and nothing that no row can reach."""
    if (roots >= len(parts.feature)).any() or (roots < -(len(entry) - 1)).any():
        raise ArtifactError("the graph is corrupt: a tree's root does not exist")
    if (parts.feature < 0).any() or ((target < 0) | (target >= outputs)).any():
        raise ArtifactError("the graph is corrupt: a split's feature or a leaf's target is out of range")
    if np.isnan(parts.threshold[parts.mode != MEMBER]).any():
        raise ArtifactError("the graph is corrupt: a split has no threshold")
    parts = _simpler(parts)
    # before the sets: a circle that no row can reach would have no end either
    parts, roots = _kept(parts, roots, _reached(parts, roots))
    parts = _with_sets(parts)
    parts, roots = _kept(parts, roots, _reached(parts, roots))
    return Trees(
        *parts._replace(mode=parts.mode.astype(np.uint8)), roots, entry, target, value, outputs, aggregate, base
    )


def _simpler(parts: _Splits) -> _Splits:
    """The same decisions with the modes LEQ, EQ and MEMBER alone."""
    mode, threshold, missing = parts.mode, parts.threshold, parts.missing
    under = (mode == _LT) | (mode == _GTE)  # x < t is x <= the number before t
    with np.errstate(over="ignore"):  # under the least number there is only -inf
        threshold = np.where(under, np.nextafter(threshold, np.float32(-np.inf)), threshold).astype(np.float32)
    turned = (mode == _GT) | (mode == _GTE) | (mode == _NEQ)  # the negation, so that true and false change places
    true, false = np.where(turned, parts.false, parts.true), np.where(turned, parts.true, parts.false)
    # NaN fails every comparison but !=, and then goes true where it is missing_value_tracks_true
    missing = np.where(turned & (mode != _NEQ), ~missing, np.where(turned, False, missing))
    mode = np.where((mode == EQ) | (mode == _NEQ), EQ, np.where(mode == MEMBER, MEMBER, LEQ))
    return parts._replace(mode=mode, threshold=threshold, missing=missing, true=true, false=false)


class _Splits(NamedTuple):
    feature: NDArray[np.int64]
    mode: NDArray[Any]
    threshold: NDArray[np.float32]
    missing: NDArray[np.bool_]
    true: NDArray[np.int64]
    false: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    members: NDArray[np.float32]


def _reached(parts: _Splits, roots: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which splits a row can reach. Raises ArtifactError where the splits go round in a circle."""
    count = len(parts.feature)
    reached, place = np.zeros(count, np.bool_), np.zeros(count, np.int32)
    parents = np.zeros(count, np.int32)
    for children in (parts.true, parts.false, roots):
        parents += np.bincount(children[children >= 0], minlength=count).astype(np.int32)
    a_tree = not (parents > 1).any()  # no circle is reached without a split that has two parents
    level = roots[roots >= 0]
    for _ in range(min(count, MOST_LEVELS) + 1):
        if not len(level):
            return reached
        reached[level] = True
        below = np.concatenate([parts.true[level], parts.false[level]])
        level = below[below >= 0]
        if not a_tree:  # each once
            order = np.arange(len(level), dtype=np.int32)
            place[level] = order
            level = level[place[level] == order]
    raise ArtifactError("the graph is corrupt: the splits of a tree go round in a circle")


def _with_sets(parts: _Splits) -> _Splits:
    """Chains of equalities of one feature that lead to one place (the older operator's way to write a set) as one set."""
    after = np.maximum(parts.false, 0)
    link = (parts.mode == EQ) & (parts.false >= 0) & (parts.mode[after] == EQ) if len(after) else parts.mode == EQ
    for array in (parts.feature, parts.true, parts.missing):
        link &= array == array[after]
    followed = np.bincount(after[link], minlength=len(link)) > 0 if len(link) else link
    heads = np.flatnonzero(link & ~followed)
    if not len(heads):
        return parts
    mode, first, last = parts.mode.copy(), parts.first.copy(), parts.last.copy()
    false, owners, codes = parts.false.copy(), [heads], [parts.threshold[heads]]
    heads_left, at = heads, heads
    while len(at):
        going = link[at]
        heads_left, at = heads_left[going], after[at[going]]
        owners.append(heads_left)
        codes.append(parts.threshold[at])
        false[heads_left] = parts.false[at]
    owner, code = np.concatenate(owners), np.concatenate(codes)
    order = np.argsort(owner, kind="stable")
    mode[heads] = MEMBER
    sizes = np.bincount(owner, minlength=len(mode))[heads]
    last[heads] = len(parts.members) + np.cumsum(sizes)
    first[heads] = last[heads] - sizes
    members = np.concatenate([parts.members, code[order]])
    return parts._replace(mode=mode, first=first, last=last, false=false, members=members)


def _kept(parts: _Splits, roots: NDArray[np.int64], kept: NDArray[np.bool_]) -> tuple[_Splits, NDArray[np.int64]]:
    if kept.all():
        return parts, roots
    number = np.cumsum(kept) - 1

    def moved(child: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.where(child >= 0, number[np.maximum(child, 0)], child)

    left = {name: getattr(parts, name)[kept] for name in parts._fields if name != "members"}
    left["true"], left["false"] = moved(left["true"]), moved(left["false"])
    return _Splits(**left, members=parts.members), moved(roots)
