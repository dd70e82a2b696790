"""A model's graph as the arithmetic of one row: flat float32 vectors and a few kinds of steps, for formats of source code.

What the graph computes from constants alone is computed here, and shapes are gone: for one row each is known. An
operator that isn't known is refused by name; nothing is approximated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from automl.estimators import program
from automl.estimators.errors import ArtifactError
from automl.estimators.program_trees import EQ, Trees

UNARY = frozenset("Relu Selu Elu Sigmoid Tanh Neg Exp Log Abs Sqrt Reciprocal Softplus Erf".split())  # noqa: SIM905
BINARY = frozenset("Add Sub Mul Div Max Min Pow".split())  # noqa: SIM905
REDUCE = frozenset("ReduceSum ReduceMean ReduceMax ReduceMin ReduceSumSquare".split())  # noqa: SIM905
SHAPING = frozenset("Reshape Unsqueeze Squeeze Flatten Identity Transpose".split())  # noqa: SIM905


@dataclass(frozen=True)
class Vector:
    """The result of step `step` (0 is the encoded row), `shape` as the graph sees it for one row."""

    step: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Step:
    """One step, which writes `size` numbers.

    `op` and what `data` holds for it:
    "pick" (index: positions of the input), "join" (the inputs, one after another), "dense" (weights (d, m), bias (m,); every d
    numbers become m),
    "unary" (call: an ONNX operator, alpha, gamma), "binary" (call; an input is a Vector or a constant; index: how each
    Vector's numbers are taken, (times, over): number i is i / over % times), "softmax" (length of each group), "reduce"
    (call, length of each group), "smallest" (the k smallest numbers, equal ones by position), "places" (their positions), "rows" (table (r, o):
    its rows at the positions), "trees" (trees: `program_trees.Trees`).
    """

    op: str
    inputs: tuple[Any, ...]
    size: int
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RowGraph:
    """The steps of one row; `y` is the result, a Vector or a constant."""

    width: int
    steps: list[Step]
    y: Any

    @property
    def read_steps(self) -> set[int]:
        """The numbers of the steps that another step or the result reads: of TopK's two it may be one."""
        values = [self.y, *(value for step in self.steps for value in step.inputs)]
        return {value.step for value in values if isinstance(value, Vector)}


def read(graph: bytes, form: str) -> RowGraph:
    """The steps of an artifact's `model.onnx`. Raises ArtifactError naming the operator that is not known, and `form`."""
    found = program.read(graph)
    known: dict[str, Any] = {"": None, found.input: Vector(0, (1, found.width)), **found.constants}
    builder = _Builder(form)
    for step in found.steps:
        inputs = [known[name] for name in step.inputs]
        if step.trees is not None:
            outputs = [builder.trees(inputs[0], step.trees)]
        else:
            outputs = builder.node(step.op, inputs, step.attributes)
        known.update(zip(step.outputs, outputs, strict=False))
    return RowGraph(found.width, builder.steps, known[found.output])


class _Builder:
    def __init__(self, form: str) -> None:
        self.form = form
        self.steps: list[Step] = []

    def refuse(self, why: str) -> ArtifactError:
        return ArtifactError(f"format {self.form!r} cannot hold this model: {why}; formats 'onnx' and 'bundle' hold it")

    def step(self, op: str, inputs: Sequence[Any], shape: Sequence[int], **data: Any) -> Vector:
        shape = tuple(int(side) for side in shape)
        self.steps.append(Step(op, tuple(inputs), math.prod(shape), data))
        return Vector(len(self.steps), shape)

    def node(self, op: str, inputs: list[Any], a: Mapping[str, Any]) -> list[Any]:
        """The outputs of one operator."""
        if op == "Shape":
            return [np.array(_shape(inputs[0]), np.int64)[a.get("start", 0) : a.get("end")]]
        if not any(isinstance(value, Vector) for value in inputs):
            return [self.constant(op, inputs, a)]
        if op in UNARY:
            return [self.step("unary", inputs[:1], inputs[0].shape, call=op, **_numbers(a, "alpha", "gamma"))]
        if op in BINARY:
            return [self.binary(op, *inputs)]
        if op == "Clip":
            low, high = (*inputs[1:], None)[:2]
            value = inputs[0] if low is None else self.binary("Max", inputs[0], low)
            return [value if high is None else self.binary("Min", value, high)]
        if op in REDUCE:
            return [self.reduce(op, inputs, a)]
        if op in SHAPING:
            return [self.shaped(op, inputs, a)]
        method: Callable[..., list[Any]] | None = getattr(self, f"on_{op.lower()}", None)
        if method is None:
            raise self.refuse(f"its graph has the operator {op}")
        return method(inputs, a)

    # what is constant

    def constant(self, op: str, inputs: list[Any], a: Mapping[str, Any]) -> Any:
        folded: dict[str, Callable[..., Any]] = {
            "Concat": lambda *parts: np.concatenate(parts, axis=a.get("axis", 0)),
            "Expand": lambda value, shape: value * np.ones(shape, value.dtype),
            "Identity": lambda value: value,
            "Cast": lambda value: value.astype(_type(a["to"])),
            "Transpose": lambda value: np.transpose(value, a.get("perm")),
            "Reshape": lambda value, shape: np.reshape(value, shape),
            "Unsqueeze": lambda value, axes: np.expand_dims(value, tuple(axes.tolist())),
            "Add": np.add,
            "Sub": np.subtract,
            "Mul": np.multiply,
            "Div": np.divide,
            "DequantizeLinear": lambda *parts: _dequantized(a.get("axis", 1), *parts),
            "Sigmoid": lambda value: (1.0 / (1.0 + np.exp(-value.astype(np.float64)))).astype(value.dtype),
        }
        if op not in folded or any(value is None for value in inputs):
            raise self.refuse(f"its graph has the operator {op} on constants")
        return folded[op](*inputs)

    # one operator each

    def binary(self, call: str, *inputs: Any) -> Any:
        first, second, *more = inputs
        shape = np.broadcast_shapes(_shape(first), _shape(second))
        operands: list[Any] = []
        index: list[tuple[int, int]] = []
        for value in (first, second):
            if isinstance(value, Vector):
                operands.append(value)
                index.append(self.index(value.shape, shape))
            else:
                flat = np.asarray(value, np.float32)
                operands.append(flat.reshape(-1) if flat.size == 1 else np.broadcast_to(flat, shape).reshape(-1))
                index.append((1, 1) if flat.size == 1 else (math.prod(shape), 1))
        found = self.step("binary", operands, shape, call=call, index=index)
        return self.binary(call, found, *more) if more else found

    def index(self, shape: tuple[int, ...], wanted: tuple[int, ...]) -> tuple[int, int]:
        """(times, over) by which number i of the result reads number i / over % times of an operand that is broadcast."""
        places = np.broadcast_to(np.arange(math.prod(shape)).reshape(shape), wanted).reshape(-1)
        times = math.prod(shape)
        over = int(np.argmax(places > 0)) if times > 1 else 1
        if not np.array_equal(places, np.arange(len(places)) // over % times):
            raise self.refuse(f"its graph combines the shapes {shape} and {wanted}")
        return times, over

    def reduce(self, op: str, inputs: list[Any], a: Mapping[str, Any]) -> Any:
        value, axes = inputs[0], (inputs[1].tolist() if len(inputs) > 1 else a.get("axes"))
        if axes is None or [axis % len(value.shape) for axis in axes] != [len(value.shape) - 1]:
            raise self.refuse(f"its graph has {op} over other axes than the last")
        shape = (*value.shape[:-1], 1) if a.get("keepdims", 1) else value.shape[:-1]
        return self.step("reduce", [value], shape, call=op, length=value.shape[-1])

    def shaped(self, op: str, inputs: list[Any], a: Mapping[str, Any]) -> Any:
        value = inputs[0]
        order = np.arange(value.size).reshape(value.shape)
        if op == "Reshape":
            sides = [value.shape[i] if side == 0 else side for i, side in enumerate(inputs[1].tolist())]
            order = order.reshape(sides)
        elif op in ("Unsqueeze", "Squeeze"):
            axes = tuple(inputs[1].tolist()) if len(inputs) > 1 else tuple(a.get("axes", ())) or None
            order = np.expand_dims(order, axes or ()) if op == "Unsqueeze" else np.squeeze(order, axes)
        elif op == "Transpose":
            order = np.transpose(order, a.get("perm"))
        elif op == "Flatten":
            order = order.reshape(1, -1)
        flat = order.reshape(-1)
        if np.array_equal(flat, np.arange(len(flat))):
            return Vector(value.step, order.shape)
        return self.step("pick", [value], order.shape, index=flat)

    def on_gemm(self, inputs: list[Any], a: Mapping[str, Any]) -> list[Any]:
        x, weights = inputs[:2]
        bias = inputs[2] if len(inputs) > 2 else None
        if not isinstance(x, Vector) or isinstance(weights, Vector) or isinstance(bias, Vector) or a.get("transA"):
            raise self.refuse("its graph multiplies two results")
        weights = (weights.T if a.get("transB") else weights) * np.float32(a.get("alpha", 1.0))
        bias = np.zeros(weights.shape[1], np.float32) if bias is None else bias * np.float32(a.get("beta", 1.0))
        return [self.dense(x, weights, np.broadcast_to(bias.reshape(-1), weights.shape[1]))]

    def on_matmul(self, inputs: list[Any], a: Mapping[str, Any]) -> list[Any]:
        x, weights = inputs
        if not isinstance(x, Vector) or isinstance(weights, Vector) or weights.ndim != 2:
            raise self.refuse("its graph multiplies two results, or stacks of matrices")
        return [self.dense(x, weights, np.zeros(weights.shape[1], np.float32))]

    def dense(self, x: Vector, weights: Any, bias: Any) -> Vector:
        if x.shape[-1] != weights.shape[0]:
            raise self.refuse(f"its graph multiplies the shapes {x.shape} and {weights.shape}")
        weights, bias = (np.asarray(part, np.float32) for part in (weights, bias))
        return self.step("dense", [x], (*x.shape[:-1], weights.shape[1]), weights=weights, bias=bias)

    def on_softmax(self, inputs: list[Any], a: Mapping[str, Any]) -> list[Any]:
        x = inputs[0]
        if a.get("axis", -1) % len(x.shape) != len(x.shape) - 1:
            raise self.refuse("its graph has Softmax over another axis than the last")
        return [self.step("softmax", [x], x.shape, length=x.shape[-1])]

    def on_tile(self, inputs: list[Any], a: Mapping[str, Any]) -> list[Any]:
        order = np.tile(np.arange(inputs[0].size).reshape(inputs[0].shape), inputs[1].tolist())
        return [self.step("pick", inputs[:1], order.shape, index=order.reshape(-1))]

    def on_gather(self, inputs: list[Any], a: Mapping[str, Any]) -> list[Any]:
        data, index = inputs
        axis = a.get("axis", 0)
        if isinstance(data, Vector) and not isinstance(index, Vector):
            order = np.take(np.arange(data.size).reshape(data.shape), index, axis=axis)
            return [self.step("pick", [data], order.shape, index=order.reshape(-1))]
        if isinstance(data, Vector) or axis != 0:
            raise self.refuse("its graph has Gather at places that are results")
        shape = (*index.shape, *data.shape[1:])
        table = np.asarray(data, np.float32).reshape(data.shape[0], -1)
        return [self.step("rows", [index], shape, table=table)]

    def on_concat(self, inputs: list[Any], a: Mapping[str, Any]) -> list[Any]:
        if any(not isinstance(value, Vector) for value in inputs):
            raise self.refuse("its graph has Concat of results and constants")
        starts = np.cumsum([0, *(value.size for value in inputs)])
        parts = [np.arange(s, s + v.size).reshape(v.shape) for s, v in zip(starts, inputs, strict=False)]
        order = np.concatenate(parts, axis=a["axis"])
        if not np.array_equal(order.reshape(-1), np.arange(order.size)):
            raise self.refuse("its graph has Concat over other axes than the last")
        return [self.step("join", inputs, order.shape)]

    def on_slice(self, inputs: list[Any], a: Mapping[str, Any]) -> list[Any]:
        value, *bounds = inputs
        order = np.arange(value.size).reshape(value.shape)
        starts, ends, axes, steps = ([None if part is None else part.tolist() for part in bounds] + [None, None])[:4]
        count = len(starts or ())
        for i in range(count):
            axis, by = axes[i] if axes else i, steps[i] if steps else 1
            start, end = (starts or ())[i], (ends or ())[i]
            order = order[(slice(None),) * (axis % order.ndim) + (slice(start, end, by),)]
        return [self.step("pick", [value], order.shape, index=order.reshape(-1))]

    def on_topk(self, inputs: list[Any], a: Mapping[str, Any]) -> list[Any]:
        x, k = inputs[0], int(inputs[1].reshape(-1)[0])
        if a.get("largest", 1) or x.shape[-1] != x.size or a.get("axis", -1) % len(x.shape) != len(x.shape) - 1:
            raise self.refuse("its graph has another TopK than of the smallest")
        shape = (*x.shape[:-1], k)
        return [self.step("smallest", [x], shape), self.step("places", [x], shape)]

    def trees(self, x: Any, found: Trees) -> Vector:
        if found.aggregate != "sum":
            raise self.refuse(f"its trees are joined by their {found.aggregate}")
        if not isinstance(x, Vector) or len(x.shape) != 2:
            raise self.refuse("its trees read something else than a row")
        return self.step("trees", [x], (1, found.outputs), trees=found)


def members(trees: Trees, split: int) -> list[float]:
    """The codes of a split that asks for one or several of them, ascending."""
    if trees.mode[split] == EQ:
        return [float(trees.threshold[split])]
    return sorted(set(trees.members[trees.first[split] : trees.last[split]].tolist()))


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value.shape)


def _numbers(attributes: Mapping[str, Any], *names: str) -> dict[str, float]:
    return {name: float(attributes[name]) for name in names if name in attributes}


def _type(number: int) -> Any:
    types = {1: np.float32, 6: np.int32, 7: np.int64, 10: np.float16, 11: np.float64}
    if number not in types:
        raise ArtifactError(f"the graph is refused: a constant is cast to the element type {number}")
    return types[number]


def _dequantized(axis: int, values: Any, scale: Any, zero: Any = None) -> Any:
    """What DequantizeLinear makes of whole numbers: (value - zero) scale, one scale or one for each place of an axis."""
    shape = [1] * values.ndim
    if np.size(scale) > 1:
        shape[axis] = np.size(scale)
    moved = values.astype(np.int32) - (0 if zero is None else np.reshape(zero, shape).astype(np.int32))
    return moved.astype(np.float32) * np.reshape(scale, shape).astype(np.float32)
