"""What `anytime.py` and `no_search.py` share: their tables, cells in processes of their own, and models measured as deployed.

A cell is one table, strategy, budget and seed, and one JSON line of the results file. The seed also draws the split into
training and test rows, so that cells of one table and seed are compared on the same test rows.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from split import split

sys.path.insert(0, str(Path(__file__).parent.parent))

if TYPE_CHECKING:
    from automl.estimators.family import Family
    from automl.estimators.table import Table
    from automl.search.store import Store
    from automl.search.study import Study
    from automl.search.trial import Trial

COSTS = ("training_cpu_seconds", "latency_p50_seconds", "model_memory_bytes")
"""What a model is measured by beside its test error, in the order of `hypervolume.OBJECTIVES`."""
RACE_SECONDS = 0.3
"""Seconds a model for the measuring as deployed: some twenty blocks of calls, whatever the run's own budget was."""
ALONE_SECONDS = 30.0
"""Seconds for a model that had no time there, measured again alone: a large one is slow to load."""
MOST_ROWS, MOST_CELLS = 400, 2_000_000
"""Rows that the latency is measured over: as many as a run itself takes, fewer of a wide table."""

# -- tables ------------------------------------------------------------------------------------------------------------


def own_tables() -> dict[str, tuple[str, Callable[[], pd.DataFrame]]]:
    """Tables that need no download: name -> (task, what makes its frame, target column `target`)."""
    from sklearn import datasets

    def shipped(load: Callable[..., Any]) -> Callable[[], pd.DataFrame]:
        return lambda: load(as_frame=True).frame

    def classes() -> pd.DataFrame:
        X, y = datasets.make_classification(20_000, 20, n_informative=8, flip_y=0.05, class_sep=0.7, random_state=0)
        return frame_of(X, y)

    def values() -> pd.DataFrame:
        return frame_of(*datasets.make_friedman1(10_000, 15, noise=1.0, random_state=0))

    return {
        "breast_cancer": ("binary", shipped(datasets.load_breast_cancer)),
        "digits": ("multiclass", shipped(datasets.load_digits)),
        "diabetes": ("regression", shipped(datasets.load_diabetes)),
        "generated_classes": ("binary", classes),
        "generated_values": ("regression", values),
    }


def frame_of(X: Any, y: Any) -> pd.DataFrame:
    return pd.DataFrame(X, columns=[f"x{i}" for i in range(X.shape[1])]).assign(target=y)


def write_own(folder: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Writes those of `own_tables` that are named (all of them if none is) as CSV, and returns their entries."""
    entries = []
    for name, (task, make) in own_tables().items():
        if not names or name in names:
            make().to_csv(folder / f"{name}.csv", index=False)
            entries.append({"name": name, "file": f"{name}.csv", "task": task, "target": "target"})
    return entries


def listed(folder: Path, names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The entries (name, file, task, target) of `datasets.json` in the folder, those named or all.

    It holds a list of them, the same under "datasets", or an object from names to the rest.
    """
    found = json.loads((folder / "datasets.json").read_text())
    if isinstance(found, dict):
        found = found.get("datasets", [{"name": name, **rest} for name, rest in found.items()])
    return [entry for entry in found if not names or entry["name"] in names]


# -- cells -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One line of the results: `budget` is in seconds, 0 where nothing is searched."""

    table: str
    strategy: str
    budget: float
    seed: int

    def __str__(self) -> str:
        return f"{self.table}:{self.strategy}:{self.budget:g}:{self.seed}"

    @classmethod
    def of(cls, row: dict[str, Any]) -> Cell:
        return cls(row["table"], row["strategy"], row["budget"], row["seed"])


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that both commands have."""
    parser.add_argument("names", nargs="*", metavar="TABLE", help="tables by name; all by default")
    parser.add_argument("--tables", type=Path, metavar="FOLDER", help="a folder of tables with a datasets.json")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N - 1; 3 by default")
    parser.add_argument(
        "--out", type=Path, required=True, help="the results file, appended to; cells in it are skipped"
    )
    parser.add_argument(
        "--cells", nargs="+", default=["*"], metavar="GLOB", help="run only those, named TABLE:STRATEGY:BUDGET:SEED"
    )
    parser.add_argument("--report", action="store_true", help="run nothing, report what the results file holds")
    parser.add_argument("--markdown", action="store_true", help="report in Markdown")


def read_results(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line] if path.exists() else []


def run_cells(arguments: argparse.Namespace, groups: Iterable[tuple[list[Cell], Callable[..., Any], Any]]) -> None:
    """Fills the results file: of each (cells of one table, function, its last argument) what is wanted and not there yet.

    The function is called as function(cells, entry, folder, last) in a fresh process and returns a line for each cell.
    """
    done = {Cell.of(row) for row in read_results(arguments.out)}
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.tables or Path(temporary)
        entries = listed(folder, arguments.names) if arguments.tables else write_own(folder, arguments.names)
        known = {entry["name"]: entry for entry in entries}
        for cells, function, last in groups:
            wanted = [c for c in cells if c not in done and any(fnmatch(str(c), glob) for glob in arguments.cells)]
            if not wanted:
                continue
            print(", ".join(map(str, wanted)), file=sys.stderr, flush=True)
            fresh = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
            with fresh:
                rows = fresh.submit(function, wanted, known[wanted[0].table], folder, last).result()
            with arguments.out.open("a") as file:  # one write: a group is there as a whole or not at all
                file.write("".join(json.dumps(row) + "\n" for row in rows))


def table_names(arguments: argparse.Namespace) -> list[str]:
    """The names of the tables that are asked for. Ends the command where one is not there."""
    known = [e["name"] for e in listed(arguments.tables)] if arguments.tables else list(own_tables())
    missing = [name for name in arguments.names if name not in known]
    if missing:
        raise SystemExit(f"there is no table {missing[0]!r}; there are {', '.join(known)}")
    return [name for name in known if not arguments.names or name in arguments.names]


# -- one table, split --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parts:
    """A table split for one seed: the files of its training and test rows, and the training rows as read."""

    train: Path
    test: Path
    target: str
    task: str
    table: Table

    @classmethod
    def make(cls, entry: dict[str, Any], folder: Path, seed: int, out: Path) -> Parts:
        from automl.dataset import read_table

        target, task = entry["target"], entry["task"]
        train, test = split(folder / entry["file"], target, task, out, seed)
        return cls(train, test, target, task, read_table(train, target, task=task))

    def rows(self) -> list[dict[str, Any]]:
        """Training rows to measure the latency over."""
        most = max(8, min(MOST_ROWS, MOST_CELLS // self.table.facts().columns))
        return self.table.records(np.asarray(self.table.sample_rows)[:most])


@dataclass(frozen=True)
class Made:
    """A fitted model: its number among those of its cells, its family, where its artifact lies, and what its fit took."""

    number: int
    family: str
    artifact: Path
    training_cpu_seconds: float


def measure(made: Sequence[Made], parts: Parts) -> list[dict[str, Any]]:
    """Each model with its error on the test rows and its costs as deployed; one that cannot be served is left out, and said."""
    from automl.search.race import race

    errors = test_errors(made, parts)
    rows = parts.rows()
    served = race([m.artifact for m in made], rows, RACE_SECONDS * (len(made) + 1)) if made else []
    models = []
    for model, error, serving in zip(made, errors[1:], served, strict=True):
        if isinstance(serving, str):
            (serving,) = race([model.artifact], rows, ALONE_SECONDS)
        if isinstance(serving, str):
            print(f"a model ({model.family}) is left out: {serving}", file=sys.stderr)
            continue
        costs = {"training_cpu_seconds": model.training_cpu_seconds, **serving.as_dict()}
        row = {
            "number": model.number,
            "family": model.family,
            "test_error": error,
            **{name: costs[name] for name in COSTS},
        }
        models.append({**row, "disturbed": serving.disturbed})
    return models


def test_errors(made: Sequence[Made], parts: Parts) -> list[float]:
    """Errors on the test rows: first that of the constant prediction (the training rows' mean or shares), then each model's."""
    from automl.estimators.runtime import load
    from automl.front import encode_labels
    from automl.search.metric import Metric

    task, known = parts.table.task, np.asarray(parts.table.y)
    metric, frame = Metric.resolve(None, task), read(parts.test)
    if task.kind == "regression":
        y, constant = frame[parts.target].to_numpy(float), np.full(len(frame), known.mean())
    else:
        y = encode_labels(frame[parts.target], task.classes)
        constant = np.tile(np.bincount(known.astype(int), minlength=len(task.classes)) / len(known), (len(frame), 1))
    errors = [metric.error(y, constant)]
    for model in made:
        with load(model.artifact) as served:
            predicted = served.predict(frame) if task.kind == "regression" else served.predict_proba(frame)
        errors.append(metric.error(y, np.asarray(predicted, float)))
    return errors


def read(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, low_memory=False)


def line(cell: Cell, parts: Parts, models: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """The cell's line in the results file."""
    head = {"table": cell.table, "strategy": cell.strategy, "budget": cell.budget, "seed": cell.seed}
    return {**head, "task": parts.task, "baseline_error": test_errors([], parts)[0], **more, "models": models}


# -- fits without the search's own start and end -----------------------------------------------------------------------


def make_study(
    parts: Parts,
    folder: Path,
    store: Store,
    families: Sequence[Family],
    strategy: str,
    budget: float,
    seed: int,
    start: float,
) -> Study:
    """A study as `automl.fit` makes it, not yet run: the benchmark changes how it begins and what becomes of its trials."""
    from automl.run import Options, Run
    from automl.search.metric import Metric
    from automl.search.objectives import DEFAULT
    from automl.sharing import available_jobs

    options = Options(
        metric=Metric.resolve(None, parts.table.task),
        objectives=DEFAULT,
        families=tuple(families),
        strategy=strategy,
        budget_seconds=budget,
        trials=None,
        memory_bytes=None,
        jobs=available_jobs(None),
        parallel_trials=False,
        seed=seed,
        start=start,
    )
    return Run(folder, parts.table, options)._study(store, folder / "data", None, None)


def deploy(study: Study, trials: Sequence[Trial]) -> list[Made]:
    """The trials' plans fitted on all rows and exported as the end of a run does it, with no limit on time.

    Where that fails it is the model as its trial left it; one whose trial left none is not there.
    """
    from automl.search.finish import Finish
    from automl.search.fitting import Job, supervise

    setting, made = study.setting, list[Made]()
    split, finish = setting.split, Finish(study)
    rows, memory = len(split.train) + len(split.validation) + len(split.holdout), setting.limits.memory_bytes
    for trial in trials:
        plan, family = finish.refits.plan(trial), setting.families[trial.plan.family]
        folder = setting.data / "final" / f"t{trial.number:04d}"
        job = Job(
            plan, family, setting.metric, setting.data, folder, rows, setting.seed, final=True, merge=setting.merge
        )
        server = "torch" if family.needs == "torch" else "core"
        outcome = supervise(job, 3600.0, None if memory is None else memory * setting.slots, server)
        if outcome.status == "completed":
            trial = replace(trial, measurement=outcome.value.measurement)
        else:
            folder = study.folder(trial)
            print(f"a final fit ({plan.family}) ended as {outcome.status}, {outcome.reason}", file=sys.stderr)
        if (folder / "manifest.json").exists():
            made.append(Made(trial.number, plan.family, folder, trial.measurement.training_cpu_seconds or 0.0))
    return made
