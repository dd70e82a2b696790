"""Writing artifacts: one deployable model in one folder, or packed in one .zip. `runtime.py` checks and reads them.

`manifest.json` holds the format number, the task, the classes, the encoder's tables and the size and SHA-256 of
`model.onnx`; its last member is the SHA-256 of all its bytes before. `model.onnx` takes the encoded float32 matrix "x"
(n, width) and gives "y": (n, 1) values, (n, 1) probabilities of the second class, or (n, K) probabilities. `record.json`
holds measurements and provenance; nothing reads it to predict, and it isn't part of the size. A .zip that `pack` wrote ends
with the SHA-256 of its own bytes.

**Changing the format.** (1) A change that the old reader would misread (a new kind of entry in the tables, a member that
changes predictions, another layout) raises `FORMAT` in `runtime.py` by one; a member that an old reader may ignore
doesn't. (2) `runtime.check_members` keeps reading every number that was ever released, by a function `_from_N(manifest)`
that brings format N to N + 1. (3) A small artifact of the old format goes into `tests/estimators/formats/`, with its
expected predictions. (4) CHANGELOG says what changed, and which versions read what.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ArtifactError, ResourceError
from .runtime import BLOCK_ROWS, FORMAT, GRAPH, MANIFEST, MEMBERS, RECORD, check, read_members, seal

_TOGETHER = """
    Gemm MatMul Add Sub Mul Div Neg Abs Min Max Clip Relu LeakyRelu Sigmoid Tanh HardSigmoid Erf Gelu Exp Sqrt Pow
    Reciprocal Floor Softmax LogSoftmax ReduceMax ReduceMin ReduceSumSquare ReduceL2 ArgMax ArgMin TopK Gather
    GatherElements Slice Concat Expand Shape Reshape Squeeze Unsqueeze Transpose Identity Constant ConstantOfShape Cast
    Where IsNaN Equal Less LessOrEqual Greater GreaterOrEqual And Or Not OneHot Tile TreeEnsemble TreeEnsembleRegressor
    TreeEnsembleClassifier
"""
TOGETHER = frozenset(_TOGETHER.split())
"""Operators that give a row the same bits wherever it stands in a batch, in onnxruntime on one thread.

Found by running rows alone, in batches of 2 to 1,000 and at every alignment of memory, over many widths
(`tests/estimators/test_artifact.py` holds it). Not among them: those of `ALIGNED`, and ReduceSum and ReduceMean over
the last axis, whose order of summation hangs on a row's alignment (a product with a vector of ones does the same,
safely). Weights must be constants, so that they are packed once and every batch size runs the same kernel. A graph with
any other operator is run row by row: exact all the same, and slower in batches.
"""
BATCH_CELLS = 20_000_000
"""A run of the graph holds at most about this many float32 cells at once."""
ALIGNED = frozenset({"Selu", "Elu", "Celu", "Mish", "Softplus", "Log", "Sin", "Cos"})
"""Operators whose vectorised body and scalar tail round differently: safe where each row is a number of whole vectors."""
VECTOR = 16
"""Floats in the widest vector (AVX-512)."""


def save(
    folder: str | os.PathLike[str],
    *,
    tables: Mapping[str, Any],
    model: bytes,
    task: str,
    classes: Sequence[Any] = (),
    engine: str = "onnx",
) -> int:
    """Writes `manifest.json` and `model.onnx` into `folder`, which is there whole or not at all; returns their bytes.

    `tables` are `Encoder.tables`, `classes` the labels in their original type. Raises ArtifactError if something cannot
    be held (a label, an operator set) and ResourceError if the disk refuses.
    """
    manifest = {
        "format": FORMAT,
        "task": task,
        "classes": [_label(label) for label in classes],
        "engine": engine,
        "batch": _batch(model),
        "files": {GRAPH: {"size": len(model), "sha256": hashlib.sha256(model).hexdigest()}},
        "encoder": tables,
    }
    text = seal(_json(manifest))
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
        (place / RECORD).unlink(missing_ok=True)
        (place / MANIFEST).unlink(missing_ok=True)
        _write(place / GRAPH, model)
        _write(place / MANIFEST, text)  # last: without it there is no artifact
        _sync(place)
    except OSError as error:
        raise ResourceError(f"the artifact cannot be written to {place}: {error.strerror or error}") from error
    return len(text) + len(model)


def with_engine(folder: str | os.PathLike[str], target: str | os.PathLike[str], engine: str, threads: int = 1) -> int:
    """Writes the artifact of `folder` into `target` for another engine, or more threads that share the rows of a batch: the same
    graph, as a link where the disk allows it.

    Returns its bytes. Raises as `save`, and ArtifactError where `folder` holds no whole artifact.
    """
    manifest = {key: value for key, value in check(folder).items() if key != "sha256"}
    manifest |= {"engine": engine} if threads == 1 else {"engine": engine, "threads": threads}
    text, graph, place = seal(_json(manifest)), Path(folder) / GRAPH, Path(target)
    try:
        place.mkdir(parents=True, exist_ok=True)
        for name in MEMBERS:
            (place / name).unlink(missing_ok=True)
        try:
            os.link(graph, place / GRAPH)
        except OSError:  # no links here, or another disk
            _write(place / GRAPH, graph.read_bytes())
        _write(place / MANIFEST, text)
        _sync(place)
    except OSError as error:
        raise ResourceError(f"the artifact cannot be written to {place}: {error.strerror or error}") from error
    return len(text) + (place / GRAPH).stat().st_size


def write_record(folder: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
    """Writes `record.json` (measurements, machine, versions, provenance) beside the artifact in `folder`, atomically."""
    place = Path(folder)
    try:
        manifest = (place / MANIFEST).read_bytes()
        _write(place / RECORD, seal(_json(record or {"empty": True}), manifest))
        _sync(place)
    except OSError as error:
        raise ResourceError(f"{place / RECORD} cannot be written: {error.strerror or error}") from error


def read_record(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `write_record` wrote, of a folder or a .zip; {} if there is none. Raises ArtifactError."""
    data = read_members(path).get(RECORD)
    if data is None:
        return {}
    record: dict[str, Any] = json.loads(data)
    del record["sha256"]
    return record


def pack(folder: str | os.PathLike[str], archive: str | os.PathLike[str]) -> Path:
    """Packs an artifact's folder into one .zip, whole or absent; stored, not deflated: it loads faster. Returns its path.

    The same artifact gives the same bytes. Raises ArtifactError if the folder holds no whole artifact.
    """
    check(folder)
    members = read_members(folder)
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_STORED) as packed:
        for name in MEMBERS:
            if name in members:
                info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
                info.external_attr = 0o100644 << 16
                packed.writestr(info, members[name])
        packed.comment = b"sha256:" + b"0" * 64
    body = memory.getvalue()[: -len(packed.comment)]
    target = Path(archive)
    try:
        _write(target, body + b"sha256:" + hashlib.sha256(body).hexdigest().encode())
    except OSError as error:
        raise ResourceError(f"{target} cannot be written: {error.strerror or error}") from error
    return target


def _batch(model: bytes) -> int:
    """How many rows may be run at a time: one for graphs that would round them otherwise, else as many as memory allows
    (a run holds about rows x the largest side of a constant, such as the neighbours' reference rows).
    """
    from onnx import load_model_from_string

    if not _together(model):
        return 1
    sides = [side for tensor in load_model_from_string(model).graph.initializer for side in tensor.dims]
    return int(max(2, min(BLOCK_ROWS, BATCH_CELLS // max(sides, default=1))))


def _together(model: bytes) -> bool:
    """Whether every operator of the graph is of `TOGETHER`, or of `ALIGNED` on rows of whole vectors."""
    from onnx import load_model_from_string, shape_inference

    graph = load_model_from_string(model).graph
    if any(node.op_type not in TOGETHER | ALIGNED for node in graph.node):
        return False
    aligned = [node for node in graph.node if node.op_type in ALIGNED]
    if not aligned:
        return True
    inferred = shape_inference.infer_shapes(load_model_from_string(model)).graph
    shapes = {value.name: value.type.tensor_type.shape.dim for value in inferred.value_info}
    last = [shapes[node.input[0]][-1].dim_value if shapes.get(node.input[0]) else 0 for node in aligned]
    return all(width and width % VECTOR == 0 for width in last)


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=_plain).encode("utf-8", "surrogatepass")


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    return str(value)


def _label(label: Any) -> Any:
    plain = label.item() if isinstance(label, np.generic) else label
    if type(plain) not in (str, bool, int, float) or plain != plain:
        raise ArtifactError(f"a class label is a string, a boolean or a number; {label!r} is a {type(label).__name__}")
    return plain


def _write(path: Path, data: bytes) -> None:
    """The whole file or none: written beside it, synced, renamed."""
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=".part-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(scratch, 0o644)
        os.replace(scratch, path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise


def _sync(folder: Path) -> None:
    """The folder's own entries, where the system can sync a folder."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
