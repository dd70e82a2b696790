"""Is what a run reports true? Its scores, its time, its first model and its front, held against rows that it never saw.

    python benchmarks/truth.py --out truth.jsonl [TABLE ...] [--tables FOLDER] [--budgets 60] [--seeds 3] [--neighbour]

Without `--tables`, which names a folder of tables with a `datasets.json` that lists them (name, file, task, target), the
tables are scikit-learn's own and generated ones. A cell is one table, budget and seed: `automl fit` with a test file, in a
process of its own and timed from its start, and LightGBM with pytabkit's tuned defaults (1,000 rounds at most, stopped
early on a tenth of the rows) beside it. Cells are JSON lines of the results file; those that are there are skipped.

Of every model of the front: the reported score and its 90 % interval, the test score with its standard error, whether it lies
in that interval widened by that error, and the difference in standard errors of both. Latency and memory are measured
again in a fresh process: the share of a front that would be on it by that, with the noise that a front allows for. How many have
laws of their error and of their training time is told as well. A run
is late where it ends after its budget and the larger of a second and 2 %. `--neighbour` keeps one core busy during every
other cell.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
from cells import (
    RACE_SECONDS,
    Cell,
    Parts,
    add_options,
    deploy,
    make_study,
    read,
    read_results,
    run_cells,
    table_names,
)
from hypervolume import table
from numpy.typing import NDArray
from tables import fit

Z90 = 1.645
MANY_ROWS = 5000
"""The project's promise on scores is for tables of at least so many rows."""
BUSY = "while True: pass"


@dataclass(frozen=True)
class Extra:
    """What a group of cells is told: those that have a busy neighbour, and where run folders are kept."""

    neighbours: frozenset[Cell]
    keep: Path | None


@contextlib.contextmanager
def neighbour(wanted: bool) -> Iterator[None]:
    """A process that keeps one core busy, if it is wanted."""
    busy = subprocess.Popen([sys.executable, "-c", BUSY]) if wanted else None
    try:
        yield
    finally:
        if busy is not None:
            busy.kill()
            busy.wait()


def allowed(budget: float) -> float:
    """When a run must have ended."""
    return budget + max(1.0, 0.02 * budget)


# -- the cells ---------------------------------------------------------------------------------------------------------


def run_group(cells: list[Cell], entry: dict[str, Any], folder: Path, extra: Extra) -> list[dict[str, Any]]:
    """The lines of one table and seed."""
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        parts = Parts.make(entry, folder, cells[0].seed, out)
        y, frame = truth_of(parts)
        rival = influence_of(default_lightgbm(parts, out / "default", cells[0].seed), parts, y, frame)
        rows = []
        for cell in cells:
            run = out / f"run-{cell.budget:g}"
            with neighbour(cell in extra.neighbours):
                done, wall = fit(parts.train, parts.test, entry, cell.budget, run, cell.seed)
            head = {"table": cell.table, "strategy": cell.strategy, "budget": cell.budget, "seed": cell.seed}
            head |= {"rows": parts.table.rows, "task": parts.task, "wall_seconds": wall, "exit": done.returncode}
            head |= {"neighbour": cell in extra.neighbours}
            if done.returncode == 0:
                found = json.loads(done.stdout)
                rows.append(head | judged(found, run, parts, y, frame, rival))
            else:
                print(f"{cell}: {done.stderr.strip()[-500:]}", file=sys.stderr)
                rows.append({**head, "models": []})
            if extra.keep is not None and run.exists():
                shutil.copytree(run, extra.keep / f"{cell.table}-{cell.budget:g}-{cell.seed}", dirs_exist_ok=True)
        return rows


def truth_of(parts: Parts) -> tuple[NDArray[Any], Any]:
    """(codes or values of the test rows, the test frame)."""
    from automl.front import encode_labels

    frame = read(parts.test)
    if parts.task == "regression":
        return frame[parts.target].to_numpy(float), frame
    return encode_labels(frame[parts.target], parts.table.task.classes), frame


def default_lightgbm(parts: Parts, folder: Path, seed: int) -> Path:
    """The artifact of LightGBM at pytabkit's tuned defaults, fitted on all training rows."""
    from automl.estimators.families.lightgbm import TD, TD_REGRESSION
    from automl.inputs import resolve_families
    from automl.search.plan import from_point
    from automl.search.store import Store
    from automl.search.trial import Trial

    (family,) = resolve_families(("lightgbm",), None)
    params = TD_REGRESSION if parts.task == "regression" else TD
    point = {"family": family.name, **params, "n_estimators": 1000, "early_stopping": True}
    with Store.create(folder / "run.db") as store:
        study = make_study(parts, folder, store, [family], "auto", math.inf, seed, 0.0)
        plan = from_point(point, family, study.setting.facts, study.setting.threads)
        trial = Trial(0, plan, study.rungs[-1], len(study.rungs) - 1, "completed")
        (made,) = deploy(study, [trial])
        return made.artifact


def influence_of(artifact: Path, parts: Parts, y: NDArray[Any], frame: Any) -> NDArray[np.float64]:
    """Per-row influences of an artifact's predictions on the test rows: their mean is its error."""
    from automl.estimators.runtime import load
    from automl.search.metric import Metric

    with load(artifact) as served:
        predicted = served.predict(frame) if parts.task == "regression" else served.predict_proba(frame)
    return Metric.resolve(None, parts.table.task).influence(y, np.asarray(predicted, float))


def judged(
    found: dict[str, Any], run: Path, parts: Parts, y: NDArray[Any], frame: Any, rival: NDArray[np.float64]
) -> dict[str, Any]:
    """What is to be said of a front: its models, its first one beside LightGBM's defaults, and what is dominated by now."""
    from automl.search.front import paired_errors
    from automl.search.metric import Metric

    entries, metric = found["models"], Metric.resolve(None, parts.table.task)
    influences = [influence_of(run / entry["artifact"], parts, y, frame) for entry in entries]
    models = []
    for entry, influence in zip(entries, influences, strict=True):
        low, high = sorted(metric.error_of(entry[end]) for end in ("score_low", "score_high"))
        beside = compared(entry["error"], low, high, influence)
        lawful = all("refused" not in entry["laws"][name] for name in ("error", "training_seconds"))
        models.append(
            {"family": entry["family"], "measured_error": entry["measured_error"], "lawful": lawful, **beside}
        )
    for model, still in zip(models, still_there(entries, influences, run, parts), strict=True):
        model["still"] = still
    return {
        "score_from": found["score_from"],
        "trials": found["trials"]["completed"],
        "elapsed_seconds": found["elapsed_seconds"],
        "default_error": float(rival.mean()),
        "default_se": float(paired_errors([influences[0], rival])[0, 1]),
        "models": models,
    }


def compared(error: float, low: float, high: float, influence: NDArray[np.float64]) -> dict[str, Any]:
    """A reported error and its interval beside the test rows; `gap`: how much worse it is there, in standard errors of both.

    `inside`: the test error lies in the interval, whose halves are widened by the test rows' own error.
    """
    found, se = float(influence.mean()), float(influence.std(ddof=1) / math.sqrt(len(influence)))
    half = math.hypot(high - error if found > error else error - low, Z90 * se)
    both = max(math.hypot((high - low) / (2 * Z90), se), 1e-12)
    return {
        "error": error,
        "low": low,
        "high": high,
        "test_error": found,
        "test_se": se,
        "both_se": both,
        "inside": bool(abs(found - error) <= half),
        "gap": (found - error) / both,
    }


def still_there(
    entries: Sequence[dict[str, Any]], influences: Sequence[NDArray[np.float64]], run: Path, parts: Parts
) -> list[bool]:
    """Which models would be on the front when latency and memory are measured anew; the error and the training time stay.

    The noise of errors' differences is that on the test rows, at the number of rows that gave the reported errors.
    """
    from automl.search.front import noise, nondominated, paired_errors
    from automl.search.objective import value_of
    from automl.search.objectives import DEFAULT
    from automl.search.race import race
    from automl.search.trial import Measurement

    served = race([run / e["artifact"] for e in entries], parts.rows(), RACE_SECONDS * (len(entries) + 1))
    measured = [
        replace(Measurement.from_dict(e), **({} if isinstance(s, str) else s.as_dict()))
        for e, s in zip(entries, served, strict=True)
    ]
    read_off = [[value_of(objective, m) for objective in DEFAULT] for m in measured]
    values = np.array([[math.inf if value is None else value for value in row] for row in read_off])
    margin = noise(measured, DEFAULT)
    own = [x.std(ddof=1) / math.sqrt(len(x)) for x in influences]
    scale = np.median([e["error_sd"] / max(sd, 1e-12) for e, sd in zip(entries, own, strict=True)])
    margin[:, :, 0] = paired_errors(influences) * scale
    return [bool(kept) for kept in nondominated(values, margin)]


# -- the report --------------------------------------------------------------------------------------------------------


def report(arguments: argparse.Namespace) -> None:
    """Prints each promise with its counts, then the tables one by one."""
    rows = read_results(arguments.out)
    ended = [row for row in rows if row["exit"] == 0 and row["models"]]
    many = [row for row in ended if row["rows"] >= MANY_ROWS]
    print(table(["promise", "found", "of", "wanted"], promises(rows, ended, many), arguments.markdown))
    print()
    head = [
        "table",
        "runs",
        "score from",
        "points",
        "inside",
        "mean gap",
        "first's gap",
        "still",
        "first - default",
        "late",
    ]
    lines = []
    for name in dict.fromkeys(row["table"] for row in ended):
        own = [row for row in ended if row["table"] == name]
        models = points(own)
        lines.append(
            [
                name,
                len(own),
                "/".join(sorted({row["score_from"] for row in own})),
                len(models),
                f"{share(models, 'inside'):.0%}",
                f"{mean(m['gap'] for m in models):+.2f}",
                f"{mean(row['models'][0]['gap'] for row in own):+.2f}",
                f"{share(models, 'still'):.0%}",
                " ".join(f"{lead(row):+.1f}" for row in own),
                sum(late(row) for row in own),
            ]
        )
    print(table(head, lines, arguments.markdown))
    print()
    print(
        "Gaps are test error minus reported error in standard errors of both; first - default is the test error of the"
        " first model minus that of LightGBM's defaults in paired standard errors, run by run."
    )
    for row in rows:
        if late(row) or row["exit"] != 0:
            busy = "with a busy neighbour" if row["neighbour"] else "alone"
            print(f"{Cell.of(row)} took {row['wall_seconds']:.1f} s {busy}, exit {row['exit']}")


def promises(rows: Sequence[Any], ended: Sequence[Any], many: Sequence[Any]) -> list[list[Any]]:
    """(what, found, of how many, wanted) of each promise."""
    lines = []
    for what, some in ((f"tables of {MANY_ROWS:,} rows and more", many), ("all tables", ended)):
        models = points(some)
        lines.append([f"test score inside, {what}", f"{share(models, 'inside'):.1%}", len(models), "85 %"])
        gaps = [m["gap"] for m in models]
        lines.append([f"mean gap, {what}", f"{mean(gaps):+.2f}", len(gaps), "-0.2 to 0.2"])
        before = [(m["test_error"] - m["measured_error"]) / m["both_se"] for m in models]
        lines.append([f"... before it was mended, {what}", f"{mean(before):+.2f}", len(before), ""])
        first = [row["models"][0]["gap"] for row in some]
        lines.append([f"mean gap of the first models, {what}", f"{mean(first):+.2f}", len(first), ""])
    lines.append(["late runs", sum(late(row) for row in rows), len(rows), "1 in 20"])
    lines.append(["worse than LightGBM's defaults", sum(lead(row) > 0 for row in ended), len(ended), "1 in 20"])
    sure = sum(lead(row) > Z90 for row in ended)
    lines.append(["... by more than 1.645 paired standard errors", sure, len(ended), ""])
    known = [model for model in points(ended) if "lawful" in model]
    lines.append(["have laws of error and training time", f"{share(known, 'lawful'):.1%}", len(known), ""])
    lines.append(["still not dominated", f"{share(points(ended), 'still'):.1%}", len(points(ended)), "90 %"])
    return lines


def points(rows: Sequence[Any]) -> list[dict[str, Any]]:
    return [model for row in rows for model in row["models"]]


def share(models: Sequence[dict[str, Any]], name: str) -> float:
    return mean(model[name] for model in models)


def mean(values: Iterable[float]) -> float:
    """nan of none."""
    found = list(values)
    return float(np.mean(found)) if found else math.nan


def lead(row: dict[str, Any]) -> float:
    """The test error of the first model minus that of LightGBM's defaults, in paired standard errors."""
    return float((row["models"][0]["test_error"] - row["default_error"]) / max(row["default_se"], 1e-12))


def late(row: dict[str, Any]) -> bool:
    return bool(row["wall_seconds"] > allowed(row["budget"]))


def cells_of(arguments: argparse.Namespace) -> Iterator[tuple[list[Cell], Callable[..., Any], Extra]]:
    names = table_names(arguments)
    groups = [
        [Cell(name, "auto", budget, seed) for budget in arguments.budgets]
        for seed in range(arguments.seeds)
        for name in names
    ]
    every = [cell for cells in groups for cell in cells]
    extra = Extra(frozenset(every[1::2] if arguments.neighbour else []), arguments.keep)
    for cells in groups:
        yield cells, run_group, extra


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--budgets", nargs="+", type=float, default=[60.0], metavar="SECONDS")
    parser.add_argument("--neighbour", action="store_true", help="keep a core busy during every other cell")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the run folders here")
    arguments = parser.parse_args()
    if not arguments.report:
        run_cells(arguments, cells_of(arguments))
    report(arguments)


if __name__ == "__main__":
    main()
