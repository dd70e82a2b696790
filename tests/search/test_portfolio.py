"""The portfolio: every shipped point is one of its family's, and a search begins with them in an order fit for table and budget."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from automl.estimators.families import FAMILIES, by_name
from automl.estimators.families.tree import Tree
from automl.estimators.family import Facts, Family
from automl.estimators.space import Value
from automl.search.agenda import first_plans
from automl.search.plan import branches
from automl.search.portfolio import FILE, SHARE, Entry, entries, most, starting_points
from automl.search.space import complete, contains, key

ROOT = Path(__file__).resolve().parents[2]
CLASSES = {"binary": 2, "multiclass": 5, "regression": 0}
FACTS = Facts("binary", 50_000, 20, 2, 3, budget_seconds=60.0)


def free(point: dict[str, Any]) -> float:
    return 0.0


class Mine(Tree):
    """A family of a user's own."""

    name: ClassVar[str] = "mine"

    def starts(self, facts: Facts) -> Sequence[dict[str, Value]]:
        return [{"max_depth": depth} for depth in (2, 4, 8)]


def entry(family: str, tasks: Sequence[str] = ("binary",), **point: Value) -> Entry:
    return Entry(family, point, tuple(tasks), "a test", 1.0)


# -- what is shipped -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", list(CLASSES))
def test_every_shipped_point_lies_in_its_family_s_space(task: str) -> None:
    facts = Facts(task, 10_000, 100, CLASSES[task], categorical=1)
    families = {family.name: family for family in FAMILIES}
    mine = [e for e in entries() if task in e.tasks]
    assert mine
    for e in mine:
        space = families[e.family].space(facts)
        for name, value in e.point.items():
            if (name, value) != ("max_features", "sqrt"):
                assert contains(space[name], value), (e.family, name, value)
        assert e.source
        assert e.gain_per_second >= 0


@pytest.mark.parametrize("task", list(CLASSES))
def test_the_shipped_portfolio_knows_every_family_of_the_core_but_the_baseline(task: str) -> None:
    core = {family.name for family in FAMILIES if not family.optional} - {"baseline"}
    known = {e.family for e in entries() if task in e.tasks}
    assert core <= known
    assert known - core <= {"tabm"}  # of the optional ones, what was installed when it was learned


def test_the_file_says_where_it_comes_from() -> None:
    found = json.loads(FILE.read_text())
    assert {"command", "date", "versions", "seed", "tables", "cells", "held_out"} <= set(found["provenance"])
    names = {f.name for f in FAMILIES}
    assert all(e["family"] in names and set(e["tasks"]) <= set(CLASSES) for e in found["entries"])


@pytest.mark.parametrize("task", list(CLASSES))
@pytest.mark.parametrize(
    ("rows", "columns", "categorical", "sparse", "budget"),
    [
        (40, 1, 0, False, math.inf),
        (3_000, 8, 2, False, 60.0),
        (9_000, 900, 0, True, 600.0),
        (10**6, 30, 5, False, 10.0),
    ],
)
def test_every_point_is_one_of_the_joint_space_on_any_table(
    task: str, rows: int, columns: int, categorical: int, sparse: bool, budget: float
) -> None:
    facts = Facts(task, rows, columns, CLASSES[task], categorical, sparse, budget)
    joint = branches(FAMILIES, facts, (1,))
    points = starting_points(FAMILIES, facts, free)
    assert points
    assert len({key(complete(joint, point)) for point in points}) == len(points)


# -- order ---------------------------------------------------------------------------------------------------------------


def test_the_order_is_the_portfolio_s_with_families_in_turn_and_then_the_starts() -> None:
    portfolio = [
        entry("linear", C=1.0),
        entry("linear", C=2.0),
        entry("tree", max_depth=3),
        entry("tree", max_depth=4),
        entry("tree", tasks=["regression"], max_depth=5),
        entry("forest", n_estimators=10),
    ]
    families = by_name(["linear", "tree"])
    points = starting_points(families, FACTS, free, portfolio)
    assert [(p["family"], p.get("C", p.get("max_depth"))) for p in points[:4]] == [
        ("linear", 1.0),
        ("tree", 3),
        ("linear", 2.0),
        ("tree", 4),
    ]
    starts = [key({"family": f.name, **start}) for f in families for start in f.starts(FACTS)]
    assert sorted(key(point) for point in points[4:]) == sorted(starts)


def test_what_is_dear_waits_for_the_others_and_variants_of_it_for_other_families() -> None:
    portfolio = [*(entry("tree", max_depth=depth) for depth in (9, 2, 12, 3, 10)), entry("linear", C=15.0)]

    def seconds(point: dict[str, Any]) -> float:
        return float(point.get("max_depth", 0) or point["C"]) / 8 * SHARE * 60.0  # beyond 8 it is more than the share

    def order(budget: float) -> list[Any]:
        facts = Facts("binary", 50_000, 20, 2, 3, budget_seconds=budget)
        points = starting_points(by_name(["tree", "linear"]), facts, seconds, portfolio)
        return [point.get("max_depth", "linear") for point in points if len(point) == 2]  # the starts have more names

    assert order(60.0) == [2, 3, 9, "linear", 12, 10]
    assert order(math.inf) == [9, "linear", 2, 12, 3, 10]


@pytest.mark.parametrize(
    ("rows", "count"),
    [(1, 4), (100, 4), (500, 8), (1_000, 10), (2_500, 15), (10_000, 40), (100_000, 100), (10**7, 100)],
)
def test_small_tables_try_few_points(rows: int, count: int) -> None:
    assert most(rows) == count
    portfolio = [entry("linear", C=1.0 + i) for i in range(120)]
    facts = Facts("binary", rows, 20, 2)
    points = starting_points(by_name(["linear"]), facts, free, portfolio)
    assert sum(len(point) == 2 for point in points) == count
    assert all(len(point) > 2 for point in points[count:])  # the family's own starts go on from there


def test_points_that_become_equal_are_tried_once() -> None:
    plain = Facts("binary", 50_000, 20, 2)
    portfolio = [entry("lightgbm", cat_smooth=smooth) for smooth in (1.0, 2.0)]
    with_categories = starting_points(by_name(["lightgbm"]), FACTS, free, portfolio)
    assert [point["cat_smooth"] for point in with_categories[:2]] == [1.0, 2.0]
    without = starting_points(by_name(["lightgbm"]), plain, free, portfolio)
    assert len({key(point) for point in without}) == len(without) < len(with_categories)


# -- adapting ------------------------------------------------------------------------------------------------------------


def test_a_short_budget_has_fewer_rounds_at_a_higher_rate() -> None:
    late = {"n_estimators": 1000, "learning_rate": 0.02, "early_stopping": True}
    family = by_name(["lightgbm"])[0]
    rich = family.adapted(late, Facts("binary", 500_000, 20, 2))
    poor = family.adapted(late, Facts("binary", 500_000, 20, 2, budget_seconds=30.0))
    assert (rich["n_estimators"], rich["learning_rate"]) == (1000, 0.02)
    rounds = int(poor["n_estimators"])
    assert 1000 / 6 <= rounds < 1000
    assert poor["learning_rate"] == pytest.approx(15 / rounds)
    assert float(family.adapted({**late, "learning_rate": 0.005}, FACTS)["learning_rate"]) >= 0.015
    many = family.adapted(late, Facts("multiclass", 5_000, 20, 40))
    assert many["n_estimators"] == 200


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.iterations], ids=lambda f: f.name)
def test_what_a_budget_affords_grows_with_it(family: Family) -> None:
    assert family.iterations is not None
    top = {family.iterations: 250}
    counts = [
        int(family.adapted(top, Facts("binary", 200_000, 20, 2, budget_seconds=s))[family.iterations])
        for s in (0.01, 20.0, 100.0, math.inf)
    ]
    assert counts == sorted(counts)
    assert counts[0] == round(250 / 6)
    assert counts[-1] == 250


def test_a_point_is_moved_into_the_ranges_of_the_table() -> None:
    narrow, wide = Facts("regression", 5_000, 4, 0), Facts("binary", 5_000, 400, 2)
    forest = by_name(["forest"])[0]
    rooted: dict[str, Value] = {"max_features": "sqrt", "criterion": "entropy", "n_estimators": 1000}
    assert forest.adapted(rooted, wide)["max_features"] == pytest.approx(0.05)
    found = forest.adapted(rooted, narrow)
    assert found["max_features"] == 0.5
    assert found["n_estimators"] == 300
    assert "criterion" not in found


# -- families of a user's own --------------------------------------------------------------------------------------------


def test_a_family_of_the_user_s_own_has_its_starts_in_turn() -> None:
    portfolio = [entry(name) for name in ("linear", "tree")] + [entry("tree", max_depth=d) for d in (3, 5)]
    points = starting_points(by_name(["linear", "tree", Mine()]), FACTS, free, portfolio)
    assert [p["max_depth"] for p in points if p["family"] == "mine"] == [2, 4, 8]
    assert [p["family"] for p in points[:4]] == ["linear", "tree", "mine", "tree"]
    only = starting_points([Mine()], FACTS, free)
    assert only == [{"family": "mine", "max_depth": depth} for depth in (2, 4, 8)]


def test_a_family_that_takes_one_of_our_names_keeps_its_own_starts() -> None:
    class Other(Mine):
        name: ClassVar[str] = "tree"

    points = starting_points([Other()], FACTS, free)
    assert points == [{"family": "tree", "max_depth": depth} for depth in (2, 4, 8)]


def test_the_simplest_two_and_the_rival_are_ahead_of_the_portfolio() -> None:
    first, warm = first_plans(FAMILIES, FACTS, free)
    assert [point["family"] for point in first] == ["baseline", "linear", "lightgbm", "lightgbm", "lightgbm"]
    assert first[2]["n_estimators"] == 100
    assert not [point for point in warm if point in first]
    assert len({point["family"] for point in warm[:4]}) >= 3


# -- the command that learns it ------------------------------------------------------------------------------------------


def test_the_command_learns_a_portfolio_and_goes_on_from_its_cells(tmp_path: Path) -> None:
    pool = [
        {"family": "tree", "point": {"max_depth": d}, "tasks": ["binary", "multiclass"], "source": "a test"}
        for d in (2, 6)
    ]
    (tmp_path / "pool.json").write_text(json.dumps(pool))
    lines = ["a,b,y"] + [f"{i % 7},{(i * i) % 11},{'no' if (i * i) % 11 > 4 else 'yes'}" for i in range(600)]
    (tmp_path / "made.csv").write_text("\n".join(lines))
    out = tmp_path / "out.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "portfolio.py"), "made", "--tables", str(tmp_path)]
    command += ["--pool", str(tmp_path / "pool.json"), "--cells", str(tmp_path / "cells.jsonl"), "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = [
        subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        for _ in range(2)
    ]
    assert [d.returncode for d in done] == [0, 0], done[0].stderr
    cells = [json.loads(line) for line in (tmp_path / "cells.jsonl").read_text().splitlines()]
    assert len(cells) == 5  # the two of the pool and the three that every search begins with, once each
    assert {c["status"] for c in cells} == {"completed"}
    assert "made: 0 CPU s" in done[1].stderr
    found = json.loads(out.read_text())
    assert found["provenance"]["tables"] == {"made": ["binary", 600, 2]}
    assert [e["family"] for e in found["entries"]] == ["tree", "tree"] or len(found["entries"]) == 1
    assert all(e["tasks"] == ["binary", "multiclass"] for e in found["entries"])
