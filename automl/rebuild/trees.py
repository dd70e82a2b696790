"""Tree ensembles of a graph as scikit-learn's own trees, which decide the same: thresholds, missing values, category sets.

A split on a set of category codes becomes a chain of thresholds between the codes; both its ends lead to the same node, so
a tree may reach a node by two ways. What a boosted model's trees add is turned to probabilities by a logistic regression
whose coefficients are one, stacked on a forest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import refuse

LEAF = -1
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Tree:
    """Nodes by place, the root first: `left` is LEAF for a leaf, which adds `values` (nodes, outputs)."""

    feature: NDArray[np.int64]
    threshold: Values
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    missing_left: NDArray[np.bool_]
    sets: dict[int, list[int]]
    values: Values


def tree_model(body: Any, width: int, classes: NDArray[Any] | None) -> Any:
    """A forest, a single tree, or a forest under a logistic regression."""
    trees, link = _ensemble(body)
    if classes is None:
        if link != "identity":
            raise refuse(f"it ends in {link}, which no tree of scikit-learn does")
        return _forest([_expanded(tree) for tree in trees], width, None)
    if link in ("Sigmoid", "Softmax"):
        return _boosted(trees, width, classes, link)
    expanded = [_expanded(_two_columns(tree, len(trees)) if len(classes) == 2 else tree) for tree in trees]
    return _forest(expanded, width, classes)


def _two_columns(tree: Tree, trees: int) -> Tree:
    """Of the second class's share of the probability, both classes' shares."""
    first = np.where(tree.left == LEAF, 1.0 / trees - tree.values[:, 0], 0.0)
    return Tree(**{**vars(tree), "values": np.column_stack([first, tree.values[:, 0]])})


# -- the graph ---------------------------------------------------------------------------------------------------------------


def _ensemble(body: Any) -> tuple[list[Tree], str]:
    """The trees, with what the graph adds or multiplies afterwards in them, and the link at its end."""
    from onnx import helper, numpy_helper

    tensors = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in body.initializer}
    first, *rest = body.node
    read: dict[str, Any] = {}
    for attribute in first.attribute:
        value = helper.get_attribute_value(attribute)
        read[attribute.name] = numpy_helper.to_array(value) if hasattr(value, "raw_data") else np.asarray(value)
    if first.input[0] != "x":
        raise refuse("its trees read a part of the columns only, as the members of an ensemble do")
    trees = _read_single(read) if first.op_type == "TreeEnsemble" else _read_many(read)
    link, current = "identity", first.output[0]
    for node in rest:
        constants = [tensors[name] for name in node.input if name in tensors]
        data = [name for name in node.input if name not in tensors]
        if data != [current] or link not in ("identity", "Clip"):
            raise refuse(
                f"its graph has the operator {node.op_type} after the trees, of which scikit-learn has no equal"
            )
        if node.op_type == "Add":
            trees.append(_leaf(constants[0].reshape(-1)))
        elif node.op_type in ("Mul", "Div") and node.input[0] == current:
            factor = constants[0].reshape(-1) if node.op_type == "Mul" else 1.0 / constants[0].reshape(-1)
            trees = [Tree(**{**vars(tree), "values": tree.values * factor}) for tree in trees]
        elif node.op_type in ("Sigmoid", "Softmax", "Clip", "Identity"):
            link = node.op_type if node.op_type != "Identity" else link
        else:
            raise refuse(
                f"its graph has the operator {node.op_type} after the trees, of which scikit-learn has no equal"
            )
        current = node.output[0]
    return trees, link


def _leaf(values: Values) -> Tree:
    none = np.array([LEAF])
    return Tree(np.array([0]), np.zeros(1), none, none, np.zeros(1, np.bool_), {}, values.reshape(1, -1))


def _read_single(read: dict[str, Any]) -> list[Tree]:
    """Of a `TreeEnsemble` as `estimators/trees.py` writes it: a tree's splits stand together, its root first."""
    modes, splits = read["nodes_modes"], read["nodes_splits"].astype(np.float64)
    listed = read.get("membership_values", np.empty(0))
    groups = np.split(listed, np.flatnonzero(np.isnan(listed)))
    members = iter(group[~np.isnan(group)].astype(np.int64).tolist() for group in groups[: int((modes == 6).sum())])
    sets = {int(i): next(members) if modes[i] == 6 else [int(splits[i])] for i in np.flatnonzero(modes != 0)}
    missing = read.get("nodes_missing_value_tracks_true", np.zeros(len(modes), np.int64)) != 0
    starts = np.sort(read["tree_roots"])
    trees = []
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(modes)], strict=True):
        part, count = slice(start, end), end - start
        sides = [
            (read[f"nodes_{side}nodeids"][part], read[f"nodes_{side}leafs"][part] != 0) for side in ("true", "false")
        ]
        leaves = np.unique(np.concatenate([ids[leaf] for ids, leaf in sides]))
        left, right = (np.where(leaf, count + np.searchsorted(leaves, ids), ids - start) for ids, leaf in sides)
        values = np.zeros((count + len(leaves), int(read["n_targets"])))
        values[count + np.arange(len(leaves)), read["leaf_targetids"][leaves]] = read["leaf_weights"][leaves]
        trees.append(
            Tree(
                _padded(read["nodes_featureids"][part], len(leaves), 0),
                _padded(splits[part], len(leaves), 0.0),
                _padded(left, len(leaves), LEAF),
                _padded(right, len(leaves), LEAF),
                _padded(missing[part], len(leaves), False),
                {i - start: sets[i] for i in range(start, end) if i in sets},
                values,
            )
        )
    return trees


def _padded(values: Any, more: int, value: Any) -> Any:
    return np.concatenate([values, np.full(more, value, np.asarray(values).dtype)])


def _read_many(read: dict[str, Any]) -> list[Tree]:
    """Of a `TreeEnsembleRegressor`; nodes are numbered within their tree, the root first."""
    owner, numbers = read["nodes_treeids"], read["nodes_nodeids"]
    modes, splits = read["nodes_modes"], read["nodes_values"].astype(np.float64)
    missing = read.get("nodes_missing_value_tracks_true", np.zeros(len(owner), np.int64)) != 0
    trees = []
    for tree in np.unique(owner).tolist():
        at, added = np.flatnonzero(owner == tree), np.flatnonzero(read["target_treeids"] == tree)
        place = np.zeros(int(numbers[at].max()) + 1, np.int64)
        place[numbers[at]] = np.arange(len(at))
        leaf = modes[at] == b"LEAF"
        values = np.zeros((len(at), int(read["n_targets"])))
        values[place[read["target_nodeids"][added]], read["target_ids"][added]] = read["target_weights"][added]
        sides = [
            np.where(leaf, LEAF, place[np.where(leaf, 0, read[f"nodes_{side}nodeids"][at])])
            for side in ("true", "false")
        ]
        sets = {int(i): [int(splits[at[i]])] for i in np.flatnonzero(modes[at] == b"BRANCH_EQ")}
        trees.append(Tree(read["nodes_featureids"][at], splits[at], sides[0], sides[1], missing[at], sets, values))
    return trees


# -- scikit-learn's trees ------------------------------------------------------------------------------------------------------


def _expanded(tree: Tree) -> Tree:
    """The tree with thresholds alone: a set of k runs of neighbouring codes becomes 2 k splits."""
    if not tree.sets:
        return tree
    runs = {i: _runs(codes) for i, codes in tree.sets.items()}
    sizes = np.array([2 * len(runs[i]) if i in runs else 1 for i in range(len(tree.left))])
    first = np.cumsum(sizes) - sizes
    total = int(sizes.sum())
    left, right = np.full(total, LEAF), np.full(total, LEAF)
    feature, threshold, missing = np.zeros(total, np.int64), np.zeros(total), np.zeros(total, np.bool_)
    values = np.zeros((total, tree.values.shape[1]))
    feature[:] = np.repeat(tree.feature, sizes)
    threshold[first], missing[first], values[first] = tree.threshold, tree.missing_left, tree.values
    inner = tree.left != LEAF
    left[first[inner]], right[first[inner]] = first[tree.left[inner]], first[tree.right[inner]]
    for i, found in runs.items():
        yes, no = first[tree.left[i]], first[tree.right[i]]
        for k, (low, high) in enumerate(found):
            at = first[i] + 2 * k
            threshold[at], left[at], right[at] = low - 0.5, no, at + 1
            threshold[at + 1], left[at + 1] = high + 0.5, yes
            right[at + 1] = at + 2 if k + 1 < len(found) else no
    return Tree(feature, threshold, left, right, missing, {}, values)


def _runs(codes: list[int]) -> list[tuple[int, int]]:
    """The runs of neighbouring numbers, each its first and last."""
    ordered = np.unique(codes)
    breaks = np.flatnonzero(np.diff(ordered) > 1) + 1
    return [(int(part[0]), int(part[-1])) for part in np.split(ordered, breaks)]


def _forest(trees: list[Tree], width: int, classes: NDArray[Any] | None) -> Any:
    """The sum of the trees: their mean, each multiplied by their number."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    made = [_decision_tree(tree, len(trees), width, classes) for tree in trees]
    if len(made) == 1:
        return made[0]
    model: Any = (RandomForestRegressor if classes is None else RandomForestClassifier)(n_estimators=len(made))
    model.estimators_, model.n_features_in_ = made, width
    model.n_outputs_ = made[0].n_outputs_
    if classes is not None:
        model.classes_, model.n_classes_ = classes, len(classes)
    return model


def _decision_tree(tree: Tree, times: int, width: int, classes: NDArray[Any] | None) -> Any:
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
    from sklearn.tree._tree import Tree as Arrays

    outputs = 1 if classes is not None else tree.values.shape[1]
    kinds = np.array([1] * outputs if classes is None else [len(classes)], np.intp)
    arrays = Arrays(width, kinds, outputs)
    nodes = np.zeros(len(tree.left), _node_type())
    inner = tree.left != LEAF
    nodes["left_child"], nodes["right_child"] = tree.left, tree.right
    nodes["feature"], nodes["threshold"] = np.where(inner, tree.feature, -2), np.where(inner, tree.threshold, -2.0)
    nodes["n_node_samples"] = nodes["weighted_n_node_samples"] = 1
    nodes["missing_go_to_left"] = tree.missing_left & inner
    shape = (len(nodes), outputs, -1)
    state = {"max_depth": _depth(tree), "node_count": len(nodes), "nodes": nodes}
    arrays.__setstate__({**state, "values": np.ascontiguousarray((tree.values * times).reshape(shape))})
    model: Any = DecisionTreeRegressor() if classes is None else DecisionTreeClassifier()
    model.tree_, model.n_features_in_, model.n_outputs_, model.max_features_ = arrays, width, outputs, width
    if classes is not None:
        model.classes_, model.n_classes_ = classes, len(classes)
    return model


def _node_type() -> Any:
    """The type of scikit-learn's node arrays in the version at hand."""
    from sklearn.tree import DecisionTreeRegressor

    return DecisionTreeRegressor().fit([[0.0], [1.0]], [0.0, 1.0]).tree_.__getstate__()["nodes"].dtype


def _depth(tree: Tree) -> int:
    """Of the deepest leaf; the root's is 0."""
    depth, row = 0, np.array([0])
    while True:
        row = row[tree.left[row] != LEAF]
        if not len(row):
            return depth
        row = np.unique(np.concatenate([tree.left[row], tree.right[row]]))
        depth += 1


def _boosted(trees: list[Tree], width: int, classes: NDArray[Any], link: str) -> Any:
    """A stack: the forest's sums, and a logistic regression that takes them as they are."""
    from sklearn.ensemble import StackingClassifier
    from sklearn.frozen import FrozenEstimator
    from sklearn.linear_model import LogisticRegression

    forest = _forest([_expanded(tree) for tree in trees], width, None)
    outputs = trees[0].values.shape[1]
    if (link == "Sigmoid") != (outputs == 1 and len(classes) == 2):
        raise refuse(f"it turns {outputs} scores of {len(classes)} classes to probabilities by {link}")
    final = LogisticRegression()
    final.coef_, final.intercept_ = np.eye(outputs), np.zeros(outputs)
    final.classes_, final.n_features_in_, final.n_iter_ = np.arange(len(classes)), outputs, np.zeros(1, np.int32)
    stack = StackingClassifier([("trees", forest)], FrozenEstimator(final), cv="prefit", stack_method="predict")
    return stack.fit(np.zeros((len(classes), width)), classes)
