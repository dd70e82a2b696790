"""What every export format keeps, and what each one writes."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import automl
from automl import runtime
from automl.errors import ArtifactError, UsageError
from automl.estimators.artifact import read_record
from automl.exporter import Exporter
from automl.exporters import EXPORTERS, by_name


@pytest.fixture(scope="module")
def data() -> tuple[Any, Any]:
    import pandas as pd

    rng = np.random.default_rng(0)
    X = pd.DataFrame({"a": rng.normal(size=200), "b": rng.choice(["x", "y", "z"], 200)})
    return X, np.where(X["a"] + (X["b"] == "x") > 0.3, "yes", "no")


@pytest.fixture(scope="module")
def artifact(data: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = automl.fit(
        *data, budget=automl.Budget(trials=2), families=["linear"], n_jobs=1, run_dir=tmp_path_factory.mktemp("run")
    )
    return Path(model.front_[0].path)


every = pytest.mark.parametrize("exporter", EXPORTERS, ids=lambda e: e.name)


# -- laws of every format ------------------------------------------------------------------------------------------------


@every
def test_it_returns_what_it_wrote(exporter: Exporter, artifact: Path, tmp_path: Path) -> None:
    written = exporter.export(artifact, tmp_path / "deep" / "er" / "out")
    assert written.exists()
    assert tmp_path in written.parents


@every
def test_it_leaves_nothing_else_behind(exporter: Exporter, artifact: Path, tmp_path: Path) -> None:
    exporter.export(artifact, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@every
@pytest.mark.parametrize("name", ["out", "out.zip", "out.onnx"])
def test_it_never_overwrites(exporter: Exporter, name: str, artifact: Path, tmp_path: Path) -> None:
    written = exporter.export(artifact, tmp_path / name)
    before = contents(written)
    with pytest.raises(UsageError, match="exists already"):
        exporter.export(artifact, tmp_path / name)
    assert contents(written) == before


@every
def test_it_refuses_a_corrupt_artifact_and_writes_nothing(exporter: Exporter, artifact: Path, tmp_path: Path) -> None:
    copy = by_name("bundle").export(artifact, tmp_path / "copy")
    graph = bytearray((copy / "model.onnx").read_bytes())
    graph[-1] ^= 1
    (copy / "model.onnx").write_bytes(graph)
    with pytest.raises(ArtifactError):
        exporter.export(copy, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]


@every
def test_it_refuses_options_that_it_does_not_know(exporter: Exporter, artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"(takes no options|knows the option .*), but depth"):
        exporter.export(artifact, tmp_path / "out", depth=3)


@every
def test_the_same_artifact_exports_to_the_same_bytes(exporter: Exporter, artifact: Path, tmp_path: Path) -> None:
    first, second = (exporter.export(artifact, tmp_path / n) for n in ("a", "b"))
    assert contents(first) == contents(second)


def contents(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in ([path] if path.is_file() else path.iterdir())}


def test_an_unknown_format_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown export format 'bundel'; did you mean 'bundle'\?"):
        by_name("bundel")


# -- bundle --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["served", "served.zip"])
def test_a_bundle_predicts_as_the_artifact(name: str, artifact: Path, data: tuple[Any, Any], tmp_path: Path) -> None:
    copy = runtime.load(by_name("bundle").export(artifact, tmp_path / name))
    wanted = runtime.load(artifact).predict_proba(data[0])
    assert np.array_equal(copy.predict_proba(data[0]), wanted)
    assert zipfile.is_zipfile(tmp_path / name) == (name == "served.zip")


def test_a_bundle_may_come_from_a_zip(artifact: Path, tmp_path: Path) -> None:
    packed = by_name("bundle").export(artifact, tmp_path / "a.zip")
    folder = by_name("bundle").export(packed, tmp_path / "folder")
    without = {name: content for name, content in contents(folder).items() if name != "record.json"}
    assert without == {name: content for name, content in contents(artifact).items() if name != "record.json"}
    assert read_record(folder) == {**read_record(artifact), "export": read_record(folder)["export"]}
    assert by_name("bundle").export(packed, tmp_path / "b.zip").read_bytes() == packed.read_bytes()


# -- onnx ----------------------------------------------------------------------------------------------------------------


def test_the_onnx_file_predicts_by_its_own_metadata(artifact: Path, data: tuple[Any, Any], tmp_path: Path) -> None:
    import onnxruntime

    from automl.estimators.runtime import RowEncoder

    written = by_name("onnx").export(artifact, tmp_path / "model.onnx")
    assert written == tmp_path / "model.onnx"
    session = onnxruntime.InferenceSession(str(written), providers=["CPUExecutionProvider"])
    known = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    assert known["automl.task"] == "binary"
    assert known["automl.classes"] == ["no", "yes"]
    matrix = RowEncoder(known["automl.encoder"]).transform(data[0])
    second = session.run(None, {"x": matrix})[0][:, 0]
    assert second == pytest.approx(runtime.load(artifact).predict_proba(data[0])[:, 1], abs=1e-6)


def test_a_name_without_onnx_at_its_end_is_a_folder(artifact: Path, tmp_path: Path) -> None:
    assert by_name("onnx").export(artifact, tmp_path / "out") == tmp_path / "out" / "model.onnx"
