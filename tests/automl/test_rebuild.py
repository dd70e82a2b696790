"""A model rebuilt of scikit-learn's classes: each transformer, tree and link is the runtime's, and the file needs nothing of ours."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from automl.errors import ArtifactError
from automl.estimators import artifact, runtime
from automl.estimators.graph import Graph, session
from automl.estimators.trees import Trees, write
from automl.exporters import by_name
from automl.exporters.sklearn import TRUSTED
from automl.rebuild import pipeline
from automl.rebuild.encoder import column_transformer

NUMBERS: list[Any] = [0.0, -2.5, 1.5, np.nan, 1e30, -1e30, 1.7e9 + 1 / 3]
LEVELS: list[Any] = ["u", "None", "r2", "", None, "NA", " ", "never", "ü", "U", np.nan]
CASES: dict[str, tuple[list[Any], list[dict[str, Any]]]] = {
    "number": (NUMBERS, [{"as": "number"}]),
    "scaled": (NUMBERS, [{"as": "scaled", "center": 0.3, "scale": 1.7}, {"as": "absent"}]),
    "shifted": (NUMBERS, [{"as": "shifted", "shift": 1.7e9}]),
    "ordinal": (LEVELS, [{"as": "ordinal", "levels": ["u", "None", "ü"]}]),
    "empty": (LEVELS, [{"as": "ordinal", "levels": []}]),
    "onehot": (LEVELS, [{"as": "onehot", "levels": ["u", "None"], "rare": ["r1", "r2"]}]),
    "onehot with missing": (LEVELS, [{"as": "onehot", "levels": ["u", "None"], "missing": True}]),
    "target": (
        LEVELS,
        [{"as": "target", "levels": ["u", "None"], "values": [[0.1], [0.2]], "missing": [5.0], "other": [7.0]}],
    ),
    "targets": (
        LEVELS,
        [{"as": "target", "levels": ["u", "None"], "values": [[0.1, 2], [0.2, 3]], "missing": [5, 6], "other": [7, 8]}],
    ),
}


def tables_of(entries: list[dict[str, Any]]) -> dict[str, Any]:
    kind = "categorical" if "levels" in entries[0] else "numeric"
    return {"schema": [["a b", kind]], "encode": [{**entry, "column": 0} for entry in entries]}


@pytest.mark.parametrize("case", CASES)
def test_a_transformer_encodes_as_the_runtime(case: str) -> None:
    import pandas as pd

    cells, entries = CASES[case]
    encoder = runtime.RowEncoder(tables_of(entries))
    kind = object if "levels" in entries[0] else np.float64
    X = pd.DataFrame({"other": range(len(cells)), "a b": np.array(cells, kind)})
    found = column_transformer(encoder).transform(X)
    assert np.array_equal(np.isnan(found), np.isnan(encoder.transform({"a b": cells})))
    np.testing.assert_allclose(found, encoder.transform({"a b": cells}), rtol=2e-7, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "entry", "why"),
    [
        ("date", {"as": "date", "parts": ["days"], "center": [0.0]}, "column 'a b' is a date"),
        ("text", {"as": "text", "kept": [1, 2]}, "column 'a b' is a text"),
        ("categorical", {"as": "hashed", "buckets": 8}, "column 'a b' is a category whose levels are hashed"),
        ("numeric", {"as": "shifted", "shift": 1.0, "split": True}, "column 'a b' is split into two"),
    ],
)
def test_a_column_that_it_has_no_transformer_for_is_refused(kind: str, entry: dict[str, Any], why: str) -> None:
    with pytest.raises(ArtifactError, match=why):
        column_transformer(runtime.RowEncoder({"schema": [["a b", kind]], "encode": [{**entry, "column": 0}]}))


# -- models ----------------------------------------------------------------------------------------------------------------

INPUTS = np.array(
    [[-1.0, c] for c in range(-1, 9)] + [[np.nan, 2.0], [0.5, 3.0], [np.nextafter(np.float32(0.5), 1), 3.0]], np.float32
)


def rebuilt(graph: Graph, output: str, classes: list[Any]) -> tuple[Any, Any]:
    """(predictions of the rebuilt model, of the graph) for INPUTS."""
    import pandas as pd

    model = graph.model(output).SerializeToString()
    schema = {"schema": [["a", "numeric"], ["b", "numeric"]], "encode": [{"as": "number", "column": i} for i in (0, 1)]}
    made = pipeline({"encoder": schema, "classes": classes}, model)
    X = pd.DataFrame(INPUTS.astype(np.float64), columns=["a", "b"])
    found = made.predict_proba(X) if classes else made.predict(X).reshape(-1, 1)
    wanted = session(model).run(None, {"x": INPUTS})[0]
    return found, np.column_stack([1.0 - wanted, wanted]) if len(classes) == 2 else wanted


def ensemble(width: int, targets: bool = False) -> Trees:
    """Two trees of a threshold and a category set of two runs, and one that is a leaf."""
    rng = np.random.default_rng(width)
    values = rng.normal(size=(7, 1 if targets or width == 1 else width)) / 10 + 0.1
    return Trees(
        sizes=np.array([3, 0, 2]),
        feature=np.array([0, 1, 1, 1, 0]),
        threshold=np.array([0.5, 0.0, 4.5, 0.0, -0.5]),
        missing_left=np.array([True, False, False, False, True]),
        left=np.array([1, -1, -2, -1, -2]),
        right=np.array([2, -3, -4, 1, -3]),
        values=np.concatenate([values, values[:1]]),
        targets=np.array([0, 1, 2, 0, 1, 2, 0, 1])[: len(values) + 1] % width if targets else None,
        counts=np.array([0, 3, 0, 1, 0]),
        members=np.array([1, 2, 5, 3]),
    )


@pytest.mark.parametrize(
    ("width", "targets", "link"),
    [
        (1, False, ""),
        (1, False, "Sigmoid"),
        (3, True, "Softmax"),
        (3, False, "Softmax"),
        (1, False, "Clip"),
        (3, False, "Clip"),
    ],
)
def test_trees_decide_as_the_graph(width: int, targets: bool, link: str) -> None:
    graph = Graph(2)
    y = write(graph, "x", ensemble(width, targets), width, np.full(width, 0.1))
    limits = [graph.constant(0.0), graph.constant(1.0)] if link == "Clip" else []
    output = graph.node(link, y, *limits, **({"axis": 1} if link == "Softmax" else {})) if link else y
    classes: list[Any] = [] if not link else ["a", "b"] if width == 1 else [1, 2, 3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, wanted = rebuilt(graph, output, classes)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert len(np.unique(found[:, 0].round(6))) > 3


@pytest.mark.parametrize("link", ["", "Sigmoid", "Softmax", "ovr"])
@pytest.mark.parametrize("hidden", [False, True])
def test_matrix_products_are_linear_models_and_perceptrons(link: str, hidden: bool) -> None:
    rng, outputs = np.random.default_rng(0), 3 if link in ("Softmax", "ovr") else 1
    graph = Graph(2)
    x = graph.node("Gemm", "x", graph.constant(rng.normal(size=(2, 4))), graph.constant(rng.normal(size=4)))
    x = graph.node("Relu", x) if hidden else x
    x = graph.node("Gemm", x, graph.constant(rng.normal(size=(4, outputs))), graph.constant(rng.normal(size=outputs)))
    if link == "ovr":
        x = graph.node("Sigmoid", x)
        x = graph.node("Div", x, graph.node("MatMul", x, graph.constant(np.ones((3, 1)))))
    elif link:
        x = graph.node(link, x, **({"axis": 1} if link == "Softmax" else {}))
    finite = ~np.isnan(INPUTS).any(axis=1)
    global_inputs = INPUTS[finite]
    if link == "ovr" and hidden:
        with pytest.raises(ArtifactError, match="hidden layers"):
            rebuilt(graph, x, ["a", "b", "c"])
        return
    import pandas as pd

    model = graph.model(x).SerializeToString()
    schema = {"schema": [["a", "numeric"], ["b", "numeric"]], "encode": [{"as": "number", "column": i} for i in (0, 1)]}
    classes: list[Any] = [] if not link else ["a", "b"] if outputs == 1 else ["a", "b", "c"]
    made = pipeline({"encoder": schema, "classes": classes}, model)
    X = pd.DataFrame(global_inputs.astype(np.float64), columns=["a", "b"])
    wanted = session(model).run(None, {"x": global_inputs})[0]
    wanted = np.column_stack([1.0 - wanted, wanted]) if len(classes) == 2 else wanted
    found = made.predict_proba(X) if classes else made.predict(X).reshape(-1, 1)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    if classes:
        assert made.predict(X).tolist() == [classes[i] for i in wanted.argmax(axis=1)]


@pytest.mark.parametrize(("classes", "why"), [(["a", 1], "more than one type"), (["b", "a"], "ascending order")])
def test_classes_that_scikit_learn_has_not_are_refused(classes: list[Any], why: str) -> None:
    graph = Graph(2)
    y = graph.node("Sigmoid", graph.node("Gemm", "x", graph.constant(np.ones((2, 1))), graph.constant([0.0])))
    with pytest.raises(ArtifactError, match=why):
        rebuilt(graph, y, classes)


# -- the file --------------------------------------------------------------------------------------------------------------


def test_the_file_loads_without_this_package_and_with_the_stated_types_alone(tmp_path: Path) -> None:
    skops = pytest.importorskip("skops.io", reason="the format sklearn needs the extra skops")
    graph = Graph(2)
    y = graph.node("Sigmoid", write(graph, "x", ensemble(1), 1, np.zeros(1)))
    entries = [{"as": "number", "column": 0}, {"as": "ordinal", "column": 1, "levels": list("uvwxyz")}]
    tables = {"schema": [["a", "numeric"], ["b", "categorical"]], "encode": entries}
    place = tmp_path / "model"
    artifact.save(place, tables=tables, model=graph.model(y).SerializeToString(), task="binary", classes=["no", "yes"])
    written = by_name("sklearn").export(place, tmp_path / "m.skops")
    said = json.loads((tmp_path / "m.skops.record.json").read_text())["export"]
    assert set(skops.get_untrusted_types(file=written)) <= set(said["trusted"]) == set(TRUSTED)
    code = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('automl', 'lightgbm', 'onnxruntime', 'torch'):
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
import pandas, skops.io
model = skops.io.load({str(written)!r}, trusted={said["trusted"]!r})
X = pandas.DataFrame({{"b": ["u", None, "never", "x"], "more": 1, "a": [1.0, 0.5, None, -3.0]}})
print(model.predict_proba(X)[:, 1].tolist())
print([type(step).__module__.partition(".")[0] for step in model.named_steps.values()])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found, modules = (json.loads(line.replace("'", '"')) for line in done.stdout.splitlines())
    with runtime.load(place) as model:
        wanted = model.predict_proba({"a": [1.0, 0.5, None, -3.0], "b": ["u", None, "never", "x"]})[:, 1]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert set(modules) == {"sklearn"}
