"""The most memory that a block of code held, and what keeps such a figure honest: mapped libraries, a trimmed heap."""

from __future__ import annotations

import ctypes
import sys
import threading
from pathlib import Path

from .forkserver import status_bytes

MADV_POPULATE_READ = 22


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
