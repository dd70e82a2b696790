"""Laws of every export format: what it writes, what it refuses, and that it predicts as the artifact does, of any family."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from automl import parity
from automl.errors import ArtifactError, AutoMLError, UsageError
from automl.estimators.families import FAMILIES
from automl.estimators.pipeline import Pipeline
from automl.exporter import Exporter, proof_of
from automl.exporters import EXPORTERS
from automl.exporters.c import compiler
from automl.exporters.container import server_files

MEMBERS = ("baseline", "linear", "tree", "forest", "lightgbm", "network", "neighbours")
TASKS = ("binary", "multiclass", "regression")
REFUSED = {("sklearn", "neighbours"): "operator TopK"}
"""(format, family): why the format cannot hold it. What isn't here is exported."""
SUFFIXES = {"onnx": ".onnx", "python": ".py", "sklearn": ".skops"}
every = pytest.mark.parametrize("exporter", EXPORTERS, ids=lambda e: e.name)


def ready(exporter: Exporter) -> Exporter:
    """The exporter, if what it needs is there."""
    if exporter.name == "sklearn":
        pytest.importorskip("skops", reason="the format sklearn needs the extra skops")
    if exporter.name == "c" and compiler() is None:
        pytest.skip("the proof of format c needs a C compiler")
    if exporter.name == "container":
        pytest.importorskip("uvicorn", reason="the format container needs the extra serve")
        pytest.importorskip("orjson", reason="the format container needs the extra serve")
        if not server_files():
            pytest.skip("this version has no server")
    return exporter


def table(task: str, rows: int = 200) -> Any:
    import pandas as pd

    from automl.inputs import assemble

    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(rows, 2)), columns=["a", "b c"])
    X.loc[::9, "b c"] = np.nan
    X = X.assign(level=rng.choice(list("uvwxyz"), rows), flag=rng.choice(["true", "false"], rows))
    X.loc[::11, "level"] = None
    X["large"] = 1.7e9 + rng.integers(0, 1000, rows)
    score = X["a"] + X["level"].isin(["u", "w"]) * 1.5 + X["b c"].fillna(0.0) + (X["large"] - 1.7e9) / 1000
    y: Any = np.asarray(score) * 100
    if task != "regression":
        y = np.asarray(pd.qcut(score, 2 if task == "binary" else 3, labels=False))
    return assemble(
        X, np.where(y == 1, "yes", "no") if task == "binary" else y, None, None, None, None, None, None, task
    )[0]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """By family and task."""
    folder, made = tmp_path_factory.mktemp("artifacts"), {}
    known = {family.name: family for family in FAMILIES}
    for task in TASKS:
        given = table(task)
        for name in MEMBERS:
            family = known[name]
            if not family.available():
                continue
            facts = given.facts()
            pipeline = Pipeline(family, family.starts(facts)[0], view=family.views(facts)[0])
            made[name, task] = folder / f"{name}-{task}"
            rows = np.arange(len(given.y))
            pipeline.fit(given, rows).export(made[name, task], given, rows)
    return made


@pytest.fixture(scope="module")
def artifact(artifacts: dict[tuple[str, str], Path]) -> Path:
    return artifacts["tree", "binary"]


def contents(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return {str(p.relative_to(path.parent)): p.read_bytes() for p in files}


@every
@pytest.mark.parametrize("family", MEMBERS)
def test_it_predicts_as_the_artifact_or_says_why_not(
    exporter: Exporter, family: str, artifacts: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    ready(exporter)
    if (family, "binary") not in artifacts:
        pytest.skip(f"{family} is not available here")
    why = REFUSED.get((exporter.name, family))
    for task in TASKS:
        if why is not None:
            with pytest.raises(ArtifactError, match=why):
                exporter.export(artifacts[family, task], tmp_path / task)
            assert not list(tmp_path.iterdir())
            continue
        proof = proof_of(exporter.export(artifacts[family, task], tmp_path / task))
        assert proof["format"] == exporter.name
        assert proof["rows"] == parity.ROWS
        assert proof["largest_difference"] <= 1e-5


@every
def test_it_returns_what_it_wrote(exporter: Exporter, artifact: Path, tmp_path: Path) -> None:
    written = ready(exporter).export(artifact, tmp_path / "deep" / "er" / "out")
    assert written.exists()
    assert tmp_path in written.parents


@every
def test_it_leaves_nothing_else_behind(exporter: Exporter, artifact: Path, tmp_path: Path) -> None:
    ready(exporter).export(artifact, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@every
def test_one_file_has_its_record_beside_it(exporter: Exporter, artifact: Path, tmp_path: Path) -> None:
    if exporter.name not in SUFFIXES:
        pytest.skip("it writes a folder")
    written = ready(exporter).export(artifact, tmp_path / f"m{SUFFIXES[exporter.name]}")
    assert {p.name for p in tmp_path.iterdir()} == {written.name, written.name + ".record.json"}


@every
@pytest.mark.parametrize("name", ["out", "out.zip", "out.onnx", "out.skops"])
def test_it_never_overwrites(exporter: Exporter, name: str, artifact: Path, tmp_path: Path) -> None:
    written = ready(exporter).export(artifact, tmp_path / name)
    before = contents(tmp_path)
    with pytest.raises(UsageError, match="exists already"):
        exporter.export(artifact, tmp_path / name)
    assert contents(tmp_path) == before
    assert written.exists()


@every
@pytest.mark.parametrize("name", ["file/out", "file/deep/out", "nowhere/out", "file", f"{'x' * 300}/out"])
def test_a_place_that_cannot_be_is_refused(exporter: Exporter, name: str, artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "nowhere").symlink_to("absent")
    with pytest.raises(UsageError, match=r"is no folder|exists already|too long"):
        ready(exporter).export(artifact, tmp_path / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "nowhere"]
    assert (tmp_path / "file").read_text() == "mine"


@every
def test_it_refuses_a_corrupt_artifact_and_writes_nothing(exporter: Exporter, artifact: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, content in contents(artifact).items():
        (copy / Path(name).name).write_bytes(content)
    graph = bytearray((copy / "model.onnx").read_bytes())
    graph[-1] ^= 1
    (copy / "model.onnx").write_bytes(graph)
    with pytest.raises(ArtifactError):
        ready(exporter).export(copy, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]


@every
def test_it_refuses_options_that_it_does_not_know(exporter: Exporter, artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"(takes no options|knows the options? .*), but depth"):
        ready(exporter).export(artifact, tmp_path / "out", depth=3)
    assert not list(tmp_path.iterdir())


@every
def test_the_same_artifact_exports_to_the_same_bytes(exporter: Exporter, artifact: Path, tmp_path: Path) -> None:
    first, second = (ready(exporter).export(artifact, tmp_path / n / "same") for n in ("a", "b"))
    assert contents(first) == contents(second)


@every
def test_what_predicts_otherwise_is_not_written(
    exporter: Exporter, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "MOST_DIFFERENCE", -1.0)
    with pytest.raises(ArtifactError, match="differ by"):
        ready(exporter).export(artifact, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@every
@pytest.mark.parametrize("name", ["out", "out.zip", "out.onnx", "out.skops"])
def test_where_the_disk_refuses_nothing_is_left(
    exporter: Exporter, name: str, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last file to be put in its place is refused."""
    replace = os.replace

    def refuse(source: Any, target: Any) -> None:
        if Path(target).parent == tmp_path and not str(target).endswith(".record.json"):
            raise OSError("no space left on device")
        replace(source, target)

    ready(exporter)
    monkeypatch.setattr(os, "replace", refuse)
    if name == "out" and exporter.name in SUFFIXES:
        pytest.skip("it writes into a folder of that name")
    try:
        exporter.export(artifact, tmp_path / name)
    except (OSError, AutoMLError):
        assert not list(tmp_path.iterdir())
    else:
        assert exporter.name in SUFFIXES  # it took the name for a folder's
