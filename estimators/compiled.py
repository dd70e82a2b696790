"""The compiled engine: a graph laid out once as flat arrays, which one C library (`kernel.c`) runs for every model.

`Engine(model)` reads the graph (`program.py`), lays its steps out as operations of the kernel, and runs rows through them:
no onnxruntime, and no build per model. A graph with a step that the kernel lacks raises `NotLoweredError`, a machine
without the library `NoLibraryError` (`native.py`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import compiled_row, native
from .compiled_trees import NARROW_NODE, TREE, WIDE_NODE, NotLoweredError, lay_out
from .program import Program, Step, read
from .runtime import RowBuffer, RowEncoder

GEMM, DOT, GATHER, FILL, COPY, SOFTMAX = 3, 4, 5, 6, 7, 8
BINARY = {"Add": 16, "Sub": 17, "Mul": 18, "Div": 19, "Max": 20, "Min": 21, "Pow": 22}
UNARY = {
    "Neg": 32, "Relu": 33, "Selu": 34, "Sigmoid": 35, "Clip": 36, "Exp": 37, "Tanh": 38, "Reciprocal": 39, "Sqrt": 40,
    "Abs": 41, "LeakyRelu": 42, "Elu": 43,
}  # fmt: skip
PANEL, FEW = 32, 4
"""Columns of a matrix that are multiplied together; up to so many outputs are dot products."""
BLOCK_FLOATS, BLOCK_ROWS = 65_536, 64
"""Rows run together so that their values stay in a core's cache."""
OPERATION = np.dtype(
    [(n, "i8") for n in ("kind", "left", "right", "out", "width", "inner", "count", "flags", "temporary", *"abcdefg")]
    + [("alpha", "f8"), ("beta", "f8")]
)
PLACE = np.dtype([("offset", "i8"), ("stride", "i8")])
PROGRAM = np.dtype([(n, "i8") for n in ("operations", "places", "count", "output", "outputs", "block", "temporary")])
CALL = np.dtype([(n, "i8") for n in ("what", "x", "y", "scratch", "rows")])


class _Rows(NamedTuple):
    """A value with one row for each row of x: its number and width."""

    number: int
    width: int


class _Shape(NamedTuple):
    """A shape: the number of rows, and the sides after it."""

    sides: tuple[int, ...]


_Value = Any
"""_Rows, _Shape, or a constant array."""


class Lowered:
    """A program as the kernel's arrays. Raises NotLoweredError."""

    def __init__(self, program: Program) -> None:
        self.width = program.width
        self._operations: list[dict[str, Any]] = []
        self._strides = [program.width]
        self._kept: list[NDArray[Any]] = []  # what the operations point into
        self._temporary = 0
        known: dict[str, _Value] = {program.input: _Rows(0, program.width), "": None, **program.constants}
        for step in program.steps:
            given = [known[name] for name in step.inputs]
            known[step.outputs[0]] = self._step(step, given)
            for other in step.outputs[1:]:
                known[other] = None
        output = known[program.output]
        if not isinstance(output, _Rows):
            raise NotLoweredError("its output does not hang on its input")
        self._finish(output)

    # -- steps --------------------------------------------------------------------------------------------------------

    def _step(self, step: Step, given: list[_Value]) -> _Value:
        if not any(isinstance(value, (_Rows, _Shape)) for value in given):
            return _folded(step, given)
        if step.trees is not None:
            return self._trees(step, given[0])
        lower = _STEPS.get(step.op)
        if lower is None:
            raise NotLoweredError(f"it has no {step.op}")
        if None in [value for value in given[:1] if not isinstance(value, np.ndarray)]:
            raise NotLoweredError(f"{step.op} reads what is not computed")
        return lower(self, step, given)

    def _rows(self, value: _Value, op: str) -> _Rows:
        if not isinstance(value, _Rows):
            raise NotLoweredError(f"it has no {op} of constants or shapes")
        return value

    def _new(self, width: int, padded: int = 0) -> _Rows:
        self._strides.append(-(-max(width, padded) // 16) * 16)
        return _Rows(len(self._strides) - 1, width)

    def _keep(self, array: Any, dtype: Any) -> int:
        kept = np.ascontiguousarray(array, dtype)
        if not kept.size:
            kept = np.zeros(1, dtype)
        self._kept.append(kept)
        return int(kept.ctypes.data)

    def _add(self, kind: int, out: _Rows, left: int = -1, **fields: Any) -> _Rows:
        self._operations.append(
            {"kind": kind, "left": left, "right": -1, "out": out.number, "width": out.width, **fields}
        )
        return out

    def _trees(self, step: Step, x: _Value) -> _Rows:
        assert step.trees is not None
        x = self._rows(x, "tree ensemble")
        laid = lay_out(step.trees, x.width)
        outputs, slots = step.trees.outputs, len(laid.column)
        self._temporary = max(self._temporary, 16 * outputs + 16 * (slots + 1))
        return self._add(
            laid.operation,
            self._new(outputs),
            x.number,
            inner=len(laid.trees),
            count=slots,
            flags=laid.base_at,
            a=self._keep(laid.nodes, laid.nodes.dtype),
            b=self._keep(laid.column, np.int32),
            c=self._keep(laid.kind, np.int32),
            d=self._keep(laid.last, np.int32),
            e=self._keep(laid.sets, np.uint32),
            f=self._keep(laid.trees, TREE),
            g=self._keep(laid.leaves, np.float32),
            alpha=laid.scale,
        )

    def _product(self, x: _Rows, weights: Any, bias: Any) -> _Rows:
        """x @ weights (k, m) + bias (m,)."""
        if weights.ndim != 2 or weights.shape[0] != x.width or weights.dtype != np.float32 or not x.width:
            raise NotLoweredError("a product is not one of float32 rows with a constant matrix")
        inner, outputs = weights.shape
        bias = np.zeros(outputs, np.float32) if bias is None else np.broadcast_to(bias.reshape(-1), outputs)
        if outputs <= FEW:
            given = {"a": self._keep(weights.T, np.float32), "b": self._keep(bias, np.float32)}
            return self._add(DOT, self._new(outputs), x.number, inner=inner, **given)
        panels = -(-outputs // PANEL)
        packed = np.zeros((inner, panels * PANEL), np.float32)
        packed[:, :outputs] = weights
        packed = packed.reshape(inner, panels, PANEL).transpose(1, 0, 2)
        padded = np.zeros(panels * PANEL, np.float32)
        padded[:outputs] = bias
        given = {"a": self._keep(packed, np.float32), "b": self._keep(padded, np.float32)}
        return self._add(GEMM, self._new(outputs, panels * PANEL), x.number, inner=inner, count=panels, **given)

    def _gemm(self, step: Step, given: list[_Value]) -> _Rows:
        x, weights = self._rows(given[0], step.op), given[1]
        bias = given[2] if len(given) > 2 else None
        alpha, beta = float(step.attributes.get("alpha", 1.0)), float(step.attributes.get("beta", 1.0))
        if not isinstance(weights, np.ndarray) or isinstance(bias, (_Rows, _Shape)) or step.attributes.get("transA", 0):
            raise NotLoweredError("a product is not one of float32 rows with a constant matrix")
        if bias is not None and (bias.dtype != np.float32 or bias.size not in (1, bias.shape[-1] if bias.ndim else 1)):
            raise NotLoweredError("a product adds a matrix")
        weights = weights.T if step.attributes.get("transB", 0) else weights
        weights = weights if alpha == 1.0 else weights * np.float32(alpha)
        return self._product(x, weights, bias if bias is None or beta == 1.0 else bias * np.float32(beta))

    def _matmul(self, step: Step, given: list[_Value]) -> _Rows:
        if not isinstance(given[1], np.ndarray):
            raise NotLoweredError("a product is not one of float32 rows with a constant matrix")
        return self._product(self._rows(given[0], step.op), given[1], None)

    def _binary(self, step: Step, given: list[_Value]) -> _Rows:
        total = given[0]
        for other in given[1:]:
            total = self._pair(step.op, total, other)
        if len(given) < 2:
            raise NotLoweredError(f"{step.op} of one value")
        return self._rows(total, step.op)

    def _pair(self, op: str, left: _Value, right: _Value) -> _Rows:
        widths = [value.width if isinstance(value, _Rows) else _constant_width(value, op) for value in (left, right)]
        width = max(widths)
        if any(w not in (1, width) for w in widths):
            raise NotLoweredError(f"{op} of rows of different widths")
        fields: dict[str, Any] = {"flags": sum(bit for bit, w in zip((1, 2), widths, strict=True) if w < width)}
        for side, key, value in (("left", "a", left), ("right", "b", right)):
            if isinstance(value, _Rows):
                fields[side] = value.number
            else:
                fields[key] = self._keep(value.reshape(-1), np.float32)
        return self._add(BINARY[op], self._new(width), **fields)

    def _unary(self, step: Step, given: list[_Value]) -> _Rows:
        x = self._rows(given[0], step.op)
        alpha, beta = float(step.attributes.get("alpha", _ALPHAS.get(step.op, 0.0))), 0.0
        if step.op == "Selu":
            beta = float(step.attributes.get("gamma", 1.0507010221481323))
        if step.op == "Clip":
            low, high = (given[i] if len(given) > i else None for i in (1, 2))
            if any(isinstance(bound, (_Rows, _Shape)) for bound in (low, high)):
                raise NotLoweredError("Clip has bounds that are computed")
            alpha = -np.inf if low is None else float(low.reshape(-1)[0])
            beta = np.inf if high is None else float(high.reshape(-1)[0])
        return self._add(UNARY[step.op], self._new(x.width), x.number, alpha=alpha, beta=beta)

    def _softmax(self, step: Step, given: list[_Value]) -> _Rows:
        x = self._rows(given[0], step.op)
        if step.attributes.get("axis", -1) not in (1, -1):
            raise NotLoweredError("Softmax runs along the rows")
        return self._add(SOFTMAX, self._new(x.width), x.number)

    def _gather(self, step: Step, given: list[_Value]) -> _Rows:
        x, places = self._rows(given[0], step.op), given[1]
        if step.attributes.get("axis", 0) not in (1, -1) or not isinstance(places, np.ndarray) or places.ndim != 1:
            raise NotLoweredError("Gather takes other than constant columns")
        places = np.where(places < 0, places + x.width, places)
        if ((places < 0) | (places >= x.width)).any():
            raise NotLoweredError("Gather takes columns that are not there")
        return self._add(GATHER, self._new(len(places)), x.number, b=self._keep(places, np.int32))

    def _concat(self, step: Step, given: list[_Value]) -> _Value:
        if isinstance(given[0], _Shape):
            sides = [value.sides if isinstance(value, _Shape) else tuple(value.tolist()) for value in given]
            return _Shape(tuple(side for part in sides for side in part))
        parts = [self._rows(value, step.op) for value in given]
        if step.attributes.get("axis", 0) not in (1, -1):
            raise NotLoweredError("Concat adds rows")
        out, start = self._new(sum(part.width for part in parts)), 0
        for part in parts:
            self._add(COPY, out, part.number, inner=start)
            self._operations[-1]["width"] = part.width
            start += part.width
        return out

    def _shape(self, step: Step, given: list[_Value]) -> _Shape:
        if (step.attributes.get("start", 0), step.attributes.get("end")) != (0, 1):
            raise NotLoweredError("it uses a shape beside the number of rows")
        return _Shape(())

    def _expand(self, step: Step, given: list[_Value]) -> _Rows:
        row, shape = given
        if not isinstance(row, np.ndarray) or not isinstance(shape, _Shape) or row.size != row.shape[-1]:
            raise NotLoweredError("Expand is not of one constant row")
        if shape.sides not in ((1,), (row.size,)) or row.dtype != np.float32:
            raise NotLoweredError("Expand is not of one constant row")
        return self._add(FILL, self._new(row.size), inner=0, a=self._keep(row.reshape(-1), np.float32))

    def _identity(self, step: Step, given: list[_Value]) -> _Value:
        return given[0]

    # -- the whole ----------------------------------------------------------------------------------------------------

    def _finish(self, output: _Rows) -> None:
        self.outputs = output.width
        self._table = np.zeros(len(self._operations), OPERATION)
        temporary = -(-self._temporary // 16) * 16
        for row, fields in zip(self._table, self._operations, strict=True):
            for name, value in fields.items():
                row[name] = value
        self._places = np.zeros(len(self._strides), PLACE)
        self._places["stride"] = self._strides
        self._places["offset"][1:] = np.cumsum(self._strides[1:]) - self._strides[1:]
        total = sum(self._strides[1:])
        block = max(8, min(BLOCK_ROWS, BLOCK_FLOATS // max(1, total)) // 8 * 8)
        self.scratch = temporary + total * block + 16
        """Floats that a call needs."""
        self.bytes = sum(kept.nbytes for kept in self._kept)
        self.program = np.zeros(1, PROGRAM)
        self.program[0] = (
            self._table.ctypes.data, self._places.ctypes.data, len(self._table), output.number, output.width, block, temporary,
        )  # fmt: skip


_ALPHAS = {"Selu": 1.6732631921768188, "LeakyRelu": 0.01, "Elu": 1.0}
_STEPS: dict[str, Callable[[Lowered, Step, list[_Value]], _Value]] = {
    "Gemm": Lowered._gemm,
    "MatMul": Lowered._matmul,
    "Softmax": Lowered._softmax,
    "Gather": Lowered._gather,
    "Concat": Lowered._concat,
    "Shape": Lowered._shape,
    "Expand": Lowered._expand,
    "Identity": Lowered._identity,
    **dict.fromkeys(BINARY, Lowered._binary),
    **dict.fromkeys(UNARY, Lowered._unary),
}


def _constant_width(value: Any, op: str) -> int:
    """The width of a constant that stands beside rows: a number, or one row."""
    if not isinstance(value, np.ndarray) or value.dtype != np.float32 or value.ndim > 2 or not value.size:
        raise NotLoweredError(f"{op} reads a constant that is no row of float32")
    if value.ndim == 2 and value.shape[0] != 1:
        raise NotLoweredError(f"{op} reads a constant that is no row of float32")
    return int(value.size)


def _folded(step: Step, given: list[Any]) -> NDArray[Any]:
    """A step of constants alone, such as narrow weights that are widened."""
    kinds = {1: np.float32, 6: np.int32, 7: np.int64}
    if step.op == "Identity":
        return np.asarray(given[0])
    if step.op == "Cast" and step.attributes.get("to") in kinds:
        return np.asarray(given[0].astype(kinds[step.attributes["to"]]))
    if step.op == "DequantizeLinear" and given[0].ndim <= 2:
        values, scale = given[0].astype(np.float32), given[1].astype(np.float32)
        zero = given[2].astype(np.float32) if len(given) > 2 and given[2] is not None else np.zeros_like(scale)
        if scale.ndim == 1 and scale.size > 1:
            shape = [1] * values.ndim
            shape[step.attributes.get("axis", 1)] = -1
            scale, zero = scale.reshape(shape), zero.reshape(shape)
        return np.asarray((values - zero) * scale, np.float32)
    raise NotLoweredError(f"it has no {step.op} of constants")


def refusal(model: bytes) -> str | None:
    """Why the compiled engine cannot run this graph, wherever it is; None where it can. Raises ArtifactError."""
    try:
        Lowered(read(model))
    except NotLoweredError as error:
        return str(error)
    return None


def _aligned(floats: int) -> NDArray[np.float32]:
    """Memory that begins at a whole vector, so that every row's vectors do."""
    flat = np.empty(floats + 16, np.float32)
    start = -flat.ctypes.data % 64 // 4
    return flat[start : start + floats]


class Engine:
    """A graph on the kernel: `width` columns to `outputs`, if they are given, for graphs of other ones are refused.

    Raises ArtifactError, NotLoweredError, NoLibraryError. It may be used from several threads at once; while a call runs, the
    interpreter's lock is free.
    """

    name = "compiled"

    def __init__(self, model: bytes, width: int | None = None, outputs: int | None = None) -> None:
        self._lowered = Lowered(read(model))
        self.width, self.outputs = self._lowered.width, self._lowered.outputs
        wanted = (self.width if width is None else width, self.outputs if outputs is None else outputs)
        if wanted != (self.width, self.outputs):
            raise NotLoweredError(
                f"the graph makes {self.outputs} of {self.width} columns, not {wanted[1]} of {wanted[0]}"
            )
        library = native.library()
        sizes = (ctypes.c_int64 * native.SIZES)()
        library.kernel_sizes(sizes)
        ours = [dtype.itemsize for dtype in (NARROW_NODE, WIDE_NODE, TREE, OPERATION, PLACE, PROGRAM, CALL)]
        if list(sizes) != ours:
            raise native.NoLibraryError(f"the library's structures are of {list(sizes)} bytes, not {ours}")
        self._call = library.kernel_run
        self._call.restype = ctypes.c_int64
        call, kept = self._prepared(np.zeros((1, self.width), np.float32), np.zeros((1, self.outputs), np.float32))
        failed = self._call(call)
        del kept
        if failed:
            raise native.NoLibraryError(f"the library does not know operation {failed - 1} of the graph")

    def run(self, x: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Fills `out` (n, outputs), contiguous, from `x` (n, width)."""
        x = np.ascontiguousarray(x, np.float32)
        if x.shape != (len(out), self.width) or out.shape[1] != self.outputs or not out.flags.c_contiguous:
            raise ValueError(f"{x.shape} and {out.shape} are not rows of {self.width} and {self.outputs} columns")
        if len(x):
            call, kept = self._prepared(x, out)
            self._call(call)
            del kept

    def bind(self, x: NDArray[np.float32], out: NDArray[np.float32]) -> tuple[Callable[[], Any], Any]:
        """(a call that fills `out` (1, outputs) from `x` (1, width), what must be kept alive for it)."""
        call, kept = self._prepared(x, out)
        return partial(self._call, call), (kept, self)

    def lower(self, encoder: RowEncoder, buffer: RowBuffer, answer: NDArray[np.float32]) -> compiled_row.Lowered | None:
        """Methods that take a raw row to the end of `answer` in one call; None where there are none (`compiled_row.py`)."""
        out = answer[-self.outputs :].reshape(1, -1)
        _, kept = self._prepared(buffer.array, out)
        return compiled_row.lower(encoder, buffer, answer, self.outputs, kept[0], (kept, self), self._lowered.bytes)

    def _prepared(self, x: NDArray[np.float32], out: NDArray[np.float32]) -> tuple[Any, Any]:
        scratch = _aligned(self._lowered.scratch)
        call = np.zeros(1, CALL)
        call[0] = (self._lowered.program.ctypes.data, x.ctypes.data, out.ctypes.data, scratch.ctypes.data, len(x))
        return ctypes.c_void_p(call.ctypes.data), (call, scratch, x, out)
