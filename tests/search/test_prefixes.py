"""Prefixes come with a trial's fit: candidates that count as no trials, and finalists that share one fit on all rows."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import automl
from automl import Budget
from automl.errors import DataError
from automl.estimators.families import by_name
from automl.estimators.table import from_frame
from automl.search import refits
from automl.search.finish import Finish
from automl.search.fitting import Job, Result, fit_job
from automl.search.metric import Metric
from automl.search.plan import from_point
from automl.search.refits import Finalist, Refits
from automl.search.split import Split
from automl.search.store import Store
from automl.search.strategy import Strategy
from automl.search.trial import Trial
from automl.search.worker import Outcome


def data(task: str, rows: int = 900) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, 5))
    score = 2 * X[:, 0] * X[:, 1] + X[:, 2] + rng.normal(size=rows)
    if task == "regression":
        return X, 100.0 + 5.0 * score
    edges = [0.7] if task == "binary" else [-1.0, 0.5]
    return X, np.array(["a", "b", "c"])[np.digitize(score, edges)]


def trial(
    folder: Path, task: str, split: Split, family: str = "lightgbm", metric: Any = None, y: Any = None, **params: Any
) -> Result:
    """One trial on 900 rows."""
    X, known = data(task)
    table, one = from_frame(X, known if y is None else y), by_name([family], ())[0]
    table.save(folder / "table")
    split.save(folder / "split.npz")
    row = {"x0": 1.0, "x1": 0.5, "x2": 0.0, "x3": 2.0, "x4": None}
    (folder / "rows.pickle").write_bytes(pickle.dumps([row]))
    facts = table.facts()
    plan = from_point({"family": family, **one.starts(facts)[0], **params}, one, facts, 1)
    job = Job(plan, one, Metric.resolve(metric, table.task), folder, folder / "a", split.rungs()[-1], 0)
    return fit_job(job)


ROWS = np.arange(900)
HELD = Split(ROWS[:500], ROWS[500:700], ROWS[700:])
FOLDS = Split(ROWS, ROWS[:0], ROWS[:0], tuple((np.delete(ROWS, ROWS[k::3]), ROWS[k::3]) for k in range(3)))


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("split", [HELD, FOLDS], ids=["holdout", "folds"])
def test_a_trial_brings_the_prefixes_that_no_shorter_one_is_as_good_as(tmp_path: Path, task: str, split: Split) -> None:
    metric = "rmse" if task == "regression" else "log_loss"
    result = trial(tmp_path, task, split, metric=metric, n_estimators=80, learning_rate=0.05)
    result = replace(result, prefixes=tuple(one for one in result.prefixes if one[0].calibration == "none"))
    plans, found = [plan for plan, _ in result.prefixes], [r for _, r in result.prefixes]
    assert [plan.prefix for plan in plans] == sorted(plan.prefix for plan in plans)
    assert len(plans) >= 3
    errors = [r.measurement.error for r in found]
    assert errors == sorted(errors, reverse=True)  # type: ignore[type-var]
    assert all(plan.rescale > 1.0 for plan in plans if plan.prefix < 0.5), "a slow start is too timid"
    for plan, one in result.prefixes:
        assert plan.params == plans[0].params
        assert one.measurement.error == pytest.approx(one.validation.mean(), rel=1e-5)
        assert one.validation.shape == result.validation.shape
        assert one.holdout.shape == result.holdout.shape
        for cost in ("size_bytes", "latency_p50_seconds", "model_memory_bytes"):
            assert 0 <= getattr(one.measurement, cost) <= getattr(result.measurement, cost)
    sizes = [r.measurement.size_bytes for r in found]
    assert sizes == sorted(sizes)  # type: ignore[type-var]
    assert sizes[0] < 0.3 * (result.measurement.size_bytes or 0.0)


def test_rescaling_learns_from_the_validation_rows_alone(tmp_path: Path) -> None:
    _, y = data("binary")
    turned = y.copy()
    turned[700:] = np.where(y[700:] == "a", "b", "a")
    results = [
        trial(tmp_path / name, "binary", HELD, metric="log_loss", y=labels, n_estimators=40, learning_rate=0.05)
        for name, labels in (("as it is", y), ("turned", turned))
    ]
    assert [plan for plan, _ in results[0].prefixes] == [plan for plan, _ in results[1].prefixes]
    assert results[0].prefixes[0][1].holdout.mean() != results[1].prefixes[0][1].holdout.mean()


@pytest.mark.parametrize("family", ["forest", "extra_trees"])
@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_a_forests_prefixes_are_plain_averages(tmp_path: Path, family: str, task: str) -> None:
    result = trial(tmp_path, task, HELD, family, n_estimators=40)
    assert result.prefixes
    assert {plan.rescale for plan, _ in result.prefixes} == {1.0}


def test_where_there_are_too_many_scores_the_longest_prefixes_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("automl.search.prefixes.MOST_SCORES", 2 * 3 * 400)  # two shares of 400 rows and three classes
    result = trial(tmp_path, "multiclass", HELD, metric="log_loss", n_estimators=80, learning_rate=0.05)
    assert {plan.prefix for plan, _ in result.prefixes} == {1 / 2, 1 / 4}


def test_one_tree_has_no_prefix_and_a_metric_that_refuses_one_leaves_it_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trial(tmp_path / "tree", "binary", HELD, "tree").prefixes == ()
    plain, calls = Metric.error, []

    def refuses(self: Metric, *given: Any) -> float:
        calls.append(given)
        if len(calls) > 2:  # the whole model's influences come first
            raise DataError("not this one")
        return plain(self, *given)

    monkeypatch.setattr(Metric, "error", refuses)
    assert trial(tmp_path / "boosted", "binary", HELD, n_estimators=40).prefixes == ()


# -- the study and its finish ------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """A run, and what was seen of it from inside."""

    folder: Path
    model: Any
    told: list[int]
    jobs: list[Job]
    made: list[tuple[list[Trial], list[Finalist]]]


def fit(run: Path, trials: int = 5, **options: Any) -> Any:
    X, y = data("binary", 400)
    options = {"families": ["baseline", "lightgbm"], "n_jobs": 1, "random_state": 0, **options}
    return automl.fit(X, y, budget=Budget(trials=trials), run_dir=run, **options)


def kept(run: Path) -> list[Trial]:
    """The trials of the search, without the points of laws: of these there are as many as there was time for."""
    with Store.open(run / "run.db", read_only=True) as store:
        return [t for t in store.trials() if t.rung >= 0]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """A run of five trials whose front is everything that was finished."""
    run = tmp_path_factory.mktemp("prefixes") / "run"
    told: list[int] = []
    jobs: list[Job] = []
    made: list[tuple[list[Trial], list[Finalist]]] = []
    tell, supervise, fitted = Strategy.tell, refits.supervise, Refits.fit

    def watched(self: Refits, group: list[Trial], *keep: float) -> list[Finalist]:
        found = fitted(self, group, *keep)
        made.append((group, found))
        assert all((m.artifact / "manifest.json").exists() for m in found)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Strategy, "tell", lambda self, *a, **k: told.append(a[3]) or tell(self, *a, **k))  # type: ignore[func-returns-value]
        patch.setattr(refits, "supervise", lambda job, *rest: jobs.append(job) or supervise(job, *rest))  # type: ignore[func-returns-value]
        patch.setattr(Refits, "fit", watched)
        patch.setattr(Finish, "_front", lambda self, models: models)
        model = fit(run)
    return Seen(run, model, told, jobs, made)


def test_prefixes_count_as_no_trials(seen: Seen) -> None:
    searched = kept(seen.folder)
    prefixes = [t for t in searched if t.parent is not None]
    wholes = {t.number: t for t in searched if t.parent is None}
    assert seen.model.front_.found["trials"]["completed"] == 5 == len(wholes)
    assert seen.told == list(wholes)
    with Store.open(seen.folder / "run.db", read_only=True) as store:
        losses = store.arrays("validation")
    assert prefixes
    for prefix in prefixes:
        parent = wholes[prefix.parent or 0]
        assert replace(prefix.plan, prefix=1.0, rescale=1.0) == parent.plan
        assert prefix.plan.prefix < 1.0
        assert prefix.wall_seconds == prefix.cpu_seconds == 0.0
        assert 0.0 < (prefix.measurement.training_seconds or 0.0) < (parent.measurement.training_seconds or 0.0)
        assert losses[prefix.number].mean() == pytest.approx(prefix.measurement.error, rel=1e-5)


def test_one_fit_on_all_rows_makes_a_model_and_its_prefixes(seen: Seen) -> None:
    assert len(seen.jobs) == len(seen.made)
    assert any(len(group) > 1 for group, _ in seen.made)
    assert len({m.artifact for _, found in seen.made for m in found}) == sum(len(group) for group, _ in seen.made)
    for job, (group, found) in zip(seen.jobs, seen.made, strict=True):
        assert [m.trial for m in found] == group
        assert [m.plan.prefix for m in found] == [t.plan.prefix for t in group]
        assert all(m.proof["largest_difference"] <= 1e-5 for m in found)
        sizes = [m.measurement.size_bytes for m in sorted(found, key=lambda m: m.plan.prefix)]
        assert sizes == sorted(sizes)  # type: ignore[type-var]
        assert len({m.measurement.training_seconds for m in found}) == 1
        longest, trees = max(t.plan.prefix for t in group), dict(group[0].refit).get("n_estimators", 100)
        if group[0].plan.family == "lightgbm":
            deployed = dict(job.plan.params).get("n_estimators", 100)
            assert deployed == round(longest * trees), "a tree that is not deployed was fitted"


def test_a_prefix_on_the_front_says_so_and_predicts(seen: Seen) -> None:
    prefix = next(m for m in seen.model.front_ if m.plan["prefix"] < 1.0)
    assert prefix.family == "lightgbm"
    assert prefix.predict_proba(data("binary", 50)[0]).shape == (50, 2)
    line = next(cells for cells in seen.model.front_.table() if cells[0] == prefix.id)
    assert line[1] == f"lightgbm, 1/{round(1 / prefix.plan['prefix'])} of its trees"


def test_a_resumed_run_has_the_prefixes(seen: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(seen.folder, tmp_path / "run")
    monkeypatch.setattr(Finish, "_front", lambda self, models: models)
    again = fit(tmp_path / "run", resume=True)
    assert again.front_.found["trials"] == seen.model.front_.found["trials"]
    assert [t.as_dict() for t in kept(tmp_path / "run")] == [t.as_dict() for t in kept(seen.folder)]
    # how many are offered on the compiled engine as well hangs on the clock
    plans = [
        sorted(str(m.plan) for m in model.front_ if m.plan["hardware"]["engine"] == "onnx")
        for model in (again, seen.model)
    ]
    assert plans[0] == plans[1]


def test_the_same_seed_gives_the_same_prefixes_and_without_a_last_fit_the_whole_models_stand_for_them(
    seen: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[list[Trial]] = []
    plain = Refits.fit
    monkeypatch.setattr(Refits, "fit", lambda self, group, *keep: groups.append(group) or plain(self, group, *keep))  # type: ignore[func-returns-value]
    monkeypatch.setattr(refits, "supervise", lambda *_: Outcome("timeout", "after 0 s"))
    model = fit(tmp_path / "run")

    def steering(trials: list[Trial]) -> list[Any]:
        return [(t.number, t.parent, t.plan, t.measurement.error, t.measurement.size_bytes) for t in trials]

    assert steering(kept(tmp_path / "run")) == steering(kept(seen.folder))
    finalists = [[steering(group) for group in made] for made in (groups, [group for group, _ in seen.made])]
    assert sorted(map(str, finalists[0])) == sorted(map(str, finalists[1]))  # which comes first hangs on the clock
    assert any(t.parent is not None for group in groups for t in group)
    assert {m.plan["prefix"] for m in model.front_} == {1.0}
    assert len(model.predict(data("binary", 50)[0])) == 50
