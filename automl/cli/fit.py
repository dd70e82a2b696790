"""`automl fit` and `automl resume`: a search, then its front."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from automl.estimators.errors import AutoMLError, InfeasibleError, UsageError

from . import show
from .options import BYTES, NAMES, ROWS, SECONDS, STARTED, DataFile, Existing, common, csv, limits, within

if TYPE_CHECKING:
    from ..front import Front

DEFAULT_SECONDS = 300.0
SCORED_MODELS, CELL_SECONDS = 12, 1e-7
"""Scoring the test file takes about this many seconds a cell and small model, on two cores: tables of 2,000 to 136,000 rows took what this
and 0.4 s say, or less, where no ensemble was among the models.
"""
TASKS = ("binary", "multiclass", "regression")
STRATEGIES = ("auto", "random", "grid", "bayesian", "nsga2")

FIT_HELP = """Search for models of the column --target in TRAIN (CSV or Parquet) and write their front to a run folder.

\b
Examples:
  automl fit train.csv --target income
  automl fit train.csv --target income --budget 10m --out runs/income --test test.csv
  automl fit train.csv --target price --max-latency 100us --max-memory 60MB
  automl fit train.csv --target price --target-rows 10M --max-training-time 1h --max-training-memory 16GB
  automl fit train.csv --target price --families linear,lightgbm --metric mae --json > front.json
"""

RESUME_HELP = """Continue an interrupted or finished run; no completed trial is lost.

\b
Examples:
  automl resume train-run                spend what was left of its budget
  automl resume train-run --budget 10m   spend ten minutes more
"""


VERBOSE = click.option("-v", "--verbose", is_flag=True, help="A line on stderr for each trial.")


@click.command("fit", help=FIT_HELP, short_help="Search, and write the front of models to a run folder.")
@click.argument("train", type=DataFile())
@click.option("--target", metavar="COL", required=True, help="The column to predict.")
@click.option(
    "--budget", type=SECONDS, metavar="T", help="Wall time for everything, such as 90s, 5m, 1h.  [default: 5m]"
)
@click.option(
    "--trials", type=click.IntRange(min=1), metavar="N", help="Stop after so many trials; alone, time is no limit."
)
@click.option("--out", type=click.Path(path_type=Path), metavar="RUN", help="The run folder.  [default: ./NAME-run]")
@click.option("--overwrite", is_flag=True, help="Replace the run in the run folder.")
@click.option("--test", type=DataFile(), metavar="FILE", help="Untouched rows to score every model of the front on.")
@click.option("--task", type=click.Choice(TASKS), help="What the target is, where the guess is wrong.")
@click.option("--metric", metavar="M", help="roc_auc, log_loss, rmse, mae, accuracy, ... or any scikit-learn scorer.")
@click.option(
    "--objectives",
    type=NAMES,
    metavar="NAMES",
    help="What the front trades.  [default: error,training_time,latency,memory]",
)
@click.option(
    "--families",
    type=NAMES,
    metavar="NAMES",
    help="Only these model families (see `automl families`), `ensemble` for blends of them.",
)
@click.option("--exclude", type=NAMES, metavar="NAMES", help="All families but these.")
@click.option(
    "--strategy", type=click.Choice(STRATEGIES), default="auto", show_default=True, help="What chooses the next plan."
)
@click.option(
    "--target-rows",
    type=ROWS,
    metavar="N",
    help="Search for what will be trained on N rows, such as 10M: candidates and limits are judged there.",
)
@limits
@csv
@click.option(
    "--bad-rows",
    type=click.Choice(["error", "skip"]),
    default="error",
    show_default=True,
    help="Rows with too many cells.",
)
@click.option(
    "--infinite", type=click.Choice(["error", "missing"]), default="error", show_default=True, help="Infinite numbers."
)
@click.option("--weights", metavar="COL", help="The column of row weights; not an input.")
@click.option("--groups", metavar="COL", help="Rows of one group never stand on both sides of a split; not an input.")
@click.option("--time", metavar="COL", help="Rows are split in this order: the latest validate.")
@click.option("--memory-limit", type=BYTES, metavar="SIZE", help="Hard cap on the trials' memory, such as 4GB.")
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="Cores to use.  [default: all]")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where networks train; auto searches both where there is a GPU.",
)
@click.option(
    "--engine",
    type=click.Choice(["auto", "onnx"]),
    default="auto",
    show_default=True,
    help="What models are served on: the better of both engines, or onnxruntime alone (needs no C compiler there).",
)
@click.option("--seed", type=int, default=0, show_default=True, help="All randomness follows from it.")
@VERBOSE
@common
def fit(train: Path, **options: Any) -> None:
    out = options["out"] or Path(f"{run_name(train)}-run")
    check_out(out, overwrite=options["overwrite"])
    check_names(options)
    if options["test"] is not None:
        check_test(options["test"], train, options)
    from .. import api
    from ..progress import watch

    with watch(quiet=options["quiet"], verbose=options["verbose"]) as view:
        try:
            model = api.fit_timed(train, None, **arguments(options, out), start=STARTED, listener=view)
        except InfeasibleError as error:
            raise InfeasibleError(f"{error}{kept(out)}", error.nearest) from error
        if options["test"] is not None:
            try:
                score_on(model.front_, options["test"], options)
            except AutoMLError as error:  # what was found is not lost for it
                show_front(model.front_, out, as_json=options["as_json"], quiet=options["quiet"])
                raise type(error)(f"the models are not scored on --test: {error}{kept(out)}") from error
    show_front(model.front_, out, as_json=options["as_json"], quiet=options["quiet"])


@click.command("resume", help=RESUME_HELP, short_help="Continue an interrupted or finished run.")
@click.argument("run", type=Existing())
@click.option("--budget", type=SECONDS, metavar="T", help="Wall time to spend now.  [default: what was left]")
@VERBOSE
@common
def resume(run: Path, budget: float | None, *, as_json: bool, quiet: bool, verbose: bool, debug: bool) -> None:
    from .. import api
    from ..progress import watch

    with watch(quiet=quiet, verbose=verbose) as view:
        model = api.resume_timed(run, budget, start=STARTED, listener=view)
    show_front(model.front_, run, as_json=as_json, quiet=quiet)


def arguments(options: dict[str, Any], out: Path) -> dict[str, Any]:
    """The command line's options as the keywords of `automl.api.fit_timed`."""
    from ..api import Budget

    time = options["budget"] or (None if options["trials"] else DEFAULT_SECONDS)
    same = ("metric", "objectives", "families", "exclude", "strategy", "target_rows", "device", "engine")
    search = {
        **{name: options[name] for name in same},
        **within(options),
        "budget": time if options["trials"] is None else Budget(time=time, trials=options["trials"]),
        "memory_limit": options["memory_limit"],
        "n_jobs": options["jobs"],
        "random_state": options["seed"],
        "run_dir": out,
        "overwrite": options["overwrite"],
    }
    return {
        "target": options["target"],
        "task": options["task"],
        "held": {"sample_weight": options["weights"], "groups": options["groups"], "time": options["time"]},
        "reading": reading(options) | {"infinite": options["infinite"]},
        "options": search,
        "extra": (0.0, 0.0) if options["test"] is None else test_cost(options["test"], time),
    }


def reading(options: dict[str, Any]) -> dict[str, Any]:
    """How a file is read."""
    names = ("sep", "decimal", "encoding", "bad_rows")
    return {name: options[name] for name in names if options[name] is not None}


def check_test(path: Path, train: Path, options: dict[str, Any]) -> None:
    """Refuses a test file without the columns that it needs, before anything is spent on the search."""
    columns = columns_of(path, options)
    for option in ("target", "weights"):
        name = options[option]
        if name is not None and name not in columns:
            raise UsageError(f"--test {path} has no column {name!r}, which --{option} names")
    missing = [name for name in columns_of(train, options) if name not in (*columns, options["groups"])]
    if missing:
        raise UsageError(
            f"--test {path} has no column {missing[0]!r}, which {train} has: models may need it; take it from the one or add it to the other"
        )


def columns_of(path: Path, options: dict[str, Any]) -> list[str]:
    """The names of a file's columns; none of standard input, which can be read once."""
    from ..dialect import sniff
    from ..source import open_source

    if str(path) == "-":
        return []
    with open_source(path, options["encoding"]) as source:
        if source.kind == "parquet":
            from ..dataset import open_parquet

            return list(open_parquet(source).names)
        return list(sniff(source.rewind(), source.name, reading(options).get("sep"), options["decimal"]).header)


def kept(run: Path) -> str:
    """Where to see what a run found, if it found something."""
    from ..front import open_run

    try:
        open_run(run)
    except AutoMLError:  # it ended before its first model
        return ""
    return f" The run is kept: `automl front {run}` shows what it found."


def score_on(front: Front, path: Path, options: dict[str, Any]) -> None:
    """Scores every model of the front on the rows of a file that have a target, its cells read as in training."""
    from automl.estimators.runtime import RowEncoder, level_of
    from automl.estimators.target import known_target

    from ..dataset import read_known, row_weights
    from ..stream import text_columns

    target, kind = options["target"], front.found["task"]
    manifests = [json.loads((model.path / "manifest.json").read_text()) for model in front]
    texts = text_columns(*(RowEncoder(manifest["encoder"]) for manifest in manifests))
    if kind != "regression":
        texts[target] = {level_of(label) for label in front[0].classes_}
    frame, decimal = read_known(path, texts, **reading(options))
    y, rows = known_target(frame[target], kind, target, lambda row: str(row + 2), decimal)
    columns = [options[name] for name in ("target", "weights") if options[name] is not None]
    name = options["weights"]
    weights = None if name is None else row_weights(frame[name], name)[rows]
    front.score_on(frame.drop(columns=columns).iloc[rows], y, sample_weight=weights)


def test_cost(path: Path, budget: float | None) -> tuple[float, float]:
    """(seconds kept back to read the test file and score a dozen small models on it, by its cells, at most a fifth of the budget; its
    rows, by which the search reckons what larger models take).
    """
    rows, columns = shape_of(path)
    seconds = 0.4 + SCORED_MODELS * CELL_SECONDS * rows * columns
    return min(seconds, math.inf if budget is None else 0.2 * budget), rows


def shape_of(path: Path) -> tuple[float, int]:
    """(rows, columns) of a file, the rows of a CSV by the length of its first lines; cheap, and only about right."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
    size = path.stat().st_size
    if head[:4] == b"PAR1":
        from pyarrow import parquet

        described = parquet.read_metadata(path)
        return float(described.num_rows), int(described.num_columns)
    lines = head.splitlines()
    if head[:2] in (b"\x1f\x8b", b"PK") or head[:4] == b"(\xb5/\xfd" or len(lines) < 2:
        return 8.0 * size / 80, 10  # compressed: as if it were text of ten columns
    columns = max(lines[0].count(c) for c in (b",", b";", b"\t", b"|")) + 1
    return size * len(lines) / max(1, len(head)), columns


def run_name(train: Path) -> str:
    """ "adult" for adult.csv.gz."""
    return re.sub(r"(\.(csv|tsv|txt|parquet|pq|gz|zip|zst|bz2|xz))+$", "", train.name, flags=re.IGNORECASE) or "automl"


def check_out(out: Path, *, overwrite: bool) -> None:
    """Refuses a run folder that exists or cannot be made, before anything slow is imported."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file, and a run folder is wanted: choose another")
    if out.exists() and not overwrite and any(out.iterdir()):
        raise UsageError(
            f"{out} exists: choose another --out, continue it with `automl resume {out}`, or pass --overwrite"
        )
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UsageError(f"--out {out}: {parent} is not a folder that can be written to; choose another")


def check_names(options: dict[str, Any]) -> None:
    """Refuses unknown families, objectives and metrics before the data is read and scikit-learn imported."""
    from types import SimpleNamespace

    from automl.search.metric import KNOWN, Metric

    from ..inputs import resolve_families, resolve_objectives

    resolve_families(options["families"], options["exclude"])
    resolve_objectives(options["objectives"])
    metric, task = options["metric"], options["task"]
    if metric is not None and (task is not None or metric not in KNOWN):
        named: Any = SimpleNamespace(kind=task or "binary", classes=())
        Metric.resolve(metric, named)


def show_front(front: Front, run: Path, *, as_json: bool, quiet: bool) -> None:
    """The front on stdout, and on stderr what to do next."""
    if as_json:
        show.as_json(front.as_dict())
        return
    show.table(front.table())
    if front.found.get("target_rows"):
        show.table(front.at(front.found["target_rows"]).table())
    if not quiet:
        click.echo(
            f"choose one: automl choose {run} --max-latency 1ms; take one: automl export {run} --model {front.choose().id} -o PATH",
            err=True,
        )
