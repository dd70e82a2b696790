"""What each export format writes; the laws of all are in tests/contracts/test_exporters.py."""

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
