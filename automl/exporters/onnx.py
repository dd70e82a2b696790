"""The whole model as one .onnx file, raw named columns in, for any ONNX runtime in any language."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from ..exporter import Exporter, place_of, refuse_options, write_file

CASE = 'a level is written as in training: whole numbers without a fraction ("3"), booleans "True" and "False"'


class Onnx(Exporter):
    """Writes one file whose inputs are the columns that the model needs and whose outputs are label and probabilities.

    Every input is (n, 1) and has its column's name: `estimators/named.py` says of which type, and what missing is. Outputs
    are "label" (n,) in the classes' own type and "probabilities" (n, K), or "value" (n, 1). The metadata says it again as
    JSON texts: `automl.task`, `automl.classes`, `automl.inputs`, `automl.outputs`. It needs onnxruntime 1.23 or newer.
    """

    name = "onnx"
    summary = "one .onnx file, raw named columns in, for onnxruntime in any language"

    def export(self, artifact: Path, destination: Path, **options: Any) -> Path:
        onnx: Any = import_module("onnx")  # by its name: this file has the same

        from automl.estimators.graph import written
        from automl.estimators.named import described, feeds, named_model
        from automl.estimators.runtime import GRAPH, open_session

        from ..parity import Reference

        refuse_options(self.name, options)
        reference = Reference.open(artifact)
        target = place_of(destination, ".onnx", "model.onnx")
        encoder = reference.model.encoder
        model, outputs = named_model(reference.manifest, reference.members[GRAPH])
        inputs = described(encoder, model)
        for key, value in metadata(reference.manifest, inputs, outputs).items():
            entry = model.metadata_props.add()
            entry.key, entry.value = key, value
        onnx.checker.check_model(model)
        content = written(model)
        session = open_session(content)
        wanted = outputs.get("probabilities") or outputs["value"]

        def predict(rows: Any) -> Any:
            found = session.run([wanted], feeds(encoder, rows))[0]
            return found if "probabilities" in outputs else found[:, 0]

        return write_file(target, content, reference.prove(predict, self.name))


def metadata(manifest: Mapping[str, Any], inputs: Any, outputs: Mapping[str, str]) -> dict[str, str]:
    """What a reader of the file needs to know, each as JSON under the name `automl.KEY`."""
    said = {
        "task": manifest["task"],
        "classes": manifest["classes"],
        "inputs": inputs,
        "outputs": outputs,
        "levels": CASE,
    }
    return {f"automl.{key}": json.dumps(value, separators=(",", ":")) for key, value in said.items()}
