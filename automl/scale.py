"""What more rows do to the models of a run: their entries as the laws forecast them, where orders cross, what still fits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

from automl.search.forecast import COSTS, NOUNS, Outlook, crossing
from automl.search.scaling import Forecast

UNKNOWN = ("latency_p50_low", "latency_p50_high", "latency_p99_seconds", "latency_p99_low", "latency_p99_high",
           "rows_per_second", "rows_per_second_1000", "load_seconds", "training_cpu_seconds")  # fmt: skip
"""What no law forecasts, the p99 first of all: it is not there in a forecast entry."""
SCORES = ("error", "error_sd", "score", "score_low", "score_high", "test_score", "test_error")
CERTAIN = ("error", "training_seconds", "latency_p50_seconds", "model_memory_bytes")
"""The quantities of the default objectives: a model leaves a forecast front where another is surely no worse in any."""


def outlooks(found: Mapping[str, Any]) -> list[Outlook]:
    """One for each model of the object that `automl front --json` prints."""
    return [Outlook(entry, int(found["columns"]), int(found.get("classes", 0))) for entry in found["models"]]


def forecast_entry(outlook: Outlook, rows: int, greater_is_better: bool) -> dict[str, Any]:
    """The model's entry at `rows` training rows: forecast middles in place of measured values, None for what has no law.

    "forecast" holds value, low, high and kind ("measured", "forecast" or "indicative") by quantity, or {"refused": why}.
    """
    entry = {**outlook.entry, "rows": rows, "score_rows": rows}
    found = outlook.at(rows)
    if "size_bytes" in found and entry.get("model_memory_bytes") is not None:
        grown = found["size_bytes"].scaled(1 / entry["size_bytes"])
        found["model_memory_bytes"] = grown.scaled(entry["model_memory_bytes"])
        rest = entry["serving_memory_bytes"] - entry["model_memory_bytes"]
        m = found["model_memory_bytes"]
        found["serving_memory_bytes"] = Forecast(m.rows, m.value + rest, m.low + rest, m.high + rest, m.kind)
    for name in (*UNKNOWN, *SCORES, *COSTS, "model_memory_bytes", "serving_memory_bytes"):
        if name in entry:
            entry[name] = found[name].value if name in found else None
    if "error" in found:
        entry |= _scores(outlook.entry, found["error"], greater_is_better)
    told: dict[str, Any] = {quantity: {"refused": why} for quantity, why in outlook.refused.items()}
    entry["forecast"] = told | {
        quantity: {k: v for k, v in asdict(f).items() if k != "rows"} for quantity, f in found.items()
    }
    return entry


def _scores(entry: Mapping[str, Any], error: Forecast, greater_is_better: bool) -> dict[str, float]:
    """The score and its interval that go with a forecast error: the metric's own number moves as the error does."""
    sign = -1.0 if greater_is_better else 1.0
    at = {
        name: entry["score"] + sign * (value - entry["error"])
        for name, value in asdict(error).items()
        if name in ("value", "low", "high")
    }
    low, high = sorted((at["low"], at["high"]))
    return {"error": error.value, "score": at["value"], "score_low": low, "score_high": high}


def certainly_dominated(entries: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Which entries another one beats for sure: in every quantity its whole interval lies under theirs, or they are one number."""

    def bounds(entry: Mapping[str, Any]) -> list[tuple[float, float]] | None:
        told = [entry["forecast"].get(name, {}) for name in CERTAIN]
        return None if any("value" not in t for t in told) else [(t["low"], t["high"]) for t in told]

    known = [bounds(entry) for entry in entries]

    def beats(a: list[tuple[float, float]] | None, b: list[tuple[float, float]] | None) -> bool:
        if a is None or b is None or a == b:
            return False
        return all(x[1] < y[0] or x == y for x, y in zip(a, b, strict=True))

    return [any(beats(other, own) for other in known) for own in known]


def bound(entry: Mapping[str, Any], greater_is_better: bool) -> dict[str, Any]:
    """The entry with every forecast at the worse end of its 90 % interval: what a limit is held against."""
    worst = {q: told["high"] for q, told in entry["forecast"].items() if "high" in told and q != "error"}
    if entry.get("score_low") is not None:
        worst["score"] = entry["score_low"] if greater_is_better else entry["score_high"]
    return {**entry, **worst}


def crossings(found: Mapping[str, Any], until: float) -> list[dict[str, Any]]:
    """Where, up to `until` rows, two models change their order by forecast error; the earliest first.

    `sure` says whether their 90 % intervals have parted at `until`.
    """
    pairs = []
    for first, second in combinations(outlooks(found), 2):
        rows = crossing(first, second, until)
        if rows is not None:
            a, b = first.at(until)["error"], second.at(until)["error"]
            better, worse = (first, second) if a.value < b.value else (second, first)
            pairs.append(
                {
                    "rows": round(rows),
                    "better_beyond": better.entry["id"],
                    "worse_beyond": worse.entry["id"],
                    "sure": min(a.high, b.high) < max(a.low, b.low),
                }
            )
    return sorted(pairs, key=lambda pair: pair["rows"])


def largest_rows(outlook: Outlook, limits: Mapping[str, float]) -> dict[str, float | None]:
    """For each limited quantity (seconds or bytes) the most rows at which its 90 % bound keeps within; None without a law."""
    return {
        quantity: outlook.largest(quantity, most) if quantity in outlook.laws else None
        for quantity, most in limits.items()
    }


def sentences(outlook: Outlook) -> list[str]:
    """The measured growth of each quantity, or why there is no law, one line each."""
    lines = []
    if set(outlook.refused) == {"error", *COSTS}:  # mostly a model that there was no time to fit on fewer rows
        return [f"no laws: {outlook.refused['training_seconds']}"]
    for quantity in ("error", *COSTS):
        known = outlook.entry["laws"].get(quantity, {})
        if quantity in outlook.refused:
            lines.append(f"no law of its {NOUNS[quantity]}: {outlook.refused[quantity]}")
        else:
            wide = "; it rises somewhere, so its interval is doubled" if known.get("ill_behaved") else ""
            lines.append(f"{known['text']}{wide}")
    return lines


def show_rows(rows: float) -> str:
    """ "12,300,000", "any" where nothing bounds it."""
    return "any" if rows >= 1e12 else f"{float(f'{rows:.3g}'):,.0f}" if math.isfinite(rows) else "any"
