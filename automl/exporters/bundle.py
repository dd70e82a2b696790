"""The artifact itself, as a folder or as one .zip: what `automl.runtime.load` reads."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ..exporter import Exporter, free, refuse_options, write_folder

RUNTIME = ("runtime.py", "compiled.py", "program.py", "kernel.c")
"""Files of `automl.estimators` that the runtime is made of; those that this version has are laid."""


class Bundle(Exporter):
    """Copies the folder, or packs it into one file where the destination ends in .zip.

    With the runtime it is a folder of `model/` (the artifact), the runtime's files, predict.py and README.md, which needs
    only numpy and onnxruntime (requirements.txt), not this package.
    """

    name = "bundle"
    summary = "the artifact folder, or one .zip file; automl.runtime.load reads both with numpy and onnxruntime"
    options: ClassVar = {
        "with_runtime": "lay the runtime beside the artifact: predicts where only numpy and onnxruntime are"
    }

    def export(self, artifact: Path, destination: Path, **options: Any) -> Path:
        from automl.estimators.artifact import pack
        from automl.estimators.errors import UsageError

        from ..parity import Reference

        refuse_options(self.name, options, self.options)
        single = destination.suffix.lower() == ".zip"
        if options.get("with_runtime") and single:
            raise UsageError("with the runtime it is a folder of files: name a folder, not a .zip")
        reference = Reference.open(artifact)
        free(destination)
        with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".export-") as scratch:
            whole = proven(reference, Path(scratch) / "artifact", self.name)
            if single:
                return pack(whole, destination)
            files = {path.name: path.read_bytes() for path in whole.iterdir()}
        if options.get("with_runtime"):
            files = {**{f"model/{name}": content for name, content in files.items()}, **runtime_files(reference)}
        return write_folder(destination, files)


def proven(reference: Any, folder: Path, form: str) -> Path:
    """Writes the artifact into a folder, loads it from there, proves it, and says so in its record."""
    from automl.estimators.artifact import read_record, write_record
    from automl.estimators.runtime import RECORD, load

    from ..parity import predictions

    write_folder(folder, reference.members)
    with load(folder) as copy:
        proof = reference.prove(lambda rows: predictions(copy, rows), form)
    said = read_record(folder) if RECORD in reference.members else {}
    write_record(folder, {**said, "export": proof})
    return folder


def runtime_files(reference: Any) -> dict[str, bytes]:
    """The runtime alone: its own files, and what shows a reader how it is used."""
    columns = ", ".join(repr(name) for name in reference.model.used[:3])
    more = ", ..." if len(reference.model.used) > 3 else ""
    readme = README.format(task=reference.model.task, columns=(columns + more) or "none")
    return {
        **engine_files(),
        "predict.py": PREDICT.encode(),
        "README.md": readme.encode("utf-8", "backslashreplace"),
        "requirements.txt": requirements("numpy", "onnxruntime").encode(),
    }


def engine_files() -> dict[str, bytes]:
    """The files of `RUNTIME`, by name."""
    from automl import estimators

    home = Path(str(estimators.__file__)).parent
    return {name: (home / name).read_bytes() for name in RUNTIME if (home / name).exists()}


def requirements(*packages: str, extra: Mapping[str, str] | None = None) -> str:
    """Lines of a requirements.txt that pin these packages to the versions that are installed here."""
    from importlib.metadata import PackageNotFoundError, version

    lines = []
    for name in packages:
        try:
            lines.append(f"{name}=={version(name)}")
        except PackageNotFoundError:
            lines.append((extra or {}).get(name, name))
    return "\n".join(lines) + "\n"


PREDICT = '''\
"""Predicts rows with the model in `model/`: JSON in, JSON out. Needs numpy and onnxruntime (requirements.txt).

    echo '[{"column": 1.5, "other": "a"}]' | python predict.py
"""

import json
import sys
from pathlib import Path

from runtime import load

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
# A {task} model, with the runtime that it needs

`model/` is the model, `runtime.py` all that reads it: Python 3.11 or newer with `pip install -r requirements.txt`.

    from runtime import load

    model = load("model")
    model.predict_one({{...}})      # one row as a dict; the columns that it needs: model.used ({columns})
    model.predict(rows)            # a list of dicts, a dict of arrays, a pandas frame
    model.predict_proba(rows)      # of a classifier, in the order of model.classes_

`python predict.py` reads a JSON list of rows from stdin. `model/record.json` says on how many rows this copy was compared
with the original ("export").
"""
