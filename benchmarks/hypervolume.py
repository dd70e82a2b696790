"""The hypervolume of a cell's models on test error and measured costs, and how two sides of a benchmark compare by it.

Each measure is put on a scale from 0 (the best) to 1: the error from 10 % of (baseline - best) under the best of all cells of
that table and seed to the baseline's, the constant prediction; the logarithms of the costs over fixed boxes. A model worse
than the baseline counts nothing. The hypervolume is the share of the unit box that the models dominate.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cells import COSTS, Cell
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))

TRAINING_SECONDS = 300.0
"""The upper end of the box of the training time: one for all budgets, so that they stand on one scale."""
RESAMPLES = 10_000


class Volumes:
    """Hypervolumes of the cells of a results file, on scales that are common to a table and seed."""

    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        self.rows = {Cell.of(row): row for row in rows}
        self.best: dict[tuple[str, int], float] = {}
        for cell, row in self.rows.items():
            errors = [model["test_error"] for model in row["models"]]
            place = (cell.table, cell.seed)
            self.best[place] = min([self.best.get(place, row["baseline_error"]), *errors])

    def of_all(self, kinds: Sequence[tuple[str, float]]) -> dict[tuple[str, int], list[float]]:
        """The hypervolumes of those strategies and budgets, for each table and seed that has them all."""
        found = {}
        for name, seed in sorted(self.best):
            cells = [Cell(name, strategy, budget, seed) for strategy, budget in kinds]
            if all(cell in self.rows for cell in cells):
                found[name, seed] = [self.of(cell) for cell in cells]
        return found

    def of(self, *cells: Cell) -> float:
        """The hypervolume of the models of those cells, of one table and seed, together."""
        from automl.search.front import hypervolume
        from automl.search.objectives import DEFAULT

        models = [model for cell in cells for model in self.rows[cell]["models"]]
        if not models:
            return 0.0
        values = np.array([[model["test_error"], *(model[name] for name in COSTS)] for model in models], float)
        baseline, best = self.rows[cells[0]]["baseline_error"], self.best[cells[0].table, cells[0].seed]
        return hypervolume(values, DEFAULT, baseline, best, TRAINING_SECONDS)


@dataclass(frozen=True)
class Ratio:
    """The ratio of two sides' mean hypervolumes over `pairs` pairs, with its 95 % interval; inf where the second's are 0."""

    value: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]" if self.pairs else "-"


def ratio(pairs: Sequence[tuple[float, float]]) -> Ratio:
    """The ratio of the means, which a pair where one side has nothing leaves defined, and its percentile bootstrap over pairs.

    A pair holds the hypervolumes of two sides for one table and seed.

    Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    if not pairs:
        return Ratio(np.nan, np.nan, np.nan, 0)
    both = np.array(pairs, float)
    drawn = np.random.default_rng(0).integers(len(both), size=(RESAMPLES, len(both)))
    found = np.sort(divided(both[drawn].mean(axis=1)))
    low, high = found[int(0.025 * RESAMPLES)], found[int(0.975 * RESAMPLES) - 1]
    return Ratio(float(divided(both.mean(axis=0)[None])[0]), float(low), float(high), len(both))


def divided(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """The first column by the second: inf over nothing, nan for nothing over nothing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(means[:, 0] / means[:, 1], np.float64)


def means(values: Sequence[Sequence[float]], width: int) -> list[float]:
    """The mean of each of `width` columns, nan of none."""
    return [float(x) for x in np.mean(values, axis=0)] if values else [np.nan] * width


def table(head: Sequence[str], rows: Sequence[Sequence[object]], markdown: bool) -> str:
    """A table as text in columns, or in Markdown."""
    cells = [[f"{x:.4f}" if isinstance(x, float) else str(x) for x in row] for row in rows]
    if markdown:
        lines = [list(head), ["---"] * len(head), *cells]
        return "\n".join(f"| {' | '.join(cell)} |" for cell in lines)
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    lines = [list(head), *cells]
    return "\n".join("  ".join(f"{x:<{w}}" for x, w in zip(cell, widths, strict=True)).rstrip() for cell in lines)


def disturbed(rows: Iterable[dict[str, Any]]) -> str:
    """One line on how quiet the machine was, since latencies of a busy one mean little."""
    models = [model for row in rows for model in row["models"]]
    return f"{sum(model['disturbed'] for model in models)} of {len(models)} models were measured on a disturbed machine"
