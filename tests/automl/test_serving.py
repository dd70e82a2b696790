"""`automl serve`: answers, refusals and limits of the application, and the process that runs it."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest

from automl.estimators import runtime
from automl.estimators.encoder import View
from automl.estimators.families import by_name
from automl.estimators.pipeline import Pipeline
from automl.estimators.table import from_frame

pytest.importorskip("uvicorn", reason="serving needs the extra serve")
pytest.importorskip("orjson", reason="serving needs the extra serve")

from automl.errors import ArtifactError, UsageError
from automl.serving import app as app_module
from automl.serving.app import App, Limits
from automl.serving.model import Served, refuses
from automl.serving.process import Setting, listen
from automl.serving.schema import NUMBER_TEXT, sample_rows

ROOT = Path(__file__).resolve().parents[2]
ROW = {"age": 41.5, "job": "nurse", "when": "2021-05-01T10:00:00", "unused": [1, {}]}


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "age": rng.normal(40, 12, 300),
            "job": rng.choice(["nurse", "cook", "50 % off", '</script>"'], 300),
            "when": pd.date_range("2020-01-01", periods=300, freq="D"),
        }
    )


def artifact(folder: Path, frame: pd.DataFrame, task: str, params: dict[str, Any] | None = None) -> Path:
    others = sum(frame[name] for name in frame.columns if name not in ROW)  # so that the model reads all columns
    score = frame["age"] / 12 + (frame["job"] == "nurse") * 2 + frame["when"].dt.month / 6 + others
    labels = {"binary": np.where(score > 4, "90 % yes", "no"), "regression": score}
    y = pd.qcut(score, 3, labels=False) if task == "multiclass" else labels[task]
    table = from_frame(frame, y, task=task)
    pipeline = Pipeline(by_name(["tree"])[0], params or {}, view=View()).fit(table, np.arange(len(frame)))
    pipeline.export(folder, table, np.arange(len(frame)))
    return folder


@pytest.fixture(scope="module")
def places(frame: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("artifacts")
    tasks = ("binary", "multiclass", "regression")
    return {task: artifact(root / task, frame, task) for task in tasks} | {
        "small": artifact(root / "small", frame, "binary", {"max_leaf_nodes": 3})
    }


@pytest.fixture
def app(places: dict[str, Path]) -> App:
    return App(Served(places["binary"], "shop"))


def ask(
    app: App, path: str, body: Any = None, method: str | None = None, headers: dict[str, str] | None = None
) -> tuple[int, Any, dict[str, str]]:
    """One request by ASGI, and POST /predict by the short way too: (status, body, headers), which must be the same."""
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    method = method or ("GET" if body is None else "POST")
    given = {"content-type": "application/json", "content-length": str(len(raw))} | (headers or {})
    pairs = [(k.encode(), v.encode()) for k, v in given.items()]
    half = len(raw) // 2
    parts = [{"body": raw[:half], "more_body": True}, {"body": raw[half:], "more_body": False}]
    sent: list[dict[str, Any]] = []

    async def receive() -> Any:
        return {"type": "http.request", **parts.pop(0)}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app({"type": "http", "path": path, "method": method, "headers": pairs}, receive, send))
    start, content = sent
    found = {k.decode(): v.decode() for k, v in start["headers"]}
    assert int(found["content-length"]) == len(content["body"])
    if path == "/predict" and method == "POST":
        quick = app.at_once(pairs, raw)
        assert quick is None or quick.status >= 500 or (quick.status, quick.body) == (start["status"], content["body"])
    kind = found["content-type"]
    return (
        start["status"],
        json.loads(content["body"]) if kind == "application/json" else content["body"].decode(),
        found,
    )


# -- answers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_one_row_and_many_are_answered_as_the_runtime_predicts(
    task: str, places: dict[str, Path], frame: pd.DataFrame
) -> None:
    model, served = runtime.load(places[task]), App(Served(places[task], task))
    rows = [
        *json.loads(frame.to_json(orient="records", date_format="iso"))[:40],
        {**ROW, "age": None, "job": "never seen"},
    ]
    status, many, _ = ask(served, "/predict", rows)
    assert status == 200
    for row, answer in zip(rows, many, strict=True):
        assert ask(served, "/predict", row)[1] == answer
        assert answer["prediction"] == model.predict_one(row)
        if task != "regression":
            assert list(answer["probabilities"].values()) == model.predict_proba_one(row).astype(float).tolist()
            assert list(answer["probabilities"]) == [str(label) for label in model.classes_]
    assert ask(served, "/predict", [])[1] == []


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_the_open_inference_protocol(task: str, places: dict[str, Path]) -> None:
    model, served = runtime.load(places[task]), App(Served(places[task], "shop"))
    status, about, _ = ask(served, "/v2/models/shop")
    assert status == 200
    assert [i["name"] for i in about["inputs"]] == list(model.used)
    cells = {"age": [41.5, None], "job": ["nurse", "cook"], "when": [ROW["when"], "2020-02-01"]}
    kinds = {"age": "FP64", "job": "BYTES", "when": "BYTES"}
    inputs = [{"name": n, "shape": [2], "datatype": kinds[n], "data": v} for n, v in cells.items()]
    inputs[0] |= {"shape": [2, 1], "data": [[41.5], [None]]}
    for path in ("/v2/models/shop/infer", f"/v2/models/shop/versions/{about['versions'][0]}/infer"):
        status, found, _ = ask(served, path, {"id": "7", "inputs": inputs})
        assert (status, found["model_name"], found["id"]) == (200, "shop", "7")
        outputs = {o["name"]: o for o in found["outputs"]}
        assert outputs["prediction"]["data"] == model.predict(cells).tolist()
        assert [o["datatype"] for o in about["outputs"]] == [o["datatype"] for o in found["outputs"]]
        if task != "regression":
            assert outputs["probabilities"]["shape"] == [2, len(model.classes_)]
            assert outputs["probabilities"]["data"] == model.predict_proba(cells).astype(float).reshape(-1).tolist()
    only = ask(served, "/v2/models/shop/infer", {"inputs": inputs, "outputs": [{"name": "prediction"}]})[1]
    assert [o["name"] for o in only["outputs"]] == ["prediction"]
    assert ask(served, "/v2")[0] == ask(served, "/v2/health/live")[0] == ask(served, "/v2/models/shop/ready")[0] == 200


def test_health_metrics_and_documents(app: App) -> None:
    ask(app, "/predict", [ROW, ROW])
    ask(app, "/predict", b"{")
    assert ask(app, "/healthz")[1] == {"status": "ok"}
    assert ask(app, "/readyz")[0] == 200
    text = ask(app, "/metrics")[1]
    assert 'automl_requests_total{path="/predict",code="200"} 2' in text
    assert 'automl_requests_total{path="/predict",code="400"} 2' in text
    assert "automl_rows_total 4\n" in text
    assert 'automl_request_duration_seconds_bucket{path="/predict",le="+Inf"} 4' in text
    assert "automl_requests_in_flight 1\n" in text
    assert 'automl_model_info{name="shop",version="' in text
    document = ask(app, "/openapi.json")[1]
    row = document["components"]["schemas"]["Row"]
    assert set(row["properties"]) == set(row["required"]) == {"age", "job", "when"}
    example = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert ask(app, "/predict", example)[0] == 200
    page = ask(app, "/docs")[1]
    assert "&lt;/script&gt;" in page
    assert "<script" not in page
    assert "http://" not in page.replace("http://HOST:PORT", "")
    app.stopping = True
    assert ask(app, "/readyz")[0] == 503


# -- refusals ------------------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Any, int, str | None, str]] = {
    "no JSON": (b'{"age": ', 400, None, "not JSON"),
    "NaN": (b'{"age": NaN}', 400, None, "not JSON"),
    "deep nesting": (b"[" * 100_000, 400, None, "not JSON"),
    "bad UTF-8": (b'{"job": "\xff"}', 400, None, "not JSON"),
    "a number": (b"3", 422, None, "one row"),
    "a missing column": ({k: v for k, v in ROW.items() if k != "job"}, 422, "job", "column 'job'.*missing"),
    "text for a number": (ROW | {"age": "old"}, 422, "age", "column 'age': 'old' is not a number"),
    "text for a date": (ROW | {"when": "soon"}, 422, "when", "column 'when': 'soon' is not a date"),
    "a list for a category": (ROW | {"job": ["nurse"]}, 422, "job", "column 'job': .* is a list"),
    "an object for a number": (ROW | {"age": {}}, 422, "age", "is an object"),
    "a row that is none": ([ROW, 3], 422, None, "row 1, a row is an object"),
    "a bad row among good": ([ROW, ROW | {"age": "x"}], 422, "age", "row 1, column 'age'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_body_is_a_4xx_that_names_row_and_field(case: str, app: App) -> None:
    import re

    body, code, field, says = REFUSED[case]
    status, found, _ = ask(app, "/predict", body)
    assert status == code
    assert re.search(says, found["error"]), found
    if field is not None:
        assert found["details"][0]["field"] == field
    assert "Traceback" not in json.dumps(found)


TENSORS: dict[str, tuple[Any, int]] = {
    "no inputs": ({}, 400),
    "inputs of another kind": ({"inputs": 3}, 400),
    "a tensor without a name": ({"inputs": [3]}, 400),
    "a wrong shape": ({"inputs": [{"name": "age", "shape": [2], "datatype": "FP64", "data": [1]}]}, 400),
    "a matrix": ({"inputs": [{"name": "age", "shape": [1, 2], "datatype": "FP64", "data": [[1, 2]]}]}, 400),
    "an unknown datatype": ({"inputs": [{"name": "age", "shape": [1], "datatype": "FLOAT", "data": [1]}]}, 400),
    "text in a tensor of numbers": (
        {"inputs": [{"name": "age", "shape": [1], "datatype": "FP64", "data": ["x"]}]},
        422,
    ),
    "a missing input": ({"inputs": [{"name": "age", "shape": [1], "datatype": "FP64", "data": [1]}]}, 422),
    "a shape that lies": ({"inputs": [{"name": "age", "shape": [10**9], "datatype": "FP64", "data": []}]}, 400),
    "too many rows": (
        {"inputs": [{"name": "age", "shape": [10**4 + 1], "datatype": "FP64", "data": [1] * (10**4 + 1)}]},
        413,
    ),
    "an id that is none": ({"id": 0, "inputs": [{"name": "age", "shape": [0], "datatype": "FP64", "data": []}]}, 400),
}


@pytest.mark.parametrize("case", TENSORS)
def test_a_bad_tensor_is_a_4xx(case: str, app: App) -> None:
    body, code = TENSORS[case]
    status, found, _ = ask(app, "/v2/models/shop/infer", body)
    assert (status, set(found) <= {"error", "details"}) == (code, True), found


def test_limits_methods_types_and_paths(places: dict[str, Path]) -> None:
    app = App(Served(places["binary"], "shop"), limits=Limits(body_bytes=400, rows=2, concurrency=1))
    assert ask(app, "/predict", [ROW] * 3)[0] == 413
    status, _, headers = ask(app, "/predict", b" " * 500)
    assert (status, headers["connection"]) == (413, "close")
    assert ask(app, "/predict", b" " * 500, headers={"content-length": "10"})[0] == 413
    assert ask(app, "/predict", ROW, headers={"content-type": "text/plain"})[0] == 415
    assert ask(app, "/predict", ROW, headers={"content-encoding": "gzip"})[0] == 415
    assert ask(app, "/predict", ROW, headers={"content-type": "application/json; charset=utf-8"})[0] == 200
    for method in ("GET", "HEAD", "PUT", "DELETE"):
        status, _, headers = ask(app, "/predict", method=method)
        assert (status, headers["allow"]) == (405, "POST")
    assert ask(app, "/healthz", {})[0] == 405
    for path in ("/../etc/passwd", "/v2/models/other", "/v2/models/shop/versions/9/infer", "/predict/"):
        assert ask(app, path)[0] == 404
    app._flight = 1
    status, _, headers = ask(app, "/predict", ROW)
    assert (status, headers["retry-after"]) == (503, "1")


def test_a_token_is_asked_for_everywhere_but_at_the_health_checks(places: dict[str, Path]) -> None:
    app = App(Served(places["binary"], "shop"), token="s3cret")
    for path in ("/metrics", "/openapi.json", "/v2/models/shop", "/nowhere"):
        assert ask(app, path)[0] == 401
        assert ask(app, path, headers={"authorization": "Bearer s3cret"})[0] in (200, 404)
    assert ask(app, "/predict", ROW, headers={"authorization": "Bearer s3creT"})[0] == 401
    assert ask(app, "/predict", ROW, headers={"authorization": "Bearer s3cret"})[0] == 200
    assert ask(app, "/healthz")[0] == ask(app, "/v2/health/ready")[0] == 200


def test_another_host_without_a_token_is_refused() -> None:
    for host in ("0.0.0.0", "::", "192.168.0.7", "example.org"):
        with pytest.raises(UsageError, match="token"):
            Setting(Path("x"), host=host)
    Setting(Path("x"), host="0.0.0.0", token="t")
    Setting(Path("x"), host="0.0.0.0", open=True)
    for host in ("127.0.0.1", "::1", "localhost"):
        Setting(Path("x"), host=host)
    with contextlib.closing(listen("127.0.0.1", 0)) as taken, pytest.raises(UsageError, match="--port"):
        listen("127.0.0.1", taken.getsockname()[1])


def test_a_bug_is_a_500_whose_traceback_is_in_the_log_alone(
    app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(row: Any) -> bytes:
        raise RuntimeError("odd secret")

    monkeypatch.setattr(app.served, "one", breaks)
    status, found, _ = ask(app, "/predict", ROW)
    assert status == 500
    assert "odd secret" not in json.dumps(found)
    assert found["error"].rsplit(" ", 1)[-1] in caplog.text
    assert "odd secret" in caplog.text


def test_what_takes_long_is_predicted_in_a_thread(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[bool] = []
    one = app.served.one
    monkeypatch.setattr(
        app.served,
        "one",
        lambda row: (found.append(threading.current_thread() is threading.main_thread()), one(row))[1],
    )
    assert ask(app, "/predict", ROW)[0] == 200
    monkeypatch.setattr(app_module, "INLINE_SECONDS", 0.0)
    assert ask(app, "/predict", ROW)[0] == 200
    assert found[0] is True
    assert found[-1] is False


def test_rows_of_the_schema_fit_it(places: dict[str, Path]) -> None:
    import re

    served = Served(places["binary"], "shop")
    assert served.problems(sample_rows(served.fields, 200)) == []
    for text in ("1", " -2.5e3 ", ".5", "inf", "-Infinity", "NaN", "", " ", "NA", "n/a", "null"):
        assert re.match(NUMBER_TEXT, text), text
        assert served.fields[0].problem(text) == ""
    for text in ("1,5", "1_0", "abc", "0x1", "1 2", "--1", "e5", "."):
        assert not re.match(NUMBER_TEXT, text), text
        assert served.fields[0].problem(text) != ""


def test_a_date_with_a_time_zone_is_served(tmp_path: Path) -> None:
    moments = pd.Series(pd.date_range("2023-01-01", periods=400, freq="7h", tz="UTC"))
    frame = pd.DataFrame({"when": moments.dt.strftime("%d/%m/%Y %H:%M:%S %z")})
    y, rows = np.asarray(moments.dt.hour, float) + np.arange(400) / 1e3, np.arange(400)
    table = from_frame(frame, y, task="regression")
    assert "%z" in table.columns[0].parse["format"]
    pipeline = Pipeline(by_name(["tree"])[0], {"max_leaf_nodes": 12}, view=View())
    pipeline.fit(table, rows).export(tmp_path / "tree", table, rows)
    served = Served(tmp_path / "tree", "dated")
    assert ask(App(served), "/predict", sample_rows(served.fields, 20))[0] == 200


def test_an_artifact_that_needs_more_or_does_another_task_cannot_take_over(
    places: dict[str, Path], frame: pd.DataFrame, tmp_path: Path
) -> None:
    first = runtime.check(places["binary"])
    more = Served(
        artifact(tmp_path / "more", frame.assign(height=np.random.default_rng(1).normal(0, 3, len(frame))), "binary"),
        "x",
    )
    assert refuses(first, Served(places["small"], "shop")) == ""
    assert "multiclass" in refuses(first, Served(places["multiclass"], "shop"))
    assert "'height'" in refuses(first, more)
    for task in ("binary", "multiclass"):
        assert refuses(more.model.manifest, Served(places[task], "shop")) == (
            "" if task == "binary" else "its task is multiclass, the server began with binary"
        )


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_probabilities_that_are_no_numbers_are_null(
    task: str, places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = App(Served(places[task], "shop"))
    labels = app.served.labels
    wrong = np.full((1, len(labels)), np.nan, np.float32)
    monkeypatch.setattr(app.served.model, "predict_proba", lambda rows: wrong)
    nothing = {"prediction": None, "probabilities": dict.fromkeys(map(str, labels))}
    assert ask(app, "/predict", [ROW])[1] == [nothing]
    cells = {"age": [41.5], "job": ["nurse"], "when": [ROW["when"]]}
    kinds = {"age": "FP64", "job": "BYTES", "when": "BYTES"}
    inputs = [{"name": n, "shape": [1], "datatype": kinds[n], "data": v} for n, v in cells.items()]
    found = ask(app, "/v2/models/shop/infer", {"inputs": inputs})[1]["outputs"]
    assert [output["data"] for output in found] == [[None], [None] * len(labels)]
    monkeypatch.setattr(runtime.Model, "predict_proba_one", lambda self, row: wrong[0])
    with pytest.raises(ArtifactError, match="no number"):
        Served(places[task], "shop")


def test_a_client_that_does_not_send_is_overdue_and_one_that_waits_for_us_is_not() -> None:
    from types import SimpleNamespace

    from automl.serving.wire import Connection

    def overdue(now: float, began: dict[Any, Any], **state: Any) -> bool:
        for name, value in state.items():
            setattr(client, name, value)
        return Connection.overdue(client, now, 75.0, began, 20.0)  # type: ignore[arg-type]

    class Client(SimpleNamespace):
        __hash__ = object.__hash__

    client = Client(quiet_since=None, cycle=None, parts=None, requests=0, timeout_keep_alive_task=None)
    began: dict[Any, Any] = {}
    assert not overdue(0.0, began)
    assert overdue(20.0, began), "it has sent nothing at all"
    assert not overdue(21.0, began, requests=1, parts=[]), "a request has begun since"
    assert overdue(41.0, began), "and does not end"
    assert not overdue(100.0, began, quiet_since=90.0), "idle between two requests"
    assert overdue(166.0, began)
    busy = SimpleNamespace(response_complete=False, more_body=False)
    assert not overdue(999.0, began, quiet_since=None, parts=None, cycle=busy)
    assert not overdue(2000.0, began)


def test_a_client_that_does_not_read_is_stuck_and_one_that_reads_slowly_is_not() -> None:
    from types import SimpleNamespace

    from automl.serving.wire import Connection

    def stuck(now: float, unsent: int) -> bool:
        client.transport = SimpleNamespace(get_write_buffer_size=lambda: unsent)
        return Connection.stuck(client, now, 20.0)  # type: ignore[arg-type]

    client = SimpleNamespace(unsent=0, unsent_since=0.0)
    assert not stuck(1000.0, 0)
    assert not stuck(1005.0, 900), "an answer is on its way"
    assert not stuck(1010.0, 900)
    assert not stuck(1020.0, 899), "it has read something"
    assert not stuck(1035.0, 950), "there is more for it"
    assert stuck(1040.0, 950)
    assert not stuck(1045.0, 0)
    assert not stuck(1100.0, 10)


# -- the process ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(place: Path, *options: str, patch: str = "") -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`automl serve` on a free port, with another constant of its module `process` by `patch`: (process, port)."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    code = f"from automl.serving import process; process.{patch}; from automl.cli.main import main; main()"
    start = ["-c", code] if patch else ["-m", "automl"]
    command = [sys.executable, *start, "serve", str(place), "--port", "0", "--json", *options]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            text = ""
            while not text.endswith("}\n"):
                line = process.stdout.readline()
                assert line, process.stderr.read() if process.stderr else ""
                text += line
            yield process, int(json.loads(text)["url"].rsplit(":", 1)[1])
        finally:
            process.kill()


def post(port: int, body: Any, path: str = "/predict") -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def version(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", "/v2/models/shop")
        return str(json.loads(connection.getresponse().read())["versions"][0])


def until(check: Any, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def test_a_replaced_artifact_takes_over_without_a_lost_request(places: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(places["binary"], tmp_path / "a")
    shutil.copytree(places["small"], tmp_path / "b")
    link = tmp_path / "live"
    link.symlink_to("a")

    def point(name: str) -> None:
        (tmp_path / "next").symlink_to(name)
        os.replace(tmp_path / "next", link)

    with serving(link, "--name", "shop") as (process, port):
        failures: list[Any] = []
        done = threading.Event()

        def client() -> None:
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
                while not done.is_set():
                    try:
                        connection.request("POST", "/predict", json.dumps(ROW), {"Content-Type": "application/json"})
                        answer = connection.getresponse()
                        if answer.status != 200 or "prediction" not in json.loads(answer.read()):
                            failures.append(answer.status)
                    except Exception as error:
                        failures.append(error)
                        return

        clients = [threading.Thread(target=client) for _ in range(4)]
        for thread in clients:
            thread.start()
        first = version(port)
        seen = {first}
        for name in ("b", "a", "b"):
            before = version(port)
            point(name)
            process.send_signal(signal.SIGHUP)
            until(lambda before=before: version(port) != before)  # type: ignore[misc]
            seen.add(version(port))
        good = version(port)
        (tmp_path / "bad").mkdir()
        (tmp_path / "bad" / "model.onnx").write_bytes(b"no graph")
        point("bad")
        process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert version(port) == good, "one that is corrupt leaves the old one in place"
        point("a")  # and the clock alone sees the next good one
        until(lambda: version(port) == first)
        done.set()
        for thread in clients:
            thread.join()
        assert failures == []
        assert len(seen) == 2
        process.terminate()
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert "is not swapped in" in process.stderr.read()


@pytest.mark.parametrize(("bad", "says"), [("corrupt", "no artifact"), ("multiclass", "its task is multiclass")])
def test_a_worker_that_dies_does_not_begin_with_what_the_others_refused_nor_ends_them(
    bad: str, says: str, places: dict[str, Path], tmp_path: Path
) -> None:
    live = tmp_path / "live"
    shutil.copytree(places["binary"], live)
    (tmp_path / "corrupt").mkdir()
    shutil.copytree(places["multiclass"], tmp_path / "multiclass")
    (tmp_path / "corrupt" / "manifest.json").write_text("{}")
    with serving(live, "--name", "shop", "--workers", "2", patch="RESTART_SECONDS = 0.05") as (process, port):

        def workers() -> set[int]:
            return {child.pid for child in psutil.Process(process.pid).children()}

        first, before = version(port), workers()
        live.rename(tmp_path / "before")
        (tmp_path / bad).rename(live)
        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            assert version(port) == first
            assert process.poll() is None
        assert before - {killed} <= workers()
        live.rename(tmp_path / bad)
        (tmp_path / "before").rename(live)
        time.sleep(0.5)
        after = workers()
        assert len(after) == 2
        assert {version(port) for _ in range(20)} == {first}
        time.sleep(0.3)
        assert workers() == after, "the new one stays"
        process.terminate()
        assert process.wait(20) == 0
        assert process.stderr is not None
        lines = process.stderr.read().splitlines()
        assert says in next(line for line in lines if line.startswith("error: ")), "it was tried"


def test_a_client_that_reads_no_answer_is_let_go(places: dict[str, Path]) -> None:
    body = json.dumps([ROW] * 9000).encode()
    sent = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    with (
        serving(places["binary"], patch="CLIENT_SECONDS = 0.8") as (process, port),
        socket.socket() as client,
        contextlib.suppress(ConnectionError),
    ):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(20)
        client.connect(("127.0.0.1", port))
        for _ in range(8):  # more than the system's buffers take
            client.sendall(sent)
        server = psutil.Process(process.pid)
        mine = client.getsockname()[1]
        until(lambda: all(c.raddr[1:] != (mine,) for c in server.net_connections() if c.raddr))


def test_a_request_in_flight_is_answered_before_it_stops(places: dict[str, Path]) -> None:
    body = json.dumps(ROW).encode()
    head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(
        body
    )
    with serving(places["binary"]) as (process, port), socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(head + body[:5])
        time.sleep(0.2)
        process.terminate()
        time.sleep(0.3)
        client.sendall(body[5:])
        client.settimeout(10)
        answer = b""
        while part := client.recv(65536):
            answer += part
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"connection: close" in answer
        assert process.wait(20) == 0


def test_pipelined_split_and_broken_requests_on_one_connection(places: dict[str, Path]) -> None:
    body = json.dumps(ROW).encode()
    head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(
        body
    )
    big = json.dumps([ROW] * 2000).encode()
    slow = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(big) + big
    get = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    with serving(places["binary"], "--workers", "2") as (process, port):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.settimeout(20)
            sent = head + body + get + slow + head + body + get
            for i in range(0, len(sent), 7000):
                client.sendall(sent[i : i + 7000])
            with client.makefile("rb") as answers:
                found = []
                for _ in range(5):
                    assert answers.readline().startswith(b"HTTP/1.1 200")
                    length = 0
                    while (line := answers.readline()) != b"\r\n":
                        length = int(line.split(b":")[1]) if line.startswith(b"content-length") else length
                    found.append(json.loads(answers.read(length)))
        assert found[0] == found[3]
        assert found[1] == found[4] == {"status": "ok"}
        assert found[2] == [found[0]] * 2000
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"no http at all\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 400")
        for endless in (b"GET / HTTP/1.1\r\nx: " + b"a" * 200_000, b"GET / HTTP/1.1\r\n" + b"x: a\r\n" * 40_000):
            with socket.create_connection(("127.0.0.1", port)) as client, contextlib.suppress(ConnectionError):
                client.settimeout(5)  # less than it has for a request that does not end
                client.sendall(endless)
                assert client.recv(65536).startswith(b"HTTP/1.1 431")
                assert client.recv(65536) == b""
        process.terminate()
        assert process.wait(20) == 0


def test_a_corrupt_artifact_is_exit_6_and_one_without_the_package_serves(
    places: dict[str, Path], tmp_path: Path
) -> None:
    from automl.cli.main import run

    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "manifest.json").write_text("{}")
    assert run(["serve", str(tmp_path / "bad"), "--port", "0"]) == 6
    shutil.copy(Path(runtime.__file__), tmp_path / "runtime.py")
    shutil.copytree(
        Path(app_module.__file__).parent, tmp_path / "serving", ignore=shutil.ignore_patterns("__pycache__")
    )
    code = (
        "import sys; sys.modules['automl'] = None; from serving.model import Served; from serving.app import App\n"
        f"print(Served({str(places['binary'])!r}, 'x').one({ {k: ROW[k] for k in ('age', 'job', 'when')}!r}).decode())\n"
        "import serving.process, serving.__main__"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "prediction" in done.stdout, done.stderr
