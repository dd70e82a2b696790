"""`automl predict`: a file in chunks is the file as a whole, and explanations add up."""

from __future__ import annotations

import io
import itertools
import json
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from automl import stream
from automl.cli.main import run
from automl.cli.predict import FORMULA, names_of
from automl.dataset import read_frame
from automl.errors import DataError, UsageError
from automl.estimators import runtime
from automl.estimators.encoder import View
from automl.estimators.families import by_name
from automl.estimators.pipeline import Pipeline
from automl.estimators.runtime import load
from automl.estimators.table import from_frame
from automl.explain import explainer_of
from automl.stream import check_cells, open_chunks

ROOT = Path(__file__).resolve().parents[2]
PARAMS: dict[str, dict[str, Any]] = {
    "linear": {},
    "tree": {"max_leaf_nodes": 12},
    "forest": {"n_estimators": 5, "max_leaf_nodes": 12},
    "lightgbm": {"n_estimators": 12, "num_leaves": 7, "bagging_fraction": 1.0, "learning_rate": 0.3},
}


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    found = pd.DataFrame(
        {
            "age": rng.normal(40, 12, 400).round(1),
            "hours": rng.integers(0, 60, 400),
            "job": rng.choice(["nurse", "cook", "driver", "clerk"], 400),
            "city": rng.choice(["A", "B"], 400),
        }
    )
    found.loc[::9, "age"] = np.nan
    found.loc[::13, "job"] = None
    return found


def target(frame: pd.DataFrame, task: str) -> Any:
    score = frame["age"].fillna(0) / 12 + (frame["job"] == "nurse") * 2 + frame["hours"] / 30 * (frame["city"] == "A")
    if task == "regression":
        return score
    return np.where(score > 4.5, "yes", "no") if task == "binary" else pd.cut(score, 3, labels=["low", "mid", "high"])


def artifact(folder: Path, frame: pd.DataFrame, name: str, task: str) -> Path:
    table = from_frame(frame, target(frame, task), task=task)
    family = by_name([name])[0]
    view = View("scaled", "onehot") if name in ("linear", "neighbours") else View()
    pipeline = Pipeline(family, PARAMS.get(name, {}), view=view)
    rows = np.arange(len(frame))
    pipeline.fit(table, rows).export(folder, table, rows)
    return folder


@pytest.fixture(scope="module")
def boosted(frame: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return artifact(tmp_path_factory.mktemp("artifact") / "boosted", frame, "lightgbm", "binary")


# -- chunks --------------------------------------------------------------------------------------------------------------

CELLS = {
    "whole": ["1", "007"],
    "beyond 53 bits": ["9007199254740993", "9007199254740995"],
    "beyond 63 bits": ["18446744073709551615", "9999999999999999999"],
    "beyond 64 bits": ["99999999999999999999999"],
    "real": ["1.5", "1e3"],
    "missing": ["", "NA"],
    "text": ["a", "01"],
    "boolean": ["True", "FALSE"],
    "lines": ['"x\ny"', '"1"'],
}


@pytest.mark.parametrize("kinds", list(itertools.permutations(CELLS, 2)), ids="-".join)
def test_a_column_in_chunks_is_the_column_as_a_whole(kinds: tuple[str, str], tmp_path: Path) -> None:
    cells = [cell for kind in kinds for cell in (CELLS[kind] * 2)[:2]]
    path = tmp_path / "t.csv"
    path.write_text("n,v\n" + "".join(f"{i},{cell}\n" for i, cell in enumerate(cells)))
    whole = read_frame(path)["v"]
    with open_chunks(path, rows=2) as chunks:
        parts = [part["v"] for part in chunks]
        again = [part["v"] for part in chunks]
    assert [len(part) for part in parts] == [2, 2]
    for column in (parts, again):
        found = [cell for part in column for cell in part]
        for one, other in zip(found, whole, strict=True):
            assert (one != one and other != other) or (one == other and isinstance(one, str) == isinstance(other, str))
            big = not isinstance(one, (str, bool, np.bool_)) and abs(one) > 2**53
            assert not big or isinstance(one, float) == isinstance(other, float)


def test_chunks_are_bounded_however_long_the_file(tmp_path: Path) -> None:
    rows = 3 * stream.LEAST_ROWS
    path = tmp_path / "wide.csv"
    names = [f"c{i}" for i in range(200)]
    pd.DataFrame(np.ones((rows, 200), int), columns=names).to_csv(path, index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "CELLS", 200 * stream.LEAST_ROWS)
        with open_chunks(path) as chunks:
            assert [len(chunk) for chunk in chunks] == [stream.LEAST_ROWS] * 3


def test_a_short_record_in_a_late_chunk_is_refused_before_the_first_is_given(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "1,2\n" * 20 + "3\n" + "1,2\n" * 5)
    with pytest.raises(DataError, match=r"line 22: 1 fields where the header has 2"), open_chunks(path, rows=4):
        pass


@pytest.mark.parametrize("form", ["{}", "r{}", "{},"], ids=["plain", "row names", "trailing"])
def test_only_columns_in_use_are_ever_kept_as_a_whole(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.csv"
    lines = [f"{i},{2**64 - 1 - i},{2**64 + i},{-i}" for i in range(8)]
    rows = [f"r{i},{line}" if form == "r{}" else form.format(line) for i, line in enumerate(lines)]
    path.write_text("n,big,bigger,less\n" + "".join(f"{row}\n" for row in rows).replace(f"{2**64 - 1},", "-1,", 1))
    whole, parsed = read_frame(path), []

    def parse(*given: Any) -> Any:
        parsed.append(stream_parse(*given))
        return parsed[-1]

    stream_parse = stream.parse
    monkeypatch.setattr(stream, "parse", parse)
    with open_chunks(path, ["n", "less"], rows=2, decimal=".") as chunks:
        assert not parsed
        assert pd.concat(list(chunks))["less"].tolist() == whole["less"].tolist()
    with open_chunks(path, ["n", "big"], rows=2, decimal=".") as chunks:
        assert [list(frame.columns) for frame in parsed] == [["big"]]
        assert pd.concat(list(chunks))["big"].tolist() == whole["big"].tolist()


def test_parquet_in_chunks_is_the_file_as_a_whole(frame: pd.DataFrame, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="Parquet needs the extra parquet")
    path = tmp_path / "t.parquet"
    ids = pd.Series(np.arange(2**60, 2**60 + 400), dtype="Int64").mask(np.arange(400) > 390)
    frame.assign(id=ids, extra=1).to_parquet(path, row_group_size=150)
    whole = read_frame(path)
    with open_chunks(path, ["id", "job", "age"], rows=64) as chunks:
        found = pd.concat(list(chunks), ignore_index=True)
        assert all(len(chunk) <= 64 for chunk in chunks)
    pd.testing.assert_frame_equal(found[["id", "job", "age"]], whole[["id", "job", "age"]])


def test_a_cell_that_does_not_read_is_named_by_file_row_and_column(
    frame: pd.DataFrame, boosted: Path, tmp_path: Path
) -> None:
    path = tmp_path / "new.csv"
    bad = frame.astype(object)
    bad.loc[151, "hours"] = "many"
    bad.to_csv(path, index=False)
    with (
        open_chunks(path, rows=50) as chunks,
        pytest.raises(
            DataError, match=r"new\.csv, row 153 \(the header is row 1\), column 'hours': 'many' is not a num"
        ),
    ):
        check_cells(runtime.load(boosted), chunks)


# -- the command ---------------------------------------------------------------------------------------------------------


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> pd.DataFrame:
    assert run(["predict", *arguments]) == 0
    return pd.read_csv(io.StringIO(capsys.readouterr().out))


def test_it_predicts_what_the_whole_frame_gives_in_its_order(
    frame: pd.DataFrame,
    boosted: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "new.csv"
    frame.to_csv(path, index=False)
    model = runtime.load(boosted)
    monkeypatch.setattr(stream, "CELLS", 200)
    found = output(capsys, str(boosted), str(path), "--proba")
    assert len(found) == 400
    assert found["prediction"].tolist() == model.predict(read_frame(path)).tolist()
    assert found["probability_yes"].tolist() == model.predict_proba(read_frame(path))[:, 1].astype(float).tolist()


def test_a_cell_is_the_level_that_it_was_in_training_whatever_the_other_cells_of_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "flag": rng.choice(["true", "false", "unknown"], 400),
            "code": rng.choice(["007", "12E4", "A12"], 400),
            "zip": pd.Categorical(rng.choice([1010, 8001], 400)),
        }
    )
    y = (frame["flag"] == "true") * 2.0 + (frame["code"] == "007") + (frame["zip"] == 8001) * 0.5
    table, rows = from_frame(frame, y, task="regression"), np.arange(400)
    pipeline = Pipeline(by_name(["tree"])[0], {"max_leaf_nodes": 12}, view=View())
    pipeline.fit(table, rows).export(tmp_path / "model", table, rows)
    path = tmp_path / "new.csv"
    path.write_text("flag,code,zip\ntrue,007,8001.0\nfalse,12E4,1010\n")
    expected = load(tmp_path / "model").predict(
        pd.DataFrame({"flag": ["true", "false"], "code": ["007", "12E4"], "zip": [8001, 1010]})
    )
    assert expected == pytest.approx([3.5, 0.0])
    assert run(["predict", str(tmp_path / "model"), str(path)]) == 0
    assert [float(line) for line in capsys.readouterr().out.split()[1:]] == pytest.approx(expected.tolist())


def test_a_number_is_the_one_that_it_was_in_training_whatever_the_other_cells_of_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    whole = rng.integers(1, 3_000_000, 400)
    frame = pd.DataFrame({"price": [f"{n:,}".replace(",", ".") for n in whole]})  # points between thousands
    frame.loc[0, "price"], frame["land"] = "1.234.567", rng.choice(["NA", "None", "DE"], 400)
    y = np.log(whole) + (frame["land"] == "NA") * 5.0 + (frame["land"] == "None") * 9.0
    table, rows = from_frame(frame, y, task="regression"), np.arange(400)
    pipeline = Pipeline(by_name(["tree"])[0], {"max_leaf_nodes": 60}, view=View())
    pipeline.fit(table, rows).export(tmp_path / "model", table, rows)
    new = pd.DataFrame({"price": ["1.234", "999.999", "12.500"], "land": ["NA", "None", "DE"]})
    new.to_csv(tmp_path / "new.csv", index=False)
    expected = load(tmp_path / "model").predict(new)
    assert np.ptp(expected) > 3.0
    for cells in (100_000, 4):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stream, "CELLS", cells)
            assert run(["predict", str(tmp_path / "model"), str(tmp_path / "new.csv")]) == 0
        assert [float(line) for line in capsys.readouterr().out.split()[1:]] == pytest.approx(expected.tolist())


def test_numbers_with_a_comma_are_read_where_it_is_said(
    frame: pd.DataFrame, boosted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new.csv"
    path.write_text("age;hours;job;city\n40,125;10;nurse;A\n31,250;20;cook;B\n")
    assert run(["predict", str(boosted), str(path)]) == 3
    assert "'40,125'" in capsys.readouterr().err
    assert run(["predict", str(boosted), str(path), "--decimal", ","]) == 0
    assert run(["verify", str(boosted), "--data", str(path), "--decimal", ",", "--budget", "1"]) == 0
    explained = ["predict", str(boosted), str(path), "--explain", "--background", str(path)]
    assert run([*explained, "--decimal", ","]) == 0


def test_row_names_that_may_be_decimal_commas_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prices = pd.DataFrame({"price": np.arange(400) / 7, "qty": np.arange(400) % 9})
    table, rows = from_frame(prices, prices["price"] * prices["qty"], task="regression"), np.arange(400)
    place, path = tmp_path / "a", tmp_path / "new.csv"
    Pipeline(by_name(["tree"])[0], {}, view=View()).fit(table, rows).export(place, table, rows)
    command = ["predict", str(place), str(path)]
    path.write_text("price,qty\n1,5,2\n2,5,3\n")
    assert run(command) == run([*command, "--json"]) == run([*command, "--sep", ","]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "may have decimal commas without quotes (the first: '1,5,2')" in captured.err
    assert "--sep" in captured.err
    assert run(["verify", str(place), "--data", str(path), "--budget", "1"]) == 3
    assert run([*command, "--decimal", "."]) == 0
    assert capsys.readouterr().err.count("taken for row names") == 1
    for text in ("price;qty\n1,5;2\n2,5;3\n", "row,price,qty\n1,5,2\n2,5,3\n"):
        path.write_text(text)
        assert run(command) == 0
        assert "row names" not in capsys.readouterr().err
    path.write_text("price,qty\nann,1.5,2\nbob,2.5,3\n")
    assert run(command) == 0
    captured = capsys.readouterr()
    assert captured.err.count("taken for row names") == 1
    assert captured.out.count("\n") == 3


def test_how_the_file_was_read_is_said_once_and_not_where_it_is_to_be_quiet(
    frame: pd.DataFrame, boosted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new.csv.gz"
    frame.to_csv(path, index=False, sep=";")
    explained = ["predict", str(boosted), str(path), "--explain", "--background", str(path)]
    for command in (["predict", str(boosted), str(path)], explained):
        assert run(command) == 0
        notes = capsys.readouterr().err.splitlines()
        assert notes == [f"note: {path} is gzip compressed.", f"note: {path} is separated by semicolons."]
        assert run([*command, "--quiet"]) == 0
        assert capsys.readouterr().err == ""


def test_it_reads_standard_input(frame: pd.DataFrame, boosted: Path) -> None:
    text = frame.to_csv(index=False, sep=";").encode()
    done = subprocess.run(
        [sys.executable, "-m", "automl", "predict", str(boosted), "-"],
        input=text,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode().split()[1:] == runtime.load(boosted).predict(frame).tolist()


def test_a_wrong_cell_far_down_leaves_no_output(
    frame: pd.DataFrame,
    boosted: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "CELLS", 200)
    bad = frame.astype(object)
    bad.loc[399, "age"] = "old"
    bad.to_csv(tmp_path / "new.csv", index=False)
    assert run(["predict", str(boosted), str(tmp_path / "new.csv"), "-o", str(tmp_path / "out.csv")]) == 3
    assert run(["predict", str(boosted), str(tmp_path / "new.csv")]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "row 401" in captured.err
    assert [p.name for p in tmp_path.iterdir()] == ["new.csv"]


def test_a_device_or_pipe_is_written_to_and_a_link_is_kept(
    frame: pd.DataFrame, boosted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "new.csv"
    frame.to_csv(data, index=False)
    command = ["predict", str(boosted), str(data), "--overwrite", "-o"]
    assert run(command[:3]) == 0
    expected = capsys.readouterr().out
    null = tmp_path / "null"
    null.symlink_to(os.devnull)
    assert run([*command[:3], "-o", str(null)]) == run([*command, str(null)]) == 0
    assert null.is_symlink()
    assert null.is_char_device()
    pipe, found = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    assert run([*command[:3], "-o", str(pipe)]) == 0
    reader.join(10)
    assert found == [expected]
    assert pipe.is_fifo()
    link, real = tmp_path / "link", tmp_path / "folder" / "real.csv"
    link.symlink_to(real)
    assert run([*command, str(link)]) == 2, "the link leads to a folder that is not there"
    real.parent.mkdir()
    for old in (None, "before"):
        if old is not None:
            real.write_text(old)
            assert run([*command[:3], "-o", str(link)]) == 2
            assert real.read_text() == old
        assert run([*command, str(link)]) == 0
        assert link.is_symlink()
        assert real.read_text() == expected
    assert run([*command, str(data / "out.csv")]) == 2
    capsys.readouterr()
    printed = tmp_path / "printed.csv"
    with printed.open("wb") as out:
        start = [sys.executable, "-m", "automl"]
        subprocess.run([*start, *command[:3], "-o", "/dev/stdout"], stdout=out, cwd=ROOT, check=True)
    assert printed.read_text() == expected
    piped = subprocess.run([*start, *command[:3], "-o", "/dev/stdout"], stdout=subprocess.PIPE, cwd=ROOT, check=True)
    assert piped.stdout.decode() == expected


def test_labels_of_one_text_are_told_apart(
    frame: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert names_of([1, 2, "no"]) == ["1", "2", "no"]
    assert names_of([1, "1", "'1'"]) == ["1", "'1'", "\"'1'\""]
    labels = np.array([1.0, "1.0", 2.0], object)
    table = from_frame(frame[["hours"]], labels[frame["hours"] // 20], task="multiclass")
    Pipeline(by_name(["tree"])[0], {}, view=View()).fit(table, np.arange(400)).export(
        tmp_path / "a", table, np.arange(400)
    )
    frame.head(40).to_csv(tmp_path / "new.csv", index=False)
    command = ["predict", str(tmp_path / "a"), str(tmp_path / "new.csv"), "--proba"]
    assert run(command) == 0
    captured = capsys.readouterr()
    header, *rows = captured.out.splitlines()
    assert header == "prediction,probability_1.0,probability_2.0,probability_'1.0'"
    assert {row.split(",")[0] for row in rows} == {"1.0", "2.0", "'1.0'"}
    assert captured.err.count("--json has it as it is") == 1
    assert run([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {type(label) for label in found["prediction"]} == {float, str}
    assert list(found) == header.split(",")


def test_a_label_that_is_a_formula_is_text_to_a_spreadsheet(
    frame: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in ("=1+1", " =A1", "\t=A1", "@SUM(A1)", "-SUM(1)", "+cmd|' /C calc'!A1"):
        assert FORMULA.match(text), text
    for text in ("-", "+", "=", "-50000.", "+ve", ">50K", "a=b", "@home", "1-5", "A+"):
        assert not FORMULA.match(text), text
    formula = '=HYPERLINK("http://x")'
    table = from_frame(frame[["hours"]], np.where(frame["hours"] > 30, formula, "-"), task="binary")
    Pipeline(by_name(["tree"])[0], {}, view=View()).fit(table, np.arange(400)).export(
        tmp_path / "a", table, np.arange(400)
    )
    frame.to_csv(tmp_path / "new.csv", index=False)
    command = ["predict", str(tmp_path / "a"), str(tmp_path / "new.csv"), "--proba"]
    assert run(command) == 0
    captured = capsys.readouterr()
    found = pd.read_csv(io.StringIO(captured.out))
    assert set(found["prediction"]) == {"-", "'" + formula}
    assert list(found)[1:] == ["probability_-", f"probability_{formula}"]
    assert captured.err.startswith("warning: in CSV the label ")
    assert run([*command, "--json"]) == 0
    captured = capsys.readouterr()
    assert set(json.loads(captured.out)["prediction"]) == {"-", formula}
    assert captured.err == ""


# -- explanations --------------------------------------------------------------------------------------------------------


def shapley_by_hand(forest: Any, covers: Any, owners: Any, x: Any, players: int) -> Any:
    """All coalitions: at a split on a column outside of one, both ways by their share of the background."""

    def value(at: int, known: set[int]) -> Any:
        if at >= forest.nodes:
            return forest.values[at - forest.nodes]
        left, right = int(forest.left[at]), int(forest.right[at])
        if int(owners[forest.feature[at]]) in known:
            goes_left = bool(forest._goes_left(x[None], slice(None), np.array([at]))[0, 0])
            return value(left if goes_left else right, known)
        share = covers[left] / covers[at] if covers[at] else 0.5
        return share * value(left, known) + (1 - share) * value(right, known)

    from math import comb

    found = np.zeros((players, forest.values.shape[1]))
    for player in range(players):
        others = [p for p in range(players) if p != player]
        for size in range(players):
            for chosen in itertools.combinations(others, size):
                gain = sum(value(int(r), {*chosen, player}) - value(int(r), set(chosen)) for r in forest.roots)
                found[player] += gain / (players * comb(players - 1, size))
    return found


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("name", ["tree", "forest", "lightgbm"])
def test_the_parts_of_trees_are_shapley_values(name: str, task: str, frame: pd.DataFrame, tmp_path: Path) -> None:
    model = runtime.load(artifact(tmp_path / "a", frame, name, task))
    explainer: Any = explainer_of(tmp_path / "a", model)
    x = model.encoder.transform(frame)
    explainer.learn(x)
    explainer.check(x, model.predict(frame) if task == "regression" else model.predict_proba(frame))
    parts = explainer.parts(x)
    np.testing.assert_allclose(parts.sum(axis=1) + explainer.base(), explainer.raw(x), atol=1e-9)
    np.testing.assert_allclose(explainer.base(), explainer.raw(x).mean(axis=0), atol=1e-9)
    for row in (0, 9, 13):
        by_hand = shapley_by_hand(explainer.forest, explainer._covers, explainer.owners, x[row], len(model.used))
        np.testing.assert_allclose(parts[row], by_hand, atol=1e-9)


def test_the_parts_are_lightgbms_own_where_the_background_is_its_training_data(
    frame: pd.DataFrame, tmp_path: Path
) -> None:
    numbers = frame[["age", "hours"]].fillna(40.0)
    table = from_frame(numbers, target(frame, "regression"), task="regression")
    pipeline = Pipeline(by_name(["lightgbm"])[0], PARAMS["lightgbm"], view=View())
    pipeline.fit(table, np.arange(400)).export(tmp_path / "a", table, np.arange(400))
    model = runtime.load(tmp_path / "a")
    explainer = explainer_of(tmp_path / "a", model)
    x = model.encoder.transform(numbers)
    explainer.learn(x)
    booster = pipeline.model.booster
    theirs = booster.predict(x.astype(np.float64), pred_contrib=True)
    np.testing.assert_allclose(explainer.parts(x)[:, :, 0], theirs[:, :-1] * pipeline.model.scale, atol=1e-5)


def test_the_parts_of_a_linear_model_are_weights_times_distances(frame: pd.DataFrame, tmp_path: Path) -> None:
    model = runtime.load(artifact(tmp_path / "a", frame, "linear", "regression"))
    explainer = explainer_of(tmp_path / "a", model)
    x = model.encoder.transform(frame)
    explainer.learn(x[:100])
    explainer.learn(x[100:])
    found = explainer.columns(x)
    total = np.asarray(found["base_value"]) + sum(
        np.asarray(v) for k, v in found.items() if k.startswith("contribution_")
    )
    np.testing.assert_allclose(total, model.predict(frame), atol=1e-4)
    assert found["base_value"][0] == pytest.approx(float(model.predict(frame).mean()), abs=1e-4)


def test_explain_on_the_command_line(
    frame: pd.DataFrame,
    boosted: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "CELLS", 500)
    frame.to_csv(tmp_path / "train.csv", index=False)
    frame.head(1).to_csv(tmp_path / "one.csv", index=False)
    options = ("--explain", "--background", str(tmp_path / "train.csv"))
    one, many = (output(capsys, str(boosted), str(tmp_path / name), *options) for name in ("one.csv", "train.csv"))
    parts = [f"contribution_{name}" for name in runtime.load(boosted).used]
    assert list(many.columns) == ["prediction", "raw_score", "base_value", *parts]
    np.testing.assert_allclose(many[["base_value", *parts]].sum(axis=1), many["raw_score"], atol=1e-9)
    np.testing.assert_allclose(one[parts].to_numpy()[0], many[parts].to_numpy()[0], atol=1e-12)
    assert run(["predict", str(boosted), str(tmp_path / "one.csv"), "--explain"]) == 2
    assert "--background" in capsys.readouterr().err


def test_what_has_no_exact_parts_is_refused_with_the_reason(frame: pd.DataFrame, tmp_path: Path) -> None:
    place = artifact(tmp_path / "a", frame, "neighbours", "binary")
    with pytest.raises(UsageError, match="nearest neighbours"):
        explainer_of(place, runtime.load(place))


def test_json_holds_every_row(
    frame: pd.DataFrame,
    boosted: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "CELLS", 500)
    frame.to_csv(tmp_path / "new.csv", index=False)
    assert run(["predict", str(boosted), str(tmp_path / "new.csv"), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["prediction"]) == 400
    assert run(["predict", str(boosted), str(tmp_path / "new.csv"), "--json", "--explain"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert run(["predict", str(boosted), str(tmp_path / "new.csv"), "--explain"]) == 0
    expected = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert list(found) == list(expected)
    for name in expected:
        same = pd.Series(found[name], name=name)
        pd.testing.assert_series_equal(same, expected[name], check_dtype=False, rtol=1e-12)


def test_json_of_many_columns_takes_few_files(
    boosted: Path,
    frame: pd.DataFrame,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from automl.cli import predict

    frame.to_csv(tmp_path / "new.csv", index=False)
    monkeypatch.setattr(stream, "CELLS", 500)
    monkeypatch.setattr(
        predict, "columns_of", lambda model, frame, *_: {f"c{i}": (frame["hours"] + i).tolist() for i in range(300)}
    )
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, before[1]))
    try:
        assert run(["predict", str(boosted), str(tmp_path / "new.csv"), "--json"]) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    found = json.loads(capsys.readouterr().out)
    assert found == {f"c{i}": (frame["hours"] + i).tolist() for i in range(300)}
