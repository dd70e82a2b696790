"""Protocol Buffers' wire format, as far as an ONNX model needs it, without the onnx package.

https://protobuf.dev/programming-guides/encoding/, with the field numbers of onnx.proto. A graph has millions of numbers in
repeated fields, so those are decoded by numpy, a run of them at a time. Whatever is corrupt raises one of `CORRUPT`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .errors import ArtifactError as ArtifactError
else:
    try:
        from .errors import ArtifactError as ArtifactError
    except ImportError:  # beside runtime.py, without the package

        class ArtifactError(ValueError):
            """An artifact is corrupt, of an unknown format, or refused."""


CORRUPT = (ValueError, IndexError, KeyError, TypeError, OverflowError, struct.error, RecursionError)
_TYPES = {
    1: np.float32, 2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 6: np.int32, 7: np.int64, 9: np.bool_,
    10: np.float16, 11: np.float64, 12: np.uint32, 13: np.uint64,
}  # fmt: skip
MODES = {
    b"BRANCH_LEQ": 0, b"BRANCH_LT": 1, b"BRANCH_GTE": 2, b"BRANCH_GT": 3, b"BRANCH_EQ": 4, b"BRANCH_NEQ": 5, b"LEAF": 7,
}  # fmt: skip
"""The modes of the nodes of the older tree ensembles, by the numbers that the newer ones have for them."""


# --- the wire format --------------------------------------------------------------------------------------------------

_VARINT, _FIXED64, BYTES, _FIXED32 = 0, 1, 2, 5


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """(an unsigned whole number, the place after it)."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
        if shift > 63:
            raise ArtifactError("the graph is corrupt: a number is longer than 64 bits")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(field number, wire type, where its value starts, where it ends) of a message that lies from `at` to `end`."""
    while at < end:
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            first = at
            _, at = _varint(data, at)
        elif wire == BYTES:
            length, first = _varint(data, at)
            at = first + length
        elif wire in (_FIXED64, _FIXED32):
            first = at
            at += 8 if wire == _FIXED64 else 4
        else:
            raise ArtifactError(f"the graph is corrupt: wire type {wire} is not known")
        if at > end:
            raise ArtifactError("the graph is corrupt: a field reaches beyond its message")
        yield number, wire, first, at


def text(data: bytes, first: int, last: int) -> str:
    return data[first:last].decode("utf-8")


def integer(data: bytes, first: int) -> int:
    return _signed(_varint(data, first)[0])


def _varints(data: bytes, first: int, last: int) -> NDArray[np.int64]:
    """All the whole numbers that stand one after another from `first` to `last`; a torn last one is left out."""
    raw = np.frombuffer(data, np.uint8, last - first, first)
    ends = np.flatnonzero(raw < 128)
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    lengths = ends - starts + 1
    out = np.zeros(len(ends), np.uint64)
    for byte in range(int(lengths.max(initial=0))):
        if byte > 9:
            raise ArtifactError("the graph is corrupt: a number is longer than 64 bits")
        longer = np.flatnonzero(lengths > byte) if byte else slice(None)
        out[longer] |= (raw[starts[longer] + byte] & 127).astype(np.uint64) << np.uint64(7 * byte)
    return out.view(np.int64)


PIECE = 1 << 16
"""Bytes that are decoded at a time: the numbers' positions take many times their own memory."""


def run_of_integers(data: bytes, at: int, end: int, key: int) -> tuple[NDArray[Any], int]:
    """The values of neighbouring fields of one number, each its key and a varint, and the place after them.

    They are int32 where all of them fit.
    """
    parts: list[NDArray[Any]] = []
    while at < end:
        last = min(end, at + PIECE)
        numbers = _varints(data, at, last)
        numbers = numbers[: len(numbers) // 2 * 2]
        other = np.flatnonzero(numbers[::2] != key)
        count = int(other[0]) if len(other) else len(numbers) // 2
        if not count:
            break
        ends = np.flatnonzero(np.frombuffer(data, np.uint8, last - at, at) < 128)
        at += int(ends[2 * count - 1]) + 1
        parts.append(_smaller(numbers[1 : 2 * count : 2]))
    return np.concatenate(parts) if parts else np.empty(0, np.int32), at


def _packed_integers(data: bytes, at: int, end: int) -> NDArray[Any]:
    """The values of one packed field, which lie from `at` to `end`; int32 where all of them fit."""
    parts: list[NDArray[Any]] = [np.empty(0, np.int32)]
    while at < end:
        last = min(end, at + PIECE)
        whole = np.flatnonzero(np.frombuffer(data, np.uint8, last - at, at) < 128)
        if not len(whole):
            raise ArtifactError("the graph is corrupt: a list of numbers is cut off")
        parts.append(_smaller(_varints(data, at, last)))
        at += int(whole[-1]) + 1
    return np.concatenate(parts)


def _smaller(values: NDArray[np.int64]) -> NDArray[Any]:
    small = values.min() >= -(1 << 31) and values.max() < 1 << 31
    return values.astype(np.int32 if small else np.int64)


def run_of_floats(data: bytes, at: int, end: int, key: int) -> tuple[NDArray[np.float32], int]:
    """As `run_of_integers`, for floats."""
    count = (end - at) // 5
    rows = np.frombuffer(data, np.uint8, 5 * count, at).reshape(count, 5)
    other = np.flatnonzero(rows[:, 0] != key)
    count = int(other[0]) if len(other) else count
    return np.ascontiguousarray(rows[:count, 1:]).view("<f4").reshape(-1).astype(np.float32), at + 5 * count


def _run_of_modes(data: bytes, at: int, end: int) -> tuple[NDArray[np.uint8], int]:
    """As `run_of_integers`, for the modes of a forest, which are written out as words."""
    packed = data[at:end]
    size = np.zeros(1 + max(MODES.values()), np.int64)
    for word, mode in MODES.items():
        whole = b"\x4a" + bytes([len(word)]) + word
        packed, size[mode] = packed.replace(whole, bytes([mode])), len(whole)
    codes = np.frombuffer(packed, np.uint8)
    other = np.flatnonzero(codes >= len(size))
    codes = codes[: int(other[0]) if len(other) else len(codes)]
    return codes, at + int(size[codes].sum())


def tensor(data: bytes, first: int, last: int) -> tuple[str, NDArray[Any]]:
    """(name, values) of a TensorProto."""
    name, shape, kind = "", [], 0
    raw: NDArray[Any] | None = None
    for number, wire, start, end in fields(data, first, last):
        if number == 1:
            shape += _varints(data, start, end).tolist()
        elif number == 2:
            kind = integer(data, start)
        elif number == 8:
            name = text(data, start, end)
        elif number in (13, 14) and (number == 13 or integer(data, start) != 0):
            raise ArtifactError("the graph refers to data outside the artifact: refused")
        elif number in (4, 5, 7, 9, 10, 11):
            if kind not in _TYPES:
                raise ArtifactError(f"the graph is refused: a constant has the element type {kind}, which is not read")
            if raw is not None:
                raise ArtifactError("the graph is corrupt: a constant has its values twice")
            raw = _payload(data, start, end, number, wire, np.dtype(_TYPES[kind]))
    if kind not in _TYPES:
        raise ArtifactError(f"the graph is refused: a constant has the element type {kind}, which is not read")
    values = np.empty(0, _TYPES[kind]) if raw is None else raw
    if any(side < 0 for side in shape) or int(np.prod([float(side) for side in shape])) != values.size:
        raise ArtifactError(f"the graph is corrupt: {values.size} values do not make a constant of shape {shape}")
    return name, values.reshape(shape)


def _payload(data: bytes, start: int, end: int, number: int, wire: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A tensor's values: raw bytes, or one of the packed typed fields."""
    if wire != BYTES:
        raise ArtifactError("the graph is corrupt: a constant's values are not packed")
    if number == 9:
        return np.frombuffer(data[start:end], dtype.newbyteorder("<")).astype(dtype)
    if number in (4, 10):
        return np.frombuffer(data[start:end], "<f4" if number == 4 else "<f8").astype(dtype)
    values = _varints(data, start, end)
    return values.astype(np.uint16).view(np.float16) if dtype == np.float16 else values.astype(dtype)


def _attribute(data: bytes, first: int, last: int) -> tuple[str, Any]:
    """(name, value) of an AttributeProto."""
    name, kind, value = "", 0, None
    parts: list[NDArray[Any]] = []
    words: list[str] = []
    at = first
    while at < last:
        key = data[at]
        if key == 0x40:  # ints, one at a time
            values, at = run_of_integers(data, at, last, key)
            parts.append(values)
            if not len(values):
                raise ArtifactError("the graph is corrupt: a list of numbers is cut off")
            continue
        if key == 0x3D:  # floats
            numbers, at = run_of_floats(data, at, last, key)
            parts.append(numbers)
            if not len(numbers):
                raise ArtifactError("the graph is corrupt: a list of numbers is cut off")
            continue
        if key == 0x4A and name == "nodes_modes":
            modes, after = _run_of_modes(data, at, last)
            if after > at:
                parts.append(modes)
                at = after
                continue
        number, wire, start, at = next(fields(data, at, last))
        if number == 1:
            name = text(data, start, at)
        elif number == 20:
            kind = integer(data, start)
        elif number == 2:
            value = struct.unpack_from("<f", data, start)[0]
        elif number == 3:
            value = integer(data, start)
        elif number == 4:
            value = text(data, start, at)
        elif number == 5:
            value = tensor(data, start, at)[1]
        elif number == 7 and wire == BYTES:
            parts.append(np.frombuffer(data[start:at], "<f4").astype(np.float32))
        elif number == 8 and wire == BYTES:
            parts.append(_packed_integers(data, start, at))
        elif number == 9:
            words.append(text(data, start, at))
        elif number in (6, 10, 11, 21, 22, 23):
            raise ArtifactError(f"the graph is refused: attribute {name!r} is a graph or of another unread kind")
    if words:
        return name, words
    if parts:
        return name, parts[0] if len(parts) == 1 else np.concatenate(parts)
    if value is None and kind in (6, 7, 8):
        return name, np.empty(0, np.float32 if kind == 6 else np.int64)
    return name, {1: 0.0, 2: 0, 3: ""}.get(kind) if value is None else value


class Node(NamedTuple):
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


def read_node(data: bytes, first: int, last: int) -> Node:
    op = ""
    inputs: list[str] = []
    outputs: list[str] = []
    attributes: dict[str, Any] = {}
    for number, _, start, end in fields(data, first, last):
        if number == 1:
            inputs.append(text(data, start, end))
        elif number == 2:
            outputs.append(text(data, start, end))
        elif number == 4:
            op = text(data, start, end)
        elif number == 5:
            name, value = _attribute(data, start, end)
            attributes[name] = value
    return Node(op, tuple(inputs), tuple(outputs), attributes)


def value_info(data: bytes, first: int, last: int) -> tuple[str, int, list[int]]:
    """(name, element type, shape with 0 for what is open) of a graph's input or output."""
    name, kind, shape = "", 0, []
    for number, _, start, end in fields(data, first, last):
        if number == 1:
            name = text(data, start, end)
        elif number == 2:
            for _, _, tensor_first, tensor_last in fields(data, start, end):
                for part, _, a, b in fields(data, tensor_first, tensor_last):
                    if part == 1:
                        kind = integer(data, a)
                    elif part == 2:
                        shape = [_dimension(data, *dim[2:]) for dim in fields(data, a, b)]
    return name, kind, shape


def _dimension(data: bytes, first: int, last: int) -> int:
    return next((integer(data, start) for number, _, start, _ in fields(data, first, last) if number == 1), 0)
