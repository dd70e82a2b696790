"""Is the search worth its time? The front beside three models that nobody tuned: linear, tree and LightGBM at their defaults.

    python benchmarks/no_search.py --out results.jsonl [TABLE ...] [--tables FOLDER] [--seeds 3]

Each is fitted on all training rows by the same families and exporter, one after the other in a fresh process a table and seed,
and measured as `anytime.py` measures; the line goes to the same results file, on the same splits. Reported is how the
hypervolumes of the front (the cells of `auto` that `anytime.py` wrote), of the untuned models, and of both together
compare, with a paired bootstrap interval over tables and seeds.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from cells import Cell, Parts, add_options, deploy, line, make_study, measure, read_results, run_cells, table_names
from hypervolume import Volumes, disturbed, means, ratio, table

STRATEGY = "no_search"
FAMILIES = ("linear", "tree", "lightgbm")


def run_untuned(cells: list[Cell], entry: dict[str, Any], folder: Path, _: None) -> list[dict[str, Any]]:
    """The line of one cell: the families at their defaults."""
    from automl.inputs import resolve_families
    from automl.search.plan import from_point
    from automl.search.store import Store
    from automl.search.trial import Trial

    (cell,) = cells
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        parts, start = Parts.make(entry, folder, cell.seed, out), time.monotonic()
        with Store.create(out / "run.db") as store:
            families = resolve_families(FAMILIES, None)
            study = make_study(parts, out, store, families, "auto", math.inf, cell.seed, start)
            setting, trials = study.setting, []
            for number, family in enumerate(families):
                plan = from_point({"family": family.name}, family, setting.facts, setting.threads)
                trials.append(Trial(number, plan, study.rungs[-1], len(study.rungs) - 1, "completed"))
            made = deploy(study, trials)
            wall = time.monotonic() - start
            return [line(cell, parts, measure(made, parts), wall_seconds=wall)]


def cells_of(arguments: argparse.Namespace) -> Iterator[tuple[list[Cell], Callable[..., Any], None]]:
    for seed in range(arguments.seeds):
        for name in table_names(arguments):
            yield [Cell(name, STRATEGY, 0.0, seed)], run_untuned, None


def report(arguments: argparse.Namespace) -> None:
    """Prints, by budget of the front, the mean hypervolumes of the three sides and their ratios."""
    rows = read_results(arguments.out)
    volumes, lines = Volumes(rows), []
    for budget in sorted({cell.budget for cell in volumes.rows if cell.strategy == "auto"}):
        sides = []
        for (name, seed), (front, untuned) in volumes.of_all([("auto", budget), (STRATEGY, 0.0)]).items():
            both = volumes.of(Cell(name, "auto", budget, seed), Cell(name, STRATEGY, 0.0, seed))
            sides.append((front, untuned, both))
        ratios = [ratio([(side[a], side[b]) for side in sides]) for a, b in ((0, 1), (2, 1), (2, 0))]
        lines.append([f"{budget:g}", len(sides), *means(sides, 3), *ratios])
    head = ["budget, s", "pairs", "front", "no search", "both", "front / no search", "both / no search", "both / front"]
    if lines:
        print(table(head, lines, arguments.markdown))
        print()
    alone = volumes.of_all([(STRATEGY, 0.0)])
    print(
        table(
            ["table", "seed", "no search"], [[*place, *values] for place, values in alone.items()], arguments.markdown
        )
    )
    print()
    print(disturbed(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    arguments = parser.parse_args()
    if not arguments.report:
        run_cells(arguments, cells_of(arguments))
    report(arguments)


if __name__ == "__main__":
    main()
