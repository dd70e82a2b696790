"""The laws of a front's models: fitted to what their trials measured at several row counts, read at any number of rows.

What is kept of a law, in the run and in its JSON, is the points it was fitted to and its measured Big-O; fitting it again
takes under a millisecond. A forecast is anchored at what was finally measured of the model: the law gives the ratio.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from automl.estimators.families import FAMILIES
from automl.estimators.family import Family
from automl.estimators.hardware import CUDA_START

from .memory import MemoryLaw
from .plan import Plan
from .scaling import (
    KAPPA,
    CostLaw,
    ErrorLaw,
    Exponent,
    Forecast,
    Growth,
    Law,
    LevelLaw,
    RefusalError,
    Terms,
    conformal,
    exponent,
    kind_of,
    linear_terms,
)
from .trial import Measurement, Trial

COSTS = ("training_seconds", "training_memory_bytes", "size_bytes", "latency_p50_seconds")
"""The measured costs that have a law of their own; the part of the serving memory that is the model's goes with its size."""
SOURCES = {"training_seconds": "training_cpu_seconds"}
"""What a law is fitted to where that is not the quantity itself: CPU seconds don't depend on what else the machine did. Of a plan that
trains on a GPU they say nothing: there it is the seconds themselves."""
NOUNS = {
    "error": "error",
    "training_seconds": "training time",
    "training_memory_bytes": "training memory",
    "size_bytes": "size",
    "latency_p50_seconds": "latency",
}
GROWTHS = {
    "training_seconds": Growth(prior=2.0),
    "training_memory_bytes": Growth(
        weight=2.0, floor=0.10, spread=0.20
    ),  # of ensembles and of the caller's own families
    "size_bytes": Growth(weight=1.0, floor=0.05, spread=0.20),
    "latency_p50_seconds": Growth(floor=0.10, spread=0.12),
}
"""How the law of each cost is fitted; what gave the smallest errors on held-out rows, see `automl scale RUN --backtest`."""
HEAPS = 0.4
"""How the levels of a column, which an artifact lists, grow with the rows (Heaps 1978: a vocabulary as n^0.4 to n^0.6); trees that
do not fill their leaves grow slowly as well. Of 0.3, 0.4 and 0.5 it had the smallest errors on the curves of `benchmarks/laws.py`."""
ANCHOR_SD = 0.05
"""Relative standard deviation of a single final measurement."""


def terms_of(quantity: str, plan: Plan, family: Family | None, columns: int, classes: int) -> Terms:
    """The terms of a cost's law at a number of rows; a constant and the rows where the family is none of ours.

    Those of an ensemble are its members': what it costs is the sum of what they do.
    """
    if plan.members and quantity != "training_memory_bytes":
        known = {f.name: f for f in FAMILIES}
        each = [terms_of(quantity, member, known.get(member.family), columns, classes) for member, _ in plan.members]
        return lambda n: [term for terms in each for term in terms(n)]
    params, width = dict(plan.params), plan.reduction or max(1, round(columns * plan.fraction))
    if family is None or quantity == "training_memory_bytes":
        return linear_terms
    if quantity == "training_seconds":
        unit, start = family.seconds_per_unit, [CUDA_START] if plan.hardware.device == "cuda" else []
        return lambda n: [
            *start,
            *(unit * term for term in family.cost(params, max(1, round(n)), width, classes).values()),
        ]
    if quantity == "size_bytes":
        return lambda n: (1.0, n**HEAPS, family.capacity(params, max(1, round(n))))
    return lambda n: (1.0, math.sqrt(family.capacity(params, max(1, round(n)))))


def law_points(quantity: str, trials: Sequence[Trial]) -> tuple[list[float], list[float], list[float]]:
    """(rows, values, standard errors), by rows; of several trials at one row count the last counts. The rows are those that a fit
    has in the mean: of folds that grow with time the artifact is that of the last.
    """
    found: dict[float, tuple[float, float]] = {}
    for trial in trials:
        source = SOURCES.get(quantity, quantity) if trial.plan.hardware.device == "cpu" else quantity
        value = getattr(trial.measurement, source)
        if trial.status == "completed" and value is not None:
            found[float(trial.rows)] = (float(value), trial.measurement.error_sd or 0.0)
    rows = sorted(found)
    return rows, [found[n][0] for n in rows], [found[n][1] for n in rows]


def laws_of(
    plan: Plan, trials: Sequence[Trial], family: Family | None, columns: int, classes: int, kappa: float
) -> dict[str, Any]:
    """The laws of one model as plain data, from the completed trials of its plan: for each quantity the points and either
    the measured exponent with its interval, or why the law is refused.
    """
    found: dict[str, Any] = {}
    for quantity in ("error", *COSTS):
        rows, values, deviations = law_points(quantity, trials)
        known: dict[str, Any] = {"rows": rows, "values": values}
        if quantity == "error":
            known |= {"deviations": deviations, "kappa": kappa}
        try:
            law = fitted(quantity, known, plan, family, columns, classes)
            if isinstance(law, LevelLaw):
                known["text"] = "error stays what it is: the model reads no column"
            else:
                grown = law.exponent if isinstance(law, ErrorLaw) else exponent(rows, values)
                known |= grown.as_dict() | {"text": _text(quantity, grown)}
            if isinstance(law, ErrorLaw):
                known["ill_behaved"] = law.ill_behaved
        except RefusalError as reason:
            known["refused"] = str(reason)
        found[quantity] = known
    return found


def _text(quantity: str, grown: Exponent) -> str:
    if quantity != "error":
        return grown.text(NOUNS[quantity])
    span = f"{grown.first:,.0f} to {grown.last:,.0f} rows"
    return f"error falls to its limit as n^-{grown.value:.2f} ({grown.low:.2f} to {grown.high:.2f}) over {span}"


def fitted(
    quantity: str, known: Mapping[str, Any], plan: Plan, family: Family | None, columns: int, classes: int
) -> Law:
    """The law through the points that `laws_of` kept. Raises RefusalError where there is none."""
    rows, values = known["rows"], known["values"]
    if quantity == "error" and family is not None and not family.reads:
        return LevelLaw(rows, values, known["deviations"])
    if quantity == "error":
        return ErrorLaw(rows, values, known["deviations"], known.get("kappa", KAPPA))
    if len(rows) < 2:
        raise RefusalError(
            f"it was measured at {len(rows)} row count{'' if len(rows) == 1 else 's'}, and a law needs 2"
        )
    return cost_law(quantity, plan, family, columns, classes, rows, values)


def cost_law(
    quantity: str,
    plan: Plan,
    family: Family | None,
    columns: int,
    classes: int,
    rows: Sequence[float],
    values: Sequence[float],
) -> CostLaw | MemoryLaw:
    """The law of a cost through its points. Raises RefusalError where there is none."""
    if quantity != "training_memory_bytes" or family is None or plan.members:
        return CostLaw(terms_of(quantity, plan, family, columns, classes), rows, values, GROWTHS[quantity])
    params, width = dict(plan.params), plan.reduction or max(1, round(columns * plan.fraction))
    return MemoryLaw(
        width,
        lambda n: family.built(params, max(1, round(n)), width),
        rows,
        values,
        copies=family.copies,
        filled=family.filled,
        built_bytes=family.built_bytes,
    )


USUAL_EXPONENT, USUAL_SHARE = 0.46, 0.8
"""Medians of c and of a / e(n_L) over the learning curves of LCDB 1.1: the error law of a plan with under three row counts."""
CREDIT = 1 / 3
"""Of what the law of a model expects of the rows that were added after it was scored, this share is in its reported error: with nothing
the test error of 78 models was 0.35 standard errors below the reported one in the mean, with all of it, on four of their seven
tables, 0.67 above (`benchmarks/truth.py`, an earlier version).
"""


def at_rows(trial: Trial, own: Sequence[Trial], family: Family, rows: int, columns: int, classes: int) -> Measurement:
    """The measurement of a completed trial, its costs and error as forecast at `rows`, from its plan's trials `own`.

    What steers a search whose models will live at other row counts. With a single row count the cost law is the family's
    own cost terms through that point, and the error law the usual one.
    """
    measured, found = trial.measurement, {}
    for quantity in (*COSTS, "training_cpu_seconds"):
        source = "training_seconds" if quantity == "training_cpu_seconds" else quantity
        counts, values, _ = law_points(source, own)
        value = getattr(measured, quantity)
        if value is None or not values or min(values) <= 0:
            continue
        try:
            law = cost_law(source, trial.plan, family, columns, classes, counts, values)
        except RefusalError:  # points that contradict the terms: the last one says most of what lies beyond it
            law = cost_law(source, trial.plan, family, columns, classes, counts[-1:], values[-1:])
        found[quantity] = value * law.at(rows).value / law.at(float(trial.rows)).value
    if measured.error is not None:
        found["error"] = _error_at(measured.error, trial, own, rows)
    return with_forecasts(measured, found)


def with_forecasts(measured: Measurement, found: Mapping[str, float]) -> Measurement:
    """The measurement with what was `found` for other rows in its place; the memory that is the model's goes with its size."""
    there: dict[str, Any] = dict(found)
    if measured.model_memory_bytes is not None and measured.size_bytes and "size_bytes" in found:
        there["model_memory_bytes"] = measured.model_memory_bytes * found["size_bytes"] / measured.size_bytes
    return replace(measured, **there)


def _error_at(error: float, trial: Trial, own: Sequence[Trial], rows: int) -> float:
    counts, errors, deviations = law_points("error", own)
    try:
        law = ErrorLaw(counts, errors, deviations)
    except RefusalError:
        if error < 0:  # of a metric that 0 doesn't bound: no law
            return error
        ratio = math.pow(rows / float(trial.rows), -USUAL_EXPONENT)
        return error * (USUAL_SHARE + (1 - USUAL_SHARE) * ratio)
    return law.at(rows).value


def run_kappa(trials: Sequence[Trial]) -> float:
    """The error law's interval factor by the run's own curves: each of four row counts or more forecasts its last point."""
    curves: dict[str, list[Trial]] = {}
    for trial in trials:
        curves.setdefault(trial.plan.id, []).append(trial)
    scores = []
    for curve in curves.values():
        rows, errors, deviations = law_points("error", curve)
        if len(rows) < 4:
            continue
        try:
            mean, sd = ErrorLaw(rows[:-1], errors[:-1], deviations[:-1]).predictive(rows[-1])
        except RefusalError:  # what is never forecast needs no widening
            continue
        scores.append(abs(errors[-1] - mean) / math.hypot(sd, deviations[-1]))
    return conformal(scores)


class Outlook:
    """One model of a front at other numbers of training rows. `entry` is its JSON; `columns` and `classes` are the run's."""

    def __init__(self, entry: Mapping[str, Any], columns: int, classes: int) -> None:
        self.entry = entry
        plan = Plan.from_dict(entry["plan"])
        family = next((f for f in FAMILIES if f.name == plan.family), None)
        self.laws: dict[str, Law] = {}
        self.refused: dict[str, str] = {}
        for quantity in ("error", *COSTS):
            known = entry["laws"].get(quantity, {})
            try:
                if "refused" in known or not known:
                    raise RefusalError(known.get("refused", "the run measured no laws"))
                law = fitted(quantity, known, plan, family, columns, classes)
            except RefusalError as reason:
                self.refused[quantity] = str(reason)
                continue
            self.laws[quantity] = law

    def at(self, rows: float) -> dict[str, Forecast]:
        """The forecasts by quantity (seconds, bytes, error); what is refused or was never measured is not among them."""
        found = {}
        for quantity in self.laws:
            forecast = self._at(quantity, rows)
            if forecast is not None:
                found[quantity] = forecast
        return found

    def _at(self, quantity: str, rows: float) -> Forecast | None:
        value = self.entry.get(quantity)
        if value is None:
            return None
        at_rows = float(self.entry["score_rows" if quantity == "error" else "rows"])
        law = self.laws[quantity]
        base = law.at(at_rows).value
        if quantity == "error":  # a part of what the added rows bring is in it
            base -= CREDIT * max(0.0, base - law.at(float(self.entry["rows"])).value)
        if base <= 0:
            return None
        sd = ANCHOR_SD if quantity != "error" else (self.entry.get("error_sd") or 0.0) / max(1e-12, value)
        forecast = law.at(rows).scaled(value / base, sd)
        first, last = law.measured
        return replace(forecast, kind=kind_of(rows, (first, max(last, at_rows))))

    def largest(self, quantity: str, most: float, until: float = 1e12) -> float:
        """The most training rows at which the 90 % bound of a cost stays within `most`; 0 if it never does, `until` if always."""

        def fits(rows: float) -> bool:
            forecast = self._at(quantity, rows)
            return forecast is not None and forecast.high <= most

        measured = float(
            self.entry["rows"]
        )  # below it the interval is wider: a bound that is met there may be broken at one row
        low, high = (measured, until) if fits(measured) else (1.0, measured)
        if not fits(low):
            return 0.0
        if fits(high):
            return until
        for _ in range(60):  # bisection on a logarithmic scale: to six digits
            middle = math.sqrt(low * high)
            low, high = (middle, high) if fits(middle) else (low, middle)
        return low


def crossing(first: Outlook, second: Outlook, until: float) -> float | None:
    """The rows, beyond what both were scored on and up to `until`, from which on their order by error is the other one.

    By the middles of the forecasts; None where it stays, or one of them has no error law (or no error: 0 stays 0).
    """
    if "error" not in first.laws or "error" not in second.laws:
        return None
    start = max(float(first.entry["score_rows"]), float(second.entry["score_rows"]))
    if until <= start or not all("error" in one.at(rows) for one in (first, second) for rows in (start, until)):
        return None

    def ahead(rows: float) -> bool:
        return first.at(rows)["error"].value <= second.at(rows)["error"].value

    before, low, high = ahead(start), start, until
    if ahead(until) == before:
        return None
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if ahead(middle) == before else (low, middle)
    return high
