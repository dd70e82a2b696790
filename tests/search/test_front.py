"""The front: non-dominated, the same in any order and under any monotone rescaling; limits that are never relaxed."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from automl.errors import InfeasibleError, UsageError, UsageTypeError
from automl.search import front
from automl.search.objective import Objective
from automl.search.objectives import DEFAULT, by_name
from automl.search.trial import Measurement

points = st.integers(1, 14).flatmap(
    lambda n: st.integers(1, 4).flatmap(
        lambda m: arrays(float, (n, m), elements=st.sampled_from([0.0, 0.5, 1.0, 1.04, 1.1, 2.0, 3.5, 7.0]))
    )
)
quick = settings(deadline=None, max_examples=80)


def exactly_dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a <= b).all() and (a < b).any())


@quick
@given(points)
def test_without_noise_it_is_the_pareto_front(values: np.ndarray) -> None:
    mask = front.nondominated(values)
    expected = [not any(exactly_dominates(a, b) for a in values) for b in values]
    assert mask.tolist() == expected
    assert [i in front.exact_front(values) for i in range(len(values))] == expected


@quick
@given(points, st.floats(0, 0.6), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(values: np.ndarray, size: float, random: object) -> None:
    order = np.array(sorted(range(len(values)), key=lambda _: random.random()))  # type: ignore[attr-defined]
    noise = np.full_like(values, size)
    mask = front.nondominated(values, noise, strict=1.645)
    assert front.nondominated(values[order], noise, strict=1.645).tolist() == mask[order].tolist()


@quick
@given(points)
def test_a_monotone_rescaling_of_an_objective_changes_nothing(values: np.ndarray) -> None:
    rescaled = values.copy()
    rescaled[:, 0] = np.exp(3 * values[:, 0]) - 7
    assert front.nondominated(rescaled).tolist() == front.nondominated(values).tolist()


@quick
@given(points, st.floats(0, 0.6))
def test_with_noise_no_member_dominates_another_and_the_dropped_are_represented(
    values: np.ndarray, size: float
) -> None:
    noise = np.full_like(values, size)
    mask = front.nondominated(values, noise)
    edges = front.dominance(values, noise)
    assert mask.any()
    best = values[:, 0] == values[:, 0].min()
    for j in range(len(values)):
        by_member = any(edges[i, j] for i in np.flatnonzero(mask))
        if mask[j]:  # inside a circle, and for the best, only exact dominance counts
            assert not by_member or best[j] or _in_a_circle(edges, j)
        else:
            assert by_member


def _in_a_circle(edges: np.ndarray, j: int) -> bool:
    reach = edges.copy()
    for _ in range(len(edges)):
        reach = reach | ((reach.astype(int) @ reach.astype(int)) > 0)
    return bool(reach[j, j])


@quick
@given(points, st.floats(0, 0.6))
def test_the_best_of_every_objective_is_kept_up_to_the_noise(values: np.ndarray, size: float) -> None:
    mask = front.nondominated(values, np.full_like(values, size))
    assert values[mask, 0].min() == values[:, 0].min()
    assert (values[mask].min(axis=0) <= values.min(axis=0) + size + 1e-12).all()


def test_a_circle_of_noise_leaves_somebody() -> None:
    # error in standard errors, then two costs: each is beaten by the one before it, and none exactly
    values = np.array([[1.7, 1.00, 1.03], [0.85, 1.06, 1.0], [0.0, 1.03, 1.06]])
    noise = np.broadcast_to(np.array([1.0, 0.05, 0.05]), values.shape)
    edges = front.dominance(values, noise)
    assert edges[0, 1]
    assert edges[1, 2]
    assert edges[2, 0]
    for order in itertools.permutations(range(3)):
        assert front.nondominated(values[list(order)], noise).all()


def test_a_tie_in_error_goes_to_the_cheaper_and_the_most_accurate_stays() -> None:
    values = np.array([[0.100, 5.0], [0.101, 4.0], [0.102, 1.0], [0.2, 0.5]])
    noise = np.array([0.004, 0.01])
    assert front.nondominated(values, np.broadcast_to(noise, values.shape)).tolist() == [True, False, True, True]


def test_a_difference_must_be_sure_where_strict_says_so() -> None:
    values = np.array([[0.100, 1.0], [0.101, 1.0]])
    noise = np.broadcast_to(np.array([0.0008, 0.01]), values.shape)
    assert front.nondominated(values, noise).tolist() == [True, False]
    assert front.nondominated(values, noise, strict=np.array([front.SURE, 1.0])).tolist() == [True, True]


def test_what_was_not_measured_cannot_win_and_nan_is_never_on_the_front() -> None:
    values = np.array([[0.1, np.inf], [0.1, 2.0], [0.05, np.inf], [np.nan, 0.0]])
    assert front.nondominated(values).tolist() == [False, True, True, False]
    assert front.nondominated(values, np.zeros_like(values)).tolist() == [False, True, True, False]
    assert front.nondominated(np.zeros((0, 3))).tolist() == []


def test_paired_errors_are_those_of_the_differences() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(size=500)
    influences = [(shared + 0.1 * rng.normal(size=500)).astype(np.float32) for _ in range(4)]
    paired = front.paired_errors(influences)
    for i, j in itertools.combinations(range(4), 2):
        difference = influences[i].astype(float) - influences[j]
        assert paired[i, j] == pytest.approx(difference.std(ddof=1) / np.sqrt(500), rel=1e-6)
    assert paired.diagonal() == pytest.approx(0, abs=1e-9)
    assert front.paired_errors([np.zeros(1), np.zeros(1)]).tolist() == [[0, 0], [0, 0]]


def test_noise_is_one_paired_error_and_what_each_objective_says() -> None:
    rng = np.random.default_rng(0)
    measurements = [model(error_sd=0.003), model(error_sd=0.004, latency_p50_seconds=2e-4)]
    influences = [rng.normal(size=50), rng.normal(size=50)]
    found = front.noise(measurements, DEFAULT, influences)
    assert found.shape == (2, 2, 4)
    assert found[0, 1, 0] == pytest.approx(front.paired_errors(influences)[0, 1])
    assert found[0, 1, 2] == found[1, 0, 2] == pytest.approx(1e-5)
    assert found[0, 1, 3] == 0.5e6
    assert front.noise(measurements, DEFAULT)[0, 1, 0] == pytest.approx(0.005)


# -- hypervolume -------------------------------------------------------------------------------------------------------

COSTS = by_name(["error", "latency", "size"])


def random_values(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.uniform(0.05, 0.3, n), 10 ** rng.uniform(-5, -2, n), 10 ** rng.uniform(4, 8, n)])


def test_the_hypervolume_is_the_share_of_the_box_that_is_dominated() -> None:
    values = random_values(30)
    found = front.hypervolume(values, COSTS, baseline_error=0.3, best_error=0.05)
    positions = front.normalise(values, COSTS, 0.3, 0.05)
    draws = np.random.default_rng(1).random((20_000, 3))
    share = (positions[None] <= draws[:, None]).all(axis=2).any(axis=1).mean()
    assert found == pytest.approx(share, abs=0.015)


def test_positions_follow_the_boxes() -> None:
    values = np.array([[0.30, 1e-6, 1e3], [0.05, 0.1, 4e9], [0.175, 10**-3.5, 2e6]])
    positions = front.normalise(values, COSTS, baseline_error=0.30, best_error=0.05)
    assert positions[0] == pytest.approx([1, 0, 0], abs=1e-12)
    assert positions[1] == pytest.approx([0.025 / 0.275, 1, 1])
    assert positions[2] == pytest.approx([0.15 / 0.275, 0.5, 0.5], abs=1e-4)
    assert front.hypervolume(values[:2], COSTS, 0.30, 0.05) == 0.0


def test_what_is_the_same_for_all_takes_no_volume_and_a_range_may_be_that_of_others() -> None:
    class Plain(Objective):
        name, unit, quantity, log = "plain", "", "columns", False

    objectives = (DEFAULT[0], Plain())
    same = np.array([[0.1, 3.0], [0.2, 3.0]])
    assert front.normalise(same, objectives, 0.5, 0.0)[:, 1].tolist() == [0.0, 0.0]
    found = front.normalise(same, objectives, 0.5, 0.0, like=np.array([[0.1, 1.0], [0.2, 5.0]]))
    assert found[:, 1] == pytest.approx([(3.0 - 0.6) / 4.4] * 2)


@quick
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_more_models_never_cover_less(seed: int, n: int) -> None:
    values = random_values(n + 1, seed)
    assert front.hypervolume(values, COSTS, 0.3, 0.05) >= front.hypervolume(values[:n], COSTS, 0.3, 0.05) - 1e-12


def test_no_models_and_the_baseline_alone_cover_nothing() -> None:
    assert front.hypervolume(np.zeros((0, 3)), COSTS) == 0.0
    assert front.hypervolume(np.array([[0.5, 1e-5, 1e4]]), COSTS, baseline_error=0.5, best_error=0.1) == 0.0


@quick
@given(st.integers(0, 10_000), st.integers(1, 12), st.randoms(use_true_random=False))
def test_thinning_keeps_each_objectives_best_and_does_not_depend_on_the_order(
    seed: int, k: int, random: object
) -> None:
    values = random_values(25, seed)
    kept = front.thin(values, k, COSTS)
    assert len(kept) == len(set(kept)) == k
    assert kept == sorted(kept)
    bests = {int(values[:, c].argmin()) for c in range(3)}
    assert bests <= set(kept) or k < 3
    order = sorted(range(25), key=lambda _: random.random())  # type: ignore[attr-defined]
    again = front.thin(values[order], k, COSTS)
    assert {order[i] for i in again} == set(kept)


def test_thinning_keeps_most_of_the_volume() -> None:
    values = random_values(200)
    kept = front.thin(values, 24, COSTS)
    assert front.hypervolume(values[kept], COSTS, 0.3, 0.05) > 0.97 * front.hypervolume(values, COSTS, 0.3, 0.05)
    assert front.thin(values[:5], 24, COSTS) == [0, 1, 2, 3, 4]


def test_the_knee_is_the_compromise() -> None:
    values = np.array([[0.0, 10.0], [1.0, 1.0], [10.0, 0.0], [5.0, 0.9]])
    assert front.knee(values) == 1
    assert front.knee(values[[3, 2, 1, 0]]) == 2
    assert front.knee(np.array([[1.0, np.inf], [2.0, np.inf]])) == 0
    assert front.knee(np.array([[1.0, np.inf], [1.5, 1.2], [9.0, 1.0], [1.2, 3.0]])) == 1


# -- limits and choosing -----------------------------------------------------------------------------------------------


def model(**measured: object) -> Measurement:
    plain = Measurement(
        error=0.1,
        score=0.9,
        training_seconds=2.0,
        latency_p50_seconds=1e-4,
        latency_p99_seconds=3e-4,
        serving_memory_bytes=40e6,
        model_memory_bytes=2e6,
        size_bytes=3e5,
    )
    return replace(plain, **measured)  # type: ignore[arg-type]


ACCURATE = model(error=0.07, score=0.93, latency_p50_seconds=1.3e-4, size_bytes=9e6, training_seconds=9.0)
MIDDLE = model(error=0.0705, score=0.9295, latency_p50_seconds=6e-5, size_bytes=4e5)
CHEAP = model(error=0.15, score=0.85, latency_p50_seconds=1e-5, size_bytes=2e4, training_seconds=0.1)
MODELS = [ACCURATE, MIDDLE, CHEAP]
NAMES = ["m01 (forest)", "m02 (lightgbm)", "m03 (linear)"]


def test_the_knee_is_no_constant_and_three_costs_weigh_as_one() -> None:
    def model(error: float, cost: float) -> Measurement:
        costs = dict.fromkeys(("training_seconds", "latency_p50_seconds", "model_memory_bytes"), cost)
        return Measurement(error=error, **costs)

    constant, tree, middle, best = model(1.2, 1e-3), model(0.64, 2e-3), model(0.29, 0.05), model(0.23, 5.0)
    assert front.choose([best, middle, tree, constant], prefer="knee", constant=[3]) == 1
    assert front.choose([best, middle, tree, constant], prefer="knee") == 2, "with it the range is another"
    assert front.choose([constant], prefer="knee", constant=[0]) == 0


@pytest.mark.parametrize(
    ("options", "index"),
    [
        ({}, 0),
        ({"max_latency": "100us"}, 1),
        ({"max_latency": 2e-5}, 2),
        ({"max_size": "1MB", "min_score": 0.9}, 1),
        ({"max_training_time": "1s"}, 2),
        ({"max_latency_p99": "1ms", "max_memory": "100MB"}, 0),
    ],
)
def test_the_most_accurate_within_the_limits(options: dict[str, object], index: int) -> None:
    assert front.choose(MODELS, front.parse_limits(options)) == index


def test_the_knee_and_the_cheapest_within_a_tolerance() -> None:
    assert front.choose(MODELS, prefer="knee") == 1
    assert front.choose(MODELS, prefer="cheapest_within") == 1
    assert front.choose(MODELS, prefer="cheapest_within", tolerance=0.001) == 0
    assert front.choose(MODELS, prefer="cheapest_within", tolerance=2.0, cost="size") == 2
    negative = [
        model(error=-0.93),
        model(error=-0.925, latency_p50_seconds=1e-5),
        model(error=-0.5, latency_p50_seconds=1e-6),
    ]
    assert front.choose(negative, prefer="cheapest_within") == 1


def test_one_limit_to_lift_is_named_with_how_far_and_that_is_enough() -> None:
    limits = front.parse_limits({"max_latency": "50us", "min_score": 0.92, "max_size": "1MB"})
    with pytest.raises(InfeasibleError) as caught:
        front.choose(MODELS, limits, names=NAMES)
    text = str(caught.value)
    assert "no model meets the limits (max_latency 50 us, min_score 0.92, max_size 1 MB)" in text
    assert (
        "lift min_score to 0.85 for m03 (linear), or max_latency to 60 us for m02 (lightgbm); the other limits can stay"
        in text
    )
    assert caught.value.nearest[:2] == (
        ("m03 (linear)", "min_score", 0.85, 0.92),
        ("m02 (lightgbm)", "max_latency", 6e-5, 5e-5),
    )
    assert front.choose(MODELS, limits | front.parse_limits({"max_latency": "60 us"})) == 1


@settings(deadline=None, max_examples=100)
@given(st.floats(1e-9, 1e5), st.floats(1, 1e13), st.floats(-5, 1))
def test_the_limit_that_is_suggested_admits_the_model_as_typed(latency: float, size: float, score: float) -> None:
    only = model(latency_p50_seconds=latency, size_bytes=size, score=score)
    found = {"max_latency": latency, "max_size": size, "min_score": score}
    for name, hard in (("max_latency", latency * 0.99), ("max_size", size * 0.99), ("min_score", score + 0.1)):
        with pytest.raises(InfeasibleError) as caught:
            front.choose([only], {name: hard}, names=["it"])
        suggested = str(caught.value).split(f"lift {name} to ")[1].split(" for it")[0]
        parsed = front.parse_limits({name: suggested})
        assert front.choose([only], parsed) == 0
        assert parsed[name] == pytest.approx(found[name], rel=0.03, abs=1 if name == "max_size" else 1e-12)


def test_where_no_single_limit_is_enough_that_is_said() -> None:
    limits = front.parse_limits({"max_latency": "1us", "max_size": "1kB"})
    with pytest.raises(
        InfeasibleError,
        match=r"more than one limit must be lifted: m03 \(linear\) needs max_latency 10 us and max_size 20 kB",
    ):
        front.choose(MODELS, limits, names=NAMES)


def test_what_was_not_measured_meets_no_limit() -> None:
    unknown = [model(latency_p99_seconds=None)]
    assert front.choose(unknown, {"max_latency": 1.0}) == 0
    with pytest.raises(InfeasibleError, match=r"m has no measured latency_p99.*m was not measured for max_latency_p99"):
        front.choose(unknown, {"max_latency_p99": 1.0}, names=["m"])


def test_a_loss_is_limited_from_above() -> None:
    losses = [model(score=0.3), model(score=0.5, error=0.05)]
    assert front.choose(losses, {"min_score": 0.4}, greater_is_better=False) == 0
    with pytest.raises(InfeasibleError, match=r"lift min_score to 0\.3 for model 0"):
        front.choose(losses, {"min_score": 0.1}, greater_is_better=False)


def test_no_models_at_all() -> None:
    with pytest.raises(InfeasibleError, match="there is no model to choose from"):
        front.choose([], {"max_latency": 1.0})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: front.parse_limits({"max_latencey": 1}), "unknown limit 'max_latencey'; did you mean max_latency"),
        (lambda: front.parse_limits({"max_size": "abc"}), "max_size is 'abc', not a size"),
        (lambda: front.parse_limits({"max_latency": 0}), "max_latency is 0"),
        (lambda: front.parse_limits({"min_score": float("nan")}), "min_score is nan"),
        (lambda: front.choose(MODELS, prefer="best"), "prefer is 'best'; it can be accuracy, knee, cheapest_within"),
        (lambda: front.choose(MODELS, prefer="cheapest_within", cost="price"), "unknown objective 'price'"),
        (lambda: front.choose(MODELS, prefer="cheapest_within", tolerance=-1), "tolerance is -1"),
    ],
)
def test_what_makes_no_sense_is_refused(call: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()  # type: ignore[operator]


def test_a_score_that_is_no_number_is_a_type_error() -> None:
    with pytest.raises(UsageTypeError, match="min_score is 'high'"):
        front.parse_limits({"min_score": "high"})
    assert front.parse_limits({"min_score": "0.9", "max_size": None}) == {"min_score": 0.9}


def test_of_models_equal_in_error_one_that_is_worse_beyond_the_noise_is_beaten() -> None:
    values = np.array([[0.1, 353e-9, 40_960.0], [0.1, 6.85e-6, 24_576.0], [0.3, 300e-9, 20_000.0]])
    margin = np.zeros((3, 3, 3))
    margin[:, :, 2] = 500_000.0
    assert front.nondominated(values, margin).tolist() == [True, False, True]
    assert front.nondominated(values).tolist() == [True, True, True]
