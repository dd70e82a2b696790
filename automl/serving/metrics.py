"""Counters in a piece of memory that all workers share, each its own part, and their sum in the Prometheus text format."""

from __future__ import annotations

import mmap
import os
import time
from bisect import bisect_left
from typing import Any

PATHS = ("/predict", "/v2/models/{name}/infer", "other")
CODES = (200, 400, 401, 404, 405, 408, 413, 415, 422, 500, 503)
BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds; the upper ends of the latency histogram."""
_REQUESTS = 0
_BUCKETS = _REQUESTS + len(PATHS) * len(CODES)
_SUMS = _BUCKETS + len(PATHS) * (len(BUCKETS) + 1)
_ROWS = _SUMS + len(PATHS)
_FLIGHT, _SWAPS, _REFUSED = _ROWS + 1, _ROWS + 2, _ROWS + 3
SIZE = _REFUSED + 1
PREDICT, INFER, OTHER = range(3)


class Metrics:
    """The counters of one worker among `workers`, made before they fork."""

    def __init__(self, workers: int = 1) -> None:
        self.workers, self.started = workers, time.time()
        self._all = memoryview(mmap.mmap(-1, 8 * SIZE * workers)).cast("d")
        self.become(0)

    def become(self, worker: int) -> None:
        """From now on this process counts as that worker."""
        self._mine = self._all[worker * SIZE : (worker + 1) * SIZE]
        self._mine[_FLIGHT] = 0.0  # a worker that died in the middle of its requests

    def observe(self, path: int, code: int, seconds: float) -> None:
        """A request to one of PATHS, answered with one of CODES."""
        mine = self._mine
        mine[_REQUESTS + path * len(CODES) + CODES.index(code)] += 1.0
        mine[_BUCKETS + path * (len(BUCKETS) + 1) + bisect_left(BUCKETS, seconds)] += 1.0
        mine[_SUMS + path] += seconds

    def rows(self, count: int) -> None:
        self._mine[_ROWS] += count

    def flight(self, change: int) -> None:
        self._mine[_FLIGHT] += change

    def swapped(self, done: bool) -> None:
        self._mine[_SWAPS if done else _REFUSED] += 1.0

    def _sum(self, place: int) -> float:
        return sum(self._all[worker * SIZE + place] for worker in range(self.workers))

    def text(self, info: dict[str, Any], loaded: float) -> str:
        """All of it in the Prometheus text format 0.0.4."""
        lines = _head("automl_requests_total", "counter", "Requests answered, by path and status code.")
        for p, path in enumerate(PATHS):
            for c, code in enumerate(CODES):
                count = self._sum(_REQUESTS + p * len(CODES) + c)
                if count or code == 200:
                    lines.append(f'automl_requests_total{{path="{path}",code="{code}"}} {count:.0f}')
        errors = [
            self._sum(_REQUESTS + p * len(CODES) + c)
            for p in range(len(PATHS))
            for c, x in enumerate(CODES)
            if x >= 400
        ]
        lines += _one("automl_errors_total", "counter", "Requests answered with a 4xx or 5xx.", sum(errors))
        lines += self._histogram()
        lines += _one("automl_rows_total", "counter", "Rows predicted.", self._sum(_ROWS))
        lines += _one("automl_requests_in_flight", "gauge", "Requests being answered.", self._sum(_FLIGHT))
        lines += _one("automl_swaps_total", "counter", "Artifacts swapped in while serving.", self._sum(_SWAPS))
        lines += _one(
            "automl_swaps_refused_total", "counter", "Artifacts that were not swapped in.", self._sum(_REFUSED)
        )
        labels = ",".join(f'{key}="{_escaped(value)}"' for key, value in info.items())
        lines += [*_head("automl_model_info", "gauge", "The model being served."), f"automl_model_info{{{labels}}} 1"]
        lines += _one("automl_model_loaded_timestamp_seconds", "gauge", "When this model was loaded.", loaded)
        lines += _one("automl_workers", "gauge", "Processes that serve.", self.workers)
        lines += _process(self.started)
        return "\n".join(lines) + "\n"

    def _histogram(self) -> list[str]:
        name = "automl_request_duration_seconds"
        lines = _head(name, "histogram", "From the headers read to the answer written.")
        for p, path in enumerate(PATHS[:OTHER]):
            total = 0.0
            for b, upper in enumerate((*map(repr, BUCKETS), "+Inf")):
                total += self._sum(_BUCKETS + p * (len(BUCKETS) + 1) + b)
                lines.append(f'{name}_bucket{{path="{path}",le="{upper}"}} {total:.0f}')
            lines.append(f'{name}_sum{{path="{path}"}} {self._sum(_SUMS + p)!r}')
            lines.append(f'{name}_count{{path="{path}"}} {total:.0f}')
        return lines


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _one(name: str, kind: str, text: str, value: float) -> list[str]:
    return [*_head(name, kind, text), f"{name} {value:.15g}"]


def _escaped(value: object) -> str:
    return str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _process(started: float) -> list[str]:
    """Of the worker that answers."""
    used = os.times()
    lines = _one("process_cpu_seconds_total", "counter", "CPU time of this worker.", used.user + used.system)
    lines += _one("process_start_time_seconds", "gauge", "When the server began.", started)
    try:
        with open("/proc/self/statm") as file:
            size = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):  # no Linux
        return lines
    return lines + _one("process_resident_memory_bytes", "gauge", "Resident memory of this worker.", size)
