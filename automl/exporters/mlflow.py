"""An MLflow model folder of the pyfunc flavour, without a pickle: MLflow imports a small package that lies in it."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from automl.estimators.runtime import is_missing

from ..exporter import Exporter, free, refuse_options

if TYPE_CHECKING:
    from automl.estimators.runtime import RowEncoder

    from ..parity import Reference

EXAMPLE_ROWS = 5


class MLflow(Exporter):
    """Writes `MLmodel` with signature and input example, the artifact, and `code/` with the runtime and its loader.

    `mlflow.pyfunc.load_model(path).predict(frame)` gives labels or values; with `params={"probabilities": True}` a
    classifier's probabilities, a column a class. MLflow isn't needed to write it. The signature's types are double, string
    and datetime; MLflow itself refuses int64 where double is asked for.
    """

    name = "mlflow"
    summary = "an MLflow model folder (pyfunc, no pickle) with signature and input example"

    def export(self, artifact: Path, destination: Path, **options: Any) -> Path:
        from ..laid import PACKAGE, proven_folder, requirements
        from ..parity import Reference

        refuse_options(self.name, options)
        reference = Reference.open(artifact)
        free(destination)
        files = {
            "MLmodel": mlmodel(reference).encode(),
            "requirements.txt": requirements("numpy", "onnxruntime", "pandas").encode(),
            "python_env.yaml": ENVIRONMENT.format(python=platform.python_version()).encode(),
            "input_example.json": example(reference).encode(),
            f"code/{PACKAGE}/pyfunc.py": PYFUNC.encode(),
        }
        return proven_folder(reference, self.name, files, destination, code="code", predict=predicted)


def predicted(package: Any, model: Path, rows: Any) -> Any:
    """What the loader that MLflow imports gives for the rows, as a frame."""
    from importlib import import_module

    import pandas as pd

    loaded = import_module(f"{package.__name__}.pyfunc")._load_pyfunc(str(model))
    classifier = loaded.model.classes_ is not None
    found = loaded.predict(pd.DataFrame(rows, dtype=object), {"probabilities": classifier})
    loaded.model.close()
    return np.asarray(found)


def mlmodel(reference: Reference) -> str:
    """The file MLmodel; every text from data is a JSON string within YAML."""
    from automl import __version__

    from ..laid import PACKAGE

    signature = {
        "inputs": columns(reference.model.encoder),
        "outputs": [{"type": _label_type(reference.manifest), "required": True}],
        "params": [{"name": "probabilities", "type": "boolean", "default": False, "shape": None}],
    }
    if reference.model.task == "regression":
        del signature["params"]
    lines = [f"  {key}: {_quoted(json.dumps(value))}" for key, value in signature.items()]
    return MLMODEL.format(
        package=PACKAGE, python=platform.python_version(), version=__version__, signature="\n".join(lines)
    )


def columns(encoder: RowEncoder) -> list[dict[str, Any]]:
    """The signature's inputs: the columns that the model needs, each with MLflow's type."""
    from automl.estimators.runtime import Block

    types = {"number": "double", "date": "datetime", "category": "string", "hashed": "string", "text": "string"}
    kinds: dict[str, str] = {}
    for entry in encoder.entries:
        parse = {key for key in entry.entry.get("parse") or {} if key != "infinite"}
        read = bool(parse) and entry.parsed == "number"  # numbers that came as text, or booleans
        for name in entry.names if isinstance(entry, Block) else [entry.name]:
            kinds[name] = "double" if isinstance(entry, Block) else "any" if read else types[entry.parsed]
    return [{"type": kinds[name], "name": name, "required": kinds[name] != "any"} for name in encoder.used]


def _label_type(manifest: Mapping[str, Any]) -> str:
    kinds = {type(label) for label in manifest["classes"]}
    names = {bool: "boolean", int: "long", float: "double", str: "string"}
    return names[kinds.pop()] if len(kinds) == 1 else "any" if kinds else "double"


def example(reference: Reference) -> str:
    """The most ordinary of the rows that the export is proven on, as pandas' "split" JSON."""
    from ..parity import UNSEEN_LEVELS, dict_rows

    def odd(cell: Any) -> bool:
        return is_missing(cell) or cell in UNSEEN_LEVELS or (isinstance(cell, float) and abs(cell) >= 1e12)

    rows = dict_rows(reference.rows)
    rows.sort(key=lambda row: sum(map(odd, row.values())))
    cells = [[_plain(cell) for cell in row.values()] for row in rows[:EXAMPLE_ROWS]]
    return json.dumps({"columns": list(reference.rows), "data": cells}) + "\n"


def _plain(cell: Any) -> Any:
    return None if is_missing(cell) else cell.isoformat() if hasattr(cell, "isoformat") else cell


def _quoted(text: str) -> str:
    """A YAML string: JSON's, in which YAML reads the same."""
    return json.dumps(text)


MLMODEL = """\
flavors:
  python_function:
    code: code
    data: model
    env:
      virtualenv: python_env.yaml
    loader_module: {package}.pyfunc
    python_version: {python}
  automl:
    version: {version}
saved_input_example_info:
  artifact_path: input_example.json
  pandas_orient: split
  type: dataframe
signature:
{signature}
"""
ENVIRONMENT = """\
python: {python}
build_dependencies:
- pip
dependencies:
- -r requirements.txt
"""
PYFUNC = '''\
"""What MLflow imports to load the model (`loader_module` in MLmodel)."""

from .runtime import load


def _load_pyfunc(data_path):
    return Predictor(load(data_path))


class Predictor:
    """Labels or values of a frame; with the parameter `probabilities` a frame of them, a column a class."""

    def __init__(self, model):
        self.model = model

    def predict(self, frame, params=None):
        if not (params or {}).get("probabilities"):
            return self.model.predict(frame)
        import pandas

        names = [str(label) for label in self.model.classes_]
        return pandas.DataFrame(self.model.predict_proba(frame), columns=names, index=getattr(frame, "index", None))
'''
