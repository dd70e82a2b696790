"""What others leave of the machine is seen, and a system that does not tell is taken to leave all."""

from __future__ import annotations

import importlib.machinery
import itertools
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from automl.estimators import hardware
from automl.estimators.errors import ResourceError
from automl.estimators.hardware import Watch, devices, undisturbed


def looks(monkeypatch: pytest.MonkeyPatch, cores: int, *seen: tuple[float, float, float, float]) -> None:
    """Two looks, as offsets to now, of a machine with `cores` processors."""
    now, each = time.monotonic(), itertools.cycle(seen)
    monkeypatch.setattr(Watch, "_numbers", staticmethod(lambda: list(range(cores))))
    monkeypatch.setattr(Watch, "_look", lambda self: (now + (look := next(each))[0], *look[1:]))
    monkeypatch.setattr(hardware, "cpu_count", lambda: cores)
    monkeypatch.setattr(hardware.time, "sleep", lambda seconds: None)


@pytest.mark.parametrize(
    ("idle", "own", "free"),
    [
        (2.0, 0.0, 2.0),  # nobody works
        (1.0, 0.0, 1.0),  # another process does, on one of two cores
        (1.0, 1.0, 2.0),  # this one does
        (0.0, 1.0, 1.0),  # both do
        (0.0, 0.0, 0.0),
        (2.0, 0.5, 2.0),  # the clocks disagree a little: never more than there are
    ],
)
def test_the_cores_that_others_keep_busy_are_not_free(
    monkeypatch: pytest.MonkeyPatch, idle: float, own: float, free: float
) -> None:
    looks(monkeypatch, 2, (0.0, 50.0, 10.0, 3.0), (1.0, 52.0, 10.0 + idle, 3.0 + own))
    assert Watch().free() == pytest.approx(free)


def test_where_the_system_does_not_tell_all_cores_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    looks(monkeypatch, 2, (0.0, 0.0, 0.0, 3.0), (1.0, 0.0, 0.0, 3.5))
    assert Watch().free() == 2.0


def test_of_a_quota_below_the_processors_no_more_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    looks(monkeypatch, 64, (0.0, 0.0, 0.0, 0.0), (1.0, 64.0, 60.0, 0.0))
    monkeypatch.setattr(hardware, "cpu_count", lambda: 2)
    assert Watch().free() == 2.0


def test_this_machine_is_looked_at_in_no_time() -> None:
    started = time.monotonic()
    watch = Watch()
    assert 0.0 <= watch.free() <= hardware.cpu_count()
    assert hardware.ENOUGH <= time.monotonic() - started < hardware.ENOUGH + 1.0


@pytest.mark.parametrize(
    ("threads", "free", "expected"), [(2, 2.0, 2), (2, 1.7, 2), (2, 1.5, 1), (2, 0.0, 1), (8, 7.1, 7), (8, 64.0, 8)]
)
def test_a_fit_has_no_thread_that_would_wait_for_others(threads: int, free: float, expected: int) -> None:
    assert undisturbed(threads, free) == expected


SPIN = "import time\nend = time.process_time() + {seconds}\nwhile time.process_time() < end: pass"


def spun(seconds: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", SPIN.format(seconds=seconds)])


def own(watch: Watch) -> float:
    """CPU seconds of this process and its children that a look sees since the watch was made."""
    return watch._look()[3] - watch._start[3]


def torch_in(folder: Path, monkeypatch: pytest.MonkeyPatch, *, cuda: bool, gpu: str | None) -> None:
    """A torch of that build, on a machine with that GPU."""
    (folder / "torch" / "lib").mkdir(parents=True)
    (folder / "torch" / "__init__.py").touch()
    (folder / "torch" / "lib" / ("libtorch_cuda.so" if cuda else "libtorch_cpu.so")).touch()
    monkeypatch.setattr(
        hardware.importlib.util,
        "find_spec",
        lambda name: importlib.machinery.PathFinder.find_spec(name, [str(folder)]),
    )
    monkeypatch.setattr(hardware, "_gpu_devices", lambda: iter([Path("/dev/nvidia0")] if gpu else []))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(("cuda", "gpu", "why"), [(False, "H200", "built without CUDA"), (True, None, "no NVIDIA GPU")])
def test_a_graphics_card_that_cannot_be_had_is_refused_by_name_and_left_out_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuda: bool, gpu: str | None, why: str
) -> None:
    torch_in(tmp_path, monkeypatch, cuda=cuda, gpu=gpu)
    assert devices("auto") == devices("cpu") == ("cpu",)
    with pytest.raises(ResourceError, match=why):
        devices("cuda")


def test_where_there_is_a_graphics_card_both_are_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch_in(tmp_path, monkeypatch, cuda=True, gpu="H200")
    assert devices("auto") == ("cpu", "cuda")
    assert devices("cuda") == ("cuda",)
    assert devices("cpu") == ("cpu",)
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert devices("auto") == ("cpu",)


def test_the_work_of_children_is_not_that_of_others() -> None:
    watch = Watch()
    spun(0.5).wait()
    assert 0.4 < own(watch) < 2.0  # it began and ended in between
    child = spun(60.0)
    try:
        while own(watch) < 1.2:
            time.sleep(0.05)
        later = Watch()
    finally:
        child.kill()
        child.wait()
    assert -0.1 < own(later) < 0.5  # what it had worked before does not count


def test_a_system_that_says_nothing_is_taken_as_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(percpu: bool) -> None:
        raise PermissionError("/proc/stat")

    monkeypatch.setattr(psutil, "cpu_times", refused)
    assert Watch().free() == hardware.cpu_count()
