"""Honest measurement: the peak memory of a fit, and an artifact as deployed .

`race` loads each artifact in a process that holds nothing else and times them interleaved, one at a time: noise that
comes and goes meets all of them, and the smallest block median is the quiet machine's latency. `quick_measure` is the
cheap look that steers a search.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import math
import os
import pickle
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from automl.estimators.errors import ResourceError

from . import worker
from .forkserver import status_bytes
from .interrupt import Cancel

RUNTIME = "automl.estimators.runtime"
BLOCK_CALLS = 200  # calls in a block, fewer for slow models
BLOCK_SECONDS = 0.012  # a block lasts about this
MIN_BLOCKS = 10  # fewer kept ones and the measurement is called disturbed
MAX_BLOCKS = 100
MADV_POPULATE_READ = 22
BATCHES = (1_000, 10_000)  # rows
PATIENCE = 0.5  # seconds: one that is silent for longer has itself to blame, not a short reserve
BATCH_SHARE = 0.35  # of the time after loading that goes to batches
NO_TIME = "there was no time left to measure it"  # opens the reason of an artifact that was not reached
KEEP_SHARE = 0.5  # a block that had less of its time on the CPU was suspended: not a latency
CALM_SHARE = 0.9  # all blocks together with less than this on the CPU: disturbed
# An onnxruntime graph of one Identity node, opset 13: what a session costs before any model.
IDENTITY = (
    b'\x08\x08:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)


# Memory -------------------------------------------------------------------------------------------------------------


class MemoryPeak:
    """Within a `with` block, the most memory that this process held above what it held at the start, in bytes.

    On Linux the kernel's high-water mark after a reset: exact to about 0.5 MB, however short the peak. Elsewhere, or
    where the reset is refused, polling every 2 ms. Pages of memory-mapped data count when first touched: touch them before.

    >>> with MemoryPeak() as memory:
    ...     block = bytearray(50_000_000)
    >>> memory.bytes > 40_000_000
    True
    """

    def __init__(self) -> None:
        self.bytes = 0
        self.method = "high-water"
        self._done = threading.Event()
        self._poller: threading.Thread | None = None
        self._base = 0

    def __enter__(self) -> MemoryPeak:
        base = _reset_high_water()
        if base is None:
            self.method, self._base = "polled", _resident()
            self._poller = threading.Thread(target=self._poll, daemon=True)
            self._poller.start()
        else:
            self._base = base
        return self

    def __exit__(self, *_: object) -> None:
        if self._poller is None:
            self.bytes = max(0, (status_bytes("VmHWM") or 0) - self._base)
            return
        self._done.set()
        self._poller.join()
        self._look()

    def _poll(self) -> None:
        while not self._done.wait(0.002):
            self._look()

    def _look(self) -> None:
        self.bytes = max(self.bytes, _resident() - self._base)


def _reset_high_water() -> int | None:
    """Reset VmHWM to VmRSS and return that in bytes; None where the kernel has no such thing or refuses."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return None
    return status_bytes("VmRSS")


def map_libraries() -> None:
    """Map every page of the loaded shared libraries into this process, so that later peaks don't count them.

    A forked process has inherited none of them, and would charge a model for the code that it is first to run. Linux 5.14;
    elsewhere nothing happens, and the first model pays about 2 MB more.
    """
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for line in lines:
        place, mode, *_, path = line.split(maxsplit=5)
        if mode.startswith("r") and ".so" in path:
            first, last = (int(part, 16) for part in place.split("-"))
            advise(first, last - first, MADV_POPULATE_READ)


def trim_heap() -> None:
    """Give freed memory back to the system (glibc's malloc_trim), so that what comes next is not served from it unseen."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _resident() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


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
    """Load the artifact here and predict single rows for at most `seconds` (one call at the least)."""
    model = _Loaded(artifact, rows, runtime)
    end, offset = time.perf_counter() + seconds, 0
    medians: list[float] = []
    calls = max(1, min(BLOCK_CALLS, int(seconds / 8 / max(1e-6, model.first_seconds))))
    while not medians or time.perf_counter() < end:
        block = model.block(offset, calls, until=end)
        medians.append(statistics.median(block["ns"]) / 1e9)
        offset += calls
    model.close()
    return Quick(min(medians), model.load_seconds, float(model.memory_bytes))


def quick_latency(
    artifact: Path, rows: Sequence[Mapping[str, Any]], seconds: float = 0.05, *, runtime: str = RUNTIME
) -> float:
    """p50 in seconds of one row, a dict, to its prediction, in this process."""
    return quick_measure(artifact, rows, seconds, runtime=runtime).latency_p50_seconds


class _Loaded:
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
    manifest = artifact / "manifest.json"
    # in JSON these bytes are no part of a string, whose quotes would be escaped
    return "compiled" if manifest.is_file() and b'"engine":"compiled"' in manifest.read_bytes() else "onnx"


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


# The race -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Serving:
    """An artifact as deployed, measured alone in its process. Seconds, bytes, rows a second; low and high are 90 % intervals.

    latency_p50: one row from a dict, the smallest block median (the quiet machine's); latency_p99: of all calls as they
    came. rows_per_second: a batch of 10,000 rows (None when there was no time for one), rows_per_second_1000 of 1,000.
    load_seconds: imports, load and first row. serving_memory_bytes: peak above a bare interpreter; model_memory_bytes: above
    one with numpy and its engine, onnxruntime or the kernel (so that the engines' own memory is no part of a comparison of
    models; serving_memory_bytes has it). disturbed: under 10 blocks were kept or over 10 % of the time went to others.
    """

    latency_p50_seconds: float
    latency_p50_low: float
    latency_p50_high: float
    latency_p99_seconds: float
    latency_p99_low: float
    latency_p99_high: float
    rows_per_second: float | None
    rows_per_second_1000: float | None
    load_seconds: float
    serving_memory_bytes: float
    model_memory_bytes: float
    disturbed: bool
    calls: int

    def as_dict(self) -> dict[str, Any]:
        """The measured figures by name, without `calls`."""
        return {name: value for name, value in asdict(self).items() if name != "calls"}


def race(
    artifacts: Sequence[Path],
    rows: Sequence[Mapping[str, Any]],
    seconds: float,
    *,
    runtime: str = RUNTIME,
    cancel: Cancel | None = None,
) -> list[Serving | str]:
    """Measure artifacts as deployed, within `seconds`; a str in the list says why that one has no figures.

    Each is loaded in its own process, pinned to one CPU, from a server that has imported numpy and onnxruntime, or not the
    latter for one whose engine is the compiled one. They run one
    at a time, in shuffled rounds of blocks. Every artifact is loaded and answers some rows first, in the order given: when time
    is short the last ones get a reason instead; few blocks set `disturbed`. Setting `cancel` ends it with what was measured.
    """
    deadline = time.monotonic() + seconds
    engines = sorted({engine_of(Path(path)) for path in artifacts} | {"onnx"}, reverse=True)
    cold = _InBackground(lambda: {engine: base(runtime, engine) for engine in engines})
    with contextlib.ExitStack() as stack:
        packed = pickle.dumps([dict(row) for row in rows])
        runners = [stack.enter_context(_Runner(Path(path), packed, deadline, runtime)) for path in artifacts]
        for position, runner in enumerate(runners):
            runner.load(must=position == 0)
        interpreter = cold.result()
        alive = [runner for runner in runners if not runner.reason]
        now = time.monotonic()
        batches = BATCH_SHARE * max(0.0, deadline - now)
        _rounds(alive, deadline - batches - 0.02, cancel)
        alive.sort(key=lambda runner: runner.first_seconds)  # what the fast ones leave is the slow ones'
        for position, runner in enumerate(alive):
            if cancel is not None and cancel.is_set():
                break
            runner.throughput((deadline - 0.01 - time.monotonic()) / (len(alive) - position))
        return [runner.result(interpreter[runner.engine]) for runner in runners]


def _rounds(runners: Sequence[_Runner], end: float, cancel: Cancel | None) -> None:
    """Shuffled rounds of one block each, until `end` (monotonic) or MAX_BLOCKS rounds; everyone gets one block at the least."""
    shuffle = random.Random(0)
    share = max(0.0, end - time.monotonic()) / (max(1, len(runners)) * (MIN_BLOCKS + 2))
    length = min(BLOCK_SECONDS, max(share, 0.001))
    for number in range(MAX_BLOCKS):
        order = list(runners)
        shuffle.shuffle(order)
        for runner in order:
            if number == 0 or time.monotonic() + runner.block_seconds < end:
                runner.block(length)
        if time.monotonic() >= end or (cancel is not None and cancel.is_set()):
            return


@dataclass
class Blocks:
    """The timed blocks of one artifact: nanoseconds of each call, with wall and CPU nanoseconds of each block."""

    calls: list[list[int]] = field(default_factory=list)
    wall: list[int] = field(default_factory=list)
    cpu: list[int] = field(default_factory=list)

    def add(self, block: Mapping[str, Any]) -> None:
        self.calls.append(list(block["ns"]))
        self.wall.append(int(block["wall"]))
        self.cpu.append(int(block["cpu"]))

    def kept(self) -> list[list[int]]:
        """The blocks that mostly had the CPU; all of them when none did."""
        kept = [c for c, wall, cpu in zip(self.calls, self.wall, self.cpu, strict=True) if cpu >= KEEP_SHARE * wall]
        return kept or self.calls

    def disturbed(self) -> bool:
        calm = sum(self.cpu) >= CALM_SHARE * sum(self.wall)
        kept = sum(cpu >= KEEP_SHARE * wall for wall, cpu in zip(self.wall, self.cpu, strict=True))
        return kept < MIN_BLOCKS or not calm

    def p50(self) -> tuple[float, float, float]:
        """(value, low, high) seconds: the smallest block median, give or take its distance to the quarter point of the medians."""
        medians = sorted(statistics.median(block) / 1e9 for block in self.kept())
        value = medians[0]
        spread = max(medians[len(medians) // 4] - value, 0.01 * value)
        return value, max(0.0, value - spread), value + spread

    def p99(self) -> tuple[float, float, float]:
        """(value, low, high) seconds: the 99th percentile of all calls, with the order statistics of its binomial 90 % interval."""
        pooled = sorted(ns / 1e9 for block in self.kept() for ns in block)
        count = len(pooled)
        half = 1.645 * math.sqrt(count * 0.99 * 0.01)

        def at(rank: float) -> float:
            return pooled[min(count - 1, max(0, math.ceil(rank) - 1))]

        return at(0.99 * count), at(0.99 * count - half), at(0.99 * count + half + 1)


class _Runner:
    """One artifact's process, from the parent's side. `reason` is set when it can't be measured."""

    def __init__(self, path: Path, rows: bytes, deadline: float, runtime: str) -> None:
        self.deadline, self.reason, self.silent = deadline, "", False
        self.blocks, self.offset, self.block_seconds, self.first_seconds = Blocks(), 0, 0.0, 1e-5
        self.loaded: dict[str, Any] = {}
        self.rates: dict[int, float] = {}
        self.received = bytearray()
        cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self.engine = engine_of(path)
        request = worker.pack(_serve, (path, rows, cpus[-1:], runtime, self.engine))
        server = "lean" if self.engine == "compiled" else "serve"
        self.trial = worker.Isolated(request, self.left() + 10.0, server=server, dialogue=True)

    def __enter__(self) -> _Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.trial.close()

    def left(self) -> float:
        return max(0.0, self.deadline - time.monotonic())

    def load(self, must: bool) -> None:
        """Load and answer some rows; a third of the time left at the most, so that one that hangs doesn't cost all the others'.

        One that `must` is given a second even when there is no time left.
        """
        allowed = max(1.0 if must else min(self.left(), 0.3), self.left() / 3)
        if self.left() < 0.02 and not must:
            self._give_up(NO_TIME)
            return
        answer = self._ask({"do": "load"}, allowed)
        if answer:
            self.loaded, self.first_seconds = answer, max(1e-6, answer["first"])

    def block(self, seconds: float) -> None:
        if self.reason or self.silent:
            return
        calls = max(1, min(BLOCK_CALLS, int(seconds / self.first_seconds)))
        began = time.monotonic()
        answer = self._ask({"do": "block", "calls": calls, "offset": self.offset}, max(0.5, self.left() / 2))
        if answer:
            self.offset += calls
            self.block_seconds = time.monotonic() - began
            self.first_seconds = max(1e-6, statistics.median(answer["ns"]) / 1e9)
            self.blocks.add(answer)

    def throughput(self, seconds: float) -> None:
        """Batches of 1,000 and 10,000 rows, as far as `seconds` go; what doesn't fit isn't measured."""
        row_seconds = self.first_seconds
        for count in BATCHES:
            began = time.monotonic()
            if self.reason or self.silent or count * row_seconds > seconds:
                return
            answer = self._ask(
                {"do": "batch", "rows": count, "seconds": 0.4 * seconds}, max(0.1, min(2 * seconds, self.left()))
            )
            if answer:
                self.rates[count] = answer["rate"]
                row_seconds = 1 / answer["rate"]
            seconds -= time.monotonic() - began

    def result(self, interpreter: Base) -> Serving | str:
        if self.reason:
            return self.reason
        model = float(self.loaded["memory"])
        if not self.blocks.calls:  # no time for one: the few calls after loading must do
            self.blocks.add(self.loaded["block"])
        return Serving(
            *self.blocks.p50(),
            *self.blocks.p99(),
            rows_per_second=self.rates.get(BATCHES[1]),
            rows_per_second_1000=self.rates.get(BATCHES[0]),
            load_seconds=interpreter.import_seconds + self.loaded["load"],
            serving_memory_bytes=interpreter.memory_bytes + model,
            model_memory_bytes=model,
            disturbed=self.silent or self.blocks.disturbed(),
            calls=sum(len(block) for block in self.blocks.calls),
        )

    def _ask(self, command: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Send a command, wait for its answer; on a death or silence set `reason` and return {}."""
        channel = self.trial.channel
        assert channel is not None
        end = time.monotonic() + seconds
        try:
            channel.settimeout(seconds)
            channel.sendall(json.dumps(command).encode() + b"\n")
            while b"\n" not in self.received:
                channel.settimeout(max(0.001, end - time.monotonic()))
                chunk = channel.recv(1 << 16)
                if not chunk:
                    raise ConnectionError
                self.received += chunk
        except TimeoutError:
            self.silent = True  # what was measured before stands
            late = f"it did not answer within {seconds:.2g} s ({command['do']})"
            self._give_up("" if self.loaded else late if seconds >= PATIENCE else f"{NO_TIME}: {late}")
            return {}
        except OSError:
            self._give_up(self._how_it_died())
            return {}
        line, _, rest = bytes(self.received).partition(b"\n")
        self.received = bytearray(rest)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _how_it_died(self) -> str:
        end = time.monotonic() + 1.0
        while not self.trial.poll(0.1):
            if time.monotonic() > end:
                return "it closed its socket"
        outcome = self.trial.outcome()
        return outcome.reason or "it ended before it was asked to"

    def _give_up(self, reason: str) -> None:
        self.reason = reason
        self.trial.close()


def _serve(channel: socket.socket, path: Path, packed: bytes, cpus: list[int], runtime: str, engine: str) -> None:
    """The artifact's process: does what it is told over the channel, one JSON object a line, until that closes."""
    if cpus:
        os.sched_setaffinity(0, cpus)
    rows = pickle.loads(packed)
    map_libraries()
    loaded: _Loaded | None = None
    with channel, channel.makefile("r", encoding="utf-8") as lines:
        for line in lines:
            command = json.loads(line)
            answer: dict[str, Any]
            if command["do"] == "load" or loaded is None:
                loaded = _Loaded(path, rows, runtime, engine)
                gc.freeze()
                block = loaded.block(0, 5, until=time.perf_counter() + 0.005)
                answer = {
                    "load": loaded.load_seconds,
                    "memory": loaded.memory_bytes,
                    "first": loaded.first_seconds,
                    "block": block,
                }
            elif command["do"] == "block":
                answer = loaded.block(command["offset"], command["calls"])
            else:
                answer = {"rate": loaded.batch(command["rows"], command["seconds"])}
            channel.sendall(json.dumps(answer).encode() + b"\n")


class _InBackground:
    """A call in a thread; `result` waits and raises what it raised."""

    def __init__(self, call: Callable[[], dict[str, Base]]) -> None:
        self._found: list[dict[str, Base]] = []
        self._error: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self._thread.start()

    def _run(self, call: Callable[[], dict[str, Base]]) -> None:
        try:
            self._found.append(call())
        except BaseException as error:
            self._error.append(error)

    def result(self) -> dict[str, Base]:
        self._thread.join()
        if self._error:
            raise self._error[0]
        return self._found[0]
