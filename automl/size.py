"""What it takes to serve the models of a run: cores, memory, machines and money at a rate of requests and a tail."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from automl.estimators.errors import DataError

from .queueing import MOST_CORES, Service, cores_for, response

PRICES = Path(__file__).parent / "prices.csv"
OVERHEAD_SECONDS = 35e-6
"""What a request of one row costs `automl serve` beside the row itself: 23,700 requests/s on one core with a row of 10 us
(`python benchmarks/server.py` measures both)."""
SERVER_BYTES = 30e6
"""A worker's interpreter, uvicorn and buffers, beside the serving memory that was measured of the model (80 MB beside 57)."""
SYSTEM_BYTES = 0.5e9
"""What a machine keeps for itself."""
MOST_BUSY = 0.8
"""Of a core's time: above it a little more load, or a little less of a machine than was measured, is a lot more waiting."""
FITS = 1.2
"""A machine to train on has so many times the training memory."""
COLUMNS = ("machine", "cores", "memory_gb", "usd_per_hour", "as_of", "source")


@dataclass(frozen=True)
class Machine:
    """A line of the price table."""

    machine: str
    cores: int
    memory_gb: float
    usd_per_hour: float
    as_of: str
    source: str

    def workers(self, bytes_each: float) -> int:
        """How many workers, one a core, it holds."""
        return min(self.cores, int(max(0.0, self.memory_gb * 1e9 - SYSTEM_BYTES) // bytes_each))


@dataclass(frozen=True)
class Size:
    """What a model needs. Seconds, bytes, US dollars; None where it cannot be had, `reason` says why."""

    id: str
    family: str
    score: float | None
    cores: int | None
    memory_bytes: float | None
    utilisation: float | None
    p99_seconds: float | None
    machine: str | None
    machines: int | None
    usd_per_hour: float | None
    usd_per_million: float | None
    training_seconds: float | None
    training_memory_bytes: float | None
    usd_per_training: float | None
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_prices(path: Path = PRICES) -> list[Machine]:
    """The machines of a price table, a CSV with the columns of `COLUMNS`. Raises DataError naming the line and column."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS[:4] if name not in (reader.fieldnames or ())]
            if missing:
                raise DataError(f"{path} has no column {missing[0]!r}: a price table has {', '.join(COLUMNS)}")
            found = [_machine(path, reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no CSV in UTF-8: {error}") from None
    if not found:
        raise DataError(f"{path} has no machines")
    return found


def _machine(path: Path, line: int, row: Mapping[str, Any]) -> Machine:
    numbers = {}
    for name in COLUMNS[1:4]:
        try:
            numbers[name] = float(row[name])
        except (TypeError, ValueError):
            raise DataError(f"{path}, line {line}, column {name!r}: {row[name]!r} is not a number") from None
        if not 0 < numbers[name] < math.inf:
            raise DataError(f"{path}, line {line}, column {name!r}: {row[name]} must be above zero")
    as_of, source = (str(row.get(name) or "") for name in COLUMNS[4:])
    return Machine(
        str(row["machine"]), int(numbers["cores"]), numbers["memory_gb"], numbers["usd_per_hour"], as_of, source
    )


def size(
    entry: Mapping[str, Any],
    measured: Mapping[str, Any],
    rate: float,
    most: float,
    prices: Sequence[Machine],
    overhead: float,
) -> Size:
    """What the model takes at `rate` requests/s, 99 % of them within `most` seconds.

    `entry` may be a forecast at more rows; its p99, which no law forecasts, moves with its p50 from the `measured` one.
    """
    median, p50, p99 = entry["latency_p50_seconds"], measured["latency_p50_seconds"], measured["latency_p99_seconds"]
    known: dict[str, Any] = {"id": entry["id"], "family": entry["family"], "score": entry.get("score")}
    training: dict[str, Any] = {name: entry.get(name) for name in ("training_seconds", "training_memory_bytes")}
    training["usd_per_training"] = _training_cost(entry, prices)
    nothing: dict[str, Any] = dict.fromkeys(
        (
            "cores",
            "memory_bytes",
            "utilisation",
            "p99_seconds",
            "machine",
            "machines",
            "usd_per_hour",
            "usd_per_million",
        )
    )
    if p50 is None or p99 is None:
        return Size(**known, **nothing, **training, reason="its p99 was not measured: `automl verify` measures it")
    if median is None or entry.get("serving_memory_bytes") is None:
        return Size(**known, **nothing, **training, reason="its latency or memory has no law to forecast it by")
    service = Service(median, max(p99 * median / p50, median), overhead)
    cores = cores_for(rate, service, most, MOST_BUSY)
    if cores is None:
        alone = response(1, 1e-9, service)
        reason = f"a request alone has a p99 of {1e3 * alone:.3g} ms"
        if alone <= most:
            reason = f"at {rate:,g} a second it needs more than {MOST_CORES:,} cores"
        return Size(**known, **nothing, **training, reason=reason)
    each = entry["serving_memory_bytes"] + SERVER_BYTES
    needs: dict[str, Any] = {
        "cores": cores,
        "memory_bytes": cores * each,
        "utilisation": rate * service.mean / cores,
        "p99_seconds": response(cores, rate, service),
    }
    offers = [
        (math.ceil(cores / k) * m.usd_per_hour, math.ceil(cores / k), m) for m in prices if (k := m.workers(each))
    ]
    if not offers:
        rented: dict[str, Any] = dict.fromkeys(("machine", "machines", "usd_per_hour", "usd_per_million"))
        return Size(**known, **needs, **rented, **training, reason="no machine of the price table holds one worker")
    hourly, machines, machine = min(offers, key=lambda offer: offer[:2])
    return Size(
        **known,
        **needs,
        machine=machine.machine,
        machines=machines,
        usd_per_hour=hourly,
        usd_per_million=hourly / 3600 / rate * 1e6,
        **training,
    )


def _training_cost(entry: Mapping[str, Any], prices: Sequence[Machine]) -> float | None:
    """Of the training time on the cheapest machine with the plan's threads and FITS times its memory."""
    seconds, memory = entry.get("training_seconds"), entry.get("training_memory_bytes")
    if seconds is None or memory is None:
        return None
    hardware = entry["plan"].get("hardware") if isinstance(entry.get("plan"), Mapping) else None
    threads = int(hardware.get("threads", 1)) if isinstance(hardware, Mapping) else 1
    fits = [m for m in prices if m.cores >= threads and m.memory_gb * 1e9 - SYSTEM_BYTES >= FITS * memory]
    return min(m.usd_per_hour for m in fits) * float(seconds) / 3600 if fits else None
