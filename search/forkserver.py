"""The trial server: a process that has imported and never computes, from which each trial is forked.

`worker` runs it as ``python -m automl.search.forkserver NAME DESCRIPTOR CALLER``, so a user's unguarded script is never
run again. Three kinds of process come out of it:

    server      imports NAME's modules, then waits on DESCRIPTOR (its half of a socket pair with the caller);
    supervisor  one for each trial: forks it, holds its wall deadline and memory cap, kills all that descends from it;
    trial       runs the pickled function in a process group of its own and writes the pickled answer.

Nothing is ever computed in the server, since a fork after OpenMP or BLAS work hangs (measured). Who dies, and then:
the caller: the server and every supervisor see it (closed sockets, or a look every half second) and kill all trials;
the server: running trials go on; a supervisor: the kernel kills its trial, the server what that one had forked.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

LIMITS = struct.Struct("<dQ")  # what starts a trial: wall seconds, memory bytes (0 = no cap), with its descriptors
SIZE = struct.Struct("<Q")  # opens the answer file: the bytes of the pickle behind it, written last
GREETING = struct.Struct("<I")  # opens the caller's first message: the bytes of the JSON behind it
READY = b"R"
MAX_ANSWER = 1 << 30  # bytes of a pickled result that may travel back
POLL_SECONDS = 0.02  # between two looks at a trial's memory
CALLER_SECONDS = 0.5  # between two looks at whether the caller lives
PREFIX = (__package__ or "automl.search").rpartition(".")[0]

SCIENCE = (
    "numpy", "scipy.sparse", "scipy.sparse.linalg", "scipy.linalg", "scipy.optimize", "scipy.stats", "threadpoolctl",
    "joblib", "sklearn.decomposition", "sklearn.ensemble", "sklearn.feature_selection", "sklearn.linear_model",
    "sklearn.metrics", "sklearn.neighbors", "sklearn.preprocessing", "sklearn.tree", "onnx.helper", "onnx.numpy_helper",
    "onnxruntime",
)  # fmt: skip
OURS = (f"{PREFIX}.estimators.*", f"{PREFIX}.estimators.families.*", f"{PREFIX}.search.fitting", f"{PREFIX}.search.measure",
        f"{PREFIX}.search.metric", f"{PREFIX}.search.plan", f"{PREFIX}.search.split", f"{PREFIX}.search.trial")  # fmt: skip
# The first torch.optim constructor imports 822 modules: preloaded, so that no trial is charged for them.
TORCH = ("torch", "torch._dynamo", "torch.optim")
SERVERS = {
    "core": (*SCIENCE, "lightgbm", *OURS),
    # Two OpenMP runtimes in one process crash on macOS: there LightGBM and torch never meet.
    "torch": (*SCIENCE, *(() if sys.platform == "darwin" else ("lightgbm",)), *TORCH, *OURS),
    "serve": ("numpy", "onnxruntime", f"{PREFIX}.estimators.runtime", f"{PREFIX}.search.measure"),
    "lean": ("numpy", f"{PREFIX}.estimators.compiled", f"{PREFIX}.estimators.runtime", f"{PREFIX}.search.measure"),
}

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
MEMORY_WORDS = ("bad_alloc", "bad allocation", "can't allocate memory", "cannot allocate memory", "out of memory")


def main(name: str, descriptor: int, caller: int) -> None:
    """Serve trials until the caller closes its socket or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to answer
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    with socket.socket(fileno=descriptor) as control:
        (size,) = GREETING.unpack(control.recv(GREETING.size, socket.MSG_WAITALL))
        sys.path[:] = json.loads(control.recv(size, socket.MSG_WAITALL))
        with _leaving_with(caller):
            preload(SERVERS[name])
            if "threadpoolctl" in sys.modules:
                importlib.import_module(f"{PREFIX}.estimators.hardware").know_threadpools()
        gc.collect()
        gc.freeze()  # a collection in a trial then writes to no inherited page
        control.sendall(READY)
        _serve(control, caller)


def preload(names: tuple[str, ...]) -> None:
    """Import each module; ``package.*`` means all in it. One that fails is told on stderr: the trial that needs it will raise."""
    import cloudpickle  # noqa: F401  (each trial reads its request with it)

    for name in names:
        try:
            if name.endswith(".*"):
                package = importlib.import_module(name[:-2])
                found = [f"{name[:-1]}{m.name}" for m in pkgutil.iter_modules(package.__path__) if not m.ispkg]
                preload(tuple(found))
            else:
                importlib.import_module(name)
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)


@contextlib.contextmanager
def _leaving_with(caller: int) -> Iterator[None]:
    """While the imports run, leave within half a second of the caller's death."""

    def look(*_: object) -> None:
        if os.getppid() != caller:
            os._exit(1)

    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, CALLER_SECONDS, CALLER_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _serve(control: socket.socket, caller: int) -> None:
    supervisors: set[int] = set()
    wake = _wake_on(signal.SIGCHLD)
    while os.getppid() == caller:
        readable, _, _ = select.select([control, wake], [], [], CALLER_SECONDS)
        if wake in readable:
            wake.recv(4096)
        _reap(supervisors)
        if control not in readable:
            continue
        message, descriptors, _, _ = socket.recv_fds(control, LIMITS.size, 8)
        if len(message) < LIMITS.size:
            break
        wall, memory = LIMITS.unpack(message)
        status = socket.socket(fileno=descriptors.pop(0))
        try:
            pid = os.fork()
            if pid == 0:
                _finally_exit(partial(_supervise, wall, memory, status, descriptors, caller, (control, wake)))
            supervisors.add(pid)
        except OSError as error:  # no memory or no process left: the caller is told, the server lives on
            _tell(status, {"refused": f"{error.strerror} (fork)"})
        status.close()
        for descriptor in descriptors:
            os.close(descriptor)
    _dismiss(supervisors)


def _reap(supervisors: set[int]) -> None:
    """Collect ended supervisors; kill what a trial left to us by killing its own supervisor."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            supervisors.discard(pid)
    for stray in set(children(os.getpid())) - supervisors:
        _kill(stray)


def _dismiss(supervisors: set[int]) -> None:
    """End every trial: each supervisor is asked to, and killed a second later if it still lives."""
    for pid in supervisors:
        _kill(pid, signal.SIGTERM)
    patience = time.monotonic() + 1.0
    while supervisors and time.monotonic() < patience:
        time.sleep(0.005)
        _reap(supervisors)
    for pid in supervisors:
        _kill(pid)


# The supervisor -----------------------------------------------------------------------------------------------------


@dataclass
class Watched:
    """What the supervisor saw: why it ended the trial (None: it ended itself), peak private and reserved bytes."""

    verdict: str | None = None
    peak_bytes: int = 0
    data_bytes: int = 0


def _supervise(
    wall: float,
    memory: int,
    status: socket.socket,
    descriptors: list[int],
    caller: int,
    close: tuple[socket.socket, ...],
) -> None:
    """Fork the trial, hold its limits, kill all that descends from it, tell the caller how it ended."""
    signal.set_wakeup_fd(-1)
    for inherited in close:
        inherited.close()
    _prctl(PR_SET_CHILD_SUBREAPER, 1)  # what the trial forks and abandons falls to us, whatever its session
    wake = _wake_on(signal.SIGCHLD, signal.SIGTERM)
    base, data = usage(os.getpid())
    supervisor, started = os.getpid(), time.monotonic()
    try:
        pid = os.fork()
    except OSError as error:
        _tell(status, {"refused": f"{error.strerror} (fork)"})
        return
    if pid == 0:
        wake.close()
        status.close()
        _finally_exit(partial(_trial, supervisor, memory, descriptors))
    with contextlib.suppress(OSError):  # it may have done so itself, or be gone
        os.setpgid(pid, pid)
    for descriptor in descriptors:
        os.close(descriptor)
    _tell(status, {"pid": pid})
    watched = _watch(pid, (base, data), started + wall, memory, status, wake, caller)
    exit_code, cpu = _end(pid)
    _tell(
        status,
        {
            "exit": exit_code,
            "verdict": watched.verdict,
            "wall": time.monotonic() - started,
            "cpu": cpu,
            "peak": watched.peak_bytes,
            "data": watched.data_bytes,
        },
    )


def _watch(
    pid: int,
    base: tuple[int, int],
    deadline: float,
    memory: int,
    status: socket.socket,
    wake: socket.socket,
    caller: int,
) -> Watched:
    """Wait for the trial's end, its deadline, its memory cap, or the caller's word or death."""
    seen, next_look = Watched(), time.monotonic() + CALLER_SECONDS
    while True:
        now = time.monotonic()
        readable, _, _ = select.select([status, wake], [], [], max(0.0, min(POLL_SECONDS, deadline - now)))
        signals = wake.recv(4096) if wake in readable else b""
        if _has_ended(pid):
            return seen
        private, reserved = _above(pid, base, memory)
        seen.peak_bytes, seen.data_bytes = max(seen.peak_bytes, private), max(seen.data_bytes, reserved)
        now = time.monotonic()
        if memory and private > memory:
            seen.verdict = "out_of_memory"
        elif now >= deadline:
            seen.verdict = "timeout"
        elif status in readable or signal.SIGTERM in signals:
            seen.verdict = "cancelled"
        elif now >= next_look:
            next_look = now + CALLER_SECONDS
            seen.verdict = None if _lives(caller) else "cancelled"
        if seen.verdict:
            return seen


def _above(pid: int, base: tuple[int, int], memory: int) -> tuple[int, int]:
    """(private, reserved) bytes of the trial and all that it forked, above what it inherited."""
    family = [pid, *descendants(os.getpid(), but=pid)]
    found = [usage(p) for p in family]
    private = sum(max(0, p - base[0]) for p, _ in found)
    if memory and private > memory and len(family) > 1:  # pages shared after a fork were counted once for each process
        private = sum(proportional(p) for p in family)
    return private, max(0, found[0][1] - base[1])


def _has_ended(pid: int) -> bool:
    """Whether the trial is a zombie; it stays one, so that its number can't go to another process yet."""
    if hasattr(os, "waitid"):
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    import psutil  # macOS before Python 3.13

    return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def _end(pid: int) -> tuple[int | None, float]:
    """Kill the trial's group and all its descendants, collect them: (exit code or minus the signal, CPU seconds)."""
    exit_code, cpu, patience = None, 0.0, time.monotonic() + 0.5
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    _kill(pid)
    while True:
        for stray in descendants(os.getpid()):
            _kill(stray)
        try:
            done, status, spent = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return exit_code, cpu
        if done == 0:
            if time.monotonic() > patience:  # in an uninterruptible system call: it dies when that returns
                return exit_code, cpu
            time.sleep(0.001)
            continue
        cpu += spent.ru_utime + spent.ru_stime
        if done == pid:
            exit_code = os.waitstatus_to_exitcode(status)


# The trial ----------------------------------------------------------------------------------------------------------


def _trial(supervisor: int, memory: int, descriptors: list[int]) -> None:
    """Run the request and write its answer; `descriptors` are request, answer, log and, for a dialogue, a channel."""
    request, answer, log = descriptors[:3]
    os.setpgid(0, 0)
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:
        return
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    _own_streams(log)
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(
        OSError
    ):  # Linux: if the machine runs out of memory, the kernel takes the trial, not the caller
        Path("/proc/self/oom_score_adj").write_text("1000")
    channel = (socket.socket(fileno=descriptors[3]),) if len(descriptors) > 3 else ()
    reply = _run(request, memory, channel)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed by the trial itself
            stream.flush()
    _write(answer, reply)
    os._exit(0)


def _own_streams(log: int) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(log)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - they live as long as the process
    sys.stdout = open(1, "w", 1, "utf-8", "backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, "utf-8", "backslashreplace", closefd=False)  # noqa: SIM115
    faulthandler.enable(sys.stderr)


def _run(request: int, memory: int, channel: tuple[socket.socket, ...]) -> tuple[str, str, Any]:
    """(kind, reason, value): kind is "completed", "failed", "out_of_memory" or "crashed" (it called sys.exit)."""
    import cloudpickle

    try:
        with open(request, "rb") as file:
            place = json.loads(file.readline())
            sys.path[:] = place["path"]
            if place["cwd"] is not None:
                os.chdir(place["cwd"])
            function, args = cloudpickle.load(file)
        if memory:
            cap(memory)
        return "completed", "", function(*channel, *args)
    except SystemExit as error:
        return "crashed", f"it called sys.exit({error.code!r})", None
    except BaseException as error:
        return _failure(error, capped=bool(memory))


def _failure(error: BaseException, capped: bool) -> tuple[str, str, None]:
    """The exception as words: nothing of it travels, so that none can hurt the caller. Its traceback goes to the log."""
    try:
        message = str(error)
    except Exception as broken:  # a user's own __str__
        message = f"(its message raised {type(broken).__name__})"
    reason = f"{type(error).__name__}: {' '.join(message.split())[:500]}".rstrip(": ")
    low = message.lower()
    starved = isinstance(error, MemoryError) or any(word in low for word in MEMORY_WORDS)
    starved = starved or (capped and "can't start new thread" in low)
    traceback.clear_frames(error.__traceback__)  # lets go of the arrays that filled the memory
    with contextlib.suppress(MemoryError, OSError, ValueError):
        sys.stderr.write("".join(traceback.format_tb(error.__traceback__)[-20:]) + reason + "\n")
    return ("out_of_memory" if starved else "failed"), reason, None


def _write(answer: int, reply: tuple[str, str, Any]) -> None:
    """Write the pickled reply; its size goes last, so that half an answer is none."""
    import cloudpickle

    with open(answer, "wb") as file:
        file.write(SIZE.pack(0))
        try:
            cloudpickle.dump(reply, file)
        except BaseException as error:
            kind, reason, _ = _failure(error, capped=False)
            _rewrite(file, (kind, f"its result cannot be sent: {reason}", None))
        size = file.tell() - SIZE.size
        if size > MAX_ANSWER:
            words = f"its result has {size:,} bytes and at most {MAX_ANSWER:,} are sent: let it write a file instead"
            _rewrite(file, ("failed", words, None))
            size = file.tell() - SIZE.size
        file.seek(0)
        file.write(SIZE.pack(size))


def _rewrite(file: Any, reply: tuple[str, str, None]) -> None:
    import cloudpickle

    file.seek(SIZE.size)
    file.truncate()
    cloudpickle.dump(reply, file)


def cap(memory: int) -> None:
    """Let this process take at most `memory` bytes more. RLIMIT_DATA, since RLIMIT_AS breaks memory-mapped data."""
    import resource

    held = status_bytes("VmData")
    if held is not None:  # elsewhere than Linux the supervisor's look at the memory is the cap
        resource.setrlimit(resource.RLIMIT_DATA, (held + memory, held + memory))


# What the kernel says -------------------------------------------------------------------------------------------------


def status_bytes(field: str, pid: int | str = "self") -> int | None:
    """A field of /proc/PID/status in bytes; None where there is none (not Linux, or the process has ended)."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            for line in file:
                if line.startswith(field.encode() + b":"):
                    return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None


def usage(pid: int) -> tuple[int, int]:
    """(private resident, reserved writable) bytes of one process; zeros when it is gone. Reserved is Linux only."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            fields = [int(field) for field in file.read().split()]
    except (OSError, ValueError):
        return (0, 0) if sys.platform == "linux" else (_resident(pid), 0)
    if len(fields) < 6:
        return 0, 0
    page = os.sysconf("SC_PAGE_SIZE")
    return (fields[1] - fields[2]) * page, fields[5] * page


def proportional(pid: int) -> int:
    """Anonymous memory of a process in which a page shared by k processes counts 1/k; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            return sum(int(line.split()[1]) * 1024 for line in file if line.startswith(b"Pss_Anon:"))
    except OSError:
        return usage(pid)[0]


def _resident(pid: int) -> int:
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def children(pid: int) -> list[int]:
    """The living children of a process, of all its threads."""
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                found += [int(child) for child in file.read().split()]
    except (FileNotFoundError, ProcessLookupError):
        if sys.platform == "linux" and Path("/proc/self/task").exists() and _has_children_file():
            return found  # it ended meanwhile
        import psutil

        with contextlib.suppress(psutil.Error):
            return [child.pid for child in psutil.Process(pid).children()]
    return found


def _has_children_file() -> bool:
    return Path(f"/proc/self/task/{os.getpid()}/children").exists()


def descendants(pid: int, but: int | None = None) -> list[int]:
    """All that descends from a process, without `but` itself."""
    found: list[int] = []
    stack = children(pid)
    while stack:
        child = stack.pop()
        if child != but:
            found.append(child)
        stack += children(child)
    return found


# Small tools ----------------------------------------------------------------------------------------------------------


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it lives, as another user
    return True


def _tell(status: socket.socket, words: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the caller has gone: nobody to tell
        status.sendall(json.dumps(words).encode() + b"\n")


def _wake_on(*numbers: signal.Signals) -> socket.socket:
    """A socket that becomes readable when one of the signals comes; its bytes are their numbers."""
    for number in numbers:
        signal.signal(number, lambda *_: None)
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    return reader


def _finally_exit(work: Callable[[], None]) -> NoReturn:
    """Run `work` in a forked child that must never return into its parent's code."""
    try:
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(70)
    finally:
        os._exit(71)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
