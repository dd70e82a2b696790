"""What is particular to one strategy."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest

from automl.estimators.space import Choice, Float, Int
from automl.search import space
from automl.search.space import Branch
from automl.search.strategies import NSGA2, Auto, Bayesian, Grid, Random
from automl.search.strategies.auto import contributions
from automl.search.strategy import Strategy

BRANCHES = (
    Branch("poor", {"z": Float(0.0, 1.0)}),
    Branch("good", {"x": Float(0.0, 1.0), "y": Float(0.0, 1.0), "kind": Choice(("a", "b"))}),
)


def one_objective(point: space.Point) -> list[float]:
    """The best is at good, x = 0.7, y = 0.3, kind b."""
    if point["family"] == "poor":
        return [2.0 + float(point["z"])]
    return [(float(point["x"]) - 0.7) ** 2 + (float(point["y"]) - 0.3) ** 2 + 0.3 * (point["kind"] == "a")]


def search(strategy: type[Strategy], trials: int, seed: int) -> list[float]:
    made = strategy(BRANCHES, seed, 1)
    found = []
    for number in range(trials):
        (point,) = made.ask(1)
        values = one_objective(point)
        made.tell(point, values, 0, number)
        found.append(values[0])
    return found


def test_bayesian_search_learns_the_family_and_its_parameters() -> None:
    late = [np.mean(search(Bayesian, 50, seed)[25:]) for seed in range(3)]
    chance = [np.mean(search(Random, 50, seed)[25:]) for seed in range(3)]
    assert np.mean(late) < 0.5 * np.mean(chance)


def test_nsga2_improves_over_its_generations() -> None:
    runs = [search(NSGA2, 120, seed) for seed in range(2)]
    assert np.mean([np.mean(r[80:]) for r in runs]) < 0.6 * np.mean([np.mean(r[:20]) for r in runs])


def test_auto_begins_with_the_known_good_points_in_their_order_then_searches() -> None:
    starts: list[space.Point] = [{"family": "good", "x": 0.1}, {"family": "poor"}, {"family": "good", "kind": "b"}]
    made = Auto(BRANCHES, 0, 1, starts=starts)
    assert made.ask(3) == [space.complete(BRANCHES, s) for s in starts]
    assert made.ask(1)[0] == Bayesian(BRANCHES, 0, 1)._proposer.propose({}, [], 3, 0)


def test_auto_passes_over_starts_that_were_told_already() -> None:
    made = Auto(BRANCHES, 0, 1, starts=[{"family": "poor"}, {"family": "good"}])
    made.tell({"family": "poor"}, [1.0], 0, 0)
    assert made.ask(1) == [space.complete(BRANCHES, {"family": "good"})]


def test_grid_goes_from_cheap_to_expensive_and_ends() -> None:
    branches = (Branch("a", {"n": Int(1, 1000, log=True), "m": Choice((1, 2))}), Branch("b", {}))

    def cost(point: space.Point) -> float:
        return float(point.get("n", 50)) * float(point.get("m", 1))

    made = Grid(branches, cost=cost)
    points = made.ask(100)
    assert len(points) == 7
    assert made.exhausted
    assert [cost(p) for p in points] == sorted(cost(p) for p in points)


def test_pending_points_are_not_asked_again_and_count_when_told() -> None:
    made = Bayesian(BRANCHES, 0, 1)
    batch = made.ask(16)
    assert len({space.key(p) for p in batch}) == 16
    assert len(made.pending) == 16
    for number, point in enumerate(batch):
        made.tell(point, one_objective(point), 0, number)
    assert not made.pending
    assert len(made.ask(4)) == 4


def test_an_ask_stays_cheap_after_two_hundred_trials() -> None:
    wide = tuple(Branch(f"f{i}", {f"p{j}": Float(1e-3, 1.0, log=True) for j in range(9)}) for i in range(4))
    rng = np.random.default_rng(0)
    for strategy in (Bayesian, NSGA2):
        made = strategy(wide, 0, 3)
        for number in range(200):
            made.tell(space.sample(wide, rng), list(rng.random(3)), 0, number)
        made.ask(1)
        start = time.process_time()
        for number in range(200, 205):
            made.tell(made.ask(1)[0], list(rng.random(3)), 0, number)
        assert (time.process_time() - start) / 5 < 0.15  # measured: 0.03 s; slow machines have their margin


def test_listing_the_strategies_does_not_load_optuna() -> None:
    code = "import sys; from automl.search.strategies import by_name; by_name('bayesian'); assert 'optuna' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_auto_changes_members_of_the_front_where_trials_cost_little() -> None:
    made = Auto(BRANCHES, 1, 2, cost=lambda point: 0.1)
    best = {"family": "good", "x": 0.7, "y": 0.3, "kind": "b"}
    made.tell(best, [0.0, 1.0], 0, 0)
    for number in range(1, 12):
        made.tell({"family": "poor", "z": number / 12}, [2.0, 2.0], 0, number)
    asked = made.ask(30)
    near = [p for p in asked if p["family"] == "good" and abs(float(p["x"]) - 0.7) + abs(float(p["y"]) - 0.3) < 0.5]
    assert len(near) >= 15, "most are mutants of the one member of the front"
    assert any(p["family"] == "poor" for p in asked), "every fifth is random"
    assert "_proposer" not in vars(made), "Optuna is not asked"
    for point in asked:
        space.validate(BRANCHES, point)


def test_auto_asks_optuna_where_trials_are_dear_or_nothing_is_told() -> None:
    dear, untold = Auto(BRANCHES, 0, 1, cost=lambda point: 2.0), Auto(BRANCHES, 0, 1, cost=lambda point: 0.1)
    dear.tell({"family": "poor", "z": 0.5}, [1.0], 0, 0)
    for made in (dear, untold):
        made.ask(1)
        assert "_proposer" in vars(made)


def test_a_member_that_alone_covers_much_is_the_likelier_parent() -> None:
    shares = contributions([(0.1, 9.0, 1.0), (5.0, 1.0, 2.0), (5.1, 1.1, 1.5), (9.0, 0.5, 3.0)])
    assert shares.sum() == pytest.approx(1.0)
    assert shares.min() > 0.0
    stretched = contributions([(0.1, 90.0, 1.0), (500.0, 1.0, 2.0), (501.0, 10.0, 1.5), (1e6, 0.5, 3.0)])
    assert stretched == pytest.approx(shares), "units don't matter"
