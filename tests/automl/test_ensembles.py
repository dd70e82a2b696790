"""Ensembles on a front: measured, read, exported, carried and resumed like any other model; there only where they are wanted."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import automl
from automl import Budget, runtime
from automl.backtest import measured_curve
from automl.cli.main import run
from automl.errors import UsageError
from automl.estimators.families import FAMILIES
from automl.front import Front, Model, open_run
from automl.inputs import resolve_families, with_ensembles
from automl.search import blends
from automl.search.bagging import Bagging
from automl.search.blends import Blends
from automl.search.plan import ENSEMBLE, Plan, single_of
from automl.search.refits import Finalist, Refits
from automl.search.store import Store
from automl.search.trial import Trial

SEARCHED = ["linear", "neighbours", "tree"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: Any) -> Path:
    """A plane with steps on it: of a linear model and the neighbours each has what the other lacks."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(900, 4))
    y = 2 * X[:, 0] + 2 * (X[:, 1] > 0) * (X[:, 2] > 0) + np.abs(X[:, 3]) + 0.1 * rng.normal(size=900)
    path: Path = tmp_path_factory.mktemp("ensembles") / "t.csv"
    pd.DataFrame(X, columns=list("abcd")).assign(y=y).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def fitted(table: Path) -> Any:
    return automl.fit(
        table,
        target="y",
        budget=Budget(trials=4),
        families=[*SEARCHED, ENSEMBLE],
        run_dir=table.parent / "run",
        n_jobs=1,
    )


@pytest.fixture(scope="module")
def ensemble(fitted: Any) -> Model:
    model: Model = fitted.front_[0]
    assert model.family == ENSEMBLE
    return model


def test_its_entry_says_of_what_it_is_made(ensemble: Model, fitted: Any) -> None:
    entry = json.loads(json.dumps(ensemble.entry))
    members = entry["plan"]["members"]
    assert 2 <= len(members) <= 8
    assert all(member["weight"] >= 1 and member["plan"]["family"] in SEARCHED for member in members)
    assert Plan.from_dict(entry["plan"]).as_dict() == entry["plan"]
    assert entry["rows"] == 900
    assert entry["columns"] == 4
    assert entry["error"] < min(m.error for m in fitted.front_ if m.family != ENSEMBLE)
    assert entry["latency_p50_seconds"] > 0
    assert "ensemble of 1 " in repr(fitted.front_)


def test_its_fit_takes_what_its_members_fits_take(ensemble: Model, fitted: Any) -> None:
    singles = [m for m in fitted.front_ if m.family != ENSEMBLE and m.as_dict()["plan"] in plans(ensemble)]
    assert ensemble.training_seconds >= 0.999 * sum(m.training_seconds for m in singles)  # others are not on the front
    assert ensemble.training_memory_bytes >= max(m.training_memory_bytes for m in singles)


def plans(ensemble: Model) -> list[dict[str, Any]]:
    return [member["plan"] for member in ensemble.plan["members"]]


def test_it_is_one_artifact_that_was_proven(ensemble: Model) -> None:
    from automl.estimators.artifact import read_record

    assert {file.name for file in ensemble.path.iterdir()} == {"manifest.json", "model.onnx", "record.json"}
    record = read_record(ensemble.path)
    assert record["proof"]["rows"] >= 1000
    assert record["proof"]["largest_difference"] < 1e-5


def test_it_is_exported_pickled_and_saved(fitted: Any, ensemble: Model, table: Path, tmp_path: Path) -> None:
    X = pd.read_csv(table).drop(columns="y")
    said = ensemble.predict(X)
    assert (runtime.load(ensemble.export(tmp_path / "bundle")).predict(X) == said).all()
    import onnxruntime

    graph = onnxruntime.InferenceSession(str(ensemble.export(tmp_path / "model.onnx", format="onnx")))
    columns = {name: X[[name]].to_numpy() for name in ensemble.runtime.used}
    assert graph.run(["value"], columns)[0].reshape(-1) == pytest.approx(said, rel=1e-6)
    for model in (pickle.loads(pickle.dumps(fitted)), automl.load(fitted.save(tmp_path / "saved"))):
        assert model.front_[0].entry == ensemble.entry
        assert (model.predict(X) == said).all()


def test_it_has_laws_and_a_place_on_a_forecast_front(fitted: Any, ensemble: Model) -> None:
    law = ensemble.laws["training_seconds"]
    assert len(law["rows"]) == 3
    assert law["low"] <= law["exponent"] <= law["high"]
    forecast = Front(fitted.front_.folder, fitted.front_.found).at("100k").get(ensemble.id)
    assert forecast.forecast["training_seconds"]["low"] > 0
    assert forecast.error < ensemble.error


def test_the_commands_show_it(fitted: Any, table: Path, capsys: Any) -> None:
    folder = str(table.parent / "run")
    for command in (["front", folder], ["scale", folder, "--rows", "1M"], ["choose", folder]):
        assert run(command) == 0
        assert ENSEMBLE in capsys.readouterr().out


def test_looking_back_leaves_it_to_its_members(ensemble: Model, fitted: Any, table: Path) -> None:
    plan = Plan.from_dict(ensemble.plan)
    curve, reason = measured_curve(plan, [100], table.parent, None, 0)  # type: ignore[arg-type]
    assert curve == []
    assert "its members" in reason


def test_a_resumed_run_has_a_whole_front_again(fitted: Any, table: Path) -> None:
    before = {path.name for path in (table.parent / "run" / "models").iterdir()}
    with Store.open(table.parent / "run" / "run.db", read_only=True) as store:
        assert ENSEMBLE not in {t.plan.family for t in store.trials()}
    assert before == {m.id for m in open_run(table.parent / "run")}
    again = automl.api.resume(table.parent / "run", Budget(trials=7))
    assert {m.family for m in again.front_} <= {*SEARCHED, ENSEMBLE}
    X = pd.read_csv(table).drop(columns="y")
    assert all(np.isfinite(m.predict(X)).all() for m in again.front_)


def test_ensembles_are_a_family_that_is_named_or_left_out() -> None:
    assert with_ensembles(None, None)
    assert not with_ensembles(["linear"], None)
    assert with_ensembles("linear,ensemble", None)
    assert not with_ensembles(None, "ensemble")
    assert [f.name for f in resolve_families("linear,ensemble", None)] == ["linear"]
    assert len(resolve_families(None, ["ensemble"])) == len(FAMILIES)
    with pytest.raises(UsageError, match="no family is left"):
        resolve_families(["ensemble"], None)


def test_no_family_of_the_users_is_called_ensemble() -> None:
    own: Any = type("Own", (type(FAMILIES[1]),), {"name": ENSEMBLE})
    with pytest.raises(UsageError, match="rename it"):
        resolve_families(["tree", own], None)


def test_a_metric_that_raises_on_blends_loses_no_run(table: Path, monkeypatch: Any, caplog: Any) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("only whole numbers")

    monkeypatch.setattr(blends, "select", fails)
    model = automl.fit(table, target="y", budget=Budget(trials=2), families=["linear", "tree", ENSEMBLE], n_jobs=1)
    assert len(model.front_) >= 1
    assert "only whole numbers" in caplog.text


def test_where_a_member_cannot_be_finished_there_is_an_ensemble_of_those_that_are(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: list[set[str]] = []
    chosen, fit = Blends.chosen, Refits.fit

    def told(self: Blends, bags: Any) -> list[Trial]:
        found = chosen(self, bags)
        wanted.extend({single_of(plan).family for plan, _ in e.plan.members} for e in found)
        return found

    def without_linear(self: Refits, group: list[Trial], keep: float = 0.0) -> list[Finalist]:
        return [] if group[0].plan.family == "linear" else fit(self, group, keep)

    monkeypatch.setattr(Blends, "chosen", told)
    monkeypatch.setattr(Bagging, "judge", lambda self, finalists: {})
    monkeypatch.setattr(Refits, "fit", without_linear)
    options: dict[str, Any] = {"families": [*SEARCHED, "forest", ENSEMBLE], "budget": Budget(trials=8), "n_jobs": 1}
    front = automl.fit(table, target="y", **options).front_
    assert wanted
    assert all("linear" in each for each in wanted)
    made = [{member["plan"]["family"] for member in m.plan["members"]} for m in front if m.family == ENSEMBLE]
    assert made
    assert all("linear" not in each for each in made)
