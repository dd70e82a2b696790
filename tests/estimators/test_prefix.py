"""The factor of a prefix is the best one, and never worse than none; the grid halves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from automl.estimators.prefix import BOUND, count, fit_rescale, halves, link


def log_loss(y: NDArray[Any], scores: NDArray[Any], task: str, weights: NDArray[Any] | None = None) -> float:
    chosen = link(task, scores)[np.arange(len(y)), y]
    return float(np.average(-np.log(np.maximum(chosen, 1e-300)), weights=weights))


def test_the_grid_halves_down_to_five_trees() -> None:
    assert halves(100) == (1 / 2, 1 / 4, 1 / 8, 1 / 16)
    assert [count(share, 100) for share in halves(100)] == [50, 25, 12, 6]
    assert len(halves(2000)) == 6
    assert halves(9) == ()
    assert halves(1) == ()
    assert count(1 / 64, 3) == 1


@pytest.mark.parametrize("task", ["binary", "multiclass"])
@pytest.mark.parametrize("boldness", [0.02, 0.5, 1.0, 3.0, 200.0])
def test_the_factor_never_makes_the_log_loss_worse_and_is_the_best(task: str, boldness: float) -> None:
    rng = np.random.default_rng(0)
    columns = 1 if task == "binary" else 4
    truth = rng.normal(size=(3000, columns))
    center = np.linspace(-1.0, 1.0, columns)
    p = link(task, center + truth)
    y = (rng.random(len(p))[:, None] > p.cumsum(axis=1)).sum(axis=1).clip(0, p.shape[1] - 1)
    added, weights = boldness * truth, rng.integers(1, 4, len(y)).astype(float)
    for w in (None, weights):
        factor = fit_rescale(task, y, center, added, w)
        at = {a: log_loss(y, center + a * added, task, w) for a in (1.0, factor, 0.97 * factor, 1.03 * factor)}
        assert at[factor] <= at[1.0]
        if 1 / BOUND < 1 / boldness < BOUND:
            assert factor == pytest.approx(1 / boldness, rel=0.2)
            assert at[factor] <= min(at[0.97 * factor], at[1.03 * factor])
        assert 1 / BOUND <= factor <= BOUND


def test_separable_scores_and_none_at_all_have_a_factor() -> None:
    y = np.array([0, 1] * 50)
    apart = (2.0 * y - 1.0)[:, None]
    assert 8.0 < fit_rescale("binary", y, np.zeros(1), apart) <= BOUND
    assert fit_rescale("binary", y, np.zeros(1), -apart) >= 1 / BOUND
    assert fit_rescale("binary", y, np.zeros(1), np.zeros((100, 1))) == 1.0
    assert fit_rescale("regression", y.astype(float), np.zeros(1), np.zeros((100, 1))) == 1.0
    assert fit_rescale("regression", y.astype(float), np.zeros(1), apart - 0.01 * y[:, None]) > 0


def test_a_regressions_factor_is_the_slope_about_the_center() -> None:
    rng = np.random.default_rng(0)
    added = rng.normal(size=(500, 1))
    y = 1000.0 + 4.0 * added[:, 0] + 0.1 * rng.normal(size=500)
    assert fit_rescale("regression", y, np.array([1000.0]), added) == pytest.approx(4.0, rel=1e-2)
    assert fit_rescale("regression", 1000.0 + added[:, 0], np.full((500, 1), 1000.0), added) == 1.0


def test_links_are_probabilities_however_large_the_scores() -> None:
    scores = np.array([[-1e4], [0.0], [1e4]])
    assert link("binary", scores).tolist() == [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
    assert link("multiclass", np.array([[1e4, 0.0, -1e4]])).tolist() == [[1.0, 0.0, 0.0]]
    assert link("regression", scores).tolist() == [-1e4, 0.0, 1e4]
