"""Would cascades be worth building? A small model answers the rows that it is sure of, a large one of the same front the rest.

    python benchmarks/cascades.py TABLE ... [--tables FOLDER] [--budget 60] [--seeds 1]

For tables of classes. A fifth of the rows are for testing, a fifth of the others for choosing: the front is searched on what
remains. Every pair of its models, and a threshold on the small one's largest probability for each of some shares of the
rows, is a candidate; it takes the small model's time and, for the rows that it passes on, the large one's as well (the mean over
rows), and the memory and training time of both. Those that add most to the hypervolume on the choosing rows, one after the
other, are judged on the test rows, beside the front alone. (Trapeznikov and Saligrama 2013; Viola and Jones 2001.)
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from cells import COSTS, Made, Parts, listed, measure, read, write_own
from hypervolume import TRAINING_SECONDS, table
from numpy.typing import NDArray
from split import split

sys.path.insert(0, str(Path(__file__).parent.parent))

SHARES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Of the choosing rows, that the small model answers."""
DEARER = 2.0
"""The large model takes at least so many times the small one's time: else there is nothing to save."""
MOST, LEAST_GAIN = 8, 0.001
"""So many cascades are chosen at the most, each of which adds this share to the hypervolume at the least."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Side:
    """Rows of one part: the codes of their classes, and each model's probabilities."""

    y: NDArray[np.int64]
    predicted: list[Floats]


@dataclass(frozen=True)
class Cascade:
    small: int
    large: int
    threshold: float

    def on(self, side: Side, costs: Floats) -> tuple[Floats, Floats]:
        """(probabilities, costs as COSTS) on the rows of a side; `costs` (models, 3)."""
        first, second = side.predicted[self.small], side.predicted[self.large]
        sure = first.max(axis=1) >= self.threshold
        seconds = costs[self.small, 1] + (1.0 - sure.mean()) * costs[self.large, 1]
        both = costs[self.small] + costs[self.large]
        return np.where(sure[:, None], first, second), np.array([both[0], seconds, both[2]])


def judged(entry: dict[str, Any], folder: Path, seed: int, budget: float) -> list[object]:
    """The line of one table and seed."""
    import automl
    from automl.estimators.runtime import load
    from automl.front import encode_labels
    from automl.search.front import hypervolume
    from automl.search.metric import Metric
    from automl.search.objectives import DEFAULT

    with tempfile.TemporaryDirectory() as temporary:
        parts = Parts.make(entry, folder, seed, Path(temporary))
        searched, choosing = split(parts.train, parts.target, parts.task, Path(temporary) / "inner", seed)
        options = {"target": parts.target, "task": parts.task, "budget": budget, "random_state": seed}
        front = automl.fit(str(searched), **options, run_dir=Path(temporary) / "run").front_
        made = [Made(i, m.family, m.path, m.training_cpu_seconds) for i, m in enumerate(front)]
        models = measure(made, replace(parts, train=searched))
        costs = np.array([[model[name] for name in COSTS] for model in models])
        metric, sides = Metric.resolve(None, parts.table.task), []
        for path in (choosing, parts.test):
            frame = read(path)
            predicted = []
            for model in models:
                with load(made[model["number"]].artifact) as served:
                    predicted.append(np.asarray(served.predict_proba(frame), float))
            sides.append(Side(encode_labels(frame[parts.target], parts.table.task.classes), predicted))
        known = np.bincount(np.asarray(parts.table.y).astype(int)) / len(np.asarray(parts.table.y))

    def volume(side: Side, cascades: list[Cascade]) -> float:
        pairs = [*zip(side.predicted, costs, strict=True), *(cascade.on(side, costs) for cascade in cascades)]
        values = np.array([[metric.error(side.y, chances), *cost] for chances, cost in pairs])
        baseline = metric.error(side.y, np.tile(known, (len(side.y), 1)))
        best = min(metric.error(side.y, chances) for chances in side.predicted)
        return hypervolume(values, DEFAULT, baseline, best, TRAINING_SECONDS)

    chosen = greedy(candidates(sides[0], costs), lambda some: volume(sides[0], some))
    gains = [volume(side, chosen) / volume(side, []) - 1.0 for side in sides]
    return [entry["name"], seed, len(models), len(chosen), *(f"{gain:+.2%}" for gain in gains)]


def candidates(side: Side, costs: Floats) -> list[Cascade]:
    found = []
    for small, large in itertools.permutations(range(len(costs)), 2):
        if costs[large, 1] >= DEARER * costs[small, 1]:
            sure = side.predicted[small].max(axis=1)
            found += [Cascade(small, large, float(np.quantile(sure, 1.0 - share))) for share in SHARES]
    return found


def greedy(some: list[Cascade], volume: Any) -> list[Cascade]:
    """Those of `some` that add most to the hypervolume, one after the other."""
    chosen: list[Cascade] = []
    known = volume([])
    while len(chosen) < MOST and some:
        found = [volume([*chosen, cascade]) for cascade in some]
        best = int(np.argmax(found))
        if found[best] < known * (1.0 + LEAST_GAIN):
            break
        chosen.append(some.pop(best))
        known = found[best]
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="TABLE", help="tables by name; all by default")
    parser.add_argument("--tables", type=Path, metavar="FOLDER", help="a folder of tables with a datasets.json")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of each search")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="seeds 0 to N - 1")
    given = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.tables or Path(temporary)
        entries = listed(folder, given.names) if given.tables else write_own(folder, given.names)
        for seed, entry in itertools.product(range(given.seeds), entries):
            if entry["task"] != "regression":
                lines.append(judged(entry, folder, seed, given.budget))
                print(*lines[-1], file=sys.stderr, flush=True)
    head = ["table", "seed", "models", "cascades", "hypervolume, choosing rows", "test rows"]
    print(table(head, lines, markdown=True))


if __name__ == "__main__":
    main()
