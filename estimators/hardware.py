"""The hardware a model is trained on, and what this machine offers."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Hardware:
    """The hardware configuration of a plan: `threads` for training, `device` ("cpu" or "cuda") and `dtype`; the `engine` ("onnx" or
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
