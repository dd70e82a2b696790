"""An artifact is read as it was written or refused, before any parser sees it; and a row's bits don't hang on its batch."""

from __future__ import annotations

import io
import itertools
import json
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from automl.estimators import artifact, runtime
from automl.estimators.errors import ArtifactError, UsageError

onnx = pytest.importorskip("onnx")
helper, numpy_helper = onnx.helper, onnx.numpy_helper
TABLES = {"schema": [["a", "numeric"], ["b", "numeric"]], "encode": [{"as": "number", "column": i} for i in (0, 1)]}


def graph(nodes: list[Any], width: int, constants: dict[str, Any] | None = None, ml: bool = False) -> bytes:
    """An ONNX model from "x" (n, width) to "y"."""
    given = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None, width])
    made = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None, None])
    held = [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()]
    body = helper.make_graph(nodes, "g", [given], [made], held)
    versions = [helper.make_opsetid("", 20)] + ([helper.make_opsetid("ai.onnx.ml", 3)] if ml else [])
    return bytes(helper.make_model(body, opset_imports=versions, ir_version=9).SerializeToString())


def linear(width: int = 2, outputs: int = 1, last: str = "Sigmoid") -> bytes:
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(width, outputs)).astype("f4"), "b": rng.normal(size=outputs).astype("f4")}
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["s"]), helper.make_node(last, ["s"], ["y"])]
    return graph(nodes, width, weights)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "model"
    size = artifact.save(place, tables=TABLES, model=linear(), task="binary", classes=["no", "yes"])
    assert size == sum(file.stat().st_size for file in place.iterdir())
    artifact.write_record(place, {"latency_p50_seconds": np.float64(1e-5)})
    return place


def test_what_is_saved_is_loaded(folder: Path, tmp_path: Path) -> None:
    archive = artifact.pack(folder, tmp_path / "model.zip")
    assert archive.read_bytes() == artifact.pack(folder, tmp_path / "again.zip").read_bytes()
    for place in (folder, archive, str(folder)):
        with runtime.load(place) as model:
            assert model.task == "binary"
            assert model.predict_proba_one({"a": 1.0, "b": None}).dtype == np.float32
            assert model.predict_one([1.0, 2.0]) in ("no", "yes")
        assert artifact.read_record(place) == {"latency_p50_seconds": 1e-5}
    manifest = runtime.check(folder)
    overhead = len((folder / "manifest.json").read_bytes()) - len(json.dumps(TABLES, separators=(",", ":")))
    assert overhead < 2048
    assert manifest["batch"] > 1
    assert sorted(file.name for file in folder.iterdir()) == ["manifest.json", "model.onnx", "record.json"]


def test_saving_again_replaces_and_forgets_the_record(folder: Path) -> None:
    artifact.save(folder, tables=TABLES, model=linear(2, 3, "Softmax"), task="multiclass", classes=[1, 2, 3])
    assert artifact.read_record(folder) == {}
    assert runtime.load(folder).predict_proba(np.zeros((2, 2))).shape == (2, 3)


def refused(place: Path) -> None:
    with pytest.raises(ArtifactError):
        runtime.load(place)


def test_any_flipped_bit_is_refused(folder: Path, tmp_path: Path) -> None:
    archive = artifact.pack(folder, tmp_path / "model.zip")
    rng = np.random.default_rng(0)
    for file in (*sorted(folder.iterdir()), archive):
        whole = file.read_bytes()
        positions = rng.choice(len(whole) * 8, 150, replace=False).tolist()
        positions += [*range(8), *range(len(whole) * 8 - 700, len(whole) * 8, 7)]
        for position in positions:
            broken = bytearray(whole)
            broken[position // 8] ^= 1 << position % 8
            file.write_bytes(broken)
            refused(archive if file == archive else folder)
        file.write_bytes(whole)
    runtime.load(archive)
    runtime.load(folder)


def test_any_truncation_is_refused(folder: Path, tmp_path: Path) -> None:
    archive = artifact.pack(folder, tmp_path / "model.zip")
    for file in (*sorted(folder.iterdir()), archive):
        whole = file.read_bytes()
        for percent in range(0, 100, 3):
            file.write_bytes(whole[: len(whole) * percent // 100])
            refused(archive if file == archive else folder)
        file.write_bytes(whole + b" ")
        refused(archive if file == archive else folder)
        file.write_bytes(whole)


def test_members_missing_added_or_swapped_are_refused(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    artifact.save(other, tables=TABLES, model=linear(2, 3, "Softmax"), task="multiclass", classes=[1, 2, 3])
    artifact.write_record(other, {"a": 1})
    for name in ("manifest.json", "model.onnx", "record.json"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes((other / name).read_bytes())
        refused(folder)
        (folder / name).write_bytes(whole)
        if name != "record.json":
            (folder / name).unlink()
            refused(folder)
            (folder / name).write_bytes(whole)
    for name in ("extra.pkl", ".hidden", "model.onnx.data"):
        (folder / name).write_bytes(b"x")
        refused(folder)
        (folder / name).unlink()
    (folder / "sub").mkdir()
    refused(folder)


@pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
def test_links_and_pipes_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "model.onnx").rename(tmp_path / "real.onnx")
    (folder / "model.onnx").symlink_to(tmp_path / "real.onnx")
    refused(folder)
    (folder / "model.onnx").unlink()
    os.mkfifo(folder / "model.onnx")
    refused(folder)


def zipped(members: list[tuple[zipfile.ZipInfo | str, bytes]], path: Path, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as packed:
        for name, data in members:
            packed.writestr(name, data)
    return path


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_hostile_zips_are_refused_quickly(folder: Path, tmp_path: Path) -> None:
    good: list[tuple[Any, bytes]] = [(file.name, file.read_bytes()) for file in sorted(folder.iterdir())]
    link = zipfile.ZipInfo("model.onnx")
    link.external_attr = 0o120777 << 16
    started = time.monotonic()
    cases = {
        "slip": [*good, ("../model.onnx", b"x")],
        "absolute": [*good, ("/tmp/x", b"x")],
        "folder": [*good, ("sub/", b"")],
        "link": [good[0], (link, b"/etc/passwd")],
        "double": [*good, good[1]],
        "many": [(f"m{i}", b"") for i in range(70_000)],
        "empty": [],
        "no graph": good[:1],
    }
    for name, members in cases.items():
        refused(zipped(members, tmp_path / f"{name}.zip"))
    bomb = [good[0], ("model.onnx", b"\0" * 50_000_000)]
    refused(zipped(bomb, tmp_path / "bomb.zip", zipfile.ZIP_DEFLATED))
    assert time.monotonic() - started < 20
    runtime.load(zipped(good, tmp_path / "plain.zip", zipfile.ZIP_DEFLATED))  # packed by another tool
    lying = bytearray(zipped(good, tmp_path / "lying.zip").read_bytes())
    place = lying.find(b"PK\1\2", lying.find(b"PK\1\2") + 4)
    lying[place + 20 : place + 28] = (2**31 - 1).to_bytes(4, "little") * 2  # a two gigabyte claim
    (tmp_path / "lying.zip").write_bytes(lying)
    refused(tmp_path / "lying.zip")


def forge(folder: Path, model: bytes | None = None, **changes: Any) -> None:
    """An artifact whose checksums are right and whose content isn't what `save` would write."""
    import hashlib

    manifest = json.loads((folder / "manifest.json").read_bytes())
    del manifest["sha256"]
    manifest.update(changes)
    if model is not None:
        (folder / "model.onnx").write_bytes(model)
        manifest["files"] = {"model.onnx": {"size": len(model), "sha256": hashlib.sha256(model).hexdigest()}}
    (folder / "record.json").unlink(missing_ok=True)
    (folder / "manifest.json").write_bytes(runtime.seal(json.dumps(manifest).encode()))


def test_external_data_is_refused_whoever_signed_it(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    proto = onnx.load_model_from_string(linear())
    (tmp_path / "w.bin").write_bytes(proto.graph.initializer[0].raw_data)
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "w.bin"), ("offset", "0"), ("length", "8")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    forge(folder, proto.SerializeToString())
    with pytest.raises(ArtifactError, match="outside the artifact"):
        runtime.load(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"format": "1"},
        {"task": "ranking"},
        {"classes": ["one"]},
        {"encoder": {}},
        {"encoder": {"schema": [["a", "numeric"]], "encode": [{"as": "number", "column": 7}]}},
        {"encoder": {"schema": [["a", "numeric"]], "encode": [{"as": "pickle", "column": 0}]}},
        {"encoder": {"schema": [["a", "numeric"]], "encode": [{"as": "number", "column": 0}]}},
        {"files": {}},
    ],
)
def test_manifests_that_are_not_understood_are_refused(folder: Path, changes: dict[str, Any]) -> None:
    forge(folder, **changes)
    refused(folder)


def test_a_newer_format_names_both_numbers(folder: Path) -> None:
    forge(folder, format=7)
    with pytest.raises(ArtifactError, match=r"format 7, this version reads 1"):
        runtime.load(folder)


def test_graphs_that_do_not_load_are_refused(folder: Path) -> None:
    custom = graph([helper.make_node("Evil", ["x"], ["y"], domain="evil")], 2)
    renamed = linear(3)
    for model in (b"", b"\x80\x04cos\nsystem\n", custom, renamed, linear()[:-9], b"\x0a\xff\xff\xff\xff\x07"):
        forge(folder, model)
        refused(folder)


def test_deep_manifests_are_refused(folder: Path) -> None:
    (folder / "record.json").unlink()
    (folder / "manifest.json").write_bytes(runtime.seal(b"{" + b'"a":[' * 200_000 + b"]" * 200_000 + b"}"))
    refused(folder)


def test_no_such_path_and_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such artifact"):
        runtime.load(tmp_path / "none")
    refused(tmp_path)
    (tmp_path / "x.zip").write_bytes(b"no zip")
    refused(tmp_path / "x.zip")


def test_labels_that_json_would_change_are_refused(tmp_path: Path) -> None:
    for label in (float("nan"), (1, 2), None):
        with pytest.raises(ArtifactError, match="class label"):
            artifact.save(tmp_path / "m", tables=TABLES, model=linear(), task="binary", classes=["a", label])


def test_errors_of_the_disk_name_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file"):
        artifact.save(tmp_path / "file" / "m", tables=TABLES, model=linear(), task="binary", classes=[0, 1])
    with pytest.raises(ValueError, match="record"):
        artifact.write_record(tmp_path, {})


# --- one row alone has the bits it has in a batch ---------------------------------------------------------------------


def placed(array: np.ndarray, offset: int) -> np.ndarray:
    """A copy whose memory starts at another alignment."""
    copy = np.empty(array.size + 16, np.float32)[offset : offset + array.size].reshape(array.shape)
    copy[:] = array
    return copy


def differing(model: bytes, X: np.ndarray) -> int:
    """How many rows differ between batches of other sizes and places in memory."""
    session = runtime.open_session(model)
    whole, found = session.run(None, {"x": X})[0], set()
    for size in (1, 2, 3, 7, 16, 100):
        for first in range(0, len(X) - size + 1, size):
            part = session.run(None, {"x": placed(X[first : first + size], first % 5)})[0]
            bad = np.flatnonzero((part != whole[first : first + size]).reshape(size, -1).any(axis=1))
            found.update((bad + first).tolist())
    return len(found)


def forest(count: int, width: int, targets: int, transform: str, aggregate: str) -> bytes:
    """A TreeEnsembleRegressor of random full trees of depth 4."""
    rng, inner, leaves = np.random.default_rng(count), 15, 16
    nodes: dict[str, list[Any]] = {k: [] for k in ("tree", "node", "feature", "value", "mode", "yes", "no")}
    leaf: dict[str, list[Any]] = {k: [] for k in ("tree", "node", "id", "weight")}
    for tree in range(count):
        for i in range(inner + leaves):
            split = i < inner
            row = (tree, i, int(rng.integers(width)) if split else 0, float(rng.normal()) if split else 0.0)
            row = (*row, "BRANCH_LEQ" if split else "LEAF", 2 * i + 1 if split else 0, 2 * i + 2 if split else 0)
            for values, value in zip(nodes.values(), row, strict=True):
                values.append(value)
            if not split:
                for target in range(targets):
                    for values, value in zip(leaf.values(), (tree, i, target, float(rng.normal())), strict=True):
                        values.append(value)
    node = helper.make_node(
        "TreeEnsembleRegressor",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        n_targets=targets,
        post_transform=transform,
        aggregate_function=aggregate,
        base_values=[0.1] * targets,
        nodes_treeids=nodes["tree"],
        nodes_nodeids=nodes["node"],
        nodes_featureids=nodes["feature"],
        nodes_values=nodes["value"],
        nodes_modes=nodes["mode"],
        nodes_truenodeids=nodes["yes"],
        nodes_falsenodeids=nodes["no"],
        target_treeids=leaf["tree"],
        target_nodeids=leaf["node"],
        target_ids=leaf["id"],
        target_weights=leaf["weight"],
    )
    return graph([node], width, ml=True)


@pytest.mark.parametrize(
    ("count", "targets", "transform", "aggregate"),
    [(1, 1, "NONE", "SUM"), (79, 1, "LOGISTIC", "SUM"), (120, 1, "NONE", "AVERAGE"), (90, 3, "SOFTMAX", "SUM")],
)
def test_trees_are_exact(count: int, targets: int, transform: str, aggregate: str) -> None:
    X = np.random.default_rng(0).normal(size=(300, 30)).astype("f4")
    assert differing(forest(count, 30, targets, transform, aggregate), X) == 0


@pytest.mark.parametrize("widths", [(30, 1), (13, 3), (108, 64, 1), (7, 33, 5), (30, 256, 256, 10), (784, 16, 1)])
@pytest.mark.parametrize("op", ["Relu", "Tanh", "Gelu", "Sigmoid"])
def test_dense_layers_are_exact(widths: tuple[int, ...], op: str) -> None:
    rng, nodes, held, last = np.random.default_rng(1), [], {}, "x"
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        held[f"w{i}"], held[f"b{i}"] = (rng.normal(size=(a, b)) / a**0.5).astype("f4"), rng.normal(size=b).astype("f4")
        nodes.append(helper.make_node("Gemm", [last, f"w{i}", f"b{i}"], [f"s{i}"]))
        final = i == len(widths) - 2
        nodes.append(helper.make_node("Softmax" if final and b > 1 else op, [f"s{i}"], ["y" if final else f"h{i}"]))
        last = f"h{i}"
    X = rng.normal(size=(200, widths[0])).astype("f4")
    assert differing(graph(nodes, widths[0], held), X) == 0


ELEMENTWISE = (
    "Exp",
    "Sqrt",
    "Reciprocal",
    "Erf",
    "Gelu",
    "Tanh",
    "Sigmoid",
    "HardSigmoid",
    "LeakyRelu",
    "Softmax",
    "Abs",
)


@pytest.mark.parametrize("op", ELEMENTWISE)
def test_operators_called_safe_are(op: str) -> None:
    assert op in artifact.TOGETHER
    for width in (1, 3, 5, 8, 16, 33):
        X = np.abs(np.random.default_rng(width).normal(size=(150, width)) * 3).astype("f4")
        assert differing(graph([helper.make_node(op, ["x"], ["y"])], width), X) == 0


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceSumSquare", "ReduceL2"])
def test_reductions_called_safe_are(op: str) -> None:
    assert op in artifact.TOGETHER
    for width in (1, 3, 8, 16, 33, 100):
        X = np.random.default_rng(width).normal(size=(150, width)).astype("f4")
        node = helper.make_node(op, ["x", "axes"], ["y"], keepdims=1)
        assert differing(graph([node], width, {"axes": np.array([1], np.int64)}), X) == 0


@pytest.mark.parametrize("power", [0.3, 0.5, 1.37, 2.0, 4.0])
def test_powers_are_safe(power: float) -> None:
    for width in (1, 3, 8, 16, 33):
        X = np.random.default_rng(width).random((150, width)).astype("f4")
        node = helper.make_node("Pow", ["x", "power"], ["y"])
        assert differing(graph([node], width, {"power": np.array(power, "f4")}), X) == 0


@pytest.mark.parametrize("op", sorted(artifact.ALIGNED - {"Log"}))
def test_operators_called_safe_on_whole_vectors_are(op: str) -> None:
    for width, safe in ((16, True), (48, True), (256, True), (7, False)):
        rng = np.random.default_rng(width)
        held = {"w": rng.normal(size=(5, width)).astype("f4"), "v": rng.normal(size=(width, 1)).astype("f4")}
        nodes = [helper.make_node("MatMul", ["x", "w"], ["s"]), helper.make_node(op, ["s"], ["h"])]
        model = graph([*nodes, helper.make_node("MatMul", ["h", "v"], ["y"])], 5, held)
        assert artifact._together(model) is safe
        if safe:
            assert differing(model, rng.normal(size=(300, 5)).astype("f4")) == 0


def test_a_graph_with_another_operator_is_run_row_by_row(tmp_path: Path) -> None:
    """Selu rounds its vectorised body and its tail differently, so such a graph is never run on a batch."""
    width, rng = 5, np.random.default_rng(0)
    held = {"w": rng.normal(size=(width, 7)).astype("f4"), "v": rng.normal(size=(7, 1)).astype("f4")}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["s"]),
        helper.make_node("Selu", ["s"], ["h"]),
        helper.make_node("MatMul", ["h", "v"], ["y"]),
    ]
    tables = {
        "schema": [[f"c{i}", "numeric"] for i in range(width)],
        "encode": [{"as": "number", "column": i} for i in range(width)],
    }
    artifact.save(tmp_path / "m", tables=tables, model=graph(nodes, width, held), task="regression")
    model = runtime.load(tmp_path / "m")
    assert model.manifest["batch"] == 1
    X = rng.normal(size=(1000, width))
    assert model.predict(X).tolist() == [model.predict_one(row) for row in X]


def test_the_sealing_is_json() -> None:
    assert json.load(io.BytesIO(runtime.seal(b'{"a":1}')))["a"] == 1
