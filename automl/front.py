"""The front of a run: its models, the most accurate first, each one deployable and measured as deployed."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import tempfile
import weakref
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from automl.estimators.errors import AutoMLError, DataError, UsageError
from automl.search.units import show_bytes, show_score, show_seconds

if TYPE_CHECKING:
    import pandas as pd

    from automl.estimators import runtime

log = logging.getLogger("automl")

UNITS = {
    "training_seconds": ("training_time_s", 1.0),
    "training_cpu_seconds": ("training_cpu_s", 1.0),
    "training_memory_bytes": ("training_memory_mb", 1e-6),
    "latency_p50_seconds": ("latency_p50_us", 1e6),
    "latency_p99_seconds": ("latency_p99_us", 1e6),
    "rows_per_second": ("throughput_rows_per_s", 1.0),
    "load_seconds": ("load_time_ms", 1e3),
    "serving_memory_bytes": ("serving_memory_mb", 1e-6),
    "model_memory_bytes": ("model_memory_mb", 1e-6),
    "size_bytes": ("size_kb", 1e-3),
}
"""Columns of the leaderboard: the name with its unit, and what a value is multiplied by."""


class Scratch:
    """A temporary folder that is removed with the last who holds it, or at exit."""

    def __init__(self, prefix: str) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=prefix))
        self.remove = weakref.finalize(self, _remove, self.path, os.getpid())


def _remove(path: Path, owner: int) -> None:
    if os.getpid() == owner:  # not in a forked child
        shutil.rmtree(path, ignore_errors=True)


class Model:
    """One model of a front. Its attributes are the names of the JSON: `score`, `latency_p50_seconds`, `size_bytes`, ...

    It predicts by its artifact, with numpy and onnxruntime alone.
    """

    def __init__(self, folder: Path, entry: Mapping[str, Any], task: str, scratch: Scratch | None = None) -> None:
        self.folder = folder
        self.entry = dict(entry)
        self.task = task
        self._scratch = scratch  # a temporary folder lives as long as what predicts from it

    def __getattr__(self, name: str) -> Any:
        entry = self.__dict__.get("entry", {})
        if name in entry:
            return entry[name]
        raise AttributeError(f"a model of the front has no {name!r}; it has {', '.join(sorted(entry))}")

    @classmethod
    def _from_files(cls, files: Mapping[str, bytes], entry: Mapping[str, Any], task: str) -> Model:
        """The model whose artifact's files are these, in a temporary folder that lives as long as it."""
        scratch = Scratch("automl-model-")
        model = cls(scratch.path, entry, task, scratch)
        model.path.mkdir(parents=True)
        for name, data in files.items():
            (model.path / name).write_bytes(data)
        return model

    def __reduce__(self) -> Any:
        files = {file.name: file.read_bytes() for file in sorted(self.path.iterdir())}
        return (Model._from_files, (files, self.entry, self.task))

    @property
    def path(self) -> Path:
        """The artifact's folder."""
        return self.folder / str(self.entry["artifact"])

    @cached_property
    def runtime(self) -> runtime.Model:
        """The artifact, loaded; what `automl.runtime.load(model.path)` gives."""
        from automl.estimators.runtime import load

        return load(self.path)

    @property
    def classes_(self) -> Any:
        return self.runtime.classes_

    def predict(self, X: Any) -> Any:
        """(n,) labels in their original type, or values, of a frame, a dict of arrays or a 2-D array."""
        return self.runtime.predict(X)

    def predict_proba(self, X: Any) -> Any:
        """(n, K) probabilities in the order of `classes_`."""
        return self.runtime.predict_proba(X)

    def predict_one(self, row: Any) -> Any:
        """The label or value of one row: a dict, or a sequence in column order."""
        return self.runtime.predict_one(row)

    def predict_proba_one(self, row: Any) -> Any:
        """(K,) probabilities of one row."""
        return self.runtime.predict_proba_one(row)

    def export(self, path: str | Path, format: str = "bundle", **options: Any) -> Path:
        """Writes the model to `path` in one of the formats of `automl export --help` and returns where it is."""
        from .exporters import by_name

        return by_name(format).export(self.path, Path(path), **options)

    def as_dict(self) -> dict[str, Any]:
        return dict(self.entry)

    def __repr__(self) -> str:
        e = self.entry
        return (
            f"<Model {e['id']} {e['family']}: score {show_score(e['score'])}, one row {show_seconds(e['latency_p50_seconds'])}, "
            f"{show_bytes(e['size_bytes'])}, trained in {show_seconds(e['training_seconds'])}>"
        )


class Front(Sequence[Model]):
    """The non-dominated models of a run, the most accurate first.

    `folder` holds the artifacts; `found` is the object that `automl front RUN --json` prints. Pickling carries the artifacts.
    """

    def __init__(self, folder: Path, found: Mapping[str, Any], scratch: Scratch | None = None) -> None:
        self.folder = Path(folder)
        self.found = dict(found)
        self._scratch = scratch
        self._models = [Model(self.folder, entry, str(found["task"]), scratch) for entry in found["models"]]

    def __len__(self) -> int:
        return len(self._models)

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models)

    @overload
    def __getitem__(self, index: int) -> Model: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Model]: ...
    def __getitem__(self, index: int | slice) -> Model | Sequence[Model]:
        return self._models[index]

    @property
    def limits(self) -> dict[str, float]:
        """The limits that the run was given, by name, in seconds, bytes and score."""
        return dict(self.found.get("limits", {}))

    def get(self, name: str) -> Model:
        """The model with the id `name`. Raises UsageError naming the ids there are."""
        for model in self._models:
            if model.id == name:
                return model
        raise UsageError(f"the front has no model {name!r}; it has {', '.join(m.id for m in self._models)}")

    def choose(
        self,
        *,
        max_latency: str | float | None = None,
        max_latency_p99: str | float | None = None,
        max_memory: str | float | None = None,
        max_size: str | float | None = None,
        max_training_time: str | float | None = None,
        max_training_memory: str | float | None = None,
        min_score: float | None = None,
        prefer: str = "accuracy",
        tolerance: float = 0.01,
        cost: str = "latency",
    ) -> Model:
        """The model within the limits that is most accurate, at the knee, or cheapest within `tolerance` of the best error.

        Times are seconds or text ("1ms", "100us"), sizes bytes or text ("50MB"); `max_latency` is the one-row p50,
        `max_memory` the serving memory above a bare interpreter. A limit that the run was given holds unless another value is
        given here, and with target rows all are held against what is forecast there. `cost` is the objective that
        "cheapest_within" minimises; the knee is that of the run's objectives.
        Raises InfeasibleError, naming the nearest models and the limit to lift: a limit is never relaxed.
        """
        given = read_limits(
            max_latency=max_latency,
            max_latency_p99=max_latency_p99,
            max_memory=max_memory,
            max_size=max_size,
            max_training_time=max_training_time,
            max_training_memory=max_training_memory,
            min_score=min_score,
        )
        limits, target = {**self.limits, **given}, self.found.get("target_rows")
        if target and "at_rows" not in self.found:
            return self.get(self.at(target)._choose(limits, prefer, tolerance, cost).id)
        return self._choose(limits, prefer, tolerance, cost)

    def _choose(self, limits: Mapping[str, float], prefer: str, tolerance: float, cost: str) -> Model:
        """`choose` among these models, with limits in seconds, bytes and score."""
        from automl.estimators.families import FAMILIES
        from automl.search.front import choose
        from automl.search.objectives import DEFAULT, OBJECTIVES
        from automl.search.trial import Measurement

        if "at_rows" in self.found and "max_latency_p99" in limits:
            raise UsageError(
                "max_latency_p99 is not forecast, and limits are held against other rows than those measured: give max_latency"
            )
        blind = {family.name for family in FAMILIES if not family.reads}
        wanted = self.found.get("objectives", [])
        own = tuple(o for o in OBJECTIVES if o.name in wanted)  # the caller's own cannot be read from a stored run

        greater = bool(self.found["greater_is_better"])
        held = [m.entry for m in self._models]
        if "at_rows" in self.found:
            from .scale import bound

            held = [bound(entry, greater) for entry in held]
        index = choose(
            [Measurement.from_dict(m.entry) for m in self._models],
            limits,
            bounds=[Measurement.from_dict(entry) for entry in held],
            prefer=prefer,
            tolerance=tolerance,
            cost=cost,
            names=[m.id for m in self._models],
            objectives=own or DEFAULT,
            constant=[i for i, m in enumerate(self._models) if m.family in blind],
            greater_is_better=greater,
        )
        return self._models[index]

    def at(self, rows: int | str) -> Front:
        """The front that the laws forecast at `rows` training rows (a number, or text such as "10M").

        Its models are this front's, with forecasts in place of what was measured, each with its 90 % interval in `forecast`;
        what has no law is None there, with the reason. A model that another one surely beats in error, training time,
        latency and memory is left out. `choose` holds limits against the worse end of the intervals. Forecasts beyond 16
        times the measured rows are marked indicative.
        """
        from automl.search.units import count

        from .scale import certainly_dominated, forecast_entry, outlooks

        if "at_rows" in self.found:
            raise UsageError("this front is a forecast already: call at() on the front of the run")
        number, greater = count(rows, "rows"), bool(self.found["greater_is_better"])
        entries = [forecast_entry(outlook, number, greater) for outlook in outlooks(self.as_dict())]
        kept = [e for e, beaten in zip(entries, certainly_dominated(entries), strict=True) if not beaten]
        kept.sort(key=lambda e: float("inf") if e["error"] is None else e["error"])
        return Front(self.folder, {**self.found, "at_rows": number, "models": kept}, self._scratch)

    def leaderboard(self) -> pd.DataFrame:
        """A DataFrame, one row a model, with the unit of every column in its name."""
        import pandas as pd

        rows = []
        for model in self._models:
            e = model.entry
            row: dict[str, Any] = {"id": e["id"], "family": e["family"], str(self.found["metric"]): e["score"]}
            row |= {"score_low": e["score_low"], "score_high": e["score_high"]}
            if "test_score" in e:
                row["test_score"] = e["test_score"]
            row |= {name: None if e.get(key) is None else e[key] * factor for key, (name, factor) in UNITS.items()}
            row |= {"training_rows": e["rows"], "input_columns": e["columns"], "engine": e["engine"]}
            rows.append(row)
        return pd.DataFrame(rows)

    def as_dict(self) -> dict[str, Any]:
        """The object of `automl front RUN --json`."""
        return {**self.found, "models": [m.as_dict() for m in self._models]}

    def score_on(self, X: Any, y: Any, metric: Any = None, sample_weight: Any = None) -> None:
        """Scores every model on new rows; `test_score` and `test_error` stand in their entries from then on.

        `metric` is a resolved metric where the run's own is a callable, which a stored run doesn't keep. The run's folder,
        where it is kept, learns of them.
        """
        import numpy as np

        from automl.estimators.hardware import cpu_count
        from automl.estimators.runtime import load
        from automl.estimators.table import Task
        from automl.search.metric import Metric

        task = str(self.found["task"])
        metric = metric or Metric.resolve(str(self.found["metric"]), Task(task, self._labels()))
        for model in self._models:
            with load(model.path, threads=cpu_count()) as served:
                prediction = np.asarray(served.predict(X) if task == "regression" else served.predict_proba(X), float)
            codes = np.asarray(y, float) if task == "regression" else encode_labels(y, model.classes_)
            error = float(metric.error(codes, prediction, sample_weight))
            model.entry |= {"test_score": float(metric.score_of(error)), "test_error": error}
        self._store()

    def _store(self) -> None:
        """Puts the front as it is now in the run's database, if there is one; a forecast is none of the run's."""
        from automl.search.store import Store

        path = self.folder / "run.db"
        if "at_rows" in self.found or not path.exists():
            return
        try:
            with Store.open(path) as store:
                store.set_meta("front", self.as_dict())
        except AutoMLError as error:  # read-only, or in use: the scores stand in this object all the same
            log.warning("the test scores are not kept in the run folder: %s", error)

    def _labels(self) -> tuple[Any, ...]:
        return () if self.found["task"] == "regression" else tuple(self._models[0].classes_)

    # -- showing ----------------------------------------------------------------------------------------------------

    def table(self) -> list[tuple[str, ...]]:
        """The front as text cells, a header first: what the command line and the notebook show.

        "rows/s" is that of a batch of 10,000 rows, or of 1,000 where there was no time for one.
        """
        if "at_rows" in self.found:
            return self._forecast_table()
        header = [
            "id",
            "family",
            str(self.found["metric"]),
            "90 % interval",
            "one row p50",
            "p99",
            "rows/s",
            "memory",
            "size",
            "training",
            "rows",
            "columns",
            "engine",
        ]
        test = any("test_score" in m.entry for m in self._models)
        if test:
            header.insert(4, "test")
        lines = [tuple(header)]
        for model in self._models:
            e = model.entry
            cells = [
                e["id"],
                e["family"] + plan_shown(e["plan"]),
                show_score(e["score"]),
                f"{show_score(e['score_low'])} to {show_score(e['score_high'])}",
                shown(e["latency_p50_seconds"], show_seconds),
                shown(e["latency_p99_seconds"], show_seconds),
                shown(e["rows_per_second"] or e["rows_per_second_1000"], lambda rate: f"{rate:,.0f}"),
                shown(e["serving_memory_bytes"], show_bytes),
                shown(e["size_bytes"], show_bytes),
                shown(e["training_seconds"], show_seconds),
                f"{e['rows']:,}",
                str(e["columns"]),
                e["engine"],
            ]
            if test:
                cells.insert(4, show_score(e["test_score"]) if "test_score" in e else "")
            lines.append(tuple(cells))
        return lines

    def _forecast_table(self) -> list[tuple[str, ...]]:
        """The forecasts with their 90 % intervals; a mark says how far to trust them."""
        costs = {
            "training": ("training_seconds", show_seconds),
            "training memory": ("training_memory_bytes", show_bytes),
            "one row p50": ("latency_p50_seconds", show_seconds),
            "size": ("size_bytes", show_bytes),
        }
        lines: list[tuple[str, ...]] = [
            ("id", "family", f"{self.found['metric']} at {self.found['at_rows']:,} rows", *costs, "")
        ]
        for model in self._models:
            e = model.entry
            told = e["forecast"]
            score = "no law"
            if e["score"] is not None:
                score, low, high = (show_score(e[name]) for name in ("score", "score_low", "score_high"))
                score = f"{score} ({low} to {high})"
            cells = [
                f"{show(told[name]['value'])} ({show(told[name]['low'])} to {show(told[name]['high'])})"
                if "value" in told.get(name, {})
                else "no law"
                for name, show in costs.values()
            ]
            kinds = {t["kind"] for t in told.values() if "kind" in t}
            mark = next((kind for kind in ("indicative", "forecast", "measured") if kind in kinds), "")
            lines.append((e["id"], e["family"], score, *cells, mark))
        return lines

    def __repr__(self) -> str:
        lines = self.table()
        widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
        return "\n".join(
            "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines
        )

    def _repr_html_(self) -> str:
        from html import escape

        head, *body = self.table()
        rows = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in line) + "</tr>" for line in body)
        return (
            "<table><thead><tr>"
            + "".join(f"<th>{escape(c)}</th>" for c in head)
            + f"</tr></thead><tbody>{rows}</tbody></table>"
        )

    # -- carrying the artifacts -------------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """The front and its artifacts as one zip archive."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("front.json", json.dumps(self.as_dict()))
            for model in self._models:
                for file in sorted(model.path.iterdir()):
                    archive.write(file, f"{model.entry['artifact']}/{file.name}")
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Front:
        """The front that `to_bytes` wrote, its artifacts in a temporary folder that lives as long as it."""
        scratch = Scratch("automl-front-")
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            found = json.loads(archive.read("front.json"))
            for entry in found["models"]:
                place = scratch.path / "models" / Path(str(entry["artifact"])).name
                place.mkdir(parents=True)
                for name in ("manifest.json", "model.onnx", "record.json"):
                    (place / name).write_bytes(archive.read(f"{entry['artifact']}/{name}"))
        return cls(scratch.path, found, scratch)

    def __reduce__(self) -> Any:
        return (Front.from_bytes, (self.to_bytes(),))


def plan_shown(plan: Mapping[str, Any]) -> str:
    """What was made of a model: ", 1/4 of its trees", ", calibrated", ", int8"; of an ensemble " of 2 forest, 1 linear"; and on how
    many threads its batches are served, if on several.
    """
    if plan.get("members"):
        counts = Counter(member["plan"]["family"] for member in plan["members"])
        text = " of " + ", ".join(f"{count} {family}" for family, count in counts.most_common())
    else:
        share = plan.get("prefix", 1.0)
        text = "" if share == 1.0 else f", 1/{1 / share:.3g} of its trees"
    dtype = plan["hardware"]["dtype"]
    text += ", calibrated" if plan.get("calibration", "none") != "none" else ""
    text += "" if dtype == "float32" else f", {dtype}"
    threads = plan["hardware"].get("serving_threads", 1)
    return text if threads == 1 else f"{text}, batches on {threads} threads"


def shown(value: float | None, show: Callable[[float], str]) -> str:
    """The value as text, nothing where it was not measured."""
    return "" if value is None else show(value)


def encode_labels(y: Any, classes: Any) -> Any:
    """Labels as codes 0..K-1 in the order of `classes`. Raises DataError naming a label that was not in training."""
    import numpy as np

    from automl.estimators.runtime import level_of

    index = {level_of(c): i for i, c in enumerate(classes)}
    codes = np.empty(len(y), np.int64)
    for i, label in enumerate(np.asarray(y, dtype=object)):
        code = index.get(level_of(label))
        if code is None:
            raise DataError(
                f"label {label!r} in row {i + 1} is none of the {len(index)} classes seen in training: {', '.join(list(index)[:8])}"
            )
        codes[i] = code
    return codes


def read_limits(**limits: Any) -> dict[str, float]:
    """The limits given, in seconds, bytes and score. Raises UsageError for one that makes no sense."""
    from automl.search.front import parse_limits

    return parse_limits(limits)


def open_run(folder: str | Path) -> Front:
    """The front of a finished run. Raises UsageError if the folder holds no run, DataError if the run has no front yet."""
    from automl.search.store import Store

    folder = Path(folder)
    if not (folder / "run.db").exists():
        raise UsageError(f"{folder} is no run folder: it holds no run.db")
    store = Store.open(folder / "run.db", read_only=True)
    try:
        found = store.get_meta("front")
    finally:
        store.close()
    if found is None:
        raise DataError(
            f"the run in {folder} did not end, so it has no front: continue it with `automl resume {folder}`"
        )
    return Front(folder, found)
