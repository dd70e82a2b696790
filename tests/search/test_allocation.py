"""The index of an action: hypervolume is counted as moocore computes it, order doesn't matter, and more is worth more."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from automl.search.allocation import (
    POINTS,
    SAMPLES,
    Falls,
    chances,
    improvements,
    index,
    normals,
    open_points,
    power,
    sobol,
    within,
)
from automl.search.front import volume

quick = settings(deadline=None, max_examples=40)
unit = st.floats(0.0, 1.0, width=32)


def positions(rows: int, columns: int = 3) -> st.SearchStrategy[np.ndarray]:
    return arrays(np.float64, (rows, columns), elements=unit)


@quick
@given(positions(6))
def test_the_share_of_the_cloud_is_the_hypervolume(front: np.ndarray) -> None:
    assert 1 - len(open_points(front)) / POINTS == pytest.approx(volume(front), abs=0.02)


@quick
@given(positions(5), positions(1))
def test_an_improvement_is_the_hypervolume_that_is_gained(front: np.ndarray, candidate: np.ndarray) -> None:
    gained = volume(np.vstack([front, candidate])) - volume(front)
    assert improvements(front, candidate[None])[0] == pytest.approx(gained, abs=0.02)


@quick
@given(positions(5), positions(12), st.randoms(use_true_random=False))
def test_no_order_matters(front: np.ndarray, rows: np.ndarray, random: object) -> None:
    rng = np.random.default_rng(random.randint(0, 99))  # type: ignore[attr-defined]
    samples, order = rows.reshape(3, 4, 3), rng.permutation(3)
    for measure in (improvements, chances):
        once = measure(front, samples)
        assert measure(front[rng.permutation(5)], samples[order][:, rng.permutation(4)]) == pytest.approx(once[order])


@quick
@given(positions(5), positions(4), unit)
def test_a_better_candidate_is_never_worth_less(front: np.ndarray, sample: np.ndarray, share: float) -> None:
    better = sample * share
    for measure in (improvements, chances):
        assert measure(front, better[None])[0] >= measure(front, sample[None])[0]


@quick
@given(positions(5), positions(1), positions(4))
def test_a_larger_front_leaves_less_to_gain(front: np.ndarray, more: np.ndarray, sample: np.ndarray) -> None:
    for measure in (improvements, chances):
        assert measure(np.vstack([front, more]), sample[None])[0] <= measure(front, sample[None])[0]


@quick
@given(positions(5))
def test_a_plan_that_is_on_the_front_as_it_is_gains_nothing(front: np.ndarray) -> None:
    assert improvements(front, front[:, None]).max() == chances(front, front[:, None]).max() == 0.0


def test_a_chance_is_seen_where_the_gain_is_too_small_for_the_cloud() -> None:
    front = np.array([[0.5, 0.5]])
    tiny = np.array([[[0.5 - 1e-9, 0.5]]])
    assert chances(front, tiny)[0] == 1.0
    assert improvements(front, tiny)[0] <= 1 / POINTS


def test_the_cloud_and_the_deviates_are_the_same_in_every_run() -> None:
    assert (sobol.__wrapped__(4, POINTS) == sobol(4, POINTS)).all()
    assert normals(4).shape == (SAMPLES, 4)
    assert np.abs(normals(4).mean(axis=0)).max() < 0.1
    assert normals(4).std(axis=0) == pytest.approx(1.0, abs=0.1)


@quick
@given(st.floats(0, 1), st.floats(0, 100), st.floats(0, 100), st.floats(0, 2))
def test_the_index_rises_with_what_is_gained_and_falls_with_its_cost(
    gain: float, seconds: float, more: float, spent: float
) -> None:
    here = index(gain, seconds, 0.1, spent)
    assert index(gain, seconds + more, 0.1, spent) <= here <= index(1.0, seconds, 0.1, spent)


def test_cost_counts_less_towards_the_end() -> None:
    assert [power(x) for x in (0.0, 0.5, 0.9, 2.0)] == [1.0, 0.5, 0.3, 0.3]
    dear, cheap = (0.1, 8.0, 0.1), (0.02, 0.4, 0.1)
    assert index(*cheap, 0.0) > index(*dear, 0.0)
    assert index(*dear, 1.0) > index(*cheap, 1.0)


def test_a_limit_is_met_half_of_the_time_at_the_median() -> None:
    assert within(2.0, 2.0, 0.3) == pytest.approx(0.5)
    assert within(1.0, 2.0, 0.3) == pytest.approx(0.99, abs=0.005)
    assert within(0.0, 2.0, 0.3) == 1.0
    assert within(3.0, 2.0, 0.0) < 1e-6


def test_a_family_that_falls_faster_than_usual_is_believed_to_after_it_was_seen() -> None:
    falls = Falls()
    mean, sd = falls.ratio("lightgbm", 4.0)
    assert mean == pytest.approx(math.log(0.8 + 0.2 * 4**-0.46))
    for _ in range(5):
        falls.observe("lightgbm", 4.0, 1.0, 0.6)
    own, other = falls.ratio("lightgbm", 4.0), falls.ratio("linear", 4.0)
    assert math.log(0.6) < own[0] < other[0] < mean, "the others are moved as well, and less"
    assert own[1] < other[1] <= sd
    assert falls.ratio("lightgbm", 1.0) == (0.0, 0.0)


def test_errors_that_are_no_errors_teach_nothing() -> None:
    falls = Falls()
    falls.observe("linear", 4.0, -1.0, -2.0)
    falls.observe("linear", 1.0, 1.0, 0.5)
    assert not falls.seen
