"""The laws of a front's models: kept as plain data, anchored at what was measured, refused with a reason."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from automl.estimators.families import by_name
from automl.estimators.families.lightgbm import LightGBM
from automl.estimators.family import Facts
from automl.estimators.hardware import Hardware
from automl.search.forecast import CREDIT, Outlook, at_rows, crossing, law_points, laws_of, run_kappa
from automl.search.plan import Plan, from_point
from automl.search.scaling import KAPPA
from automl.search.trial import Measurement, Trial

FACTS = Facts("binary", 16_000, 10, classes=2)
FAMILY = LightGBM()
PLAN = from_point({"family": "lightgbm"}, FAMILY, FACTS, 1)


def trial(rows: int, error: float, *, plan: Plan = PLAN, number: int = 0) -> Trial:
    cost = sum(FAMILY.cost(dict(plan.params), rows, 10, 2).values()) * FAMILY.seconds_per_unit
    measured = Measurement(
        error=error,
        error_sd=0.002,
        training_seconds=cost,
        training_cpu_seconds=2 * cost,
        training_memory_bytes=5_000_000 + 500 * rows,
        size_bytes=1000 + 30 * FAMILY.capacity(dict(plan.params), rows),
        latency_p50_seconds=1e-5,
        model_memory_bytes=2e6,
        rows=rows,
    )
    return Trial(number, plan, rows, -1, "completed", measurement=measured)


def curve(a: float, b: float, c: float) -> list[Trial]:
    return [trial(n, a + b * (n / 16_000) ** -c, number=k) for k, n in enumerate((1000, 4000, 16_000))]


def entry(trials: list[Trial], name: str = "m01") -> dict[str, Any]:
    """A model's JSON, its final fit on 20,000 rows."""
    final = {**trials[-1].measurement.as_dict(), "rows": 20_000, "score_rows": 16_000, "training_seconds": 3.0}
    laws = laws_of(PLAN, trials, FAMILY, 10, 2, 2.0)
    return {"id": name, "plan": PLAN.as_dict(), **final, "laws": json.loads(json.dumps(laws))}


def test_a_forecast_at_the_models_own_rows_is_what_was_measured() -> None:
    found = Outlook(entry(curve(0.1, 0.05, 0.5)), 10, 2).at(20_000)
    assert found["training_seconds"].value == pytest.approx(3.0)
    assert found["training_seconds"].kind == "measured"
    assert set(found) == {"error", "training_seconds", "training_memory_bytes", "size_bytes", "latency_p50_seconds"}


def test_what_a_reported_error_was_credited_for_added_rows_is_not_credited_again() -> None:
    curved = entry(curve(0.02, 0.1, 0.5))
    law = Outlook(curved, 10, 2).laws["error"]
    scored, grown = law.at(16_000.0).value, law.at(20_000.0).value
    curved["error"] = scored - CREDIT * (scored - grown)  # as it is reported
    assert Outlook(curved, 10, 2).at(20_000)["error"].value == pytest.approx(grown)
    assert Outlook(curved, 10, 2).at(320_000)["error"].value == pytest.approx(law.at(320_000.0).value)


def test_costs_grow_by_the_familys_own_terms() -> None:
    found = Outlook(entry(curve(0.1, 0.05, 0.5)), 10, 2)
    near, far = found.at(20_000), found.at(320_000)
    terms = [sum(FAMILY.cost(dict(PLAN.params), n, 10, 2).values()) for n in (20_000, 320_000)]
    ratio = far["training_seconds"].value / near["training_seconds"].value
    assert ratio == pytest.approx(terms[1] / terms[0], rel=0.1)
    assert far["size_bytes"].value == pytest.approx(near["size_bytes"].value, rel=0.01)  # its leaves are all in use
    assert far["error"].value < near["error"].value


def test_the_size_grows_with_the_levels_that_more_rows_show() -> None:
    trials = [
        replace(t, measurement=replace(t.measurement, size_bytes=50_000 + 600 * t.rows**0.45))
        for t in curve(0.1, 0.05, 0.5)
    ]
    found = Outlook(entry(trials), 10, 2)
    grown = found.at(320_000)["size_bytes"].value / found.at(20_000)["size_bytes"].value
    assert grown == pytest.approx((50_000 + 600 * 320_000**0.45) / (50_000 + 600 * 20_000**0.45), rel=0.1)


def test_a_law_without_its_points_says_why() -> None:
    laws = laws_of(PLAN, curve(0.1, 0.05, 0.5)[1:], FAMILY, 10, 2, 2.0)
    assert "2 row counts" in laws["error"]["refused"]
    assert laws["training_seconds"]["low"] < laws["training_seconds"]["exponent"] < laws["training_seconds"]["high"]
    alone = Outlook({**entry(curve(0.1, 0.05, 0.5)), "laws": {}}, 10, 2)
    assert not alone.at(1e6)
    assert "error" in alone.refused


def test_the_error_of_a_model_that_reads_no_column_stays_what_it_is() -> None:
    (constant,) = by_name(["baseline"])
    plan = from_point({"family": "baseline"}, constant, Facts("regression", 10_000, 10), 1)
    trials = [trial(rows, error, plan=plan) for rows, error in ((2_500, 1.02), (5_000, 1.01), (10_000, 1.0))]
    laws = laws_of(plan, trials, constant, 10, 0, 2.0)
    assert laws["error"]["text"] == "error stays what it is: the model reads no column"
    found = Outlook({**entry(trials), "plan": plan.as_dict(), "laws": laws}, 10, 0).at(1e6)["error"]
    assert found.value == pytest.approx(entry(trials)["error"])
    assert found.low < found.value < found.high
    assert found.kind == "indicative"


def test_the_most_rows_within_a_limit_hold_it_at_the_intervals_end() -> None:
    found = Outlook(entry(curve(0.1, 0.05, 0.5)), 10, 2)
    rows = found.largest("training_seconds", 60.0)
    assert found.at(rows)["training_seconds"].high == pytest.approx(60.0, rel=0.01)
    assert found.largest("training_seconds", 1e-9) == 0.0
    assert found.largest("size_bytes", 1e12) == 1e12


def test_a_limit_that_the_measured_rows_meet_gives_at_least_as_many() -> None:
    trials = curve(0.1, 0.05, 0.5)
    trials = [replace(t, measurement=replace(t.measurement, training_memory_bytes=8e6 + 100 * t.rows)) for t in trials]
    found = Outlook(entry(trials), 10, 2)
    most = 1.05 * found.at(20_000)["training_memory_bytes"].high
    assert found.at(1)["training_memory_bytes"].high > most
    assert found.largest("training_memory_bytes", most) >= 20_000


def test_a_model_that_learns_on_overtakes_one_that_has_stopped() -> None:
    stopped = Outlook(entry(curve(0.14, 0.001, 0.5)), 10, 2)
    learning = Outlook(entry(curve(0.02, 0.14, 0.5), "m02"), 10, 2)
    rows = crossing(stopped, learning, 1e7)
    assert rows is not None
    assert rows > 16_000
    assert crossing(stopped, learning, 10_000) is None
    assert crossing(stopped, stopped, 1e7) is None


def test_the_search_reads_candidates_where_they_will_live() -> None:
    own = curve(0.1, 0.05, 0.5)
    far = at_rows(own[-1], own, FAMILY, 1_600_000, 10, 2)
    assert far.error is not None
    assert far.error < own[-1].measurement.error
    assert far.training_seconds is not None
    assert far.training_seconds > 20 * own[-1].measurement.training_seconds
    one = at_rows(own[-1], own[-1:], FAMILY, 1_600_000, 10, 2)  # of a single row count the usual curve
    assert one.error is not None
    assert one.error < own[-1].measurement.error
    signed = replace(own[-1], measurement=replace(own[-1].measurement, error=-0.5))
    assert at_rows(signed, [signed], FAMILY, 1_600_000, 10, 2).error == -0.5


def test_the_runs_own_curves_set_the_interval() -> None:
    def named(k: int) -> Plan:
        return from_point({"family": "lightgbm", "n_estimators": 10 + k}, FAMILY, FACTS, 1)

    rows = (1000, 2000, 4000, 16_000)
    wild = [trial(n, 0.2 + 0.1 * (i == 3), plan=named(k), number=k) for k in range(30) for i, n in enumerate(rows)]
    assert run_kappa(wild) > 5.0
    assert run_kappa(wild[:40]) == KAPPA


def test_points_that_contradict_the_terms_leave_the_last_one() -> None:
    own = curve(0.1, 0.05, 0.5)
    odd = [replace(t, measurement=replace(t.measurement, size_bytes=10.0 ** (9 - 3 * k))) for k, t in enumerate(own)]
    far = at_rows(odd[-1], odd, FAMILY, 64_000, 10, 2)
    assert far.size_bytes is not None
    assert 1e3 <= far.size_bytes <= 1e4


def test_on_a_graphics_card_the_seconds_themselves_are_forecast() -> None:
    on_card = [replace(t, plan=replace(t.plan, hardware=Hardware(device="cuda"))) for t in curve(0.1, 0.05, 0.5)]
    slow = [replace(t, measurement=replace(t.measurement, training_seconds=50.0)) for t in on_card]
    assert law_points("training_seconds", slow)[1] == [50.0] * len(slow)
    assert set(law_points("training_seconds", curve(0.1, 0.05, 0.5))[1]).isdisjoint({50.0})
    found = laws_of(slow[-1].plan, slow, FAMILY, 10, 2, KAPPA)["training_seconds"]
    assert found["exponent"] == pytest.approx(0.0, abs=0.01), "all of it is the start of CUDA"


def test_a_law_goes_by_the_rows_of_a_trials_fits_and_not_by_those_of_its_artifact() -> None:
    of_last_folds = [
        replace(t, measurement=replace(t.measurement, rows=5 * t.rows // 3)) for t in curve(0.1, 0.05, 0.5)
    ]
    assert law_points("error", of_last_folds)[0] == [1000.0, 4000.0, 16_000.0]
