"""`automl.fit` and the two scikit-learn estimators."""

from __future__ import annotations

import io
import json
import logging
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from copy import copy
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from automl.estimators.errors import ArtifactError, UsageError, UsageTypeError
from automl.search import units
from automl.search.front import LIMITS
from automl.search.metric import Metric
from automl.search.setting import Progress
from automl.search.store import Store

from .exporter import beside
from .front import Front, Model, Scratch, open_run, read_limits
from .inputs import (
    OTHERS_BUDGET,
    Budget,
    as_budget,
    assemble,
    check_matrix,
    checked,
    file_meta,
    from_file,
    is_frame,
    is_plain,
    refuse_beside_a_file,
    resolve_families,
    resolve_objectives,
    seed_of,
    split_target,
    with_ensembles,
)
from .run import (
    Options,
    Rows,
    Run,
    check_fingerprint,
    check_foreseen,
    check_identity,
    warm_up,
)
from .run_folder import discard_unless_tried, prepare_folder, refuse_existing
from .sharing import available_jobs

if TYPE_CHECKING:
    from automl.estimators.table import Table

__all__ = ["AutoMLClassifier", "AutoMLRegressor", "Budget", "fit", "load", "open_run", "resume", "save"]

log = logging.getLogger("automl")

RESUMED = ("source", "target", "reading", "task", "options", "groups", "time", "elapsed", "dropped", "identity")
"""What `resume` reads of a store."""
DEFAULT_BUDGET = 300
LEAST_LEFT = 10.0
"""Seconds that a resumed run has at least: its finalists are fitted and measured again."""
SAVE_FORMAT = 1
"""The number of the format of `save`. A change of it raises the number here and says in `load` how the old one is read."""


class _AutoML(BaseEstimator):
    """What both estimators share. See `AutoMLClassifier`."""

    _task: str | None = None

    def __init__(
        self,
        *,
        budget: Any = DEFAULT_BUDGET,
        metric: Any = None,
        objectives: Sequence[Any] | None = None,
        families: Sequence[Any] | None = None,
        exclude: Sequence[str] | None = None,
        strategy: str = "auto",
        target_rows: Any = None,
        max_latency: Any = None,
        max_latency_p99: Any = None,
        max_memory: Any = None,
        max_size: Any = None,
        max_training_time: Any = None,
        max_training_memory: Any = None,
        min_score: float | None = None,
        task: str | None = None,
        n_jobs: int | None = None,
        executor: Executor | None = None,
        device: str = "auto",
        engine: str = "auto",
        memory_limit: Any = None,
        random_state: Any = 0,
        run_dir: Any = None,
        overwrite: bool = False,
        resume: bool = False,
    ) -> None:
        self.budget = budget
        self.metric = metric
        self.objectives = objectives
        self.families = families
        self.exclude = exclude
        self.strategy = strategy
        self.target_rows = target_rows
        self.max_latency = max_latency
        self.max_latency_p99 = max_latency_p99
        self.max_memory = max_memory
        self.max_size = max_size
        self.max_training_time = max_training_time
        self.max_training_memory = max_training_memory
        self.min_score = min_score
        self.task = task
        self.n_jobs = n_jobs
        self.executor = executor
        self.device = device
        self.engine = engine
        self.memory_limit = memory_limit
        self.random_state = random_state
        self.run_dir = run_dir
        self.overwrite = overwrite
        self.resume = resume

    def _kind(self) -> str | None:
        """The task to fit: what `task` says, if it is this estimator's own kind, which it is by default."""
        if self.task is None or self._task is None:
            return self.task or self._task
        own = {"classification": ("classification", "binary", "multiclass"), "regression": ("regression",)}[self._task]
        if self.task not in own:
            raise UsageError(f"task is {self.task!r}: {type(self).__name__} does {', '.join(own)}")
        return self.task

    # -- fitting ----------------------------------------------------------------------------------------------------

    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        groups: Any = None,
        time: Any = None,
        splitter: Any = None,
    ) -> Any:
        """Searches within the budget and keeps the front.

        Parameters
        ----------
        X : DataFrame, array, sparse matrix (n, d).
        y : (n,) labels or values.
        sample_weight : (n,) weights, none negative.
        X_val, y_val : rows to steer and score the search with, in place of a part of X.
        groups : (n,) rows of one group never stand on both sides of a split.
        time : (n,) sortable; the latest rows validate, the model never trains on the future.
        splitter : any scikit-learn splitter, whose folds every trial is cross-validated on.
        """
        start = monotonic()
        budget, families = as_budget(self.budget), resolve_families(self.families, self.exclude)
        warm_up(budget.seconds(), families, self.engine)
        X, y = checked(self, X, y)
        table, held = assemble(X, y, sample_weight, X_val, y_val, groups, time, splitter, self._kind())
        return self._search(table, held, X, start=start)

    def _search(
        self,
        table: Table,
        held: Rows,
        X: Any,
        *,
        start: float,
        listener: Callable[[Progress], None] | None = None,
        extra: tuple[float, float] = (0.0, 0.0),
        meta: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs the search on a table; X is what the caller gave, None for a file."""
        options = self._options(table, start, extra)
        for note in table.notes:
            log.info("%s", note)
        self._learn_shape(X, table)
        self._finish(table, options, held, listener, dict(meta or {}))
        return self

    def _options(self, table: Table, start: float, extra: tuple[float, float] = (0.0, 0.0)) -> Options:
        budget = as_budget(self.budget)
        cap = self.memory_limit if self.memory_limit is not None else budget.memory
        return Options(
            metric=Metric.resolve(self.metric, table.task),
            objectives=resolve_objectives(self.objectives),
            families=resolve_families(self.families, self.exclude),
            ensembles=with_ensembles(self.families, self.exclude),
            strategy=self.strategy,
            budget_seconds=budget.seconds(),
            trials=budget.count(),
            memory_bytes=None if cap is None else units.size(cap, "memory_limit"),
            jobs=available_jobs(self.n_jobs, here=self.executor is None),
            parallel_trials=self.n_jobs not in (None, 1),
            seed=seed_of(self.random_state),
            start=start,
            device=self.device,
            engine=self.engine,
            elsewhere=self.executor is not None,
            extra=extra,
            target_rows=None if self.target_rows is None else units.count(self.target_rows, "target_rows"),
            bounds=read_limits(**{name: getattr(self, name) for name in LIMITS}),
        )

    def _finish(self, table: Table, options: Options, rows: Rows, listener: Any, meta: dict[str, Any]) -> None:
        scratch = None
        if self.run_dir is None:
            scratch = Scratch("automl-run-")
            folder = scratch.path
        else:
            folder = Path(self.run_dir)
        resuming = self.resume and (folder / "run.db").exists()
        if resuming:
            run, store = self._reopened(folder, table, options, rows)
        else:
            if options.target_rows is not None:
                check_foreseen(options.bounds, options.budget_seconds)
            run = Run(folder, table, options, rows)  # before the folder: what cannot run leaves nothing behind
            prepare_folder(folder, self.overwrite)
            known = {**meta, "fingerprint": table.fingerprint(), "identity": run.identity()}
            store = Store.create(folder / "run.db", known)
        try:
            self.notes_ = list(run.notes)
            found = run.search(store, executor=self.executor, listener=listener)
            self.interrupted_ = bool(store.get_meta("interrupted"))
        except BaseException:
            if not resuming:
                discard_unless_tried(folder, store)
            raise
        finally:
            store.close()
        self.front_ = Front(folder, found, scratch)
        self._metric = options.metric
        self.best_ = self.front_.choose()

    def _reopened(self, folder: Path, table: Table, options: Options, rows: Rows) -> tuple[Run, Store]:
        """The run in the folder, if it is the same experiment on the same data; without a `random_state` the seed is its own."""
        store = Store.open(folder / "run.db")
        try:
            check_fingerprint(store, table)
            known = store.get_meta("identity", {})
            if self.random_state is None:
                options = replace(options, seed=known.get("seed", options.seed))
            run = Run(folder, table, options, rows)
            check_identity(known, run.identity())
        except BaseException:
            store.close()
            raise
        return run, store

    def _learn_shape(self, X: Any, table: Table) -> None:
        self.n_features_in_ = len(table.inputs)
        names = getattr(X, "columns", None)
        if names is not None and all(isinstance(n, str) for n in names):
            self.feature_names_in_ = np.asarray(list(names), dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_

    # -- the chosen model -------------------------------------------------------------------------------------------

    def _model(self) -> Model:
        check_is_fitted(self, "front_")
        return self.best_

    def _rows(self, X: Any) -> Any:
        """X as the artifact takes it, checked as scikit-learn checks it."""
        check_is_fitted(self, "front_")
        if is_frame(X):
            return X
        X = check_matrix(X, self, 0)
        if X.shape[1] != self.n_features_in_:
            raise UsageError(
                f"X has {X.shape[1]} features, but {type(self).__name__} is expecting {self.n_features_in_} features as input"
            )
        return X

    def predict(self, X: Any) -> Any:
        """(n,) labels in their original type, or values, by the most accurate model within the limits."""
        return self._model().predict(self._rows(X))

    def predict_one(self, row: Any) -> Any:
        """The label or value of one row: a dict, or a sequence in column order."""
        return self._model().predict_one(row)

    def leaderboard(self) -> Any:
        """The front as a DataFrame with units in its column names."""
        check_is_fitted(self, "front_")
        return self.front_.leaderboard()

    def save(self, path: str | Path) -> Path:
        """Writes the front with its artifacts and the limits to one file, which `automl.load` reads. No pickle."""
        check_is_fitted(self, "front_")
        return save(self, Path(path))

    def __getstate__(self) -> dict[str, Any]:
        inherited: Any = super().__getstate__()
        state: dict[str, Any] = dict(inherited)
        state.pop("executor", None)
        if "best_" in state:
            state["best_"] = state["best_"].id
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = {"executor": None, **state}
        best = state.pop("best_", None)
        super().__setstate__(state)
        if best is not None:
            self.best_ = self.front_.get(best)

    def __sklearn_clone__(self) -> Any:
        """A clone with the same executor: there is no copying one."""
        without = copy(self)  # pickling leaves the executor out
        cloned: Any = BaseEstimator.__sklearn_clone__(without)
        cloned.executor = self.executor
        return cloned

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = True
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        return tags


class AutoMLClassifier(ClassifierMixin, _AutoML):
    """Searches classifiers within a budget and keeps the Pareto front of deployable models.

    Parameters
    ----------
    budget : seconds, "90s", "10m", "1h", or `Budget(time=, trials=, memory=)`. Everything counts against it.
    metric : a scikit-learn scorer or its name, or a callable (y_true, y_pred) of which more is better; roc_auc for two classes,
        log_loss for more.
    objectives : names or `Objective`s; error, training_time, latency and memory by default.
    families, exclude : names or `Family`s to search, and names to leave out. "ensemble", one of them by default, stands for
        blends of the models found.
    strategy : "auto", "random", "grid", "bayesian" or "nsga2".
    target_rows : the training rows that the model will have where it is deployed, a number or text such as "10M". The
        search compares candidates by what their laws forecast there, and the limits are held against it.
    max_latency, max_latency_p99, max_memory, max_size, max_training_time, max_training_memory, min_score : limits, never
        relaxed; InfeasibleError if no model of the front meets them. Times in seconds or text, sizes in bytes or text.
    n_jobs : cores to use, as joblib counts them; all by default.
    executor : any `concurrent.futures` executor; each task supervises its own isolated process.
    device : "cpu", "cuda" or "auto", for the families that train with torch; "auto" has both searched where there is a GPU.
    engine : "auto", each model on the compiled engine or on onnxruntime, whichever is better, or "onnx", all on onnxruntime, for a
        place that has no C compiler.
    memory_limit : hard cap on the memory of the trials that run at a time, bytes or text.
    random_state : seed. With `Budget(trials=)` and one job, a run is a function of it.
    run_dir, overwrite, resume : where the run is kept (default: a temporary folder that lives as long as the model).

    Attributes
    ----------
    front_ : Front, the models, the most accurate first.
    best_ : Model, the most accurate within the limits (at the target rows, if there are any), by which `predict` predicts.
    classes_ : (K,) the labels in their original type.
    """

    _task = "classification"

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None, **rows: Any) -> AutoMLClassifier:
        super().fit(X, y, sample_weight, **rows)
        return self

    def _finish(self, *args: Any) -> None:
        super()._finish(*args)
        self.classes_ = np.asarray(self.best_.classes_)

    def predict_proba(self, X: Any) -> Any:
        """(n, K) probabilities in the order of `classes_`."""
        return self._model().predict_proba(self._rows(X))

    def predict_proba_one(self, row: Any) -> Any:
        """(K,) probabilities of one row."""
        return self._model().predict_proba_one(row)


class AutoMLRegressor(RegressorMixin, _AutoML):
    """Searches regressors within a budget and keeps the Pareto front of deployable models.

    The parameters are those of `AutoMLClassifier`; the metric is rmse by default.
    """

    _task = "regression"

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None, **rows: Any) -> AutoMLRegressor:
        super().fit(X, y, sample_weight, **rows)
        return self


def fit(
    X: Any,
    y: Any = None,
    *,
    target: str | None = None,
    task: str | None = None,
    budget: Any = DEFAULT_BUDGET,
    metric: Any = None,
    objectives: Sequence[Any] | None = None,
    families: Sequence[Any] | None = None,
    exclude: Sequence[str] | None = None,
    strategy: str = "auto",
    target_rows: Any = None,
    max_latency: Any = None,
    max_latency_p99: Any = None,
    max_memory: Any = None,
    max_size: Any = None,
    max_training_time: Any = None,
    max_training_memory: Any = None,
    min_score: float | None = None,
    sample_weight: Any = None,
    groups: Any = None,
    time: Any = None,
    splitter: Any = None,
    X_val: Any = None,
    y_val: Any = None,
    reading: Mapping[str, Any] | None = None,
    n_jobs: int | None = None,
    executor: Executor | None = None,
    device: str = "auto",
    engine: str = "auto",
    memory_limit: Any = None,
    random_state: Any = 0,
    run_dir: Any = None,
    overwrite: bool = False,
    resume: bool = False,
    **unknown: Any,
) -> Any:
    """Infers the task, searches within the budget, and returns a fitted AutoMLClassifier or AutoMLRegressor.

    Parameters
    ----------
    X : DataFrame, array or sparse matrix (n, d), or the path of a CSV or Parquet file, with `target` its target column.
    y : (n,) labels or values; or None if `target` names a column of X.
    task : "classification", "binary", "multiclass" or "regression", where the inferred one is wrong.
    sample_weight, groups, time, splitter, X_val, y_val : as `AutoMLClassifier.fit` has them; of a file the first three are names of
        its columns, and there are no X_val and y_val.
    reading : options of `automl.dataset.read_table` for a file (sep, decimal, encoding, bad_rows, infinite).
    The others are those of `AutoMLClassifier`.

    Raises UsageError for a wrong argument, DataError for wrong content, InfeasibleError if no model meets the limits.
    """
    given = locals()
    options = {name: given[name] for name in _AutoML().get_params() if name != "task"}
    held = {name: given[name] for name in ("sample_weight", "groups", "time", "splitter", "X_val", "y_val")}
    return fit_timed(X, y, target, task, held, reading, {**options, **unknown})


def fit_timed(
    X: Any,
    y: Any,
    target: str | None,
    task: str | None,
    held: Mapping[str, Any],
    reading: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    *,
    start: float | None = None,
    listener: Callable[[Progress], None] | None = None,
    extra: tuple[float, float] = (0.0, 0.0),
) -> Any:
    """`fit` with the arguments that say how rows are `held` apart and weigh, and its `options`, by name.

    `start` (monotonic) is when the budget began, `listener` is told of the progress, and `extra` is what comes after the run within
    its budget (`Options.extra`).
    """
    start = monotonic() if start is None else start
    for word in OTHERS_BUDGET:
        if word in options:
            raise UsageTypeError(
                f'{word} is another library\'s word: here it is budget=, as in budget={options[word]!r} or budget="5m"'
            )
    unknown = sorted(set(options) - set(_AutoML().get_params()))
    if unknown:
        import difflib

        near = difflib.get_close_matches(unknown[0], _AutoML().get_params(), n=1)
        raise UsageTypeError(f"fit has no option {unknown[0]!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    budget = as_budget(options.get("budget", DEFAULT_BUDGET))
    families = resolve_families(options.get("families"), options.get("exclude"))
    if options.get("run_dir") is not None and not options.get("resume"):
        refuse_existing(Path(options["run_dir"]), bool(options.get("overwrite")))
    warm_up(budget.seconds(), families, options.get("engine", "auto"))
    meta: dict[str, Any] = {}
    weights, groups, time, splitter, X_val, y_val = (
        held.get(name) for name in ("sample_weight", "groups", "time", "splitter", "X_val", "y_val")
    )
    if isinstance(X, (str, Path)):
        if target is None:
            raise UsageError(f'target is not given: write fit("{X}", target="COLUMN")')
        columns = {"sample_weight": weights, "groups": groups, "time": time}
        refuse_beside_a_file({"y": y, "X_val": X_val, "y_val": y_val}, columns)
        if weights is not None and "weights" in (reading or {}):
            raise UsageError("the weights are named twice, by sample_weight and in reading: leave the latter out")
        how = {**(reading or {}), **({} if weights is None else {"weights": weights})}
        table, rows = from_file(X, target, task, how, groups, time, splitter)
        meta = file_meta(X, target, task, how, groups, time, splitter, options)
        shape = None
    else:
        if reading is not None:
            raise UsageError("reading is for a file, and X is none: leave it out")
        X, y = split_target(X, y, target)
        table, rows = assemble(X, y, weights, X_val, y_val, groups, time, splitter, task)
        shape = X
    model = (AutoMLRegressor if table.task.kind == "regression" else AutoMLClassifier)(task=task, **options)
    return model._search(table, rows, shape, start=start, listener=listener, extra=extra, meta=meta)


def resume(run_dir: str | Path, budget: Any = None) -> Any:
    """Continues a run from a file that was interrupted or killed; no completed trial is lost. Returns the fitted model.

    `budget` is what may be spent from now on; by default what the run was given, less what it had spent.
    Raises DataError if the file changed, UsageError if the run's data was in memory (then call
    `automl.fit(X, y, run_dir=..., resume=True)`).
    """
    return resume_timed(run_dir, budget)


def resume_timed(
    run_dir: str | Path,
    budget: Any,
    *,
    start: float | None = None,
    listener: Callable[[Progress], None] | None = None,
) -> Any:
    """`resume`, with what `fit_timed` is told besides."""
    start = monotonic() if start is None else start
    folder = Path(run_dir)
    known = _stored(folder)
    if not known["source"]:
        raise UsageError(
            f"the data of the run in {folder} was in memory: continue it with automl.fit(X, y, run_dir={str(folder)!r}, resume=True)"
        )
    if known["dropped"]:
        raise UsageError(
            f"the run in {folder} was given {', '.join(known['dropped'])} as Python objects, which its folder cannot hold: "
            f"continue it with automl.fit({known['source']!r}, target={known['target']!r}, run_dir={str(folder)!r}, resume=True, ...) "
            "and give them again"
        )
    options = dict(known["options"]) | {"run_dir": str(folder), "resume": True}
    options["random_state"] = known["identity"]["seed"]
    options["budget"] = budget_left(Budget(**options.get("budget", {"time": DEFAULT_BUDGET})), known["elapsed"], budget)
    held = {"groups": known["groups"], "time": known["time"]}
    reading = known["reading"]
    return fit_timed(
        known["source"], None, known["target"], known["task"], held, reading, options, start=start, listener=listener
    )


def _stored(folder: Path) -> dict[str, Any]:
    """What a run folder knows of how its run began. Raises UsageError if it is none."""
    if not (folder / "run.db").exists():
        raise UsageError(f"{folder} is no run folder: it holds no run.db")
    with Store.open(folder / "run.db", read_only=True) as store:
        return {name: store.get_meta(name) for name in RESUMED}


def reopen(run_dir: str | Path) -> tuple[Run, dict[str, Any]]:
    """(the run with its table read again, its front's JSON object) of a finished run whose data is a file; nothing is changed.

    Raises UsageError if the data was in memory, DataError if the file changed or the run has no front.
    """
    folder = Path(run_dir)
    known, found = _stored(folder), open_run(folder).as_dict()
    if not known["source"] or known["dropped"]:
        raise UsageError(
            f"the run in {folder} was given Python objects, which its folder cannot hold: this needs a run from a file"
        )
    table, held = from_file(
        known["source"], known["target"], known["task"], known["reading"], known["groups"], known["time"], None
    )
    with Store.open(folder / "run.db", read_only=True) as store:
        check_fingerprint(store, table)
    options = dict(known["options"])
    options["budget"] = Budget(**options.get("budget", {"time": DEFAULT_BUDGET}))
    kind = AutoMLRegressor if table.task.kind == "regression" else AutoMLClassifier
    model = kind(task=known["task"], **options, random_state=known["identity"]["seed"])
    return Run(folder, table, model._options(table, monotonic()), held), found


def budget_left(began: Budget, elapsed: float | None, given: Any) -> Budget:
    """What a resumed run may spend: what is `given` now, or the rest of what it began with, at least 10 s; its memory cap stays."""
    if given is not None:
        now = as_budget(given)
        return now if now.memory is not None else replace(now, memory=began.memory)
    if began.time is None:
        return began
    return replace(began, time=max(LEAST_LEFT, began.seconds() - (elapsed or 0.0)))


def save(model: Any, path: Path) -> Path:
    """Writes a fitted estimator: one zip with the front's artifacts, the parameters that are plain data and the choice."""
    params = {k: v for k, v in model.get_params(deep=False).items() if is_plain(v)}
    state = {
        "format": SAVE_FORMAT,
        "class": type(model).__name__,
        "params": params,
        "best": model.best_.id,
        "n_features_in": getattr(model, "n_features_in_", None),
        "feature_names_in": list(getattr(model, "feature_names_in_", [])),
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("model.json", json.dumps(state))
        archive.writestr("front.zip", model.front_.to_bytes())
    with beside(path) as scratch:  # whole or not at all: what was saved there before is kept where this fails
        whole = Path(scratch) / "whole"
        whole.write_bytes(packed.getvalue())
        os.replace(whole, path)
    return path


def load(path: str | Path) -> Any:
    """The estimator that `model.save(path)` wrote. Raises ArtifactError if the file is not one."""
    path = Path(path)
    if not path.exists():
        raise UsageError(f"{path} does not exist")
    if path.is_dir():
        what = "run folder" if (path / "run.db").exists() else "folder"
        raise UsageError(
            f"{path} is a {what}: automl.load reads the file that model.save wrote, and automl.runtime.load an artifact; "
            "of a run, `automl export` writes one"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            state = json.loads(archive.read("model.json"))
            front = Front.from_bytes(archive.read("front.zip"))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ArtifactError(f"{path} is not a model that save wrote, or it is corrupt: {error}") from error
    if state["format"] != SAVE_FORMAT:
        raise ArtifactError(
            f"{path} has format {state['format']}, this version reads {SAVE_FORMAT}: use the version that wrote it"
        )
    model = {"AutoMLClassifier": AutoMLClassifier, "AutoMLRegressor": AutoMLRegressor}[state["class"]](
        **state["params"]
    )
    model.front_, model.best_ = front, front.get(state["best"])
    if state["n_features_in"] is not None:
        model.n_features_in_ = state["n_features_in"]
    if state["feature_names_in"]:
        model.feature_names_in_ = np.asarray(state["feature_names_in"], dtype=object)
    if isinstance(model, AutoMLClassifier):
        model.classes_ = np.asarray(model.best_.classes_)
    return model
