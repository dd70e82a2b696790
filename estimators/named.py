"""A model's whole path as one ONNX graph: raw named columns in, the encoder's arithmetic as nodes, label and probabilities out.

Each column that the model needs is an input (n, 1) of its own name: numbers are double, NaN where missing; dates are double,
seconds since 1970 (UTC), NaN where missing; levels are strings, "" where missing. A sparse block is one double input
(n, columns). Numbers are encoded in float64 and rounded to float32 once, as `runtime.py` does it. What ONNX cannot say is
refused: it has no CRC-32, by which texts and hashed categories find their columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import runtime
from .errors import ArtifactError
from .graph import IR_VERSION, OLDER, OPSETS, Graph
from .runtime import FLOAT_MAX, MISSING, NA_STRINGS, SQUASHED, UNSEEN

REGEX_OPSET = 20
"""From this operator set on there is RegexFullMatch."""
BLANK = r"[\s\v\x1c-\x1f\x85\p{Z}]*"
"""What `str.isspace` calls white space, for RE2."""
_DAY = 86_400.0
_LAST = 10_000_000 * _DAY


class NamedGraph(Graph):
    """Nodes over inputs of their own names and types. Within, an input is called `in:NAME` and an output `out:NAME`."""

    def __init__(self) -> None:
        super().__init__(0)
        self.inputs: dict[str, tuple[str, int]] = {}

    def read(self, name: str, kind: str, width: int = 1) -> str:
        """The input `name`, of `kind` "double" or "string"; ArtifactError if it cannot be a name in ONNX."""
        if not name or "\0" in name or not _utf8(name):
            raise ArtifactError(
                f"column {runtime.shown(name)} cannot be an input of an ONNX graph by this name: rename it"
            )
        if self.inputs.setdefault(name, (kind, width)) != (kind, width):
            raise ArtifactError(f"column {runtime.shown(name)} is read both as a number and as a level: ONNX cannot")
        return f"in:{name}"

    def double(self, values: Any) -> str:
        """A float64 constant (`constant` rounds to float32)."""
        return self._hold(np.asarray(values, np.float64))

    def whole(self, value: int) -> str:
        return self._hold(np.asarray(value, np.int64))

    def labels(self, values: Sequence[Any]) -> str:
        """A constant of classes in their own type where ONNX has it, as strings otherwise."""
        kinds = {type(value) for value in values}
        if kinds == {bool}:
            return self._hold(np.array(values, np.bool_))
        if kinds <= {int, float} and len(kinds) == 1:
            return self._hold(np.array(values, np.int64 if kinds == {int} else np.float64))
        from onnx import TensorProto, helper

        name = f"c{len(self._constants)}"
        texts = [_bytes(runtime.level_of(value), "class") for value in values]
        self._constants.append(helper.make_tensor(name, TensorProto.STRING, [len(texts)], texts))
        return name

    def _hold(self, values: NDArray[Any]) -> str:
        from onnx import numpy_helper

        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(values).reshape(values.shape), name))
        return name

    def named_model(self, outputs: Mapping[str, tuple[str, int, int | None]]) -> Any:
        """The `onnx.ModelProto` of these outputs: by name the value, its ONNX type and its width (None: a vector)."""
        from onnx import helper

        kinds = {"double": 11, "string": 8}
        names = {f"in:{name}": name for name in self.inputs}
        free = "_"
        while any(name.startswith(free) for name in (*self.inputs, *outputs)):
            free += "_"
        nodes = [*self._nodes, *(helper.make_node("Identity", [v], [f"out:{o}"]) for o, (v, _, _) in outputs.items())]
        names |= {f"out:{name}": name for name in outputs} | {"": ""}
        for node in nodes:
            node.input[:] = [names.get(name, free + name) for name in node.input]
            node.output[:] = [names.get(name, free + name) for name in node.output]
        for constant in self._constants:
            constant.name = free + constant.name
        value = helper.make_tensor_value_info
        body = helper.make_graph(
            nodes,
            "model",
            [value(name, kinds[kind], ["n", width]) for name, (kind, width) in self.inputs.items()],
            [value(o, kind, ["n", width] if width else ["n"]) for o, (_, kind, width) in outputs.items()],
            initializer=self._constants,
        )
        versions = {domain: OPSETS[domain] for domain in sorted({"", *(node.domain for node in nodes)})}
        versions.update({node.domain: OLDER[node.op_type] for node in nodes if node.op_type in OLDER})
        if any(node.op_type == "RegexFullMatch" for node in nodes):
            versions[""] = REGEX_OPSET
        opsets = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
        return helper.make_model(body, opset_imports=opsets, ir_version=IR_VERSION, producer_name="automl")


def named_model(manifest: Mapping[str, Any], graph: bytes) -> tuple[Any, dict[str, str]]:
    """(the `onnx.ModelProto` of an artifact's manifest and graph, its outputs: "label" and "probabilities", or "value",
    each with its name in the graph, which has an underscore added where a column is called the same). Raises ArtifactError
    for a column that ONNX cannot encode, with the reason.
    """
    from onnx import load_model_from_string

    encoder = runtime.RowEncoder(manifest["encoder"])
    if not encoder.entries:
        raise ArtifactError("the model reads no column, so an ONNX graph of its columns has no input: refused")
    whole = NamedGraph()
    y = whole.add(load_model_from_string(graph), encoded(whole, encoder))
    made = _outputs(whole, y, manifest["task"], manifest.get("classes") or [])
    names: dict[str, str] = {}
    for name in made:
        names[name] = name
        while names[name] in whole.inputs:
            names[name] += "_"
    return whole.named_model({names[name]: value for name, value in made.items()}), names


def _outputs(whole: NamedGraph, y: str, task: str, classes: Sequence[Any]) -> dict[str, tuple[str, int, int | None]]:
    from onnx import TensorProto

    if task == "regression":
        return {"value": (y, TensorProto.FLOAT, 1)}
    if task == "binary":
        first = whole.node("Sub", whole.constant(1.0), y)
        index = whole.node("Cast", whole.node("Greater", y, whole.constant(0.5)), to=TensorProto.INT64)
        index = whole.node("Squeeze", index, whole.constant([1]))
        y = whole.node("Concat", first, y, axis=1)
    else:
        index = whole.node("ArgMax", y, axis=1, keepdims=0)
    label = whole.node("Gather", whole.labels(classes), index, axis=0)
    kind = next(c.data_type for c in whole._constants if c.name == whole._nodes[-1].input[0])
    return {"label": (label, kind, None), "probabilities": (y, TensorProto.FLOAT, len(classes))}


# -- the encoder ---------------------------------------------------------------------------------------------------------


def encoded(graph: NamedGraph, encoder: runtime.RowEncoder) -> str:
    """The (n, width) float32 matrix of `encoder`, from inputs that are added to the graph."""
    parts: list[str] = []
    for kind, alike in groupby(encoder.entries, type):
        parts += _WRITERS[kind](graph, list(alike))
    return parts[0] if len(parts) == 1 else graph.node("Concat", *parts, axis=1)


def _float(graph: NamedGraph, value: str) -> str:
    return graph.node("Cast", value, to=1)


def _read(graph: NamedGraph, entry: runtime.Column) -> str:
    raw = graph.read(entry.name, "double", entry.width if isinstance(entry, runtime.Block) else 1)
    return graph.node("Where", graph.node("IsInf", raw), graph.double(np.nan), raw) if entry.finite else raw


def _together(graph: NamedGraph, entries: Sequence[Any]) -> str:
    columns = [_read(graph, entry) for entry in entries]
    return columns[0] if len(columns) == 1 else graph.node("Concat", *columns, axis=1)


def _clipped(graph: NamedGraph, value: str, limit: float = FLOAT_MAX) -> str:
    return graph.node("Clip", value, graph.double(-limit), graph.double(limit))


def _numbers(graph: NamedGraph, entries: Sequence[runtime.Number]) -> list[str]:
    return [_float(graph, _clipped(graph, _together(graph, entries)))]


def _absents(graph: NamedGraph, entries: Sequence[runtime.Absent]) -> list[str]:
    return [_float(graph, graph.node("IsNaN", _together(graph, entries)))]


def _scaleds(graph: NamedGraph, entries: Sequence[runtime.Scaled]) -> list[str]:
    centers, scales = [e.center for e in entries], [e.scale for e in entries]
    return [_float(graph, _squashed(graph, _together(graph, entries), centers, scales))]


def _squashed(graph: NamedGraph, value: str, centers: Sequence[float], scales: Sequence[float]) -> str:
    """`runtime.squash`."""
    z = graph.node("Div", graph.node("Sub", value, graph.double([centers])), graph.double([scales]))
    z = _clipped(graph, z, SQUASHED)
    square = graph.node("Div", graph.node("Mul", z, z), graph.double(9.0))
    root = graph.node("Sqrt", graph.node("Add", square, graph.double(1.0)))
    return graph.node("Where", graph.node("IsNaN", z), graph.double(0.0), graph.node("Div", z, root))


def _shifteds(graph: NamedGraph, entries: Sequence[runtime.Shifted]) -> list[str]:
    parts = []
    for entry in entries:
        moved = graph.node("Sub", _read(graph, entry), graph.double(entry.shift))
        moved = _clipped(graph, moved)
        parts.append(_float(graph, moved))
        if entry.split:
            back = graph.node("Cast", parts[-1], to=11)
            parts.append(_float(graph, graph.node("Sub", moved, back)))
    return parts


def _dates(graph: NamedGraph, entries: Sequence[runtime.Date]) -> list[str]:
    parts = []
    for entry in entries:
        raw = graph.read(entry.name, "double")
        calendar = _Calendar(graph, _clipped(graph, raw, _LAST))
        found = [calendar.part(name) for name in entry.parts]
        each = found[0] if len(found) == 1 else graph.node("Concat", *found, axis=1)
        if entry.scales is None:
            parts.append(_float(graph, _clipped(graph, graph.node("Sub", each, graph.double([entry.centers])))))
        else:
            parts.append(_float(graph, _squashed(graph, each, entry.centers, entry.scales)))
        if entry.absent:
            parts.append(_float(graph, graph.node("IsNaN", raw)))
    return parts


class _Calendar:
    """`runtime.date_part` in float64: its whole numbers stay below 2^53, where floor(a / b) is exact."""

    def __init__(self, graph: NamedGraph, seconds: str) -> None:
        self.graph, self.seconds = graph, seconds
        self.day = self.over(seconds, _DAY)
        shifted = self.do("Add", self.day, 719_468.0)
        era = self.over(shifted, 146_097.0)
        of_era = self.rest(shifted, era, 146_097.0)
        years = self.do("Sub", of_era, self.over(of_era, 1460.0))
        years = self.do("Add", years, self.over(of_era, 36_524.0))
        years = self.over(self.do("Sub", years, self.over(of_era, 146_096.0)), 365.0)
        of_year = self.do("Sub", of_era, self._days(years, leap=False))
        shifted_month = self.over(self.do("Add", self.do("Mul", of_year, 5.0), 2.0), 153.0)
        after = self.do("Add", shifted_month, 2.0)
        self.month = self.do("Add", self.rest(after, self.over(after, 12.0), 12.0), 1.0)
        early = graph.node("Cast", graph.node("LessOrEqual", self.month, graph.double(2.0)), to=11)
        self.year = self.do("Add", self.do("Add", years, self.do("Mul", era, 400.0)), early)

    def do(self, op: str, one: str, other: str | float) -> str:
        return self.graph.node(op, one, other if isinstance(other, str) else self.graph.double(other))

    def over(self, one: str, by: float) -> str:
        """one // by"""
        return self.graph.node("Floor", self.do("Div", one, by))

    def rest(self, one: str, times: str, by: float) -> str:
        return self.do("Sub", one, self.do("Mul", times, by))

    def _days(self, years: str, *, leap: bool) -> str:
        """Days of so many years, the century's rule included; with `leap` that of four centuries too."""
        days = self.do("Add", self.do("Mul", years, 365.0), self.over(years, 4.0))
        days = self.do("Sub", days, self.over(years, 100.0))
        return self.do("Add", days, self.over(years, 400.0)) if leap else days

    def part(self, name: str) -> str:
        if name == "days":
            return self.do("Div", self.seconds, _DAY)
        if name == "day":
            return self.day
        if name == "hour":
            return self.over(self.rest(self.seconds, self.day, _DAY), 3600.0)
        if name == "weekday":
            moved = self.do("Add", self.day, 3.0)
            return self.rest(moved, self.over(moved, 7.0), 7.0)
        if name in ("year", "month"):
            return self.year if name == "year" else self.month
        first = self.do("Sub", self._days(self.do("Sub", self.year, 1.0), leap=True), 719_162.0)
        return self.do("Add", self.do("Sub", self.day, first), 1.0)


def _ordinals(graph: NamedGraph, entries: Sequence[runtime.Ordinal]) -> list[str]:
    parts = []
    for entry in entries:
        keys = [_bytes(level, "level") for level in entry.codes] or [b""]
        values = np.arange(len(entry.codes), dtype=np.float32) if entry.codes else np.array([-1.0], np.float32)
        parts.append(_lookup(graph, entry, keys, values_floats=values, default_float=-1.0))
    return parts


def _targets(graph: NamedGraph, entries: Sequence[runtime.Target]) -> list[str]:
    parts = []
    for entry in entries:
        place = {MISSING: len(entry.table) - 2, UNSEEN: len(entry.table) - 1}
        differ = not np.array_equal(entry.table[MISSING], entry.table[UNSEEN])
        code = _codes(graph, entry, list(range(len(entry.codes))), place, differ)
        code = graph.node("Squeeze", code, graph.constant([1]))
        parts.append(graph.node("Gather", graph.constant(entry.table), code, axis=0))
    return parts


def _onehots(graph: NamedGraph, entries: Sequence[runtime.OneHot]) -> list[str]:
    parts = []
    for entry in entries:
        places = [int(place) for place in entry.positions]
        out = {MISSING: places[MISSING], UNSEEN: places[UNSEEN]}
        code = _codes(graph, entry, places[: len(entry.codes)], out, out[MISSING] != out[UNSEEN])
        same = graph.node("Equal", code, graph.constant(np.arange(entry.width).reshape(1, -1)))
        parts.append(_float(graph, same))
    return parts


def _codes(graph: NamedGraph, entry: Any, places: Sequence[int], odd: Mapping[int, int], differ: bool) -> str:
    """(n, 1) int64: the place of each level, those of a missing and of an unseen cell, which may be one (`differ`)."""
    keys = dict(zip(entry.codes, places, strict=True))
    if differ:
        keys = {**dict.fromkeys(["", *sorted(NA_STRINGS)], odd[MISSING]), **keys}
    if not keys:
        keys = {"": odd[UNSEEN]}
    found = [_bytes(level, "level") for level in keys]
    code = _lookup(graph, entry, found, values_int64s=np.array([*keys.values()]), default_int64=odd[UNSEEN])
    if not differ:
        return code
    blank = graph.node("RegexFullMatch", graph.read(entry.name, "string"), pattern=BLANK)
    known = graph.node("Equal", code, graph.whole(odd[UNSEEN]))
    return graph.node("Where", graph.node("And", blank, known), graph.whole(odd[MISSING]), code)


def _lookup(graph: NamedGraph, entry: Any, keys: Sequence[bytes], **values: Any) -> str:
    name = graph.read(entry.name, "string")
    return graph.node("LabelEncoder", name, domain="ai.onnx.ml", keys_strings=list(keys), **values)


def _blocks(graph: NamedGraph, entries: Sequence[runtime.Block]) -> list[str]:
    parts = []
    for entry in entries:
        raw = _read(graph, entry)
        known = graph.node("Where", graph.node("IsNaN", raw), graph.double(0.0), raw)
        known = _clipped(graph, known)
        if entry.scale is not None:
            known = _clipped(graph, graph.node("Mul", known, graph.double([entry.scale])))
        parts.append(_float(graph, known))
    return parts


def _no_hash(graph: NamedGraph, entries: Sequence[Any]) -> list[str]:
    what = "a text whose words are" if isinstance(entries[0], runtime.Text) else "a category whose levels are"
    raise ArtifactError(
        f"format 'onnx' cannot hold column {runtime.shown(entries[0].name)}: it is {what} hashed by CRC-32, which ONNX has no "
        "operator for; choose a model without it, or export the bundle"
    )


_WRITERS: dict[type, Any] = {
    runtime.Number: _numbers,
    runtime.Ordinal: _ordinals,
    runtime.Scaled: _scaleds,
    runtime.Absent: _absents,
    runtime.Shifted: _shifteds,
    runtime.Target: _targets,
    runtime.Date: _dates,
    runtime.OneHot: _onehots,
    runtime.Hashed: _no_hash,
    runtime.Text: _no_hash,
    runtime.Block: _blocks,
}


def _utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _bytes(text: str, what: str) -> bytes:
    if not _utf8(text):
        raise ArtifactError(f"{what} {runtime.shown(text)} is not UTF-8, which every string in ONNX must be: refused")
    return text.encode()


# -- what goes in ----------------------------------------------------------------------------------------------------------


def feeds(encoder: runtime.RowEncoder, columns: Mapping[str, Sequence[Any]]) -> dict[str, NDArray[Any]]:
    """Columns of raw cells as the graph's inputs: what a caller in another language does with them."""
    found: dict[str, NDArray[Any]] = {}
    for entry in encoder.entries:
        if isinstance(entry, runtime.Block):
            block = [runtime.read_numbers(list(columns[name]), {}) for name in entry.names]
            found[entry.name] = np.stack(block, axis=1)
        elif isinstance(entry, runtime.Category):
            known = [
                v if isinstance(v, str) else "" if runtime.is_missing(v) else runtime.level_of(v)
                for v in columns[entry.name]
            ]
            found[entry.name] = np.array(known, object).reshape(-1, 1)
        else:
            found[entry.name] = entry.parse(list(columns[entry.name])).reshape(-1, 1)
    return found


def described(encoder: runtime.RowEncoder, graph: Any) -> list[dict[str, Any]]:
    """The graph's inputs for its metadata: name, type, what it holds and how a missing cell is written."""
    parses = {entry.name: entry.entry.get("parse") or {} for entry in encoder.entries}
    kinds = {entry.name: entry.parsed for entry in encoder.entries}
    names = {entry.name: list(entry.names) for entry in encoder.entries if isinstance(entry, runtime.Block)}
    said = []
    for item in graph.graph.input:
        words = {"words": parses[item.name]["words"]} if parses[item.name].get("words") else {}
        holds = {"number": "number", "date": "seconds since 1970-01-01 UTC", "category": "level", "sparse": "numbers"}
        kind = kinds[item.name]
        said.append(
            {
                "name": item.name,
                "type": "string" if kind == "category" else "double",
                "holds": holds[kind],
                "missing": "" if kind == "category" else "NaN",
                **words,
                **({"columns": names[item.name]} if item.name in names else {}),
            }
        )
    return said
