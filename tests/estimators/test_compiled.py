"""The compiled engine says what onnxruntime says, a row alone as in a batch, or says why it does not run a graph."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from automl.estimators import artifact, calibrate, native, runtime
from automl.estimators.compiled import Engine, NotLoweredError, refusal
from automl.estimators.errors import ArtifactError, DataError, DataTypeError, ResourceError, UsageError
from automl.estimators.families import FAMILIES
from automl.estimators.graph import Graph, session
from automl.estimators.trees import Trees, write

NAMES = [*(family.name for family in FAMILIES), "blend"]
TASKS = ("binary", "multiclass", "regression")
NOT_LOWERED = {"neighbours": "TopK", "tabm": "Tile"}
"""Families whose graphs have a step that the kernel lacks."""

pytestmark = pytest.mark.skipif(native.missing() is not None, reason=f"no compiled engine here: {native.missing()}")


def run(engine: Engine, x: NDArray[np.float32]) -> NDArray[np.float32]:
    out = np.full((len(x), engine.outputs), np.nan, np.float32)
    engine.run(x, out)
    return out


def alone(engine: Engine, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each row by itself, through one bound call."""
    row, out = np.zeros((1, engine.width), np.float32), np.zeros((1, engine.outputs), np.float32)
    call, kept = engine.bind(row, out)
    found = []
    for each in x:
        row[0] = each
        call()
        found.append(out.copy())
    del kept
    return np.concatenate(found)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_onnxruntime_says_and_a_row_alone_as_in_a_batch(made: Any, name: str, task: str) -> None:
    graph = made(name, task)
    if name in NOT_LOWERED:
        assert NOT_LOWERED[name] in str(refusal(graph.model))
        return
    engine = Engine(graph.model)
    found = run(engine, graph.x)
    scale = float(np.std(graph.y)) if task == "regression" else 1.0
    assert (np.abs(found - graph.y) / np.maximum(scale, np.abs(graph.y))).max() <= 1e-5
    assert (alone(engine, graph.x) == found).all()
    for size in (1, 2, 3, 7, 8, 9, 63, 64, 65):
        assert (run(engine, graph.x[5 : 5 + size]) == found[5 : 5 + size]).all()


def test_a_set_may_hold_the_missing_category() -> None:
    rng, count = np.random.default_rng(0), 40
    codes = [np.sort(rng.choice(np.arange(-1, 40), rng.integers(1, 9), replace=False)) for _ in range(count)]
    trees = Trees(
        sizes=np.ones(count, np.int64),
        feature=np.arange(count) % 2,
        threshold=np.zeros(count),
        missing_left=np.zeros(count, np.bool_),
        left=np.full(count, -1),
        right=np.full(count, -2),
        values=rng.normal(size=(2 * count, 1)),
        targets=np.zeros(2 * count, np.int64),
        counts=np.array([len(each) for each in codes]),
        members=np.concatenate(codes),
    )
    graph = Graph(2)
    model = graph.model(write(graph, graph.x, trees, 1, np.zeros(1)))
    x = rng.integers(-1, 60, (500, 2)).astype(np.float32)  # beyond 40 what no set holds
    engine = Engine(model.SerializeToString())
    expected = session(model.SerializeToString()).run(None, {"x": x})[0]
    np.testing.assert_allclose(run(engine, x), expected, atol=1e-5)
    assert (alone(engine, x) == run(engine, x)).all()


def test_it_raises_to_powers_as_a_calibrated_forest_does() -> None:
    rng = np.random.default_rng(0)
    x = np.column_stack([np.exp(rng.uniform(-60, 60, 5000)), rng.uniform(-8, 8, 5000)])
    bases = (0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, -2.0, 0.5)
    edges = [(a, b) for a in bases for b in (0.0, 1.0, 2.0, 3.0, -1.0, 0.5, np.inf, -np.inf, np.nan, 2.0**25)]
    x = np.concatenate([x, edges, [(1e-40, 0.5)]]).astype(np.float32)
    graph = Graph(2)
    base, power = (graph.node("Gather", graph.x, graph.constant(np.array([i])), axis=1) for i in (0, 1))
    model = graph.model(graph.node("Pow", base, power)).SerializeToString()
    with np.errstate(all="ignore"):
        expected = np.power(x[:, 0].astype(np.float64), x[:, 1]).astype(np.float32)
    np.testing.assert_allclose(run(Engine(model), x)[:, 0], expected, rtol=3e-7, atol=1e-37)

    probabilities = rng.dirichlet(np.full(5, 0.2), 500).astype(np.float32)
    graph = Graph(5)
    model = graph.model(calibrate.to_onnx("temperature", (1e-3, 1.7), graph, graph.x, 5)).SerializeToString()
    expected = session(model).run(None, {"x": probabilities})[0]
    np.testing.assert_allclose(run(Engine(model), probabilities), expected, atol=1e-6)
    assert (alone(Engine(model), probabilities) == run(Engine(model), probabilities)).all()


# -- as an artifact ----------------------------------------------------------------------------------------------------

TABLES = {
    "schema": [[name, "numeric"] for name in "abcdef"],
    "encode": [{"as": "number", "column": i} for i in range(6)],
}


@pytest.fixture
def forest(made: Any, tmp_path: Path) -> Path:
    """An artifact of a boosted model of four classes whose engine is the compiled one."""
    graph = made("lightgbm", "multiclass").model
    artifact.save(tmp_path / "onnx", tables=TABLES, model=graph, task="multiclass", classes=list("pqrs"))
    size = artifact.with_engine(tmp_path / "onnx", tmp_path / "compiled", "compiled")
    assert size == sum(file.stat().st_size for file in (tmp_path / "compiled").iterdir())
    return tmp_path / "compiled"


def test_an_artifact_is_served_by_its_engine_and_by_the_one_that_is_asked_for(made: Any, forest: Path) -> None:
    x = made("lightgbm", "multiclass").x
    with runtime.load(forest, threads=2) as model, runtime.load(forest, engine="onnx") as other:
        assert (model.engine, other.engine) == ("compiled", "onnx")
        found = model.predict_proba(x)
        assert np.abs(found - other.predict_proba(x)).max() <= 1e-5
        assert (np.stack([model.predict_proba_one(row) for row in x.tolist()]) == found).all()
        assert model.predict(x).tolist() == [model.predict_one(row) for row in x.tolist()]
    with pytest.raises(UsageError, match="the model is closed"):
        model.predict_one(x[0].tolist())
    with pytest.raises(UsageError, match="'fast' is not known: it is one of onnx, compiled"):
        runtime.load(forest, engine="fast")


@pytest.mark.parametrize("task", TASKS)
def test_rows_of_every_kind_are_answered_alike_alone_and_in_a_list(made: Any, tmp_path: Path, task: str) -> None:
    graph, classes = made("lightgbm", task), {"binary": ["no", "yes"], "multiclass": list("pqrs")}.get(task, [])
    artifact.save(tmp_path / "m", tables=TABLES, model=graph.model, task=task, classes=classes, engine="compiled")
    rows: list[Any] = [dict(zip("abcdef", row, strict=True)) for row in graph.x[:12].tolist()]
    with runtime.load(tmp_path / "m") as model:
        many = model.predict if task == "regression" else model.predict_proba
        one = model.predict_one if task == "regression" else model.predict_proba_one
        expected = many(graph.x[:12])
        mixed = [*rows[:4], *(list(row.values()) for row in rows[4:6]), *(tuple(row.values()) for row in rows[6:8])]
        mixed += [np.array(list(row.values())) for row in rows[8:10]]
        mixed += [{**row, "a": str(row["a"]), "z": 1} for row in rows[10:]]  # a number as text: Python reads that row
        assert (many(mixed) == expected).all()
        assert all((one(row) == answer).all() for row, answer in zip(mixed, expected, strict=True))
        assert many([]).shape == (0, *expected.shape[1:])
        kept = one(rows[0])
        one(rows[1])
        assert (kept == expected[0]).all(), "an answer is the caller's own"
        with pytest.raises(DataError, match="row 2: column 'b': 'far' is not a number"):
            many([*rows[:2], {**rows[2], "b": "far"}])
        with pytest.raises(DataError, match="row 1: missing column 'c'"):
            many([rows[0], {k: v for k, v in rows[1].items() if k != "c"}])
        with pytest.raises(DataError, match="row 1: the row has 2 columns"):
            many([rows[0], [1.0, 2.0]])
        with pytest.raises(DataTypeError, match="row 0: a row is a dict or a sequence"):
            many([5])


def test_threads_that_predict_at_once_do_not_meet(made: Any, forest: Path) -> None:
    x = made("lightgbm", "multiclass").x
    rows = x.tolist()
    with runtime.load(forest) as model, ThreadPoolExecutor(4) as pool:
        expected = model.predict_proba(x)
        one = [pool.submit(model.predict_proba_one, row) for row in rows * 3]
        many = [pool.submit(model.predict_proba, x) for _ in range(8)]
        assert all((future.result() == expected[i % len(rows)]).all() for i, future in enumerate(one))
        assert all((future.result() == expected).all() for future in many)


def test_a_graph_that_the_kernel_lacks_a_step_of_says_so(made: Any, tmp_path: Path) -> None:
    graph = made("neighbours", "binary").model
    artifact.save(tmp_path / "m", tables=TABLES, model=graph, task="binary", classes=[0, 1], engine="compiled")
    with pytest.raises(ArtifactError, match="it has no TopK"):
        runtime.load(tmp_path / "m")
    assert runtime.load(tmp_path / "m", engine="onnx").engine == "onnx"


def test_it_needs_no_onnxruntime_and_works_beside_the_runtime_alone(forest: Path, tmp_path: Path) -> None:
    code = (
        "import sys, runtime; model = runtime.load(sys.argv[1]); print(model.engine, model.predict_one([1.0] * 6), "
        "[m for m in ('onnxruntime', 'onnx', 'automl', 'pandas') if m in sys.modules])"
    )
    home = Path(str(runtime.__file__)).parent
    beside = ("runtime.py", *runtime.BESIDE_SOURCES, *(f"{name}.py" for name in runtime.BESIDE))
    for name in beside:
        shutil.copy(home / name, tmp_path / name)
    command = [sys.executable, "-W", "error", "-c", code, str(forest)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == ["compiled", runtime.load(forest).predict_one([1.0] * 6), "[]"], done.stderr


def test_a_second_copy_of_the_engine_may_go_away(forest: Path, tmp_path: Path) -> None:
    """As the proof of an exported runtime does: it is imported, used, and forgotten."""
    code = """
import gc, importlib.util, sys
from automl.estimators import runtime
model = runtime.load(sys.argv[1])
row = dict.fromkeys("abcdef", 1.0)
expected = model.predict_proba_one(row).tolist()
for name in ("one", "two"):
    spec = importlib.util.spec_from_file_location(name, runtime.__file__)
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    assert copy.load(sys.argv[1]).predict_proba_one(row).tolist() == expected
    for known in [m for m in sys.modules if m.startswith(copy._ALONE)]:
        del sys.modules[known]
    del copy, spec
    gc.collect()
    trash = [bytes(64) for _ in range(100_000)]
    for cell in (1.0, None, "NA", True, "x"):
        try:
            model.predict_proba_one({**row, "a": cell})
        except ValueError as error:
            assert "'x' is not a number" in str(error)
assert model.predict_proba_one(row).tolist() == expected
print("alive")
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-c", code, str(forest)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.stdout == "alive\n", done.stderr


# -- the library -------------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No library is loaded, the cache is empty, and the compiler is a script that copies the library that there was."""
    kernel = Path(native.library()._name)
    if not kernel.exists():
        pytest.skip("the library was made for this process alone")
    script = tmp_path / "cc"
    script.write_text(f"#!/bin/sh\nwhile [ $1 != -o ]; do shift; done\necho x >> {tmp_path}/runs\ncat {kernel} > $2\n")
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "_loaded", [])
    return tmp_path


def runs(place: Path) -> int:
    return len((place / "runs").read_text().split()) if (place / "runs").exists() else 0


def test_the_library_is_made_once_and_only_its_user_may_touch_it(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    native.library()
    folder = fresh / "cache" / "automl-frontier"
    assert folder.stat().st_mode & 0o777 == 0o700
    (made,) = folder.iterdir()
    assert made.stat().st_mode & 0o777 == 0o500
    monkeypatch.setattr(native, "_loaded", [])
    native.library()
    assert runs(fresh) == 1
    monkeypatch.setattr(native, "_loaded", [])
    monkeypatch.setenv("CC", "no-such-compiler")
    native.library()  # what was made before serves without a compiler


def test_a_library_that_is_cut_off_is_made_anew(fresh: Path) -> None:
    folder = fresh / "cache" / "automl-frontier"
    folder.mkdir(mode=0o700, parents=True)
    target = folder / native._name(native._source(), [str(fresh / "cc")])
    target.write_bytes(b"cut off")
    target.chmod(0o500)
    native.library()
    assert runs(fresh) == 1
    assert target.stat().st_size > 1000


def test_a_cache_that_others_may_write_or_that_cannot_be_written_is_not_used(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fresh / "cache" / "automl-frontier"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    native.library()
    assert not list(folder.iterdir())
    monkeypatch.setattr(native, "_loaded", [])
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    native.library()
    assert runs(fresh) == 2


def test_threads_and_processes_that_make_it_at_once_all_get_it(fresh: Path) -> None:
    code = "from automl.estimators import native; native.library(); print('got it')"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    several = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(3)
    ]
    with ThreadPoolExecutor(4) as pool:
        assert len({id(future.result()) for future in [pool.submit(native.library) for _ in range(8)]}) == 1
    assert [each.communicate(timeout=60)[0].strip() for each in several] == ["got it"] * 3
    assert len(list((fresh / "cache" / "automl-frontier").iterdir())) == 1


def test_a_graph_that_the_engine_lacks_a_step_of_is_an_error_that_names_the_other_engine(
    made: Any, tmp_path: Path
) -> None:
    graph = made("neighbours", "binary").model
    artifact.save(tmp_path / "m", tables=TABLES, model=graph, task="binary", classes=[0, 1])
    assert runtime.load(tmp_path / "m").engine == "onnx"
    with pytest.raises(ResourceError, match=r"cannot run this model \(.*TopK.*use engine='onnx'"):
        runtime.load(tmp_path / "m", engine="compiled")


def test_only_the_shape_that_is_asked_for_is_run() -> None:
    graph = Graph(2)
    model = graph.model(graph.node("MatMul", graph.x, graph.constant(np.ones((2, 1))))).SerializeToString()
    assert Engine(model, 2, 1).outputs == 1
    for width, outputs in ((0, 1), (2, 0), (3, None), (None, 2)):
        with pytest.raises(NotLoweredError, match="of 2 columns"):
            Engine(model, width, outputs)


def test_without_a_compiler_it_is_an_error_if_asked_for_and_else_a_warning(
    fresh: Path, forest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert "no C compiler" in str(native.missing())
    with pytest.raises(ResourceError, match=r"no C compiler \(\$CC is 'no-such-compiler'.*install a C compiler"):
        runtime.load(forest, engine="compiled")
    with pytest.warns(UserWarning, match="runs on onnxruntime instead.*slower than it was measured"):
        model = runtime.load(forest)
    assert model.engine == "onnx"


def test_a_compiler_that_fails_is_quoted(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (fresh / "cc").write_text("#!/bin/sh\necho 'kernel.c:1: error: no such thing' >&2\nexit 1\n")
    with pytest.raises(native.NoLibraryError, match="error: no such thing"):
        native.library()
