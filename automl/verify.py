"""An artifact measured again: what its record says beside what this machine gives, and limits held against it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from automl.estimators.errors import ResourceError, UsageError

ROWS = 1000
QUANTITIES = (
    ("latency_p50_seconds", "one row p50", "seconds", "max_latency"),
    ("latency_p99_seconds", "one row p99", "seconds", "max_latency_p99"),
    ("rows_per_second", "rows/s", "rows", ""),
    ("serving_memory_bytes", "memory", "bytes", "max_memory"),
    ("load_seconds", "load", "seconds", ""),
    ("size_bytes", "size", "bytes", "max_size"),
)
RECORDED = (
    ("training_seconds", "training", "seconds", "max_training_time"),
    ("training_memory_bytes", "training memory", "bytes", "max_training_memory"),
    ("score", "score", "score", "min_score"),
)
"""What only a fit can measure: shown where a limit asks for it."""
UNLIKE = ("processor", "cores", "system", "python")


@dataclass(frozen=True)
class Quantity:
    """One figure, `recorded` and `measured` here (None: not); `allowed` is its limit, `limit` that one's name."""

    name: str
    label: str
    unit: str
    recorded: float | None
    measured: float | None
    limit: str = ""
    allowed: float | None = None
    broken: bool = False

    @property
    def held(self) -> float | None:
        """What the limit is held against."""
        return self.measured if self.name in {name for name, *_ in QUANTITIES} else self.recorded

    @property
    def ratio(self) -> float | None:
        """Measured over recorded."""
        return None if not self.recorded or self.measured is None else self.measured / self.recorded


@dataclass(frozen=True)
class Verified:
    """What `verify` found."""

    quantities: list[Quantity]
    machine: dict[str, Any]
    recorded_machine: dict[str, Any]
    versions: dict[str, str]
    recorded_versions: dict[str, str]
    disturbed: bool
    rows: str
    notes: list[str]

    @property
    def broken(self) -> list[Quantity]:
        return [q for q in self.quantities if q.broken]

    def told(self) -> str:
        """ "max_latency_p99: found 25.1 us, allowed 10 us", for each broken limit."""
        from automl.search.front import LIMITS

        def one(q: Quantity) -> str:
            found = "it is not known" if q.held is None else f"found {LIMITS[q.limit].show(q.held)}"
            return f"{q.limit}: {found}, allowed {LIMITS[q.limit].show(q.allowed or 0.0)}"

        busy = " (the machine was busy: run it again on a quiet one)" if self.disturbed else ""
        return "; ".join(map(one, self.broken)) + busy

    def nearest(self, model: str) -> tuple[tuple[object, str, float, float], ...]:
        """As `InfeasibleError.nearest`."""
        return tuple((model, q.limit, math.nan if q.held is None else q.held, q.allowed or 0.0) for q in self.broken)

    def as_dict(self) -> dict[str, Any]:
        """The object of `automl verify --json`."""
        return {
            "ok": not self.broken,
            "quantities": [
                {k: v for k, v in asdict(q).items() if k not in ("label", "unit")} | {"ratio": q.ratio}
                for q in self.quantities
            ],
            "machine": {"recorded": self.recorded_machine, "here": self.machine},
            "versions": {"recorded": self.recorded_versions, "here": self.versions},
            "disturbed": self.disturbed,
            "rows": self.rows,
            "notes": self.notes,
        }


def verify(
    place: Path,
    limits: Mapping[str, float],
    seconds: float,
    data: Path | None = None,
    reading: Mapping[str, Any] | None = None,
) -> Verified:
    """Measures the artifact for about `seconds`, once more where a limit is broken on a machine that was busy meanwhile.

    The rows are those of `data`, a file read with the options `reading` (sep, decimal, encoding), or made up. Raises ArtifactError for a corrupt artifact, ResourceError where it could not be measured.
    """
    from automl.estimators.artifact import read_record
    from automl.estimators.hardware import detect
    from automl.estimators.runtime import RECORD, load, read_members
    from automl.search.race import race

    from .run import versions

    with load(place) as model:
        rows, what = _rows(model, data, reading or {})
    size = sum(len(data) for name, data in read_members(place).items() if name != RECORD)
    record = read_record(place)
    if "min_score" in limits and "greater_is_better" not in record:
        raise UsageError("the artifact's record does not say which way its score is better: leave --min-score out")
    for _ in range(2):
        raced = race([place], rows, seconds)[0]
        if isinstance(raced, str):
            raise ResourceError(f"{place} could not be measured: {raced}; give it more time (--budget)")
        served = raced
        measured = {**served.as_dict(), "size_bytes": float(size)}
        quantities = _compare(record, measured, limits)
        if not (served.disturbed and any(q.broken for q in quantities)):
            break
    here, there = detect().as_dict(), dict(record.get("machine") or {})
    notes = [
        f"{name}: {there[name]} when it was recorded, {here[name]} here"
        for name in UNLIKE
        if name in there and there[name] != here[name]
    ]
    if there and not notes:
        notes.append(f"the machine is as recorded: {here['processor']}, {here['cores']} cores")
    if not record:
        notes.append("the artifact has no record, so there is nothing to compare with")
    if served.disturbed:
        notes.append("other work took part of the machine while it was measured")
    notes.append(what)
    return Verified(
        quantities, here, there, versions(), dict(record.get("versions") or {}), served.disturbed, what, notes
    )


def _compare(record: Mapping[str, Any], measured: Mapping[str, Any], limits: Mapping[str, float]) -> list[Quantity]:
    from automl.search.front import check
    from automl.search.trial import Measurement

    held = {**record, **{name: measured.get(name) for name, *_ in QUANTITIES}}
    broken = {v.limit for v in check(Measurement.from_dict(held), limits, bool(record.get("greater_is_better", True)))}
    found = []
    for name, label, unit, limit in (*QUANTITIES, *RECORDED):
        if (name, label, unit, limit) in RECORDED and limit not in limits:
            continue
        found.append(
            Quantity(name, label, unit, record.get(name), measured.get(name), limit, limits.get(limit), limit in broken)
        )
    return found


def _rows(model: Any, data: Path | None, reading: Mapping[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """(rows to predict, what they are)."""
    if data is None:
        from .serving.schema import fields_of, sample_rows

        return sample_rows(fields_of(model), ROWS), "the rows are made up from the schema; --data takes real ones"
    from .stream import check_cells, open_chunks, text_columns

    with open_chunks(data, model.used, texts=text_columns(model.encoder), **reading) as chunks:
        check_cells(model, chunks)
        frame = next(iter(chunks)).head(ROWS)[list(model.used)]
    rows = [
        {str(name): None if cell != cell else cell for name, cell in row.items()}
        for row in frame.astype(object).to_dict("records")
    ]
    return rows, f"the first {len(rows):,} rows of {data}"
