"""One run from a table to a front: the run folder, the split, the study, the finish, and what is stored of it."""

from __future__ import annotations

import logging
import math
import os
import pickle
import shutil
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
from numpy.typing import NDArray

from automl.estimators import native
from automl.estimators.errors import DataError, InfeasibleError, ResourceError, UsageError
from automl.estimators.family import Facts, Family
from automl.estimators.hardware import DEVICES, Watch, cpu_count, detect, devices, undisturbed
from automl.search.agenda import first_plans
from automl.search.cost import CostModel, devices_of
from automl.search.estimate import exchangeable
from automl.search.finish import Finish
from automl.search.fitting import fits_here
from automl.search.front import check
from automl.search.interrupt import noted
from automl.search.metric import Metric
from automl.search.objective import Objective
from automl.search.plan import Plan, branches, single_of
from automl.search.record import Losses, failures
from automl.search.refits import ONE_THREAD_CELLS, Finalist
from automl.search.setting import Limits, Progress, Setting
from automl.search.space import complete
from automl.search.split import FEWEST, Split, make_split
from automl.search.store import Store, held
from automl.search.strategies import by_name
from automl.search.study import Study
from automl.search.trial import Measurement
from automl.search.worker import start_server

if TYPE_CHECKING:
    from automl.estimators.table import Table

log = logging.getLogger("automl")

FORMAT = 1
IN_PROCESS_BELOW = 5.0
"""Under this wall budget no server would be up in time: the first two families are fitted in the caller's process."""
COMPILED_FROM = 10.0
"""From this wall budget on models are offered on the compiled engine as well: measuring both takes time."""
NETWORK_FROM = 30.0
"""From this wall budget on a family that needs torch is searched: importing torch takes seconds."""
LOCK = "run.db.lock"
"""What a folder may hold and still be empty: the store's lock file, which outlives what it locked."""
FALLEN = 0.01
"""A resumed run keeps the front that it had where the new one's most accurate model has an error larger by more than this share."""
LEAST_MEMORY = 64_000_000
"""Bytes that a trial needs at the least; under it fewer run at a time."""
RECORD_CELLS = 400_000
"""Cells of the raw rows that latency is measured on, at the most: every trial reads them."""
CELLS_ONE_AT_A_TIME = 5_000_000
"""From this many training cells on, one trial runs at a time with all threads; below it one trial a core with one thread."""


@dataclass(frozen=True)
class Options:
    """What a run is asked to do. `budget_seconds` is inf when only `trials` bounds it; `start` is the monotonic start.

    `elsewhere`: an executor runs the trials, on machines of which nothing is known. `extra` is what comes after the run and within
    its budget: (seconds to keep back, rows to score all models on). `bounds` are the limits on models, by name: plans that are
    likely to break one are not promoted first.
    """

    metric: Metric
    objectives: tuple[Objective, ...]
    families: tuple[Family, ...]
    strategy: str
    budget_seconds: float
    trials: int | None
    memory_bytes: int | None
    jobs: int
    parallel_trials: bool
    seed: int
    start: float
    device: str = "auto"
    elsewhere: bool = False
    extra: tuple[float, float] = (0.0, 0.0)
    target_rows: int | None = None
    ensembles: bool = False
    bounds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Rows:
    """How rows are held apart: groups, a time order, the user's validation rows, or any scikit-learn splitter."""

    groups: NDArray[Any] | None = None
    time: NDArray[Any] | None = None
    validation: NDArray[np.int64] | None = None
    splitter: Any = None

    @property
    def given(self) -> bool:
        return self.groups is not None or self.time is not None or self.splitter is not None


def warm_up(budget_seconds: float, families: Sequence[Family]) -> None:
    """Starts the processes that trials are forked from, before the data is read. Returns at once."""
    if sys.platform == "win32":
        raise ResourceError(
            "automl.fit needs Linux or macOS: on Windows only automl.runtime (loading and predicting) works"
        )
    if budget_seconds >= IN_PROCESS_BELOW or not all(fits_here(f) for f in sorted(families, key=lambda f: f.order)[:2]):
        start_server("core")
    start_server("serve")
    if COMPILED_FROM <= budget_seconds < math.inf and native.missing() is None:
        start_server("lean")
        threading.Thread(target=_make_library, daemon=True).start()


def _make_library() -> None:
    """The compiled engine's library, which takes the C compiler some seconds once a machine."""
    with suppress(native.NoLibraryError):  # then no model is offered on that engine, which the end of the run says
        native.library()


def refuse_existing(folder: Path, overwrite: bool) -> None:
    """Raises UsageError if the run folder exists, unless it is a run's and `overwrite` says so."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file, and a run folder is wanted: choose another --out")
    if folder.exists() and any(entry.name != LOCK for entry in folder.iterdir()):
        if not overwrite:
            raise UsageError(
                f"run folder {folder} exists: choose another --out, continue it with `automl resume {folder}`, or pass --overwrite"
            )
        if not (folder / "run.db").exists():
            raise UsageError(f"{folder} holds files and no run.db, so it is no run folder: choose another --out")


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


def usable(families: Sequence[Family], task: str, budget_seconds: float) -> tuple[Family, ...]:
    """The families that can be searched here; each one left out is said in one line. Raises UsageError if none is left."""
    kept = []
    for family in sorted(families, key=lambda f: f.order):
        if task not in family.tasks:
            log.info("family %s is left out: it does not do %s", family.name, task)
        elif not family.available():
            log.log(
                logging.DEBUG if family.optional else logging.WARNING,
                'family %s is left out: install it with pip install "automl-frontier[%s]"',
                family.name,
                family.needs,
            )
        elif family.needs == "torch" and budget_seconds < NETWORK_FROM:
            log.info(
                "family %s is left out: a budget under %.0f s is spent better on the others", family.name, NETWORK_FROM
            )
        else:
            kept.append(family)
    if not kept and budget_seconds < NETWORK_FROM and any(f.needs == "torch" and f.available() for f in families):
        raise UsageError(
            f"the families {', '.join(f.name for f in families)} need a budget of {NETWORK_FROM:.0f} s at least: give more, or other families"
        )
    if not kept:
        raise UsageError(
            f"none of the families {', '.join(f.name for f in families)} can be used for {task} here: see `automl families`"
        )
    return tuple(kept)


class Run:
    """A run in its folder. `search` runs it to its end.

    Making one touches no disk, and raises UsageError or DataError for what no run can be made of.
    """

    def __init__(self, folder: Path, table: Table, options: Options, rows: Rows | None = None) -> None:
        self.watch = Watch()
        self.folder = folder
        self.options = options
        if options.device not in DEVICES:
            raise UsageError(f"device is {options.device!r}: it is one of {', '.join(DEVICES)}")
        if options.device == "cuda" and not options.elsewhere:
            devices("cuda")  # refused at once where it cannot be had
        self.searched = usable(options.families, table.task.kind, options.budget_seconds)
        self.strategy = by_name(options.strategy)
        self.table = table
        self.rows = rows or Rows()
        self.task = table.task
        self.split = make_split(
            np.asarray(table.y),
            table.task.kind,
            options.seed,
            groups=self.rows.groups,
            time=self.rows.time,
            validation=self.rows.validation,
            splitter=self.rows.splitter,
            classes=table.task.classes,
        )
        self.notes = (*table.notes, *self.split.notes)

    def identity(self) -> dict[str, Any]:
        """What makes trials of one run comparable, as plain data: a resumed run must have the same."""
        metric, split = self.options.metric, self.split
        return {
            "metric": metric.name,
            "greater_is_better": metric.greater_is_better,
            "best": metric.best,
            "objectives": [objective.name for objective in self.options.objectives],
            "strategy": self.strategy.name,
            "seed": self.options.seed,
            "target_rows": self.options.target_rows,
            "split": joblib.hash([split.train, split.validation, split.holdout, split.folds]),
        }

    def search(
        self,
        store: Store,
        *,
        executor: Executor | None = None,
        listener: Callable[[Progress], None] | None = None,
    ) -> dict[str, Any]:
        """Searches, finishes and stores. Returns the object of `automl front --json`.

        Raises InfeasibleError if no trial completed, with the causes grouped.
        """
        data = self.folder / "data"
        study = self._study(store, data, executor, listener)
        seconds, scored = self.options.extra
        finish = Finish(study, extra_seconds=seconds, extra_rows=scored)
        before = store.trials()
        if before:
            study.restore(before, stored_losses(store, [t.number for t in before if t.status == "completed"]))
        with noted(study.interrupt):
            study.run(finish.reserve, finish.reckon)
            finalists = finish.run()
            former: dict[str, Any] | None = store.get_meta("front")
            if not finalists and former is None:
                raise InfeasibleError(no_model(study))
            if finalists and former is not None and fell_behind(finalists, self._wanted(former)):
                log.warning(
                    "the run keeps the front that it had: no model that could be finished now is as accurate as its most accurate"
                    " one (an ensemble is made anew of new trials alone, and a dear model may need more time); resume with a longer"
                    " budget"
                )
                found = former
            elif finalists:
                found = self._object(study, self._keep(study, finalists, former))
                store.set_meta("front", found)  # from here on the new front is the run's; before, the former one was
            else:
                found = former or {}
                log.warning("no model could be finished in the time: the run keeps the front that it had")
            store.set_meta("interrupted", study.interrupted)
            self._discard_models(found)
            shutil.rmtree(data, ignore_errors=True)
        return found

    def _wanted(self, former: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The models of the `former` front that might be on one now: within the limits, of families that are searched."""
        families, greater = {f.name for f in self.options.families}, self.options.metric.greater_is_better

        def wanted(entry: dict[str, Any]) -> bool:
            members = {single_of(plan).family for plan, _ in Plan.from_dict(entry["plan"]).members}
            known = (members or {entry["family"]}) <= families and (not members or self.options.ensembles)
            return known and not check(Measurement.from_dict(entry), self.options.bounds, greater)

        return [entry for entry in former["models"] if wanted(entry)]

    def _study(
        self, store: Store, data: Path, executor: Executor | None, listener: Callable[[Progress], None] | None
    ) -> Study:
        options, table = self.options, self.table
        assert table is not None, "a run is searched once"
        facts = table.facts(budget=options.budget_seconds, later=self.rows.time is not None)
        records = write_data(data, table, self.split)
        slots, alone = kept_share(store, share(options, facts, executor, self.watch), options, executor)
        slots, memory = share_memory(options, slots, executor)
        in_process = options.budget_seconds < IN_PROCESS_BELOW
        families = list(self.searched[:2] if in_process else self.searched)
        if table.rows < FEWEST:
            families = families[
                :1
            ]  # nothing can be told from so few rows: the baseline it is, and the table warned of it
        # an executor's workers have the CPU, or what was asked for
        some = devices(options.device) if executor is None else (options.device.replace("auto", "cpu"),)
        where = {f.name: devices_of(f, facts, some, 1 if slots > 1 else alone) for f in families}
        setting = Setting(
            data=data,
            split=self.split,
            facts=facts,
            families={f.name: f for f in (*families, *self._former(store, families, in_process))},
            metric=options.metric,
            objectives=options.objectives,
            limits=Limits(options.budget_seconds, options.trials, memory),
            slots=slots,
            threads=alone if executor is not None else options.jobs,
            undisturbed=alone,
            seed=options.seed,
            merge=not self.rows.given,
            start=options.start,
            in_process=in_process,
            devices=where,
            target_rows=options.target_rows,
            ensembles=options.ensembles,
            bounds=options.bounds,
            cores=options.jobs if executor is not None else None,
        )
        if any(f.needs == "torch" for f in setting.families.values()):
            start_server("torch")
        joint = branches(families, facts, sorted({1, setting.trial_threads}, reverse=True), where)
        prior = CostModel(facts)

        def seconds(point: Mapping[str, Any]) -> float:
            family = setting.families[str(point["family"])]
            plan = setting.plan(point, family)
            return prior.predict(family, plan, facts.rows, self.split.fits())[0]

        first, warm = first_plans(families, facts, seconds)
        strategy = self.strategy(joint, options.seed, len(options.objectives), starts=warm, cost=seconds)
        first = [complete(joint, point) for point in first]
        study = Study(setting, strategy, store, first=first, executor=executor, listener=listener)
        study.rows = records
        self.table = None  # type: ignore[assignment]  # the trials read it from disk: the caller's memory is the user's
        return study

    def _former(self, store: Store, searched: Sequence[Family], in_process: bool) -> list[Family]:
        """Families not searched now (the budget is shorter than the run's first) that the run has models of."""
        models = {t.plan.family for t in store.trials() if t.status == "completed"} - {f.name for f in searched}
        known = [f for f in self.options.families if f.name in models and f.available()]
        return [f for f in known if not (in_process and f.needs == "torch")]

    def _keep(self, study: Study, finalists: list[Finalist], former: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        """Lays the artifacts of the front in models/ID, with their records, and returns their entries, best first.

        The IDs go on where those of the `former` front end: until the store knows the new one, the former is whole, and a
        name never means two models.
        """
        models = []
        place = self.folder / "models"
        self._discard_models(former or {"models": []})
        place.mkdir(exist_ok=True)
        last = max((int(m["id"][1:]) for m in (former or {"models": []})["models"]), default=0)
        for i, finalist in enumerate(finalists, last + 1):
            entry = model_entry(f"m{i:02d}", finalist)
            part = place / f"{entry['id']}.part"
            shutil.copytree(finalist.artifact, part, copy_function=link)
            write_record(
                part,
                {
                    **entry,
                    "metric": study.setting.metric.name,
                    "greater_is_better": study.setting.metric.greater_is_better,
                    "proof": finalist.proof,
                    "machine": detect().as_dict(),
                    "versions": versions(),
                },
            )
            os.replace(part, self.folder / entry["artifact"])
            models.append(entry)
        return models

    def _discard_models(self, found: Mapping[str, Any]) -> None:
        """Removes from models/ what is no model of the front `found`."""
        wanted = {self.folder / m["artifact"] for m in found["models"]}
        for entry in set((self.folder / "models").glob("*")) - wanted:
            shutil.rmtree(entry, ignore_errors=True)

    def _object(self, study: Study, models: list[dict[str, Any]]) -> dict[str, Any]:
        setting, notes = study.setting, list(self.notes)
        known = [model["id"] for model in models if _knows_days(model["plan"])]
        if known:
            notes.append(
                f"each day of the training rows is a category to {', '.join(known)}: their scores hold for more rows of those "
                "days; for rows of later days search again with time= (--time COL)."
            )
            log.warning(notes[-1])
        return {
            "format": FORMAT,
            "task": self.task.kind,
            "metric": setting.metric.name,
            "greater_is_better": setting.metric.greater_is_better,
            "rows": setting.facts.rows,
            "target_rows": self.options.target_rows,
            "columns": setting.facts.columns,
            "classes": setting.facts.classes,
            "threads": study.store.get_meta("threads"),
            "budget_seconds": None if math.isinf(self.options.budget_seconds) else self.options.budget_seconds,
            "elapsed_seconds": round(study.elapsed(), 3),
            "score_from": score_from(study),
            "trials": study.statuses(),
            "notes": notes,
            "failures": [{"status": s, "reason": r, "count": c} for s, r, c in failures(study.trials)[:20]],
            "models": models,
        }


def score_from(study: Study) -> str:
    """Whose rows give the reported scores: "validation and holdout" where both were drawn alike, else as `Split.score_from`."""
    source = study.setting.split.score_from
    return "validation and holdout" if source == "holdout" and exchangeable(study) else source


def fell_behind(finalists: Sequence[Finalist], former: Sequence[Mapping[str, Any]]) -> bool:
    """Whether one of the `former` models is more accurate, by a share of FALLEN on the same rows, than all that were finished."""
    before = [m["measured_error"] for m in former if m.get("measured_error") is not None]
    now = [f.measurement.measured_error for f in finalists if f.measurement.measured_error is not None]
    return bool(before and now) and min(now) > min(before) + FALLEN * abs(min(before))


def _knows_days(plan: Mapping[str, Any]) -> bool:
    return plan["view"]["dates"] == "days" or any(_knows_days(member["plan"]) for member in plan["members"])


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


def link(source: str, target: str) -> None:
    """A second name for a file, or a copy where the disk knows no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


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


def write_data(data: Path, table: Table, split: Split) -> list[dict[str, Any]]:
    """The table, the split and a few hundred raw rows, where the trials find them. Returns the rows."""
    if (data / "table").exists():
        shutil.rmtree(data / "table")
    data.mkdir(parents=True, exist_ok=True)
    try:
        table.save(data / "table")
        split.save(data / "split.npz")
        most = max(8, min(400, RECORD_CELLS // table.facts().columns))
        records = table.records(np.asarray(table.sample_rows)[:most])
        (data / "rows.pickle").write_bytes(pickle.dumps(records))
    except OSError as error:
        raise ResourceError(f"{data} cannot be written: {error.strerror or error}") from error
    return records


def stored_losses(store: Store, numbers: Sequence[int]) -> Losses:
    losses = Losses()
    validation, holdout = store.arrays("validation"), store.arrays("holdout")
    for number in numbers:
        losses.validation[number], losses.holdout[number] = validation[number], holdout[number]
    return losses


def model_entry(name: str, finalist: Finalist) -> dict[str, Any]:
    """One entry of "models" in the object of `automl front --json`."""
    plan, measured = finalist.plan, finalist.measurement.as_dict()
    return {
        "id": name,
        "family": plan.family,
        "plan": plan.as_dict(),
        **{f.name: measured.get(f.name) for f in fields(Measurement)},
        "engine": plan.hardware.engine,
        "threads": plan.hardware.serving_threads,
        "device": plan.hardware.device,
        "laws": finalist.laws,
        "artifact": f"models/{name}",
    }


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Writes what is shipped beside the artifact: without the laws, which are the run's, and to six digits."""
    from automl.estimators.artifact import write_record as write

    write(folder, {key: _six_digits(value) for key, value in record.items() if key != "laws"})


def _six_digits(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _six_digits(each) for key, each in value.items()}
    return [_six_digits(each) for each in value] if isinstance(value, (list, tuple)) else value


@cache
def versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("numpy", "onnx", "onnxruntime", "scikit-learn", "lightgbm")}


def no_model(study: Study) -> str:
    """What to say when no trial completed: the causes, grouped."""
    causes = "; ".join(f"{count} x {status}: {reason}" for status, reason, count in failures(study.trials)[:5])
    if not causes:
        return f"no trial ended within the budget of {study.setting.limits.seconds:.3g} s: give it more"
    return f"no model could be fitted: {causes}"


def check_identity(known: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises UsageError, naming what differs, if a run that began as `known` would go on as something else."""
    for name in now:
        if name in known and known[name] != now[name]:
            what = f"{known[name]!r}, now it is {now[name]!r}"
            if name == "split":
                what = "another: groups, time, splitter or X_val are not what they were"
            raise UsageError(
                f"the run cannot be resumed: its {name} was {what}; give what it began with, or start a new run in another folder"
            )


def check_fingerprint(store: Store, table: Table) -> None:
    """Raises DataError if the table is not the one that the run began with."""
    known = store.get_meta("fingerprint")
    if known != table.fingerprint():
        raise DataError(
            f"the data of the run changed: its fingerprint was {known}, now it is {table.fingerprint()}; start a new run"
        )


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
