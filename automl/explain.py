"""What each input column adds to a row's raw score: of linear models and of trees, read from the artifact's graph alone.

The parts sum to the raw score. They are Shapley values, the players being the input columns (not their encoded parts), of a
game that compares with background rows; the base value is the background's mean raw score.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from automl.estimators import runtime
from automl.estimators.errors import ArtifactError, UsageError

from .treeshap import Forest, Group, read_forest

Floats: TypeAlias = NDArray[np.float64]
LINKS = ((), ("Sigmoid",), ("Softmax",), ("Clip",), ("Sigmoid", "MatMul", "Div"))
"""The operators that may follow the raw score."""
TREES = ("TreeEnsemble", "TreeEnsembleRegressor")
MOST_DIFFERENCE = 1e-3
"""Between the prediction and what the raw score says of it, relative to max(1, |prediction|): the graph sums in float32."""


class Explainer(ABC):
    """Explains encoded rows of one model. `learn` takes the background first, `rows` counts it."""

    def __init__(self, model: runtime.Model, link: tuple[str, ...]) -> None:
        self.model, self.link, self.rows = model, link, 0
        encoder = model.encoder
        places = {name: place for place, name in enumerate(model.used)}
        owners: list[int] = []
        for entry in encoder.entries:
            names = entry.names if isinstance(entry, runtime.Block) else [entry.name] * entry.width
            owners += [places[name] for name in names]
        self.owners = np.asarray(owners, np.int64)
        """The place among the used columns of the input behind each encoded column."""

    @abstractmethod
    def learn(self, x: NDArray[np.float32]) -> None:
        """Takes background rows (n, width)."""

    @abstractmethod
    def raw(self, x: NDArray[np.float32]) -> Floats:
        """(n, outputs) raw scores."""

    @abstractmethod
    def base(self) -> Floats:
        """(outputs,) mean raw scores of the background."""

    @abstractmethod
    def parts(self, x: NDArray[np.float32]) -> Floats:
        """(n, used columns, outputs): with `base` they sum to `raw`."""

    def columns(self, x: NDArray[np.float32]) -> dict[str, list[Any]]:
        """Of rows: "raw_score", "base_value" and "contribution_NAME" for each used column; of the predicted class."""
        raw, parts, base = self.raw(x), self.parts(x), self.base()
        chosen = raw.argmax(axis=1) if raw.shape[1] > 1 else np.zeros(len(x), np.int64)
        rows = np.arange(len(x))
        found: dict[str, list[Any]] = {"raw_score": raw[rows, chosen].tolist(), "base_value": base[chosen].tolist()}
        for place, name in enumerate(self.model.used):
            found[f"contribution_{name}"] = parts[rows, place, chosen].tolist()
        return found

    def check(self, x: NDArray[np.float32], predicted: Any) -> None:
        """Raises ArtifactError if the raw scores do not lead to the model's values (n,) or probabilities (n, classes)."""
        found = np.asarray(predicted, np.float64).reshape(len(x), -1)
        found = found[:, 1:] if self.model.task == "binary" else found
        expected = _linked(self.raw(x), self.link)
        if expected.shape != found.shape or not np.allclose(expected, found, MOST_DIFFERENCE, MOST_DIFFERENCE):
            raise ArtifactError("the model's graph is not understood: its scores do not give its predictions")


class Linear(Explainer):
    """weight x (value - the background's mean): exact Shapley values where columns count as independent
    (Lundberg and Lee 2017, "Linear SHAP").
    """

    def __init__(self, model: runtime.Model, link: tuple[str, ...], weights: Floats, bias: Floats) -> None:
        super().__init__(model, link)
        self.weights, self.bias, self._sum = weights, bias, np.zeros(len(weights))

    def learn(self, x: NDArray[np.float32]) -> None:
        self._sum += x.sum(axis=0, dtype=np.float64)
        self.rows += len(x)

    def raw(self, x: NDArray[np.float32]) -> Floats:
        return np.asarray(x.astype(np.float64) @ self.weights + self.bias)

    def base(self) -> Floats:
        return np.asarray(self._sum / self.rows @ self.weights + self.bias)

    def parts(self, x: NDArray[np.float32]) -> Floats:
        found = np.zeros((len(x), len(self.model.used), self.weights.shape[1]))
        away = x - self._sum / self.rows
        for k, owner in enumerate(self.owners):
            found[:, owner] += away[:, k, None] * self.weights[k]
        return found


class Trees(Explainer):
    """Path-dependent TreeSHAP (`treeshap.py`), the shares at each split being the background's."""

    def __init__(self, model: runtime.Model, link: tuple[str, ...], forest: Forest, constant: Floats) -> None:
        super().__init__(model, link)
        self.forest, self.constant = forest, constant
        self._covers = np.zeros(forest.nodes + forest.leaves)
        self._groups: list[Group] | None = None

    def learn(self, x: NDArray[np.float32]) -> None:
        self._covers += self.forest.visits(x)
        self.rows += len(x)
        self._groups = None

    def raw(self, x: NDArray[np.float32]) -> Floats:
        return np.asarray(self.forest.sums(x) + self.constant)

    def base(self) -> Floats:
        shares = self._covers[self.forest.nodes :] / self.rows
        return np.asarray(shares @ self.forest.values + self.constant)

    def parts(self, x: NDArray[np.float32]) -> Floats:
        players = len(self.model.used)
        if self._groups is None:
            self._groups = self.forest.weigh(self._covers, self.owners, players)
        return self.forest.shapley(x, self._groups, players)


def explainer_of(place: Path, model: runtime.Model) -> Explainer:
    """The explainer of an artifact, whose graph must be a linear model or trees. Raises UsageError saying what else it is."""
    from onnx import load_model_from_string, numpy_helper

    graph = load_model_from_string(runtime.read_members(place)[runtime.GRAPH]).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = list(graph.node)
    operators = [node.op_type for node in nodes]
    if (
        not nodes
        or nodes[0].op_type not in ("Gemm", *TREES)
        or "x" not in nodes[0].input
        or operators.count("Gemm") > 1
    ):
        raise _unexplained(operators)
    rest = nodes[1:]
    added = np.zeros(1)
    if rest and rest[0].op_type == "Add" and nodes[0].op_type in TREES and rest[0].input[1] in constants:
        added = constants[rest[0].input[1]].astype(np.float64).reshape(-1)
        rest = rest[1:]
    link = tuple(node.op_type for node in rest)
    if link not in LINKS:
        raise _unexplained(operators)
    if nodes[0].op_type == "Gemm":
        weights, bias = (constants[name].astype(np.float64) for name in nodes[0].input[1:3])
        return Linear(model, link, weights, bias.reshape(-1))
    return Trees(model, link, read_forest(nodes[0]), added)


def _unexplained(operators: list[str]) -> UsageError:
    if operators.count("Gemm") > 1:
        what = "a network, or a model behind a reduction of the columns"
    elif "TopK" in operators:
        what = "a model of nearest neighbours"
    elif "Gather" in operators or sum(name in TREES for name in operators) > 1:
        what = "an ensemble of several models"
    elif "Expand" in operators:
        what = "a constant, which no column changes"
    else:
        what = f"made of {', '.join(sorted(set(operators)))}"
    return UsageError(
        f"--explain is for linear models and trees, whose parts are exact; this model is {what}: choose another by --model"
    )


def _linked(raw: Floats, link: tuple[str, ...]) -> Floats:
    if link == ("Clip",):
        return np.clip(raw, 0.0, 1.0)
    if link == ("Softmax",):
        powers = np.exp(raw - raw.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))
    if not link:
        return raw
    odds = 1.0 / (1.0 + np.exp(-np.clip(raw, -700.0, 700.0)))
    return odds if len(link) == 1 else np.asarray(odds / odds.sum(axis=1, keepdims=True))
