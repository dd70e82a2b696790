"""`automl fit` as a user calls it, on every table of a folder: wall time, the front, and the test error beside plain LightGBM's.

    python benchmarks/tables.py DATA [NAME ...] [--budget 60] [--out RESULTS.jsonl] [--runtime-python PYTHON]

DATA holds tables and a `datasets.json` that lists them (name, file, task, target). Each table is split by
`benchmarks/split.py`; the command line runs in a process of its own, timed from its start; plain LightGBM (its defaults, our
encoder, all training rows) is fitted here. `--runtime-python` is an interpreter that has numpy and onnxruntime only: every
artifact must predict there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from cells import listed, read
from split import split

sys.path.insert(0, str(Path(__file__).parent.parent))

DETAIL = (
    "id",
    "family",
    "score",
    "test_score",
    "latency_p50_seconds",
    "size_bytes",
    "training_seconds",
    "model_memory_bytes",
    "rows",
    "disturbed",
)
"""What is kept of each model."""
PREDICT = """
import json, sys
sys.path.insert(0, sys.argv[1])
import automl.runtime as runtime
rows = json.load(open(sys.argv[2]))
assert not {"pandas", "sklearn", "lightgbm", "torch"} & set(sys.modules), "a heavy library was loaded"
for path in sys.argv[3:]:
    model = runtime.load(path)
    one = [model.predict_one(r) for r in rows]
    assert list(model.predict(rows)) == one, path
print("ok", len(sys.argv) - 3)
"""


def plain_lightgbm(train: Path, test: Path, target: str, task: str) -> tuple[Any, Any, Any]:
    """(metric, codes of the test rows, predictions) of LightGBM's defaults on our encoding of all training rows."""
    import lightgbm

    from automl.dataset import read_table
    from automl.estimators.encoder import Encoder, View
    from automl.estimators.runtime import RowEncoder
    from automl.front import encode_labels
    from automl.search.metric import Metric

    table = read_table(train, target, task=task)
    encoder, X = Encoder.fit(table, np.arange(table.rows), View())
    model = (lightgbm.LGBMRegressor if task == "regression" else lightgbm.LGBMClassifier)(verbosity=-1, n_jobs=-1)
    model.fit(X, np.asarray(table.y), categorical_feature=encoder.categorical or "auto")
    frame = read(test)
    Z = RowEncoder(encoder.tables).transform(frame)
    y = frame[target].to_numpy(float) if task == "regression" else encode_labels(frame[target], table.task.classes)
    return (
        Metric.resolve(None, table.task),
        y,
        model.predict(Z) if task == "regression" else model.predict_proba(Z),
    )


def compare(found: dict[str, Any], run: Path, test: Path, target: str, plain: tuple[Any, Any, Any]) -> dict[str, Any]:
    """The front's first model and its best on the test rows, each beside plain LightGBM with the paired standard error."""
    from automl.estimators.runtime import load
    from automl.search.front import paired_errors

    metric, y, theirs = plain
    frame = read(test)
    base = metric.influence(y, np.asarray(theirs, float))
    rows = {}
    best = min(found["models"], key=lambda m: m["test_error"])
    for name, entry in (("first", found["models"][0]), ("best", best)):
        model = load(run / entry["artifact"])
        mine = model.predict(frame) if found["task"] == "regression" else model.predict_proba(frame)
        influence = metric.influence(y, np.asarray(mine, float))
        se = float(paired_errors([influence.astype(np.float32), base.astype(np.float32)])[0, 1])
        rows[name] = {
            "id": entry["id"],
            "family": entry["family"],
            "test_error": float(influence.mean()),
            "gap_in_se": float((influence.mean() - base.mean()) / max(se, 1e-12)),
        }
    return {"plain_lightgbm": float(base.mean()), **rows}


def fit(train: Path, test: Path, entry: dict[str, Any], budget: float, run: Path, seed: int = 0) -> tuple[Any, float]:
    """(the finished process of `automl fit`, its wall seconds)."""
    command = [sys.executable, "-m", "automl", "fit", str(train), "--test", str(test), "--target", entry["target"]]
    command += ["--budget", str(budget), "--out", str(run), "--seed", str(seed), "--json", "--quiet"]
    here = Path(__file__).parent.parent
    start = time.monotonic()
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=here, env={**os.environ, "PYTHONPATH": str(here)}
    )
    return done, time.monotonic() - start


def predicts_alone(python: str, artifacts: list[str], rows: Any, workdir: Path) -> str:
    """ "ok" and how many artifacts predict the rows in that interpreter, or how the attempt ended."""
    (workdir / "rows.json").write_text(rows.to_json(orient="records"))
    command = [python, "-I", "-c", PREDICT, str(Path(__file__).parent.parent), str(workdir / "rows.json"), *artifacts]
    check = subprocess.run(command, capture_output=True, text=True)
    return check.stdout.strip() or check.stderr.strip()[-300:]


def one(data: Path, entry: dict[str, Any], budget: float, runtime_python: str | None, workdir: Path) -> dict[str, Any]:
    target, task = entry["target"], entry["task"]
    train, test = split(data / entry["file"], target, task, workdir)
    run = workdir / "run"
    done, wall = fit(train, test, entry, budget, run)
    if done.returncode != 0:
        return {"name": entry["name"], "exit": done.returncode, "wall": wall, "stderr": done.stderr[-2000:]}
    found = json.loads(done.stdout)
    models = found["models"]
    row = {
        "name": entry["name"],
        "budget": budget,
        "wall": round(wall, 2),
        "over": round(wall - budget, 2),
        "trials": found["trials"],
        "models": len(models),
        "families": sorted({m["family"] for m in models}),
        "first_score": models[0]["score"],
        "first_test_score": models[0]["test_score"],
        "best_test_score": max(models, key=lambda m: -m["test_error"])["test_score"],
        **compare(found, run, test, target, plain_lightgbm(train, test, target, task)),
        "fastest_p50_us": round(1e6 * min(m["latency_p50_seconds"] for m in models), 1),
        "inside_interval": [m["score_low"] <= m["test_score"] <= m["score_high"] for m in models],
    }
    fast = [m["test_score"] for m in models if m["latency_p50_seconds"] < 1e-4]
    row["best_test_score_under_100us"] = (
        (max if task != "multiclass" and task != "regression" else min)(fast) if fast else None
    )
    if runtime_python:
        artifacts = [str(run / m["artifact"]) for m in models]
        rows = read(test).drop(columns=[target]).head(20)
        row["runtime_only"] = predicts_alone(runtime_python, artifacts, rows, workdir)
    row["detail"] = [{name: m[name] for name in DETAIL} for m in models]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--budget", type=float, default=60)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--runtime-python")
    parser.add_argument("--keep", type=Path, help="keep the run folders here")
    arguments = parser.parse_args()
    for entry in listed(arguments.data, arguments.names):
        with tempfile.TemporaryDirectory() as temporary:
            workdir = Path(temporary)
            if arguments.keep:
                workdir = arguments.keep / entry["name"]
                shutil.rmtree(workdir, ignore_errors=True)
                workdir.mkdir(parents=True)
            row = one(arguments.data, entry, arguments.budget, arguments.runtime_python, workdir)
        if arguments.out:
            with arguments.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
        print(json.dumps({k: v for k, v in row.items() if k != "detail"}), flush=True)


if __name__ == "__main__":
    main()
