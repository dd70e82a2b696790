"""How fast does the front grow? The hypervolume of the front at each budget, the default search beside cold random and Bayesian.

    python benchmarks/anytime.py --out results.jsonl [TABLE ...] [--tables FOLDER] [--budgets 15 60 300] [--seeds 3]

Without `--tables`, which names a folder of tables with a `datasets.json` that lists them (name, file, task, target), the
tables are scikit-learn's own and generated ones. Every cell runs in a fresh process and is one JSON line of the results
file; cells that are there are skipped, so that an interrupted benchmark goes on.

`auto` is `automl.fit` with that budget: its front counts. The others run once, as long as the longest budget and knowing
no other: from their first proposal, with no starting points, every plan on all training rows, no models that came free with
a fit. The time that `auto` keeps back for its end they have for searching. What they had completed by a budget is
thinned to as many models as `auto` may finish in it, which are then fitted on all rows outside of the budget, all of
them counting. Every model's test error, latency and memory are measured here, in the same way. Reported is the ratio of
the mean hypervolumes (see `hypervolume.py`) with a paired bootstrap interval over tables and seeds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from cells import (
    Cell,
    Made,
    Parts,
    add_options,
    deploy,
    line,
    make_study,
    measure,
    read_results,
    run_cells,
    table_names,
)
from hypervolume import Volumes, disturbed, means, ratio, table

from automl.search.store import Store

if TYPE_CHECKING:
    from automl.search.study import Study
    from automl.search.trial import Trial

STRATEGIES = ("auto", "random", "bayesian")


def run_auto(cells: list[Cell], entry: dict[str, Any], folder: Path, _: float) -> list[dict[str, Any]]:
    """The line of one cell of the default search."""
    import automl
    from automl.errors import InfeasibleError

    (cell,) = cells
    with tempfile.TemporaryDirectory() as temporary:
        parts, run = Parts.make(entry, folder, cell.seed, Path(temporary)), Path(temporary) / "run"
        start = time.monotonic()
        try:
            front = automl.fit(
                str(parts.train),
                target=parts.target,
                task=parts.task,
                budget=cell.budget,
                random_state=cell.seed,
                run_dir=run,
            ).front_
            made = [Made(i, m.family, m.path, m.training_cpu_seconds) for i, m in enumerate(front)]
            trials = front.found["trials"]["completed"]
        except InfeasibleError as error:  # no model in the time is a result: it has no hypervolume
            print(f"{cell}: {error}", file=sys.stderr)
            made, trials = [], 0
        wall = time.monotonic() - start
        return [line(cell, parts, measure(made, parts), wall_seconds=wall, trials=trials)]


class ClockedStore(Store):
    """A store that remembers the monotonic time at which each trial ended."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.ended: dict[int, float] = {}

    def add_trial(self, trial: Trial) -> None:
        super().add_trial(trial)
        self.ended[trial.number] = time.monotonic()


def run_rival(cells: list[Cell], entry: dict[str, Any], folder: Path, horizon: float) -> list[dict[str, Any]]:
    """The lines of one strategy's cells of all budgets, from one cold run of `horizon` seconds."""
    from automl.inputs import resolve_families
    from automl.run import warm_up

    with tempfile.TemporaryDirectory() as temporary:
        out, families, seed = Path(temporary), resolve_families(None, None), cells[0].seed
        parts = Parts.make(entry, folder, seed, out)
        start = time.monotonic()
        warm_up(horizon, families)
        with ClockedStore.create(out / "run.db") as store:
            assert isinstance(store, ClockedStore)
            study = make_study(parts, out, store, families, cells[0].strategy, horizon, seed, start)
            study.agenda.queue, study.references = [], set()
            study.base_rung = len(study.rungs) - 1
            study.run(lambda: 0.0)
            wall = time.monotonic() - start
            # a model that came free with another's fit took no time of its own
            ended = [(store.ended[t.number] - start, t) for t in study.trials if t.wall_seconds > 0.0]
            by_then = {c: [t for then, t in ended if then <= c.budget and t.status == "completed"] for c in cells}
            chosen = {cell: finalists(study, trials, cell.budget) for cell, trials in by_then.items()}
            every = {trial.number: trial for trials in chosen.values() for trial in trials}
            measured = measure(deploy(study, list(every.values())), parts)
        rows = []
        for cell, trials in chosen.items():
            own = {trial.number for trial in trials}
            models = [model for model in measured if model["number"] in own]
            rows.append(line(cell, parts, models, wall_seconds=wall, trials=len(by_then[cell]), horizon=horizon))
        return rows


def finalists(study: Study, trials: list[Trial], budget: float) -> list[Trial]:
    """What a run of that budget would finish if it had those trials: the front, thinned to as many."""
    from automl.search.finalists import Finalists

    study.trials = trials
    study.setting = replace(study.setting, limits=replace(study.setting.limits, seconds=budget))
    return Finalists(study).chosen()


def cells_of(arguments: argparse.Namespace) -> Iterator[tuple[list[Cell], Callable[..., Any], float]]:
    """What runs together: a cell of the default search, the cells of all budgets of another strategy."""
    horizon = max(arguments.budgets)
    for seed in range(arguments.seeds):
        for name in table_names(arguments):
            for strategy in arguments.strategies:
                cells = [Cell(name, strategy, budget, seed) for budget in arguments.budgets]
                if strategy == "auto":
                    yield from (([cell], run_auto, horizon) for cell in cells)
                else:
                    yield cells, run_rival, horizon


def report(arguments: argparse.Namespace) -> None:
    """Prints the mean hypervolumes by budget with their ratios, then by table; only what all strategies have counts."""
    rows, strategies = read_results(arguments.out), arguments.strategies
    volumes = Volumes(rows)
    others = [s for s in strategies if s != "auto"] if "auto" in strategies else []
    summary: list[list[Any]] = []
    tables: list[list[Any]] = []
    for budget in arguments.budgets:
        found = volumes.of_all([(strategy, budget) for strategy in strategies])
        values = list(found.values())
        sides = {strategy: [row[k] for row in values] for k, strategy in enumerate(strategies)}
        ratios = [ratio(list(zip(sides["auto"], sides[other], strict=True))) for other in others]
        summary.append([f"{budget:g}", len(values), *means(values, len(strategies)), *ratios])
        for name in dict.fromkeys(place[0] for place in found):
            own = [row for place, row in found.items() if place[0] == name]
            tables.append([name, f"{budget:g}", len(own), *means(own, len(strategies))])
    head = ["budget, s", "pairs", *strategies, *(f"auto / {other}" for other in others)]
    print(table(head, summary, arguments.markdown))
    print()
    print(table(["table", "budget, s", "seeds", *strategies], tables, arguments.markdown))
    print()
    print(disturbed(rows))
    if arguments.plot:
        plot(arguments.plot, arguments.budgets, {s: [row[2 + k] for row in summary] for k, s in enumerate(strategies)})


def plot(path: Path, budgets: list[float], curves: dict[str, list[float]]) -> None:
    """Writes the mean hypervolume over the budgets as a picture; without matplotlib it says so."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(f"{path} is not written: matplotlib is not installed", file=sys.stderr)
        return
    figure = Figure(figsize=(6, 4))
    axes = figure.subplots()
    for name, values in curves.items():
        axes.plot(budgets, values, marker="o", label=name)
    axes.set(xscale="log", xlabel="budget, s", ylabel="mean hypervolume")
    axes.set_xticks(budgets, [f"{budget:g}" for budget in budgets], minor=False)
    axes.minorticks_off()
    axes.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), help="auto random bayesian by default")
    parser.add_argument("--budgets", nargs="+", type=float, default=[15.0, 60.0, 300.0], metavar="SECONDS")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the hypervolume over the budgets (matplotlib)")
    arguments = parser.parse_args()
    arguments.budgets.sort()
    if not arguments.report:
        run_cells(arguments, cells_of(arguments))
    report(arguments)


if __name__ == "__main__":
    main()
