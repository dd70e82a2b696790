"""One raw row to its prediction in one C call (`kernel_row.c`): the encoder's tables laid out beside the compiled engine.

`lower(...)` gives methods that read a dict's or a tuple's cells, encode them and run the kernel, without Python in between.
They hold the interpreter's lock, except where the model is large. Everything that they do not know they leave to Python: they
return True, and `RowEncoder` reads the row instead, with the same bits for all that both can read.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import native, runtime
from .runtime import MISSING, NA_STRINGS, UNSEEN, Column, RowBuffer, RowEncoder

NUMBER, SCALED, ABSENT, SHIFTED, SPLIT, ORDINAL, TARGET, ONEHOT, HASHED = range(9)
COLUMN = np.dtype(
    [(n, "i8") for n in ("key", "codes", "numbers", "cell", "kind", "place", "width", "other", "missing")]
    + [("a", "f8"), ("b", "f8"), ("rows", "i8")]
)
PLAN = np.dtype(
    [(n, "i8") for n in ("columns", "what", "row", "first", "second", "count", "packed", "width", "unlock")]
)
UNLOCK_BYTES = 262_144
"""A model of so many bytes runs for 10 us or more: other threads go on meanwhile. Giving the lock away costs 0.1 us."""
_METHOD_O, _METHOD_NOARGS = 0x0008, 0x0004
_FUNCTIONS = (
    "PyCapsule_GetPointer",
    "PyDict_GetItemWithError",
    "PyTuple_GetItem",
    "PyFloat_AsDouble",
    "PyLong_AsLongLong",
    "PyUnicode_AsUTF8AndSize",
    "PyObject_Type",
    "Py_IncRef",
    "Py_DecRef",
    "PyErr_Occurred",
    "PyErr_Clear",
    "PyEval_SaveThread",
    "PyEval_RestoreThread",
)
_MISSING_TEXTS: dict[Any, bool] = dict.fromkeys(NA_STRINGS, True)
_OBJECTS = (None, True, False, "True", "False", str, int, float, _MISSING_TEXTS)
_lock = threading.Lock()
_handed_over: list[bool] = []


class _Method(ctypes.Structure):
    """`PyMethodDef` of CPython's stable ABI."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


class Lowered(NamedTuple):
    """What takes a row: `of_dict(row)` and `of_tuple(cells)`, None where a prediction lies in the answer; `encoded()` predicts."""

    of_dict: Callable[[Any], Any]
    of_tuple: Callable[[Any], Any]
    encoded: Callable[[], Any]


def lower(
    encoder: RowEncoder,
    buffer: RowBuffer,
    answer: NDArray[np.float32],
    made: int,
    call: NDArray[Any],
    kept: Any,
    size: int,
) -> Lowered | None:
    """The row's methods for a prepared `call` of the kernel, from `buffer` into the last `made` numbers of `answer`.

    Where `answer` has two numbers and the graph makes one, the first becomes 1 minus the second. `kept` is what must live as
    long; `size` the bytes of the model. None where this Python is not CPython with its lock.
    """
    library = _library()
    if library is None:
        return None
    columns, rest = _columns(encoder)
    names = COLUMN.names or ()
    table = np.array([tuple(_plain(fields.get(name, 0)) for name in names) for fields in columns], COLUMN)
    whole, alone = np.zeros(1, PLAN), np.zeros(1, PLAN)
    outputs = answer.ctypes.data
    second = outputs + 4 * (answer.size - made)
    first = outputs if answer.size == 2 and made == 1 else 0
    what, place = call.ctypes.data, buffer.array.ctypes.data
    sizes = (len(columns), encoder.packed, encoder.width, size >= UNLOCK_BYTES)
    whole[0] = (table.ctypes.data, what, place, first, second, *sizes)
    alone[0] = (table.ctypes.data, 0, place, first, second, *sizes)
    alive = (columns, table, whole, alone, call, kept, buffer, answer)
    encoded: Any = _method(library.row_encoded, _METHOD_NOARGS, whole, alive)
    plan = alone if rest else whole
    of_dict: Any = _method(library.row_of_dict, _METHOD_O, plan, alive)
    of_tuple: Any = _method(library.row_of_tuple, _METHOD_O, plan, alive)
    if not rest:
        return Lowered(of_dict, of_tuple, encoded)
    return _with_rest(encoder, buffer, rest, Lowered(of_dict, of_tuple, encoded))


def _with_rest(encoder: RowEncoder, buffer: RowBuffer, rest: Sequence[tuple[int, Column]], plain: Lowered) -> Lowered:
    """The methods where Python encodes the entries `rest` (dates, texts, sparse blocks) of every row."""
    blocks = any(type(entry) is runtime.Block for _, entry in rest)
    others = [(entry, entry.name, i, encoder.starts[i]) for i, entry in rest if type(entry) is not runtime.Block]
    floats, encoded = buffer.floats, plain.encoded

    def write(entry: Any, value: object, start: int) -> None:
        if type(entry) is runtime.Text:
            entry.write(value, floats, start)
        else:
            for place, number in enumerate(entry.cell(value), start):
                floats[place] = min(max(number, -runtime.FLOAT_MAX), runtime.FLOAT_MAX) if number == number else number

    def of_dict(row: Any) -> Any:
        if plain.of_dict(row):
            return True
        try:
            for entry, name, _, start in others:
                write(entry, row[name], start)
            if blocks:
                encoder.fill_blocks(row, buffer)
        except (KeyError, ValueError):  # said by the encoder, which reads the row again
            return True
        return encoded()

    def of_tuple(cells: Any) -> Any:
        if blocks or plain.of_tuple(cells):
            return True
        try:
            for entry, _, i, start in others:
                write(entry, cells[i], start)
        except runtime.CellError:
            return True
        return encoded()

    return Lowered(of_dict, of_tuple, encoded)


def _columns(encoder: RowEncoder) -> tuple[list[dict[str, Any]], list[tuple[int, Column]]]:
    """The fields of the entries that the kernel encodes, and the entries (with their numbers) that it does not."""
    columns: list[dict[str, Any]] = []
    rest: list[tuple[int, Column]] = []
    for i, entry in enumerate(encoder.entries):
        fields = _fields(entry)
        if fields is None:
            rest.append((i, entry))
        else:
            columns.append({"key": entry.name, "cell": i, "place": encoder.starts[i], "width": entry.width, **fields})
    return columns, rest


def _fields(entry: Any) -> dict[str, Any] | None:
    kind = type(entry)
    if entry.finite:
        return None
    if kind is runtime.Number:
        return {"kind": NUMBER}
    if kind is runtime.Scaled:
        return {"kind": SCALED, "a": entry.center, "b": entry.scale}
    if kind is runtime.Absent:
        return {"kind": ABSENT}
    if kind is runtime.Shifted:
        return {"kind": SPLIT if entry.split else SHIFTED, "a": entry.shift}
    if kind is runtime.Ordinal:
        return {"kind": ORDINAL, **_category(entry, lambda code: max(code, -1))}
    if kind is runtime.Target:
        rows = entry.table
        return {"kind": TARGET, "rows": rows, **_category(entry, lambda code: code % len(rows))}
    if kind is runtime.OneHot:
        return {"kind": ONEHOT, **_category(entry, lambda code: int(entry.positions[code]))}
    if kind is runtime.Hashed:
        missing = int(entry.places(MISSING))
        codes: dict[Any, int] = {None: missing, "": missing, **{level: entry.bucket(level) for level in entry.levels}}
        return {"kind": HASHED, "codes": codes, "numbers": {}, "other": entry.buckets, "missing": missing}
    return None


def _category(entry: runtime.Category, place: Callable[[int], int]) -> dict[str, Any]:
    """A category's fields: `place` is the number that is written for a code."""
    missing = place(MISSING)
    codes: dict[Any, int] = {None: missing, "": missing, **{level: place(code) for level, code in entry.codes.items()}}
    numbers = {_number_of(level): codes[level] for level in entry.codes}
    numbers.pop(None, None)
    return {"codes": codes, "numbers": numbers, "other": place(UNSEEN), "missing": missing}


def _number_of(level: str) -> float | int | None:
    """The number that `level_of` writes as this level; None where there is none."""
    for kind in (int, float):
        try:
            number = kind(level)
        except ValueError:
            continue
        if runtime.level_of(number) == level:
            return number
    return None


# -- CPython -------------------------------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """A number; of an array the address of its numbers, of a text or a dict that of the object."""
    if isinstance(value, np.ndarray):
        return value.ctypes.data
    return id(value) if isinstance(value, (str, dict)) else value


def _library() -> Any:
    """The library with the functions of CPython handed over; None where they cannot be used."""
    if sys.implementation.name != "cpython" or not getattr(sys, "_is_gil_enabled", lambda: True)():
        return None
    library = native.library()
    with _lock:
        if not _handed_over:
            pointers = [ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0 for name in _FUNCTIONS]
            table = np.asarray([*pointers, *map(id, _OBJECTS)], np.uint64)
            sizes = (ctypes.c_int64 * 3)()
            library.row_sizes(sizes)
            if list(sizes) != [table.nbytes, COLUMN.itemsize, PLAN.itemsize]:
                raise native.NoLibraryError(f"the library's structures of a row are of {list(sizes)} bytes")
            start = ctypes.cast(library.row_python, ctypes.c_void_p).value or 0
            ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(start)(
                table.ctypes.data
            )  # with the interpreter's lock, unlike library's
            _handed_over.append(True)
    return library


def _method(function: Any, flags: int, plan: NDArray[Any], alive: Any) -> Callable[..., Any]:
    """A method of the kernel's as a Python function: its `self` holds the plan, and what must live as long as it."""
    new_capsule, new_method = ctypes.pythonapi.PyCapsule_New, ctypes.pythonapi.PyCFunction_NewEx
    new_capsule.restype = new_method.restype = ctypes.py_object
    new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    new_method.argtypes = (ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
    definition = _Method(b"predict_row", ctypes.cast(function, ctypes.c_void_p).value, flags, None)
    capsule = new_capsule(plan.ctypes.data, None, None)
    method: Callable[..., Any] = new_method(ctypes.addressof(definition), (capsule, definition, plan, alive), None)
    return method
