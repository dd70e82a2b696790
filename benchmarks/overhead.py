"""How much of a run is neither trial, nor final fit, nor measuring?

    python benchmarks/overhead.py [TABLE ...] [--tables FOLDER] [--budget 60]

Without `--tables`, which names a folder of tables with a `datasets.json` (see `anytime.py`), the tables are scikit-learn's own and
generated ones. Each is a run of `automl.fit` on its file in a fresh process. Printed are the seconds until the first trial has begun
(reading, splitting, the warm start), those of the search in which a core that trials may use had none (their mean over the cores), and
those after it without a fit, a blend or the measuring; and together the share of the run. Beside it: the share of the trials' own time
that was no fit (their processes, predictions, exports, proofs and the look at the artifact).
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from cells import listed, write_own
from hypervolume import table

Spans = list[tuple[float, float]]
WORK = (
    ("study", "supervise"),
    ("refits", "supervise"),
    ("growth", "supervise"),
    ("blends", "run_isolated"),
    ("bagging", "run_isolated"),
    ("finish", "race"),
)
"""The functions that run processes that work, by their modules of `automl.search`; the first one runs the trials."""


def watched(module: Any, name: str, spans: Spans) -> None:
    """Makes a function of the module note when it ran."""
    function = getattr(module, name)

    def noting(*given: Any, **named: Any) -> Any:
        begin = time.monotonic()
        try:
            return function(*given, **named)
        finally:
            spans.append((begin, time.monotonic()))

    setattr(module, name, noting)


def covered(spans: Spans) -> float:
    """Seconds in which at least one ran."""
    total, until = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def one_run(entry: dict[str, Any], folder: Path, budget: float) -> list[Any]:
    """A row of the report."""
    import automl
    from automl.search.split import FOLDS
    from automl.search.store import Store

    spans: dict[str, Spans] = defaultdict(list)
    for module, name in WORK:
        watched(import_module(f"automl.search.{module}"), name, spans[module])
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "run"
        start = time.monotonic()
        target, task = entry["target"], entry["task"]
        source = str(folder / entry["file"])
        front = automl.fit(source, target=target, task=task, budget=budget, random_state=0, run_dir=run).front_
        end = time.monotonic()
        with Store.open(run / "run.db", read_only=True) as store:
            slots = int((store.get_meta("share") or [1])[0])
            done = [t for t in store.trials() if t.status == "completed" and t.parent is None and t.wall_seconds > 0.0]
        fits = FOLDS if front.found["score_from"] == "cross-validation" else 1
    trials = spans.pop("study")
    begun, ended = min(begin for begin, _ in trials), max(end for _, end in trials)
    before, after = begun - start, end - ended - covered([span for some in spans.values() for span in some])
    idle = ended - begun - sum(end - begin for begin, end in trials) / slots
    beside = 1 - sum(fits * (t.measurement.training_seconds or 0.0) for t in done) / sum(t.wall_seconds for t in done)
    wall = end - start
    shown = (f"{seconds:.1f}" for seconds in (wall, before, idle, after))
    return [entry["name"], *shown, f"{(before + idle + after) / wall:.1%}", f"{beside:.0%}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="TABLE", help="tables by name; all by default")
    parser.add_argument("--tables", type=Path, metavar="FOLDER", help="a folder of tables with a datasets.json")
    parser.add_argument("--budget", type=float, default=60.0, metavar="SECONDS")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.tables or Path(temporary)
        entries = listed(folder, arguments.names) if arguments.tables else write_own(folder, arguments.names)
        for entry in entries:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
                rows.append(fresh.submit(one_run, entry, folder, arguments.budget).result())
    head = [
        "table",
        "run, s",
        "before trials, s",
        "idle in the search, s",
        "between the rest, s",
        "together",
        "no fit in trials",
    ]
    print(table(head, rows, True))


if __name__ == "__main__":
    main()
