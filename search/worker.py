"""Runs one function in a process of its own, so that nothing it does can hurt the caller: an endless loop in C, allocation
without end, a segmentation fault or forked children become an `Outcome`.

The processes come from `forkserver`. Each process that calls (a dask worker, a joblib worker, a forked child) starts its
own server lazily; closing happens at exit, by `close_servers`, or by itself when the caller dies.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import logging
import os
import pickle
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from automl.estimators.errors import ResourceError, UsageError

from .forkserver import GREETING, LIMITS, MAX_ANSWER, MEMORY_WORDS, READY, SERVERS, SIZE
from .interrupt import Cancel

LOG_BYTES = 16 * 1024  # of a trial's output, the last ones
START_SECONDS = 120.0  # a server that has not imported its modules by then is given up
GRACE_SECONDS = 0.8  # after its deadline a trial that the kernel can't end is abandoned
NEAR_CAP = 0.85  # a signal above this share of the memory cap is put down to the cap
PROMPT_SECONDS = 0.02  # between two looks at a cancel event

logger = logging.getLogger("automl")


@dataclass(frozen=True)
class Outcome:
    """How one isolated call ended.

    status: "completed", "timeout", "out_of_memory", "crashed" (a signal, an exit), "failed" (it raised, or its arguments
    or result cannot be pickled) or "skipped" (cancelled). reason: one line, empty when completed. value: what it
    returned. wall_seconds from its fork to its end; cpu_seconds with all its processes; peak_bytes: the most private
    memory seen above what it started with (samples every 20 ms: `measure.MemoryPeak` is exact). log: the end of what it
    printed, with the traceback.
    """

    status: str
    reason: str = ""
    value: Any = None
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    log: str = ""


def run_isolated(
    function: Callable[..., Any],
    *args: Any,
    wall_seconds: float,
    memory_bytes: int | None = None,
    server: str = "core",
    cleanup: Sequence[Path] = (),
    cancel: Cancel | None = None,
) -> Outcome:
    """Call ``function(*args)`` in a fresh process and wait for its end, at most `wall_seconds` from its start.

    Safe in many threads at once. Paths in `cleanup` are removed unless the call completed. Setting `cancel` ends it at
    once. Raises ResourceError only where no process can be started here; all that the function does is in the Outcome.
    """
    outcome = None
    try:
        outcome = _run(function, args, wall_seconds, memory_bytes, server, cancel)
        return outcome
    finally:
        if outcome is None or outcome.status != "completed":
            _remove(cleanup)


def _run(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    wall_seconds: float,
    memory_bytes: int | None,
    server: str,
    cancel: Cancel | None,
) -> Outcome:
    try:
        request = pack(function, args)
    except Exception as error:
        return Outcome("failed", f"it cannot be sent to its process: {type(error).__name__}: {error}")
    with Isolated(request, wall_seconds, memory_bytes, server, cancel=cancel) as trial:
        while not trial.poll(PROMPT_SECONDS if cancel is not None else 1.0):
            if cancel is not None and cancel.is_set():
                trial.kill()
        return trial.outcome()


def pack(function: Callable[..., Any], args: tuple[Any, ...]) -> bytes:
    """The request as bytes: where we are (sys.path, folder), then the call, by cloudpickle."""
    place = json.dumps({"path": search_path(), "cwd": _folder()}).encode() + b"\n"
    buffer = io.BytesIO()
    buffer.write(place)
    _cloudpickle().dump((function, args), buffer)
    return buffer.getvalue()


class Isolated:
    """One running isolated call: `poll` until it is True, then `outcome`. A `with` block ends it whatever happens.

    With dialogue=True the function gets a connected socket as its first argument and `channel` is our end.
    """

    def __init__(
        self,
        request: bytes,
        wall_seconds: float,
        memory_bytes: int | None = None,
        server: str = "core",
        *,
        dialogue: bool = False,
        cancel: Cancel | None = None,
    ) -> None:
        self.wall_seconds, self.memory_bytes = wall_seconds, memory_bytes
        self.channel: socket.socket | None = None
        self._open: list[Any] = []  # what close() closes
        self._log, self._words, self._ended = bytearray(), bytearray(), False
        self._end: dict[str, Any] = {}
        self._started: float | None = None
        self._asked = time.monotonic()
        self._killed = False
        try:
            self._start(request, server, dialogue, cancel)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise ResourceError(f"a trial's process cannot be started: {error}. {_advice(error)}") from error
            raise

    def _start(self, request: bytes, server: str, dialogue: bool, cancel: Cancel | None) -> None:
        with contextlib.ExitStack() as given:  # the ends that are the trial's: closed here once they are handed over
            asked = given.enter_context(_scratch_file())
            asked.write(request)
            asked.seek(0)
            self._answer = self._keep(_scratch_file())
            reader, writer = os.pipe()
            self._log_reader = self._keep(open(reader, "rb", 0))  # noqa: SIM115 - closed by close()
            log = given.enter_context(open(writer, "wb", 0))
            os.set_blocking(reader, False)
            status, theirs = socket.socketpair()
            self._status = self._keep(status)
            ends = [given.enter_context(theirs), asked, self._answer, log]
            if dialogue:
                near, far = socket.socketpair()
                self.channel = self._keep(near)
                ends.append(given.enter_context(far))
            limits = LIMITS.pack(max(0.0, self.wall_seconds), self.memory_bytes or 0)
            if not _submit(server, limits, [end.fileno() for end in ends], cancel):
                self._killed = self._ended = True
        status.setblocking(False)

    def _keep(self, end: Any) -> Any:
        self._open.append(end)
        return end

    def poll(self, seconds: float) -> bool:
        """Take in output and news for at most `seconds`; True when it has ended."""
        if self._ended:
            return True
        watched = select.poll()
        watched.register(self._status, select.POLLIN)
        if not self._log_reader.closed:
            watched.register(self._log_reader, select.POLLIN)
        for descriptor, _ in watched.poll(1000 * min(seconds, max(0.0, self._abandon_at() - time.monotonic()) + 0.001)):
            if descriptor == self._status.fileno():
                self._hear()
            else:
                self._drain(1)
        if not self._ended and time.monotonic() > self._abandon_at():
            self._end, self._ended = {"verdict": "timeout" if self._started else "lost"}, True
        if self._ended:
            self._drain(64)
        return self._ended

    def _abandon_at(self) -> float:
        return (
            self._asked + START_SECONDS if self._started is None else self._started + self.wall_seconds + GRACE_SECONDS
        )

    def _hear(self) -> None:
        """News from the supervisor: one JSON object a line; its silence is its death."""
        try:
            received = self._status.recv(4096)
        except BlockingIOError:
            return
        except ConnectionError:
            received = b""
        self._words += received
        *lines, rest = self._words.split(b"\n")
        self._words = bytearray(rest)
        for line in lines:
            news = json.loads(line)
            if "pid" in news:
                self._started = time.monotonic()
            else:
                self._end, self._ended = news, True
        if not received and not self._ended:
            self._end, self._ended = {"verdict": "lost"}, True

    def _drain(self, times: int) -> None:
        for _ in range(times):
            if self._log_reader.closed:
                return
            chunk = self._log_reader.read(1 << 16)
            if chunk is None:
                return
            if not chunk:
                self._log_reader.close()
                return
            self._log = (self._log + chunk)[-LOG_BYTES:]

    def kill(self) -> None:
        """Have it killed with all that it forked; poll until it is so."""
        if not self._killed:
            self._killed = True
            with contextlib.suppress(OSError):  # it has ended already
                self._status.sendall(b"k")

    def outcome(self) -> Outcome:
        """How it ended; call it when `poll` has said True."""
        if "refused" in self._end:
            raise ResourceError(
                f"no process could be forked for a trial: {self._end['refused']}. Free some memory or processes."
            )
        reply = None if self._end.get("verdict") else self._read_answer()
        log = self._log.decode("utf-8", "replace")
        found = classify(self._end, reply, log, self.wall_seconds, self.memory_bytes, self._killed)
        if self._end.get("verdict") == "timeout" and "wall" not in self._end:
            self._end["wall"] = time.monotonic() - (self._started or self._asked)
        return replace(
            found,
            log=log,
            wall_seconds=float(self._end.get("wall", 0.0)),
            cpu_seconds=float(self._end.get("cpu", 0.0)),
            peak_bytes=int(self._end.get("peak", 0)),
        )

    def _read_answer(self) -> tuple[str, str, Any] | None:
        """(kind, reason, value) as the trial wrote it; None if it didn't come to that."""
        import mmap

        total = os.fstat(self._answer.fileno()).st_size
        if total < SIZE.size:
            return None
        with mmap.mmap(self._answer.fileno(), total, access=mmap.ACCESS_READ) as mapped:
            (size,) = SIZE.unpack(mapped[: SIZE.size])
            if not 0 < size <= min(MAX_ANSWER, total - SIZE.size):
                return None
            with memoryview(mapped) as view, view[SIZE.size : SIZE.size + size] as body:
                try:
                    kind, reason, value = pickle.loads(body)
                except Exception as error:
                    return "failed", f"its result cannot be read: {type(error).__name__}: {error}", None
        return kind, reason, value

    def close(self) -> None:
        """Let go of it: a call that still runs is killed by its supervisor, which sees the socket close."""
        for end in self._open:
            end.close()
        self._open.clear()

    def __enter__(self) -> Isolated:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def classify(
    end: dict[str, Any], reply: tuple[str, str, Any] | None, log: str, wall: float, memory: int | None, killed: bool
) -> Outcome:
    """Status and reason from what the supervisor saw (`end`), the trial answered (`reply`) and printed."""
    verdict, code = end.get("verdict"), end.get("exit")
    megabytes = (memory or 0) / 1e6
    if verdict == "timeout":
        return Outcome("timeout", f"it ran longer than its {wall:.3g} s")
    if verdict == "out_of_memory":
        return Outcome("out_of_memory", f"it passed its memory cap of {megabytes:.0f} MB")
    if verdict == "cancelled" or (killed and reply is None):
        return Outcome("skipped", "it was cancelled")
    if verdict == "lost":
        return Outcome("crashed", "its supervisor was killed, and it with it")
    if code == 0 and reply is not None:
        return Outcome(*reply)
    if code is not None and code < 0:
        how = f"it was ended by {signal.Signals(-code).name}"
        if (
            -code in (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS)
            and memory
            and _starved(end, log, memory)
        ):
            return Outcome("out_of_memory", f"{how} near its memory cap of {megabytes:.0f} MB")
        return Outcome("crashed", how)
    return Outcome("crashed", f"it exited with code {code} and no result")


def _starved(end: dict[str, Any], log: str, memory: int) -> bool:
    """LightGBM, for one, dies of SIGSEGV where memory is refused: was the trial near its cap, or did it say so?"""
    if max(end.get("peak", 0), end.get("data", 0)) >= NEAR_CAP * memory:
        return True
    low = log.lower()
    return any(word in low for word in MEMORY_WORDS)


# The servers of this process ------------------------------------------------------------------------------------------


class _Server:
    """One server process and our end of its socket. `lock` guards the socket."""

    def __init__(self, name: str) -> None:
        self.name, self.ready, self.lock = name, False, threading.Lock()
        self.began = time.monotonic()
        command = [sys.executable, "-P", "-W", "ignore", "-m", f"{__package__}.forkserver", name]
        with contextlib.ExitStack() as ours:
            self.errors = ours.enter_context(_scratch_file())
            self.control, theirs = socket.socketpair()
            ours.enter_context(self.control)
            with theirs:
                self.process = subprocess.Popen(
                    [*command, str(theirs.fileno()), str(os.getpid())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self.errors,
                    start_new_session=True,
                    env=environment(),
                )
            ours.pop_all()  # it runs: close() closes them
        path = json.dumps(search_path()).encode()
        with contextlib.suppress(ConnectionError):  # it died at once: whoever waits for it is told
            self.control.sendall(GREETING.pack(len(path)) + path)

    def wait(self, cancel: Cancel | None) -> bool:
        """Wait until it has imported; False when cancelled. ResourceError when it died or takes too long. Holds `lock`."""
        while not self.ready:
            if cancel is not None and cancel.is_set():
                return False
            watched = select.poll()
            watched.register(self.control, select.POLLIN)
            if watched.poll(1000 * PROMPT_SECONDS):
                try:
                    self.ready = self.control.recv(1) == READY
                except ConnectionError:
                    self.ready = False
                if not self.ready:
                    raise ResourceError(f"the trial server '{self.name}' died while it started: {self.last_words()}")
            elif time.monotonic() > self.began + START_SECONDS:
                raise ResourceError(
                    f"the trial server '{self.name}' did not start in {START_SECONDS:.0f} s: is the machine overloaded?"
                )
        return True

    def last_words(self) -> str:
        """The end of what it wrote to stderr, and how it ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1.0)
        size = os.fstat(self.errors.fileno()).st_size
        lines = (
            os.pread(self.errors.fileno(), 4096, max(0, size - 4096)).decode("utf-8", "replace").strip().splitlines()
        )
        return f"exit code {self.process.returncode}" + (f", {lines[-1][:300]}" if lines else "")

    def close(self) -> None:
        """Have it end all its trials and itself; it is killed if that takes over 3 s, or if no call ever waited for it."""
        self.control.close()
        if not self.ready:
            self.process.kill()
        try:
            self.process.wait(3.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.errors.close()


_lock = threading.Lock()
_servers: dict[str, _Server] = {}
_inherited: list[_Server] = []


def start_server(name: str) -> None:
    """Start a server ("core", "torch", "serve") in the background and return at once; the first call waits for it."""
    _server(name)


def close_servers() -> None:
    """End the servers of this process, and with them all running calls."""
    with _lock:
        closing = list(_servers.values())
        _servers.clear()
    for server in closing:
        server.close()


def _server(name: str) -> _Server:
    if name not in SERVERS:
        raise UsageError(f"unknown trial server {name!r}; there are {', '.join(SERVERS)}")
    if os.name == "nt":
        raise ResourceError("training needs Linux or macOS; on Windows only automl.runtime (prediction) works")
    if getattr(sys, "frozen", False) or not sys.executable:
        raise ResourceError("trials need a Python interpreter to run in, and sys.executable names none")
    with _lock:
        server = _servers.get(name)
        if server is not None and server.process.poll() is not None and server.ready:
            logger.info("the trial server '%s' has died (%s): starting it again", name, server.last_words())
            server.close()
            server = None
        if server is None:
            try:
                server = _Server(name)
            except OSError as error:
                raise ResourceError(
                    f"the trial server '{name}' cannot be started: {error}. {_advice(error)}"
                ) from error
            if not _servers and not _registered:
                atexit.register(close_servers)
                _registered.append(True)
            _servers[name] = server
        return server


_registered: list[bool] = []


def _submit(name: str, limits: bytes, descriptors: list[int], cancel: Cancel | None) -> bool:
    """Hand a trial to the server, started once more if it has died; False when cancelled before that."""
    for attempt in (1, 2):
        server = _server(name)
        while not server.lock.acquire(timeout=PROMPT_SECONDS):
            if cancel is not None and cancel.is_set():
                return False
        try:
            if not server.wait(cancel):
                return False
            socket.send_fds(server.control, [limits], descriptors)
            return True
        except ResourceError:
            _forget(server)
            if attempt == 2:
                raise
        except (BrokenPipeError, ConnectionError):
            words = server.last_words()
            _forget(server)
            if attempt == 2:
                raise ResourceError(f"the trial server '{name}' died twice: {words}") from None
        finally:
            server.lock.release()
    raise AssertionError("unreachable: the second attempt returns or raises")


def _forget(server: _Server) -> None:
    with _lock:
        if _servers.get(server.name) is server:
            del _servers[server.name]
    server.close()


def _after_fork() -> None:
    """A forked child has its parent's sockets and locks, but not its servers: forget them, start anew when asked."""
    global _lock
    _lock = threading.Lock()
    for server in _servers.values():
        server.control.close()
        server.process.returncode = 0  # it is not our child: nothing to wait for, nothing to warn about
        _inherited.append(server)
    _servers.clear()
    _registered.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# Small tools ----------------------------------------------------------------------------------------------------------


def _cloudpickle() -> Any:
    import cloudpickle

    return cloudpickle


def search_path() -> list[str]:
    """sys.path as another process with another folder must see it."""
    return [os.path.abspath(entry) for entry in sys.path]


def _folder() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:  # removed under our feet
        return None


def package_root() -> str:
    """The folder in which the package stands, for a new interpreter's PYTHONPATH."""
    package = sys.modules[(__package__ or "automl").partition(".")[0]]
    return str(Path(os.path.abspath(next(iter(package.__path__)))).parent)


def environment() -> dict[str, str]:
    """Our environment variables, with threads that wait only briefly awake; BLAS starts with one thread, so that the server forks with none (trials set theirs)."""
    inherited = os.environ.get("PYTHONPATH")
    # GNU OpenMP's threads spin for some microseconds before they sleep: its default (much longer) burns a busy machine's
    # cores, and not at all (OMP_WAIT_POLICY=PASSIVE) makes a 2-thread LightGBM fit 3.5 times slower than one thread.
    passive = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "0", "OPENBLAS_NUM_THREADS": "1"}
    own = {"PYTHONPATH": os.pathsep.join([package_root(), *([inherited] if inherited else [])])}
    if sys.platform == "darwin":
        own["OBJC_DISABLE_INITIALIZE_FORK_SAFETY"] = "YES"
    return passive | dict(os.environ) | own


def _scratch_file() -> Any:
    """A nameless file: in memory on Linux, else in the temporary folder; never left behind."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("automl"), "w+b", 0)
    return tempfile.TemporaryFile(buffering=0)


def _advice(error: OSError) -> str:
    import errno

    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "Raise the limit of open files (ulimit -n)."
    if error.errno in (errno.ENOMEM, errno.EAGAIN):
        return "Free some memory or processes (ulimit -u, ulimit -v)."
    return "Check that the system lets this process start others."


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("%s could not be removed: %s", path, error)
