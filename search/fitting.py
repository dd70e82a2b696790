"""What a trial's own process does: open the table, fit the plan, measure, export, prove; and the final fit of a finalist."""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from automl.estimators.errors import ArtifactError, DataError
from automl.estimators.family import Family
from automl.estimators.hardware import threadpool_limits
from automl.estimators.pipeline import Pipeline
from automl.estimators.space import Value
from automl.estimators.table import Table

from .folds import LOOKS, STOPPED, Rivals
from .interrupt import Cancel
from .measure import quick_measure
from .metric import Metric
from .peak import MemoryPeak
from .plan import Plan
from .prefixes import Prefixes, expected
from .split import Split
from .trial import Measurement
from .variants import Narrowed, calibrated, with_calibration, with_dtype
from .worker import Outcome, run_isolated

log = logging.getLogger("automl")

QUICK_SECONDS = 0.05
KEPT_CELLS = 2_000_000
"""A trial leaves its prefixes' predictions for ensembles up to so many numbers, the shortest first; its own always."""
Influence = NDArray[np.float32]


@dataclass(frozen=True)
class Job:
    """One fit to make: a plan at `rows` rows of the table in `data`, its artifact to be written to `folder`.

    `final` fits on every row, without validation. `merge` says whether duplicate rows may be merged into weights.
    `narrow` says whether a trial looks at narrow weights as well, which only some objectives reward. `others` are exported
    from the same final fit: plans that differ from `plan` in what is made of the fitted model alone, with their folders.
    `rivals` are what a cross-validated trial is held against after each fold.
    """

    plan: Plan
    family: Family
    metric: Metric
    data: Path
    folder: Path
    rows: int
    seed: int
    final: bool = False
    merge: bool = False
    narrow: bool = False
    others: tuple[tuple[Plan, Path], ...] = ()
    rivals: Rivals | None = None


@dataclass(frozen=True)
class Result:
    """What a job brings back. `validation` and `holdout` are influences: one per row, their mean is the error.

    `prefixes` are the models that came with the fit: of a trial the prefixes, calibrated and narrow models worth a look, not
    exported and with expected costs; of a final fit the job's `others` that were exported. `stopped` says why a trial did not
    go on to its last fold: then there is no more of it than what its fits took.
    """

    measurement: Measurement
    validation: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    holdout: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    refit: dict[str, Value] = field(default_factory=dict)
    proof: dict[str, float] = field(default_factory=dict)
    prefixes: tuple[tuple[Plan, Result], ...] = ()
    stopped: str = ""


@dataclass(frozen=True)
class BlendJob:
    """One ensemble to make: its members' artifacts with their weights, the table in `data`, and the folder to write to."""

    members: tuple[tuple[Path, int], ...]
    data: Path
    folder: Path
    seed: int


@dataclass
class Meter:
    """Sums of wall seconds, CPU seconds and the largest peak over the fits of a job."""

    wall: float = 0.0
    cpu: float = 0.0
    peak: int = 0

    @contextmanager
    def fit(self) -> Iterator[None]:
        with MemoryPeak() as memory:
            wall, cpu = time.perf_counter(), time.process_time()
            yield
            self.wall += time.perf_counter() - wall
            self.cpu += time.process_time() - cpu
        self.peak = max(self.peak, memory.bytes)

    def per_fit(self, fits: int) -> dict[str, Any]:
        """What a fit takes, by the names of `Measurement`."""
        return {
            "training_seconds": self.wall / fits,
            "training_cpu_seconds": self.cpu / fits,
            "training_memory_bytes": self.peak,
        }


def pipeline_of(job: Job) -> Pipeline:
    plan = job.plan
    return Pipeline(
        job.family,
        dict(plan.params),
        view=plan.view,
        selection=plan.selection,
        fraction=plan.fraction,
        rank=plan.reduction,
        hardware=plan.hardware,
        seed=job.seed,
    )


def error_of(influence: NDArray[Any]) -> tuple[float, float]:
    """(error, its standard error) of per-row influences, whose mean is the error."""
    n = len(influence)
    values = influence.astype(np.float64)
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else 0.0


def fit_job(job: Job) -> Result:
    """Fits, predicts, measures and exports. Runs in the trial's own process."""
    with opened(job) as (table, split):
        return _final(job, table, split) if job.final else _trial(job, table, split)


@contextmanager
def opened(job: Job) -> Iterator[tuple[Table, Split]]:
    """The table and the split of a job, on as many threads as its plan says, what its family needs imported."""
    if job.family.needs is not None:
        import_module(job.family.needs)  # no fit is charged for it
    with threadpool_limits(job.plan.hardware.threads):
        table, split = Table.open(job.data / "table"), Split.open(job.data / "split.npz")
        touch(table)
        yield table, split


def _trial(job: Job, table: Table, split: Split) -> Result:
    meter, task = Meter(), table.task.kind
    scored = split.scored
    shape = (len(scored),) if task == "regression" else (len(scored), len(table.task.classes))
    prediction = np.empty(shape)
    refits: list[dict[str, Value]] = []
    prefixes, narrowed = Prefixes(len(scored)), Narrowed(job.narrow)
    y, weights = np.asarray(table.y[scored]), None if table.weights is None else np.asarray(table.weights[scored])
    look: _Look | None = None
    every = job.rows < split.rungs()[-1]
    for train, places in _parts(split, job.rows):
        pipeline = pipeline_of(job)
        with meter.fit():
            pipeline.fit(table, train, merge=job.merge)
        prediction[places] = prefixes.predict(pipeline, table, scored[places], places)
        narrowed.predict(pipeline, table, scored[places], places, prediction)
        refits.append(pipeline.refit_params(table.rows / max(1, len(train))))
        if job.rivals is not None and split.even and len(refits) in LOOKS and places.stop < len(scored):
            look = look or _Look(job, pipeline, table, train, every)
            costs = replace(look.measured, **meter.per_fit(len(refits)))
            part = y[: places.stop], None if weights is None else weights[: places.stop]
            others = (one[1:] for one in look.variants(costs, prefixes, task, *part))
            groups = split.clusters[: places.stop]
            if job.rivals.beat(task, job.metric, *part, groups, chain([(costs, prediction)], others)):
                return Result(costs, stopped=STOPPED)
    look = look or _Look(job, pipeline, table, train, every)  # of folds that grow with time the last has the most rows
    cut = len(split.validation) if not split.cross_validated else len(scored)
    whole = judged(job.metric, Measurement(), y, prediction, weights, cut, split.clusters)
    error, error_sd = whole.measurement.error, whole.measurement.error_sd
    measured = replace(look.measured, **meter.per_fit(len(refits)), error=error, error_sd=error_sd)
    made = [(job.plan, measured, prediction), *look.variants(measured, prefixes, task, y, weights, cut)]
    for plan, costs, predicted in [one for one in made if one[0].rescale == 1.0]:  # a factor is a calibration
        for method, curve, moved in calibrated(task, job.metric, y, predicted, weights, cut, split.clusters):
            made.append((replace(plan, calibration=method, curve=curve), with_calibration(costs), moved))
    for dtype, predicted in narrowed.predictions.items():
        plan = replace(job.plan, hardware=replace(job.plan.hardware, dtype=dtype))
        made.append((plan, with_dtype(measured, look.pipeline, dtype), predicted))
    found, predictions, room = [], {job.plan.id: kept(task, prediction)}, KEPT_CELLS
    for plan, costs, predicted in made[1:]:
        found.append((plan, judged(job.metric, costs, y, predicted, weights, cut, split.clusters)))
        if predicted.size <= room:
            predictions[plan.id], room = kept(task, predicted), room - predicted.size
    write_predictions(job.data, job.folder.name, predictions)
    return replace(
        whole, measurement=measured, refit=_merge_refits(refits), proof=look.proof.as_dict(), prefixes=tuple(found)
    )


class _Look:
    """A trial's artifact, written from one of its fits, proven, and looked at as deployed: what its models cost."""

    def __init__(self, job: Job, pipeline: Pipeline, table: Table, train: NDArray[np.int64], every: bool) -> None:
        self.job, self.pipeline = job, pipeline
        self.every = every
        size, self.proof = pipeline.export(job.folder, table, train)
        self.rows: list[dict[str, Any]] = pickle.loads((job.data / "rows.pickle").read_bytes())
        costs = Measurement(size_bytes=size, rows=len(train), columns=pipeline.columns)
        self.measured = _quick(job, costs, self.rows)
        self._manifest = (job.folder / "manifest.json").stat().st_size

    def variants(
        self,
        whole: Measurement,
        prefixes: Prefixes,
        task: str,
        y: NDArray[Any],
        weights: NDArray[Any] | None,
        cut: int | None = None,
    ) -> Iterator[tuple[Plan, Measurement, NDArray[Any]]]:
        """The prefixes worth a look, or where laws will be fitted to them, on fewer rows, `every` one: their plans, what they are
        expected to cost, what they predict for the rows scored, of which those of `y` count.
        """
        for share, factor, predicted in prefixes.candidates(
            task, self.job.metric, y, weights, cut or len(y), self.every
        ):
            costs = expected(whole, share, self.pipeline, self.rows, self._manifest)
            yield replace(self.job.plan, prefix=share, rescale=factor), costs, predicted


def kept(task: str, prediction: NDArray[Any]) -> NDArray[np.float32]:
    """What is kept of a prediction: (n, K) probabilities, (n,) of the second of two classes, or (n,) values."""
    return np.asarray(prediction[:, 1] if task == "binary" else prediction, np.float32)


def predictions_file(data: Path, name: str) -> Path:
    """Where the trial whose artifact's folder has this name keeps what it and its prefixes predict for the rows scored."""
    return data / "predictions" / f"{name}.npz"


def write_predictions(data: Path, name: str, predictions: Mapping[str, NDArray[np.float32]]) -> None:
    """Keeps predictions by the ids of their plans, for the ensembles."""
    place = predictions_file(data, name)
    place.parent.mkdir(exist_ok=True)
    arrays: dict[str, Any] = dict(predictions)
    np.savez(place, **arrays)


def judged(
    metric: Metric,
    measured: Measurement,
    y: NDArray[Any],
    prediction: NDArray[Any],
    weights: NDArray[Any] | None,
    cut: int,
    clusters: NDArray[np.int64],
) -> Result:
    """The result of a prediction of all rows scored, of which the first `cut` steer the search.

    `clusters` (n,) are the codes of the rows' groups, or none.
    """
    validation = metric.influence(y[:cut], prediction[:cut], None if weights is None else weights[:cut], clusters[:cut])
    holdout = np.empty(0, np.float32)
    if cut < len(y):
        held = None if weights is None else weights[cut:]
        holdout = _holdout(metric, y[cut:], prediction[cut:], held, clusters[cut:])
    error, sd = error_of(validation)
    if not np.isfinite(error):
        raise ValueError(
            f"the metric {metric.name} of its predictions is {error}: the model predicts values that are not finite"
        )
    return Result(replace(measured, error=error, error_sd=sd), validation.astype(np.float32), holdout)


def _holdout(
    metric: Metric,
    y: NDArray[Any],
    prediction: NDArray[Any],
    weights: NDArray[Any] | None,
    clusters: NDArray[np.int64],
) -> Influence:
    """The holdout's influences; none where the metric is not defined on its rows: where it is for no model, the validation rows
    are reported.
    """
    try:
        return metric.influence(y, prediction, weights, clusters).astype(np.float32)
    except DataError as error:
        log.warning("the holdout is not scored: %s", error)
        return np.empty(0, np.float32)


def _parts(split: Split, rows: int) -> Iterator[tuple[NDArray[np.int64], slice]]:
    """(training rows, places in `split.scored` that they predict) of every fit of a trial."""
    if not split.folds:
        yield split.train[:rows], slice(None)
        return
    begin, share = 0, rows / split.rungs()[-1]
    for train, validation in split.folds:
        yield train[: max(1, round(share * len(train)))], slice(begin, begin + len(validation))
        begin += len(validation)


def _merge_refits(refits: list[dict[str, Value]]) -> dict[str, Value]:
    """One set of refit parameters for all folds: the median of the numbers that differ (iterations found by early stopping)."""
    merged = dict(refits[-1])
    for name, value in merged.items():
        values = [r[name] for r in refits]
        if isinstance(value, (int, float)) and not isinstance(value, bool) and len(set(values)) > 1:
            middle = float(np.median(np.asarray(values, float)))
            merged[name] = max(1, round(middle)) if isinstance(value, int) else middle
    return merged


def _final(job: Job, table: Table, split: Split) -> Result:
    """The fit on all rows, in the nested order of the split so that a seeded subsample inside a family is stratified."""
    meter, pipeline = Meter(), pipeline_of(job)
    rows = np.concatenate([split.train, split.validation, split.holdout])
    with meter.fit():
        pipeline.fit(table, rows, merge=job.merge)
    measured = Measurement(
        training_seconds=meter.wall,
        training_cpu_seconds=meter.cpu,
        training_memory_bytes=meter.peak,
        rows=len(rows),
    )

    def exported(plan: Plan, folder: Path) -> Result:
        deployed = variant(pipeline, plan)
        size, proof = deployed.export(folder, table, rows)
        return Result(replace(measured, size_bytes=size, columns=deployed.columns), proof=proof.as_dict())

    first, others = exported(job.plan, job.folder), []
    for plan, folder in job.others:
        try:
            others.append((plan, exported(plan, folder)))
        except ArtifactError as problem:  # what else the fit gave is good all the same
            log.warning("%s as %s is left out: %s", plan.family, plan.variant, problem)
    return replace(first, prefixes=tuple(others))


def variant(pipeline: Pipeline, plan: Plan) -> Pipeline:
    """What the plan makes of the fitted model. Raises ArtifactError where its weights cannot be held."""
    if not plan.prefix == plan.rescale == 1.0:
        pipeline = pipeline.first(plan.prefix, plan.rescale)
    if plan.hardware.dtype != "float32":
        try:
            narrow = pipeline.narrowed(plan.hardware.dtype)
        except OverflowError as problem:
            raise ArtifactError(f"{plan.family} cannot be stored as {plan.hardware.dtype}: {problem}") from problem
        pipeline = narrow or pipeline
    return pipeline if plan.calibration == "none" else pipeline.calibrated(plan.calibration, plan.curve)


def blend_job(job: BlendJob) -> Result:
    """Blends artifacts into one and proves it. Runs in a process of its own."""
    from automl.estimators.blend import blend

    table, split = Table.open(job.data / "table"), Split.open(job.data / "split.npz")
    size, proof, columns = blend(job.folder, job.members, table, split.train, job.seed)
    return Result(Measurement(size_bytes=size, columns=columns), proof=proof.as_dict())


def _quick(job: Job, measured: Measurement, rows: list[dict[str, Any]]) -> Measurement:
    """The measurement with a quick look at the artifact as deployed, in this process: at most 50 ms of calls."""
    quick = quick_measure(job.folder, rows, QUICK_SECONDS)
    return replace(
        measured,
        latency_p50_seconds=quick.latency_p50_seconds,
        model_memory_bytes=quick.model_memory_bytes,
        load_seconds=quick.load_seconds,
    )


def touch(table: Table) -> None:
    """Reads a byte of every page of the table, so that a later peak does not count its mapping."""
    parts = [table.y, *table.data]
    for part in parts:
        for array in (part.data, part.indices, part.indptr) if hasattr(part, "indptr") else (part,):
            np.asarray(array).reshape(-1).view(np.uint8)[::4096].max(initial=0)


def supervise(
    job: Job, wall_seconds: float, memory_bytes: int | None, server: str, cancel: Cancel | None = None
) -> Outcome:
    """Runs the job in a process of its own; what an executor's worker (a thread here, a task on a cluster) calls."""
    return run_isolated(
        fit_job,
        job,
        wall_seconds=wall_seconds,
        memory_bytes=memory_bytes,
        server=server,
        cleanup=[job.folder, *(folder for _, folder in job.others)],
        cancel=cancel,
    )


def packed(job: Job) -> bytes:
    """The job as bytes that carry functions and classes of `__main__` along; pickle.PicklingError if it can't be sent."""
    import cloudpickle

    try:
        return bytes(cloudpickle.dumps(job))
    except Exception as error:
        raise pickle.PicklingError(f"{type(error).__name__}: {error}") from error


def supervise_packed(
    job: bytes, wall_seconds: float, memory_bytes: int | None, server: str, deadline: float
) -> Outcome:
    """`supervise` as a task of the user's executor; `deadline` is by `time.time()`: one that waited long has less time."""
    left = deadline - time.time()
    if left <= 0.0:
        return Outcome("timeout", "the executor had not begun it when time was up")
    return supervise(pickle.loads(job), min(wall_seconds, left), memory_bytes, server)


def fits_here(family: Family) -> bool:
    """Whether the family may be fitted in the caller's process: our own simplest two, which neither hang nor crash."""
    from automl.estimators.families.baseline import Baseline
    from automl.estimators.families.linear import Linear

    return type(family) in (Baseline, Linear)


def fit_here(job: Job) -> Outcome:
    """Runs the job in this process: for budgets under 5 s, where a server would not be up in time."""
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        value, status, reason = fit_job(job), "completed", ""
    except Exception as error:  # what a trial raises is a status, in process as well
        value, status, reason = None, "failed", f"{type(error).__name__}: {error}"
    return Outcome(status, reason, value, time.perf_counter() - wall, time.process_time() - cpu, 0, "")
