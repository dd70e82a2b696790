"""An artifact rebuilt as a scikit-learn Pipeline that has no class of ours in it, and predicts the same.

`encoder.py` makes a ColumnTransformer of the encoder's tables, `dense.py` a linear model or MLP of a graph of matrix products,
`trees.py` an ensemble of scikit-learn's trees. What they cannot say is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from automl.estimators.errors import ArtifactError
from automl.estimators.runtime import RowEncoder

CONSTANT = ("Shape", "Concat", "Expand")


def pipeline(manifest: Mapping[str, Any], graph: bytes) -> Any:
    """The fitted Pipeline of an artifact's manifest and graph. Raises ArtifactError for what scikit-learn cannot hold."""
    from onnx import load_model_from_string
    from sklearn.pipeline import Pipeline

    from .dense import dense_model
    from .encoder import column_transformer
    from .trees import tree_model

    encoder = RowEncoder(manifest["encoder"])
    classes = label_array(manifest["classes"])
    body = load_model_from_string(graph).graph
    operators = [node.op_type for node in body.node]
    if operators == list(CONSTANT):
        model = constant_model(body, encoder.width, classes)
    elif operators and operators[0] in ("TreeEnsemble", "TreeEnsembleRegressor"):
        model = tree_model(body, encoder.width, classes)
    else:
        model = dense_model(body, encoder.width, classes)
    return Pipeline([("encode", column_transformer(encoder)), ("model", model)])


def refuse(what: str) -> ArtifactError:
    return ArtifactError(
        f"format 'sklearn' cannot hold this model: {what}; choose another model, or export the bundle or onnx"
    )


def label_array(labels: Sequence[Any]) -> NDArray[Any] | None:
    """The classes, in the order in which scikit-learn keeps them too; None for a regression."""
    if not labels:
        return None
    kinds = {type(label) for label in labels}
    if len(kinds) > 1:
        raise refuse("its classes are of more than one type")
    classes = np.array(labels)
    if not (classes[:-1] < classes[1:]).all():
        raise refuse("its classes are not in ascending order, as scikit-learn's are")
    return classes


def constant_model(body: Any, width: int, classes: NDArray[Any] | None) -> Any:
    """What always predicts the one row of constants in the graph."""
    from onnx import numpy_helper
    from sklearn.dummy import DummyClassifier, DummyRegressor

    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in body.initializer}
    values = np.asarray(tensors[body.node[2].input[0]], np.float64).reshape(-1)
    if classes is None:
        return DummyRegressor(strategy="constant", constant=float(values[0])).fit(np.zeros((1, width)), [0.0])
    model = DummyClassifier(strategy="prior").fit(np.zeros((len(classes), width)), classes)
    model.class_prior_ = np.array([1.0 - values[0], values[0]]) if len(values) == 1 else values
    return model
