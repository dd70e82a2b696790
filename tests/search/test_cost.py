"""The cost model learns a family's speed from what it observes, and is unsure before."""

from __future__ import annotations

import math

from automl.estimators.families.baseline import Baseline
from automl.estimators.families.linear import Linear
from automl.estimators.families.network import Network
from automl.estimators.families.tree import Tree
from automl.estimators.family import Facts
from automl.estimators.hardware import CUDA_START
from automl.search.cost import MACHINE, OVERHEAD, CostModel, devices_of
from automl.search.plan import from_point

FACTS = Facts("binary", 10_000, 10, 2)


def test_a_measured_family_is_predicted_as_measured_and_scales_with_rows() -> None:
    model, family = CostModel(FACTS), Linear()
    plan = from_point({"family": "linear", **family.starts(FACTS)[0]}, family, FACTS, 1)
    for _ in range(20):
        model.observe(family, plan, 10_000, 2.0, OVERHEAD)
    middle, high = model.predict(family, plan, 10_000)
    assert 1.5 < middle < 2.5
    assert middle < high < 2 * middle
    assert model.predict(family, plan, 100_000)[0] > 3 * middle


def test_an_unmeasured_family_has_a_wide_interval_and_learns_the_machine_from_others() -> None:
    model, linear, tree = CostModel(FACTS), Linear(), Tree()
    plan = from_point({"family": "tree", **tree.starts(FACTS)[0]}, tree, FACTS, 1)
    before = model.predict(tree, plan, 10_000)
    assert before[1] > 2 * before[0] - OVERHEAD
    other = from_point({"family": "linear", **linear.starts(FACTS)[0]}, linear, FACTS, 1)
    for rows, tells in ((10_000, False), (3_000_000, True)):
        slow = 3 * model.units(linear, dict(other.params), other, rows)
        assert (slow > 0.2) == tells, "of so short a fit the most is overhead"
        for _ in range(5):
            model.observe(linear, other, rows, slow, OVERHEAD)
        assert (model.predict(tree, plan, 10_000)[0] > before[0]) == tells


def test_folds_multiply_the_time() -> None:
    model, family = CostModel(FACTS), Linear()
    plan = from_point({"family": "linear", **family.starts(FACTS)[0]}, family, FACTS, 1)
    one, five = model.predict(family, plan, 10_000, 1)[0], model.predict(family, plan, 10_000, 5)[0]
    assert abs((five - OVERHEAD) / (one - OVERHEAD) - 5) < 1e-6


def test_a_sparse_table_costs_what_its_stored_cells_cost() -> None:
    linear = Linear()
    dense, sparse = (Facts("binary", 2_000, 5_000, 2, sparse=d < 1, density=d) for d in (1.0, 0.01))
    plan = from_point({"family": "linear", **linear.starts(dense)[0]}, linear, dense, 1)
    full, stored = (CostModel(facts).units(linear, dict(plan.params), plan, 2_000) for facts in (dense, sparse))
    assert stored < 0.05 * full


def test_the_baseline_says_nothing_of_the_machine() -> None:
    model, baseline, tree = CostModel(FACTS), Baseline(), Tree()
    plan = from_point({"family": "tree", **tree.starts(FACTS)[0]}, tree, FACTS, 1)
    before = model.predict(tree, plan, 10_000)
    own = from_point({"family": "baseline"}, baseline, FACTS, 1)
    model.observe(baseline, own, 10_000, 0.05, OVERHEAD)  # all overhead: a hundred times its prior
    assert model.predict(tree, plan, 10_000) == before


def test_what_a_graphics_card_takes_says_nothing_of_the_processor() -> None:
    model, family = CostModel(FACTS), Network()
    here, there = (
        from_point({"family": "network", **family.starts(FACTS)[0]}, family, FACTS, 1, d) for d in ("cpu", "cuda")
    )
    before = model.predict(family, here, 10_000)
    assert model.predict(family, there, 10)[0] > CUDA_START
    for _ in range(20):
        model.observe(family, there, 10_000, 100.0, OVERHEAD)
    assert 80.0 < model.predict(family, there, 10_000)[0] < 125.0
    assert model.predict(family, here, 10_000)[0] <= before[0] * math.exp(MACHINE)


def test_a_family_begins_on_the_device_that_takes_less() -> None:
    small, large = FACTS, Facts("binary", 3_000_000, 100, 2)
    assert devices_of(Network(), small, ("cpu", "cuda"), 1) == ("cpu", "cuda")
    assert devices_of(Network(), large, ("cpu", "cuda"), 1) == ("cuda", "cpu")
    assert devices_of(Network(), large, ("cpu",), 1) == ("cpu",)
    assert devices_of(Linear(), large, ("cpu", "cuda"), 1) == ("cpu",), "it does not train with torch"


def test_the_width_of_a_table_is_part_of_its_price() -> None:
    wide, linear = Facts("binary", 80, 20_000, 2), Linear()
    plan = from_point({"family": "linear", **linear.starts(wide)[0]}, linear, wide, 1)
    assert CostModel(wide).predict(linear, plan, 80, 5)[0] > 1.5
