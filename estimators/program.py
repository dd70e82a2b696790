"""What a `model.onnx` computes, as plain steps over numpy arrays, read without the onnx package.

`read(bytes)` gives a `Program`: the graph's nodes in order, its constants, and every tree ensemble as one `Trees`, whichever
of the two operators of `ai.onnx.ml` it was written with. Engines and exporters that are not onnxruntime start from it. It
needs numpy alone, and `runtime.py` and this file work beside each other without their package.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .program_trees import Trees, newer, older
from .protobuf import BYTES, CORRUPT, ArtifactError, Node, fields, integer, read_node, tensor, text, value_info


class Step(NamedTuple):
    """One node: `op` by its ONNX name, the names that it reads ("" where one is left out) and writes, and its attributes
    (int, float, str, a list of str, or an array). A tree ensemble, by either operator, has the op "Trees", its one input
    and output, no attributes, and `trees`.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    trees: Trees | None = None


class Program(NamedTuple):
    """Steps from the float32 matrix `input` (n, `width`) to `output`; each reads the input, constants, or what came before.

    `constants` are the graph's initializers and Constant nodes. `opsets` holds the version of each operator domain.
    """

    steps: tuple[Step, ...]
    constants: dict[str, NDArray[Any]]
    width: int
    input: str
    output: str
    opsets: dict[str, int]


def read(model: bytes) -> Program:
    """The program of an ONNX model of one input and one output. Raises ArtifactError for bytes that are none."""
    try:
        return _program(bytes(model))
    except ArtifactError:
        raise
    except CORRUPT as error:
        raise ArtifactError(f"the graph is corrupt: {str(error)[:200] or type(error).__name__}") from error


# --- the graph --------------------------------------------------------------------------------------------------------


def _program(data: bytes) -> Program:
    graph: tuple[int, int] | None = None
    opsets: dict[str, int] = {}
    for number, wire, start, end in fields(data, 0, len(data)):
        if number == 7 and wire == BYTES:
            graph = (start, end)
        elif number == 8:
            domain, version = "", 0
            for part, _, a, b in fields(data, start, end):
                domain, version = (text(data, a, b), version) if part == 1 else (domain, integer(data, a))
            opsets[domain] = version
    if graph is None:
        raise ArtifactError("the graph is corrupt: the model has none")
    nodes: list[Node] = []
    constants: dict[str, NDArray[Any]] = {}
    ends: dict[int, list[tuple[str, int, list[int]]]] = {11: [], 12: []}
    for number, _, start, end in fields(data, *graph):
        if number == 1:
            nodes.append(read_node(data, start, end))
        elif number == 5:
            name, values = tensor(data, start, end)
            constants[name] = values
        elif number in ends:
            ends[number].append(value_info(data, start, end))
        elif number == 15:
            raise ArtifactError("the graph is refused: sparse constants are not read")
    return _connected(nodes, constants, [i for i in ends[11] if i[0] not in constants], ends[12], opsets)


def _connected(
    nodes: list[Node],
    constants: dict[str, NDArray[Any]],
    inputs: list[tuple[str, int, list[int]]],
    outputs: list[tuple[str, int, list[int]]],
    opsets: dict[str, int],
) -> Program:
    """The program of these parts, after it is found that each node reads only what stands before it."""
    if len(inputs) != 1 or len(outputs) != 1 or inputs[0][1] != 1 or len(inputs[0][2]) != 2:
        raise ArtifactError("the graph is refused: it has other ends than one float32 matrix and one output")
    name, _, shape = inputs[0]
    known = {name, "", *constants}
    steps = []
    for node in nodes:
        unknown = [value for value in node.inputs if value not in known]
        twice = [value for value in node.outputs if value in known and value]
        if unknown or twice or not node.outputs:
            what = f"reads {unknown[0]!r} before it is made" if unknown else "makes a value that exists"
            raise ArtifactError(f"the graph is corrupt: {node.op} {what}")
        if node.op == "Constant":
            constants[node.outputs[0]] = _constant(node)
        elif node.op in ("TreeEnsemble", "TreeEnsembleRegressor"):
            trees = newer(node.attributes) if node.op == "TreeEnsemble" else older(node.attributes)
            steps.append(Step("Trees", node.inputs[:1], node.outputs[:1], {}, trees))
        else:
            steps.append(Step(*node))
        known.update(node.outputs)
    if outputs[0][0] not in known:
        raise ArtifactError(f"the graph is corrupt: nothing makes its output {outputs[0][0]!r}")
    return Program(tuple(steps), constants, shape[1], name, outputs[0][0], opsets)


def _constant(node: Node) -> NDArray[Any]:
    value = next(iter(node.attributes.values()), None)
    if isinstance(value, (np.ndarray, int, float)):
        dtype = np.float32 if isinstance(value, float) else np.int64
        return value if isinstance(value, np.ndarray) else np.asarray(value, dtype)
    raise ArtifactError("the graph is refused: a Constant holds neither numbers nor a tensor")
