"""The model as one .py file that needs Python and nothing else: for linear models, trees and small ensembles of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..exporter import Exporter, place_of, refuse_options, write_file

MOST_BYTES = 2_000_000
"""Of the written file: a larger one takes seconds to compile, and a row milliseconds."""
MOST_WORK = 200_000
"""Multiplications for a row; so many take some 10 milliseconds."""
SECONDS = 300
"""The proof on all rows may take so long."""
WIDTH = 118


class Python(Exporter):
    """Writes `standalone_row.py` and `standalone.py` of `automl/codegen/` as one file, with the model's tables in it.

    A row is predicted in pure Python, by double arithmetic over float32 tables: every comparison decides as the artifact's
    does, sums differ in their last digits.
    """

    name = "python"
    summary = (
        "one .py file, predict(row) with Python 3.9 or newer and nothing else; models of up to about 2 MB of source"
    )

    def export(self, artifact: Path, destination: Path, **options: Any) -> Path:
        from ..parity import Reference

        refuse_options(self.name, options)
        reference = Reference.open(artifact)
        target = place_of(destination, ".py", "model.py")
        content = source(reference.manifest, reference.members["model.onnx"]).encode("ascii")
        shape = (-1, len(reference.manifest["classes"])) if reference.manifest["classes"] else (-1,)
        proof = reference.prove(lambda columns: run(content, columns).reshape(shape), self.name)
        return write_file(target, content, proof)


def source(manifest: Mapping[str, Any], graph: bytes) -> str:
    """The text of the file. Raises ArtifactError for a graph that it cannot hold, or one too large."""
    from automl.estimators.errors import ArtifactError

    from .. import __version__
    from ..codegen.rowgraph import read

    graph_steps = read(graph, "python")
    work = sum(step.size * len(step.data["weights"]) for step in graph_steps.steps if step.op == "dense")
    if work > MOST_WORK:
        raise ArtifactError(
            f"format 'python' cannot hold this model: a row would take {work / 1e6:.1f} million multiplications, at most "
            f"{MOST_WORK / 1e6:g} million are done; use format 'c', 'onnx' or 'bundle'"
        )
    tables = {
        "task": manifest["task"],
        "classes": manifest["classes"],
        "encoder": manifest["encoder"],
        **steps_of(graph_steps),
    }
    model = literal(tables)
    text = f"{code()}\n\n# --- this model, written by automl-frontier {__version__} ---\n\nMODEL = Model(\n{model}\n)\n{USE}"
    if len(text) > MOST_BYTES:
        raise ArtifactError(
            f"format 'python' cannot hold this model: its source would be {len(text) / 1e6:.1f} MB, at most "
            f"{MOST_BYTES / 1e6:g} MB are written; use format 'c', 'onnx' or 'bundle'"
        )
    return text


def code() -> str:
    """The text of the two files of `codegen/` as one: the second's docstring, their imports, their bodies."""
    home = Path(__file__).parents[1] / "codegen"
    texts = ((home / name).read_text(encoding="ascii") for name in ("standalone_row.py", "standalone.py"))
    row, model = (re.sub(r"  # noqa.*", "", text) for text in texts)
    future = "from __future__ import annotations\n"
    docstring = model[: model.index(future)]
    heads, bodies = zip(
        *(text[text.index(future) + len(future) :].split("# --- ", 1) for text in (row, model)), strict=True
    )
    lines = {line for head in heads for line in head.splitlines() if line and not line.startswith("from .")}
    imports = "\n".join(sorted(lines, key=lambda line: (line.startswith("from"), line)))
    return (
        "\n".join([docstring + future, imports, "", *(f"# --- {body.rstrip()}\n\n" for body in bodies)]).rstrip() + "\n"
    )


USE = """
CLASSES, COLUMNS = tuple(MODEL.classes), MODEL.columns
predict, predict_proba = MODEL.predict, MODEL.predict_proba

if __name__ == "__main__":
    sys.exit(main(MODEL))
"""


def steps_of(graph: Any) -> dict[str, Any]:
    """The steps as plain data: (op, inputs (a step's number, 0 is the row, or constants), size, what else it needs)."""
    from ..codegen.rowgraph import Vector

    def reference(value: Any) -> Any:
        return value.step if isinstance(value, Vector) else np.asarray(value, np.float32).reshape(-1)

    steps = [(step.op, [reference(v) for v in step.inputs], step.size, step_data(step)) for step in graph.steps]
    return {"steps": steps, "y": reference(graph.y)}


def step_data(step: Any) -> dict[str, Any]:
    data = dict(step.data)
    if step.op == "dense":
        return {"weights": data["weights"].T.reshape(-1), "bias": data["bias"]}
    if step.op == "rows":
        return {"table": data["table"].reshape(-1), "length": data["table"].shape[1]}
    return tree_data(data["trees"]) if step.op == "trees" else data


def tree_data(trees: Any) -> dict[str, Any]:
    """The arrays of `program_trees.Trees`; `members` by split, `missing_left` the splits where a missing value goes left."""
    from automl.estimators.program_trees import LEQ

    from ..codegen.rowgraph import members

    single = np.array_equal(trees.entry, np.arange(trees.leaves + 1))
    return {
        "column": trees.feature,
        "split": np.where(trees.mode == LEQ, trees.threshold, np.float32(0)),
        "left": trees.true,
        "right": trees.false,
        "missing_left": np.flatnonzero(trees.missing),
        "members": {split: members(trees, split) for split in np.flatnonzero(trees.mode != LEQ).tolist()},
        "roots": trees.roots,
        "entry": None if single else trees.entry,
        "target": trees.target if trees.outputs > 1 else None,
        "value": trees.value,
        "base": trees.base,
    }


# --- data as Python text --------------------------------------------------------------------------------------------------


def literal(value: Any) -> str:
    """Data as a Python literal in ASCII, in lines of at most 118 characters where a number or a text allows it."""
    lines, line = [], ""
    for token in tokens(value):
        if len(line) + len(token) > WIDTH and line:
            lines.append(line.rstrip())
            line = ""
        line += token
    lines.append(line.rstrip())
    return "\n".join(lines)


def tokens(value: Any) -> Iterable[str]:
    if isinstance(value, np.ndarray):
        value = numbers(value) if value.dtype.kind == "f" else value.tolist()
    if isinstance(value, dict):
        yield "{"
        for key, item in value.items():
            yield f"{key!a}: "
            yield from tokens(item)
            yield ", "
        yield "}"
    elif isinstance(value, tuple) and all(isinstance(item, _Number) for item in value):
        yield "("
        for number in value:
            yield f"{number}, "
        yield ")"
    elif isinstance(value, (list, tuple)):
        yield "["
        for item in value:
            yield from tokens(item)
            yield ", "
        yield "]"
    elif isinstance(value, float):
        yield _plain(repr(value))
    else:
        yield ascii(value)


class _Number(str):
    """A number's text."""

    __slots__ = ()


def numbers(values: Any) -> tuple[_Number, ...]:
    """float32 numbers as the shortest decimals that read back as them, by way of a double, as `array("f")` reads them."""
    flat = np.asarray(values, np.float32).reshape(-1)
    texts = [str(value) for value in flat]
    with np.errstate(over="ignore"):
        back = np.array([float(text) for text in texts], np.float64).astype(np.float32)
    off = np.flatnonzero((back != flat) & ~np.isnan(flat))
    for i in off.tolist():
        texts[i] = repr(float(flat[i]))
    return tuple(_Number(_plain(text.removesuffix(".0"))) for text in texts)


def _plain(text: str) -> str:
    """Infinities have no literal: a number too large for a double reads as one."""
    return {"inf": "1e999", "-inf": "-1e999", "nan": "float('nan')"}.get(text, text)


# --- the proof ------------------------------------------------------------------------------------------------------------

HARNESS = """
import json, runpy, sys
model = runpy.run_path(sys.argv[1])
columns = json.load(sys.stdin)
out = []
for row in zip(*columns["cells"]):
    row = dict(zip(columns["names"], row))
    out.append(model["predict_proba"](row) if model["CLASSES"] else model["predict"](row))
json.dump(out, sys.stdout)
"""


def run(content: bytes, columns: Mapping[str, Sequence[Any]], python: str = sys.executable) -> Any:
    """The file's predictions of the rows, (n, K) or (n,), by an interpreter of its own that sees the standard library alone."""
    from automl.estimators.errors import ArtifactError

    cells = [[_json_cell(cell) for cell in column] for column in columns.values()]
    with tempfile.TemporaryDirectory(prefix="export-") as scratch:
        path = Path(scratch) / "model.py"
        path.write_bytes(content)
        command = [python, "-I", "-S", "-c", HARNESS, str(path)]
        request = json.dumps({"names": list(columns), "cells": cells})
        try:
            done = subprocess.run(command, input=request, capture_output=True, text=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise ArtifactError(
                f"format 'python' is refused for this model: {len(cells[0])} rows took more than {SECONDS} s"
            ) from None
    if done.returncode:
        raise ArtifactError(f"format 'python' is refused for this model: its file fails: {done.stderr.strip()[-300:]}")
    return np.asarray(json.loads(done.stdout), np.float64)


def _json_cell(cell: Any) -> Any:
    """A cell of `parity.sample_rows` as JSON: moments as ISO 8601 text, which the file reads as well."""
    return cell if cell is None or isinstance(cell, (str, float, int)) else cell.isoformat()
