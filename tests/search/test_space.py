"""The joint space: every point that is drawn, listed or completed lies in it, and the grid is a product."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automl.errors import UsageError
from automl.estimators.space import Choice, Float, Int, Range
from automl.search import space
from automl.search.space import Branch

BRANCHES = (
    Branch("baseline", {}),
    Branch("linear", {"C": Float(1e-4, 1e3, log=True), "penalty": Choice(("l2", "l1")), "view": Choice((0, 1))}),
    Branch(
        "trees",
        {
            "count": Int(5, 2000, log=True),
            "depth": Int(0, 3),
            "fraction": Float(0.4, 1.0),
            "extra": Choice((False, True)),
        },
    ),
)

numbers = st.integers(1, 10_000)
ranges = st.one_of(
    st.tuples(numbers, numbers, st.booleans()).map(lambda t: Int(min(t[:2]), max(t[:2]), t[2])),
    st.tuples(numbers, numbers, st.booleans()).map(lambda t: Float(min(t[:2]) / 7, max(t[:2]) / 7, t[2])),
    st.lists(st.one_of(st.booleans(), st.integers(), st.text(max_size=3)), min_size=1, max_size=5).map(
        lambda o: Choice(tuple(o))
    ),
)


@settings(deadline=None, max_examples=100)
@given(ranges, st.floats(0, 1))
def test_every_position_is_a_value_of_the_range_and_its_middle_comes_back(range_: Range, u: float) -> None:
    value = space.from_unit(range_, u)
    assert space.contains(range_, value)
    assert space.contains(range_, space.default(range_))
    if not isinstance(range_, Choice):
        again = space.from_unit(range_, space.to_unit(range_, value))
        assert again == pytest.approx(value, rel=1e-9)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_a_draw_is_a_valid_point_and_follows_from_the_seed(seed: int) -> None:
    point = space.sample(BRANCHES, np.random.default_rng(seed))
    space.validate(BRANCHES, point)
    assert point == space.sample(BRANCHES, np.random.default_rng(seed))
    assert all(0 <= u <= 1 for u in space.unit(BRANCHES, point).values())


def test_both_ends_of_a_whole_range_are_as_likely_as_the_others() -> None:
    rng = np.random.default_rng(0)
    drawn = [space.sample_branch(BRANCHES[2], rng)["depth"] for _ in range(4000)]
    assert min(np.bincount(np.array(drawn, int)) / 4000) > 0.22


def test_logarithmic_draws_are_uniform_in_the_logarithm() -> None:
    rng = np.random.default_rng(0)
    drawn = np.log10([float(space.sample_branch(BRANCHES[1], rng)["C"]) for _ in range(4000)])
    assert np.histogram(drawn, bins=7, range=(-4, 3))[0] / 4000 == pytest.approx(1 / 7, abs=0.03)


def test_the_grid_is_a_product_without_repetition_from_the_default_outward() -> None:
    points = list(space.grid(BRANCHES, step_count=3))
    keys = [space.key(p) for p in points]
    assert len(set(keys)) == len(keys) == 1 + 3 * 2 * 2 + 3 * 3 * 3 * 2
    assert points[:3] == [space.defaults(branch) for branch in BRANCHES]
    for point in points:
        space.validate(BRANCHES, point)


def test_the_grid_keeps_to_its_limit_by_leaving_the_last_ranges_at_their_default() -> None:
    wide = Branch("wide", {f"p{i}": Float(0.0, 1.0) for i in range(12)})
    points = list(space.grid((wide,), step_count=3, limit=100))
    assert len(points) == 81
    assert {p["p11"] for p in points} == {0.5}


def test_the_grid_goes_from_cheap_to_expensive() -> None:
    def cost(point: space.Point) -> float:
        return float(point.get("count", 0)) * float(point.get("fraction", 1))

    costs = [cost(p) for p in space.grid(BRANCHES, cost=cost)]
    assert costs == sorted(costs)


def test_sizes_and_the_listing_of_a_finite_branch_agree() -> None:
    finite = Branch("finite", {"a": Choice((1, 2)), "b": Int(3, 5), "c": Float(1.0, 1.0)})
    assert space.size(finite) == len({space.key(p) for p in space.enumerate_branch(finite)}) == 6
    assert space.size(BRANCHES[0]) == 1
    assert math.isinf(space.size(BRANCHES[1]))
    with pytest.raises(ValueError, match="linear has a real interval"):
        list(space.enumerate_branch(BRANCHES[1]))


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"family": "lightgbm"}, "no family 'lightgbm'.*baseline, linear, trees"),
        ({"C": 1.0}, "names no family"),
        ({"family": "linear", "D": 1}, "unknown D"),
        ({"family": "linear", "C": 1e9}, "linear.C = 1000000000.0 is outside"),
        ({"family": "linear", "view": True}, "linear.view"),
        ({"family": "trees", "count": 5.5}, "trees.count"),
    ],
)
def test_a_point_outside_the_space_is_refused_by_name(point: space.Point, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        space.complete(BRANCHES, point)


def test_a_point_must_have_all_names_and_completing_adds_the_defaults() -> None:
    with pytest.raises(UsageError, match="missing penalty, view"):
        space.validate(BRANCHES, {"family": "linear", "C": 1.0})
    assert space.complete(BRANCHES, {"family": "linear", "C": 1.0}) == {
        "family": "linear",
        "C": 1.0,
        "penalty": "l2",
        "view": 0,
    }
