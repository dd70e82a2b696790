"""`automl verify`: measured again beside the record, limits held, each way to end with its code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from automl.cli.main import run
from automl.estimators.artifact import read_record, write_record
from automl.estimators.encoder import View
from automl.estimators.families import by_name
from automl.estimators.pipeline import Pipeline
from automl.estimators.table import from_frame

RECORD = {
    "latency_p50_seconds": 1e-5, "latency_p99_seconds": 2e-5, "serving_memory_bytes": 5e7, "size_bytes": 1000.0,
    "load_seconds": 0.1, "training_seconds": 2.0, "score": 0.9, "greater_is_better": True,
    "machine": {"processor": "an abacus", "cores": 1}, "versions": {"numpy": "2.0"},
}  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"a": rng.normal(size=300), "when": pd.date_range("2020", periods=300), "c": ["x", "y", "z"] * 100}
    )
    table = from_frame(frame, np.where(frame["a"] > 0, "yes", "no"), task="binary")
    pipeline = Pipeline(by_name(["tree"])[0], {}, view=View()).fit(table, np.arange(300))
    folder = tmp_path_factory.mktemp("verify") / "served"
    pipeline.export(folder, table, np.arange(300))
    write_record(folder, RECORD)
    frame.to_csv(folder.parent / "rows.csv", index=False)
    return folder


def test_it_compares_what_was_recorded_with_what_is_measured(served: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limits = ["--max-latency", "1s", "--max-training-time", "3s", "--min-score", "0.8"]
    assert run(["verify", str(served), "--budget", "1s", "--json", *limits]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    quantities = {q["name"]: q for q in found["quantities"]}
    p50 = quantities["latency_p50_seconds"]
    assert (p50["recorded"], p50["allowed"], p50["limit"], p50["broken"]) == (1e-5, 1.0, "max_latency", False)
    assert p50["ratio"] == pytest.approx(p50["measured"] / 1e-5)
    assert quantities["size_bytes"]["measured"] == sum(p.stat().st_size for p in served.iterdir() if p.stem != "record")
    assert quantities["training_seconds"]["recorded"] == 2.0
    assert found["machine"]["recorded"]["processor"] == "an abacus"
    assert found["machine"]["here"]["cores"] >= 1
    assert found["ok"] is True
    assert any("an abacus" in note for note in found["notes"])
    assert read_record(served)["score"] == 0.9, "nothing is written"


def test_a_broken_limit_is_exit_4_and_said_with_found_and_allowed(
    served: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--budget", "1s", "--max-latency-p99", "1ns", "--max-memory", "10GB", "--min-score", "0.95"]
    assert run(["verify", str(served), "--data", str(served.parent / "rows.csv"), *options]) == 4
    captured = capsys.readouterr()
    last = captured.err.strip().splitlines()[-1]
    assert "max_latency_p99: found " in last
    assert "allowed 1 ns" in last
    assert "min_score: found 0.9, allowed 0.95" in last
    assert "max_memory" not in last
    lines = {line.split("  ")[0]: line for line in captured.out.splitlines()}
    assert lines["one row p99"].endswith("broken")
    assert lines["memory"].endswith("ok")


def test_a_corrupt_artifact_is_exit_6_before_it_is_measured(
    served: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("manifest.json", "model.onnx"):
        content = bytearray((served / name).read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / name).write_bytes(content if name == "model.onnx" else (served / name).read_bytes())
    assert run(["verify", str(tmp_path)]) == 6
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "model.onnx is corrupt" in captured.err
