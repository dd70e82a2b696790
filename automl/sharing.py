"""How the trials of a run share a machine: how many run at a time, on how many threads each, in how much memory."""

from __future__ import annotations

import logging
import math
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from automl.estimators.errors import UsageError
from automl.estimators.family import Facts
from automl.estimators.hardware import Watch, cpu_count, detect, undisturbed
from automl.search.refits import ONE_THREAD_CELLS
from automl.search.store import Store

if TYPE_CHECKING:
    from .run import Options

log = logging.getLogger("automl")

LEAST_MEMORY = 64_000_000
"""Bytes that a trial needs at the least; under it fewer run at a time."""
CELLS_ONE_AT_A_TIME = 5_000_000
"""From this many training cells on, one trial runs at a time with all threads; below it one trial a core with one thread."""


def share(options: Options, facts: Facts, executor: Executor | None, watch: Watch) -> tuple[int, int]:
    """(trials at a time, threads of each): a trial a core on small tables, all threads to one trial on large ones; there as
    many as others leave cores to it.
    """
    if executor is not None:
        workers = getattr(executor, "_max_workers", options.jobs)
        return max(1, int(workers)), 1
    if options.trials is not None and math.isinf(options.budget_seconds) and not options.parallel_trials:
        # a budget of trials is reproducible: nothing depends on which trial ends first
        small = facts.rows * facts.columns * facts.density < ONE_THREAD_CELLS
        return 1, 1 if small else options.jobs
    if facts.rows * facts.columns * facts.density < CELLS_ONE_AT_A_TIME:
        return options.jobs, options.jobs
    return 1, options.jobs if options.jobs == 1 else undisturbed(options.jobs, watch.free())


def kept_share(store: Store, now: tuple[int, int], options: Options, executor: Executor | None) -> tuple[int, int]:
    """The share that the run began with, as far as there are as many cores now: the space of its trials depends on it."""
    known = store.get_meta("share")
    if known is None:
        store.set_meta("share", now)
        return now
    slots, threads = (min(int(value), options.jobs) for value in known)
    return (now[0] if executor is not None else slots), threads


def share_memory(options: Options, slots: int, executor: Executor | None = None) -> tuple[int, int | None]:
    """(trials at a time, hard cap of each in bytes): together they keep to the user's limit, or 80 % of what is available.

    Fewer run at a time where each would have under 64 MB. Where only trials are counted, a run doesn't depend on the
    moment: it is 80 % of all memory. An executor's workers may be other machines, of whose memory nothing is known: a trial there
    has no cap but the user's, which is each one's.
    """
    if executor is not None:
        return slots, options.memory_bytes
    machine = detect()
    free = machine.memory_bytes if math.isinf(options.budget_seconds) else machine.available_bytes
    whole = options.memory_bytes if options.memory_bytes is not None else int(0.8 * free)
    slots = max(1, min(slots, whole // LEAST_MEMORY))
    return slots, whole // slots


def available_jobs(n_jobs: int | None, *, here: bool = True) -> int:
    """Cores to use: all that affinity and cgroups allow, or what joblib's parallel_config says, or `n_jobs` as joblib reads it; where
    trials run `here` never more than there are: a fit on more threads than cores waits at each barrier.
    """
    from joblib.parallel import get_active_backend

    if n_jobs is None:
        _, configured = get_active_backend()
        n_jobs = configured if configured not in (None, 1) else -1
    cores = cpu_count()
    if n_jobs == 0:
        raise UsageError("n_jobs is 0: give a number of cores, or -1 for all")
    if here and n_jobs > cores:
        log.warning("%d jobs are more than the %d cores that may be used here: it is %d", n_jobs, cores, cores)
    return max(1, cores + 1 + n_jobs) if n_jobs < 0 else min(n_jobs, cores) if here else n_jobs
