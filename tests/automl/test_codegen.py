"""Formats python and c: cells are read as the runtime reads them, nothing in the data becomes code, and what a format cannot hold is refused."""

from __future__ import annotations

import ast
import csv
import datetime
import io
import json
import math
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automl.codegen.c_source import source_files
from automl.codegen.c_text import RESERVED, Strings, array, comment, floats, identifiers
from automl.codegen.standalone_row import from_iso
from automl.errors import ArtifactError
from automl.estimators import artifact, runtime
from automl.estimators.graph import Graph
from automl.estimators.trees import Trees, write
from automl.exporter import proof_of
from automl.exporters import by_name, c, python

EVIL = [
    '"; system("x"); "',
    "*/ int x; /*",
    "a\nb\\",
    "what??/?",
    "'''",
    "{}%s%n",
    "\u202e\u2028",
    "\ud800",
    "int",
    "INT",
    "😀",
]
"""Names, levels and labels that would like to be code."""
NAMES = [*EVIL, "x" * 10_000, "", "  ", "1st", "1 st"]


def schema(*kinds: str) -> list[list[Any]]:
    return [[NAMES[i], kind] for i, kind in enumerate(kinds)]


TABLES: dict[str, Any] = {
    "schema": [
        *schema("numeric", "numeric", "numeric", "categorical", "categorical", "categorical", "categorical", "date", "date"),
        [NAMES[9], "numeric"],
        [NAMES[10], "categorical"],
        ["block", "sparse", ["w 0", "w'1", "w\\2", "w 0 "]],
    ],
    "encode": [
        {"as": "number", "column": 0, "parse": {"currency": "$", "thousands": ",", "percent": True, "words": {"free": 0}}},
        {"as": "ordinal", "column": 3, "levels": [*EVIL, "None", "3"]},
        {"as": "scaled", "column": 1, "center": 3.0, "scale": 2.5},
        {"as": "absent", "column": 1},
        {"as": "shifted", "column": 2, "shift": 1.7e9},
        {"as": "shifted", "column": 9, "shift": 1.7e9, "split": True},
        {
            "as": "target", "column": 4, "levels": ["u", *EVIL], "values": [[0.1 * i, -i] for i in range(12)],
            "missing": [9.0, 8.0], "other": [-9.0, 0.3],
        },
        {"as": "date", "column": 7, "parts": list(runtime.DATE_PARTS), "center": [18000.0, 2000, 0, 0, 0, 0, 17000.0]},
        {
            "as": "date", "column": 8, "parts": ["days", "hour"], "center": [18000.0, 12], "scale": [500.0, 6.0],
            "absent": True, "parse": {"format": "%d.%m.%Y"},
        },
        {"as": "onehot", "column": 5, "levels": ["u", "v", "NA"], "rare": EVIL, "missing": True},
        {"as": "onehot", "column": 10, "levels": ["True", "False"]},
        {"as": "hashed", "column": 6, "buckets": 16, "missing": True, "levels": ["None"]},
        {"as": "sparse", "column": 11, "kept": [0, 1, 3], "scale": [0.5, 2.0, 1.0]},
    ],
}  # fmt: skip
"""Every kind of entry but text, under hostile names."""
TEXT = {"schema": [*TABLES["schema"], ["note", "text"]], "encode": [dict(entry) for entry in TABLES["encode"]]}
TEXT["encode"].insert(-1, {"as": "text", "column": 12, "kept": list(range(0, 1024, 2))})


def forest(graph: Graph, x: str, width: int, targets: int, seed: int = 0) -> str:
    """Stumps that look at every column, a set of categories among every few, to one target each."""
    rng = np.random.default_rng(seed)
    count = 3 * width
    counts = np.where(np.arange(count) % 4 == 0, rng.integers(1, 4, count), 0)
    members = np.concatenate([rng.permutation(6)[:n] for n in counts])
    trees = Trees(
        np.ones(count, np.int64), np.arange(count) % width, rng.normal(size=count), rng.random(count) < 0.5,
        np.full(count, -1), np.full(count, -2), rng.normal(size=(2 * count, 1)),
        targets=np.repeat(np.arange(count) % targets, 2), counts=counts, members=members,
    )  # fmt: skip
    return write(graph, x, trees, targets, np.full(targets, 0.25))


def clean(graph: Graph, x: str, width: int) -> str:
    """x without missing values, in single figures."""
    low, high = graph.constant(np.float32(-3.0)), graph.constant(np.float32(3.0))
    kept = [i for i in range(width) if i not in NAN_COLUMNS]
    picked = graph.node("Gather", x, graph.constant(np.array(kept)), axis=1)
    return graph.node("Clip", picked, low, high)


NAN_COLUMNS: frozenset[int] = frozenset({0, 4, 5, 6, *range(9, 16)})
"""Outputs of the encoder of `TABLES` that may be NaN."""


def everything(graph: Graph, width: int, outputs: int) -> str:
    """Trees with sets, a layer, every operator of one and two inputs that the formats know, and a link."""
    rng = np.random.default_rng(1)
    x = clean(graph, graph.x, width)
    inner = width - len([i for i in NAN_COLUMNS if i < width])
    weights, bias = rng.normal(size=(inner, 5)) / inner, rng.normal(size=5)
    h = graph.node("Gemm", x, graph.constant(weights), graph.constant(bias))
    total = h
    positive = graph.node("Add", graph.node("Abs", h), graph.constant([0.5]))
    for op in ("Relu", "Selu", "Elu", "Sigmoid", "Tanh", "Neg", "Exp", "Abs", "Softplus", "Erf"):
        total = graph.node("Add", total, graph.node(op, h))
    for op in ("Log", "Sqrt", "Reciprocal"):
        total = graph.node("Sub", total, graph.node(op, positive))
    for op in ("Max", "Min", "Mul", "Div"):
        total = graph.node("Add", graph.node(op, total, positive), graph.constant(rng.normal(size=5)))
    axis = graph.constant(np.array([1]))
    for op in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceSumSquare"):
        total = graph.node("Add", total, graph.node(op, h, axis, keepdims=1))
    several = graph.node("Reshape", graph.node("Tile", h, graph.constant([1, 3])), graph.constant([-1, 5]))
    several = graph.node("Gemm", several, graph.constant(rng.normal(size=(5, 4))), graph.constant(rng.normal(size=4)))
    shares = graph.node("Softmax", graph.node("Reshape", several, graph.constant([-1, 3, 4])), axis=2)
    flat = graph.node("Slice", graph.node("Reshape", shares, graph.constant([-1, 12])), *map(graph.constant, ([1], [6], [1])))  # fmt: skip
    total = graph.node("Mul", graph.node("Add", total, flat), graph.constant([0.05]))
    both = graph.node("Concat", total, forest(graph, graph.x, width, outputs), axis=1)
    last = graph.constant(rng.normal(size=(5 + outputs, outputs)) * 0.3)
    scores = graph.node("MatMul", both, last)
    return scores if outputs == 1 else graph.node("Softmax", scores, axis=1)


Maker = Callable[..., Path]


@pytest.fixture
def made(tmp_path: Path) -> Maker:
    def make(tables: Any = TABLES, classes: Any = EVIL, task: str = "multiclass", body: Any = everything) -> Path:
        width = runtime.RowEncoder(tables).width
        graph = Graph(width)
        outputs = len(classes) if task == "multiclass" else 1
        y = body(graph, width, outputs)
        if task == "binary":
            y = graph.node("Sigmoid", y)
        model = graph.model(y).SerializeToString()
        artifact.save(tmp_path / "artifact", tables=tables, model=model, task=task, classes=classes)
        return tmp_path / "artifact"

    return make


@pytest.fixture
def compiler() -> list[str]:
    found = c.compiler()
    if found is None:
        pytest.skip("there is no C compiler here")
    return found


# -- both formats --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["python", "c"])
@pytest.mark.parametrize(
    ("task", "classes"), [("multiclass", EVIL), ("binary", ['y"es\n', "n??/o*/"]), ("regression", [])]
)
def test_every_kind_of_column_and_step_is_held_under_hostile_names(
    form: str, task: str, classes: Any, made: Maker, tmp_path: Path
) -> None:
    if form == "c" and c.compiler() is None:
        pytest.skip("there is no C compiler here")
    proof = proof_of(by_name(form).export(made(task=task, classes=classes), tmp_path / "out"))
    assert proof["rows"] == 1000
    assert proof["largest_difference"] <= 1e-5


@pytest.mark.parametrize("form", ["python", "c"])
def test_an_operator_that_is_not_known_is_refused_by_name(form: str, made: Maker, tmp_path: Path) -> None:
    place = made(task="regression", classes=[], body=lambda graph, w, k: graph.node("Cos", graph.node("Gemm", graph.x, graph.constant(np.zeros((w, 1))))))  # fmt: skip
    with pytest.raises(ArtifactError, match=f"format '{form}' cannot hold this model: its graph has the operator Cos"):
        by_name(form).export(place, tmp_path / "out")


@pytest.mark.parametrize("form", ["python", "c"])
def test_a_model_without_inputs_is_a_constant(form: str, made: Maker, tmp_path: Path) -> None:
    from automl.estimators.trees import constant_rows

    if form == "c" and c.compiler() is None:
        pytest.skip("there is no C compiler here")
    tables = {"schema": [["a", "numeric"]], "encode": []}
    place = made(tables, ["a", "b"], "binary", lambda graph, w, k: constant_rows(graph, graph.x, np.array([0.25])))
    written = by_name(form).export(place, tmp_path / "out")
    if form == "python":
        second = 1 / (1 + math.exp(-0.25))
        assert runpy.run_path(str(written))["predict_proba"]({}) == pytest.approx([1 - second, second])


# -- python --------------------------------------------------------------------------------------------------------------

NUMBERS = [
    None, math.nan, "", " ", "NA", 3, -2.5, True, "1.5", " 7 ", "$1,234.5", "12%", "free", "-1e3", 10**400, np.float32(0.1),
    np.int64(4), "inf", -math.inf,
]  # fmt: skip
DATES = [
    None, "", "NaT", "2021-03-04", "2021-03-04T05:06:07", "2021-03-04 05:06:07.25+02:00", "20210304", "2021-W05-3",
    "04.03.2021", datetime.date(1969, 7, 20), datetime.datetime(2000, 2, 29, 23, 59, 59, 5), 1.5e9, -86400, 1e300,
    np.datetime64("2011-11-11T11:11:11"), np.datetime64("NaT"),
    datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=-5, minutes=-30))),
]  # fmt: skip
LEVELS = [None, "", " \u2003", "None", "nan", 3, 3.0, 0.5, True, False, "u", "v", "zzz", *EVIL]
TEXTS = [None, "", "Hello hello WORLD", "ÄRGER ärger ß", 12, "a_b c-d", "x " * 6000, "\ud800 x"]


def raw_rows(count: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(3)
    plain = [cell for cell in NUMBERS if not isinstance(cell, str) or cell not in ("$1,234.5", "12%", "free")]

    def draw(cells: list[Any]) -> Any:
        return cells[int(rng.integers(len(cells)))]

    rows = []
    for _ in range(count):
        cells: list[Any] = [draw(NUMBERS), draw(plain), draw(plain), *(draw(LEVELS) for _ in range(4))]
        cells += [draw(DATES[:7] + DATES[9:]), draw(DATES), draw(plain), draw(LEVELS)]
        row = dict(zip(NAMES, cells, strict=False))
        row |= {name: draw([0.0, 1, "2.5", None, 1e300]) for name in ("w 0", "w'1", "w 0 ") if rng.random() < 0.7}
        rows.append({**row, "note": draw(TEXTS), "another": object()})
    return rows


def test_the_python_file_reads_every_cell_as_the_runtime_does(made: Maker, tmp_path: Path) -> None:
    written = by_name("python").export(made(TEXT), tmp_path / "model.py")
    found, wanted = runpy.run_path(str(written)), runtime.load(tmp_path / "artifact")
    encode = found["MODEL"].encode
    for row in raw_rows(400):
        assert np.array_equal(encode(row), wanted.encoder.transform_row(row)[0], equal_nan=True)
    assert list(found["CLASSES"]) == EVIL
    assert found["COLUMNS"] == wanted.used


def test_the_python_file_predicts_labels_of_their_own_type(made: Maker, tmp_path: Path) -> None:
    written = by_name("python").export(made(classes=[1, 2.5, True, "x"]), tmp_path / "model.py")
    found, wanted = runpy.run_path(str(written)), runtime.load(tmp_path / "artifact")
    for row in raw_rows(30):
        label = found["predict"](row)
        assert (label, type(label)) == (wanted.predict_one(row), type(wanted.predict_one(row)))


def test_the_python_file_is_ascii_and_parses_as_python_3_9(made: Maker, tmp_path: Path) -> None:
    written = by_name("python").export(made(), tmp_path / "model.py")
    tree = ast.parse(written.read_text("ascii"), feature_version=(3, 9))
    imported = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} <= set(sys.stdlib_module_names)


def test_moments_are_read_alike_where_datetime_reads_fewer_forms() -> None:
    forms = [
        "2021-03-04",
        "2021-03-04T05",
        "2021-03-04T05:06",
        "2021-03-04x05:06:07",
        "2021-03-04T05:06:07.1",
        "2021-03-04T05:06:07,1234567",
        "20210304",
        "20210304T050607",
        "20210304T0506",
        "20210304T05",
        "2021-W05",
        "2021-W05-3",
        "2021W053",
        "2021W05",
        "2021-03-04T05:06Z",
        "2021-03-04T05:06+02",
        "2021-03-04T05:06:07.5-02:30",
        "2021-03-04T05:06+0230",
        "2021-03-04T05:06:07+01:02:03",
    ]
    wrong = [
        "2021",
        "2021-3-4",
        "2021-13-01",
        "2021-02-30",
        "2021-03-04T",
        "2021-03-04T25",
        "2021-03-04T05:6",
        "2021-0304",
        "2021-03-04T05:06X",
        "20210304T05:0607",
        "2021-W60",
        "04.03.2021",
    ]
    for text in forms:
        assert from_iso(text) == datetime.datetime.fromisoformat(text), text
    for text in wrong:
        for read in (from_iso, datetime.datetime.fromisoformat):
            with pytest.raises(ValueError):
                read(text)


def test_the_python_file_predicts_a_csv_on_the_command_line(made: Maker, tmp_path: Path) -> None:
    tables = {
        "schema": [["a", "numeric"], ["b", "categorical"]],
        "encode": [{"as": "number", "column": 0}, {"as": "ordinal", "column": 1, "levels": ["u", "v"]}],
    }
    place = made(tables, ["no", "yés"], "binary", lambda graph, w, k: forest(graph, graph.x, w, k))
    written = by_name("python").export(place, tmp_path / "model.py")
    rows = [{"a": "1.5", "b": "u"}, {"a": "", "b": "w, x"}, {"a": "-3", "b": ""}]

    def run(*arguments: str, table: list[dict[str, str]] = rows) -> subprocess.CompletedProcess[str]:
        text = io.StringIO()
        writer = csv.DictWriter(text, ["b", "c", "a"], restval="")
        writer.writeheader()
        writer.writerows(table)
        command = [sys.executable, "-I", "-S", str(written), *arguments]
        return subprocess.run(
            command, input="\ufeff" + text.getvalue(), capture_output=True, encoding="utf-8", check=False
        )

    model = runtime.load(place)
    done = run()
    assert done.stdout.splitlines() == ["prediction", *(model.predict_one(row) for row in rows)]
    found = np.array([line.split(",") for line in run("--proba").stdout.splitlines()[1:]], np.float64)
    assert found == pytest.approx(model.predict_proba(rows), abs=1e-6)
    wrong = run(table=[rows[0], {"a": "many", "b": "u"}])
    assert (wrong.returncode, wrong.stderr) == (2, "error: row 2: column 'a': 'many' is not a number\n")
    assert "missing column 'b'" in subprocess.run(
        [sys.executable, str(written)], input="a\n1\n", capture_output=True, text=True, check=False
    ).stderr  # fmt: skip


def test_a_model_too_large_for_a_python_file_is_refused_with_its_size(
    made: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(python, "MOST_BYTES", 30_000)
    with pytest.raises(ArtifactError, match=r"its source would be 0\.\d MB, at most 0\.03 MB .*use format 'c', 'onnx'"):
        by_name("python").export(made(), tmp_path / "model.py")
    monkeypatch.setattr(python, "MOST_WORK", 100)
    with pytest.raises(ArtifactError, match=r"a row would take 0\.0 million multiplications"):
        by_name("python").export(made(), tmp_path / "model.py")


@given(st.lists(st.floats(width=32, allow_nan=False)))
def test_float32_numbers_are_written_so_that_they_read_back(values: list[float]) -> None:
    wanted = np.asarray(values, np.float32)
    text = python.literal(wanted)
    assert np.array_equal(np.array(eval(text), np.float64).astype(np.float32), wanted)
    found = [float(literal.rstrip("f").replace("INFINITY", "inf")) for literal in floats(wanted)]
    assert np.array_equal(np.array(found, np.float64).astype(np.float32), wanted)


# -- c -------------------------------------------------------------------------------------------------------------------


def test_the_c_source_says_the_labels_and_takes_no_warning(made: Maker, tmp_path: Path, compiler: list[str]) -> None:
    written = by_name("c").export(made(), tmp_path / "out")
    (written / "labels.c").write_text(
        '#include "model.h"\n#include <stdio.h>\nint main(void) {\n    int i;\n'
        "    for (i = 0; i < MODEL_OUTPUTS; i++) {\n        puts(model_labels[i]);\n        putchar(1);\n    }\n    return 0;\n}\n"
    )
    command = [*compiler, *c.FLAGS, "model.c", "labels.c", "-o", "labels", "-lm"]
    subprocess.run(command, cwd=written, check=True)
    said = subprocess.run([str(written / "labels")], capture_output=True, check=True).stdout
    assert said == b"".join(label.encode("utf-8", "surrogatepass") + b"\n\x01" for label in EVIL)


def test_the_c_source_reads_every_cell_as_the_runtime_does(made: Maker, tmp_path: Path, compiler: list[str]) -> None:
    place = made()
    model = runtime.load(place)
    found = source_files(model.manifest, (place / "model.onnx").read_bytes())
    rows = raw_rows(400)
    columns = {name: [row.get(name) for row in rows] for name in model.used}
    wanted = np.stack([model.predict_proba_one(row) for row in rows]).astype(np.float64)
    test = c.Vectors(model.encoder, found.kinds, columns, wanted)
    for name, content in {**found.files, "vectors.txt": test.text(len(rows))}.items():
        (tmp_path / name).write_bytes(content)
    assert c.run(c.build(compiler, tmp_path), tmp_path / "vectors.txt", test) == pytest.approx(wanted, abs=1e-6)


def test_the_test_program_finds_a_wrong_number(made: Maker, tmp_path: Path, compiler: list[str]) -> None:
    written = by_name("c").export(made(task="regression", classes=[]), tmp_path / "out")
    program = c.build(compiler, written)
    vectors = written / "test_vectors.txt"
    done = subprocess.run([str(program), str(vectors)], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "1000 rows, largest difference" in done.stderr
    first = re.search(r"^= (.*)$", vectors.read_text(), re.MULTILINE)
    assert first is not None
    vectors.write_text(vectors.read_text().replace(first[1], str(float(first[1]) + 0.01), 1))
    assert subprocess.run([str(program), str(vectors)], capture_output=True, check=False).returncode == 1


def test_what_c_cannot_hold_is_refused_with_the_reason(made: Maker, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"column 'note' is text, whose words .* use format 'python'"):
        by_name("c").export(made(TEXT), tmp_path / "out")
    with pytest.raises(ArtifactError, match=r"class label 'a\\x00b' has a NUL"):
        by_name("c").export(made(classes=["a\0b", "c", "d"]), tmp_path / "out")
    nul = {"schema": [["a", "categorical"]], "encode": [{"as": "ordinal", "column": 0, "levels": ["u\0"]}]}
    with pytest.raises(ArtifactError, match=r"column 'a': level 'u\\x00' has a NUL"):
        by_name("c").export(
            made(nul, [], "regression", lambda graph, w, k: forest(graph, graph.x, w, k)), tmp_path / "out"
        )
    assert [p.name for p in tmp_path.iterdir()] == ["artifact"]


def test_a_source_too_large_or_deep_is_refused_with_its_size(
    made: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(c, "MOST_STACK", 100)
    with pytest.raises(ArtifactError, match="kB of stack for a row"):
        by_name("c").export(made(), tmp_path / "out")
    monkeypatch.setattr(c, "MOST_BYTES", 1000)
    with pytest.raises(ArtifactError, match="MB of source, at most"):
        by_name("c").export(made(), tmp_path / "out")


def test_where_there_is_no_compiler_the_record_says_that_nothing_ran(
    made: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(c, "compiler", lambda: None)
    written = by_name("c").export(made(), tmp_path / "out")
    said = json.loads((written / "record.json").read_text())["export"]
    assert said["rows"] == 0
    assert said["note"].startswith("not run: no C compiler")


def test_a_compiler_that_refuses_the_source_refuses_the_export(
    made: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(c, "compiler", lambda: ["false"])
    with pytest.raises(ArtifactError, match="false does not take its source"):
        by_name("c").export(made(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@given(st.lists(st.text(max_size=60), max_size=30, unique=True))
def test_identifiers_are_distinct_and_no_words_of_c(names: list[str]) -> None:
    found = identifiers(names)
    assert len(set(found)) == len(names)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]{0,50}", name) and name not in RESERVED for name in found)


@given(st.text())
@settings(max_examples=200)
def test_no_text_leaves_its_literal_or_comment(text: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9 .,:;=+<>()\[\]{}%$&@!^~|'\"_-]*", comment(text))
    for where in (Strings()(text), Strings()(text + "x" * 5000)):
        if where.startswith('"'):
            body = where[1:-1]
            assert re.fullmatch(r"(?:[ !#-&(->@-\[\]-~]|\\[0-7]{3})*", body)
            data = re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), body.encode("ascii"))
            assert data.decode("utf-8", "surrogatepass") == text


def test_a_text_longer_than_a_literal_may_be_is_an_array() -> None:
    strings = Strings()
    assert strings("ü" * 3000) == "text_0"
    assert strings.definitions[0].count("'\\303'") == 3000
    assert max(map(len, strings.definitions[0].splitlines())) <= 120
    assert array("int a", ["1", "2"]) == "static const int a[] = {\n    1, 2};\n"
