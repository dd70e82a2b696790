"""How good a run's forecasts are: its models fitted again on fewer rows, the largest count held out, forecast and measured."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from automl.estimators.errors import DataError
from automl.estimators.families import FAMILIES
from automl.search.fitting import Job, Result, supervise
from automl.search.forecast import COSTS, fitted, law_points
from automl.search.metric import Metric
from automl.search.plan import ENSEMBLE, Plan
from automl.search.scaling import KAPPA, Backtest, Forecast, RefusalError, judge
from automl.search.split import law_parts
from automl.search.trial import Trial
from automl.search.worker import start_server

HORIZONS = (2, 4, 16)
LEAST_ROWS, LEAST_FAR_ROWS = 100, 2000
"""A forecast is made from no fewer rows than these; the second for 16 times."""
FIT_SECONDS = 3600.0
"""What a single fit may take; nothing bounds the command but that."""


@dataclass(frozen=True)
class Looked:
    """What a backtest found: the results, how many fits it took in how many wall seconds, and what could not be judged."""

    results: tuple[Backtest, ...]
    fits: int
    seconds: float
    failed: tuple[str, ...]


def backtest(folder: Path, say: Callable[[str], None]) -> Looked:
    """Fits the models of the run again at the full training rows and at fractions, one at a time, and judges the laws.

    For a horizon of h the law is fitted at n/4, n/2 and n = full/h rows and read at the full ones. `say` is told what it
    will cost and how far it is. Raises UsageError if the run's data was not a file, DataError if that changed or has too
    few rows.
    """
    from .api import reopen

    run, found = reopen(folder)
    full, table = run.split.rungs()[-1], run.table
    assert table is not None  # a run's table goes with its search
    horizons, counts = looked_at(full)
    if not horizons:
        raise DataError(f"{full:,} training rows are too few to hold some out: a backtest needs {8 * LEAST_ROWS:,}")
    seconds = [float(m["training_cpu_seconds"] or m["training_seconds"]) for m in found["models"]]
    cost = run.split.fits() * sum(seconds) * sum(counts) / full
    say(
        f"{len(found['models'])} models at {len(counts)} row counts up to {full:,}: about {max(1, round(cost))} s of fitting"
    )
    began, failed = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="automl-backtest-") as scratch:
        from .run import write_data

        data = Path(scratch)
        start_server("core")
        write_data(data, table, run.split)
        curves: list[tuple[Plan, list[Trial]]] = []
        for entry in found["models"]:
            plan = Plan.from_dict(entry["plan"])
            say(f"  {entry['id']} {plan.family}")
            curve, reason = measured_curve(plan, counts, data, run.options.metric, run.options.seed)
            if reason:
                failed.append(f"{entry['id']} {plan.family}: {reason}")
            else:
                curves.append((plan, curve))
    facts = (int(found["columns"]), int(found.get("classes", 0)))
    results = [
        result
        for quantity in ("error", *COSTS)
        for h in horizons
        if (result := held_out(quantity, h, full, curves, *facts)) is not None
    ]
    return Looked(tuple(results), len(counts) * len(found["models"]), time.monotonic() - began, tuple(failed))


def looked_at(full: int) -> tuple[list[int], list[int]]:
    """(horizons that `full` training rows allow, row counts to fit at, ascending)."""
    horizons = [h for h in HORIZONS if full // h >= (LEAST_FAR_ROWS if h > 4 else 4 * LEAST_ROWS)]
    return horizons, sorted({full, *(full // h // step for h in horizons for step in (1, *law_parts(full // h)))})


def measured_curve(plan: Plan, counts: Sequence[int], data: Path, metric: Metric, seed: int) -> tuple[list[Trial], str]:
    """(completed trials of the plan, one a row count; why there is none). `data` is a folder that `write_data` filled."""
    family = next((f for f in FAMILIES if f.name == plan.family), None)
    if plan.family == ENSEMBLE:
        return [], "its members are judged, where they are on the front"
    if family is None:
        return [], "a family of the caller's own, which the command line does not know"
    server = "torch" if family.needs == "torch" else "core"
    curve = []
    for number, rows in enumerate(counts):
        job = Job(plan, family, metric, data, data / "trials" / f"t{number}", rows, seed)
        outcome = supervise(job, FIT_SECONDS, None, server)
        if outcome.status != "completed":
            return [], f"{outcome.status} on {rows:,} rows, {outcome.reason}"
        result: Result = outcome.value
        curve.append(Trial(number, plan, rows, -1, "completed", measurement=result.measurement))
    return curve, ""


def held_out(
    quantity: str,
    horizon: int,
    full: int,
    curves: Sequence[tuple[Plan, list[Trial]]],
    columns: int,
    classes: int,
    steps: Sequence[int] | None = None,
) -> Backtest | None:
    """The law of a quantity fitted at full / horizon rows and at those divided by `steps` (those of a run's laws if None), read at the
    full ones; None without a law.
    """
    forecasts: list[Forecast] = []
    measured: list[float] = []
    last: list[float] = []
    base = full // horizon
    steps = (*law_parts(base), 1) if steps is None else steps
    for plan, curve in curves:
        known = [t for t in curve if t.rows in [base // step for step in steps]]
        rows, values, deviations = law_points(quantity, known)
        truth = law_points(quantity, [t for t in curve if t.rows == full])[1]
        family = next(f for f in FAMILIES if f.name == plan.family)
        points: dict[str, Any] = {"rows": rows, "values": values, "deviations": deviations, "kappa": KAPPA}
        try:
            law = fitted(quantity, points, plan, family, columns, classes)
        except RefusalError:  # no forecast is made there, so none is judged
            continue
        forecasts.append(law.at(float(full)))
        measured.append(truth[0])
        last.append(values[-1])
    return judge(quantity, horizon, forecasts, measured, last) if forecasts else None
