"""What scale does to a run: the front that the laws forecast, the command, the target, and the look back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import automl
from automl.backtest import backtest
from automl.cli.main import run
from automl.errors import DataError, InfeasibleError, UsageError
from automl.front import Front, open_run
from automl.scale import CERTAIN, certainly_dominated

FAMILIES = ["baseline", "linear", "tree"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: Any) -> Path:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1200, 4))
    frame = pd.DataFrame(X, columns=list("abcd"))
    frame["t"] = np.where(np.sin(2 * X[:, 0]) + X[:, 1] + 0.5 * rng.normal(size=1200) > 0, "yes", "no")
    path = tmp_path_factory.mktemp("scale") / "t.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def folder(table: Path) -> Path:
    path = table.parent / "run"
    automl.fit(table, target="t", budget=automl.Budget(trials=4), families=FAMILIES, run_dir=path)
    return path


@pytest.fixture(scope="module")
def front(folder: Path) -> Front:
    return open_run(folder)


def test_every_model_has_laws_with_a_measured_exponent(front: Front) -> None:
    for model in front:
        law = model.laws["training_seconds"]
        assert law["low"] <= law["exponent"] <= law["high"]
        assert len(law["rows"]) == 3
        assert model.laws["error"]["rows"] == law["rows"]


def test_fits_for_the_laws_are_no_trials(front: Front) -> None:
    assert sum(front.found["trials"].values()) - front.found["trials"]["skipped"] <= 4


def test_a_front_at_more_rows_is_a_front_with_intervals(front: Front) -> None:
    at = front.at("1M")
    assert at.found["at_rows"] == 1_000_000
    errors = [m.error for m in at if m.error is not None]
    assert errors == sorted(errors)
    for model in at:
        told = model.forecast["training_seconds"]
        assert told["low"] < told["value"] < told["high"]
        assert told["kind"] == "indicative"
        assert model.latency_p99_seconds is None  # never extrapolated
        assert model.predict(pd.DataFrame({c: [0.0] for c in "abcd"})).shape == (1,)
    assert "indicative" in repr(at)
    assert len(at.leaderboard()) == len(at)
    with pytest.raises(UsageError, match="forecast already"):
        at.at(10)


def test_scores_of_a_forecast_leave_the_runs_own_front_alone(front: Front, table: Path) -> None:
    frame, before = pd.read_csv(table), open_run(front.folder).as_dict()
    front.at("1M").score_on(frame.drop(columns="t"), frame["t"])
    assert open_run(front.folder).as_dict() == before


def test_a_limit_is_held_against_the_worse_end_of_a_forecast(front: Front) -> None:
    at = front.at(1_000_000)
    fast = min(at, key=lambda m: m.forecast["training_seconds"]["high"])
    told = fast.forecast["training_seconds"]
    assert at.choose(max_training_time=told["high"] * 1.01).id == fast.id
    with pytest.raises(InfeasibleError, match="max_training_time"):
        at.choose(max_training_time=told["value"])  # the middle is not enough
    with pytest.raises(InfeasibleError, match="max_training_memory"):
        at.choose(max_training_memory="1kB")
    with pytest.raises(UsageError, match="max_latency_p99 is not forecast"):
        at.choose(max_latency_p99="1h")


def test_the_command_prints_forecasts_orders_and_the_most_rows(folder: Path, capsys: Any) -> None:
    command = ["scale", str(folder), "--rows", "1M", "--max-training-time", "1m", "--json"]
    assert run(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["at_rows"] == 1_000_000
    assert all(limits["training_seconds"] > 1000 for limits in found["largest_rows"].values())
    assert isinstance(found["crossings"], list)
    assert run(command[:-1]) == 0
    out = capsys.readouterr().out
    assert "training time grows as n^" in out
    assert "rows within the training time" in out
    assert run(["front", str(folder), "--at-rows", "1M"]) == 0
    assert "at 1,000,000 rows" in capsys.readouterr().out
    assert run(["choose", str(folder), "--at-rows", "1M", "--max-training-time", "1ns"]) == 4
    assert "max_training_time" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--rows", "1M", "--backtest"]])
def test_the_command_wants_one_thing(folder: Path, arguments: list[str], capsys: Any) -> None:
    assert run(["scale", str(folder), *arguments]) == 2
    assert "--backtest" in capsys.readouterr().err


def test_the_look_back_fits_again_and_states_its_cost(folder: Path, capsys: Any) -> None:
    assert run(["scale", str(folder), "--backtest", "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert {r["quantity"] for r in found["results"]} >= {"error", "training_seconds", "training_memory_bytes"}
    assert all(0 <= r["coverage"] <= 1 and r["mape"] >= 0 for r in found["results"])
    assert found["fits"] == 4 * len(open_run(folder))
    assert "s of fitting" in printed.err


def test_a_look_back_needs_the_file_and_enough_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200, 2)), np.arange(200) % 2
    automl.fit(X, y, budget=automl.Budget(trials=1), families=["baseline"], run_dir=tmp_path / "memory")
    with pytest.raises(UsageError, match="from a file"):
        backtest(tmp_path / "memory", print)
    pd.DataFrame(X).assign(t=y).to_csv(tmp_path / "t.csv", index=False)
    automl.fit(
        tmp_path / "t.csv",
        target="t",
        budget=automl.Budget(trials=1),
        families=["baseline"],
        run_dir=tmp_path / "small",
    )
    with pytest.raises(DataError, match="too few"):
        backtest(tmp_path / "small", print)


def test_a_target_steers_the_choice_and_its_limits(table: Path) -> None:
    options: dict[str, Any] = {"target": "t", "budget": automl.Budget(trials=4), "families": FAMILIES}
    model = automl.fit(table, **options, target_rows="1M", max_training_time="10h", max_training_memory="64GB")
    assert model.front_.found["target_rows"] == 1_000_000
    assert model.best_.id == model.front_.at("1M")[0].id
    with pytest.raises(InfeasibleError, match="max_training_time"):
        automl.fit(table, **options, target_rows=10**12, max_training_time="1ms")
    with pytest.raises(UsageError, match="target_rows"):
        automl.fit(table, **options, target_rows="many")
    with pytest.raises(UsageError, match="max_latency_p99 is not forecast"):
        automl.fit(table, **options, target_rows="1M", max_latency_p99="1s")
    with pytest.raises(UsageError, match="5 s or more"):
        automl.fit(table, **(options | {"budget": 2}), target_rows="1M", max_training_time="10h")


def test_what_is_surely_no_better_leaves_a_forecast() -> None:
    def entry(error: float, latency: float) -> dict[str, Any]:
        values = dict(zip(CERTAIN, (error, 1.0, latency, 1e6), strict=True))
        return {"forecast": {name: {"value": v, "low": 0.9 * v, "high": 1.1 * v} for name, v in values.items()}}

    model, slower, other = entry(0.1, 1e-5), entry(0.1, 1e-3), entry(0.105, 1e-3)
    assert certainly_dominated([model, slower, other]) == [False, True, False]
    assert certainly_dominated([model, model]) == [False, False]
