"""A run goes on after it ended or was killed: no completed trial is lost, it is the same experiment, and a front is whole."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest

import automl
from automl import Budget
from automl.api import resume
from automl.errors import DataError, InfeasibleError, ResourceError, UsageError
from automl.estimators.families.tree import Tree
from automl.front import open_run
from automl.inputs import file_meta
from automl.run_folder import prepare_folder
from automl.search.finish import Finish
from automl.search.store import Store
from automl.search.trial import Trial

FAMILIES = ["baseline", "linear", "tree"]


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(300, 3)), columns=["a", "b", "c"])
    return X.assign(y=np.where(X.a + X.b * X.c + rng.normal(size=300) > 0, "yes", "no"))


@pytest.fixture(scope="module")
def csv(frame: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "train.csv"
    frame.to_csv(path, index=False)
    return path


def fit(frame: pd.DataFrame, run: Path, trials: int = 3, **options: Any) -> Any:
    options = {"families": FAMILIES, "budget": Budget(trials=trials), **options}
    return automl.fit(frame, target="y", run_dir=run, **options)


def trials(run: Path) -> list[Trial]:
    with Store.open(run / "run.db", read_only=True) as store:
        return store.trials()


# -- going on ------------------------------------------------------------------------------------------------------------


def test_a_finished_run_from_a_file_is_resumed_by_its_folder_alone(csv: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = {"families": ("baseline", "tree"), "budget": Budget(trials=3, memory="6GB"), "random_state": None}
    first = automl.fit(csv, target="y", run_dir=run, **options)
    before = trials(run)
    again = resume(run)
    assert again.front_.found["trials"]["completed"] == 3
    assert [t.as_dict() for t in trials(run)] == [t.as_dict() for t in before]
    assert again.budget == Budget(trials=3, memory="6GB")
    assert resume(run, Budget(trials=4)).budget.memory == "6GB"
    assert first.get_params()["families"] == ("baseline", "tree")
    names = {m.id for m in first.front_} & {m.id for m in again.front_}
    assert not names, "an ID means one model only"


def test_a_plan_that_was_skipped_for_want_of_time_is_open_again(frame: pd.DataFrame, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fit(frame, run, 3)
    last = [t for t in trials(run) if t.rung >= 0 and t.parent is None][-1]
    with Store.open(run / "run.db") as store:
        store.add_trial(replace(last, status="skipped", reason="it was cancelled"))
    fit(frame, run, 3, resume=True)
    after = trials(run)
    assert after[last.number].status == "skipped"
    again = [t for t in after if t.plan.id == last.plan.id and t.status == "completed" and t.rung >= 0]
    assert len(again) == 1
    assert again[0].number > last.number


def test_a_longer_budget_keeps_the_space_and_the_rows_of_the_first_rung(
    frame: pd.DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    options = {"families": ["baseline", "lightgbm"]}
    fit(frame, run, 3, **options)  # one trial at a time, on one or more threads: an axis of the space
    with Store.open(run / "run.db") as store:
        kept = store.get_meta("share"), store.get_meta("base_rung")
    with caplog.at_level("INFO", "automl"):
        fit(frame, run, resume=True, **options | {"budget": Budget(time=20, trials=4)})
    assert "is not told" not in caplog.text
    with Store.open(run / "run.db") as store:
        assert (store.get_meta("share"), store.get_meta("base_rung")) == kept


def test_points_of_another_space_count_and_are_not_told(
    frame: pd.DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    fit(frame, run, 3)
    last = [t for t in trials(run) if t.rung >= 0 and t.parent is None][-1]
    with Store.open(run / "run.db") as store:
        store.add_trial(replace(last, point=(*last.point, ("threads", 64))))
    with caplog.at_level("INFO", "automl"):
        model = fit(frame, run, 4, resume=True)
    assert f"trial {last.number} counts" in caplog.text
    assert model.front_.found["trials"]["completed"] == 4


def test_families_that_are_left_out_now_are_no_error(frame: pd.DataFrame, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fit(frame, run, 4)
    model = fit(frame, run, 5, families=["baseline", "linear"], resume=True)
    assert {m.family for m in model.front_} <= {"baseline", "linear"}


def test_a_short_budget_still_finishes_the_families_that_the_run_has_models_of(
    frame: pd.DataFrame, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    fit(frame, run, 4)
    assert fit(frame, run, resume=True, budget=4).front_.found["trials"]["completed"] >= 4


# -- the same experiment -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"metric": "accuracy"}, "metric was 'roc_auc'"),
        ({"objectives": ["error", "size"]}, "objectives was"),
        ({"strategy": "random"}, "strategy was 'auto'"),
        ({"random_state": 7}, "seed was 0"),
        ({"groups": np.arange(300) // 3}, "split was another"),
    ],
)
def test_another_experiment_is_refused_by_name(
    frame: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory, changed: dict[str, Any], says: str
) -> None:
    run = tmp_path_factory.getbasetemp() / "same" / "run"
    if not run.exists():
        fit(frame, run, 1)
    with pytest.raises(UsageError, match=says):
        fit(frame, run, 2, resume=True, **changed)


def test_what_a_folder_cannot_hold_is_named(csv: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = {"families": ["baseline", Tree()], "metric": error_rate, "budget": Budget(trials=2)}
    automl.fit(csv, target="y", run_dir=run, **options)
    with pytest.raises(UsageError, match=r"families, metric as Python objects.*resume=True"):
        resume(run)
    again = automl.fit(csv, target="y", run_dir=run, resume=True, **options | {"budget": Budget(trials=3)})
    assert again.front_.found["trials"]["completed"] == 3
    assert file_meta(csv, "y", None, {}, None, None, object(), {})["dropped"] == ["splitter"]


def error_rate(y_true: Any, y_pred: Any) -> float:
    return -float(np.mean(y_true != y_pred))


# -- a whole front at any moment -----------------------------------------------------------------------------------------


class Stop(BaseException):
    """A kill."""


@pytest.mark.parametrize("at", ["copytree", "write_record", "replace", "set_meta"])
def test_a_kill_while_the_front_is_written_leaves_the_former(
    at: str, frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    former = [m.id for m in fit(frame, run, 3).front_]

    def stop(*_: Any, **__: Any) -> Any:
        raise Stop

    with monkeypatch.context() as patch:
        if at == "set_meta":
            plain = Store.set_meta
            patch.setattr(Store, at, lambda s, k, v: stop() if k == "front" else plain(s, k, v))
        else:
            patch.setattr(f"automl.run.{ {'copytree': 'shutil.', 'replace': 'os.'}.get(at, '') }{at}", stop)
        with pytest.raises(Stop):
            fit(frame, run, 4, resume=True)
    front = open_run(run)
    assert [m.id for m in front] == former
    assert all(len(m.predict(frame)) == len(frame) for m in front)
    now = fit(frame, run, 4, resume=True).front_
    assert {p.name for p in (run / "models").iterdir()} == {m.id for m in now}
    assert not (run / "data").exists()


def test_where_nothing_can_be_finished_the_run_keeps_its_front(
    frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    former = [m.id for m in fit(frame, run, 3).front_]
    monkeypatch.setattr(Finish, "run", lambda self: [])
    again = fit(frame, run, 3, resume=True)
    assert [m.id for m in again.front_] == former
    assert len(again.predict(frame.drop(columns="y"))) == len(frame)


def test_a_front_whose_best_model_is_not_finished_again_is_kept(
    frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    former = fit(frame, run, 4).front_
    assert former[0].family != "baseline"
    whole = Finish.run
    monkeypatch.setattr(Finish, "run", lambda self: [m for m in whole(self) if m.plan.family == "baseline"])
    again = fit(frame, run, 4, resume=True)
    assert [m.id for m in again.front_] == [m.id for m in former]
    assert len(again.predict(frame.drop(columns="y"))) == len(frame)
    smaller = fit(frame, run, 4, resume=True, families=["baseline"], exclude=None)
    assert [m.family for m in smaller.front_] == ["baseline"]


# -- the folder ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [{"strategy": "bayes"}, {"families": ["baseline"], "groups": np.zeros(300)}])
def test_what_cannot_run_leaves_no_folder(frame: pd.DataFrame, tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises((UsageError, DataError)):
        fit(frame, tmp_path / "run", **wrong)
    assert not (tmp_path / "run").exists()


def test_a_run_that_fails_before_its_first_trial_leaves_no_folder(
    frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise ResourceError("the disk is full")

    monkeypatch.setattr("automl.run.write_data", full)
    with pytest.raises(ResourceError, match="full"):
        fit(frame, tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Raising(Tree):
    name: ClassVar[str] = "raising"

    def starts(self, facts: Any) -> Sequence[dict[str, Any]]:
        return super().starts(facts)[:1]

    def build(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("no such luck")


def test_a_run_whose_trials_failed_is_kept(frame: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(InfeasibleError):
        fit(frame, tmp_path / "run", 1, families=[Raising()])
    assert trials(tmp_path / "run")[0].status == "failed"


def test_a_live_run_is_not_overwritten(frame: pd.DataFrame, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fit(frame, run, 1)
    with Store.open(run / "run.db"), pytest.raises(ResourceError, match="in use"):
        prepare_folder(run, overwrite=True)
    assert len(open_run(run)) == 1


def test_an_overwriting_that_was_killed_can_be_done_again(
    frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    fit(frame, run, 1)
    removed: list[str] = []
    plain = Path.unlink

    def unlink(self: Path, missing_ok: bool = False) -> None:
        if len(removed) == 2:
            raise Stop
        removed.append(self.name)
        plain(self, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        with pytest.raises(Stop):
            prepare_folder(run, overwrite=True)
    assert not (run / "models").exists()
    assert (run / "run.db").exists()
    prepare_folder(run, overwrite=True)
    assert {p.name for p in run.iterdir()} <= {"run.db.lock"}
    assert len(fit(frame, run, 1).front_) == 1  # an empty folder but for the lock


# -- kill -9 -------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="fit is not for Windows")
def test_a_killed_run_is_resumed_by_the_command_line(csv: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    automl_ = [sys.executable, "-m", "automl"]
    command = [*automl_, "fit", str(csv), "--target", "y", "--trials", "40", "--families", "baseline,linear,tree"]
    process = subprocess.Popen([*command, "--out", str(run), "--quiet"], cwd=Path(__file__).resolve().parents[2])
    try:
        deadline = time.monotonic() + 60
        while sum(t.status == "completed" for t in seen(run)) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = [t for t in trials(run) if t.status == "completed"]
    assert 3 <= len(before) < 40
    resumed = subprocess.run(
        [*automl_, "resume", str(run), "--budget", "8s", "--json"],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert resumed.returncode == 0, resumed.stderr
    found = json.loads(resumed.stdout)
    after = {t.number: t for t in trials(run)}
    assert [after[t.number].as_dict() for t in before] == [t.as_dict() for t in before]
    assert found["trials"]["completed"] >= len(before)
    assert found["models"]
    assert all((run / m["artifact"] / "manifest.json").exists() for m in found["models"])
    assert not (run / "data").exists()


def seen(run: Path) -> list[Trial]:
    """The trials so far; none while the store is being made."""
    try:
        return trials(run)
    except (UsageError, DataError, ResourceError):
        return []
