"""What every objective keeps: it reads a number that is measured, with a unit, a noise and a box."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path

import pytest

from automl.errors import UsageError
from automl.search import objectives
from automl.search.objective import Objective
from automl.search.objectives import DEFAULT, OBJECTIVES, by_name
from automl.search.trial import Measurement

every = pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.name)
MEASURED = Measurement(
    error=0.1,
    training_seconds=2.0,
    latency_p50_seconds=3e-5,
    model_memory_bytes=4e6,
    training_memory_bytes=5e7,
    size_bytes=6e5,
    rows_per_second=1e5,
    load_seconds=0.1,
    columns=12,
)


@every
def test_it_reads_what_was_measured_and_nothing_else(objective: Objective) -> None:
    value = objective.read(MEASURED)
    assert isinstance(value, float)
    assert math.isfinite(value)
    assert objective.read(Measurement()) is None
    names = {field.name for field in fields(Measurement)}
    assert objective.quantity in names
    assert objective.law is None or objective.law in names


@every
def test_its_noise_is_a_difference_and_grows_with_the_value(objective: Objective) -> None:
    assert 0 <= objective.noise(1.0) <= objective.noise(1e9)
    assert math.isfinite(objective.noise(1e9))


@every
def test_its_box_is_fixed_or_the_runs(objective: Objective) -> None:
    box = objective.box(60.0)
    if objective.name == "error":
        assert box is None
    else:
        assert box is not None
        low, high = box
        assert 0 < low < high
        value = objective.read(MEASURED)
        assert value is not None
        assert low < value < high
        assert math.isfinite(objective.box(math.inf)[1])  # type: ignore[index]


@every
def test_it_has_a_name_a_unit_and_says_what_it_is(objective: Objective) -> None:
    assert by_name([objective.name]) == (objective,)
    assert objective.unit in {"", "s", "B"}
    assert type(objective).__module__.rsplit(".", 1)[1] == objective.name


def test_throughput_minimises_the_seconds_of_a_row() -> None:
    (throughput,) = by_name(["throughput"])
    assert throughput.read(MEASURED) == pytest.approx(1e-5)
    assert throughput.read(Measurement(rows_per_second=0.0)) is None


def test_memory_counts_half_a_megabyte_as_nothing() -> None:
    (memory,) = by_name(["memory"])
    assert memory.noise(1e6) == 0.5e6
    assert memory.noise(1e8) == pytest.approx(5e6)


def test_the_box_of_training_time_grows_with_the_budget() -> None:
    (training_time,) = by_name(["training_time"])
    assert training_time.box(3.0) == (0.01, 10.0)
    assert training_time.box(300.0) == (0.01, 300.0)


def test_every_file_of_the_folder_is_in_the_list() -> None:
    files = {path.stem for path in Path(objectives.__file__).parent.glob("*.py")} - {"__init__"}
    assert files == {objective.name for objective in OBJECTIVES}
    assert [objective.name for objective in DEFAULT] == ["error", "training_time", "latency", "memory"]
    assert by_name() == DEFAULT


def test_a_users_own_objective_stands_in_the_same_list() -> None:
    class Energy(Objective):
        name = "energy"
        unit = "J"
        quantity = "training_cpu_seconds"

        def read(self, measurement: Measurement) -> float | None:
            return None if measurement.training_cpu_seconds is None else 30 * measurement.training_cpu_seconds

    own = Energy()
    assert by_name(["error", own])[1] is own
    assert own.read(Measurement(training_cpu_seconds=2.0)) == 60.0
    assert own.box(60) is None


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["eror"], "unknown objective 'eror'; did you mean 'error'.*columns"),
        (["size", "size"], "size twice"),
        ([], "none"),
    ],
)
def test_names_that_do_not_work_are_explained(names: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        by_name(names)
