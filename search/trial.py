"""A trial: a plan at a number of rows, how it ended, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from .plan import Plan

STATUSES = ("completed", "stopped", "timeout", "out_of_memory", "crashed", "failed", "skipped")


@dataclass(frozen=True)
class Measurement:
    """What was measured of one fitted and exported model. Seconds, bytes and rows; None where it was not measured.

    `error` is what is minimised, `error_sd` its standard error; of a finished model both are estimates for new rows
    (`estimate.py`), and `measured_error` is what the rows that score gave; the latencies are those of one row from a dict,
    `rows_per_second` of a batch of 10,000; `serving_memory_bytes` is above a bare interpreter, `model_memory_bytes` above
    numpy and the model's engine; `score_rows` are the training rows of the fit that was scored, `rows` those of the artifact; `size_bytes` are the artifact's; `columns` the input columns that it needs.
    """

    error: float | None = None
    error_sd: float | None = None
    measured_error: float | None = None
    score: float | None = None
    score_low: float | None = None
    score_high: float | None = None
    training_seconds: float | None = None
    training_cpu_seconds: float | None = None
    training_memory_bytes: float | None = None
    latency_p50_seconds: float | None = None
    latency_p50_low: float | None = None
    latency_p50_high: float | None = None
    latency_p99_seconds: float | None = None
    latency_p99_low: float | None = None
    latency_p99_high: float | None = None
    rows_per_second: float | None = None
    rows_per_second_1000: float | None = None
    load_seconds: float | None = None
    serving_memory_bytes: float | None = None
    model_memory_bytes: float | None = None
    size_bytes: float | None = None
    rows: int | None = None
    score_rows: int | None = None
    columns: int | None = None
    disturbed: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(self).items() if v is not None}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Measurement:
        known = {f.name for f in fields(cls)}
        return cls(**{k: v for k, v in data.items() if k in known})


@dataclass(frozen=True)
class Trial:
    """A plan at `rows` training rows (`rung` counts from 0, the fewest). `reason` says why, where the status isn't completed.

    `refit` are the hyperparameters for a fit on all rows (early stopping resolved to a number of iterations). `parent` is
    the number of the trial whose model this is a prefix of: it came with that fit, and its costs are expected ones. A rung
    of -1 is a point of its plan's laws. Neither counts against a budget of trials, and no strategy is told of it.
    """

    number: int
    plan: Plan
    rows: int
    rung: int
    status: str
    reason: str = ""
    measurement: Measurement = field(default_factory=Measurement)
    refit: tuple[tuple[str, Any], ...] = ()
    point: tuple[tuple[str, Any], ...] = ()
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    parent: int | None = None

    def as_dict(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "plan": self.plan.as_dict(),
            "rows": self.rows,
            "rung": self.rung,
            "status": self.status,
            "reason": self.reason,
            "measurement": self.measurement.as_dict(),
            "refit": dict(self.refit),
            "point": dict(self.point),
            "wall_seconds": self.wall_seconds,
            "cpu_seconds": self.cpu_seconds,
            "parent": self.parent,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Trial:
        return cls(
            number=data["number"],
            plan=Plan.from_dict(data["plan"]),
            rows=data["rows"],
            rung=data["rung"],
            status=data["status"],
            reason=data["reason"],
            measurement=Measurement.from_dict(data["measurement"]),
            refit=tuple(sorted(data["refit"].items())),
            point=tuple(data["point"].items()),
            wall_seconds=data["wall_seconds"],
            cpu_seconds=data["cpu_seconds"],
            parent=data.get("parent"),
        )
