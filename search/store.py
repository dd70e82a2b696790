"""The store of a run: one SQLite file that is the truth of it. Acknowledged means on disk.

Format 2 (`meta.format`). To change the format: raise `FORMAT`, add to `UPGRADES` the statements that turn the former
format into the new one (they run in one transaction when an older file is opened), keep a file of the former format
in `tests/search/` and a test that opens it. A file of a newer format than this code's is refused.

Tables: meta (key, JSON value); trials (number, status, seconds since the epoch, JSON of `Trial.as_dict`); arrays (trial,
name, dtype, shape, bytes), the per-row losses. (A file of this format may hold a table of events, which nothing reads.)
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from automl.estimators.errors import DataError, ResourceError, UsageError

from .trial import Trial

log = logging.getLogger("automl")

FORMAT = 2
UPGRADES: dict[int, tuple[str, ...]] = {1: ()}
"""From each former format, the statements that lead to the next: in format 2 a trial may have a parent, its plan a prefix."""

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE trials (number INTEGER PRIMARY KEY, status TEXT NOT NULL, created REAL NOT NULL, trial TEXT NOT NULL);
CREATE TABLE arrays (trial INTEGER NOT NULL, name TEXT NOT NULL, dtype TEXT NOT NULL, shape TEXT NOT NULL,
  data BLOB NOT NULL, PRIMARY KEY (trial, name));
"""


class Store:
    """One run's trials, arrays and settings: `Store.create(path, meta)` or `Store.open(path)`.

    Threads may share it. One process at a time holds it: a lock file beside it (`run.db.lock`), which the system frees
    when its process ends, however it ends. What `add_trial` and `set_meta` have returned from is on disk;
    `put_array` is kept with the next of them, so that a trial and its arrays are there together or not at all.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: int | None) -> None:
        self.path = path
        self._connection = connection
        self._lock_file = lock
        self._guard = threading.RLock()

    @classmethod
    def create(cls, path: str | Path, meta: dict[str, Any] | None = None) -> Store:
        """A new store at `path`, its folder made. Raises UsageError if there is one, ResourceError if it isn't writable."""
        path = Path(path)
        if path.exists():
            raise UsageError(f"{path} exists: resume that run, or choose another folder")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise ResourceError(f"cannot make the folder {path.parent}: {problem.strerror or problem}") from problem
        lock = _lock(path)
        try:
            store = cls(path, _connect(path), lock)
            with store._writing() as connection:
                for statement in SCHEMA.split(";"):
                    connection.execute(statement)
                store._set("format", FORMAT)
                for key, value in (meta or {}).items():
                    store._set(key, value)
        except BaseException:
            _unlock(lock)
            raise
        return store

    @classmethod
    def open(cls, path: str | Path, *, read_only: bool = False) -> Store:
        """The store at `path`; `read_only` takes no lock and can be had while a run is going on.

        Raises UsageError if there is none, DataError if the file is not a store, is damaged or of a newer format,
        ResourceError if another process holds it.
        """
        path = Path(path)
        if not path.is_file():
            raise UsageError(f"no run at {path.parent}: {path.name} is not there")
        lock = None if read_only else _lock(path)
        try:
            store = cls(path, _connect(path, read_only), lock)
            store._check_format()
        except sqlite3.DatabaseError as problem:
            _unlock(lock)
            raise DataError(
                f"{path} is not a run's store, or is damaged ({problem}): restore it from a copy, or start anew"
            ) from problem
        except BaseException:
            _unlock(lock)
            raise
        return store

    def close(self) -> None:
        """Keeps what is pending, and frees the lock. Closing twice is fine."""
        with self._guard:
            if self._connection is not None and self._lock_file is not None:
                self._connection.commit()
            self._connection.close()
            _unlock(self._lock_file)
            self._lock_file = None

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- trials --------------------------------------------------------------------------------------------------------

    def add_trial(self, trial: Trial) -> None:
        """Keeps a trial; one with the same number is replaced."""
        row = (trial.number, trial.status, time.time(), _text(trial.as_dict()))
        with self._writing() as connection:
            connection.execute("INSERT OR REPLACE INTO trials VALUES (?, ?, ?, ?)", row)

    def trials(self) -> list[Trial]:
        """All trials, by number."""
        return [Trial.from_dict(json.loads(text)) for (text,) in self._read("SELECT trial FROM trials ORDER BY number")]

    # -- arrays --------------------------------------------------------------------------------------------------------

    def put_array(self, trial: int, name: str, array: NDArray[Any]) -> None:
        """Keeps an array of a trial (losses go as float32) with the next `add_trial` or `set_meta`."""
        plain = np.asarray(array)
        if plain.dtype.hasobject:
            raise UsageError(f"array {name!r} of trial {trial} holds objects: only plain numbers are stored")
        row = (trial, name, plain.dtype.str, _text(list(plain.shape)), plain.tobytes())
        with self._writing(commit=False) as connection:
            connection.execute("INSERT OR REPLACE INTO arrays VALUES (?, ?, ?, ?, ?)", row)

    def array(self, trial: int, name: str) -> NDArray[Any] | None:
        """An array of a trial, None if there is none."""
        rows = self._read("SELECT dtype, shape, data FROM arrays WHERE trial = ? AND name = ?", trial, name)
        return _array(*rows[0]) if rows else None

    def arrays(self, name: str) -> dict[int, NDArray[Any]]:
        """All trials' arrays of that name, by trial number."""
        rows = self._read("SELECT trial, dtype, shape, data FROM arrays WHERE name = ? ORDER BY trial", name)
        return {trial: _array(dtype, shape, data) for trial, dtype, shape, data in rows}

    # -- settings ----------------------------------------------------------------------------------------------------

    def set_meta(self, key: str, value: Any) -> None:
        """Keeps a setting, anything that JSON can hold."""
        if key == "format":
            raise UsageError("the format number is the store's own")
        with self._writing():
            self._set(key, value)

    def get_meta(self, key: str, default: Any = None) -> Any:
        """A setting, `default` if there is none."""
        rows = self._read("SELECT value FROM meta WHERE key = ?", key)
        return json.loads(rows[0][0]) if rows else default

    # -- inside --------------------------------------------------------------------------------------------------------

    def _set(self, key: str, value: Any) -> None:
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, _text(value)))

    def _check_format(self) -> None:
        whole = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if whole != ("ok",):
            raise sqlite3.DatabaseError(str(whole[0]))
        rows = self._connection.execute("SELECT value FROM meta WHERE key = 'format'").fetchall()
        found = json.loads(rows[0][0]) if rows else None
        if not isinstance(found, int) or found < 1:
            raise sqlite3.DatabaseError("it has no format number")
        if found > FORMAT:
            raise DataError(f"{self.path} has format {found}, this version reads up to {FORMAT}: use a newer automl")
        steps = range(found, FORMAT)
        if self._lock_file is None and not any(UPGRADES[step] for step in steps):
            return  # opened to be read, and nothing is to be changed first
        for step in steps:
            with self._writing() as connection:
                for statement in UPGRADES[step]:
                    connection.execute(statement)
                self._set("format", step + 1)

    def _read(self, statement: str, *values: Any) -> list[Any]:
        with self._guard, _explained(self.path):
            return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def _writing(self, commit: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it is kept, or, where something is raised, none (the arrays waiting for it
        included).
        """
        with self._guard, _explained(self.path):
            if not self._connection.in_transaction:
                self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                if commit:
                    self._connection.commit()
            except BaseException:
                self._connection.rollback()
                raise


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Holds the lock of the store at `path`, whether or not there is one and whole. Raises ResourceError if it is in use."""
    lock = _lock(path)
    try:
        yield
    finally:
        _unlock(lock)


def _connect(path: Path, read_only: bool = False) -> sqlite3.Connection:
    with _explained(path):
        mode = "ro" if read_only else "rwc"
        closed = not path.with_name(path.name + "-wal").exists()
        if read_only and closed and not os.access(path.parent, os.W_OK):  # a read-only disk has no room for WAL's index
            mode = "ro&immutable=1"
        address = f"{path.absolute().as_uri()}?mode={mode}"
        connection = sqlite3.connect(address, uri=True, timeout=10.0, isolation_level=None, check_same_thread=False)
    if not read_only:
        with _explained(path):
            connection.execute("PRAGMA journal_mode = WAL")
            # a killed process loses nothing; a power cut may lose the last trials, and tears none (sqlite.org/wal.html)
            connection.execute("PRAGMA synchronous = NORMAL")
    return connection


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """A full or unwritable disk is a ResourceError, anything else wrong with the file a DataError."""
    try:
        yield
    except sqlite3.OperationalError as problem:
        raise ResourceError(
            f"cannot use {path}: {problem}; free the disk or check the folder's rights, then resume"
        ) from problem
    except sqlite3.DatabaseError as problem:
        raise DataError(
            f"{path} is not a run's store, or is damaged ({problem}): restore it from a copy, or start anew"
        ) from problem


def _lock(path: Path) -> int:
    """Takes the run's lock: an exclusive flock on `run.db.lock`, which ends with its process. Raises ResourceError if
    held.
    """
    import fcntl

    name = path.with_name(path.name + ".lock")
    try:
        lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as problem:
        raise ResourceError(f"cannot write {name}: {problem.strerror}") from problem
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        owner = os.pread(lock, 32, 0).decode(errors="replace").strip()
        os.close(lock)
        raise ResourceError(
            f"the run in {path.parent} is in use by process {owner or '?'}: wait for it, or stop it"
        ) from problem
    former = os.pread(lock, 32, 0).decode(errors="replace").strip()
    if former:
        log.info(
            "the run in %s was left by process %s without being closed: resuming from what it kept", path.parent, former
        )
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _unlock(lock: int | None) -> None:
    if lock is not None:
        os.ftruncate(lock, 0)
        os.close(lock)


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _array(dtype: str, shape: str, data: bytes) -> NDArray[Any]:
    return np.frombuffer(data, np.dtype(dtype)).reshape(json.loads(shape)).copy()
