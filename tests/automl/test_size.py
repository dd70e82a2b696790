"""`automl size`: the queue's formulas against what is known of them, and what the models of a run need."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from automl.errors import DataError
from automl.queueing import Service, cores_for, erlang_c, mean_wait, response
from automl.size import PRICES, SERVER_BYTES, SYSTEM_BYTES, Machine, read_prices, size

MACHINES = [Machine("one", 1, 1.0, 1.0, "", ""), Machine("eight", 8, 64.0, 6.0, "", "")]
ENTRY: dict[str, Any] = {
    "id": "m01", "family": "tree", "score": 0.9, "latency_p50_seconds": 1e-3, "latency_p99_seconds": 2e-3,
    "serving_memory_bytes": 1e8, "training_seconds": 3600.0, "training_memory_bytes": 1e9,
    "plan": {"hardware": {"threads": 2}},
}  # fmt: skip


def test_erlangs_c_is_what_its_sum_says() -> None:
    for cores, load in ((1, 0.3), (2, 1.5), (10, 8.0), (100, 90.0)):
        terms = [load**k / math.factorial(k) for k in range(cores)]
        last = load**cores / math.factorial(cores) * cores / (cores - load)
        assert erlang_c(cores, load) == pytest.approx(last / (sum(terms) + last))


def test_one_core_waits_as_pollaczek_and_khinchine_say() -> None:
    service = Service(1e-3, 4e-3, 2e-4)
    draws = np.asarray(service.quantiles())
    for busy in (0.2, 0.7, 0.95):
        rate = busy / service.mean
        exact = rate * (service.mean**2 * (1 + service.cv2)) / (2 * (1 - busy))
        assert mean_wait(1, rate, service) == pytest.approx(exact)
    assert draws.mean() == pytest.approx(service.mean, rel=0.01)
    assert draws.var() / draws.mean() ** 2 == pytest.approx(service.cv2, rel=0.1)
    assert math.isinf(mean_wait(1, 1.01 / service.mean, service))


@pytest.mark.parametrize(("cores", "busy"), [(1, 0.7), (4, 0.8)])
def test_a_simulated_queue_waits_as_long_as_it_says(cores: int, busy: float) -> None:
    service = Service(1e-3, 3e-3)
    rng = np.random.default_rng(0)
    rate, requests = busy * cores / service.mean, 200_000
    arrivals = np.cumsum(rng.exponential(1 / rate, requests)).tolist()
    services = (service.median * np.exp(service.sigma * rng.standard_normal(requests))).tolist()
    free, times = [0.0] * cores, []
    for arrival, work in zip(arrivals, services, strict=True):
        core = min(range(cores), key=free.__getitem__)
        free[core] = max(arrival, free[core]) + work
        times.append(free[core] - arrival)
    assert np.mean(times) - service.mean == pytest.approx(mean_wait(cores, rate, service), rel=0.15)
    assert np.percentile(times, 99) == pytest.approx(response(cores, rate, service), rel=0.15)


def test_the_cores_are_the_fewest_that_do() -> None:
    service = Service(1e-3, 2e-3)
    cores = cores_for(5000.0, service, 4e-3)
    assert cores is not None
    assert response(cores, 5000.0, service) <= 4e-3 < response(cores - 1, 5000.0, service)
    assert cores_for(1.0, service, 1.9e-3) is None, "no number of cores makes a request faster than it is alone"
    assert (cores_for(5000.0, service, 1.0, 0.5) or 0) >= 2 * 5000.0 * service.mean


def test_the_cheapest_machines_that_hold_the_workers_are_taken() -> None:
    found = size(ENTRY, ENTRY, 500.0, 0.1, MACHINES, 0.0)
    assert (found.cores, found.machine, found.machines, found.usd_per_hour) == (1, "one", 1, 1.0)
    assert found.usd_per_million == pytest.approx(1.0 / (500.0 * 3600) * 1e6)
    assert found.memory_bytes == pytest.approx(1e8 + SERVER_BYTES)
    assert found.usd_per_training == 6.0, "the small one has one core where the plan trains on two"
    many = size(ENTRY, ENTRY, 6000.0, 0.1, MACHINES, 0.0)
    assert many.cores is not None
    assert many.utilisation is not None
    assert many.utilisation <= 0.8
    assert (many.machine, many.usd_per_hour) == ("eight", 6.0 * math.ceil(many.cores / 8))
    large = {**ENTRY, "serving_memory_bytes": 64e9 - SYSTEM_BYTES}
    assert "holds one worker" in size(large, large, 1.0, 0.1, MACHINES, 0.0).reason
    assert size(ENTRY, ENTRY, 1.0, 1e-3, MACHINES, 0.0).cores is None


@pytest.mark.parametrize("name", ["latency_p50_seconds", "latency_p99_seconds"])
def test_a_model_that_there_was_no_time_to_measure_says_so(name: str) -> None:
    measured = {**ENTRY, name: None}
    for entry in (ENTRY, measured):
        found = size(entry, measured, 500.0, 0.1, MACHINES, 0.0)
        assert "not measured" in found.reason
        assert (found.cores, found.training_seconds) == (None, 3600.0)


def test_a_price_table_that_is_wrong_is_named_by_line_and_column(tmp_path: Path) -> None:
    assert all(machine.as_of and machine.source for machine in read_prices(PRICES))
    path = tmp_path / "p.csv"
    path.write_text("machine,cores,memory_gb,usd_per_hour\na,2,4,0.1\nb,2,lots,0.1\n")
    with pytest.raises(DataError, match=r"p\.csv, line 3, column 'memory_gb': 'lots'"):
        read_prices(path)
    path.write_text("machine,cores\n")
    with pytest.raises(DataError, match="no column 'memory_gb'"):
        read_prices(path)
