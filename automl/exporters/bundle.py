"""The artifact itself, as a folder or as one .zip: what `automl.runtime.load` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from ..exporter import Exporter, beside, free, refuse_options, write_folder


class Bundle(Exporter):
    """Copies the folder, or packs it into one file where the destination ends in .zip.

    With the runtime it is a folder of `model/` (the artifact), `automl_runtime/`, predict.py, README.md and
    requirements.txt: it predicts where only numpy and onnxruntime are installed, and not this package.
    """

    name = "bundle"
    summary = "the artifact folder, or one .zip file; automl.runtime.load reads both with numpy and onnxruntime"
    options: ClassVar = {"with_runtime": "lay the runtime beside it: predicts where only numpy and onnxruntime are"}

    def export(self, artifact: Path, destination: Path, **options: Any) -> Path:
        from automl.estimators.artifact import pack
        from automl.estimators.errors import UsageError

        from ..laid import artifact_files, proven_folder, requirements
        from ..parity import Reference

        refuse_options(self.name, options, self.options)
        single = destination.suffix.lower() == ".zip"
        if options.get("with_runtime") and single:
            raise UsageError("with the runtime it is a folder of files: name a folder, not a .zip")
        reference = Reference.open(artifact)
        free(destination)
        if options.get("with_runtime"):
            more = {
                "predict.py": PREDICT.encode(),
                "README.md": readme(reference).encode("utf-8", "backslashreplace"),
                "requirements.txt": requirements("numpy", "onnxruntime").encode(),
            }
            return proven_folder(reference, self.name, more, destination)
        files = artifact_files(reference, self.name)
        if not single:
            return write_folder(destination, files)
        with beside(destination) as scratch:
            return pack(write_folder(Path(scratch) / "artifact", files), destination)


def readme(reference: Any) -> str:
    """How the folder is used; names of columns stand in a code block, as Python writes them."""
    used = reference.model.used
    columns = ", ".join(repr(name) for name in used[:8]) + (f", ... ({len(used)} in all)" if len(used) > 8 else "")
    return README.format(task=reference.model.task, columns=columns)


PREDICT = '''\
"""Predicts rows with the model in `model/`: a JSON list of rows in, JSON out. Needs numpy and onnxruntime.

    echo '[{"column": 1.5, "other": "a"}]' | python predict.py
"""

import json
import sys
from pathlib import Path

from automl_runtime import load

if __name__ == "__main__":
    model = load(Path(__file__).resolve().parent / "model")
    rows = json.load(sys.stdin)
    out = {"prediction": model.predict(rows).tolist()}
    if model.classes_ is not None:
        out |= {"classes": model.classes_.tolist(), "probabilities": model.predict_proba(rows).tolist()}
    json.dump(out, sys.stdout)
    print()
'''

README = """\
# A {task} model with the runtime that it needs

`model/` is the model, `automl_runtime/` all that reads it: Python 3.11 or newer, `pip install -r requirements.txt`.

    from automl_runtime import load

    model = load("model")
    model.predict_one({{...}})      # one row as a dict
    model.predict(rows)            # a list of dicts, a dict of arrays, a pandas frame
    model.predict_proba(rows)      # of a classifier, in the order of model.classes_
    model.used                     # the columns that it needs: {columns}

`python predict.py` reads a JSON list of rows from stdin. `model/record.json` says on how many rows this copy was compared
with the original ("export").
"""
