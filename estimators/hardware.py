"""The hardware a model is trained on, and what this machine offers."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .errors import ResourceError

DEVICES = ("auto", "cpu", "cuda")
"""Where a user may say that networks train; "auto" is wherever they can here, and the search tells which is worth it."""
CUDA_START, CUDA_SHARE = 3.0, 0.2
"""Prior of a fit on a GPU, until the run has measured one: the seconds that CUDA takes to start in a new process, and the share of one
core's time that the rest takes. They are guesses: all that was measured is that on an H200 five networks of adult took 45 s, the first
more than 20 of them, where a core made 15 (benchmarks/RESULTS.md)."""


@dataclass(frozen=True)
class Hardware:
    """The hardware configuration of a plan: `threads` and `device` ("cpu" or "cuda") for training, `dtype`; the `engine` ("onnx" or
    "compiled") that the model is served by, and the `serving_threads` that share the rows of a batch there.
    """

    threads: int = 1
    device: str = "cpu"
    dtype: str = "float32"
    engine: str = "onnx"
    serving_threads: int = 1

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


_pools: Any = None


def know_threadpools() -> None:
    """Remembers the thread pools of the libraries that are loaded: finding them takes as long as some fits.

    For a process that has all imported by now, and those forked from it.
    """
    from threadpoolctl import ThreadpoolController

    global _pools
    _pools = ThreadpoolController()


def threadpool_limits(threads: int) -> Any:
    """A context in which BLAS and OpenMP have as many threads (threadpoolctl's)."""
    from threadpoolctl import ThreadpoolController

    return (_pools or ThreadpoolController()).limit(limits=threads)


@dataclass(frozen=True)
class Machine:
    """What may be used here: cores (affinity and cgroup quota respected), memory in bytes, the processor's name."""

    cores: int
    memory_bytes: int
    available_bytes: int
    processor: str
    system: str
    python: str
    gpu: str | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def cpu_count() -> int:
    """Cores this process may use: CPU affinity, cgroup quota and LOKY_MAX_CPU_COUNT respected (joblib's own rule)."""
    from joblib import cpu_count as joblib_cpu_count

    return max(1, int(joblib_cpu_count()))


ENOUGH = 0.2
"""Seconds that a `Watch` needs: the system counts a processor's time in hundredths of a second."""
TOLD = 0.5
"""Of the seconds that have passed a system tells at least this share of each processor, or it does not tell at all (some sandboxes)."""


class Watch:
    """How many cores other processes leave to this one and its children, from the moment that the watch is made.

    A fit on as many threads as there are cores waits at each barrier for a thread that another process has put aside: LightGBM
    took 2 to 3 times as long on two threads as on one where one of two cores was busy (100 rounds, 32,000 x 9 and 8,000 x 300).
    """

    def __init__(self) -> None:
        self._start = self._look()

    def free(self) -> float:
        """The cores that nobody else kept busy since, at most `cpu_count()`; that where the system does not tell. Waits until
        ENOUGH seconds have passed.
        """
        time.sleep(max(0.0, self._start[0] + ENOUGH - time.monotonic()))
        passed, spent, idle, own = (after - before for before, after in zip(self._start, self._look(), strict=True))
        cores = len(self._numbers())
        if spent < TOLD * passed * cores:
            return float(cpu_count())
        return max(0.0, min(float(cpu_count()), cores * (idle + max(0.0, own)) / spent))

    def _look(self) -> tuple[float, float, float, float]:
        """(now, all seconds of the processors that may be used, the idle ones of them, those of this process and its children).

        What yields to this process (nice) counts as idle. The children of each that have ended count by their parent.
        """
        import psutil

        try:
            here, every = psutil.Process(), psutil.cpu_times(percpu=True)
            used = [every[i] for i in self._numbers() if i < len(every)]
            yields = hasattr(os, "nice") and os.nice(0) <= 0
            idle = sum(one.idle + getattr(one, "iowait", 0.0) + yields * getattr(one, "nice", 0.0) for one in used)
            spent = sum(sum(one) - getattr(one, "guest", 0.0) - getattr(one, "guest_nice", 0.0) for one in used)
            own = sum(_times(process) for process in [here, *here.children(recursive=True)])
        except (OSError, psutil.Error):  # nothing is told here
            return time.monotonic(), 0.0, 0.0, 0.0
        return time.monotonic(), spent, idle, own

    @staticmethod
    def _numbers() -> list[int]:
        """The processors that this process may run on."""
        if hasattr(os, "sched_getaffinity"):
            return sorted(os.sched_getaffinity(0))
        return list(range(os.cpu_count() or 1))


def _times(process: Any) -> float:
    """CPU seconds of a process and those of its children that have ended; none of one that has ended itself."""
    import psutil

    try:
        return float(sum(process.cpu_times()[:4]))
    except psutil.Error:
        return 0.0


def undisturbed(threads: int, free: float) -> int:
    """So many of `threads` do not wait for others on `free` cores: a third of a core may be another's."""
    return max(1, min(threads, int(free + 1 / 3)))


def memory_limit() -> tuple[int, int]:
    """(total, available) bytes of memory, the smaller of the machine's and the cgroup's."""
    import psutil

    memory = psutil.virtual_memory()
    total, available = int(memory.total), int(memory.available)
    for limit_file, used_file in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            limit, used = int(Path(limit_file).read_text()), int(Path(used_file).read_text())
        except (OSError, ValueError):  # not under that cgroup version, or "max"
            continue
        if limit < total:
            total, available = limit, min(available, max(0, limit - used))
    return total, available


def processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux: the platform's own word serves
    return platform.processor() or platform.machine()


def no_cuda() -> str | None:
    """Why torch cannot train on a GPU here; None where it looks as if it can. Nothing is imported or started for it."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return "torch is not installed"
    if not any((Path(found.origin).parent / "lib").glob("*torch_cuda*")):
        return "the torch that is installed was built without CUDA"
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides all GPUs"
    if not any(_gpu_devices()):
        return "no NVIDIA GPU is among the devices"
    return None


def _gpu_devices() -> Iterator[Path]:
    """The files of the GPUs that this process may use: a container has none of those that it was not given."""
    yield from Path("/dev").glob("nvidia[0-9]*")
    yield from Path("/dev").glob("dxg")  # Windows' Linux has its own way to the GPU


def devices(asked: str) -> tuple[str, ...]:
    """The devices that networks may train on here, where the user `asked` for one of DEVICES, the CPU first.

    Raises ResourceError where "cuda" is asked for and cannot be had.
    """
    if asked == "cpu":
        return ("cpu",)
    why = no_cuda()
    if why is None:
        return ("cpu", "cuda") if asked == "auto" else ("cuda",)
    if asked == "auto":
        return ("cpu",)
    raise ResourceError(f"device 'cuda' cannot be had: {why}; take 'cpu', or 'auto', which takes what there is")


def gpu_name() -> str | None:
    """The GPU's name if the NVIDIA driver lists one; torch is not imported for it."""
    for information in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in information.read_text().splitlines():
            if line.startswith("Model:"):
                return line.split(":", 1)[1].strip()
    return None


def detect() -> Machine:
    """The machine as this process may use it."""
    total, available = memory_limit()
    return Machine(
        cores=cpu_count(),
        memory_bytes=total,
        available_bytes=available,
        processor=processor_name(),
        system=f"{platform.system()} {platform.release()}",
        python=sys.version.split()[0]
        + (f" ({os.environ['CONDA_DEFAULT_ENV']})" if "CONDA_DEFAULT_ENV" in os.environ else ""),
        gpu=gpu_name(),
    )
