"""The finish keeps what there is: an artifact that is gone, a race that was interrupted, a front of thousands."""

from __future__ import annotations

import math
import os
import pickle
import signal
import time
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

import automl
import automl.runtime
from automl import Budget, sharing
from automl.estimators import artifact, native
from automl.estimators.families.tree import Tree
from automl.estimators.graph import Graph
from automl.estimators.hardware import Watch
from automl.search import finalists, finish, leftovers, refits, twins
from automl.search.blends import Blends
from automl.search.ensemble import fit_of
from automl.search.estimate import scoring
from automl.search.finalists import Finalists
from automl.search.finish import Finish
from automl.search.front import exact_front, nondominated
from automl.search.growth import Growing
from automl.search.interrupt import noted
from automl.search.measure import threads_of
from automl.search.objective import Objective
from automl.search.plan import Plan
from automl.search.race import NO_TIME, Serving, race
from automl.search.record import Losses
from automl.search.refits import Finalist
from automl.search.strategies.auto import Auto
from automl.search.trial import Measurement, Trial


@pytest.fixture(scope="module")
def table() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 3))
    return X, (X[:, 0] + rng.normal(size=300) > 0).astype(int)


QUICK: dict[str, Any] = {"families": ["baseline", "linear"], "budget": Budget(trials=2)}


def test_the_exact_front_is_what_dominance_says() -> None:
    rng = np.random.default_rng(0)
    for levels in (3, 1000):
        values = rng.integers(0, levels, size=(200, 3)).astype(float)
        assert sorted(exact_front(values)) == list(np.flatnonzero(nondominated(values)))


def test_a_front_of_thousands_is_found_at_once() -> None:
    values = np.random.default_rng(0).random((5000, 4))
    start = time.monotonic()
    assert exact_front(values)
    assert time.monotonic() - start < 2.0


def test_the_first_signal_is_noted_and_the_second_raised() -> None:
    done = []
    with noted(lambda: done.append("noted")):
        signal.raise_signal(signal.SIGINT)
        done.append("went on")
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert done == ["noted", "went on"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_the_callers_hears_of_it_and_the_systems_own_stays() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:
        with noted(lambda: heard.append(0)):
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
            signal.raise_signal(signal.SIGINT)
        assert heard == [0, signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("where", ["race", "supervise"])
def test_an_interrupt_while_finishing_keeps_the_front(table: Any, where: str, monkeypatch: Any) -> None:
    module = finish if where == "race" else refits
    before = getattr(module, where)

    def interrupt(*given: Any, **named: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return before(*given, **named)

    monkeypatch.setattr(module, where, interrupt)
    model = automl.fit(*table, **QUICK)
    assert model.interrupted_
    best = model.front_[0]
    assert best.predict(table[0]).shape == (300,)


def test_without_time_for_the_race_the_searchs_quick_look_is_shown_and_the_rest_left_open(
    table: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(finish, "race", lambda artifacts, *_, **__: [NO_TIME for _ in artifacts])
    model = automl.fit(*table, **QUICK)
    best = model.front_[0]
    assert best.latency_p99_seconds is None
    assert best.latency_p50_low is None
    assert best.latency_p50_seconds > 0
    assert best.disturbed
    with pytest.raises(automl.errors.InfeasibleError, match="p99"):
        model.front_.choose(max_latency_p99="1h")
    assert "" in model.front_.table()[1]
    assert model.front_._repr_html_()
    assert len(model.leaderboard()) == len(model.front_)


def test_the_rate_of_small_batches_is_shown_where_there_was_no_time_for_large_ones(table: Any) -> None:
    front = automl.fit(*table, **QUICK).front_
    front[0].entry |= {"rows_per_second": None, "rows_per_second_1000": 54321.0}
    assert "54,321" in front.table()[1]


@pytest.mark.parametrize(("known", "left"), [((0, 2), [0, 2]), ((), [0, 1, 2]), ((3,), [0, 1, 2])])
def test_a_model_without_a_score_on_the_holdout_is_left_out_where_others_have_one(
    known: tuple[int, ...], left: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    validation = {number: np.ones(5, np.float32) for number in range(4)}
    losses = Losses(validation, {number: np.ones(4 if number in known else 0, np.float32) for number in range(4)})
    study: Any = SimpleNamespace(
        losses=losses, setting=SimpleNamespace(merge=True, metric=SimpleNamespace(name="poisson"))
    )
    models: list[Any] = [SimpleNamespace(trial=SimpleNamespace(number=number)) for number in range(3)]
    one = Finish.__new__(Finish)
    one.study = study
    assert [m.trial.number for m in one._scored(models)] == left
    assert len({len(scoring(study)[number]) for number in left}) == 1
    assert ("poisson is not defined" in caplog.text) == (len(left) < 3)


def test_the_reserve_is_reckoned_while_every_core_has_a_trial(table: Any, monkeypatch: Any) -> None:
    idle, before = [], Finish.reckon

    def reckon(self: Finish) -> None:
        idle.append(self.study.setting.slots - len(self.study.running()))
        before(self)

    monkeypatch.setattr(Finish, "reckon", reckon)
    automl.fit(*table, families=["baseline", "linear", "tree"], budget=Budget(time=30, trials=4), n_jobs=1)
    assert len(idle) >= 4
    assert not any(idle[1:])  # but for the first, before any


def test_a_finalist_without_artifact_is_left_out(table: Any, monkeypatch: Any) -> None:
    original = refits.supervise

    def fails_and_forgets(job: Any, *rest: Any) -> Any:
        for folder in (job.data / "trials").iterdir():
            (folder / "manifest.json").unlink()
        return original(job, 0.0, *rest[1:])

    with monkeypatch.context() as patch:
        patch.setattr(refits, "supervise", fails_and_forgets)
        with pytest.raises(automl.errors.InfeasibleError):
            automl.fit(*table, families=["baseline"], budget=Budget(trials=1))


class Fails(Objective):
    name: ClassVar[str] = "fails"
    unit: ClassVar[str] = ""
    quantity: ClassVar[str] = "columns"

    def read(self, measurement: Any) -> float | None:
        raise RuntimeError("no such figure")


def test_an_objective_that_raises_is_warned_of_once(table: Any, caplog: Any) -> None:
    model = automl.fit(*table, **QUICK, objectives=["error", Fails()])
    assert len(model.front_) >= 1
    assert sum("no such figure" in r.getMessage() for r in caplog.records) == 1


class Refuses(Executor):
    """An executor that does to its tasks what can happen to them."""

    _max_workers = 1

    def __init__(self, error: BaseException | None) -> None:
        self.error = error

    def submit(self, *_: Any, **__: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if isinstance(self.error, CancelledError):
            future.cancel()
            future.set_running_or_notify_cancel()
        elif self.error is not None:
            future.set_exception(self.error)
        return future


@pytest.mark.parametrize(
    "error", [pickle.PicklingError("no"), BrokenExecutor("dead"), CancelledError(), OSError("gone")], ids=str
)
def test_what_an_executor_does_is_a_status(table: Any, error: BaseException) -> None:
    model = automl.fit(*table, families=["baseline", "linear"], budget=5, executor=Refuses(error))
    trials = model.front_.found["trials"]
    assert trials["crashed"] + trials["failed"] >= 1
    assert model.front_[0].family in ("baseline", "linear")


def test_an_executor_that_never_ends_a_task_does_not_hold_the_budget(table: Any) -> None:
    start = time.monotonic()
    model = automl.fit(*table, families=["baseline"], budget=5, executor=Refuses(None))
    assert time.monotonic() - start < 6.0
    assert model.front_.found["trials"]["timeout"] >= 1


class OwnTree(Tree):
    name: ClassVar[str] = "own_tree"
    order: ClassVar[int] = 1

    def build(self, *args: Any, **options: Any) -> Any:
        import resource

        return super().build(*args, **options) if resource.getrlimit(resource.RLIMIT_DATA)[0] > 0 else None


def test_a_family_of_the_users_is_never_fitted_in_the_caller(table: Any, monkeypatch: Any) -> None:
    from automl.search import study

    seen: list[str] = []
    real = study.fit_here
    monkeypatch.setattr(study, "fit_here", lambda job: seen.append(job.family.name) or real(job))
    automl.fit(*table, families=["baseline", OwnTree()], budget=4)
    assert set(seen) <= {"baseline"}


def test_the_memory_limit_holds_for_all_trials_together() -> None:

    from automl.run import Options
    from automl.sharing import share_memory

    options: Any = Options(None, (), (), "auto", 60.0, None, 200_000_000, 8, False, 0, 0.0)  # type: ignore[arg-type]
    assert share_memory(options, 8) == (3, 66_666_666)
    assert share_memory(replace(options, memory_bytes=10_000_000), 8) == (1, 10_000_000)
    assert share_memory(replace(options, memory_bytes=None, budget_seconds=math.inf), 2)[0] == 2
    pool: Any = object()  # of workers that may be anywhere: of their memory nothing is known
    assert share_memory(replace(options, memory_bytes=None), 64, pool) == (64, None)
    assert share_memory(options, 64, pool) == (64, 200_000_000)


@pytest.fixture(scope="module")
def steep() -> tuple[Any, Any]:
    """What large models are much better at than small ones."""
    rng = np.random.default_rng(0)
    X = rng.uniform(-3, 3, size=(1500, 4))
    return X, np.sin(3 * X[:, 0]) * np.cos(2 * X[:, 1]) + 0.3 * X[:, 2] + 0.05 * rng.normal(size=1500)


def completed(number: int, error: float, parent: int | None = None, prefix: float = 1.0) -> Trial:
    plan = Plan("lightgbm", (("n_estimators", number if parent is None else parent),), prefix=prefix)
    measured = Measurement(error=error, training_seconds=1.0)
    return Trial(number, plan, 100, 0, "completed", measurement=measured, parent=parent)


def test_a_reference_is_finished_unless_another_is_better_for_sure() -> None:
    trials = [completed(number, error) for number, error in ((1, 1.0), (2, 1.5), (3, 2.0))]
    one = Finalists(SimpleNamespace(references={trials[2].plan.id}, best_rung=lambda: trials))  # type: ignore[arg-type]
    values = np.array([[t.measurement.error or 0.0, 1.0] for t in trials])
    for noise, found in ((0.1, []), (0.5, [2])):  # by 10 and by 2 standard errors, of three models
        assert one._references(trials, values, np.full((3, 3, 2), noise)) == found


def test_an_ensemble_is_put_together_before_what_is_dear_and_no_member_is_fitted() -> None:
    fits = [[completed(number, number / 10)] for number in range(1, 6)]
    seconds = {1: 30.0, 2: 40.0, 3: 1.0, 4: 20.0, 5: 2.0}
    limits = SimpleNamespace(seconds=300.0, memory_bytes=None)
    setting = SimpleNamespace(limits=limits, threads=2, split=SimpleNamespace(folds=(), cross_validated=False))
    one = Finish(SimpleNamespace(setting=setting, best_rung=lambda: [t for (t,) in fits]))  # type: ignore[arg-type]
    one.refits.predict = lambda group, beside=False: seconds[group[0].number]  # type: ignore[method-assign]
    blend = Plan("ensemble", members=tuple((t.plan, 1) for (t,) in (fits[0], fits[3])))
    ensemble = Trial(9, blend, 100, 0, "completed", measurement=Measurement(error=0.05))

    def numbers(groups: list[list[Trial]]) -> list[int]:
        return [group[0].number for group in groups]

    first, rest, alone = one._in_order(fits, [ensemble])
    assert (numbers(first), numbers(rest), alone) == ([1, 3, 5, 4], [2], True)
    first, rest, _ = one._in_order(fits, [])
    assert (numbers(first), numbers(rest)) == ([1, 3, 5, 4, 2], [])
    assert one._in_order([], [ensemble]) == ([], [], False)


def finalist(trial: Trial, size: float = 1.0) -> Finalist:
    return Finalist(trial, trial.plan, replace(trial.measurement, size_bytes=size), Path(f"t{trial.number}"))


def test_the_whole_model_stands_for_a_prefix_that_was_not_finished() -> None:
    whole, prefix, other = completed(1, 0.3), completed(2, 0.2, parent=1, prefix=0.5), completed(3, 0.5)
    made = [finalist(whole), finalist(other)]
    assert finish.shown(made, [prefix, other], {1}) == made
    assert finish.shown([*made, finalist(prefix)], [prefix, other], {1})[0].trial is other
    assert finish.shown(made[:1], [other], {1}) == made[:1]


def test_the_most_accurate_are_measured_first_but_for_the_smallest() -> None:
    models = [finalist(completed(number, 1.0 - number / 10), size=number) for number in range(1, 8)]
    assert [m.trial.number for m in finish.in_turn(models)] == [1, 7, 6, 5, 2, 3, 4]
    assert finish.in_turn(models[:1]) == models[:1]


def test_how_fast_a_familys_fits_go_is_told_by_those_that_were_made() -> None:
    setting = SimpleNamespace(limits=SimpleNamespace(seconds=300.0), threads=2)
    one = refits.Refits(SimpleNamespace(setting=setting), lambda: 0.0)  # type: ignore[arg-type]
    one._learn("lightgbm", 0.2, 9.0)  # too short to tell
    assert one.pace("lightgbm") == 1.0
    one._learn("lightgbm", 10.0, 16.5)
    assert one.pace("lightgbm") == 1.5
    one._learn("lightgbm", 10.0, 90.0)
    assert one.pace("lightgbm") == refits.SLOWEST
    one._learn("network", 10.0, 2.0)
    assert one.pace("network") == 1.0


def test_a_member_that_was_fitted_late_serves_all_ensembles() -> None:
    members = [completed(number, number / 10) for number in (1, 2, 3)]
    fitted: list[int] = []

    def fit(group: list[Trial], keep: float) -> list[Finalist]:
        fitted.extend(t.number for t in group)
        return [finalist(t) for t in group]

    study: Any = SimpleNamespace(
        best_rung=lambda: members,
        setting=SimpleNamespace(here=1, limits=SimpleNamespace(seconds=300.0)),
        left=lambda: 60.0,
    )
    blends = Blends(study, SimpleNamespace(fit=fit, exporting=lambda t: 0.1), lambda: 5.0, lambda loading: 5.0)  # type: ignore[arg-type]
    blends._blend = lambda trial, parts: None  # type: ignore[method-assign]
    ensembles = [
        Trial(9 + i, Plan("ensemble", members=tuple((t.plan, 1) for t in pair)), 100, 0, "completed")
        for i, pair in enumerate(([members[0], members[2]], [members[1], members[2]]))
    ]
    made = [finalist(t) for t in members[:2]]
    for ensemble in ensembles:
        blends.finished([ensemble], made)
    assert fitted == [3]
    assert blends.of_finished(ensembles) == []  # nothing is missing: they failed for another reason


def test_a_fit_is_finished_as_what_is_best_of_it(steep: Any, monkeypatch: Any) -> None:
    """Its whole model takes longer, and is finished only where it is better than its prefixes, or cheaper than none."""
    seen: list[tuple[list[Trial], list[Trial]]] = []
    before = Finish.run

    def run(self: Finish) -> list[Finalist]:
        seen.append((self.choice.chosen(), list(self.study.trials)))
        return before(self)

    monkeypatch.setattr(Finish, "run", run)
    options: dict[str, Any] = {
        "families": ["lightgbm"],
        "budget": Budget(trials=12),
        "n_jobs": 1,
        "objectives": ["error"],
    }
    automl.fit(*steep, **options, random_state=0)
    ((found, trials),) = seen
    done = [t for t in trials if t.status == "completed"]
    assert len({fit_of(t) for t in found}) >= 3
    for t in found:
        own = [d for d in done if fit_of(d) == fit_of(t) and d.plan.variant[1:] == t.plan.variant[1:]]
        better = [d for d in own if (d.measurement.error or 0.0) < (t.measurement.error or 0.0)]
        assert not better


@pytest.mark.parametrize("objectives", [["error"], ["error", "training_time"]])
def test_a_model_that_meets_a_limit_is_finished_whatever_the_objectives_are(steep: Any, objectives: list[str]) -> None:
    """The limit is on what is no objective: the models that meet it are on no front, and all finalists would be larger."""
    options: dict[str, Any] = {"budget": Budget(trials=24), "n_jobs": 1, "random_state": 0, "objectives": objectives}
    options |= {"families": ["lightgbm", "forest", "linear", "tree"]}
    free = automl.fit(*steep, **options)
    least = min(m.size_bytes for m in free.front_)
    front = automl.fit(*steep, **options, max_size=4_000).front_
    within = [m for m in front if m.size_bytes <= 4_000]
    assert within
    assert front.choose(max_size=4_000).score == min(m.score for m in within)
    assert least > 4_000 or objectives != ["error"]


def test_the_search_has_values_of_what_is_only_measured_at_its_end(table: Any, monkeypatch: Any) -> None:
    told: list[Any] = []
    real = Auto.tell

    def tell(self: Auto, point: Any, values: Any, *rest: Any) -> None:
        told.append(values)
        real(self, point, values, *rest)

    monkeypatch.setattr(Auto, "tell", tell)

    class Tail(Objective):
        name, unit, quantity = "tail", "s", "latency_p99_seconds"

    class Late(Objective):
        name, unit, quantity = "late", "s", "latency_p50_low"

    options: dict[str, Any] = {"families": ["baseline", "linear", "tree"], "budget": Budget(trials=6)}
    model = automl.fit(*table, **options, objectives=["error", "throughput", Tail(), Late()])
    assert len(model.front_) >= 1
    known = [values for values in told if values is not None]
    assert len(known) >= 6
    assert np.isfinite(known).all()
    assert np.ptp([values[1] for values in known]) > 0.0


def test_test_scores_are_kept_in_the_run_folder(table: Any, tmp_path: Path) -> None:
    model = automl.fit(*table, **QUICK, run_dir=tmp_path / "run")
    model.front_.score_on(*table)
    again = automl.front.open_run(tmp_path / "run")
    assert [m.test_score for m in again] == [m.test_score for m in model.front_]


def negation(folder: Path) -> Finalist:
    """A model that gives its one column with the other sign."""
    tables = {"schema": [["a", "numeric"]], "encode": [{"as": "number", "column": 0}]}
    graph = Graph(1)
    model = graph.model(graph.node("Neg", graph.x)).SerializeToString()
    artifact.save(folder / "t0007", tables=tables, model=model, task="regression")
    trial = Trial(7, Plan("linear"), 10, 0, "completed", measurement=Measurement(error=1.0))
    return Finalist(trial, trial.plan, Measurement(size_bytes=1.0), folder / "t0007")


@pytest.mark.skipif(native.missing() is not None, reason=f"no compiled engine here: {native.missing()}")
def test_a_model_is_offered_on_the_compiled_engine_as_the_same_graph(tmp_path: Path) -> None:
    known = negation(tmp_path)
    trial = known.trial
    assert twins.compiled_twins([known], 0) == []
    (twin,) = twins.compiled_twins([known, known], 1)
    assert (twin.plan.hardware.engine, twin.trial) == ("compiled", trial)
    assert twin.plan.id != trial.plan.id
    assert twin.measurement.size_bytes == sum(file.stat().st_size for file in twin.artifact.iterdir())
    assert (twin.artifact / "model.onnx").samefile(tmp_path / "t0007" / "model.onnx")
    found, same = race([twin.artifact, known.artifact], [{"a": 1.0}, {"a": None}], 8.0)
    assert isinstance(found, Serving)
    assert isinstance(same, Serving)
    assert automl.runtime.load(twin.artifact).engine == "compiled"


def test_a_model_is_offered_with_threads_for_its_batches_as_the_same_graph(tmp_path: Path) -> None:
    known = negation(tmp_path)
    trial = known.trial
    assert twins.threaded_twins([known], 0, 2) == twins.threaded_twins([known], 5, 1) == []
    (twin,) = twins.threaded_twins([known], 5, 2)
    assert twin.plan.hardware.serving_threads == 2
    assert twin.plan.id != trial.plan.id
    assert (threads_of(twin.artifact), threads_of(known.artifact)) == (2, 1)
    served = automl.runtime.load(twin.artifact)
    assert served.threads == min(2, os.cpu_count() or 1)
    assert automl.runtime.load(twin.artifact, threads=1).threads == 1
    assert served.predict({"a": [1.0, 2.0, 3.0]}).tolist() == [-1.0, -2.0, -3.0]
    (found,) = race([twin.artifact], [{"a": 1.0}], 5.0)
    assert isinstance(found, Serving)
    assert found.rows_per_second is not None


def test_with_the_objective_throughput_the_front_says_on_how_many_threads_a_batch_is_served(table: Any) -> None:
    front = automl.fit(
        *table, families=["linear", "forest"], objectives=["error", "throughput"], budget=Budget(trials=4)
    ).front_
    for model in front:
        threads = model.plan["hardware"]["serving_threads"]
        assert threads == automl.runtime.load(model.path).threads
        assert ("batches on" in front_line(front, model.id)) == (threads > 1)


def front_line(front: Any, name: str) -> str:
    return next(cells[1] for cells in front.table() if cells[0] == name)


@pytest.mark.parametrize(("free", "threads"), [(1.0, 1), (2.0, 2)])
def test_on_a_busy_machine_the_fits_on_all_rows_have_one_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, threads: int
) -> None:
    jobs: list[Any] = []
    supervise, laws = refits.supervise, Growing.measure
    told: list[int] = []
    monkeypatch.setattr(Watch, "free", lambda self: free)
    monkeypatch.setattr(refits, "ONE_THREAD_CELLS", 0)
    monkeypatch.setattr(refits, "QUICK_SHARE", 1.0)  # none is so dear that others run beside it
    monkeypatch.setattr(refits, "supervise", lambda job, *rest: jobs.append(job) or supervise(job, *rest))  # type: ignore[func-returns-value]
    monkeypatch.setattr(Growing, "measure", lambda self, trials, many: told.append(many) or laws(self, trials, many))  # type: ignore[func-returns-value]
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1500, 5))
    automl.fit(
        X, X[:, 0] * X[:, 1] + rng.normal(size=1500), families=["lightgbm"], budget=10, n_jobs=2, run_dir=tmp_path
    )
    assert {job.plan.hardware.threads for job in jobs if job.final} == {threads}
    assert told == [threads]


@pytest.mark.parametrize(("free", "expected"), [(1.0, (1, 1)), (3.2, (1, 3)), (4.0, (1, 4))])
def test_a_trial_of_a_large_table_has_as_many_threads_as_others_leave_cores(
    monkeypatch: pytest.MonkeyPatch, free: float, expected: tuple[int, int]
) -> None:
    monkeypatch.setattr(Watch, "free", lambda self: free)
    options: Any = SimpleNamespace(trials=None, budget_seconds=60.0, parallel_trials=False, jobs=4)
    facts: Any = SimpleNamespace(rows=1_000_000, columns=10, density=1.0)
    assert sharing.share(options, facts, None, Watch()) == expected
    few: Any = SimpleNamespace(rows=1_000, columns=10, density=1.0)
    assert sharing.share(options, few, None, Watch()) == (4, 4)
    counted: Any = SimpleNamespace(trials=5, budget_seconds=math.inf, parallel_trials=False, jobs=4)
    assert sharing.share(counted, facts, None, Watch()) == (1, 4)
    assert sharing.share(counted, few, None, Watch()) == (1, 1), (
        "a round is shorter there than the wait for a second thread"
    )


def test_what_the_end_will_not_ask_for_does_not_stay_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[set[str], set[str]]] = []

    def names(folder: Path) -> set[str]:
        return {place.stem for place in folder.glob("t*")}

    def watched(self: Finish) -> list[Finalist]:
        data = self.study.setting.data
        wanted = {fit_of(t) for t in self.choice.wanted()}
        done = [t for t in self.study.trials if t.status == "completed" and t.parent is None]
        assert len(wanted) < len(done)
        assert {f"t{n:04d}" for n in wanted} <= names(data / "trials")
        seen.append((names(data / "trials"), names(data / "predictions")))
        assert len(seen[0][0]) < len(done) / 2
        return finished(self)

    finished = Finish.run
    monkeypatch.setattr(Finish, "run", watched)
    monkeypatch.setattr(leftovers, "MOST_BYTES", 10_000.0)
    monkeypatch.setattr(finalists, "MOST_ACCURATE", 5)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 4))
    y = (X[:, 0] * X[:, 1] + rng.normal(size=600) > 0).astype(int)
    found = automl.fit(
        X, y, families=["tree", "linear"], strategy="random", budget=Budget(trials=60), n_jobs=1, run_dir=tmp_path
    )
    artifacts, predictions = seen[0]
    assert artifacts <= predictions
    assert len(predictions) < 60
    assert found.front_[0].predict(X[:9]).shape == (9,)


def test_what_is_best_where_the_models_will_live_is_on_the_front(table: Any, monkeypatch: Any) -> None:
    chosen: list[Any] = []

    def there(self: Finish, models: list[Finalist]) -> Any:
        """The worst of all here is the best there."""
        known = forecast(self, models)
        assert known.shape == (len(models), 4)
        assert np.isfinite(known[:, 0]).all()
        worst = max(range(len(models)), key=lambda i: models[i].measurement.error or 0.0)
        chosen.append(models[worst].trial.number)
        return np.where(np.arange(len(models))[:, None] == worst, 0.0, known + 1.0)

    forecast = Finish._at_target
    monkeypatch.setattr(Finish, "_at_target", there)
    fronts = []
    front = Finish._front
    monkeypatch.setattr(Finish, "_front", lambda self, models: fronts.append(front(self, models)) or fronts[-1])
    automl.fit(*table, families=["baseline", "linear", "tree"], budget=Budget(trials=8), target_rows=100_000)
    assert chosen[0] in {m.trial.number for m in fronts[0]}
