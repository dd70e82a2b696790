"""What is reported of a finished model is what it will score on new rows, not what it was chosen for."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from automl.search.estimate import CREDIT, Change, change, estimates, honest, luck, scoring
from automl.search.metric import Metric
from automl.search.plan import ENSEMBLE, Plan
from automl.search.trial import Measurement, Trial

ROWS = 400
MAE = Metric.resolve("mae", SimpleNamespace(kind="regression", classes=()))
FLAT = np.zeros((20, 1))


def alike(seed: int, count: int = 20, shared: float = 0.0) -> list[np.ndarray]:
    """Influences of models whose true error is 1, with what they share of their noise."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=ROWS) * np.sqrt(shared)
    return [(1 + common + np.sqrt(1 - shared) * rng.normal(size=ROWS)).astype(np.float32) for _ in range(count)]


def best(influences: list[np.ndarray]) -> int:
    return int(np.argmin([x.mean() for x in influences]))


@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_the_best_of_many_alike_is_not_as_good_as_it_looks(shared: float) -> None:
    raw, mended = [], []
    for seed in range(40):
        influences = alike(seed, shared=shared)
        first = best(influences)
        (lucky,) = luck(influences, FLAT, [first], [False] * 20)
        raw.append(float(influences[first].mean()) - 1)
        mended.append(raw[-1] + lucky)
    assert np.mean(raw) < -1.2 * np.sqrt((1 - shared) / ROWS)
    assert abs(np.mean(mended)) < 0.5 * abs(np.mean(raw))


def test_who_is_far_ahead_or_was_there_before_has_had_no_luck() -> None:
    influences = alike(0)
    first = best(influences)
    given = [i == first for i in range(20)]
    assert luck(influences, FLAT, [first], given) == [0.0]
    influences[first] = influences[first] - 1
    assert luck(influences, FLAT, [first], [False] * 20)[0] < 0.1 / np.sqrt(ROWS)


def test_a_model_competes_with_those_that_cost_no_more() -> None:
    influences = alike(0)
    first = best(influences)
    dearer = np.full((20, 1), 2.0)
    dearer[first] = 1.0
    (alone,) = luck(influences, dearer, [first], [False] * 20)
    (among,) = luck(influences, FLAT, [first], [False] * 20)
    assert alone < 0.1 * among


def test_of_a_single_row_or_group_nothing_is_known_of_luck() -> None:
    one = [np.array([error], np.float32) for error in (0.3, 0.5, 0.4)]
    assert luck(one, np.zeros((3, 1)), [0, 1, 2], [False] * 3).tolist() == [0.0, 0.0, 0.0]


def test_of_few_groups_the_interval_is_wide() -> None:
    widths = []
    for n in (1, 2, 5, 400):
        influence = (0.5 + 0.1 * np.resize([-1.0, 1.0], n)).astype(np.float32)
        found = honest(Measurement(), influence, MAE, 0.0, Change())
        assert found.score_high is not None
        assert found.score_low is not None
        widths.append((found.score_high - found.score_low) / max(1e-9, found.error_sd or 0.0))
    assert widths[1] > 1.5 * widths[2] > 1.2 * widths[3] > 3.8  # Student's t: 6.3, 2.1 and 1.65 times, both ways
    alone = honest(Measurement(), np.array([0.5], np.float32), MAE, 0.0, Change())
    assert alone.error_sd == pytest.approx(0.5), "nothing is known but the error"


def curve(exponent: float) -> tuple[Plan, list[Trial], dict[int, np.ndarray]]:
    """A plan fitted at three row counts, its errors n^-exponent, and its influences, whose noise is the rows' own."""
    plan, noise = Plan("tree"), np.random.default_rng(0).normal(size=ROWS)
    trials, losses = [], {}
    for number, rows in enumerate((250, 500, 1000)):
        error = rows**-exponent
        trials.append(
            Trial(number, plan, rows, 0, "completed", measurement=Measurement(error=error, error_sd=0.05 * error))
        )
        losses[number] = (error + 0.5 * error * (noise - noise.mean())).astype(np.float32)
    return plan, trials, losses


def test_added_rows_change_the_error_as_its_law_says() -> None:
    steep, flat = (change(*curve(c), 1000, 1333) for c in (0.5, 0.0))
    assert steep.ratio == pytest.approx(1.333**-0.5, abs=0.03)
    assert flat.ratio == pytest.approx(1.0, abs=0.015)
    plan, trials, losses = curve(0.5)
    assert change(plan, trials, losses, 1000, 1000) == Change()
    unknown = change(Plan("forest"), trials, losses, 1000, 1333)
    assert steep.ratio < unknown.ratio < 1
    assert unknown.sd > 0
    erratic = {**losses, 1: losses[1] + 0.5}
    wild = [replace(t, measurement=Measurement(error=float(erratic[t.number].mean()), error_sd=0.01)) for t in trials]
    assert change(plan, wild, erratic, 1000, 1333).sd > 0.1
    blend = change(Plan(ENSEMBLE, members=((plan, 3), (Plan("forest"), 1))), trials, losses, 1000, 1333)
    assert blend.ratio == pytest.approx((3 * steep.ratio + unknown.ratio) / 4)


def test_an_error_of_zero_on_fewer_rows_leaves_the_interval_finite() -> None:
    plan = Plan("tree")
    for errors in ((0.1, 0.0, 1 / 120), (0.0, 2 / 120)):
        counts = (250, 500, 1000)[-len(errors) :]
        each = [Measurement(error=error, error_sd=0.01) for error in errors]
        trials = [
            Trial(i, plan, n, 0, "completed", measurement=m) for i, (n, m) in enumerate(zip(counts, each, strict=True))
        ]
        losses = {i: np.full(ROWS, error, np.float32) for i, error in enumerate(errors)}
        assert change(plan, trials, losses, 1000, 1333).sd <= 1.0


def test_the_estimate_tells_what_was_measured_and_widens_by_what_is_unknown() -> None:
    influence = alike(0, 1)[0]
    plain = honest(Measurement(size_bytes=7), influence, MAE, 0.0, Change())
    assert plain.error == plain.measured_error == plain.score == pytest.approx(float(influence.mean()))
    assert plain.size_bytes == 7
    mended = honest(Measurement(), influence, MAE, 0.1, Change(0.9, 0.02))
    chosen = plain.error + 0.1
    assert mended.error == pytest.approx(
        chosen * (1 - 0.1 * CREDIT)
    )  # of what added rows may bring a part; all is in the interval
    assert chosen - mended.score_low > 0.1 * chosen
    assert mended.measured_error == plain.measured_error
    assert mended.score_high - mended.score_low > plain.score_high - plain.score_low
    folds = honest(Measurement(), influence, MAE, 0.0, Change(), wider=1.5)
    assert folds.error == plain.error
    assert folds.error_sd == pytest.approx(1.5 * plain.error_sd)


def test_a_skewed_loss_has_the_longer_side_where_it_may_be_worse() -> None:
    rng, missed, plainly = np.random.default_rng(0), 0, 0
    for _ in range(400):
        losses = rng.exponential(size=40).astype(np.float32)
        found = honest(Measurement(), losses, MAE, 0.0, Change())
        missed += found.score_high < 1.0  # the true mean
        plainly += found.error + 1.645 * found.error_sd < 1.0
    assert found.score_high - found.score > found.score - found.score_low
    assert missed < 0.85 * plainly


def studied(seed: int, merge: bool = True, models: int = 20) -> SimpleNamespace:
    """A study of models whose true error is 1, tried on `ROWS` rows and held against as many that it never saw."""
    trials = [
        Trial(i, Plan("baseline", (("k", i),)), 100, 0, "completed", measurement=Measurement(error=1.0))
        for i in range(models)
    ]
    validation, holdout = (dict(enumerate(alike(seed + k, models))) for k in (0, 1000))
    setting = SimpleNamespace(
        objectives=(),
        limits=SimpleNamespace(seconds=60.0),
        merge=merge,
        metric=MAE,
        split=SimpleNamespace(folds=()),
        families={"baseline": SimpleNamespace(reads=False)},
    )
    return SimpleNamespace(
        trials=trials,
        losses=SimpleNamespace(validation=validation, holdout=holdout),
        setting=setting,
        references=set(),
        best_rung=lambda: trials,
        steering=lambda trial: trial.measurement,
    )


def test_all_rows_that_were_held_out_tell_what_a_model_is_worth_less_the_luck_of_those_that_chose_it() -> None:
    raw, told, sds = [], [], []
    for seed in range(40):
        study = studied(seed)
        chosen = sorted(study.trials, key=lambda t: study.losses.validation[t.number].mean())[
            :3
        ]  # the search's finalists
        found = estimates(study, [(t, Measurement(rows=100)) for t in chosen])  # type: ignore[arg-type]
        best = min(range(3), key=lambda i: scoring(study)[chosen[i].number].mean())  # type: ignore[arg-type]
        raw.append(float(scoring(study)[chosen[best].number].mean()) - 1)  # type: ignore[arg-type]
        told.append((found[best].error or 0.0) - 1)
        sds.append(found[best].error_sd)
    assert len(scoring(study)[0]) == 2 * ROWS  # type: ignore[arg-type]
    assert np.mean(raw) < -0.02
    assert abs(np.mean(told)) < 0.5 * abs(np.mean(raw))
    assert np.mean(np.abs(told) < 1.645 * np.asarray(sds)) > 0.85


def test_where_the_user_said_how_to_split_the_rows_that_the_search_never_saw_are_alone_in_it() -> None:
    study = studied(0, merge=False)
    assert scoring(study) is study.losses.holdout  # type: ignore[arg-type]
    study.losses.holdout = dict.fromkeys(study.losses.holdout, np.empty(0, np.float32))
    assert scoring(study) is study.losses.validation  # type: ignore[arg-type]
