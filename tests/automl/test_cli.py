"""The command line: what each command prints, and one line with an exit code for everything that is wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

from automl.cli.main import cli, run

ROOT = Path(__file__).resolve().parents[2]
MODEL_NAMES = {
    "id", "family", "plan", "score", "score_low", "score_high", "error", "training_seconds", "training_cpu_seconds",
    "training_memory_bytes", "latency_p50_seconds", "latency_p50_low", "latency_p50_high", "latency_p99_seconds",
    "latency_p99_low", "latency_p99_high", "rows_per_second", "load_seconds", "serving_memory_bytes", "model_memory_bytes",
    "size_bytes", "rows", "columns", "engine", "threads", "device", "disturbed", "laws", "artifact",
}  # fmt: skip
FRONT_NAMES = {"format", "task", "metric", "rows", "columns", "budget_seconds", "elapsed_seconds", "trials", "models"}
SMALL = ("--trials", "4", "--families", "baseline,linear,tree,lightgbm")
"""A budget that no other load on the machine can use up."""
STATUSES = {"completed", "stopped", "timeout", "out_of_memory", "crashed", "failed", "skipped"}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.csv and test.csv: 569 biopsies, target `diagnosis`."""
    data, folder = load_breast_cancer(as_frame=True), tmp_path_factory.mktemp("table")
    rows = data.data.assign(diagnosis=[data.target_names[code] for code in data.target])
    train, test = train_test_split(rows, test_size=0.2, random_state=0, stratify=rows["diagnosis"])
    train.to_csv(folder / "train.csv", index=False)
    test.to_csv(folder / "test.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def fitted(table: Path) -> tuple[Path, dict[str, Any], str]:
    """(run folder, the printed object, stderr) of one small fit with a test file."""
    folder = table / "run"
    command = ["fit", str(table / "train.csv"), "--target", "diagnosis", *SMALL, "--json"]
    done = program(*command, "--test", str(table / "test.csv"), "--out", str(folder))
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout), done.stderr


def program(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "automl", *arguments],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


# -- help ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [None, *cli.commands])
def test_help_begins_with_examples(name: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*([name] if name else []), "--help"]) == 0
    text = capsys.readouterr().out
    assert f"automl {name or 'fit'} " in text
    assert text.index("Examples:") < text.index("Options:")


@pytest.mark.parametrize("name", list(cli.commands))
def test_every_command_has_json_debug_and_a_line_for_every_option(name: str) -> None:
    options = {o for p in cli.commands[name].params for o in p.opts}
    assert {"--json", "--quiet", "--debug", "--version"} <= options
    assert ("--verbose" in options) == (name in ("fit", "resume", "serve"))
    assert all(p.help for p in cli.commands[name].params if isinstance(p, click.Option))


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    import automl

    assert run(["--version"]) == 0
    assert automl.__version__ in capsys.readouterr().out


def test_no_command_is_a_usage_error_that_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    assert "Commands:" in capsys.readouterr().err


# -- bad input -----------------------------------------------------------------------------------------------------------

FIT = ["fit", "train.csv", "--target", "y", "--out", "out"]
GOOD = "a,b,y\n" + "".join(f"{i},{i % 7},{'yes' if i % 3 else 'no'}\n" for i in range(60))


def one_line(capsys: pytest.CaptureFixture[str], code: int, says: str) -> str:
    """stdout is empty, and the last line of stderr the only error: no traceback."""
    captured = capsys.readouterr()
    *notes, last = captured.err.strip().splitlines()
    assert captured.out == ""
    assert last.startswith("error: ")
    assert "Traceback" not in captured.err
    assert not any(note.startswith("error:") for note in notes)
    assert re.search(says, last), last
    return last


USAGE = {
    "no such file": (["fit", "trian.csv", "--target", "y"], r"trian\.csv: no such file, did you mean train\.csv\?"),
    "a folder": (["fit", ".", "--target", "y"], r"\. is a folder; give a CSV"),
    "no target given": (["fit", "train.csv"], "--target"),
    "target missing": (["fit", "train.csv", "--target", "yy", "--out", "out"], r"'yy'.*'y'"),
    "budget zero": ([*FIT, "--budget", "0"], r"--budget is 0, but must be above zero"),
    "budget negative": ([*FIT, "--budget", "-5"], r"--budget is -5"),
    "budget no time": ([*FIT, "--budget", "abc"], r"--budget is 'abc', not a time"),
    "limit no size": ([*FIT, "--max-memory", "lots"], r"--max-memory is 'lots', not a size"),
    "trials zero": ([*FIT, "--trials", "0"], r"--trials"),
    "unknown command": (["fitt"], r"No such command 'fitt'"),
    "unknown option": ([*FIT, "--bugdet", "5"], r"--bugdet.*--budget"),
    "another tool's word": ([*FIT, "--time-limit", "5"], r"It is called --budget here"),
    "unknown family": ([*FIT, "--families", "linear,lightgb"], r"unknown family 'lightgb'.*'lightgbm'.*baseline"),
    "unknown excluded": ([*FIT, "--exclude", "tabpfn"], r"'tabpfn'.*baseline"),
    "unknown metric": ([*FIT, "--metric", "roc_uc"], r"unknown metric 'roc_uc'.*'roc_auc'"),
    "metric of another task": ([*FIT, "--metric", "rmse"], r"'rmse'"),
    "unknown objective": ([*FIT, "--objectives", "error,latncy"], r"unknown objective 'latncy'.*'latency'"),
    "unknown strategy": ([*FIT, "--strategy", "tpe"], r"'tpe' is not one of 'auto'"),
    "unknown column of weights": ([*FIT, "--weights", "w"], r"'w'"),
    "test without target": ([*FIT, "--test", "other.csv"], r"other\.csv has no column 'y'"),
    "test without a column": ([*FIT, "--test", "lacking.csv"], r"lacking\.csv has no column 'a', which train\.csv has"),
    "out is a file": (
        ["fit", "train.csv", "--target", "y", "--out", "train.csv", "--overwrite"],
        r"train\.csv is a file",
    ),
    "a network in no time": ([*FIT, "--families", "network", "--budget", "8"], r"network need a budget of 30 s"),
    "no such test file": ([*FIT, "--test", "none.csv"], r"none\.csv: no such file"),
    "no run": (["front", "."], r"is no run folder"),
    "no such run": (["choose", "nowhere"], r"nowhere: no such folder"),
    "out in a file": (["fit", "train.csv", "--target", "y", "--out", "train.csv/run"], r"not a folder"),
}


@pytest.mark.parametrize("case", list(USAGE))
def test_wrong_usage_is_one_line_and_exit_2(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.csv").write_text(GOOD)
    Path("other.csv").write_text("a,b\n1,2\n")
    Path("lacking.csv").write_text("b,y\n1,yes\n")
    arguments, says = USAGE[case]
    assert run(arguments) == 2
    one_line(capsys, 2, says)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lacking.csv", "other.csv", "train.csv"]


CONTENT: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", r"train\.csv.*empty"),
    "only blanks": (b"\n\n   \n", r"train\.csv"),
    "header only": (b"a,b,y\n", r"train\.csv.*no rows|train\.csv.*header"),
    "one class": (b"a,b,y\n" + b"1,2,yes\n" * 30, r"'y'"),
    "all targets missing": (b"a,b,y\n" + b"1,2,\n" * 30, r"'y'"),
    "a ragged row": (GOOD.encode().replace(b"\n10,", b"\n7,8,9,10,", 1), r"line 12"),
    "undecodable bytes": (GOOD.encode().replace(b"\n10,", b"\n1\x81\x8d\xff\x00,", 1), r"train\.csv"),
    "duplicate column names": (GOOD.encode().replace(b"a,b,y", b"a,a,y", 1), r"'a'"),
    "infinite values": (GOOD.encode().replace(b"\n10,", b"\ninf,", 1), r"'a'.*(row|line)"),
    "a binary file": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20, r"train\.csv"),
}


@pytest.mark.parametrize("case", list(CONTENT))
def test_wrong_content_is_one_line_and_exit_3(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    content, says = CONTENT[case]
    Path("train.csv").write_bytes(content)
    assert run([*FIT, "--budget", "2s"]) == 3
    one_line(capsys, 3, says)
    assert [p.name for p in tmp_path.iterdir()] == ["train.csv"]


def test_a_run_folder_that_exists_is_never_overwritten_unasked(
    fitted: tuple[Path, dict[str, Any], str], table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(fitted[0].rglob("*"))
    assert run(["fit", str(table / "train.csv"), "--target", "diagnosis", "--out", str(fitted[0])]) == 2
    one_line(capsys, 2, "exists: choose another --out, continue it with `automl resume")
    assert sorted(fitted[0].rglob("*")) == before


def test_overwrite_spares_a_folder_that_is_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.csv").write_text(GOOD)
    Path("out").mkdir()
    Path("out/thesis.txt").write_text("years of work")
    assert run([*FIT, "--overwrite", "--budget", "2s"]) == 2
    one_line(capsys, 2, "no run folder")
    assert Path("out/thesis.txt").read_text() == "years of work"


def test_a_pipe_is_refused_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "train.csv")
    assert run(["fit", str(tmp_path / "train.csv"), "--target", "y"]) == 2
    one_line(capsys, 2, "is a pipe or a device")


def test_what_is_cheap_to_refuse_is_refused_before_anything_slow_is_imported(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(GOOD)
    code = (
        "import sys; from automl.cli.main import run\n"
        "for extra in (['--budget', 'abc'], ['--families', 'lightgb'], ['--objectives', 'x'], ['--out', '.']):\n"
        "    assert run(['fit', 'train.csv', '--target', 'y', *extra]) == 2\n"
        "print([m for m in ('sklearn', 'pandas', 'lightgbm', 'torch', 'optuna', 'onnx') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# -- a bug ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes `automl machine` raise."""

    def breaks(error: BaseException) -> None:
        def detect() -> None:
            raise error

        monkeypatch.setattr("automl.estimators.hardware.detect", detect)

    return breaks


def test_a_bug_is_one_line_that_names_the_log(
    broken: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    broken(RuntimeError("odd"))
    assert run(["machine"]) == 1
    line = one_line(capsys, 1, "unexpected RuntimeError: odd")
    log = Path(line.rsplit(" ", 1)[-1])
    assert "RuntimeError: odd" in log.read_text()
    log.unlink()


def test_a_bug_with_debug_shows_its_traceback(
    broken: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    broken(RuntimeError("odd"))
    assert run(["machine", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (OSError(28, "No space left on device", "run.db"), 5, "run.db: No space left on device"),
        (MemoryError("9 GB"), 5, "out of memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (FileNotFoundError(2, "No such file", "x"), 1, "This is a bug"),
    ],
)
def test_what_the_system_refuses_has_its_code(
    error: BaseException, code: int, says: str, tmp_path: Path, table: Path
) -> None:
    """In a process of its own, since it gives up its stdout."""
    script = (
        "import sys, automl.estimators.hardware as h\n"
        "def detect(): raise " + repr(error) + "\n"
        "h.detect = detect\n"
        "from automl.cli.main import run; sys.exit(run(['machine']))"
    )
    if error.args[1:]:
        script = script.replace(
            repr(error), f"{type(error).__name__}{(*error.args, getattr(error, 'filename', None))!r}"
        )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f'"{sys.executable}" -m automl machine --json | head -n 1'
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_as_output_is_exit_5() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    command = f'"{sys.executable}" -m automl machine > /dev/full'
    done = subprocess.run(["bash", "-c", command], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert "No space left" in done.stderr


# -- what a run prints ---------------------------------------------------------------------------------------------------


def test_fit_prints_the_object_of_the_contract(fitted: tuple[Path, dict[str, Any], str]) -> None:
    _, found, _ = fitted
    assert set(found) >= FRONT_NAMES
    assert set(found["trials"]) == STATUSES
    assert found["format"] == 1
    assert (found["task"], found["metric"], found["columns"]) == ("binary", "roc_auc", 30)
    assert found["models"]
    for model in found["models"]:
        assert set(model) >= MODEL_NAMES | {"test_score", "test_error"}
        assert 0.4 < model["test_score"] <= 1.0
        assert model["test_error"] == pytest.approx(1 - model["test_score"])


def test_a_test_file_is_read_as_the_training_file_is(table: Path, tmp_path: Path) -> None:
    priced = pd.DataFrame({"x": range(200), "y": [f"${1000 + 7 * i:,}" for i in range(200)]})
    priced.to_csv(tmp_path / "train.csv", index=False)
    priced.iloc[::7].assign(y=[" ", *priced["y"].iloc[7::7]]).to_csv(tmp_path / "test.csv", index=False)
    done = program(
        *("fit", "train.csv", "--target", "y", "--test", "test.csv", "--trials", "2", "--families", "linear", "--json"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["models"][0]["test_error"] < 400


def test_the_decimal_character_that_was_found_holds_for_the_targets_of_both_files(tmp_path: Path) -> None:
    lines = [f"{i},5;{1000 + 7 * i:,}".replace(",", ".").replace(".5;", ",5;") for i in range(200)]
    for name, some in (("train", lines), ("test", lines[::5])):
        (tmp_path / f"{name}.csv").write_text("x;y\n" + "\n".join(some) + "\n")
    done = program(
        *("fit", "train.csv", "--target", "y", "--test", "test.csv", "--trials", "2", "--families", "linear", "--json"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    best = json.loads(done.stdout)["models"][0]
    assert 0 <= best["test_error"] < 400
    assert "column 'y' is read as numbers (thousands '.'" in done.stderr


def test_what_was_found_is_printed_where_the_test_file_has_a_class_that_is_none(table: Path, tmp_path: Path) -> None:
    test = pd.read_csv(table / "test.csv").head(20)
    test.loc[3, "diagnosis"] = "unheard of"
    test.to_csv(tmp_path / "odd.csv", index=False)
    done = program(
        *("fit", str(table / "train.csv"), "--target", "diagnosis", "--test", "odd.csv", "--trials", "1"),
        *("--families", "linear", "--out", "run", "--json"),
        cwd=tmp_path,
    )
    assert done.returncode == 3
    assert json.loads(done.stdout)["models"]
    assert "'unheard of'" in done.stderr
    assert "automl front run" in done.stderr


def test_progress_and_notes_are_on_stderr(fitted: tuple[Path, dict[str, Any], str]) -> None:
    assert "--task" in fitted[2], "the inferred task, and how to override it"
    assert re.search(r"^[0-9.]+ m?s, search: ", fitted[2], flags=re.MULTILINE)


def test_front_shows_what_fit_found(
    fitted: tuple[Path, dict[str, Any], str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, found, _ = fitted
    assert run(["front", str(folder), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert [m["id"] for m in again["models"]] == [m["id"] for m in found["models"]]
    assert run(["front", str(folder)]) == 0
    text = capsys.readouterr().out.splitlines()
    assert text[0].split()[:2] == ["id", "family"]
    assert len(text) == 1 + len(found["models"])
    assert run(["front", str(folder), "--csv"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert "latency_p50_us" in header
    assert len(rows) == len(found["models"])


def test_choose_prints_one_model_within_the_limits(
    fitted: tuple[Path, dict[str, Any], str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, found, _ = fitted
    assert run(["choose", str(folder), "--max-latency", "1s", "--json"]) == 0
    model = json.loads(capsys.readouterr().out)
    assert model["id"] == found["models"][0]["id"]
    assert Path(model["path"], "manifest.json").exists()
    assert run(["choose", str(folder), "--prefer", "knee"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_choose_with_a_limit_that_no_model_meets_exits_4(
    fitted: tuple[Path, dict[str, Any], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["choose", str(fitted[0]), "--max-latency", "1ns"]) == 4
    one_line(capsys, 4, "max.latency")


def test_predict_writes_one_line_a_row(
    fitted: tuple[Path, dict[str, Any], str], table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, found, _ = fitted
    data, out = table / "test.csv", tmp_path / "p.csv"
    assert run(["predict", str(folder), str(data), "--proba"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header == "prediction,probability_benign,probability_malignant"
    assert len(rows) == 114
    assert run(["predict", str(folder / found["models"][0]["artifact"]), str(data), "-o", str(out)]) == 0
    assert out.read_text().splitlines()[1:] == [row.split(",")[0] for row in rows]
    assert run(["predict", str(folder), str(data), "-o", str(out)]) == 2
    one_line(capsys, 2, "exists")
    assert run(["predict", str(folder), str(data), "-o", str(tmp_path / "none" / "p.csv")]) == 2
    one_line(capsys, 2, r"there is no folder .*none")


def test_export_then_predict_from_the_copy(
    fitted: tuple[Path, dict[str, Any], str], table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = fitted[1]["models"][-1]["id"]
    assert run(["export", str(fitted[0]), "--model", name, "-o", str(tmp_path / "served.zip")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "served.zip")
    assert run(["predict", str(tmp_path / "served.zip"), str(table / "test.csv"), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["prediction"]) == 114
    assert run(["export", str(fitted[0]), "--model", "m99", "-o", str(tmp_path / "x")]) == 2
    one_line(capsys, 2, "m99")
    assert run(["export", str(fitted[0]), "--format", "pickle", "-o", str(tmp_path / "x")]) == 2
    one_line(capsys, 2, "unknown export format 'pickle'")


def test_a_corrupt_artifact_is_exit_6(
    fitted: tuple[Path, dict[str, Any], str], table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", str(fitted[0]), "-o", str(tmp_path / "served")]) == 0
    capsys.readouterr()
    graph = tmp_path / "served" / "model.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    assert run(["predict", str(tmp_path / "served"), str(table / "test.csv")]) == 6
    one_line(capsys, 6, "model.onnx")
    assert run(["export", str(tmp_path / "served"), "-o", str(tmp_path / "again")]) == 6
    one_line(capsys, 6, "model.onnx")
    assert not (tmp_path / "again").exists()


def test_predict_names_every_missing_column(
    fitted: tuple[Path, dict[str, Any], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "few.csv").write_text("mean radius\n1.0\n")
    assert run(["predict", str(fitted[0]), str(tmp_path / "few.csv")]) == 3
    one_line(capsys, 3, "mean texture")


def test_families_and_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["families", "--json"]) == 0
    assert [f["name"] for f in json.loads(capsys.readouterr().out)["families"]][:2] == ["baseline", "linear"]
    assert run(["families"]) == 0
    assert "lightgbm" in capsys.readouterr().out
    assert run(["machine"]) == 0
    assert "cores" in capsys.readouterr().out


def test_fit_without_a_model_within_the_limits_exits_4_and_keeps_the_run(table: Path, tmp_path: Path) -> None:
    command = ["fit", str(table / "train.csv"), "--target", "diagnosis", *SMALL, "--max-latency", "1ns", "--json"]
    done = program(*command, "--out", str(tmp_path / "run"))
    assert done.returncode == 4, done.stderr
    assert done.stdout == ""
    assert f"automl front {tmp_path / 'run'}" in done.stderr
    assert program("front", str(tmp_path / "run")).returncode == 0


def test_resume_loses_no_trial(fitted: tuple[Path, dict[str, Any], str], tmp_path: Path) -> None:
    import shutil

    shutil.copytree(fitted[0], tmp_path / "run")
    done = program("resume", str(tmp_path / "run"), "--budget", "10s", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["trials"]["completed"] >= fitted[1]["trials"]["completed"]


# -- signals -------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="fit is not for Windows")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_fit_with_the_front_so_far(number: int, code: int, table: Path, tmp_path: Path) -> None:
    command = [
        "fit",
        str(table / "train.csv"),
        "--target",
        "diagnosis",
        "--budget",
        "120s",
        "--out",
        str(tmp_path / "run"),
        "--json",
    ]
    with started(*command) as process:
        wait_for_front(process)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert json.loads(out)["models"]
    assert "Traceback" not in err
    assert program("front", str(tmp_path / "run")).returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="fit is not for Windows")
def test_the_second_signal_ends_it_at_once(table: Path, tmp_path: Path) -> None:
    command = [
        "fit",
        str(table / "train.csv"),
        "--target",
        "diagnosis",
        "--budget",
        "120s",
        "--out",
        str(tmp_path / "run"),
    ]
    with started(*command) as process:
        wait_for_front(process)
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert time.monotonic() - start < 2
    assert "Traceback" not in err


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The program, running; whatever becomes of the test, it is gone at the end."""
    command = [sys.executable, "-m", "automl", *arguments, "--verbose"]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_front(process: subprocess.Popen[str]) -> None:
    """Until a trial has completed, which the verbose notes say."""
    assert process.stderr is not None
    for line in process.stderr:
        if re.match(r"trial \d+ .* error ", line):
            return
    pytest.fail("the fit ended before its first trial")
