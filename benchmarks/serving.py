"""How fast a model answers: one row, a batch, the first row after loading, and in how much memory, side by side in one run.

    python benchmarks/serving.py [--rounds 20] [--models linear,lightgbm-100,lightgbm-500,network] > serving.md

The table has 30 mixed columns (22 numbers, 8 categories of 2 to 50 levels, 5 % missing) and 20,000 rows. Every figure is
timed in alternating blocks over 400 rows in turn; it is the smallest block median, with the range of the block medians in
brackets. `pipeline` is the same model as a scikit-learn pipeline on a one-row DataFrame. `floor` is a C loop over the
compiled engine's own arrays without Python around it (`floor.c`); the `walker` beside it is the engine's call on encoded
rows, without what Python takes to make one. `network` needs torch.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("linear", {}),
    "lightgbm-100": ("lightgbm", {"n_estimators": 100, "learning_rate": 0.1, "num_leaves": 31}),
    "lightgbm-500": ("lightgbm", {"n_estimators": 500, "learning_rate": 0.1, "num_leaves": 31}),
    "network": ("network", {"layers": 2, "width": 256, "activation": "relu", "epochs": 2}),
}
ENGINES = ("onnx", "compiled")
ROWS, TRAINING, BATCH = 400, 20_000, 10_000
Call = Callable[[Any], Any]


# -- what is measured --------------------------------------------------------------------------------------------------


def make_frame(rows: int = TRAINING) -> Any:
    """22 numbers and 8 categories, 5 % missing, and a target "y" of two classes that hangs on both."""
    import pandas as pd

    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {f"n{i}": rng.normal(size=rows) for i in range(22)}
    score = columns["n0"] + columns["n1"] * columns["n2"] + np.sin(2 * columns["n3"])
    for i, levels in enumerate((2, 3, 5, 10, 20, 30, 40, 50)):
        codes = rng.integers(levels, size=rows)
        columns[f"c{i}"] = np.array([f"level {k}" for k in range(levels)], object)[codes]
        score = score + 0.4 * (codes % 3 == 0)
    frame = pd.DataFrame(columns)
    return frame.mask(rng.random(frame.shape) < 0.05).assign(
        y=np.where(score + rng.normal(size=rows) > 1.0, "yes", "no")
    )


def make_artifacts(frame: Any, name: str, folder: Path) -> dict[str, Path]:
    """Fits a model and writes its artifact for each engine."""
    from automl.estimators.artifact import with_engine
    from automl.estimators.families import by_name
    from automl.estimators.pipeline import Pipeline
    from automl.inputs import assemble

    kind, params = MODELS[name]
    table = assemble(frame.drop(columns="y"), frame["y"], None, None, None, None, None, None, "binary")[0]
    family, facts, rows = by_name([kind])[0], table.facts(), np.arange(table.rows)
    pipeline = Pipeline(family, {**family.starts(facts)[0], **params}, view=family.views(facts)[0]).fit(table, rows)
    pipeline.export(folder / name, table, rows)
    with_engine(folder / name, folder / f"{name}-compiled", "compiled")
    return {"onnx": folder / name, "compiled": folder / f"{name}-compiled"}


def make_pipeline(frame: Any, name: str) -> Call:
    """`predict_proba` of a scikit-learn pipeline with the same model."""
    import lightgbm
    from sklearn.compose import make_column_selector, make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

    kind, params = MODELS[name]
    numbers, words = make_column_selector(dtype_include="number"), make_column_selector(dtype_exclude="number")
    if kind == "lightgbm":
        ordinal = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2)
        encoder = make_column_transformer((SimpleImputer(), numbers), (ordinal, words))
        model: Any = lightgbm.LGBMClassifier(**params, verbosity=-1, n_jobs=1)
    else:
        scaled = make_pipeline(SimpleImputer(add_indicator=True), StandardScaler())
        encoder = make_column_transformer((scaled, numbers), (OneHotEncoder(handle_unknown="ignore"), words))
        model = LogisticRegression(max_iter=100) if kind == "linear" else MLPClassifier((256, 256), max_iter=2)
    fitted = make_pipeline(encoder, model).fit(frame.drop(columns="y"), frame["y"])
    found: Call = fitted.predict_proba
    return found


def make_floor(engine: Any, x: np.ndarray, folder: Path) -> Callable[[], float] | None:
    """Seconds a row in a C loop over the arrays of a tree ensemble's engine; None for other graphs, or without a compiler."""
    from automl.estimators import native

    step, command = engine._lowered._table[0], native.compiler()
    names = {0: "floor_numbers", 2: "floor_sets"}
    if command is None or int(step["kind"]) not in names:
        return None
    library = folder / "floor.so"
    flags = ["-O3", "-march=native", "-shared", "-fPIC", "-std=gnu99"]
    subprocess.run([*command, *flags, "-o", str(library), str(Path(__file__).with_name("floor.c"))], check=True)
    walk = ctypes.CDLL(str(library))[names[int(step["kind"])]]
    walk.restype = ctypes.c_double
    kept = {array.ctypes.data: array for array in engine._lowered._kept}
    column, kind, last = (kept[int(step[key])] for key in ("b", "c", "d"))
    values, category = x[:, column], (kind & 2) > 0
    slots = np.where(category, np.float32(np.nan), values)
    slots = np.where((kind & 1 > 0) & np.isnan(values), np.float32(-np.inf), slots)
    slots = np.ascontiguousarray(np.column_stack([slots, np.full(len(x), -np.inf)]), np.float32)
    inside = category & (values >= 0) & (values <= last)
    codes = np.where(inside, np.nan_to_num(values), np.where(category, last + 1, 0))
    codes = np.ascontiguousarray(np.column_stack([codes, np.zeros(len(x))]), np.uint32)
    out = np.zeros(len(x), np.float32)
    nodes, trees, sets = (ctypes.c_void_p(int(step[key])) for key in ("a", "f", "e"))
    count, width, rows = (ctypes.c_int64(n) for n in (int(step["inner"]), slots.shape[1], len(slots)))
    places = [ctypes.c_void_p(array.ctypes.data) for array in (slots, codes, out)]

    def once() -> float:
        assert slots.size == codes.size >= out.size  # and keeps them
        return float(walk(nodes, trees, count, places[0], places[1], sets, width, rows, places[2])) / 1e9

    def run() -> float:
        return statistics.median(once() for _ in range(20))

    once()
    made = np.empty((len(x), 1), np.float32)
    engine.run(x, made)
    if not np.allclose(1 / (1 + np.exp(-out)), made[:, 0], atol=1e-5):
        raise SystemExit("the floor's loop does not say what the engine says")
    return run


# -- how it is measured ------------------------------------------------------------------------------------------------


def block(call: Call, rows: Sequence[Any], start: int, calls: int) -> float:
    """The median of so many calls, in seconds."""
    times = []
    for i in range(calls):
        row = rows[(start + i) % len(rows)]
        before = time.perf_counter_ns()
        call(row)
        times.append(time.perf_counter_ns() - before)
    return statistics.median(times) / 1e9


def in_turn(timed: dict[str, Callable[[int], float]], rounds: int) -> dict[str, list[float]]:
    """Each of these, once a round, in turn: what disturbs the machine meets all of them."""
    found: dict[str, list[float]] = {name: [] for name in timed}
    for number in range(rounds):
        for name, measure in timed.items():
            found[name].append(measure(number))
    return found


def shown(values: list[float], unit: float = 1e6) -> str:
    return f"{min(values) * unit:.1f} ({min(values) * unit:.1f} to {max(values) * unit:.1f})"


FIRST = """
import sys, time
start = time.perf_counter()
import numpy
{more}
print(time.perf_counter() - start)
"""
LOAD = """
from automl.estimators import runtime
model = runtime.load({path!r})
model.predict_proba_one({row!r})
"""
MEMORY = """
import resource, sys
def high_water():
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
import numpy
{libraries}
before = high_water()
{load}
print(high_water() - before)
"""


def fresh(code: str) -> float:
    """What a script prints, in an interpreter of its own; the seconds of "whole" are those of the interpreter's life."""
    environment = {"PYTHONPATH": str(Path(__file__).parent.parent), "HOME": str(Path.home()), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def seconds_of(code: str) -> float:
    before = time.perf_counter()
    fresh(code + "\nprint(0)")
    return time.perf_counter() - before


# -- the tables --------------------------------------------------------------------------------------------------------


def one_row(frame: Any, name: str, places: dict[str, Path], rounds: int, folder: Path) -> list[str]:
    """A row of the table of latencies."""
    from threadpoolctl import threadpool_limits

    from automl.estimators import runtime

    some = frame.drop(columns="y").iloc[:ROWS]
    dicts = [{k: None if v != v else v for k, v in row.items()} for row in some.to_dict("records")]
    frames = [some.iloc[i : i + 1] for i in range(len(some))]
    models = {engine: runtime.load(path) for engine, path in places.items()}
    pipeline = make_pipeline(frame, name)
    timed: dict[str, Callable[[int], float]] = {}
    for engine, model in models.items():
        timed[f"{engine} dict"] = lambda k, model=model: block(model.predict_proba_one, dicts, 200 * k, 200)
        timed[f"{engine} frame"] = lambda k, model=model: block(model.predict_proba, frames, 100 * k, 100)
    timed["pipeline"] = lambda k: block(pipeline, frames, 10 * k, 10)
    x = models["onnx"].encoder.transform(some)
    state = models["compiled"]._free[0]

    def walker(k: int) -> float:
        times = []
        for i in range(200):
            state.buffer.array[0] = x[(200 * k + i) % len(x)]
            before = time.perf_counter_ns()
            state.call()
            times.append(time.perf_counter_ns() - before)
        return statistics.median(times) / 1e9

    timed["walker"] = walker
    floor = make_floor(models["compiled"]._engine, x, folder)
    if floor is not None:
        timed["floor"] = lambda k: floor()
    with threadpool_limits(1):  # for the pipeline: threads of BLAS only slow one row down
        found = in_turn(timed, rounds)
    cells = [shown(found[key]) if key in found else "" for key in COLUMNS]
    ratio = min(found["pipeline"]) / min(min(found["onnx dict"]), min(found["compiled dict"]))
    return [name, *cells, f"{ratio:.0f}"]


COLUMNS = ("onnx dict", "compiled dict", "onnx frame", "compiled frame", "pipeline", "walker", "floor")


def batches(frame: Any, places: dict[str, Path], rounds: int) -> dict[str, list[float]]:
    """Seconds of a batch of 10,000 encoded rows at two threads, and of LightGBM's own predict on the same matrix."""
    import lightgbm

    from automl.estimators import runtime

    models = {engine: runtime.load(path, threads=2) for engine, path in places.items()}
    some = frame.drop(columns="y").iloc[:BATCH]
    x = models["onnx"].encoder.transform(some)
    y = (frame["y"].iloc[:BATCH] == "yes").to_numpy()
    params = {"objective": "binary", "num_leaves": 31, "learning_rate": 0.1, "verbosity": -1, "num_threads": 2}
    booster = lightgbm.train(params, lightgbm.Dataset(x, y), 100)
    matrix, columns = x.astype(np.float64), {name: some[name].to_numpy() for name in some}

    def timed(call: Callable[[], Any]) -> float:
        before = time.perf_counter()
        call()
        return time.perf_counter() - before

    tasks = {"Booster.predict, matrix": lambda k: timed(lambda: booster.predict(matrix, num_threads=2))}
    for engine, model in models.items():
        tasks[f"{engine}, matrix"] = lambda k, model=model: timed(lambda: run_split(model._engine, x))
        tasks[f"{engine}, raw columns"] = lambda k, model=model: timed(lambda: model.predict_proba(columns))
    return in_turn(tasks, max(3, rounds // 2))


def run_split(engine: Any, x: np.ndarray, threads: int = 2) -> np.ndarray:
    """An encoded matrix through an engine, its rows split over threads as `Model` splits them."""
    from concurrent.futures import ThreadPoolExecutor

    out = np.empty((len(x), 1), np.float32)
    step = -(-len(x) // threads)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda i: engine.run(x[i : i + step], out[i : i + step]), range(0, len(x), step)))
    return out


def starts(places: dict[str, Path], row: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    """Seconds of an interpreter that loads and answers one row, beside one that only imports what the engine needs."""
    codes = {
        "import numpy": "import numpy",
        "compiled": LOAD.format(path=str(places["compiled"]), row=row),
        "import numpy, onnxruntime": "import numpy, onnxruntime",
        "onnx": LOAD.format(path=str(places["onnx"]), row=row),
    }
    return in_turn({name: lambda k, code=code: seconds_of(code) for name, code in codes.items()}, max(3, rounds // 3))


def memory(places: dict[str, Path], row: dict[str, Any]) -> dict[str, tuple[float, int]]:
    """(bytes above numpy and an engine that has run an empty graph; the artifact's) of an interpreter that has answered a row."""
    libraries = {
        engine: f"from automl.search.measure import warm_engine; import automl.estimators.runtime; warm_engine({engine!r})"
        for engine in ENGINES
    }
    found = {}
    for engine, path in places.items():
        code = MEMORY.format(libraries=libraries[engine], load=LOAD.format(path=str(path), row=row))
        found[engine] = (fresh(code), sum(file.stat().st_size for file in path.iterdir()))
    return found


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--models", default=",".join(MODELS))
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="X does not have valid feature names")
    warnings.filterwarnings("ignore", message="Stochastic Optimizer")
    warnings.filterwarnings("ignore", message="lbfgs failed to converge")
    names, rounds = arguments.models.split(","), arguments.rounds
    from automl.estimators.hardware import detect

    machine = detect()
    frame = make_frame()
    print(f"{machine.processor}, {machine.cores} cores, {machine.system}, Python {machine.python}\n")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        made = {name: make_artifacts(frame, name, folder) for name in names}
        print("One row, microseconds: smallest block median (range of block medians)\n")
        rows = [one_row(frame, name, made[name], rounds, folder) for name in names]
        print(table(["model", *COLUMNS, "pipeline / best dict"], rows), flush=True)
        row = json.loads(frame.drop(columns="y").iloc[:1].to_json(orient="records"))[0]
        if "lightgbm-100" in made:
            print(f"\n{BATCH} rows at 2 threads, lightgbm-100, rows a second\n")
            rates = batches(frame, made["lightgbm-100"], rounds)
            print(table(list(rates), [[f"{BATCH / min(times):.0f}" for times in rates.values()]]), flush=True)
        print("\nAn interpreter from its start to the first row and its end, milliseconds\n")
        times = {name: starts(made[name], row, rounds) for name in names}
        head = ["model", *next(iter(times.values()))]
        print(table(head, [[name, *(shown(t, 1e3) for t in found.values())] for name, found in times.items()]))
        print("\nMemory of a loaded model above its engine's libraries, MB (3 x artifact + 10 MB)\n")
        needs = {name: memory(made[name], row) for name in names}
        lines = [
            [name, *(f"{used / 1e6:.1f} ({(3 * size + 1e7) / 1e6:.1f})" for used, size in found.values())]
            for name, found in needs.items()
        ]
        print(table(["model", *ENGINES], lines))


if __name__ == "__main__":
    main()
