"""A CSV or Parquet file in chunks of rows, in constant memory, its cells exactly as `dataset.read_frame` reads them.

pandas takes a CSV column's type from all of its cells: "01" is a number where every other cell is one, and text where one is
not. So a file of more than one chunk is read twice, first for the types. Where the types of the chunks do not settle that of
the whole (whole numbers beyond 64 bits), that one column is kept as a whole if a model uses it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from automl.estimators.errors import DataError, DataTypeError
from automl.estimators.runtime import CellError, shown

from .dataset import (
    RaggedError,
    Texts,
    as_levels,
    check_header,
    csv_options,
    open_parquet,
    parse,
    parsing,
    refuse_wrong,
)
from .dialect import Dialect, looks_even, sniff
from .source import Source, open_source

if TYPE_CHECKING:
    import pandas as pd

    from automl.estimators import runtime

CELLS = 1_000_000
MOST_ROWS, LEAST_ROWS = 50_000, 64


class Chunks:
    """An opened file: iterating gives its chunks in order, as often as asked.

    `first` is the number of the first row of data where the header, if there is one, is row 1; `text` are those of the
    `columns` that may hold anything but numbers; `notes` say how the file was read.
    """

    name: str
    first = 1
    columns: list[str]
    text: frozenset[str]
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[pd.DataFrame]:
        raise NotImplementedError


@contextmanager
def open_chunks(
    path: str | os.PathLike[str],
    used: Sequence[str] = (),
    *,
    texts: Texts | None = None,
    sep: str | None = None,
    decimal: str | None = None,
    encoding: str | None = None,
    rows: int | None = None,
) -> Iterator[Chunks]:
    """The file ("-": standard input) in chunks of about CELLS cells, or of `rows` rows; of Parquet only the columns `used`.

    `texts` are the columns of a CSV that are read as text whatever their cells look like: those of `text_columns`. Raises what
    `read_frame` raises, before the first chunk: a CSV has been read to its end by then; and DataError where it is not sure that
    the first cells are row names, since the columns would be other ones than in training.
    """
    with open_source(path, encoding) as source:
        yield (
            _Parquet(source, used, rows)
            if source.kind == "parquet"
            else _Csv(source, dialect_of(source, sep, decimal), used, texts or {}, rows)
        )


def text_columns(*encoders: runtime.RowEncoder) -> dict[str, set[str]]:
    """The columns that models take as text or as categories, with the levels that they know of them, and those of numbers whose
    text means another number than pandas would read ("1.234" where a point stands between thousands), with none.
    """
    found: dict[str, set[str]] = {}
    for encoder in encoders:
        for entry in encoder.entries:
            parse = entry.entry.get("parse") or {}
            if entry.parsed in ("category", "hashed", "text"):
                found.setdefault(entry.name, set()).update(getattr(entry, "codes", ()))
            elif entry.parsed == "number" and (parse.get("thousands") or parse.get("decimal", ".") != "."):
                found.setdefault(entry.name, set())
    return found


def check_cells(model: runtime.Model, chunks: Chunks) -> None:
    """Raises DataError for a column that is missing or a cell that does not read, before anything is written."""
    import pandas as pd

    try:
        model.predict(pd.DataFrame(columns=chunks.columns))
    except (DataError, DataTypeError) as error:
        raise type(error)(f"{chunks.name}: {error}") from None
    entries = [e for e in model.encoder.entries if e.parsed in ("number", "date") and e.name in chunks.text]
    row = chunks.first
    for frame in chunks if entries else ():
        for entry in entries:
            try:
                entry.parse(frame[entry.name])
            except CellError as error:
                where = f"{chunks.name}, row {row + error.row}" + (
                    " (the header is row 1)" if chunks.first == 2 else ""
                )
                raise DataError(f"{where}, column {shown(entry.name)}: {error}") from None
        row += len(frame)


def dialect_of(source: Source, sep: str | None, decimal: str | None) -> Dialect:
    found = sniff(source.rewind(), source.name, sep, decimal)
    check_header(source.name, found)
    if found.doubt:
        raise DataError(
            f"{found.doubt}: write the file with another separator, such as semicolons (--sep), or quote such cells; where the "
            "first cell of a row is its name, name that column in the header, or say --decimal ."
        )
    return found


def _chunk_rows(columns: int, rows: int | None) -> int:
    return rows or max(LEAST_ROWS, min(MOST_ROWS, CELLS // max(1, columns)))


_NUMBERS: tuple[set[str], ...] = (set(), {"int64"}, {"float64"}, {"int64", "float64"}, {"uint64"}, {"bool"})
"""The kinds of chunks that make a column of numbers."""


class _Csv(Chunks):
    first = 2

    def __init__(self, source: Source, dialect: Dialect, used: Sequence[str], texts: Texts, rows: int | None) -> None:
        self.name, self._source, self._dialect, self._texts = source.name, source, dialect, texts
        self.notes, self._used = (*source.notes, *dialect.notes), frozenset(used)
        self._rows = _chunk_rows(self._dialect.fields, rows)
        self._types: dict[str, Any] = dict.fromkeys(texts, str)
        self._whole: dict[str, Any] = {}
        self._only: pd.DataFrame | None = None
        self.columns = self._look()

    def _look(self) -> list[str]:
        """Reads the whole file once: the columns' names, and the type of each. Raises DataError for a wrong record."""
        kinds: dict[str, set[str]] = {}
        total, short, chunk = 0, False, None
        try:
            for chunk in self._read():
                total += len(chunk)
                short = short or (len(chunk.columns) > 1 and bool(chunk.iloc[:, -1].isna().any()))
                for name in chunk.columns:
                    kinds.setdefault(name, set()).add(_kind(chunk[name]))
            if short and not looks_even(self._source.rewind(), self._dialect, total + 1):
                refuse_wrong(self._source, self._dialect, skippable=False)
        except RaggedError as ragged:
            refuse_wrong(self._source, self._dialect, skippable=False)
            raise DataError(f"{self.name} cannot be read as CSV: {ragged}") from None
        if not total or chunk is None:
            raise DataError(f"{self.name} has a header and no rows")
        self.text = frozenset(name for name, found in kinds.items() if found - {"empty"} not in _NUMBERS)
        if total <= self._rows:
            self._only = chunk
        else:
            self._settle(kinds)
        return list(kinds)

    def _settle(self, kinds: dict[str, set[str]]) -> None:
        """Finds the types with which every chunk has what the whole would have; the rest are kept as the whole has them."""
        beyond = []
        for name, found in kinds.items():
            known = found - {"empty"}
            if known & {"uint64", "bigint"} and found != {"uint64"}:
                if not self._used or name in self._used:
                    beyond.append(name)
            elif (known == {"int64"} and "empty" in found) or known == {"int64", "float64"}:
                self._types[name] = "float64"
            elif len(known) > 1 and known != {"bool", "bools"}:  # numbers here and booleans there are text as well
                self._types[name] = str
        if beyond:
            whole = parse(self._source.rewind(), self.name, self._dialect, {}, beyond)
            self._whole = {name: whole[name] for name in beyond}

    def _read(self) -> Iterator[pd.DataFrame]:
        import pandas as pd

        with parsing(self.name, self._dialect):
            reader: Any = pd.read_csv(
                self._source.rewind(),
                chunksize=self._rows,
                dtype=self._types or None,
                **csv_options(self._dialect, self._texts),
            )
        while True:
            with parsing(self.name, self._dialect):
                chunk = next(reader, None)
            if chunk is None:
                return
            chunk = chunk.reset_index(drop=True)
            as_levels(chunk, self._texts, self._dialect.decimal)
            yield chunk

    def __iter__(self) -> Iterator[pd.DataFrame]:
        if self._only is not None:
            yield self._only
            return
        start = 0
        for frame in self._read():
            for name, column in self._whole.items():
                frame[name] = column.iloc[start : start + len(frame)].reset_index(drop=True)
            start += len(frame)
            yield frame


def _kind(column: Any) -> str:
    """What pandas made of a chunk's cells: empty, int64, uint64, bigint, float64, bool, bools (some are missing), text."""
    kind = column.dtype.kind
    if kind in "iu":
        return "int64" if kind == "i" else "uint64"
    if kind == "b":
        return "bool"
    known = column.notna()
    if not known.any():
        return "empty"
    if kind == "f":
        return "float64"
    first = type(column[known].iloc[0])
    return "bigint" if first is int else "bools" if first.__name__ in ("bool", "bool_") else "text"


class _Parquet(Chunks):
    def __init__(self, source: Source, used: Sequence[str], rows: int | None) -> None:
        self.name, self.notes = source.name, tuple(source.notes)
        self._opened = open_parquet(source)
        self.columns = self._opened.names
        wanted = set(used)
        self._read = [name for name in self.columns if name in wanted] or self.columns
        self._rows = _chunk_rows(len(self._read), rows)
        self.text = frozenset(self._read) - set(self._opened.numbers())
        self._floats = self._opened.whole_numbers_with_missing(self._read)

    def __iter__(self) -> Iterator[pd.DataFrame]:
        for frame in self._opened.batches(self._read, self._rows):
            # a column of whole numbers with a missing one anywhere is one of floats everywhere
            yield frame.astype({name: "float64" for name in self._floats if name in frame.columns})
