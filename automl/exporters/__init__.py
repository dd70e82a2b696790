"""The export formats, simplest first."""

from __future__ import annotations

from automl.estimators.errors import UsageError

from ..exporter import Exporter
from .bundle import Bundle
from .c import C
from .container import Container
from .mlflow import MLflow
from .onnx import Onnx
from .python import Python
from .sklearn import Sklearn

EXPORTERS: tuple[Exporter, ...] = (Bundle(), Onnx(), Python(), C(), Sklearn(), MLflow(), Container())


def by_name(name: str) -> Exporter:
    """The exporter called `name`; UsageError with the known names otherwise."""
    from difflib import get_close_matches

    known = {exporter.name: exporter for exporter in EXPORTERS}
    if name in known:
        return known[name]
    near = get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise UsageError(f"unknown export format {name!r}{hint} Known are {', '.join(known)}")
