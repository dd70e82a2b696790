"""The processes that serve: uvicorn on one listening socket, signals, workers, and the artifact swapped while they run.

SIGTERM and SIGINT stop gracefully: no new connections, requests in flight are answered. SIGHUP looks at the artifact again;
so does a clock, by the stamps of its files, so that replacing it (a rename, a link that is pointed elsewhere) is enough. The
new one is checked, loaded and tried beside the old one, which serves until it is ready, and goes on where it is refused. A
worker that died begins with what lies there now: where that is refused it is tried again, and the others go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import uvicorn

from .app import App, Limits
from .beside import ArtifactError, UsageError, runtime
from .metrics import Metrics
from .model import Served, name_of, refuses
from .wire import Connection

log = logging.getLogger("automl.serving")

WATCH_SECONDS = 1.0
CLIENT_SECONDS = 20.0
"""A client that has begun a request has so long to send it; one that sends nothing, or reads nothing of its answer, is not kept
longer either."""
KEEP_ALIVE_SECONDS = 75
STOP_SECONDS = 30
BACKLOG = 2048
RESTART_SECONDS = 1.0
"""Before a worker that ended is started again; five times as long where it could not begin."""
PASSED = ("SIGTERM", "SIGINT", "SIGHUP")
"""The signals that the parent passes on to its workers."""


@dataclass(frozen=True)
class Setting:
    """What is served, and how. `open` allows another host than this one without a token."""

    path: Path
    name: str = ""
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    threads: int = 1
    token: str | None = None
    open: bool = False
    limits: Limits = field(default_factory=Limits)
    access_log: bool = False

    def __post_init__(self) -> None:
        if self.token is None and not self.open and not is_loopback(self.host):
            raise UsageError(
                f"host {self.host} can be reached by others: set a token (AUTOML_TOKEN or --token-file), "
                "or say --no-token where something else guards it"
            )
        if self.token is not None and (not self.token or not self.token.isascii() or self.token.strip() != self.token):
            raise UsageError("the token is empty, has blanks around it or is not plain ASCII: choose another")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server on that host."""
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(setting: Setting, ready: Callable[[str, Served], None] | None = None) -> int:
    """Serves until it is told to stop; returns the exit code, 0 after a graceful stop.

    `ready` is called once with the address when the first worker answers. Raises UsageError (no such artifact, the address is
    in use) and ArtifactError.
    """
    first = runtime.check(setting.path)
    listening = listen(setting.host, setting.port)
    host, port = listening.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    metrics = Metrics(setting.workers)

    def tell(served: Served) -> None:
        if ready is not None:
            ready(address, served)

    if setting.workers == 1:
        _Worker(setting, listening, metrics, tell, first).run()
        return 0
    return _Parent(setting, listening, metrics, tell, first).run()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises UsageError where the address cannot be had."""
    listening = None
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
        return listening
    except (OSError, OverflowError) as error:
        if listening is not None:
            listening.close()
        raise UsageError(f"cannot listen on {host}, port {port}: {error}; give another --port or --host") from None


class _Server(uvicorn.Server):
    """uvicorn's server, whose signals are ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


class _Worker:
    """One process's event loop. `first` is the manifest with which the server began, and which all that it serves must suit."""

    def __init__(
        self,
        setting: Setting,
        listening: socket.socket,
        metrics: Metrics,
        tell: Callable[[Served], None],
        first: Mapping[str, Any],
    ) -> None:
        self.setting, self.listening, self.tell, self.first = setting, listening, tell, first
        self.name = setting.name or name_of(setting.path)
        self.stamp = stamp_of(setting.path)
        self.app = App(
            self._load(),
            token=setting.token,
            limits=setting.limits,
            counters=metrics,
            threads=setting.threads,
        )
        config = uvicorn.Config(
            self.app,
            http=Connection,
            loop="uvloop" if sys.platform != "win32" else "asyncio",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=setting.access_log,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        self.server = _Server(config)
        self.look = asyncio.Event()

    def _load(self) -> Served:
        """What lies at the path now. Raises ArtifactError where it is corrupt or cannot take the first one's place."""
        served = Served(self.setting.path, self.name)
        reason = refuses(self.first, served)
        if reason:
            raise ArtifactError(f"{self.setting.path} is refused: {reason}")
        return served

    def run(self) -> None:
        asyncio_run = asyncio.Runner(loop_factory=self.server.config.get_loop_factory())
        with asyncio_run as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        if hasattr(signal, "SIGHUP"):
            loop.add_signal_handler(signal.SIGHUP, self.look.set)
        gc.collect()
        gc.freeze()  # what is loaded by now is never looked at again: no pause of milliseconds in a full collection
        tasks = [asyncio.ensure_future(task) for task in (self._watch(), self._sweep(), self._announce())]
        try:
            await self.server.serve([self.listening])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _stop(self) -> None:
        if self.server.should_exit:  # asked twice
            self.server.force_exit = True
        self.app.stopping = self.server.should_exit = True

    async def _announce(self) -> None:
        while not self.server.started:
            await asyncio.sleep(0.005)
        self.tell(self.app.served)

    async def _watch(self) -> None:
        """Looks at the artifact's files once a second, and at once on SIGHUP."""
        while True:
            asked = True
            try:
                await asyncio.wait_for(self.look.wait(), WATCH_SECONDS)
            except TimeoutError:
                asked = False
            self.look.clear()
            stamp = stamp_of(self.setting.path)
            if asked or (stamp is not None and stamp != self.stamp):
                await self._swap(stamp)

    async def _swap(self, stamp: Any) -> None:
        self.stamp = stamp
        try:
            served = await asyncio.to_thread(self._load)
        except Exception as error:
            reason = str(error) if isinstance(error, ValueError) else repr(error)
            self.app.metrics.swapped(False)
            log.error(
                "%s is not swapped in, version %s goes on: %s", self.setting.path, self.app.served.version, reason
            )
            return
        before, self.app.served = self.app.served, served
        self.app.metrics.swapped(True)
        log.warning("version %s took over from %s", served.version, before.version)

    async def _sweep(self) -> None:
        """Closes connections whose clients take too long to send a request or to read an answer (uvicorn has no limits)."""
        began: dict[Any, tuple[int, float]] = {}
        while True:
            await asyncio.sleep(CLIENT_SECONDS / 4)
            now, connections = time.monotonic(), self.server.server_state.connections
            began = {connection: since for connection, since in began.items() if connection in connections}
            for connection in cast(list[Connection], list(connections)):
                if connection.stuck(now, CLIENT_SECONDS):
                    connection.transport.abort()  # `close` would wait until all is sent
                elif connection.overdue(now, KEEP_ALIVE_SECONDS, began, CLIENT_SECONDS):
                    connection.transport.close()


def stamp_of(path: Path) -> Any:
    """What changes when the artifact is replaced; None while it is not whole."""
    try:
        files = [path / runtime.MANIFEST, path / runtime.GRAPH] if path.is_dir() else [path]
        return [(s.st_dev, s.st_ino, s.st_mtime_ns, s.st_size) for s in map(os.stat, files)]
    except OSError:
        return None


class _Parent:
    """Forks the workers, passes signals on, and replaces one that died; where one cannot begin at the first time, all end."""

    def __init__(
        self,
        setting: Setting,
        listening: socket.socket,
        metrics: Metrics,
        tell: Callable[[Served], None],
        first: Mapping[str, Any],
    ) -> None:
        self.setting, self.listening, self.metrics, self.tell, self.first = setting, listening, metrics, tell, first
        self.workers: dict[int, tuple[int, bool]] = {}
        """By process: which one it is, and whether it was started again."""
        self.stopping = False

    def run(self) -> int:
        for number in range(self.setting.workers):
            self._fork(number)
        for name in PASSED:
            signal.signal(getattr(signal, name), self._pass_on)
        failed = 0
        while self.workers:
            pid, status = os.waitpid(-1, 0)
            number, again = self.workers.pop(pid, (-1, False))
            if number < 0 or self.stopping:
                continue
            code = os.waitstatus_to_exitcode(status)
            cannot_begin = code > 1  # and has said why
            if cannot_begin and not again:
                failed = code
                self._pass_on(signal.SIGTERM, None)
                continue
            log.error("worker %d ended (%d): it is started again", number, code)
            self._pause(RESTART_SECONDS * (5 if cannot_begin else 1))
            self._fork(number, again=True)
        return failed

    def _pause(self, seconds: float) -> None:
        """Waits, but not where the server is to stop."""
        end = time.monotonic() + seconds
        while not self.stopping and time.monotonic() < end:
            time.sleep(0.05)

    def _pass_on(self, number: int, frame: Any) -> None:
        self.stopping = self.stopping or number != getattr(signal, "SIGHUP", None)
        for pid in list(self.workers):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM if number == signal.SIGINT else number)

    def _fork(self, number: int, again: bool = False) -> None:
        """Starts a worker, unless the server is to stop by now."""
        sys.stdout.flush()
        sys.stderr.flush()
        passed = {getattr(signal, name) for name in PASSED}
        signal.pthread_sigmask(signal.SIG_BLOCK, passed)  # one that comes meanwhile reaches the new worker as well
        if self.stopping:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, passed)
            return
        pid = os.fork()
        if pid:
            self.workers[pid] = (number, again)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, passed)
            return
        code = 1
        try:
            for each in passed:
                signal.signal(each, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, passed)
            _die_with_parent()
            self.metrics.become(number)
            tell = self.tell if number == 0 and not again else lambda served: None
            try:
                worker = _Worker(self.setting, self.listening, self.metrics, tell, self.first)
            except ValueError as error:  # the project's own errors
                print(f"error: {error}", file=sys.stderr, flush=True)
                code = getattr(error, "exit_code", 6 if isinstance(error, ArtifactError) else 2)
            else:
                worker.run()
                code = 0
        except BaseException:
            log.exception("a worker ended")
        finally:
            sys.stdout.flush()
            os._exit(code)


def _die_with_parent() -> None:
    """On Linux a worker is told to stop when its parent is gone, however that ended (PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
