"""An artifact loaded and timed: `quick_measure` is the cheap look that steers a search, `base` what an engine costs without one.

`race.py` measures the models of a front with the same calls, side by side and each in a process of its own.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import math
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from automl.estimators.errors import ResourceError

from . import worker
from .peak import MemoryPeak, trim_heap

RUNTIME = "automl.estimators.runtime"
BLOCK_CALLS = 200  # calls in a block, fewer for slow models
AGREED = 0.02  # two blocks whose medians are so near ran undisturbed
# An onnxruntime graph of one Identity node, opset 13: what a session costs before any model.
IDENTITY = (
    b'\x08\x08:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)


# One artifact in this process ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Quick:
    """A quick look at an artifact: p50 of one row, load with the first row (no imports), memory that the model added."""

    latency_p50_seconds: float
    load_seconds: float
    model_memory_bytes: float


def quick_measure(
    artifact: Path, rows: Sequence[Mapping[str, Any]], seconds: float = 0.05, *, runtime: str = RUNTIME
) -> Quick:
    """Load the artifact here and predict single rows until two blocks agree, for at most `seconds` (one call at the least)."""
    model = Loaded(artifact, rows, runtime)
    end, offset = time.perf_counter() + seconds, 0
    medians: list[float] = []
    calls = max(1, min(BLOCK_CALLS, int(seconds / 8 / max(1e-6, model.first_seconds))))
    while not medians or (time.perf_counter() < end and not _agree(medians)):
        block = model.block(offset, calls, until=end)
        medians.append(statistics.median(block["ns"]) / 1e9)
        offset += calls
    model.close()
    return Quick(min(medians), model.load_seconds, float(model.memory_bytes))


def _agree(medians: Sequence[float]) -> bool:
    """Whether the two smallest differ by AGREED at the most: neither was disturbed."""
    smallest = sorted(medians)[:2]
    return len(smallest) == 2 and smallest[1] <= (1 + AGREED) * smallest[0]


class Loaded:
    """An artifact loaded in this process, with the call that is timed: `predict_proba_one`, or `predict_one` for regression."""

    def __init__(self, artifact: Path, rows: Sequence[Mapping[str, Any]], runtime: str, engine: str = "onnx") -> None:
        if not rows:
            raise ValueError("a latency needs rows to predict, and none were given")
        self.rows = list(rows)
        module = importlib.import_module(runtime)
        warm_engine(engine)
        gc.collect()
        trim_heap()
        with MemoryPeak() as memory:
            start = time.perf_counter()
            self.model = module.load(artifact)
            if getattr(self.model, "engine", engine) != engine:  # never measured as what it is not
                raise ResourceError(f"it runs on {self.model.engine} here, not on the {engine} engine")
            kind = getattr(self.model.task, "kind", self.model.task)
            one, many = ("predict_one", "predict") if kind == "regression" else ("predict_proba_one", "predict_proba")
            self.one: Callable[[Any], Any] = getattr(self.model, one)
            self.many: Callable[[Any], Any] = getattr(self.model, many)
            self.one(self.rows[0])
            self.load_seconds = time.perf_counter() - start
            self.first_seconds = min(self._timed(row) for row in self.rows[:3])
        self.memory_bytes = memory.bytes

    def _timed(self, row: Mapping[str, Any]) -> float:
        start = time.perf_counter()
        self.one(row)
        return time.perf_counter() - start

    def block(self, offset: int, calls: int, until: float = math.inf) -> dict[str, Any]:
        """Time `calls` single rows from `offset` on, after one untimed; stops at `until` (perf_counter), one call at the least.

        Returns ns (wall nanoseconds a call), wall and cpu (nanoseconds of the block).
        """
        one, clock, count = self.one, time.perf_counter_ns, len(self.rows)
        rows = [self.rows[(offset + i) % count] for i in range(calls)]
        times: list[int] = []
        one(rows[-1])
        collecting = gc.isenabled()
        gc.disable()
        try:
            cpu, wall = time.thread_time_ns(), clock()
            for row in rows:
                start = clock()
                one(row)
                now = clock()
                times.append(now - start)
                if now > until * 1e9:
                    break
            wall, cpu = clock() - wall, time.thread_time_ns() - cpu
        finally:
            if collecting:
                gc.enable()
        return {"ns": times, "wall": wall, "cpu": cpu}

    def batch(self, count: int, seconds: float) -> float:
        """Best rows a second at batches of `count` rows, repeated for about `seconds` (once at the least, 5 times at most)."""
        columns = columns_of(self.rows, count)
        best, end, times = math.inf, time.perf_counter() + seconds, 0
        while times == 0 or (times < 5 and time.perf_counter() + best < end):
            start = time.perf_counter()
            self.many(columns)
            best, times = min(best, time.perf_counter() - start), times + 1
        return count / best

    def close(self) -> None:
        if hasattr(self.model, "close"):
            self.model.close()


def columns_of(rows: Sequence[Mapping[str, Any]], count: int) -> dict[str, Any]:
    """The rows, repeated to `count`, as a dict of arrays: float64 where all cells are numbers or None, else objects."""
    import numpy as np

    repeated = np.arange(count) % len(rows)
    columns: dict[str, Any] = {}
    for name in rows[0]:
        cells = [row.get(name) for row in rows]
        if all(cell is None or (isinstance(cell, (int, float)) and not isinstance(cell, bool)) for cell in cells):
            values = np.array([math.nan if cell is None else cell for cell in cells], dtype=np.float64)
        else:
            values = np.empty(len(cells), dtype=object)
            values[:] = cells
        columns[name] = values[repeated]
    return columns


def warm_engine(engine: str = "onnx") -> None:
    """Run an empty onnxruntime session once, or load the kernel, so that what an engine costs at first is charged to no model."""
    if engine == "compiled":
        from automl.estimators import native

        with contextlib.suppress(native.NoLibraryError):  # told when the model is loaded
            native.library()
        return
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(IDENTITY, options, providers=["CPUExecutionProvider"])
    session.run(None, {"x": np.zeros(1, dtype=np.float32)})


def engine_of(artifact: Path) -> str:
    """The engine that an artifact's manifest names, "onnx" where there is none to read."""
    return "compiled" if b'"engine":"compiled"' in _manifest(artifact) else "onnx"


def threads_of(artifact: Path) -> int:
    """The threads that an artifact's manifest has share the rows of a batch, 1 where there is none to read."""
    found = re.search(rb'"threads":(\d+)', _manifest(artifact))
    return int(found[1]) if found else 1


def _manifest(artifact: Path) -> bytes:
    """Its text, in which a quoted member with a colon is no part of a string, whose quotes would be escaped."""
    manifest = artifact / "manifest.json"
    return manifest.read_bytes() if manifest.is_file() else b""


# The interpreter before any model -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Base:
    """A fresh interpreter with numpy, our runtime and an engine (onnxruntime, or the kernel): its import time (CPU seconds,
    so that a busy machine adds little) and its peak memory above a bare interpreter's."""

    import_seconds: float
    memory_bytes: int


_COLD = """
import time, sys
from resource import getrusage, RUSAGE_SELF
def high_water():
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return getrusage(RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
bare, wall, cpu = high_water(), time.perf_counter(), time.process_time()
import numpy, importlib
runtime = importlib.import_module(sys.argv[1])
if sys.argv[3] == "compiled":
    runtime._compiled().native.library()
    print(min(time.perf_counter() - wall, time.process_time() - cpu), high_water() - bare)
    sys.exit()
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(bytes.fromhex(sys.argv[2]), options, providers=["CPUExecutionProvider"])
session.run(None, {"x": numpy.zeros(1, dtype=numpy.float32)})
print(min(time.perf_counter() - wall, time.process_time() - cpu), high_water() - bare)
"""
_bases: dict[tuple[str, str], Base] = {}
_base_lock = threading.Lock()


def base(runtime: str = RUNTIME, engine: str = "onnx") -> Base:
    """The interpreter's own cost with an engine, measured once in a fresh process (about 0.3 s), then remembered."""
    with _base_lock:
        if (runtime, engine) not in _bases:
            command = [sys.executable, "-P", "-W", "ignore", "-c", _COLD, runtime, IDENTITY.hex(), engine]
            environment = worker.environment() | {"PYTHONPATH": os.pathsep.join(worker.search_path())}
            done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
            if done.returncode != 0:
                last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
                raise ResourceError(f"the engine {engine} cannot be loaded in a fresh interpreter: {last[0]}")
            seconds, size = done.stdout.split()
            _bases[runtime, engine] = Base(float(seconds), max(0, int(size)))
        return _bases[runtime, engine]
