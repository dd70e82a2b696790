"""Graphs of matrix products as scikit-learn's linear models and multi-layer perceptrons, their arrays set."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import refuse

Layers = list[tuple[NDArray[np.float64], NDArray[np.float64]]]
_OVR = ["Sigmoid", "MatMul", "Div"]


def dense_model(body: Any, width: int, classes: NDArray[Any] | None) -> Any:
    """Of a graph that is one chain of matrix products, relus and a link at its end."""
    nodes = list(body.node)
    operators = [node.op_type for node in nodes]
    link = "identity"
    if operators[-3:] == _OVR and nodes[-1].input[0] == nodes[-3].output[0]:
        nodes, link = nodes[:-3], "ovr"
    elif operators[-1:] in (["Sigmoid"], ["Softmax"]):
        nodes, link = nodes[:-1], operators[-1].lower()
    layers = _layers(body, nodes, width)
    if (link == "identity") != (classes is None):
        raise refuse(f"it ends in {operators[-1]}, which is none of scikit-learn's links")
    if len(layers) > 1:
        if link == "ovr":
            raise refuse("it has hidden layers and one probability a class, normalised afterwards")
        return _perceptron(layers, link, classes)
    return _linear(*layers[0], link, classes)


def _layers(body: Any, nodes: list[Any], width: int) -> Layers:
    """(weights (inputs, outputs), offsets) of each layer, a relu between two."""
    from onnx import helper, numpy_helper

    tensors = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in body.initializer}
    done: Layers = []
    weights, offset = np.eye(width), np.zeros(width)
    current = "x"
    for node in nodes:
        constants = [tensors.get(name) for name in node.input]
        data = [name for name, held in zip(node.input, constants, strict=True) if held is None]
        op = node.op_type
        if data != [current] or op not in ("Gemm", "MatMul", "Add", "Sub", "Mul", "Div", "Relu", "Identity"):
            raise refuse(f"its graph has the operator {op}, of which scikit-learn has no equal here")
        read = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        other = next((held for held in constants if held is not None), np.zeros(1))
        if op == "Gemm" and node.input[0] == current and not read.get("transA"):
            matrix = (other.T if read.get("transB") else other) * read.get("alpha", 1.0)
            bias = constants[2] * read.get("beta", 1.0) if len(constants) > 2 and constants[2] is not None else 0.0
            weights, offset = weights @ matrix, offset @ matrix + bias
        elif op == "MatMul" and node.input[0] == current:
            weights, offset = weights @ other, offset @ other
        elif op == "Relu":
            done.append((weights, offset))
            weights, offset = np.eye(len(offset)), np.zeros(len(offset))
        elif op in ("Add", "Sub"):
            sign = -1.0 if op == "Sub" and node.input[1] == current else 1.0
            shift = -other if op == "Sub" and sign > 0 else other
            weights, offset = sign * weights, sign * offset + shift.reshape(-1)
        elif (op in ("Mul", "Div") and node.input[0] == current) or op == "Mul":
            factor = (1.0 / other if op == "Div" else other).reshape(-1)
            weights, offset = weights * factor, offset * factor
        elif op != "Identity":
            raise refuse(f"its graph has the operator {op} with its inputs the other way round")
        current = node.output[0]
    return [*done, (weights, np.asarray(offset, np.float64).reshape(-1))]


def _linear(weights: Any, offset: Any, link: str, classes: NDArray[Any] | None) -> Any:
    from sklearn.linear_model import LinearRegression, LogisticRegression, SGDClassifier

    model: Any
    if classes is None:
        model = LinearRegression()
        model.coef_, model.intercept_ = weights[:, 0].copy(), float(offset[0])
    else:
        model = SGDClassifier(loss="log_loss") if link == "ovr" else LogisticRegression()
        model.coef_, model.intercept_, model.classes_ = np.ascontiguousarray(weights.T), offset, classes
        model.n_iter_ = np.zeros(1, np.int32)
    model.n_features_in_ = len(weights)
    return model


def _perceptron(layers: Layers, link: str, classes: NDArray[Any] | None) -> Any:
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.preprocessing import LabelBinarizer

    hidden = tuple(len(offset) for _, offset in layers[:-1])
    model: Any = (MLPRegressor if classes is None else MLPClassifier)(hidden_layer_sizes=hidden, activation="relu")
    model.coefs_ = [np.ascontiguousarray(weights) for weights, _ in layers]
    model.intercepts_ = [np.asarray(offset) for _, offset in layers]
    model.n_layers_, model.n_outputs_ = len(layers) + 1, len(layers[-1][1])
    model.n_features_in_ = len(layers[0][0])
    model.out_activation_ = {"sigmoid": "logistic"}.get(link, link)
    model.n_iter_, model.t_ = 0, 0
    if classes is not None:
        model._label_binarizer = LabelBinarizer().fit(classes)
        model.classes_ = classes
    return model
