"""The greedy selection of ensembles: what it gains, what its members cost, and when it ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from automl.errors import DataError
from automl.estimators.families.tree import Tree
from automl.estimators.table import Task
from automl.search.ensemble import MEMBERS, STEPS, Pool, greedy, of_many_families, optimism, together
from automl.search.forecast import terms_of
from automl.search.metric import Metric
from automl.search.plan import ENSEMBLE, Plan
from automl.search.trial import Measurement, Trial

RMSE = Metric.resolve("rmse", Task("regression", ()))


def pool(count: int = 12, noise: float = 1.0, costs: Any = None, metric: Metric = RMSE) -> Pool:
    """Candidates that are off by noise of their own: the more are averaged, the better."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=400)
    predictions = (y + noise * rng.normal(size=(count, 400))).astype(np.float32)
    return Pool(predictions, np.ones(count) if costs is None else np.asarray(costs, float), y, metric)


def test_a_blend_of_different_errors_beats_every_member() -> None:
    given = pool()
    chosen = greedy(given, 0.0)
    assert len(set(chosen)) == MEMBERS
    assert len(chosen) <= STEPS
    assert given.error(chosen) < 0.6 * min(given.error((j,)) for j in range(12))


def test_the_dearer_a_member_the_fewer_there_are() -> None:
    sizes = [len(set(greedy(pool(), price))) for price in (0.0, 0.02, 0.1, 10.0)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[2] >= sizes[-1] == 1


def test_a_dear_member_is_taken_only_for_what_it_brings() -> None:
    given = pool(3, costs=[1.0, 1.0, 100.0])
    assert set(greedy(given, 0.0)) == {0, 1, 2}
    assert set(greedy(given, 0.01)) == {0, 1}


def test_weights_are_found_by_taking_a_member_again() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=2000)
    good, bad = y + 0.5 * rng.normal(size=2000), y + rng.normal(size=2000)
    chosen = greedy(Pool(np.stack([good, bad]).astype(np.float32), np.ones(2), y, RMSE), 0.0)
    assert chosen.count(0) / chosen.count(1) == pytest.approx(4.0, rel=0.3)  # inverse to the variances


def test_the_selection_ends_when_its_time_is_up() -> None:
    left = iter([False] * 30 + [True] * 500)
    assert len(greedy(pool(), 0.0, lambda: next(left))) == 2  # 12 looks for each of the first two members
    assert greedy(pool(), 0.0, lambda: True) == ()


def test_how_lucky_a_choice_is_is_told_by_choosing_on_halves() -> None:
    found, true = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        y = rng.normal(size=5300)
        predictions = (y + rng.normal(size=(40, 5300))).astype(np.float32)
        given = Pool(predictions[:, :300], np.ones(40), y[:300], RMSE)
        chosen = greedy(given, 0.0)
        parts = [given.of(np.arange(300) % 2 == k) for k in (0, 1)]
        found.append(optimism(parts, chosen, 0.0))
        true.append(Pool(predictions[:, 300:], np.ones(40), y[300:], RMSE).error(chosen) - given.error(chosen))
    assert 0.7 * np.mean(true) < np.mean(found) < 3 * np.mean(true)
    assert optimism(parts, chosen, 0.0, lambda: True) == 0.0


def test_an_error_is_computed_once_and_what_has_none_is_left_out() -> None:
    calls: list[int] = []

    def score(y: Any, prediction: Any, weights: Any) -> float:
        calls.append(1)
        if np.abs(prediction).max() > 1e6:
            raise DataError("not defined")
        return float(np.sqrt(np.mean((y - prediction) ** 2)))

    given = pool(metric=Metric("own", False, 0.0, False, score))
    given.predictions[3] *= 1e9
    first = greedy(given, 0.0)
    assert first
    assert 3 not in first
    before = len(calls)
    assert greedy(given, 0.0) == first
    assert len(calls) == before


def test_probabilities_are_averaged_class_by_class() -> None:
    y = np.array([0, 1, 2])
    predictions = np.stack([np.eye(3)[[0, 1, 0]], np.eye(3)[[0, 0, 2]]]).astype(np.float32)
    metric = Metric.resolve("log_loss", Task("multiclass", (0, 1, 2)))
    given = Pool(predictions, np.ones(2), y, metric)
    assert given.blend((0, 1)).tolist() == [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5]]
    assert set(greedy(given, 0.0)) == {0, 1}


def test_a_fit_that_two_members_share_is_paid_once() -> None:
    def trial(number: int, parent: int | None, seconds: float, latency: float) -> Trial:
        measured = Measurement(training_seconds=seconds, latency_p50_seconds=latency, size_bytes=10, rows=100)
        return Trial(number, Plan("forest"), 100, 0, "completed", measurement=measured, parent=parent)

    trials = [trial(0, None, 5.0, 2e-5), trial(1, 0, 5.0, 1e-5), trial(2, None, 1.0, 1e-5)]
    cost = together(trials, [t.measurement for t in trials])
    assert cost.training_seconds == 6.0
    assert cost.latency_p50_seconds == pytest.approx(4e-5)
    assert cost.size_bytes == 30
    assert cost.training_cpu_seconds is None  # of none of them was it measured


def test_an_ensembles_plan_is_plain_data_and_no_other_plans_id_changed() -> None:
    single = Plan("linear", (("C", 0.1),))
    assert single.id == "92132641d206"
    ensemble = Plan(ENSEMBLE, members=((single, 3), (Plan("tree", prefix=0.5), 1)))
    again = Plan.from_dict(ensemble.as_dict())
    assert again == ensemble
    assert again.id == ensemble.id != Plan(ENSEMBLE, members=((single, 1),)).id
    assert hash(again) == hash(ensemble)


def test_an_ensembles_law_has_the_terms_of_its_members() -> None:
    tree, own = Plan("tree"), Plan("a family of the user's")
    ensemble = Plan(ENSEMBLE, members=((tree, 1), (own, 2)))
    for quantity in ("training_seconds", "size_bytes", "latency_p50_seconds"):
        terms = terms_of(quantity, ensemble, None, 10, 2)(5000)
        assert list(terms) == [*terms_of(quantity, tree, Tree(), 10, 2)(5000), 1.0, 5000]


def test_copies_of_the_best_model_leave_room_for_other_families() -> None:
    plans = [Plan("lightgbm", (("leaves", i),)) for i in range(20)] + [Plan("network"), Plan("tree")]
    trials = [Trial(i, plan, 100, 0, "completed") for i, plan in enumerate(plans)]
    assert [t.number for t in of_many_families(trials, 3)] == [0, 1, 2, 20, 21]
