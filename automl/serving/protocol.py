"""The Open Inference Protocol v2 over REST: a request's tensors as columns, and predictions as tensors.

https://github.com/kserve/open-inference-protocol, JSON only (no binary tensor extension). One tensor a column, of shape
[n] or [n, 1]; null stands for a missing cell; columns that the model does not use are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .beside import runtime
from .model import Served

WHOLE = ("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64")
KINDS: dict[str, tuple[type, ...]] = {
    "BOOL": (bool, int),
    **dict.fromkeys(WHOLE, (int,)),
    **dict.fromkeys(("FP16", "FP32", "FP64"), (int, float)),
    "BYTES": (str, int, float, bool),
}
"""The JSON values that a cell of each datatype may be."""
DATATYPES = {"number": "FP64", "date": "BYTES", "category": "BYTES", "text": "BYTES"}
"""What the metadata name for a kind of field; any of the protocol's is taken where its values fit."""
OUTPUTS = ("prediction", "probabilities")


class ProtocolError(Exception):
    """A request that is none of the protocol's, or does not fit the model. `status` is 400 or 422."""

    def __init__(self, message: str, status: int = 400, **detail: Any) -> None:
        super().__init__(message)
        self.status, self.detail = status, detail


def metadata(served: Served) -> dict[str, Any]:
    """The answer of GET v2/models/NAME."""
    outputs = [{"name": "prediction", "datatype": datatype_of(served.labels), "shape": [-1]}]
    if served.labels:
        outputs.append({"name": "probabilities", "datatype": "FP32", "shape": [-1, len(served.labels)]})
    return {
        "name": served.name,
        "versions": [served.version],
        "platform": f"automl_{served.engine}",
        "inputs": [{"name": f.name, "datatype": DATATYPES[f.kind], "shape": [-1]} for f in served.fields],
        "outputs": outputs,
        "parameters": {"task": served.task, "classes": served.labels},
    }


def datatype_of(labels: Sequence[Any]) -> str:
    """Of the predictions: the labels' own type, FP64 for regression."""
    kinds = {type(label) for label in labels}
    if not labels or kinds <= {float} or kinds == {int, float}:
        return "FP64"
    return "BOOL" if kinds == {bool} else "INT64" if kinds == {int} else "BYTES"


def columns_of(served: Served, request: Any, most_rows: int) -> tuple[dict[str, list[Any]], int]:
    """(columns of cells, their count) of a request. Raises ProtocolError."""
    if not isinstance(request, dict) or not isinstance(request.get("inputs"), list) or not request["inputs"]:
        raise ProtocolError('a request is an object with "inputs": a list of tensors, one a column')
    if not isinstance(request.get("id"), str | None):
        raise ProtocolError(f'"id" is a string, found {runtime.shown(request["id"])}')
    columns: dict[str, list[Any]] = {}
    for place, tensor in enumerate(request["inputs"]):
        name = tensor.get("name") if isinstance(tensor, dict) else None
        if not isinstance(name, str):
            raise ProtocolError(f'inputs[{place}] has no "name"')
        if name in columns:
            raise ProtocolError(f"input {runtime.shown(name)} is given twice", field=name)
        columns[name] = _cells(tensor, name)
    counts = {name: len(cells) for name, cells in columns.items()}
    (first, rows), *others = counts.items()
    for name, count in others:
        if count != rows:
            raise ProtocolError(
                f"inputs differ in rows: {runtime.shown(first)} has {rows}, {runtime.shown(name)} has {count}",
                field=name,
            )
    if rows > most_rows:
        raise ProtocolError(f"{rows} rows, at most {most_rows} are taken in one request: send parts", 413)
    for field in served.fields:
        if field.name in columns:
            continue
        if not field.optional:
            raise ProtocolError(f"input {runtime.shown(field.name)} is missing", 422, field=field.name)
        columns[field.name] = [0.0] * rows
    return {field.name: columns[field.name] for field in served.fields}, rows


def _cells(tensor: Mapping[str, Any], name: str) -> list[Any]:
    shape, datatype, data = tensor.get("shape"), tensor.get("datatype"), tensor.get("data")
    where = f"input {runtime.shown(name)}"
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise ProtocolError(f"{where}: shape is a list of whole numbers, found {runtime.shown(shape)}", field=name)
    if len(shape) not in (1, 2) or shape[1:] not in ([], [1]):
        raise ProtocolError(f"{where}: its shape is [rows] or [rows, 1], found {shape}", field=name)
    if not isinstance(data, list):
        raise ProtocolError(f'{where}: "data" is a list (binary tensors are not supported)', field=name)
    if not isinstance(datatype, str) or datatype not in KINDS:
        raise ProtocolError(f"{where}: datatype {runtime.shown(datatype)} is none of {', '.join(KINDS)}", field=name)
    cells = [cell[0] if isinstance(cell, list) and len(cell) == 1 else cell for cell in data]
    if len(cells) != shape[0]:
        raise ProtocolError(f"{where}: the shape says {shape[0]} rows, data holds {len(cells)}", field=name)
    _check_type(where, name, datatype, cells)
    return cells


def _check_type(where: str, name: str, datatype: str, cells: list[Any]) -> None:
    for row, cell in enumerate(cells):
        if cell is not None and type(cell) not in KINDS[datatype]:
            raise ProtocolError(f"{where}, row {row}: {runtime.shown(cell)} is no {datatype}", 422, field=name, row=row)


def answer(served: Served, request: Mapping[str, Any], columns: Mapping[str, list[Any]]) -> dict[str, Any]:
    """The answer to a request whose columns have been read. Raises what the runtime raises, and ProtocolError."""
    names = OUTPUTS[: 2 if served.labels else 1]
    wanted = _wanted(request.get("outputs"), names)
    predictions, probabilities = served.columns(columns)
    count = len(predictions)
    datatype = datatype_of(served.labels)
    if datatype == "BYTES":
        predictions = [
            label if label is None or isinstance(label, str) else runtime.level_of(label) for label in predictions
        ]
    outputs: list[dict[str, Any]] = [
        {"name": "prediction", "datatype": datatype, "shape": [count], "data": predictions},
    ]
    if served.labels:
        flat = [value for row in probabilities for value in row]
        shape = [count, len(served.labels)]
        outputs.append({"name": "probabilities", "datatype": "FP32", "shape": shape, "data": flat})
    found: dict[str, Any] = {"model_name": served.name, "model_version": served.version}
    if request.get("id") is not None:
        found["id"] = request["id"]
    return {**found, "outputs": [o for o in outputs if not wanted or o["name"] in wanted]}


def _wanted(outputs: Any, names: Sequence[str]) -> list[str]:
    """The names of the outputs that are asked for; [] for all."""
    if outputs is None:
        return []
    if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
        raise ProtocolError('"outputs" is a list of objects with a "name"')
    for output in outputs:
        if output.get("name") not in names:
            raise ProtocolError(f"output {runtime.shown(output.get('name'))} is not known: it has {', '.join(names)}")
    return [output["name"] for output in outputs]
