"""Trees of an ONNX graph as arrays, and their Shapley values with the shares of background rows at each split.

The game is that of path-dependent TreeSHAP (Lundberg, Erion and Lee 2018, arXiv 1802.03888): at a split on a column that is
not known, both ways count with the share of the background that took them. A leaf's part for column i is

    value * (o_i - z_i) * integral over t in (0, 1) of prod_{j != i} (z_j (1 - t) + o_j t)

with z the shares along its path and o whether the row fits, a column at a time: the Beta integral turns the sum over
coalitions into one polynomial of degree m - 1, which Gauss-Legendre quadrature of ceil(m / 2) points gives exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

LEQ, EQ, MEMBER = 0, 4, 6
BLOCK = 2_000_000
"""Numbers that are worked on at a time."""
Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Forest:
    """Splits and leaves of all trees: a child below `nodes` is a split, else leaf child - `nodes`; so is a root.

    A row goes left where x <= threshold, where x is missing and `missing_left`, or, where `sets` is not -1, where its code is
    in that row of `members`. `values` (leaves, outputs).
    """

    roots: Ints
    feature: Ints
    threshold: NDArray[np.float32]
    missing_left: Bools
    sets: Ints
    members: Bools
    left: Ints
    right: Ints
    values: Floats

    @property
    def nodes(self) -> int:
        return len(self.feature)

    @property
    def leaves(self) -> int:
        return len(self.values)

    def _goes_left(self, x: NDArray[np.float32], rows: Any, node: Ints) -> Bools:
        """For rows (n, 1) or a slice and nodes (n, k) or (k,): does the row go left there."""
        found = x[rows, self.feature[node]]
        left = (found <= self.threshold[node]) | (np.isnan(found) & self.missing_left[node])
        if not len(self.members):
            return np.asarray(left)
        width = self.members.shape[1] - 1  # the first is for -1, the last for codes that no set knows
        known = (found >= -1) & (found < width - 1)
        place = np.where(known, found + 1, width).astype(np.int64)
        sets = self.sets[node]
        return np.asarray(np.where(sets >= 0, self.members[sets, place], left))

    def _walk(self, x: NDArray[np.float32]) -> Iterator[Ints]:
        """(n, trees) the nodes or leaves where rows stand, level by level; -1 where a row has been at its leaf before."""
        rows = np.arange(len(x))[:, None]
        at = np.broadcast_to(self.roots, (len(x), len(self.roots))).copy()
        yield at
        while True:
            inner = (at >= 0) & (at < self.nodes)
            if not inner.any():
                return
            node = np.where(inner, at, 0)
            at = np.where(inner, np.where(self._goes_left(x, rows, node), self.left[node], self.right[node]), -1)
            yield at

    def _blocks(self, x: NDArray[np.float32], each: int) -> Iterator[NDArray[np.float32]]:
        step = max(1, BLOCK // max(1, each))
        for i in range(0, len(x), step):
            yield x[i : i + step]

    def visits(self, x: NDArray[np.float32]) -> Floats:
        """(nodes + leaves,) how many rows pass each."""
        found = np.zeros(self.nodes + self.leaves)
        for part in self._blocks(x, len(self.roots)):
            for at in self._walk(part):
                found += np.bincount(at[at >= 0], minlength=len(found))
        return found

    def sums(self, x: NDArray[np.float32]) -> Floats:
        """(n, outputs) the sums of the leaves."""
        parts = []
        for part in self._blocks(x, len(self.roots) * self.values.shape[1]):
            total = np.zeros((len(part), self.values.shape[1]))
            for at in self._walk(part):
                leaf = at >= self.nodes
                if leaf.any():
                    row, tree = np.nonzero(leaf)
                    np.add.at(total, row, self.values[at[row, tree] - self.nodes])
            parts.append(total)
        return np.concatenate(parts) if parts else np.zeros((0, self.values.shape[1]))

    def paths(self) -> Iterator[tuple[int, list[tuple[int, bool]]]]:
        """Each leaf with the splits that lead to it, and whether to the left."""
        for root in self.roots.tolist():
            stack: list[tuple[int, list[tuple[int, bool]]]] = [(root, [])]
            while stack:
                at, path = stack.pop()
                if at >= self.nodes:
                    yield at - self.nodes, path
                    continue
                stack.append((int(self.right[at]), [*path, (at, False)]))
                stack.append((int(self.left[at]), [*path, (at, True)]))

    def shapley(self, x: NDArray[np.float32], groups: Sequence[Group], players: int) -> Floats:
        """(n, players, outputs) of rows; `groups` from `weigh`."""
        found = np.zeros((len(x), players, self.values.shape[1]))
        for group in groups:
            start = 0
            for part in self._blocks(x, group.size):
                found[start : start + len(part)] += group.parts(self, part).reshape(len(part), players, -1)
                start += len(part)
        return found

    def weigh(self, cover: Floats, owner: Ints, players: int) -> list[Group]:
        """The leaves, by how many players their paths have; `cover` from `visits` of the background, `owner` of each feature."""
        left = np.where(cover[: self.nodes] > 0, cover[self.left] / np.maximum(cover[: self.nodes], 1e-300), 0.5)
        groups: dict[int, list[tuple[int, dict[int, list[tuple[int, bool]]]]]] = {}
        for leaf, path in self.paths():
            split: dict[int, list[tuple[int, bool]]] = {}
            for node, goes_left in path:
                split.setdefault(int(owner[self.feature[node]]), []).append((node, goes_left))
            groups.setdefault(len(split), []).append((leaf, split))
        return [Group(m, found, left, self.values, players) for m, found in sorted(groups.items()) if m]


class Group:
    """Leaves whose paths have `m` players: slot (leaf, player) by slot, the splits that decide it."""

    def __init__(
        self,
        m: int,
        leaves: list[tuple[int, dict[int, list[tuple[int, bool]]]]],
        left: Floats,
        values: Floats,
        players: int,
    ) -> None:
        from scipy.sparse import csr_matrix

        self.m, self.count = m, len(leaves)
        nodes: list[int] = []
        ways: list[bool] = []
        starts: list[int] = []
        owners: list[int] = []
        for _, split in leaves:
            for owner, steps in split.items():
                starts.append(len(nodes))
                owners.append(owner)
                nodes += [node for node, _ in steps]
                ways += [goes_left for _, goes_left in steps]
        self.nodes, self.ways, self.starts = np.asarray(nodes), np.asarray(ways, bool), np.asarray(starts)
        share = np.where(self.ways, left[self.nodes], 1.0 - left[self.nodes])
        self.z = np.multiply.reduceat(share, self.starts).reshape(self.count, m)
        points, weights = np.polynomial.legendre.leggauss((m + 1) // 2)
        self.quadrature = list(zip((points + 1) / 2, weights / 2, strict=True))
        value = values[[leaf for leaf, _ in leaves]]
        outputs = values.shape[1]
        slot = np.repeat(np.arange(self.count * m), outputs)
        column = (np.asarray(owners)[:, None] * outputs + np.arange(outputs)).reshape(-1)
        data = np.repeat(value, m, axis=0).reshape(-1)
        shape = (players * outputs, self.count * m)
        self.sum = csr_matrix((data, (column, slot)), shape)
        self.size = len(nodes) + 4 * self.count * m

    def parts(self, forest: Forest, x: NDArray[np.float32]) -> Floats:
        """(n, players x outputs)."""
        unique, place = np.unique(self.nodes, return_inverse=True)
        goes_left = forest._goes_left(x, slice(None), unique)
        fits = np.logical_and.reduceat(goes_left[:, place] == self.ways, self.starts, axis=1)
        o = fits.reshape(len(x), self.count, self.m).astype(np.float64)
        total = np.zeros_like(o)
        for t, weight in self.quadrature:
            each = self.z * (1.0 - t) + o * t
            product = each.prod(axis=2, keepdims=True)
            total += weight * np.divide(product, each, out=np.zeros_like(each), where=each > 0)
        total *= o - self.z
        return np.asarray((self.sum @ total.reshape(len(x), -1).T).T)


# -- from the graph --------------------------------------------------------------------------------------------------------


def read_forest(node: Any) -> Forest:
    """The trees of a `TreeEnsemble` or `TreeEnsembleRegressor` as `estimators.trees` writes them."""
    from onnx import helper, numpy_helper

    read: dict[str, Any] = {}
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        read[attribute.name] = numpy_helper.to_array(value) if hasattr(value, "raw_data") else np.asarray(value)
    return _read_newer(read) if node.op_type == "TreeEnsemble" else _read_older(read)


def _read_newer(read: dict[str, Any]) -> Forest:
    modes, nodes = read["nodes_modes"], len(read["nodes_modes"])
    values = np.zeros((len(read["leaf_weights"]), int(read["n_targets"])))
    values[np.arange(len(values)), read["leaf_targetids"]] = read["leaf_weights"]
    listed = iter(np.split(read.get("membership_values", np.empty(0, np.float32)), _ends(read)))
    codes: dict[int, list[int]] = {}
    for place in np.flatnonzero(modes != LEQ).tolist():
        if modes[place] == EQ:
            codes[place] = [int(read["nodes_splits"][place])]
        else:
            codes[place] = [int(code) for code in next(listed) if code == code]
    sets, members = _sets(codes, nodes)

    def child(side: str) -> Ints:
        return np.asarray(read[f"nodes_{side}nodeids"] + np.where(read[f"nodes_{side}leafs"] != 0, nodes, 0), np.int64)

    missing = read.get("nodes_missing_value_tracks_true", np.zeros(nodes, np.int64)) != 0
    return Forest(
        np.asarray(read["tree_roots"], np.int64),
        np.asarray(read["nodes_featureids"], np.int64),
        np.asarray(read["nodes_splits"], np.float32),
        missing,
        sets,
        members,
        child("true"),
        child("false"),
        values,
    )


def _ends(read: dict[str, Any]) -> Ints:
    listed = read.get("membership_values", np.empty(0, np.float32))
    return np.flatnonzero(np.isnan(listed)) + 1  # a set ends with a NaN


def _sets(codes: dict[int, list[int]], nodes: int) -> tuple[Ints, Bools]:
    """(the set of each node or -1, (sets, codes) which codes from -1 on are in it: the last column is for unknown ones)."""
    sets = np.full(nodes, -1, np.int64)
    width = 2 + max((max(found, default=0) for found in codes.values()), default=0)
    members = np.zeros((len(codes), width + 1), np.bool_)
    for place, (node, found) in enumerate(codes.items()):
        sets[node] = place
        members[place, np.asarray(found, np.int64) + 1] = True
    return sets, members


def _read_older(read: dict[str, Any]) -> Forest:
    """Nodes numbered within their tree; a chain of equalities that leads to one place is one split on a set."""
    tree, number = read["nodes_treeids"].tolist(), read["nodes_nodeids"].tolist()
    modes = [mode.decode() if isinstance(mode, bytes) else str(mode) for mode in read["nodes_modes"].tolist()]
    place = {key: i for i, key in enumerate(zip(tree, number, strict=True))}
    true, false = read["nodes_truenodeids"].tolist(), read["nodes_falsenodeids"].tolist()
    feature, value = read["nodes_featureids"], read["nodes_values"]
    passed: set[int] = set()
    last, codes_of = list(range(len(tree))), {}
    for i in range(len(tree)):
        if modes[i] != "BRANCH_EQ" or i in passed:
            continue
        codes, end = [int(value[i])], i
        while True:
            after = place[tree[end], false[end]]
            if modes[after] != "BRANCH_EQ" or true[after] != true[i] or feature[after] != feature[i]:
                break
            passed.add(after)
            codes.append(int(value[after]))
            end = after
        last[i], codes_of[i] = end, codes
    splits = [i for i, mode in enumerate(modes) if mode != "LEAF" and i not in passed]
    leaves = [i for i, mode in enumerate(modes) if mode == "LEAF"]
    to = {i: k for k, i in enumerate(splits)} | {i: len(splits) + k for k, i in enumerate(leaves)}
    sets, members = _sets({to[i]: codes for i, codes in codes_of.items()}, len(splits))
    values = np.zeros((len(leaves), int(read["n_targets"])))
    spots = [
        to[place[key]] - len(splits)
        for key in zip(read["target_treeids"].tolist(), read["target_nodeids"].tolist(), strict=True)
    ]
    np.add.at(values, (spots, read["target_ids"]), read["target_weights"])
    missing = read.get("nodes_missing_value_tracks_true", np.zeros(len(tree), np.int64)) != 0
    first: dict[int, int] = {}
    for i, t in enumerate(tree):
        first.setdefault(t, i)
    return Forest(
        np.asarray([to[i] for i in first.values()], np.int64),
        np.asarray(feature[splits], np.int64),
        np.asarray(value[splits], np.float32),
        np.asarray(missing[splits], np.bool_),
        sets,
        members,
        np.asarray([to[place[tree[i], true[i]]] for i in splits], np.int64),
        np.asarray([to[place[tree[i], false[last[i]]]] for i in splits], np.int64),
        values,
    )
