"""Scaling laws: they recover what made their points, widen with the distance, and refuse what they can't know."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from automl.search.scaling import (
    CONFORMAL_FROM,
    KAPPA,
    CostLaw,
    ErrorLaw,
    Forecast,
    Growth,
    RefusalError,
    conformal,
    exponent,
    judge,
    kind_of,
    linear_terms,
    threads_law,
)

ROWS = [1000.0, 4000.0, 16000.0]


def errors(rows: list[float], a: float = 0.05, b: float = 0.05, c: float = 0.5) -> list[float]:
    return [a + b * (n / rows[-1]) ** -c for n in rows]


def power_law(a: float, b: float, c: float) -> ErrorLaw:
    return ErrorLaw(ROWS, errors(ROWS, a, b, c), [0.001] * 3)


@pytest.mark.parametrize(("a", "b", "c"), [(0.05, 0.05, 0.5), (0.0, 0.1, 0.3), (0.2, 0.02, 1.0)])
@pytest.mark.parametrize("horizon", [2, 4, 16])
def test_the_error_law_finds_the_curve_that_made_its_points(a: float, b: float, c: float, horizon: int) -> None:
    truth = a + b * horizon**-c
    found = power_law(a, b, c).at(horizon * ROWS[-1])
    assert found.low <= truth <= found.high
    assert abs(found.value - truth) < (0.04 + 0.013 * horizon) * truth


def test_a_forecast_is_less_certain_the_farther_it_goes() -> None:
    law = power_law(0.05, 0.05, 0.5)
    widths = [law.at(h * ROWS[-1]) for h in (1, 2, 4, 16, 100)]
    assert all(f.high - f.low < g.high - g.low for f, g in pairwise(widths))
    assert [f.kind for f in widths] == ["measured", "forecast", "forecast", "forecast", "indicative"]


@pytest.mark.parametrize("unit", [1e-6, 1e4])
def test_the_unit_of_the_error_makes_no_other_law(unit: float) -> None:
    rows = [1000.0, 4000.0, 16000.0]
    one, other = (ErrorLaw(rows, [v * u for v in errors(rows)], [0.001 * u] * 3) for u in (1.0, unit))
    for n in (16000.0, 256000.0):
        assert other.predictive(n) == pytest.approx([v * unit for v in one.predictive(n)])


def test_an_error_is_never_forecast_below_zero() -> None:
    assert power_law(0.0, 0.01, 0.5).at(1e9).low >= 0


def test_a_flat_curve_stays_where_it_is() -> None:
    found = ErrorLaw(ROWS, [0.3, 0.3, 0.3], [0.001] * 3).at(4 * ROWS[-1])
    assert found.value == pytest.approx(0.3, rel=0.02)


def test_a_curve_that_rises_has_its_interval_doubled() -> None:
    calm = ErrorLaw(ROWS, [0.30, 0.30, 0.30], [0.005] * 3)
    rising = ErrorLaw(ROWS, [0.30, 0.30, 0.315], [0.005] * 3)
    assert rising.ill_behaved
    assert not calm.ill_behaved
    f, g = calm.at(64000), rising.at(64000)
    assert g.high - g.low > 1.8 * (f.high - f.low)


@pytest.mark.parametrize(
    ("rows", "values", "why"),
    [
        (ROWS[:2], [0.2, 0.1], "2 row counts"),
        (ROWS, [0.2, 0.1, -0.1], "negative"),
        (ROWS, [0.2, math.inf, 0.1], "infinite"),
        (ROWS, [0.1, 0.9, 0.1], "no power law"),
    ],
)
def test_what_makes_no_error_law_is_refused_with_its_reason(rows: list[float], values: list[float], why: str) -> None:
    with pytest.raises(RefusalError, match=why):
        ErrorLaw(rows, values, [0.001] * len(rows))


def test_the_error_laws_exponent_has_an_interval_around_the_true_one() -> None:
    found = power_law(0.0, 0.1, 0.4).exponent
    assert found.low <= 0.4 <= found.high


# -- costs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("terms", "truth"),
    [
        (linear_terms, lambda n: 1e6 + 300 * n),
        (lambda n: (1.0, 1e-6 * n * math.log2(n)), lambda n: 0.05 + 1e-6 * n * math.log2(n)),
        (lambda n: (1.0, min(31.0, n / 30)), lambda n: 900 + 40 * min(31.0, n / 30)),
    ],
)
def test_a_cost_law_finds_the_mix_of_its_terms(terms: object, truth: object) -> None:
    law = CostLaw(terms, ROWS, [truth(n) for n in ROWS], Growth())  # type: ignore[operator, arg-type]
    for horizon in (1, 4, 16):
        found = law.at(horizon * ROWS[-1])
        assert found.value == pytest.approx(truth(horizon * ROWS[-1]), rel=0.15)  # type: ignore[operator]
        assert found.low < found.value < found.high


def test_the_terms_alone_extrapolate_a_single_point() -> None:
    law = CostLaw(lambda n: (1e-6 * n, 1e-4), [1000.0], [2e-3], Growth(prior=2.0))
    assert law.at(8000.0).value == pytest.approx(2e-3 * 8.1 / 1.1, rel=0.05)


def test_a_cost_that_its_terms_cannot_follow_is_refused() -> None:
    with pytest.raises(RefusalError, match="times off"):
        CostLaw(linear_terms, [100.0, 200.0, 400.0, 800.0], [1.0, 1000.0, 1.0, 1000.0], Growth())
    with pytest.raises(RefusalError, match="positive"):
        CostLaw(linear_terms, ROWS, [1.0, 0.0, 2.0], Growth())


def test_the_measured_exponent_has_an_honest_interval() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        values = [1e-3 * n**0.8 * math.exp(rng.normal(0, 0.08)) for n in ROWS]
        found = exponent(ROWS, values)
        held += found.low <= 0.8 <= found.high
    assert 0.85 <= held / 200 <= 1.0
    assert exponent(ROWS, [n**1.5 for n in ROWS]).value == pytest.approx(1.5)
    two, three = exponent(ROWS[1:], ROWS[1:]), exponent(ROWS, ROWS)
    assert two.high - two.low > three.high - three.low
    with pytest.raises(RefusalError):
        exponent([100.0], [1.0])
    assert "n^1.00" in three.text("size")


# -- threads, calibration, looking back ------------------------------------------------------------------------------------


def test_amdahls_law_is_found_in_its_own_speedups() -> None:
    law = threads_law([1, 2, 8], [10.0, 10 * (0.2 + 0.8 / 2), 10 * (0.2 + 0.8 / 8)])
    assert law.parallel == pytest.approx(0.8)
    assert law.speedup(4) == pytest.approx(1 / (0.2 + 0.2))
    assert threads_law([1, 2], [1.0, 1.5]).parallel == 0.0  # slower with two: no part of it is parallel
    with pytest.raises(RefusalError):
        threads_law([2, 4], [1.0, 0.5])


def test_enough_residuals_replace_the_calibrated_width() -> None:
    assert conformal([9.0] * (CONFORMAL_FROM - 1)) == KAPPA
    scores = list(np.linspace(0.0, 3.0, 100))
    width = conformal(scores)
    assert np.mean(np.asarray(scores) <= width) == pytest.approx(0.9, abs=0.02)


def test_a_backtest_counts_what_its_words_say() -> None:
    forecasts = [Forecast(100, v, 0.9 * v, 1.1 * v, "forecast") for v in (10.0, 20.0, 30.0)]
    found = judge("error", 4, forecasts, [10.0, 25.0, 30.0], [12.0, 30.0, 33.0])
    assert found.mape == pytest.approx(0.2 / 3)
    assert found.median_ape == 0.0
    assert found.coverage == pytest.approx(2 / 3)
    assert found.rank == pytest.approx(1.0)
    assert found.ratio_to_last == pytest.approx(5 / (2 + 5 + 3))


def test_how_far_a_forecast_goes_has_a_name() -> None:
    assert kind_of(500, (100, 1000)) == "measured"
    assert kind_of(16_000, (100, 1000)) == "forecast"
    assert kind_of(17_000, (100, 1000)) == "indicative"
    assert kind_of(5, (100, 1000)) == "indicative"
