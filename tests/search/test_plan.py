"""A plan is plain data: it survives JSON, equal plans have equal ids, and a point that strategy proposes becomes one."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from automl.estimators.families import FAMILIES
from automl.estimators.family import Facts, Family
from automl.search.plan import Plan, branches, from_point
from automl.search.space import complete, sample_branch

FACTS = Facts("binary", 5000, 120, 2, categorical=3)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_points_become_plans_that_survive_json(family: Family) -> None:
    joint = branches([family], FACTS, (2, 1))
    rng = np.random.default_rng(0)
    for _ in range(20):
        plan = from_point(sample_branch(joint[0], rng), family, FACTS, 2)
        again = Plan.from_dict(json.loads(json.dumps(plan.as_dict())))
        assert again == plan
        assert again.id == plan.id
        assert hash(again) == hash(plan)


def test_a_fraction_without_a_selection_is_no_plan_of_its_own() -> None:
    family = FAMILIES[1]
    joint = branches([family], FACTS, (1,))
    point = complete(joint, {"family": family.name})
    a = from_point({**point, "selection": "none", "fraction": 0.5}, family, FACTS, 1)
    b = from_point({**point, "selection": "gain", "fraction": 1.0}, family, FACTS, 1)
    assert a == b


def test_where_a_network_trains_is_searched_where_it_may_train_elsewhere() -> None:
    network, linear = (next(f for f in FAMILIES if f.name == name) for name in ("network", "linear"))
    devices = {"network": ("cuda", "cpu"), "linear": ("cpu",)}
    joint = branches([network, linear], FACTS, (1,), devices)
    points = [complete(joint, {"family": family.name}) for family in (network, linear)]
    assert points[0]["device"] == "cuda", "the usual one"
    assert "device" not in points[1]
    assert "device" not in dict(branches([network], FACTS, (1,))[0].space)
    rng = np.random.default_rng(0)
    plans = [from_point(sample_branch(joint[0], rng), network, FACTS, 1, "cuda") for _ in range(20)]
    assert {plan.hardware.device for plan in plans} == {"cpu", "cuda"}
    one = from_point(points[0], network, FACTS, 1)
    other = from_point({**points[0], "device": "cpu"}, network, FACTS, 1)
    assert one.id != other.id
    assert one.params == other.params, "the device is no hyperparameter"


def test_the_engine_is_part_of_a_plan_and_the_usual_one_leaves_its_id_as_it_was() -> None:
    plan = Plan("linear")
    other = replace(plan, hardware=replace(plan.hardware, engine="compiled"))
    assert other.id != plan.id == "b534602a648f"
    assert Plan.from_dict(other.as_dict()) == other
    older = plan.as_dict()
    del older["hardware"]["engine"]
    assert Plan.from_dict(older) == plan
