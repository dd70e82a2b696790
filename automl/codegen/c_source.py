"""A model as C99 source: its encoder's tables and its graph's steps, written into the templates of `templates/`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from automl.estimators import runtime
from automl.estimators.errors import ArtifactError

from .c_text import Strings, array, comment, double, floats, identifiers

TEMPLATES = Path(__file__).parent / "templates"
NUMBER, SPARSE, DATE, CATEGORY = "number", "sparse", "date", "category"
"""What a field of the row is."""


def refused(why: str) -> ArtifactError:
    """The error for a model that C source cannot hold."""
    return ArtifactError(f"format 'c' cannot hold this model: {why}")


class Source:
    """C text as it is collected: the `blocks` of the template that are called, tables, and the lines of the functions."""

    def __init__(self, encoder: runtime.RowEncoder) -> None:
        self.encoder = encoder
        self.strings = Strings()
        self.blocks: set[str] = set()
        self.tables: list[str] = []
        self.floats = encoder.width
        """How many float32 numbers a prediction keeps on the stack."""
        self.kinds = field_kinds(encoder)
        self.fields = dict(zip(self.kinds, identifiers(list(self.kinds)), strict=True))

    def string(self, text: str, what: str) -> str:
        """A string's expression; ArtifactError for one that holds the end of C's strings."""
        if "\0" in text:
            raise refused(f"{what} {runtime.shown(text)} has a NUL character, with which a string of C ends")
        return self.strings(text)

    def table(self, declared: str, items: Sequence[str]) -> None:
        self.tables.append(array(declared, items))

    def template(self) -> str:
        """The blocks of `model.c` that are used, in the order of the file; a line that ends in "//? name" by its block."""
        parts = re.split(r"^//@ (\w+)\n", _template("model.c"), flags=re.MULTILINE)
        body = "".join(part for name, part in zip(parts[1::2], parts[2::2], strict=True) if name in self.blocks)
        lines = (line.partition("//? ") for line in body.splitlines())
        return "\n".join(line.rstrip() for line, _, name in lines if not name or name in self.blocks) + "\n"


def field_kinds(encoder: runtime.RowEncoder) -> dict[str, str]:
    """The kind of every input that is used, in the order of `encoder.used`."""
    kinds: dict[str, str] = {}
    for entry in encoder.entries:
        if isinstance(entry, runtime.Text):
            raise refused(
                f"column {runtime.shown(entry.name)} is text, whose words are found and lower-cased by tables of Unicode that "
                f"C has not; export a model without that column, or use format 'python', 'onnx' or 'bundle'"
            )
        if isinstance(entry, runtime.Block):
            kinds.update(dict.fromkeys(entry.names, SPARSE))
        else:
            kind = {"date": DATE, "category": CATEGORY, "hashed": CATEGORY}.get(entry.parsed, NUMBER)
            if kinds.setdefault(entry.name, kind) != kind:
                raise refused(f"column {runtime.shown(entry.name)} is read in two ways")
    return {name: kinds[name] for name in encoder.used}


# --- the row --------------------------------------------------------------------------------------------------------------


def row_fields(source: Source) -> str:
    """The members of `model_row`, each with what it is."""
    parses = {entry.name: entry.entry.get("parse") for entry in source.encoder.entries}
    lines = []
    for name, field in source.fields.items():
        kind = source.kinds[name]
        what = {DATE: "a date, in seconds since 1970-01-01 00:00 UTC", CATEGORY: "a category"}.get(kind, "a number")
        parse = {key: value for key, value in (parses.get(name) or {}).items() if key not in ("unit", "infinite")}
        read = f"; as text it was read by {comment(repr(parse), 200)}" if parse else ""
        declared = f"const char *{field};" if kind == CATEGORY else f"double {field};"
        lines.append(f"    {declared} /* {comment(name)!s}: {what}{read} */")
    return "\n".join(lines or ["    char nothing; /* this model needs no input */"])


def row_missing(source: Source) -> str:
    """The lines that make a row of which nothing is known."""
    blank = {CATEGORY: "NULL", SPARSE: "0.0"}
    lines = [f"    row->{field} = {blank.get(source.kinds[name], 'NAN')};" for name, field in source.fields.items()]
    return "\n".join(lines or ["    row->nothing = 0;"])


# --- the encoder ------------------------------------------------------------------------------------------------------------


def encode(source: Source) -> str:
    """The lines of `encode(row, x)`."""
    lines = []
    for entry, start in zip(source.encoder.entries, source.encoder.starts, strict=False):
        lines += _Columns(source, start).of(entry)
    if "places" in source.blocks:
        lines.insert(0, f"memset(x, 0, {source.encoder.width} * sizeof *x);")
    if not lines:
        lines = ["(void)row;", "(void)x;"]
    return "\n".join(f"    {line}" for line in lines)


class _Columns:
    """The lines for one entry of the encoder's tables; its numbers go to x[at] and the following."""

    def __init__(self, source: Source, at: int) -> None:
        self.source, self.at = source, at

    def of(self, entry: runtime.Column) -> list[str]:
        if isinstance(entry, runtime.Block):
            return self.block(entry)
        cell = f"row->{self.source.fields[entry.name]}"
        if isinstance(entry, runtime.Category):
            return self.category(entry, cell)
        if isinstance(entry, runtime.Date):
            return self.date(entry, cell)
        if entry.finite:
            cell = f"(isinf({cell}) ? NAN : {cell})"
        x = f"x[{self.at}]"
        if isinstance(entry, runtime.Absent):
            return [f"{x} = isnan({cell}) ? 1.0f : 0.0f;"]
        if isinstance(entry, runtime.Scaled):
            self.source.blocks.add("squash")
            return [f"{x} = (float)squash({cell}, {double(entry.center)}, {double(entry.scale)});"]
        self.source.blocks.add("floats")
        if isinstance(entry, runtime.Shifted) and entry.split:
            self.source.blocks.add("shifted")
            return [f"split({cell}, {double(entry.shift)}, &{x});"]
        if isinstance(entry, runtime.Shifted):
            return [f"{x} = to_float({cell} - {double(entry.shift)});"]
        if isinstance(entry, runtime.Number):
            return [f"{x} = to_float({cell});"]
        raise refused(f"column {runtime.shown(entry.name)} is encoded as {entry.entry['as']!r}")

    def block(self, entry: runtime.Block) -> list[str]:
        self.source.blocks |= {"floats", "block"}
        lines = []
        for place, name in enumerate(entry.names):
            times = "" if entry.scale is None else f" * {double(entry.scale[place])}"
            cell = f"row->{self.source.fields[name]}"
            cell = f"(isinf({cell}) ? NAN : {cell})" if entry.finite else cell
            lines.append(f"x[{self.at + place}] = to_float(cell({cell}){times});")
        return lines

    def date(self, entry: runtime.Date, cell: str) -> list[str]:
        self.source.blocks |= {"dates", "floats" if entry.scales is None else "squash"}
        lines = []
        for place, part in enumerate(entry.parts):
            value, center = f"date_part({part.upper()}, moment({cell}))", double(entry.centers[place])
            if entry.scales is None:
                lines.append(f"x[{self.at + place}] = to_float({value} - {center});")
            else:
                lines.append(f"x[{self.at + place}] = (float)squash({value}, {center}, {double(entry.scales[place])});")
        if entry.absent:
            lines.append(f"x[{self.at + len(entry.parts)}] = isnan({cell}) ? 1.0f : 0.0f;")
        return lines

    def category(self, entry: runtime.Category, cell: str) -> list[str]:
        if isinstance(entry, runtime.Ordinal):
            return [f"x[{self.at}] = (float){self.code(entry, cell, entry.codes, -1, -1)};"]
        if isinstance(entry, runtime.Target):
            count = len(entry.table) - 2  # codes -2 and -1 index the last two rows
            self.source.table(f"float target_{self.at}", floats(entry.table))
            code = self.code(entry, cell, entry.codes, count, count + 1)
            return [f"memcpy(&x[{self.at}], &target_{self.at}[{entry.width} * {code}], {entry.width} * sizeof *x);"]
        self.source.blocks.add("places")
        if isinstance(entry, runtime.OneHot):
            places = entry.positions.tolist()
            codes = {level: places[code] for level, code in entry.codes.items()}
            return [f"put(&x[{self.at}], {self.code(entry, cell, codes, places[runtime.MISSING], -1)});"]
        if isinstance(entry, runtime.Hashed):
            self.source.blocks.add("hashed")
            codes = {level: entry.bucket(level) for level in entry.levels}
            missing = entry.buckets if entry.width > entry.buckets else -1
            return [f"put(&x[{self.at}], {self.code(entry, cell, codes, missing, entry.buckets, 'bucket')});"]
        raise refused(f"column {runtime.shown(entry.name)} is encoded as {entry.entry['as']!r}")

    def code(
        self,
        entry: runtime.Category,
        cell: str,
        codes: Mapping[str, int],
        missing: int,
        other: int,
        call: str = "code_of",
    ) -> str:
        """The call that looks a cell up among these levels."""
        self.source.blocks.add("levels")
        what = f"column {runtime.shown(entry.name)}: level"
        order = sorted(codes, key=lambda level: level.encode("utf-8", "surrogatepass"))
        rows = [f"{{{self.source.string(level, what)}, {codes[level]}}}" for level in order]
        table = f"levels_{self.at}" if rows else "NULL"
        if rows:
            self.source.table(f"level {table}", rows)
        return f"{call}({cell}, {table}, {len(rows)}, {missing}, {other})"


# --- the files ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Files:
    """What is written, by name; the kinds of the row's fields in their order, and the bytes of stack that a call takes."""

    files: dict[str, bytes]
    kinds: dict[str, str]
    stack: int
    refused = staticmethod(refused)


def source_files(manifest: Mapping[str, Any], graph: bytes) -> Files:
    """The source of an artifact's model. Raises ArtifactError for one that it cannot hold, with the reason."""
    from .. import __version__
    from .c_steps import predict
    from .rowgraph import Vector, read

    source = Source(runtime.RowEncoder(manifest["encoder"]))
    steps = read(graph, "c")
    task, labels = manifest["task"], [runtime.level_of(label) for label in manifest["classes"]]
    source.blocks |= {"head", "tables", "predict", "binary" if task == "binary" else "plain", "batch"}
    if labels:
        source.blocks.add("classes")
    encoder = ""
    if isinstance(steps.y, Vector):  # else the prediction is the same whatever the row is
        source.blocks.add("encode")
        encoder = encode(source)
    values = {
        "ENCODE": encoder,
        "SCORES": predict(source, steps),
        "MISSING": row_missing(source),
        "LABELS": ",\n    ".join(source.string(label, "the class label") for label in labels),
        "TABLES": "",
    }
    values["TABLES"] = "\n".join([*source.strings.definitions, *source.tables]).rstrip()
    stack = 4 * source.floats
    files = {
        "model.h": _filled(
            _template("model.h"),
            TITLE=f"A {task} model as C99 source, written by automl-frontier {comment(__version__)}.",
            STACK=f"{stack + 512}",
            OUTPUTS=str(max(1, len(labels))),
            FIELDS=row_fields(source),
            SPARSE=" (those of sparse columns zero)" if SPARSE in source.kinds.values() else "",
            WRITES="the probabilities of the classes, in the order of model_labels" if labels else "the one value",
            CLASSES=_CLASSES if labels else "",
        ),
        "model.c": _filled(source.template(), **values),
        "CMakeLists.txt": _template("CMakeLists.txt"),
        "test_model.c": _filled(_template("test_model.c"), FIELDS=_offsets(source), COUNT=str(len(source.fields))),
    }
    return Files({name: text.encode("ascii") for name, text in files.items()}, source.kinds, stack)


def _offsets(source: Source) -> str:
    kinds = zip(source.fields.values(), source.kinds.values(), strict=True)
    lines = [f"    {{offsetof(model_row, {field}), {int(kind == CATEGORY)}}},\n" for field, kind in kinds]
    return "".join(lines) or "    {0, 0},\n"


def _template(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="ascii")


def _filled(text: str, **values: str) -> str:
    """A template's text with its places (@NAME@) filled."""
    return re.sub(r"@([A-Z]+)@", lambda found: values[found[1]], text)


_CLASSES = """
/* The labels, as UTF-8 text; of other types as Python writes them: "3", "True". */
extern const char *const model_labels[MODEL_OUTPUTS];

/* The place in model_labels of the most probable class, of what model_predict wrote. */
int model_class(const float *out);
"""
