"""What every strategy keeps: valid points, none twice, the seed decides, and a resumed one proposes as if never stopped."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from automl.errors import UsageError
from automl.estimators.space import Choice, Float, Int
from automl.search import space, strategies
from automl.search.space import Branch, JointSpace, Point
from automl.search.strategies import STRATEGIES, Auto, by_name
from automl.search.strategy import Strategy

BRANCHES: JointSpace = (
    Branch("baseline", {}),
    Branch("linear", {"C": Float(1e-4, 1e3, log=True), "penalty": Choice(("l2", "l1", "none"))}),
    Branch(
        "trees",
        {
            "count": Int(5, 2000, log=True),
            "leaves": Int(2, 64),
            "rate": Float(0.01, 0.5, log=True),
            "extra": Choice((False, True)),
            "threads": Choice((1, 2)),
        },
    ),
)
STARTS: list[Point] = [
    {"family": "linear"},
    {"family": "trees", "count": 10},
    {"family": "trees", "count": 100, "rate": 0.1},
]


class CheapAuto(Auto):
    """The default where trials cost little, and mutants of the front are proposed."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options, cost=lambda point: 0.1)


every = pytest.mark.parametrize("strategy", [*STRATEGIES, CheapAuto], ids=lambda s: s.__name__)


def make(strategy: type[Strategy], branches: JointSpace = BRANCHES, seed: int = 3, objectives: int = 3) -> Strategy:
    return strategy(branches, seed, objectives, starts=STARTS if branches is BRANCHES else ())


def measure(point: Point) -> list[float] | None:
    """Three objectives of a made-up learner; some plans fail."""
    if point["family"] == "baseline":
        return [0.5, 0.01, 0.1]
    if point["family"] == "linear":
        return [0.3 + abs(np.log10(float(point["C"]))) / 50, 0.1, 1.0]
    count, rate, leaves = float(point["count"]), float(point["rate"]), float(point["leaves"])
    if count * leaves > 60_000:
        return None
    return [0.1 + (np.log(count * rate) - 3) ** 2 / 40 + 1 / leaves, count * leaves / 1000, 1 + count / 100]


def advance(
    strategy: Strategy, rounds: int, number: int = 0, k: int = 1
) -> tuple[list[Point], list[tuple[Point, Sequence[float] | None, int]]]:
    asked: list[Point] = []
    told = []
    for _ in range(rounds):
        for point in strategy.ask(k):
            asked.append(point)
            values = measure(point)
            strategy.tell(point, values, 0, number)
            told.append((point, values, number))
            number += 1
    return asked, told


@every
def test_points_are_valid_and_none_comes_twice(strategy: type[Strategy]) -> None:
    asked, _ = advance(make(strategy), 15, k=3)
    assert len(asked) == 45
    for point in asked:
        space.validate(BRANCHES, point)
    assert len({space.key(p) for p in asked}) == 45
    assert {p["family"] for p in asked} == {"baseline", "linear", "trees"} or strategy.name == "auto"


@every
def test_the_seed_decides(strategy: type[Strategy]) -> None:
    first, _ = advance(make(strategy, seed=1), 14)
    again, _ = advance(make(strategy, seed=1), 14)
    other, _ = advance(make(strategy, seed=2), 14)
    assert first == again
    assert first != other or strategy.name == "grid"  # a grid has no chance in it


@every
@pytest.mark.parametrize("cuts", [(20, 20), (7, 13, 20)])
def test_resumed_it_proposes_what_an_uninterrupted_one_does(strategy: type[Strategy], cuts: tuple[int, ...]) -> None:
    whole, _ = advance(make(strategy), 45)
    parts: list[Point] = []
    history: list[tuple[Point, Sequence[float] | None, int]] = []
    for rounds in (*cuts, 5):
        resumed = make(strategy)
        for point, values, number in history:
            resumed.tell(point, values, 0, number)
        asked, told = advance(resumed, rounds, number=len(history))
        parts += asked
        history += told
    assert parts == whole


@every
def test_a_point_asked_but_never_told_is_proposed_again_after_resuming(strategy: type[Strategy]) -> None:
    running = make(strategy)
    _, told = advance(running, 12)
    lost = running.ask(1)
    resumed = make(strategy)
    for point, values, number in told:
        resumed.tell(point, values, 0, number)
    assert resumed.ask(1) == lost


@every
def test_trials_told_out_of_order_make_no_difference(strategy: type[Strategy]) -> None:
    _, told = advance(make(strategy), 24)
    forward, backward = make(strategy), make(strategy)
    for point, values, number in told:
        forward.tell(point, values, 0, number)
    for point, values, number in reversed(told):
        backward.tell(point, values, 0, number)
    assert forward.ask(2) == backward.ask(2)


@every
def test_a_finite_space_ends(strategy: type[Strategy]) -> None:
    finite = (Branch("baseline", {}), Branch("tiny", {"a": Choice((1, 2)), "b": Int(1, 3)}))
    made = make(strategy, finite)
    assert not made.exhausted
    asked = []
    for number in range(7):
        asked += made.ask(1)
        made.tell(asked[-1], [float(number), 1.0, 2.0], 0, number)
    assert {space.key(p) for p in asked} == {space.key(p) for branch in finite for p in space.enumerate_branch(branch)}
    assert made.exhausted
    assert made.ask(1) == []


@every
def test_what_does_not_belong_is_refused(strategy: type[Strategy]) -> None:
    made = make(strategy)
    with pytest.raises(UsageError, match="no family 'other'"):
        made.tell({"family": "other"}, [1, 2, 3], 0, 0)
    with pytest.raises(UsageError, match="trial 4: 3 values are needed"):
        made.tell({"family": "baseline"}, [1.0], 0, 4)
    with pytest.raises(UsageError, match="no family"):
        strategy((), 0, 1)


@every
def test_values_that_are_not_finite_count_as_failed(strategy: type[Strategy]) -> None:
    made = make(strategy)
    made.tell({"family": "baseline"}, [0.1, float("inf"), float("nan")], 0, 0)
    assert made.told[0].values is None
    assert made.ask(1)


@every
def test_one_objective_will_do(strategy: type[Strategy]) -> None:
    made = strategy(BRANCHES, 0, 1)
    for number in range(14):
        (point,) = made.ask(1)
        made.tell(point, [float(number % 5)], 0, number)


@every
def test_nothing_is_printed_or_logged(
    strategy: type[Strategy], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    advance(make(strategy), 12)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_every_file_of_the_folder_is_in_the_list() -> None:
    files = {path.stem for path in Path(strategies.__file__).parent.glob("*.py")} - {"__init__"}
    assert files == {strategy.__module__.rsplit(".", 1)[1] for strategy in STRATEGIES}
    assert [strategy.name for strategy in STRATEGIES] == ["auto", "random", "grid", "bayesian", "nsga2"]
    for strategy in STRATEGIES:
        assert strategy.__doc__
        assert by_name(strategy.name) is strategy


def test_an_unknown_name_says_what_is_known() -> None:
    with pytest.raises(UsageError, match=r"unknown strategy 'bayes'; did you mean 'bayesian'.*auto, random, grid"):
        by_name("bayes")
