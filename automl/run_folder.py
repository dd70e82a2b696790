"""A run's folder: made, emptied of an earlier run, and removed where nothing was tried."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from automl.estimators.errors import ResourceError, UsageError
from automl.search.store import Store, held

LOCK = "run.db.lock"
"""What a folder may hold and still be empty: the store's lock file, which outlives what it locked."""


def refuse_existing(folder: Path, overwrite: bool) -> None:
    """Raises UsageError if the run folder exists, unless it is a run's and `overwrite` says so."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file, and run_dir is a folder: choose another")
    if folder.exists() and any(entry.name != LOCK for entry in folder.iterdir()):
        if not overwrite:
            raise UsageError(
                f"run folder {folder} exists: choose another run_dir, continue it with resume=True, or pass overwrite=True"
            )
        if not (folder / "run.db").exists():
            raise UsageError(f"{folder} holds files and no run.db, so it is no run folder: choose another")


def prepare_folder(folder: Path, overwrite: bool) -> None:
    """Makes the run folder, emptied of an earlier run where `overwrite` says so. Raises UsageError as `refuse_existing`."""
    refuse_existing(folder, overwrite)
    if (folder / "run.db").exists():
        with held(folder / "run.db"):
            clear_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(f"run folder {folder} cannot be made: {error.strerror or error}") from error


def clear_folder(folder: Path) -> None:
    """Removes a run whose lock is held, run.db last: what a kill leaves is still a run's folder, or an empty one."""
    for name in ("models", "data"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("run.db-shm", "run.db-wal", "run.db"):
        (folder / name).unlink(missing_ok=True)


def discard_unless_tried(folder: Path, store: Store) -> None:
    """Closes the store of a new run that failed, and removes the run if it has no trial: it can be called for again."""
    tried = bool(store.trials())
    store.close()
    if not tried:
        with held(folder / "run.db"):
            clear_folder(folder)
            (folder / LOCK).unlink()
        if not any(folder.iterdir()):
            folder.rmdir()


def link(source: str, target: str) -> None:
    """A second name for a file, or a copy where the disk knows no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
