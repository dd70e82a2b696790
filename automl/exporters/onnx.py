"""The model's graph as one .onnx file, for any ONNX runtime in any language."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from ..exporter import Exporter, free, refuse_options


class Onnx(Exporter):
    """Writes one file: input "x", the encoded float32 matrix (rows, width); output "y", probabilities or values.

    The encoding of raw, named columns isn't part of the graph. What a caller needs for it stands in the file's
    metadata as JSON texts: `automl.task`, `automl.classes` (labels in the output's order; of a single output column the
    second class is the one whose probability it is) and `automl.encoder` (the tables that `runtime.RowEncoder` reads).
    """

    name = "onnx"
    summary = "one .onnx file that takes the encoded float32 matrix; task, classes and encoder tables in its metadata"

    def export(self, artifact: Path, destination: Path, **options: Any) -> Path:
        onnx: Any = import_module("onnx")  # by its name: this file has the same

        from automl.estimators.runtime import GRAPH, check_members, read_members

        refuse_options(self.name, options)
        members = read_members(artifact)
        manifest = check_members(members)
        target = free(destination if destination.suffix.lower() == ".onnx" else destination / "model.onnx")
        model = onnx.load_model_from_string(members[GRAPH])
        for key, value in metadata(manifest).items():
            entry = model.metadata_props.add()
            entry.key, entry.value = key, value
        onnx.checker.check_model(model)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as scratch:
            whole = Path(scratch) / "model.onnx"
            whole.write_bytes(model.SerializeToString())
            os.replace(whole, target)
        return target


def metadata(manifest: Mapping[str, Any]) -> dict[str, str]:
    """What a reader of the graph needs of the manifest: the names `automl.task`, `.classes` and `.encoder`, each as JSON."""
    return {f"automl.{key}": json.dumps(manifest[key], separators=(",", ":")) for key in ("task", "classes", "encoder")}
