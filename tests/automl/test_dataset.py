"""Files to tables: dialects, encodings, compressions, Parquet; and what each kind of broken file is told."""

from __future__ import annotations

import bz2
import csv
import datetime
import gzip
import io
import json
import lzma
import os
import random
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings

from automl.dataset import as_levels, read_frame, read_table
from automl.estimators.errors import AutoMLError, DataError, ResourceError, UsageError
from automl.estimators.table import Table

HEADER = "a,b,c,t\n"
CHOICE = random.Random(0)
ROWS = "".join(f"{i % 7},{CHOICE.choice('pq')},{i * 0.5},{CHOICE.choice(['yes', 'no'])}\n" for i in range(40))
TEXT = HEADER + ROWS


@pytest.fixture
def put(tmp_path: Path) -> Any:
    """Writes bytes or text to a file and gives its path."""

    def write(content: bytes | str, name: str = "table.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.fixture
def plain(put: Any) -> Table:
    return read_table(put(TEXT, "plain.csv"), "t")


def same(table: Table, plain: Table) -> bool:
    return table.fingerprint() == plain.fingerprint()


# --- what loads ---


def test_a_text_is_a_known_level_only_where_all_of_them_are_numbers() -> None:
    def read(cells: list[str | None], known: set[str], decimal: str = ".") -> list[Any]:
        frame = pd.DataFrame({"c": pd.Series(cells, dtype=object)})
        as_levels(frame, {"c": known, "absent": {"1"}}, decimal)
        return [None if cell != cell else cell for cell in frame["c"]]

    assert read(["007", "8.0", None, "x"], {"7", "8"}) == ["7", "8", None, "x"]
    assert read(["007", "8.0"], {"7", "8", "A12"}) == ["007", "8.0"]
    assert read(["true", "FALSE"], {"True", "False"}) == ["True", "False"]
    assert read(["0,5", "1,5"], {"0.5", "1.5"}, ",") == ["0.5", "1.5"]
    assert read(["1", "2"], set()) == ["1", "2"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (TEXT.encode("utf-8-sig"), "byte-order mark"),
        (TEXT.encode("utf-16"), "utf-16"),
        (b"\xfe\xff" + TEXT.encode("utf-16-be"), "utf-16"),
        (TEXT.encode("utf-32"), "utf-32"),
        (TEXT.replace(",", ";").encode(), "semicolons"),
        (TEXT.replace(",", "\t").encode(), "tabs"),
        (TEXT.replace(",", "|").encode(), "'|'"),
        (TEXT.replace(",", " ").encode(), "blanks"),
        (TEXT.replace(",", ";").replace(".", ",").encode(), "decimal commas"),
        (TEXT.replace(",", ", ").encode(), ""),
        (TEXT.replace("\n", "\r\n").encode(), ""),
        (TEXT.replace("\n", "\r").encode(), ""),
        (TEXT.replace("\n", ",\n").replace("t,\n", "t\n", 1).encode(), ""),
        (("\n \n" + HEADER + "\n" + ROWS + "\n\n").encode(), ""),
        (TEXT.rstrip().encode(), ""),
        ("".join(",".join(f'"{c}"' for c in line.split(",")) + "\n" for line in TEXT.splitlines()).encode(), ""),
        (HEADER.encode() + "".join(f"r{i},{line}\n" for i, line in enumerate(ROWS.splitlines())).encode(), "row names"),
        (gzip.compress(TEXT.encode()), "gzip"),
        (bz2.compress(TEXT.encode()), "bzip2"),
        (lzma.compress(TEXT.encode()), "xz"),
        (gzip.compress(gzip.compress(TEXT.encode())), "gzip"),
    ],
)
def test_every_way_to_write_a_table_reads_alike(put: Any, plain: Table, content: bytes, said: str) -> None:
    table = read_table(put(content), "t")
    assert same(table, plain)
    assert said in " ".join(table.notes)


def test_row_names_that_may_be_decimal_commas_are_said_to_be(put: Any) -> None:
    rows = "".join(f"{i},{i % 9 + 1},{i % 7}.5,{'ab'[i % 2]}\n" for i in range(40))
    notes = " ".join(read_table(put("price,size,t\n" + rows), "t").notes)
    assert "may have decimal commas without quotes (the first: '0,1,0.5,a')" in notes
    assert "taken for row names" in notes
    notes = " ".join(read_table(put("price,size,t\n" + rows), "t", decimal=".").notes)
    assert "decimal comma" not in notes


def test_zip_of_one_member_by_its_first_bytes(put: Any, plain: Table) -> None:
    def packed(*names: str) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name in names:
                archive.writestr(name, TEXT)
        return buffer.getvalue()

    assert same(read_table(put(packed("inside.csv", "__MACOSX/._inside.csv")), "t"), plain)
    with pytest.raises(DataError, match="zip of 2 files"):
        read_table(put(packed("a.csv", "b.csv")), "t")
    with pytest.raises(DataError, match="Excel"):
        read_table(put(packed("[Content_Types].xml", "x.xml")), "t")


def test_zstd(put: Any, plain: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    zstandard = pytest.importorskip("zstandard")
    path = put(zstandard.compress(TEXT.encode()))
    assert same(read_table(path, "t"), plain)
    with pytest.raises(DataError, match="damaged zstd"):
        read_table(put(zstandard.compress(TEXT.encode())[:40] + b"\xff" * 40, "bad.csv"), "t")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ResourceError, match=r'pip install "automl-frontier\[zst\]"'):
        read_table(path, "t")


def test_parquet_by_its_first_bytes(put: Any, plain: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "frame.csv"
    frame = read_frame(put(TEXT))
    frame.index = pd.Index(range(5, 45))
    frame.iloc[::-1].to_parquet(path)
    table = read_table(path, "t")
    assert table.inputs == plain.inputs
    assert table.data[0].tolist() == plain.data[0].tolist()[::-1]
    assert list(read_frame(path).columns) == ["a", "b", "c", "t"]
    with pytest.raises(DataError, match="Parquet"):
        read_table(put(path.read_bytes()[:-30], "cut.parquet"), "t")
    with pytest.raises(UsageError, match="'T'"):
        read_table(path, "T")
    frame.iloc[:0].to_parquet(tmp_path / "empty.parquet")
    with pytest.raises(DataError, match="no rows"):
        read_table(tmp_path / "empty.parquet", "t")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ResourceError, match=r'pip install "automl-frontier\[parquet\]"'):
        read_table(path, "t")


def test_cp1252_is_a_guess_that_is_said_and_encoding_overrides(put: Any) -> None:
    path = put(TEXT.replace(",p,", ",café – “fin”,").encode("cp1252"))
    table = read_table(path, "t")
    assert table.columns[1].levels == ("café – “fin”", "q")
    assert "cp1252" in " ".join(table.notes)
    assert read_table(path, "t", encoding="latin-1").columns[1].levels != table.columns[1].levels
    with pytest.raises(UsageError, match="klingon"):
        read_table(path, "t", encoding="klingon")
    with pytest.raises(DataError, match=r"line \d+, byte offset"):
        read_table(path, "t", encoding="utf-8")


def test_options_override_what_is_found(put: Any) -> None:
    path = put(TEXT.replace(",", ";").replace(".", ","))
    assert read_table(path, "t", sep=";", decimal=",").data[2][1] == 0.5
    assert read_table(put(TEXT.replace(",", "\t")), "t", sep="tab").inputs == ("a", "b", "c")
    for wrong in ({"sep": "ab"}, {"sep": "x"}, {"decimal": ",", "sep": ","}, {"bad_rows": "drop"}, {"infinite": "no"}):
        with pytest.raises(UsageError):
            read_table(path, "t", **wrong)  # type: ignore[arg-type]


def test_thousands_and_currency_in_quotes(put: Any) -> None:
    rows = "".join(f'{i % 5},"${i + 1},{i:03d}.50",{CHOICE.choice("uv")}\n' for i in range(40))
    table = read_table(put("a,b,t\n" + rows), "t")
    assert dict(table.columns[1].parse) == {"currency": "$", "thousands": ",", "decimal": "."}
    assert table.data[1][2] == 3002.5


def test_names_are_only_names(put: Any) -> None:
    names = ["x" * 10_000, "😀", "__class__", "../x", "<script>", "", "=1+1", "line\nbreak"]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*names, "t"])
    for i in range(30):
        writer.writerow([CHOICE.random() for _ in names] + ["uv"[i % 2]])
    table = read_table(put(buffer.getvalue()), "t")
    assert table.inputs == tuple(n or "Unnamed: 5" for n in names)


def test_weights_and_dropped_columns(put: Any) -> None:
    table = read_table(put(TEXT), "t", weights="c", apart=["b"])
    assert [c.name for c in table.columns] == ["a"]
    assert table.rows == 39  # the first row has the weight 0
    for wrong in ({"weights": "w"}, {"apart": ["w"]}, {"weights": "t"}, {"apart": ["t"]}):
        with pytest.raises(UsageError):
            read_table(put(TEXT), "t", **wrong)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="'b' is not numeric"):
        read_table(put(TEXT), "t", weights="b")


def test_whole_labels_stay_whole_beside_missing_ones(put: Any) -> None:
    rows = "".join(f"{CHOICE.random()},{['1', '2', ''][i % 3]}\n" for i in range(60))
    table = read_table(put("x,t\n" + rows), "t")
    assert table.task.classes == (1, 2)
    assert all(isinstance(c, int) for c in table.task.classes)
    assert any("20 of 60 rows have no target" in n for n in table.notes)


def test_standard_input_and_pipes(monkeypatch: pytest.MonkeyPatch, plain: Table, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    assert same(read_table("-", "t"), plain)
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text(TEXT))
    writer.start()
    assert same(read_table(pipe, "t"), plain)
    writer.join()
    with pytest.raises(DataError, match="nobody writes"):
        read_table(pipe, "t")


# --- what does not ---


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n \n\t\n", "only blanks"),
        (HEADER, "no rows"),
        ("a,b,t", "no rows"),
        (HEADER + ROWS + "1,2,3,yes,5\n" + ROWS, "line 42: 5 fields where the header has 4"),
        (HEADER + "1,2,3,yes,5\n" + ROWS, "line 2: 5 fields"),
        (HEADER + ROWS + "1,2,3\n" + ROWS, "line 42: 3 fields where the header has 4"),
        (HEADER + '1,"two\nlines",3,yes\n' + ROWS + "1,2\n", "line 44: 2 fields"),
        (HEADER + '1,5" nail,3,yes\n' + ROWS + "1,2,3\n", "line 43: 3 fields"),
        (HEADER + ROWS + '1,"abc,3,yes\n' + ROWS, "line 42: a quote is opened and never closed"),
        ("a,b,a,t\n" + ROWS, "line 1: the column name 'a' stands twice"),
        ((TEXT + "1,\0,2,yes\n").encode(), "line 42, byte offset 491: a NUL byte"),
        (TEXT.encode() + b"1,\xff,2,yes\n", "line 42, byte offset 491: the byte 0xFF is not valid UTF-8"),
        (TEXT.encode() + b"1,\xc3\x28,2,yes\n", "line 42, byte offset"),
        ((TEXT + "1,é,2,yes\n").encode() + b"1,caf\xe9,2,yes\n", "line 43, byte offset"),
        (TEXT.encode("utf-16")[:-1], "utf-16"),
        (gzip.compress(TEXT.encode())[:-30], "damaged gzip"),
        (b"\x1f\x8b" + b"x" * 50, "damaged gzip"),
        (b"BZh9" + b"x" * 50, "damaged bzip2"),
        (b"\xfd7zXZ\x00" + b"x" * 50, "damaged xz"),
        (b"PK\x03\x04" + b"x" * 50, "damaged zip"),
        (b"SQLite format 3\0" + b"x" * 50, "SQLite"),
        (bytes(range(256)) * 4, "byte offset"),
        (HEADER + ROWS.replace("no\n", "yes\n"), "only one class"),
        (HEADER + ROWS.replace("no\n", "\n").replace("yes\n", "\n"), "no value in any"),
        (TEXT + "1,p,inf,yes\n", "column 'c' holds an infinite value .* in row 42"),
        (TEXT + "1,p,1e999,yes\n", "column 'c'"),
        ("t\nyes\nno\n", "no column beside the target"),
    ],
)
def test_broken_content_is_said_with_its_place(put: Any, content: bytes | str, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        read_table(put(content), "t")
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


def test_bad_rows_are_skipped_and_counted(put: Any, plain: Table) -> None:
    bad = HEADER + "1,2,3,yes,5\n" + ROWS + '1,2\n"open,yes\n'
    table = read_table(put(bad), "t", bad_rows="skip")
    assert same(table, plain)
    assert any("3 rows of" in n and "line 2)" in n for n in table.notes)


def test_missing_cells_in_the_last_column_are_not_short_rows(put: Any) -> None:
    content = HEADER + ROWS + '1,"p, q",3,\n\n  \n' + '2,"a\n""b""",3,\n' + ROWS
    table = read_table(put(content), "t")
    assert table.rows == 80
    assert any("2 of 82 rows have no target" in n for n in table.notes)


@pytest.mark.parametrize(("target", "said"), [("T", "did you mean 't'"), ("zzz", "it has 'a', 'b', 'c', 't'")])
def test_a_target_that_is_not_there(put: Any, target: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_table(put(TEXT), target)


def test_paths_that_are_no_file(tmp_path: Path, put: Any) -> None:
    put(TEXT, "train.csv")
    for path, said in (
        ("trian.csv", "did you mean .*train.csv"),
        ("no/such/file.csv", "no such file"),
        (".", "folder"),
        ("a\0b", "cannot be opened"),
    ):
        with pytest.raises(UsageError, match=said):
            read_table(tmp_path / path, "t")
    if os.path.exists("/dev/zero"):
        with pytest.raises(UsageError, match="device"):
            read_table("/dev/zero", "t")


def test_long_cells_and_wide_tables(put: Any) -> None:
    table = read_table(put(TEXT + "1," + "x" * 1_000_000 + ",2,yes\n"), "t")
    assert table.rows == 41
    names = ",".join(f"c{i}" for i in range(5000))
    rows = "\n".join(",".join(str(CHOICE.randint(0, 9)) for _ in range(5000)) + "," + "uv"[i % 2] for i in range(20))
    assert len(read_table(put(names + ",t\n" + rows), "t").inputs) == 5000


cells = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), max_size=6)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**60), 2**60), cells),
        min_size=10,
        max_size=30,
    )
)
def test_a_written_frame_reads_back(tmp_path_factory: Any, rows: list[tuple[float, int, str]]) -> None:
    frame = pd.DataFrame(rows, columns=["f", "i", "s"])
    frame["t"] = ["u", "v"] * (len(rows) // 2) + ["u"] * (len(rows) % 2)
    path = tmp_path_factory.mktemp("round") / "frame.csv"
    frame.to_csv(path, index=False)
    found = read_frame(path, sep=",")
    np.testing.assert_allclose(found["f"].to_numpy(float), frame["f"].to_numpy(float), rtol=1e-15)
    assert found["i"].tolist() == frame["i"].tolist()
    assert len(found) == len(frame)
    try:
        assert read_table(path, "t", sep=",").rows == len(rows)
    except DataError as error:
        assert "no input column" in str(error) or "infinite" in str(error)  # noqa: PT017 - the message is the property


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_mutated_files_load_or_are_refused(tmp_path_factory: Any, data: Any) -> None:
    content = bytearray(
        data.draw(
            st.sampled_from([TEXT.encode(), TEXT.replace(",", ";").encode("utf-16"), gzip.compress(TEXT.encode())])
        )
    )
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(content) - 1))
        piece = data.draw(
            st.sampled_from(
                [
                    b"",
                    b'"',
                    b"\n",
                    b"\r",
                    b",",
                    b"\0",
                    b"\xff",
                    b"\xc3\xa9",
                    b";",
                    b" ",
                    b"1e999",
                    b"-",
                    b"\xef\xbb\xbf",
                    b"'",
                    b"\t",
                ]
            )
        )
        content[place : place + data.draw(st.integers(0, 2))] = piece
        if not content:
            break
    path = tmp_path_factory.mktemp("fuzz") / "table.csv"
    path.write_bytes(bytes(content))
    for bad_rows in ("error", "skip"):
        try:
            read_table(path, "t", bad_rows=bad_rows)
        except AutoMLError as error:
            assert error.exit_code in (2, 3)  # noqa: PT017 - any refusal of ours is right


# --- the public sets ---

SETS = [
    "credit_g",
    "mammography",
    "adult",
    "open_payments",
    "weather_aus",
    "fremtpl2_claim",
    "cnae9",
    "mnist_10k",
    "letter",
    "covertype_93k",
]
SETS += ["house_prices", "hotel_rates", "california_housing", "diamonds"]


@pytest.mark.parametrize("name", SETS)
def test_public_sets(shared_data: Path, name: str) -> None:
    facts = {s["name"]: s for s in json.loads((shared_data / "datasets.json").read_text())}[name]
    if facts["file"].endswith(".parquet"):
        pytest.importorskip("pyarrow")
    table = read_table(shared_data / facts["file"], facts["target"])
    assert (table.task.kind, table.rows, len(table.inputs)) == (facts["task"], facts["rows"], facts["columns"])
    kinds = [c.kind for c in table.columns]
    dates = {"weather_aus": ["Date"], "hotel_rates": ["arrival_date"]}
    assert [c.name for c in table.columns if c.kind == "date"] == dates.get(name, [])
    assert "text" not in kinds
    if name == "open_payments":
        assert sorted(len(c.levels) for c in table.columns) == [2, 513, 1466, 2262, 4372]
    if name == "mnist_10k":
        assert table.task.classes == tuple(range(10))
        assert any("116 columns" in n and "constant" in n for n in table.notes)


def test_codes_with_leading_zeros_are_no_numbers(put: Any) -> None:
    rows = [f"{i % 7:05d},{i % 12 + 1:02d},{i:04d}.5,{i % 2}" for i in range(40)]
    table = read_table(put("\n".join(["zip,month,reading,t", *rows])), "t")
    assert {c.name: c.kind for c in table.columns} == {"zip": "categorical", "month": "numeric", "reading": "numeric"}
    assert [note for note in table.notes if "leading zeros" in note] == [
        "codes with leading zeros are texts, not numbers: 'zip'."
    ]
    assert "00003" in next(c for c in table.columns if c.name == "zip").levels


def test_weights_written_with_leading_zeros_are_numbers_and_a_missing_code_is_no_other_kind(put: Any) -> None:
    rows = [f"{'NA' if i == 5 else f'{i % 7:05d}'},{i % 9 + 1:03d},{i % 2}" for i in range(40)]
    table = read_table(put("\n".join(["zip,w,t", *rows])), "t", weights="w")
    assert [(c.name, c.kind) for c in table.columns] == [("zip", "categorical")]
    assert table.weights is not None


@pytest.mark.parametrize("odd", ["0000-00-00", "unknown"])
@pytest.mark.parametrize("form", ["%Y-%m-%d", "%d.%m.%Y"])
def test_dates_beside_a_cell_that_is_none_are_warned_of(put: Any, odd: str, form: str) -> None:
    days = [datetime.date(2024, 1, 1) + datetime.timedelta(days=i) for i in range(60)]
    cells = [odd if i == 9 else day.strftime(form) for i, day in enumerate(days)]
    table = read_table(put("\n".join(["d,x,t", *(f"{cell},{i * i},{i % 2}" for i, cell in enumerate(cells))])), "t")
    (note,) = [note for note in table.notes if "mixes" in note]
    assert note == f"column 'd' mixes dates and other text (first odd cell: {odd!r}, row 11): it is not read as dates."


def test_levels_and_labels_that_differ_in_blanks_alone_are_warned_of(put: Any) -> None:
    rows = ["a ,yes", "a,yes ", *(f"{'ab'[i % 2]},{('yes', 'no')[i % 3 == 0]}" for i in range(40))]
    notes = read_table(put("\n".join(["c,t", *rows])), "t").notes
    assert any("'c' has the levels 'a ' and 'a', which differ in blanks alone" in note for note in notes)
    assert any("the target 't' has the labels 'yes' and 'yes ', which differ in blanks alone" in note for note in notes)
