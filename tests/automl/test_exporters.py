"""What each export format writes; the laws of all are in tests/contracts/test_exporters.py."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from automl import runtime
from automl.errors import UsageError
from automl.estimators.artifact import read_record
from automl.estimators.families import by_name as families
from automl.estimators.pipeline import Pipeline
from automl.exporter import proof_of
from automl.exporters import by_name
from automl.exporters.container import NEEDS, server_files
from automl.inputs import assemble
from automl.parity import Reference, dict_rows

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = 'x"]\nRUN rm -rf / #`$(id)`<script>'
"""A column's and a class's name that would do harm where it is not escaped."""
ALONE = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        root = name.partition(".")[0]
        if root not in sys.stdlib_module_names and root not in {allowed!r} and not root.startswith("_"):
            raise ModuleNotFoundError(name + " is not installed")
sys.meta_path.insert(0, Blocked())
sys.path.insert(0, ".")
"""
NEEDED = (
    "numpy",
    "onnxruntime",
    "automl_runtime",
    "runtime",
    "serving",
    "uvicorn",
    "orjson",
    "click",
    "h11",
    "predict",
)


@pytest.fixture(scope="module")
def data() -> tuple[Any, Any]:
    import pandas as pd

    rng = np.random.default_rng(0)
    X = pd.DataFrame({"a": rng.normal(size=200), HOSTILE: rng.choice(["x", "y", "z"], 200)})
    return X, np.where(X["a"] + (X[HOSTILE] == "x") > 0.3, HOSTILE, "no")


@pytest.fixture(scope="module")
def artifact(data: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("run") / "m01"
    table = assemble(*data, None, None, None, None, None, None, "binary")[0]
    family, facts, rows = families(["linear"])[0], table.facts(), np.arange(200)
    Pipeline(family, family.starts(facts)[0], view=family.views(facts)[0]).fit(table, rows).export(place, table, rows)
    return place


def contents(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in ([path] if path.is_file() else path.iterdir())}


def only(place: Path) -> str:
    """Code that lets nothing be imported but the standard library, what is laid in a folder, and its requirements."""
    pins = [line.partition("==")[0].replace("-", "_") for line in (place / "requirements.txt").read_text().split()]
    return ALONE.format(allowed=(*NEEDED, *pins))


def alone(place: Path, *code: str, stdin: str = "") -> str:
    """What Python prints in a folder where only the standard library and its requirements can be imported."""
    text = only(place) + "\n".join(code)
    done = subprocess.run(
        [sys.executable, "-I", "-c", text],
        cwd=place,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


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


def test_a_bundle_may_come_from_a_zip_and_says_how_it_was_proven(artifact: Path, tmp_path: Path) -> None:
    packed = by_name("bundle").export(artifact, tmp_path / "a.zip")
    folder = by_name("bundle").export(packed, tmp_path / "folder")
    without = {name: content for name, content in contents(folder).items() if name != "record.json"}
    assert without == {name: content for name, content in contents(artifact).items() if name != "record.json"}
    assert read_record(folder) == {**read_record(artifact), "export": proof_of(folder)}
    assert by_name("bundle").export(packed, tmp_path / "b.zip").read_bytes() == packed.read_bytes()
    assert proof_of(packed) == proof_of(folder)


def test_with_the_runtime_it_predicts_where_only_numpy_and_onnxruntime_are(artifact: Path, tmp_path: Path) -> None:
    place = by_name("bundle").export(artifact, tmp_path / "app", with_runtime=True)
    reference = Reference.open(artifact)
    rows = [{**row, "a": None if row["a"] != row["a"] else row["a"]} for row in dict_rows(reference.rows)[:50]]
    found = json.loads(
        alone(place, "import runpy; runpy.run_path('predict.py', run_name='__main__')", stdin=json.dumps(rows))
    )
    assert found["prediction"] == reference.model.predict(rows).tolist()
    assert found["classes"] == ["no", HOSTILE]
    assert found["probabilities"] == reference.model.predict_proba(rows).tolist()
    assert {line.partition("==")[0] for line in (place / "requirements.txt").read_text().split()} == {
        "numpy",
        "onnxruntime",
    }


def test_with_the_runtime_it_is_a_folder(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name a folder"):
        by_name("bundle").export(artifact, tmp_path / "app.zip", with_runtime=True)


# -- onnx ----------------------------------------------------------------------------------------------------------------


def test_the_onnx_file_takes_named_columns_and_says_what_they_hold(
    artifact: Path, data: tuple[Any, Any], tmp_path: Path
) -> None:
    import onnxruntime

    written = by_name("onnx").export(artifact, tmp_path / "model.onnx")
    assert written == tmp_path / "model.onnx"
    session = onnxruntime.InferenceSession(str(written), providers=["CPUExecutionProvider"])
    known = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    assert known["automl.task"] == "binary"
    assert known["automl.classes"] == ["no", HOSTILE]
    assert {i["name"]: (i["type"], i["missing"]) for i in known["automl.inputs"]} == {
        "a": ("double", "NaN"),
        HOSTILE: ("string", ""),
    }
    given = {"a": data[0][["a"]].to_numpy(), HOSTILE: data[0][[HOSTILE]].to_numpy(object)}
    label, probabilities = session.run(["label", "probabilities"], given)
    model = runtime.load(artifact)
    assert probabilities == pytest.approx(model.predict_proba(data[0]), abs=1e-6)
    assert label.tolist() == model.predict(data[0]).tolist()


def test_a_name_without_the_formats_ending_is_a_folder(artifact: Path, tmp_path: Path) -> None:
    assert by_name("onnx").export(artifact, tmp_path / "out") == tmp_path / "out" / "model.onnx"


# -- mlflow --------------------------------------------------------------------------------------------------------------


def test_an_mlflow_folder_has_signature_and_example_and_no_pickle(artifact: Path, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="MLmodel is read with pyyaml here")
    place = by_name("mlflow").export(artifact, tmp_path / "model")
    said = yaml.safe_load((place / "MLmodel").read_text())
    flavour = said["flavors"]["python_function"]
    assert (place / flavour["code"] / Path(*flavour["loader_module"].split("."))).with_suffix(".py").is_file()
    assert (place / flavour["data"] / "manifest.json").is_file()
    inputs = json.loads(said["signature"]["inputs"])
    assert [(i["name"], i["type"]) for i in inputs] == [("a", "double"), (HOSTILE, "string")]
    example = json.loads((place / said["saved_input_example_info"]["artifact_path"]).read_text())
    assert example["columns"] == ["a", HOSTILE]
    assert all(len(row) == 2 for row in example["data"])
    assert not [p for p in place.rglob("*") if p.suffix in (".pkl", ".joblib", ".pyc")]


def test_mlflow_itself_loads_it_and_keeps_to_the_signature(artifact: Path, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not needed to write it, and not installed")
    place = by_name("mlflow").export(artifact, tmp_path / "model")
    loaded = mlflow.pyfunc.load_model(str(place))
    example = loaded.input_example
    wanted = runtime.load(artifact)
    assert list(loaded.predict(example)) == wanted.predict(example).tolist()
    found = loaded.predict(example, params={"probabilities": True})
    assert np.array_equal(found.to_numpy(), wanted.predict_proba(example))
    with pytest.raises(mlflow.exceptions.MlflowException):
        loaded.predict(example.drop(columns=["a"]))


# -- container -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def image(artifact: Path, tmp_path: Path) -> Path:
    pytest.importorskip("uvicorn", reason="the format container needs the extra serve")
    pytest.importorskip("orjson", reason="the format container needs the extra serve")
    if not server_files():
        pytest.skip("this version has no server")
    return by_name("container").export(artifact, tmp_path / "image dir")


def test_a_container_copies_what_is_there_and_runs_without_rights(image: Path) -> None:
    lines = (image / "Dockerfile").read_text().splitlines()
    copied = [line.split()[1].rstrip("/") for line in lines if line.startswith("COPY ")]
    assert all((image / name).exists() for name in copied)
    assert {*copied, "Dockerfile", "README.md", ".dockerignore"} == {p.name for p in image.iterdir()}
    assert lines[0] == "FROM python:3.11-slim"
    assert "USER 10001" in lines
    assert any("OMP_NUM_THREADS=1" in line for line in lines)
    assert any(line.startswith("HEALTHCHECK ") for line in lines)
    pins = (image / "requirements.txt").read_text().split()
    assert {"numpy", "onnxruntime", "uvicorn", "orjson", "h11"} <= {pin.partition("==")[0] for pin in pins}
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)


def test_a_container_pins_what_the_runtime_and_the_extra_serve_name() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    if "serve" not in extras:
        pytest.skip("this version has no server")
    named = {re.match(r"[\w-]+", requirement)[0] for requirement in extras["serve"]}  # type: ignore[index]
    assert set(NEEDS) == {"numpy", "onnxruntime", *named}


def test_nothing_from_the_data_stands_in_a_file_that_is_run(image: Path) -> None:
    for path in image.rglob("*"):
        if path.is_file() and path.parent.name != "model":
            assert HOSTILE not in path.read_text()
            assert "rm -rf" not in path.read_text()


def test_the_containers_entry_point_serves_and_is_healthy(image: Path) -> None:
    text = (image / "Dockerfile").read_text()
    entry = json.loads(re.search(r"^ENTRYPOINT (.*)$", text, re.M)[1])  # type: ignore[index]
    check = json.loads(re.search(r"^ +CMD (.*)$", text, re.M)[1])  # type: ignore[index]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    arguments = [port if word == "8080" else "127.0.0.1" if word == "0.0.0.0" else word for word in entry[1:]]
    assert arguments[:2] == ["-m", "serving"]
    start = (
        only(image) + f"import runpy; sys.argv = {arguments[1:]!r}; runpy.run_module('serving', run_name='__main__')"
    )
    server = subprocess.Popen([sys.executable, "-I", "-c", start], cwd=image, stderr=subprocess.PIPE, text=True)
    try:
        health = [sys.executable, *check[1:-1], check[-1].replace("8080", port)]
        for _ in range(100):
            healthy = subprocess.run(health, capture_output=True, timeout=30, check=False).returncode == 0
            if healthy or server.poll() is not None:
                break
            time.sleep(0.1)
        assert server.poll() is None, server.stderr and server.stderr.read()
        assert healthy
        row = json.dumps({"a": 1.0, HOSTILE: "x"}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/predict", row, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert json.load(answer)["prediction"] == HOSTILE
    finally:
        server.terminate()
        server.communicate(timeout=30)


def test_a_container_of_others_refuses_to_start_without_a_token(image: Path) -> None:
    start = only(image) + "import runpy; sys.argv = ['serving', 'model', '--host', '0.0.0.0']\n"
    start += "import os; os.environ.pop('AUTOML_TOKEN', None)\nrunpy.run_module('serving', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-I", "-c", start], cwd=image, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "token" in done.stderr
