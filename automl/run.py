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
from automl.estimators.family import Family
from automl.estimators.hardware import DEVICES, Watch, detect, devices
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
from automl.search.refits import Finalist
from automl.search.setting import Limits, Progress, Setting
from automl.search.space import complete
from automl.search.split import FEWEST, Split, make_split
from automl.search.store import Store
from automl.search.strategies import by_name
from automl.search.study import Study
from automl.search.trial import Measurement
from automl.search.worker import start_server

from .run_folder import link
from .sharing import kept_share, share, share_memory

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
ENGINES = ("auto", "onnx")
"""What models may be served on: both engines, or onnxruntime alone."""
FALLEN = 0.01
"""A resumed run keeps the front that it had where the new one's most accurate model has an error larger by more than this share."""
RECORD_CELLS = 400_000
"""Cells of the raw rows that latency is measured on, at the most: every trial reads them."""


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
    engine: str = "auto"
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


def warm_up(budget_seconds: float, families: Sequence[Family], engine: str = "auto") -> None:
    """Starts the processes that trials are forked from, before the data is read, and the making of the compiled engine where `engine`
    wants it. Returns at once.
    """
    if sys.platform == "win32":
        raise ResourceError(
            "automl.fit needs Linux or macOS: on Windows only automl.runtime (loading and predicting) works"
        )
    if budget_seconds >= IN_PROCESS_BELOW or not all(fits_here(f) for f in sorted(families, key=lambda f: f.order)[:2]):
        start_server("core")
    start_server("serve")
    if engine == "auto" and COMPILED_FROM <= budget_seconds < math.inf and native.missing() is None:
        start_server("lean")
        threading.Thread(target=_make_library, daemon=True).start()


def _make_library() -> None:
    """The compiled engine's library, which takes the C compiler some seconds once a machine."""
    with suppress(native.NoLibraryError):  # then no model is offered on that engine, which the end of the run says
        native.library()


def check_foreseen(bounds: Mapping[str, float], budget_seconds: float) -> None:
    """Raises UsageError for limits at target rows that no model can meet, since no law tells what it will have there."""
    if "max_latency_p99" in bounds:
        raise UsageError(
            "max_latency_p99 is not forecast, and limits are held against the target rows: give max_latency, or leave one of the two out"
        )
    if budget_seconds < IN_PROCESS_BELOW and bounds:
        raise UsageError(
            f"limits at target rows need laws, which are fitted in a budget of {IN_PROCESS_BELOW:.0f} s or more: it is {budget_seconds:.3g} s"
        )


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
        if options.engine not in ENGINES:
            raise UsageError(f"engine is {options.engine!r}: it is one of {', '.join(ENGINES)}")
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
            else:
                found = former or {}
                log.warning("no model could be finished in the time: the run keeps the front that it had")
            found = {**found, "target_rows": self.options.target_rows, "limits": dict(self.options.bounds)}
            store.set_meta("front", found)  # from here on a new front is the run's; before, the former one was
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
            known = known and self.options.engine in ("auto", entry["engine"])
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
        if in_process and options.memory_bytes is not None:
            log.warning(
                "the memory limit does not hold: in a budget under %.0f s the two simplest families are fitted in this process",
                IN_PROCESS_BELOW,
            )
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
            compiled=options.engine == "auto",
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
            "objectives": [objective.name for objective in setting.objectives],
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
