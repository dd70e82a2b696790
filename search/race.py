"""Artifacts as they are deployed, measured side by side.

`race` loads each artifact in a process that holds nothing else and times them interleaved, one at a time: noise that
comes and goes meets all of them, and the smallest block median is the quiet machine's latency.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import pickle
import random
import socket
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import worker
from .interrupt import Cancel
from .measure import BLOCK_CALLS, RUNTIME, Base, Loaded, base, engine_of, threads_of
from .peak import map_libraries

BLOCK_SECONDS = 0.012  # a block lasts about this
MIN_BLOCKS = 10  # fewer kept ones and the measurement is called disturbed
MAX_BLOCKS = 100
BATCHES = (1_000, 10_000)  # rows
PATIENCE = 0.5  # seconds: one that is silent for longer has itself to blame, not a short reserve
BATCH_SHARE = 0.35  # of the time after loading that goes to batches
RUNNER_BYTES = 50e6  # of a process that measures beside its model, most of which it shares with the others
NO_TIME = "there was no time left to measure it"  # opens the reason of an artifact that was not reached
KEEP_SHARE = 0.5  # a block that had less of its time on the CPU was suspended: not a latency
CALM_SHARE = 0.9  # all blocks together with less than this on the CPU: disturbed


@dataclass(frozen=True)
class Serving:
    """An artifact as deployed, measured alone in its process. Seconds, bytes, rows a second; low and high are 90 % intervals.

    latency_p50: one row from a dict, the smallest block median (the quiet machine's); latency_p99: of all calls but those of blocks
    that others had the CPU for most of. rows_per_second: a batch of 10,000 rows (None when there was no time for one),
    rows_per_second_1000 of 1,000.
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
    must: bool = True,
) -> list[Serving | str]:
    """Measure artifacts as deployed, within `seconds`; a str in the list says why that one has no figures.

    Each is loaded in its own process, pinned to one CPU (to as many as its batches have threads), from a server that has imported numpy and onnxruntime, or not the
    latter for one whose engine is the compiled one. They run one
    at a time, in shuffled rounds of blocks. Every artifact is loaded and answers some rows first, in the order given: when time
    is short the last ones get a reason instead, the first one only where it is no `must`; few blocks set `disturbed`. Setting
    `cancel` ends it with what was measured.
    """
    deadline = time.monotonic() + seconds
    engines = sorted({engine_of(Path(path)) for path in artifacts} | {"onnx"}, reverse=True)
    cold = _InBackground(lambda: {engine: base(runtime, engine) for engine in engines})
    with contextlib.ExitStack() as stack:
        packed = pickle.dumps([dict(row) for row in rows])
        runners = [stack.enter_context(_Runner(Path(path), packed, deadline, runtime)) for path in artifacts]
        for position, runner in enumerate(runners):
            runner.load(must=must and position == 0)
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


def heats(needs: Sequence[float], room: float | None) -> list[list[int]]:
    """The numbers of the artifacts to race at a time, in their order: what those of one heat take, by `needs` (bytes) and RUNNER_BYTES
    each, is within `room`, if there are several.
    """
    found: list[list[int]] = []
    taken = math.inf
    for i, need in enumerate(needs):
        taken += RUNNER_BYTES + need
        if not found or (room is not None and taken > room):
            found.append([])
            taken = RUNNER_BYTES + need
        found[-1].append(i)
    return found


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
        """(value, low, high) seconds: the 99th percentile of all calls of the blocks kept, with the order statistics of its binomial
        90 % interval.
        """
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
        self.request = worker.pack(_serve, (path, rows, cpus[-threads_of(path) :], runtime, self.engine))
        self.trial: worker.Isolated | None = None

    def __enter__(self) -> _Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self.trial is not None:
            self.trial.close()

    def left(self) -> float:
        return max(0.0, self.deadline - time.monotonic())

    def load(self, must: bool) -> None:
        """Start the process, load and answer some rows; a third of the time left at the most, so that one that hangs doesn't cost all
        the others'. One that `must` is given a second even when there is no time left.

        No other artifact's process starts while one loads: on the one CPU that is theirs it would be a load of both.
        """
        share = self.left() / 3
        allowed = max(1.0 if must else min(self.left(), 0.3), share)
        if self.left() < 0.02 and not must:
            self._give_up(NO_TIME)
            return
        server = "lean" if self.engine == "compiled" else "serve"
        self.trial = worker.Isolated(self.request, self.left() + 10.0, server=server, dialogue=True)
        answer = self._ask({"do": "load"}, allowed, share)
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

    def _ask(self, command: Mapping[str, Any], seconds: float, share: float = math.inf) -> dict[str, Any]:
        """Send a command, wait for its answer; on a death or silence set `reason` and return {}. Silence is a short reserve's fault where
        its `share` of the time was less than PATIENCE.
        """
        channel = None if self.trial is None else self.trial.channel
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
            self._give_up("" if self.loaded else late if min(seconds, share) >= PATIENCE else f"{NO_TIME}: {late}")
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
        assert self.trial is not None
        while not self.trial.poll(0.1):
            if time.monotonic() > end:
                return "it closed its socket"
        outcome = self.trial.outcome()
        return outcome.reason or "it ended before it was asked to"

    def _give_up(self, reason: str) -> None:
        self.reason = reason
        self._close()


def _serve(channel: socket.socket, path: Path, packed: bytes, cpus: list[int], runtime: str, engine: str) -> None:
    """The artifact's process: does what it is told over the channel, one JSON object a line, until that closes."""
    if cpus:
        os.sched_setaffinity(0, cpus)
    rows = pickle.loads(packed)
    map_libraries()
    loaded: Loaded | None = None
    with channel, channel.makefile("r", encoding="utf-8") as lines:
        for line in lines:
            command = json.loads(line)
            answer: dict[str, Any]
            if command["do"] == "load" or loaded is None:
                loaded = Loaded(path, rows, runtime, engine)
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
