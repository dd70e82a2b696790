"""What is tried next: new plans and promotions by what they may bring for their cost, on made-up trials and a made-up clock."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from automl.estimators.families import FAMILIES
from automl.estimators.family import Facts
from automl.search.agenda import Agenda
from automl.search.metric import Metric
from automl.search.objectives import DEFAULT
from automl.search.objectives import by_name as objectives
from automl.search.plan import from_point
from automl.search.record import Record
from automl.search.setting import Limits, Setting
from automl.search.space import Branch, complete
from automl.search.split import EMPTY, Split
from automl.search.store import Store
from automl.search.strategies import by_name
from automl.search.trial import Measurement, Trial

ROWS = [2_000, 8_000, 32_000]
FAMILY = {f.name: f for f in FAMILIES}


class Clocked(Record):
    """A record whose clock stands still."""

    now = 20.0

    def elapsed(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes records with a base rung of 0 in a run of 60 s."""
    folder = tmp_path_factory.mktemp("agenda")
    facts = Facts("regression", ROWS[-1], 10, budget_seconds=60.0)
    count = iter(range(99))

    def make(
        seed: int = 0,
        bounds: dict[str, float] | None = None,
        base: int = 0,
        names: tuple[str, ...] = ("baseline", "linear", "tree"),
        strategy: str = "random",
        **more: Any,
    ) -> Clocked:
        families = {name: FAMILY[name] for name in names}
        setting = Setting(
            data=Path("nowhere"),
            split=Split(np.arange(ROWS[-1]), np.arange(9), EMPTY),
            facts=facts,
            families=families,
            metric=Metric.resolve(None, Task()),
            objectives=more.pop("objectives", DEFAULT),
            limits=more.pop("limits", Limits(60.0)),
            slots=1,
            threads=1,
            seed=seed,
            merge=False,
            start=0.0,
            bounds=bounds or {},
            **more,
        )
        branches = tuple(Branch(f.name, dict(f.space(facts))) for f in families.values())
        store = Store.create(folder / f"{next(count)}.db")
        store.set_meta("base_rung", base)
        return Clocked(setting, by_name(strategy)(branches, seed, len(setting.objectives)), store)

    return make


class Task:
    kind = "regression"
    classes = ()


def ended(
    record: Record,
    depth: int,
    error: float,
    rung: int = 0,
    latency: float = 1e-5,
    sd: float = 0.001,
    seconds: float = 0.5,
) -> Trial:
    """Ends a trial of a tree of this depth."""
    point = {"family": "tree", "max_depth": depth}
    plan = from_point(point, FAMILY["tree"], record.setting.facts, 1)
    measured = Measurement(
        error=error,
        error_sd=sd,
        training_seconds=seconds,
        training_cpu_seconds=seconds,
        latency_p50_seconds=latency,
        model_memory_bytes=1e6,
        size_bytes=1e4,
        training_memory_bytes=1e7,
    )
    rows = record.rungs[rung]
    trial = Trial(
        record.take_number(),
        plan,
        rows,
        rung,
        "completed",
        measurement=measured,
        point=tuple(point.items()),
        wall_seconds=seconds,
    )
    record.end(trial)
    return trial


def asked(record: Record, times: int = 1, room: float = 40.0) -> list[tuple[str, int]]:
    """(family, rung) of what a new agenda proposes, so many times, with nothing running."""
    agenda = Agenda(record)
    found = [agenda.next([], room) for _ in range(times)]
    return [(proposal[0].id, proposal[1]) for proposal in found if proposal is not None]


def promising(record: Record) -> tuple[Trial, Trial]:
    """A good plan and one that another beats in everything by far; the new ones since have brought nothing."""
    good = ended(record, 6, error=1.0)
    hopeless = ended(record, 5, error=9.9, latency=1e-2, seconds=0.6)
    for depth in (2, 3, 4, 8, 9):
        ended(record, depth, error=5.0 + depth / 100, latency=2e-5, seconds=0.6)
    return good, hopeless


def test_where_all_rows_are_at_hand_there_are_only_new_plans(record: Any) -> None:
    made = record(base=2)
    for depth in (2, 3, 4, 5):
        ended(made, depth, 1.0 / depth, rung=2)
    proposals = asked(made, 8)
    assert {rung for _, rung in proposals} == {2}
    assert len(set(proposals)) == 8


def test_the_first_plans_come_first_and_in_their_order(record: Any) -> None:
    made = record()
    promising(made)
    first: list[dict[str, Any]] = [{"family": "baseline"}, {"family": "linear"}]
    agenda = Agenda(made, first)
    proposals = [agenda.next([], 40.0) for _ in first]
    assert [proposal[2] for proposal in proposals if proposal] == first


def test_a_plan_that_may_become_the_best_goes_on_and_a_hopeless_one_never(record: Any) -> None:
    made = record(seed=1)
    good, hopeless = promising(made)
    proposals = asked(made, 30)
    assert proposals.index((good.plan.id, 1)) < 5
    assert hopeless.plan.id not in {plan for plan, _ in proposals}
    assert proposals.count((good.plan.id, 1)) == 1


def test_a_curve_that_rises_is_not_frozen_by_its_error(record: Any) -> None:
    made = record()
    agenda = Agenda(made)
    ended(made, 2, error=1.0, rung=1, latency=1e-6, seconds=0.1)
    rising = [ended(made, 7, error=error, rung=rung) for rung, error in enumerate((8.0, 9.0))]
    falling = [ended(made, 8, error=error, rung=rung) for rung, error in enumerate((9.2, 9.1))]
    assert agenda.prospects.ill_behaved(rising[-1])
    assert not agenda.prospects.ill_behaved(falling[-1])
    alive = agenda.alive([rising[-1], falling[-1]])
    assert alive.tolist() == [True, False]


def test_what_does_not_fit_in_the_time_left_is_not_promoted(record: Any) -> None:
    made = record(seed=1)
    promising(made)
    assert {rung for _, rung in asked(made, 10, room=0.05)} == {0}


def test_now_and_then_a_new_plan_is_tried_whatever_the_index_says(record: Any) -> None:
    new = 0
    for seed in range(12):
        made = record(seed=seed)
        promising(made)
        (proposal,) = asked(made)
        new += proposal[1] == 0
    assert 1 <= new <= 5


def test_a_plan_that_breaks_a_limit_is_not_promoted_first(record: Any) -> None:
    made = record(seed=1, bounds={"max_latency": 2e-5})
    slow = ended(made, 7, error=0.2, latency=1e-3)
    good, _ = promising(made)
    assert Agenda(made).prospects.feasible(slow) < 0.01 < 0.9 < Agenda(made).prospects.feasible(good)
    proposals = asked(made, 6)
    assert (good.plan.id, 1) in proposals
    assert (slow.plan.id, 1) not in proposals


def test_plans_on_few_rows_are_compared_by_what_they_would_be_on_all(record: Any) -> None:
    made = record()
    small, large = ended(made, 2, error=1.0), ended(made, 3, error=1.0, rung=2)
    assert made.expected(large)[:2] == [1.0, 0.5]
    error, seconds, *_ = made.expected(small)
    assert 0.8 < error < 0.9
    assert seconds > 4 * 0.5


def test_what_fell_before_tells_how_others_will_fall(record: Any) -> None:
    made = record()
    agenda = Agenda(made)
    waiting = ended(made, 9, error=2.0)
    before = agenda.prospects.samples(waiting)[:, 0].mean()
    for depth in (2, 3, 4):
        ended(made, depth, error=2.0)
        ended(made, depth, error=0.8, rung=2)
    assert agenda.prospects.samples(waiting)[:, 0].mean() < 0.8 * before


def test_resumed_it_promotes_nothing_twice(record: Any) -> None:
    made = record(seed=1)
    good, _ = promising(made)
    ended(made, 6, error=0.9, rung=1)
    agenda = Agenda(made)
    agenda.restored()
    found = [agenda.next([], 40.0) for _ in range(10)]
    assert (good.plan.id, 1) not in [(p[0].id, p[1]) for p in found if p]


# -- the strong points and their growth --------------------------------------------------------------------------------


def boosted(record: Record, point: dict[str, Any], error: float, half: float | None = None, wall: float = 2.0) -> Trial:
    """Ends a trial of LightGBM on all rows, with its prefix of half the rounds, if any, at the error `half`."""
    full = complete(record.strategy.branches, {"family": "lightgbm", **point})
    plan = from_point(full, FAMILY["lightgbm"], record.setting.facts, 1)
    measured = Measurement(
        error=error, error_sd=0.01, training_seconds=wall, training_cpu_seconds=wall, latency_p50_seconds=1e-5,
        model_memory_bytes=1e6, size_bytes=1e4, training_memory_bytes=1e7,
    )  # fmt: skip
    trial = Trial(
        record.take_number(),
        plan,
        ROWS[-1],
        2,
        "completed",
        measurement=measured,
        point=tuple(full.items()),
        wall_seconds=wall,
    )
    record.end(trial)
    if half is not None:
        shorter = replace(plan, prefix=0.5, rescale=1.1)
        less = replace(measured, error=half, latency_p50_seconds=5e-6)
        record.end(replace(trial, number=record.take_number(), plan=shorter, measurement=less, parent=trial.number))
    return trial


def strong_and_first(record: Record) -> tuple[Agenda, str]:
    """An agenda that begins with the reference and the strong points, and the reference's id."""
    facts, family = record.setting.facts, FAMILY["lightgbm"]
    points = [family.reference(facts), *family.strong(facts)]
    queue = [complete(record.strategy.branches, {"family": "lightgbm", **(p or {})}) for p in points]
    return Agenda(record, queue), next(iter(record.references))


def test_strong_points_wait_for_the_reference_and_are_as_large_as_it_says(record: Any) -> None:
    names, sizes = ("baseline", "lightgbm"), {}
    for wall in (0.3, 12.0, 60.0):
        made = record(base=2, names=names, strategy="auto")
        agenda, reference = strong_and_first(made)
        first = agenda.next([], 40.0)
        assert first is not None
        assert first[0].id == reference
        running = Trial(99, first[0], ROWS[-1], 2, "completed")
        meanwhile = agenda.next([running], 40.0)
        assert meanwhile is not None
        assert meanwhile[0].id not in made.strong
        boosted(made, dict(first[2]), 1.0, wall=wall)
        strong = [agenda.next([], 40.0) for _ in range(2)]
        assert all(s is not None and s[0].id in made.favoured for s in strong)
        sizes[wall] = [dict(s[0].params)["n_estimators"] for s in strong if s is not None]
    assert sizes[0.3] == [300, 1500]
    assert sizes[0.3][0] > sizes[12.0][0] > sizes[60.0][0]
    late = record(base=2, names=names, strategy="auto")
    agenda, _ = strong_and_first(late)
    boosted(late, dict(agenda.next([], 40.0)[2]), 1.0, wall=12.0)  # type: ignore[index]
    hurried = agenda.next([], 6.0)  # little time is left for the same models
    assert hurried is not None
    assert dict(hurried[0].params)["n_estimators"] < sizes[12.0][0]
    resumed = Agenda(made, [dict(strong[0][2])] if strong[0] is not None else [])
    resumed.restored()
    assert [p["n_estimators"] for p in resumed.queue] == sizes[60.0]


@pytest.mark.parametrize(
    ("half", "wall", "point", "grows"),
    [
        (1.10, 2.0, {}, True),
        (1.001, 2.0, {}, False),  # its second half brought nothing
        (None, 2.0, {}, False),
        (1.10, 90.0, {}, False),  # there is no time for it
        (1.10, 2.0, {"early_stopping": True}, False),
        (1.10, 2.0, {"n_estimators": 2000, "num_leaves": 1024}, False),  # the largest there is
    ],
)
def test_the_best_boosted_model_is_tried_larger_where_that_may_pay(
    record: Any, half: float | None, wall: float, point: dict[str, Any], grows: bool
) -> None:
    made = record(base=2, names=("baseline", "lightgbm"), strategy="auto")
    agenda = Agenda(made)
    boosted(made, {"n_estimators": 40, "num_leaves": 5}, 1.5, half=3.0)
    best = boosted(made, {"n_estimators": 200, "num_leaves": 30, **point}, 1.0, half, wall)
    leafier, longer = wider(best.point), {**dict(best.point), "n_estimators": 400}
    first = agenda.next([], 40.0)
    assert first is not None
    assert (dict(first[2]) == leafier) == grows
    if not grows:
        return
    assert (first[1], first[0].id in made.favoured) == (2, True)
    running = Trial(99, first[0], ROWS[-1], 2, "completed")
    other = agenda.next([running], 40.0)
    assert other is not None
    assert dict(other[2]) != longer, "how the first one does is not known yet"
    boosted(made, leafier, 1.2, half=1.3)
    second = agenda.next([], 40.0)
    assert second is not None
    assert dict(second[2]) == longer
    boosted(made, longer, 0.9, half=1.0)
    third = agenda.next([], 40.0)
    assert third is not None
    assert dict(third[2]) == wider(longer)


def wider(point: Any) -> dict[str, Any]:
    """Half of the trees with four times the leaves, each with a larger step."""
    known = dict(point)
    halved = {"n_estimators": known["n_estimators"] // 2, "num_leaves": 4 * known["num_leaves"]}
    return {**known, **halved, "learning_rate": known["learning_rate"] * math.sqrt(2)}


def test_where_the_best_is_too_dear_to_grow_the_next_one_is_if_that_may_make_it_the_best(record: Any) -> None:
    for half, grows in ((1.3, True), (1.12, False)):  # half of what its last doubling brought: 0.1 and 0.01
        made = record(base=2, names=("baseline", "lightgbm"), strategy="auto")
        agenda = Agenda(made)
        boosted(made, {"n_estimators": 100, "num_leaves": 31}, 1.0, half=1.2, wall=90.0)
        other = boosted(made, {"n_estimators": 200, "num_leaves": 30}, 1.05 if grows else 1.1, half=half)
        first = agenda.next([], 40.0)
        assert first is not None
        assert (dict(first[2]) == wider(other.point)) == grows


def test_only_the_default_strategy_grows_models(record: Any) -> None:
    made = record(base=2, names=("baseline", "lightgbm"))
    agenda = Agenda(made)
    best = boosted(made, {"n_estimators": 200, "num_leaves": 30}, 1.0, half=1.1)
    proposals = [agenda.next([], 40.0) for _ in range(5)]
    assert wider(best.point) not in [dict(p[2]) for p in proposals if p]


def test_what_is_only_measured_at_the_end_steers_on_few_rows_as_well(record: Any) -> None:
    made = record(objectives=objectives(["error", "throughput"]))
    fast, slow = ended(made, 5, 1.0, latency=1e-5), ended(made, 6, 0.5, latency=1e-3)
    assert made.expected(fast)[1] == pytest.approx(made.expected(slow)[1] / 100, rel=0.2)
    assert Agenda(made).alive([fast, slow]).tolist() == [True, True]
    far = record(objectives=objectives(["error", "throughput"]), target_rows=1_000_000)
    assert far.values(ended(far, 5, 1.0, rung=2))[1] > 0.0


def test_a_run_of_trials_goes_by_no_clock_at_the_target_either(record: Any) -> None:
    read = []
    for seconds in (1.0, 5.0):
        made = record(limits=Limits(math.inf, 10), target_rows=1_000_000)
        read.append(made.expected(ended(made, 5, 1.0, rung=2, seconds=seconds, latency=1e-5 * seconds)))
    assert read[0] == read[1]


def test_the_engine_takes_its_part_of_a_limit_on_memory(record: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("automl.search.prospects.lightest", lambda: 50e6)
    for allowed, low, high in ((40e6, 0.0, 0.0), (50.1e6, 0.0, 0.01), (80e6, 0.99, 1.0)):
        made = record(bounds={"max_memory": allowed})
        assert low <= Agenda(made).prospects.feasible(ended(made, 5, 1.0, rung=2)) <= high


def test_limits_are_held_against_what_was_measured_when_a_run_of_trials_ends(record: Any) -> None:
    made = record(limits=Limits(math.inf, 10), bounds={"max_training_memory": 1e6, "max_latency": 1e-6})
    trial, prospects = ended(made, 5, 1.0, rung=2), Agenda(made).prospects
    assert prospects.feasible(trial) == 1.0, "while it runs it is a function of its seed"
    assert prospects.feasible(trial, clocked=True) < 0.01
