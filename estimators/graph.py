"""A thin writer of ONNX graphs over `onnx.helper`, and the session that every graph of ours runs in.

Written for two facts of onnxruntime, measured: each operator costs about 1 us on one row, and float64 is not
implemented everywhere. So: few operators, float32 only. Operator sets: the default one at 18, `ai.onnx.ml` at 5 (its
TreeEnsemble has set membership for categories; onnxruntime 1.23 or newer), `com.microsoft` at 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .narrow import narrowed
from .protobuf import BYTES, fields, run_of_floats, run_of_integers

OPSETS = {"": 18, "ai.onnx.ml": 5, "com.microsoft": 1}
OLDER = {"TreeEnsembleRegressor": 3}
"""Operators of `ai.onnx.ml` that its version 5 deprecates; a graph with one of them is of that version."""
IR_VERSION = 10
GRAPH, NODE, ATTRIBUTE = 7, 1, 5
"""The fields of onnx.proto that lead from a model to a node's attributes."""
INTS, FLOATS, STRINGS = 0x40, 0x3D, 0x4A
"""The keys of an attribute's lists of numbers where they are not packed."""


class Graph:
    """Nodes from one float32 matrix "x" (n, `width`) to one output "y".

    >>> graph = Graph(3)
    >>> y = graph.node("Add", graph.x, graph.constant([1.0, 2.0, 3.0]))
    >>> session(graph.model(y).SerializeToString()).run(None, {"x": np.zeros((1, 3), np.float32)})[0].tolist()
    [[1.0, 2.0, 3.0]]
    """

    x = "x"

    def __init__(self, width: int, dtype: str = "float32") -> None:
        self.width, self.dtype = width, dtype
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def node(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Adds one operator and returns the name of its output.

        An attribute may be anything `onnx.helper.make_attribute` takes; an array of integers, floats or bytes becomes a list
        of them (without a Python loop: ensembles have millions of nodes; see `tensor` for tensors). None leaves it out.
        """
        return self.nodes(op, 1, *inputs, domain=domain, **attributes)[0]

    def nodes(self, op: str, outputs: int, *inputs: str, domain: str = "", **attributes: Any) -> list[str]:
        """`node` for an operator of several outputs (TopK): all their names."""
        from onnx import helper

        names = [f"v{len(self._nodes)}" + (f"_{i}" if i else "") for i in range(outputs)]
        node = helper.make_node(op, list(inputs), names, domain=domain)
        for key, value in sorted(attributes.items()):
            if value is not None:
                node.attribute.append(_attribute(key, value))
        self._nodes.append(node)
        return names

    def constant(self, array: Any) -> str:
        """The name of a constant; floating point becomes float32, whole numbers int64.

        In a graph of a narrower dtype what that holds exactly is stored so, and becomes float32 when the graph is loaded.
        """
        narrow = narrowed(np.asarray(array), self.dtype)
        if narrow is None:
            return self._stored(tensor(array, f"c{len(self._constants)}"))
        from onnx import TensorProto, numpy_helper

        cells, scales = narrow
        stored = self._stored(numpy_helper.from_array(cells, f"c{len(self._constants)}"))
        wide = self.node("Cast", stored, to=TensorProto.FLOAT)  # with Mul folded at loading; DequantizeLinear is not
        return (
            wide if scales is None else self.node("Mul", wide, self._stored(tensor(scales, f"c{len(self._constants)}")))
        )

    def _stored(self, constant: Any) -> str:
        self._constants.append(constant)
        return str(constant.name)

    def made(self, name: str, op: str) -> Any:
        """The node that makes `name`, if it is this operator; else None."""
        return next((node for node in self._nodes if name in node.output and node.op_type == op), None)

    def add(self, model: Any, x: str) -> str:
        """Adds the nodes of another graph's `onnx.ModelProto`, which is used up; they read `x` in the place of its input.

        Returns the name of its output. Graphs of ours have no subgraphs, whose names would have to be kept apart as well.
        """
        prefix, body = f"g{len(self._nodes)}_", model.graph
        names = {body.input[0].name: x, "": ""}  # "" is an input that is left out
        for node in body.node:
            node.input[:] = [names.get(name, prefix + name) for name in node.input]
            node.output[:] = [prefix + name for name in node.output]
            self._nodes.append(node)
        for constant in body.initializer:
            constant.name = prefix + constant.name
            self._constants.append(constant)
        return prefix + str(body.output[0].name)

    def model(self, output: str) -> Any:
        """The `onnx.ModelProto` whose output "y" is `output`; nodes and constants that it does not need are left out."""
        from onnx import TensorProto, helper

        if not any(output in node.output for node in self._nodes):  # the input itself or a constant
            output = self.node("Identity", output)
        needed, nodes = {output}, []
        for node in reversed(self._nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                nodes.append(_renamed(node, output))
        shape = ["n", self.width]
        body = helper.make_graph(
            nodes[::-1],
            "model",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", None])],
            initializer=[constant for constant in self._constants if constant.name in needed],
        )
        versions = {domain: OPSETS[domain] for domain in sorted({"", *(node.domain for node in nodes)})}
        versions.update({node.domain: OLDER[node.op_type] for node in nodes if node.op_type in OLDER})
        opsets = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
        return helper.make_model(body, opset_imports=opsets, ir_version=IR_VERSION, producer_name="automl")


def written(model: Any) -> bytes:
    """The bytes of an `onnx.ModelProto`, with the lists of numbers of its nodes packed.

    onnx.proto declares them unpacked, which repeats a key before each of a forest's numbers: a quarter of its bytes. Every
    reader of Protocol Buffers must take both (https://protobuf.dev/programming-guides/encoding/#packed).
    """
    data = model.SerializeToString()
    return _packed(data, 0, len(data), (GRAPH, NODE, ATTRIBUTE))


def _packed(data: bytes, first: int, last: int, path: tuple[int, ...]) -> bytes:
    """The message from `first` to `last`, packed where it is an attribute (no `path` is left), or in its parts on the `path`."""
    parts: list[bytes] = []
    at = first
    while at < last:
        begin = at
        body = b""
        if not path and data[at] == STRINGS:  # what follows is written after numbers, and as long as a forest has nodes
            return b"".join([*parts, data[at:last]])
        if not path and data[at] in (INTS, FLOATS):
            read = run_of_integers if data[at] == INTS else run_of_floats
            values, at = read(data, at, last, data[at])
            body = _varints(values) if data[begin] == INTS else values.astype("<f4").tobytes()
            key = bytes([data[begin] & ~7 | BYTES])
        else:
            number, _, start, at = next(fields(data, begin, last))
            if path and number == path[0]:
                key, body = data[begin : begin + 1], _packed(data, start, at, path[1:])
        if body:
            body = b"".join([key, _varints(np.array([len(body)])), body])
        parts.append(body if body and len(body) < at - begin else data[begin:at])
    return b"".join(parts)


def _varints(values: NDArray[Any]) -> bytes:
    """Whole numbers as they stand one after another on the wire; what `protobuf._varints` reads."""
    left = values.astype(np.int64).view(np.uint64)
    lengths = np.ones(len(left), np.int64)
    for byte in range(1, 10):
        lengths += left >= np.uint64(1 << 7 * byte)
    ends = np.cumsum(lengths)
    out = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
    for byte in range(int(lengths.max(initial=0))):
        longer = np.flatnonzero(lengths > byte)
        more = np.where(lengths[longer] > byte + 1, 128, 0)
        out[(ends - lengths)[longer] + byte] = (left[longer] >> np.uint64(7 * byte) & np.uint64(127)).astype(
            np.uint8
        ) | more
    return out.tobytes()


def tensor(array: Any, name: str = "") -> Any:
    """An `onnx.TensorProto` of raw bytes; float64 becomes float32, bool and uint8 stay, other whole numbers become int64."""
    from onnx import numpy_helper

    values = np.asarray(array)
    if values.dtype.kind == "f":
        values = values.astype(np.float32)
    elif values.dtype.kind in "iu" and values.dtype != np.uint8:
        values = values.astype(np.int64)
    return numpy_helper.from_array(np.ascontiguousarray(values), name)


def session(model: bytes) -> Any:
    """An `onnxruntime.InferenceSession` as every artifact is run: CPU, one thread, no spinning.

    One thread is not only for latency: with two, the sums of a forest differ in their last bits from row to row.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def below(thresholds: NDArray[np.float64]) -> NDArray[np.float32]:
    """Float64 thresholds rounded toward minus infinity to float32, so that `x <= t` decides alike for every float32 x."""
    with np.errstate(over="ignore"):
        rounded = np.asarray(thresholds, np.float64).astype(np.float32)
        above = rounded.astype(np.float64) > thresholds
        rounded[above] = np.nextafter(rounded[above], np.float32(-np.inf))
    return rounded


def _attribute(key: str, value: Any) -> Any:
    from onnx import AttributeProto, helper

    if not isinstance(value, np.ndarray):
        return helper.make_attribute(key, value)
    if value.dtype.kind in "iub":
        attribute = AttributeProto(name=key, type=AttributeProto.INTS)
        attribute.ints.extend(value.astype(np.int64).tolist())
    elif value.dtype.kind == "S":
        attribute = AttributeProto(name=key, type=AttributeProto.STRINGS)
        attribute.strings.extend(value.tolist())
    else:
        attribute = AttributeProto(name=key, type=AttributeProto.FLOATS)
        attribute.floats.extend(value.astype(np.float32).tolist())
    return attribute


def _renamed(node: Any, output: str) -> Any:
    """The node, with "y" in the place of `output`."""
    if output in node.output or output in node.input:
        copy = type(node)()
        copy.CopyFrom(node)
        copy.output[:] = ["y" if name == output else name for name in node.output]
        copy.input[:] = ["y" if name == output else name for name in node.input]
        return copy
    return node
