"""Whatever a trial does becomes a status, the caller survives, the wall bound holds and nothing is left behind."""

from __future__ import annotations

import collections
import ctypes
import itertools
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import psutil
import pytest

from automl.estimators.errors import ResourceError, UsageError
from automl.search import forkserver, worker
from automl.search.worker import Outcome, classify, run_isolated

cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.skipif(os.name == "nt", reason="trials need fork")
CAP = 300_000_000
SLACK = 1.0  # seconds that a trial may live past its deadline


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    worker.start_server("serve")
    run_isolated(int, wall_seconds=30, server="serve")
    yield
    worker.close_servers()
    assert not psutil.Process().children(recursive=True)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """After each test: no process but the servers, no more open files, no thread, than before."""
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
    known = set(worker._servers)
    yield
    end = time.monotonic() + 2
    servers = {server.process.pid for server in worker._servers.values()}
    while (left := {p.pid for p in psutil.Process().children(recursive=True)} - servers) and time.monotonic() < end:
        time.sleep(0.01)
    assert not left
    if before and set(worker._servers) == known:
        assert len(os.listdir("/proc/self/fd")) <= before


def isolated(function: Callable[..., Any], *args: Any, wall: float = 10.0, **options: Any) -> Outcome:
    started = time.monotonic()
    outcome = run_isolated(function, *args, wall_seconds=wall, server="serve", **options)
    assert time.monotonic() - started < wall + SLACK
    return outcome


# The hostile -----------------------------------------------------------------------------------------------------------


def sleep_in_c() -> None:
    ctypes.CDLL(None).sleep(60)


def loop_in_c() -> None:
    collections.deque(itertools.repeat(None), maxlen=0)


def ignore_everything() -> None:
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    time.sleep(60)


def stop_itself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def allocate_for_ever() -> None:
    held = []
    while True:
        held.append(np.ones(2**17))


def allocate_at_once() -> None:
    np.ones(50 * 2**27)


def allocate_in_children() -> None:
    for _ in range(4):
        if os.fork() == 0:
            held = np.ones(20 * 2**17)
            time.sleep(60)
            del held
    time.sleep(60)


def thread_for_ever() -> None:
    while True:
        threading.Thread(target=time.sleep, args=(60,)).start()


def segfault() -> None:
    ctypes.string_at(0)


def kill_supervisor() -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


def leave(code: object) -> None:
    sys.exit(code)  # type: ignore[arg-type]


def family(folder: Path, wait: bool) -> None:
    """A child, and a grandchild in a session of its own; both would live a minute."""
    for level in (1, 2):
        if os.fork() == 0:
            if level == 2:
                os.setsid()
                if os.fork():
                    os._exit(0)
            (folder / str(level)).write_text(str(os.getpid()))
            time.sleep(60)
            os._exit(0)
    while not all((folder / str(level)).exists() for level in (1, 2)):
        time.sleep(0.005)
    if wait:
        time.sleep(60)


def print_much(megabytes: int) -> None:
    for _ in range(megabytes):
        sys.stdout.write("x" * 999_999 + "\n")
    os.write(2, b"the end\n")


class NastyError(Exception):
    def __init__(self, lock: object) -> None:
        self.lock = threading.Lock()

    def __str__(self) -> str:
        raise RuntimeError("no words")


def raise_nasty() -> None:
    raise NastyError(None)


class Bomb:
    def __reduce__(self) -> Any:
        return exec, ("raise RuntimeError('read me not')",)


# Each status -----------------------------------------------------------------------------------------------------------


def test_a_result_comes_back_with_its_costs() -> None:
    def work(n: int) -> tuple[float, int]:
        end = time.process_time() + 0.1
        while time.process_time() < end:
            pass
        print("working")
        return float(np.ones(n).sum()), os.getpid()

    outcome = isolated(work, 20 * 2**17)
    assert (outcome.status, outcome.reason, outcome.value[0]) == ("completed", "", 20 * 2**17)
    assert outcome.value[1] != os.getpid()
    assert outcome.log == "working\n"
    assert 0.1 <= outcome.cpu_seconds < 5
    assert outcome.wall_seconds >= 0.1


@pytest.mark.parametrize("function", [sleep_in_c, loop_in_c, ignore_everything, stop_itself])
def test_a_call_without_end_is_a_timeout(function: Callable[[], None]) -> None:
    outcome = isolated(function, wall=0.3)
    assert outcome.status == "timeout"
    assert outcome.reason == "it ran longer than its 0.3 s"
    assert 0.3 <= outcome.wall_seconds < 0.3 + SLACK


@pytest.mark.parametrize("function", [allocate_for_ever, allocate_at_once, allocate_in_children])
def test_memory_beyond_the_cap_is_out_of_memory(function: Callable[[], None]) -> None:
    cap = 60_000_000 if function is allocate_in_children else CAP
    before = psutil.Process().memory_info().rss
    outcome = isolated(function, memory_bytes=cap)
    assert outcome.status == "out_of_memory", outcome
    assert outcome.reason
    assert outcome.peak_bytes <= (3 * cap if function is allocate_in_children else 1.05 * cap)
    assert psutil.Process().memory_info().rss - before < 20_000_000


def test_threads_refused_under_a_cap_are_out_of_memory() -> None:
    assert isolated(thread_for_ever, memory_bytes=CAP).status == "out_of_memory"


def test_lightgbm_killed_by_its_cap_is_out_of_memory() -> None:
    def train() -> None:
        import lightgbm

        X = np.random.default_rng(0).normal(size=(200_000, 40)).astype(np.float32)
        lightgbm.train({"num_leaves": 255, "verbose": -1, "num_threads": 2}, lightgbm.Dataset(X, X[:, 0]), 20)

    outcome = run_isolated(train, wall_seconds=30, memory_bytes=110_000_000, server="core")
    assert outcome.status == "out_of_memory", outcome


@pytest.mark.parametrize(
    ("function", "args", "reason"),
    [
        (segfault, (), "it was ended by SIGSEGV"),
        (os.abort, (), "it was ended by SIGABRT"),
        (kill_supervisor, (), "its supervisor was killed, and it with it"),
        (leave, (3,), "it called sys.exit(3)"),
        (leave, (None,), "it called sys.exit(None)"),
        (os._exit, (0,), "it exited with code 0 and no result"),
        (os._exit, (9,), "it exited with code 9 and no result"),
        (os.kill, (0, signal.SIGKILL), "it was ended by SIGKILL"),  # 0: its own process group
    ],
)
def test_an_exit_or_a_signal_is_a_crash(function: Callable[..., None], args: tuple[Any, ...], reason: str) -> None:
    outcome = isolated(function, *args, memory_bytes=CAP)
    assert (outcome.status, outcome.reason) == ("crashed", reason)


def test_an_exception_becomes_words() -> None:
    def divide() -> float:
        return 1 / 0

    outcome = isolated(divide)
    assert (outcome.status, outcome.reason) == ("failed", "ZeroDivisionError: division by zero")
    assert "in divide" in outcome.log
    assert isolated(raise_nasty).reason == "NastyError: (its message raised RuntimeError)"


def test_what_cannot_be_pickled_fails_with_its_reason() -> None:
    assert "cannot be sent to its process" in isolated(len, threading.Lock()).reason
    assert "its result cannot be sent" in isolated(lambda: threading.Lock()).reason
    assert isolated(Bomb).reason == "its result cannot be read: RuntimeError: read me not"


def test_a_big_result_arrives_whole() -> None:
    outcome = isolated(lambda: np.arange(100 * 2**17, dtype=np.float64))
    assert outcome.status == "completed"
    assert outcome.value[-1] == 100 * 2**17 - 1


def test_a_result_past_the_limit_is_refused() -> None:
    def big() -> Any:
        sys.modules["__main__"].MAX_ANSWER = 1000  # type: ignore[attr-defined]
        return bytes(2000)

    assert "let it write a file" in isolated(big).reason


def test_chatter_is_drained_and_its_end_kept() -> None:
    before = psutil.Process().memory_info().rss
    outcome = isolated(print_much, 100, wall=30)
    assert outcome.status == "completed"
    assert len(outcome.log) <= worker.LOG_BYTES
    assert outcome.log.endswith("the end\n")
    assert psutil.Process().memory_info().rss - before < 20_000_000


# Nothing is left -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wait", [True, False])
def test_forked_children_die_with_the_trial(tmp_path: Path, wait: bool) -> None:
    outcome = isolated(family, tmp_path, wait, wall=1.0)
    assert outcome.status == ("timeout" if wait else "completed")
    for level in ("1", "2"):
        assert not psutil.pid_exists(int((tmp_path / level).read_text()))


def test_cleanup_paths_go_unless_it_completed(tmp_path: Path) -> None:
    def make() -> tuple[Path, Path]:
        folder, file = tmp_path / "model", tmp_path / "part.bin"
        folder.mkdir(exist_ok=True)
        (folder / "inner").write_text("x")
        file.write_text("x")
        return folder, file

    paths = make()
    isolated(int, cleanup=paths)
    assert all(path.exists() for path in paths)
    isolated(segfault, cleanup=[*paths, tmp_path / "never there"])
    assert not any(path.exists() for path in paths)


def test_cancel_ends_it_at_once() -> None:
    cancel = threading.Event()
    threading.Timer(0.2, cancel.set).start()
    started = time.monotonic()
    outcome = isolated(sleep_in_c, cancel=cancel)
    assert (outcome.status, outcome.reason) == ("skipped", "it was cancelled")
    assert time.monotonic() - started < 0.8


def test_many_threads_call_at_once() -> None:
    functions = [segfault, int, loop_in_c, allocate_at_once] * 3
    with ThreadPoolExecutor(6) as pool:
        found = list(
            pool.map(lambda f: run_isolated(f, wall_seconds=1.0, memory_bytes=CAP, server="serve").status, functions)
        )
    assert found == ["crashed", "completed", "timeout", "out_of_memory"] * 3


def test_a_start_takes_tens_of_milliseconds() -> None:
    times = []
    for _ in range(10):
        start = time.perf_counter()
        isolated(int)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.06


# The servers -----------------------------------------------------------------------------------------------------------


def test_a_killed_server_is_started_again_and_its_trials_go_on(tmp_path: Path) -> None:
    started = tmp_path / "started"

    def slow() -> str:
        started.write_text("")
        time.sleep(0.5)
        return "done"

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(isolated, slow)
        while not started.exists():
            time.sleep(0.01)
        first = worker._servers["serve"].process.pid
        os.kill(first, signal.SIGKILL)
        time.sleep(0.05)
        assert isolated(int).status == "completed"
        assert running.result().value == "done"
    assert worker._servers["serve"].process.pid != first


def test_start_server_returns_at_once_and_knows_its_names() -> None:
    worker.close_servers()
    start = time.perf_counter()
    worker.start_server("serve")
    assert time.perf_counter() - start < 0.2
    worker.close_servers()  # while it still imports
    assert time.perf_counter() - start < 0.5
    with pytest.raises(UsageError, match="core, torch, serve"):
        worker.start_server("sevre")
    assert isolated(int).status == "completed"


def test_a_server_that_cannot_start_is_one_resource_error(monkeypatch: pytest.MonkeyPatch) -> None:
    worker.close_servers()
    monkeypatch.setattr(worker.sys, "executable", "/bin/false")
    with pytest.raises(ResourceError, match=r"'serve' died while it started: exit code 1"):
        run_isolated(int, wall_seconds=1, server="serve")
    monkeypatch.setattr(worker.sys, "executable", "/no/such/python")
    with pytest.raises(ResourceError, match="cannot be started"):
        run_isolated(int, wall_seconds=1, server="serve")


def test_no_open_files_left_is_one_resource_error() -> None:
    isolated(int)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        with pytest.raises(ResourceError, match="ulimit -n"):
            isolated(int)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert isolated(int).status == "completed"


def test_windows_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", "nt")
        with pytest.raises(ResourceError, match="Linux or macOS"):
            worker.start_server("serve")


# The caller ------------------------------------------------------------------------------------------------------------


def run_script(folder: Path, text: str, **options: Any) -> subprocess.Popen[str]:
    script = folder / "my script.py"
    script.write_text(text, encoding="utf-8")
    root = worker.package_root()
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(script)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": root, **options},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_an_unguarded_script_runs_once_and_its_functions_travel(tmp_path: Path) -> None:
    folder = tmp_path / "a folder, déjà là"
    folder.mkdir()
    (folder / "search.py").write_text("raise RuntimeError('the user’s own search.py was imported')", encoding="utf-8")
    (folder / "helper.py").write_text("def twice(x): return 2 * x")
    process = run_script(
        folder,
        """print("script runs")
import helper
from automl.search.worker import run_isolated
def mine(x): return helper.twice(x) + 1
print(run_isolated(mine, 20, wall_seconds=20, server="serve").value)
print(run_isolated(helper.twice, 20, wall_seconds=20, server="serve").value)
""",
        LC_ALL="C",
    )
    out, err = process.communicate(timeout=60)
    assert (out.split("\n"), err) == (["script runs", "41", "40", ""], "")


def test_a_forked_caller_starts_its_own_server(tmp_path: Path) -> None:
    process = run_script(
        tmp_path,
        """import os, sys
from automl.search import worker
def where(): return os.getpid()
print(worker.run_isolated(where, wall_seconds=20, server="serve").status, flush=True)
mine = worker._servers["serve"].process.pid
pid = os.fork()
outcome = worker.run_isolated(where, wall_seconds=20, server="serve")
other = worker._servers["serve"].process.pid
print(outcome.status, "own" if (other != mine) == (pid == 0) else "shared", flush=True)
if pid:
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
""",
    )
    out, err = process.communicate(timeout=60)
    assert (sorted(out.split("\n")), err) == (["", "completed", "completed own", "completed own"], "")


def test_all_die_when_the_caller_is_killed(tmp_path: Path) -> None:
    process = run_script(
        tmp_path,
        f"""import os, pathlib, time
from automl.search import worker
folder = pathlib.Path({str(tmp_path)!r})
def work():
    if os.fork() == 0:
        os.setsid()
    (folder / f"{{os.getpid()}}.pid").write_text("")
    time.sleep(60)
worker.start_server("serve")
if os.fork() == 0:
    time.sleep(60)  # it holds a copy of every socket
    os._exit(0)
worker.run_isolated(work, wall_seconds=60, server="serve")
""",
    )
    end = time.monotonic() + 20
    while len(list(tmp_path.glob("*.pid"))) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    own = psutil.Process(process.pid).children()
    server = [p.pid for p in own if "automl.search.forkserver" in p.cmdline()]
    trials = [int(path.stem) for path in tmp_path.glob("*.pid")]
    assert len(trials) == 2
    assert len(server) == 1
    process.kill()
    process.wait()
    end = time.monotonic() + 5.0
    while any(psutil.pid_exists(pid) for pid in (*server, *trials)) and time.monotonic() < end:
        time.sleep(0.02)
    left = [pid for pid in (*server, *trials) if psutil.pid_exists(pid)]
    for p in own:
        if p.pid not in server:
            p.kill()
    process.communicate()
    assert not left


def test_ctrl_c_reaches_the_caller_alone(tmp_path: Path) -> None:
    process = run_script(
        tmp_path,
        """import os, signal, threading, time
from automl.search import worker
worker.run_isolated(int, wall_seconds=20, server="serve")
threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    worker.run_isolated(time.sleep, 60, wall_seconds=60, server="serve")
except KeyboardInterrupt:
    print(worker.run_isolated(int, wall_seconds=20, server="serve").status)
""",
    )
    out, err = process.communicate(timeout=30)
    assert (out, err) == ("completed\n", "")


# How an end is called --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "log", "memory", "status"),
    [
        ({"exit": -11, "peak": 90}, "", 100, "out_of_memory"),
        ({"exit": -11, "peak": 10, "data": 99}, "", 100, "out_of_memory"),
        ({"exit": -6, "peak": 10}, "terminate called: std::bad_alloc", 100, "out_of_memory"),
        ({"exit": -11, "peak": 10}, "", 100, "crashed"),
        ({"exit": -11, "peak": 10**12}, "", None, "crashed"),
        ({"exit": -15, "peak": 99}, "", 100, "crashed"),
        ({"exit": 1, "peak": 99}, "", 100, "crashed"),
        ({"exit": None, "verdict": "timeout"}, "", 100, "timeout"),
        ({"exit": -9, "verdict": "cancelled"}, "", 100, "skipped"),
    ],
)
def test_an_end_is_called_by_its_name(end: dict[str, Any], log: str, memory: int | None, status: str) -> None:
    assert classify(end, None, log, 1.0, memory, False).status == status


def test_the_kernel_is_read_as_it_is() -> None:
    assert forkserver.status_bytes("VmRSS", 2**22 + 1) is None
    assert forkserver.usage(2**22 + 1) == (0, 0)
    assert forkserver.children(2**22 + 1) == []
    if sys.platform == "linux":
        assert 0 < forkserver.proportional(os.getpid()) <= forkserver.usage(os.getpid())[0] + 2**20
