"""One artifact as it is served: loaded, tried on rows of its own schema, and turned into functions from JSON to JSON."""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .beside import ArtifactError, runtime
from .schema import Field, fields_of, problems_of, sample_rows

WARM_ROWS = 64


class Served:
    """A loaded artifact. `name` and `version` are those of the URL; `row_seconds` what one row takes here.

    Nothing changes it once it is built, so a request that has begun with it ends with it, whatever is swapped in meanwhile.
    """

    def __init__(self, path: str | os.PathLike[str], name: str) -> None:
        self.model = runtime.load(path, threads=1)
        self.name = name
        self.version = str(self.model.manifest["files"][runtime.GRAPH]["sha256"])[:12]
        self.engine = str(getattr(self.model, "engine", self.model.manifest.get("engine", "onnx")))
        self.task = self.model.task
        self.labels: list[Any] = [] if self.model.classes_ is None else self.model.classes_.tolist()
        self.fields: list[Field] = fields_of(self.model)
        self.loaded = time.time()
        self.one: Callable[[Any], bytes] = _answer_one(self)
        self.row_seconds = self._warm()

    def _warm(self) -> float:
        """Answers some rows of the schema. Raises ArtifactError for an answer that is none."""
        rows = sample_rows(self.fields, WARM_ROWS)
        times = []
        for row in rows:
            began = time.perf_counter()
            answer = self.one(row)
            times.append(time.perf_counter() - began)
            if b"null" in answer and json.loads(answer)["prediction"] is None:
                raise ArtifactError("the model answers a row of its own schema with no number: refused")
        self.many(rows)
        return statistics.median(times)

    def many(self, rows: Sequence[Mapping[str, Any]]) -> bytes:
        """The JSON list of the answers to rows (list of dicts)."""
        if not rows:
            return b"[]"
        if self.task == "regression":
            answers = [_value(value) for value in self.model.predict(rows).tolist()]
        else:
            answer = _answer_probabilities(self)
            answers = [answer(row) for row in self.model.predict_proba(rows).tolist()]
        return b"[" + b",".join(answers) + b"]"

    def columns(self, columns: Mapping[str, Any]) -> tuple[list[Any], list[list[float]]]:
        """(predictions, probabilities: [] for regression) of columns of cells."""
        if self.task == "regression":
            return self.model.predict(columns).tolist(), []
        probabilities: list[list[float]] = self.model.predict_proba(columns).tolist()
        return [self.label(row) for row in probabilities], probabilities

    def label(self, row: Sequence[float]) -> Any:
        """The label that `predict` gives where these are the probabilities; None where they are no numbers."""
        if not all(map(math.isfinite, row)):
            return None
        return self.labels[int(row[1] > 0.5) if self.task == "binary" else row.index(max(row))]

    def problems(self, rows: Sequence[Any], most: int = 20) -> list[dict[str, Any]]:
        """What is wrong with rows of JSON, each with its row and field; [] if nothing is."""
        return problems_of(self.fields, rows, most)


def refuses(first: Mapping[str, Any], served: Served) -> str:
    """Why `served` cannot take the place of the artifact with the manifest `first`, by which clients send rows; "" if it can."""
    if served.task != first["task"]:
        return f"its task is {served.task}, the server began with {first['task']}"
    known = set(runtime.RowEncoder(first["encoder"]).columns)
    new = [field.name for field in served.fields if field.name not in known and not field.optional]
    if new:
        return f"it needs the column {runtime.shown(new[0])}, which the model that the server began with does not have"
    return ""


def name_of(path: str | os.PathLike[str]) -> str:
    """The model's name in the URL where none was given: the artifact's, without .zip."""
    resolved = Path(path).absolute()
    return (resolved.name.removesuffix(".zip") or "model").replace("/", "_")


def _value(value: float) -> bytes:
    return b'{"prediction":%a}' % value if math.isfinite(value) else b'{"prediction":null}'


def _answer_one(served: Served) -> Callable[[Any], bytes]:
    """A row (a dict) to the bytes of its JSON answer; raises what the runtime raises."""
    if served.task == "regression":
        predict = served.model.predict_one
        return lambda row: _value(predict(row))
    proba, answer = served.model.predict_proba_one, _answer_probabilities(served)
    return lambda row: answer(proba(row).tolist())


def _answer_probabilities(served: Served) -> Callable[[list[float]], bytes]:
    """Probabilities to {"prediction": label, "probabilities": {label: probability}}, written by one template a label.

    Where they are no numbers, all of it is null.
    """
    texts = [json.dumps(label).encode() for label in served.labels]
    keys = [json.dumps(runtime.level_of(label)).encode() for label in served.labels]
    body = b",".join(key.replace(b"%", b"%%") + b":%a" for key in keys)
    templates = [b'{"prediction":' + text.replace(b"%", b"%%") + b',"probabilities":{' + body + b"}}" for text in texts]
    nothing = b'{"prediction":null,"probabilities":{' + b",".join(key + b":null" for key in keys) + b"}}"
    isfinite = math.isfinite
    if served.task == "binary":
        no, yes = templates
        return lambda row: (yes if row[1] > 0.5 else no) % (row[0], row[1]) if isfinite(row[1]) else nothing
    return lambda row: templates[row.index(max(row))] % tuple(row) if isfinite(sum(row)) else nothing
