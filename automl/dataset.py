"""Tables from files: CSV of any separator, encoding and compression, and Parquet."""

from __future__ import annotations

import difflib
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from automl.estimators.errors import AutoMLError, DataError, ResourceError, UsageError
from automl.estimators.runtime import NA_STRINGS, level_of, shown

from .dialect import Dialect, looks_even, sniff, wrong_records
from .source import IN_MEMORY, Source, open_source

if TYPE_CHECKING:
    import pandas as pd

    from automl.estimators.table import Table

Texts = Mapping[str, Collection[str]]
"""Columns of a CSV whose cells are taken as they are written, and the levels that each is known to have."""

_INDEX_LEVEL = re.compile(r"__index_level_\d+__")


def read_table(
    path: str | os.PathLike[str],
    target: str,
    *,
    task: str | None = None,
    sep: str | None = None,
    decimal: str | None = None,
    encoding: str | None = None,
    bad_rows: str = "error",
    infinite: str = "error",
    weights: str | None = None,
    apart: Sequence[str] = (),
) -> Table:
    """The table in a CSV or Parquet file ("-": standard input), its `target` column as y.

    `sep`, `decimal` and `encoding` override what is found; `bad_rows` is "error" or "skip" (counted in the notes),
    `infinite` "error" or "missing"; `weights` names a column of sample weights, `apart` those of groups, which are no inputs.
    Raises UsageError for a missing file or column, DataError for the content, ResourceError for a missing package.
    """
    from automl.estimators.inputs import Inputs
    from automl.estimators.table import from_frame

    columns, notes, hint = _read(path, sep, decimal, encoding, bad_rows, None, {target, weights, *apart})
    with columns:
        for name, role in ((target, "target"), (weights, "weights"), *((d, "groups") for d in apart)):
            if name is not None:
                _require(columns.names, name, role, path)
        if target == weights or target in apart:
            raise UsageError(f"column {shown(target)} is the target: it cannot be the weights or the groups as well")
        others = {target, weights, *apart}
        names = [name for name in columns.names if name not in others]
        if not names:
            raise DataError(f"{path} has no column beside the target {shown(target)}: at least one input is needed")

        def read(place: int, kept: NDArray[np.int64] | None) -> Any:
            column = columns.read(names[place])
            return column if kept is None else column.iloc[kept]

        table = from_frame(
            Inputs(columns.rows, names, read, True),
            _whole(columns.read(target)),
            task=task,
            weights=None if weights is None else row_weights(columns.read(weights), weights),
            infinite=infinite,
            target=target,
            source=str(path),
            decimal=hint,
            first_row=2,
        )
    table.notes = (*notes, *table.notes)
    return table


def read_frame(
    path: str | os.PathLike[str],
    *,
    sep: str | None = None,
    decimal: str | None = None,
    encoding: str | None = None,
    bad_rows: str = "error",
) -> pd.DataFrame:
    """The file as a pandas DataFrame, read by the same rules as `read_table`, but that codes with leading zeros are numbers."""
    return read_known(path, {}, sep=sep, decimal=decimal, encoding=encoding, bad_rows=bad_rows)[0]


def read_known(
    path: str | os.PathLike[str],
    texts: Texts,
    *,
    sep: str | None = None,
    decimal: str | None = None,
    encoding: str | None = None,
    bad_rows: str = "error",
) -> tuple[pd.DataFrame, str | None]:
    """(the file as `read_frame`, but `texts` as in `as_levels`; the decimal character that its texts are read with, if it is known)."""
    columns, _, hint = _read(path, sep, decimal, encoding, bad_rows, texts)
    with columns:
        frame: pd.DataFrame = columns.frame()
        return frame, hint


def _require(columns: Any, name: str, role: str, path: Any) -> None:
    if name in columns:
        return
    lower = {c.lower().strip(): c for c in columns}
    near = [lower[n] for n in difflib.get_close_matches(name.lower().strip(), list(lower), 1, 0.5)]
    known = ", ".join(shown(c) for c in columns[:10]) + (
        f" and {len(columns) - 10:,} more" if len(columns) > 10 else ""
    )
    guess = f"did you mean {shown(near[0])}? " if near else ""
    raise UsageError(f"{path} has no column {shown(name)} for {role}: {guess}(it has {known})")


def _whole(y: Any) -> Any:
    """Whole numbers that are floats only because some cells are empty, as whole numbers again."""
    if y.dtype.kind == "f" and y.isna().any():
        values = y.dropna()
        if len(values) and bool((np.floor(values) == values).all()) and float(values.abs().max()) < 2**53:
            return y.astype("Int64")
    return y


def row_weights(column: Any, name: str) -> Any:
    """The column of weights as float64 (n,), NaN where missing. Raises DataError where it holds anything but numbers."""
    if column.dtype.kind not in "fiub":
        raise DataError(f"the weights column {shown(name)} is not numeric: it holds {shown(column.iloc[0])}")
    return column.to_numpy(dtype=np.float64, na_value=np.nan)


# --- files to columns -----------------------------------------------------------------------------------------------------------------


class _Frame:
    """The columns of a frame that has been read."""

    def __init__(self, frame: Any) -> None:
        self._frame = frame
        frame.columns = [str(c) for c in frame.columns]
        self.names: list[str] = list(frame.columns)
        self.rows = len(frame)

    def __enter__(self) -> _Frame:
        return self

    def __exit__(self, *_: object) -> None:
        del self._frame

    def read(self, name: str) -> Any:
        return self._frame[name]

    def frame(self) -> Any:
        return self._frame


class _Parquet:
    """The columns of a Parquet file, each read when it is asked for, so that the whole frame is never in memory."""

    def __init__(self, source: Source, close: Callable[[], object], buffer: int = 0) -> None:
        try:
            import pyarrow.parquet as parquet
        except ImportError:
            close()
            raise ResourceError(
                f'{source.name} is a Parquet file; to read it: pip install "automl-frontier[parquet]"'
            ) from None
        self._name, self._close = source.name, close
        with self._named():
            self._file = parquet.ParquetFile(source.stream, buffer_size=buffer)
            listed = list(self._file.schema_arrow.names)
        self.names: list[str] = [
            n for n in listed if not _INDEX_LEVEL.fullmatch(n)
        ]  # pandas' unnamed index is no input
        self.rows = int(self._file.metadata.num_rows)
        twice = (
            next((n for i, n in enumerate(self.names) if n in self.names[:i]), None)
            if len(set(listed)) < len(listed)
            else None
        )
        if twice is not None or not self.rows:
            close()
            what = f"has the column name {shown(twice)} twice: rename one" if twice is not None else "has no rows"
            raise DataError(f"{source.name} {what}")

    def __enter__(self) -> _Parquet:
        return self

    def __exit__(self, *_: object) -> None:
        import pyarrow

        self._close()
        pyarrow.default_memory_pool().release_unused()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Arrow's errors, of a dozen classes, as ours."""
        try:
            yield
        except MemoryError:
            self._close()
            raise ResourceError(f"{self._name} does not fit in memory") from None
        except Exception as error:
            self._close()
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(f"{self._name} is a damaged or unreadable Parquet file: {reason}") from None

    def read(self, name: str) -> Any:
        import pyarrow

        with self._named():
            pyarrow.default_memory_pool().release_unused()  # what reading the column before left behind
            column = self._file.read(columns=[name], use_threads=False).to_pandas(ignore_metadata=True)[name]
            pyarrow.default_memory_pool().release_unused()
            return column

    def frame(self) -> Any:
        with self._named():
            return self._file.read(columns=self.names).to_pandas(ignore_metadata=True)

    def batches(self, names: Sequence[str], rows: int) -> Iterator[Any]:
        """These columns as frames of at most so many rows, in order."""
        batches = self._file.iter_batches(batch_size=rows, columns=list(names), use_threads=False)
        while True:
            with self._named():
                batch = next(batches, None)
                if batch is None:
                    return
                frame = batch.to_pandas(ignore_metadata=True)
            yield frame

    def numbers(self) -> list[str]:
        """The columns of numbers."""
        from pyarrow.types import is_boolean, is_floating, is_integer

        schema = self._file.schema_arrow
        kinds = {name: schema.field(name).type for name in self.names}
        return [name for name, kind in kinds.items() if is_integer(kind) or is_floating(kind) or is_boolean(kind)]

    def whole_numbers_with_missing(self, names: Sequence[str]) -> list[str]:
        """Those of whole numbers that have a missing cell: read at once, pandas makes floats of them."""
        import pyarrow

        with self._named():
            schema = self._file.schema_arrow
            whole = [name for name in names if pyarrow.types.is_integer(schema.field(name).type)]
            return [name for name in whole if self._missing(name)]

    def _missing(self, name: str) -> bool:
        found = self._file.metadata
        place = next(i for i in range(found.num_columns) if found.schema.column(i).path == name)
        known = [found.row_group(g).column(place).statistics for g in range(found.num_row_groups)]
        if all(each is not None and each.has_null_count for each in known):
            return any(each.null_count for each in known)
        return any(batch.column(0).null_count for batch in self._file.iter_batches(columns=[name], use_threads=False))


def open_parquet(source: Source) -> _Parquet:
    """The columns of an opened Parquet file, to be read in batches; the source stays the caller's to close."""
    return _Parquet(source, lambda: None, buffer=1 << 20)


def _read(
    path: str | os.PathLike[str],
    sep: str | None,
    decimal: str | None,
    encoding: str | None,
    bad_rows: str,
    texts: Texts | None,
    roles: Collection[str | None] = (),
) -> tuple[_Frame | _Parquet, list[str], str | None]:
    """(columns, notes, the decimal character if it is known). The columns are a context, to be closed by the caller. Without `texts`
    codes with leading zeros are texts, but for columns that have other `roles` than an input's.
    """
    if bad_rows not in ("error", "skip"):
        raise UsageError(f'bad_rows {shown(bad_rows)} is not known: "error" or "skip"')
    with ExitStack() as stack:
        source = stack.enter_context(open_source(path, encoding))
        if source.kind == "parquet":
            return _Parquet(source, stack.pop_all().close), source.notes, None
        dialect = sniff(source.rewind(), source.name, sep, decimal)
        check_header(source.name, dialect)
        codes = [name for name in dialect.codes if name not in roles] if texts is None else []
        frame, notes = _read_csv(source, dialect, bad_rows, dict.fromkeys(codes, ()) if texts is None else texts)
        if codes:
            notes.append(f"codes with leading zeros are texts, not numbers: {', '.join(map(shown, codes))}.")
        hint = decimal if decimal is not None else "," if dialect.decimal == "," else None
        return _Frame(frame), [*source.notes, *dialect.notes, *notes], hint


def _read_csv(source: Source, dialect: Dialect, bad_rows: str, texts: Texts) -> tuple[Any, list[str]]:
    """(frame, notes). Raises DataError with the line of a record with too many or too few fields, unless they are skipped."""
    notes: list[str] = []
    try:
        if bad_rows == "skip":
            with tempfile.SpooledTemporaryFile(IN_MEMORY) as clean:
                notes = without_wrong(source, dialect, clean)
                frame = parse(clean, source.name, dialect, texts)
        else:
            frame = parse(source.rewind(), source.name, dialect, texts)
            # pandas fills records that are too short with missing cells: then the last column has some
            short = len(frame.columns) > 1 and frame.iloc[:, -1].isna().any()
            if short and not looks_even(source.rewind(), dialect, len(frame) + 1):
                refuse_wrong(source, dialect)
    except RaggedError as ragged:
        if bad_rows == "error":
            refuse_wrong(source, dialect)
        raise DataError(f"{source.name} cannot be read as CSV: {ragged}") from None
    if not len(frame):
        raise DataError(f"{source.name} has a header and no rows")
    return frame, notes


class RaggedError(Exception):
    """pandas could not split the text into records."""


def parse(stream: IO[Any], name: str, dialect: Dialect, texts: Texts, only: Collection[str] | None = None) -> Any:
    """The stream's CSV by pandas' C parser, or its columns `only`, each column's type from all of its cells but for `texts`."""
    import pandas as pd

    with parsing(name, dialect):
        frame = pd.read_csv(
            stream,
            dtype=dict.fromkeys(texts, str) or None,
            usecols=None if only is None else list(only),
            **csv_options(dialect, texts),
        )
    as_levels(frame, texts, dialect.decimal)
    return frame.reset_index(drop=True) if dialect.extra == "names" else frame


def as_levels(frame: pd.DataFrame, texts: Texts, decimal: str) -> None:
    """Where all known levels are those of numbers or booleans, puts the known one in place of a text that reads as it.

    pandas types a column by the cells of its own file: "007" is 7 where all are numbers, and "true" is True. A model that
    learned the level "007" from a file with "A12" needs the text; one that learned 7 from numbers needs what it reads as.
    """
    for name in texts.keys() & set(frame.columns):
        known, column = texts[name], frame[name]
        if not known or not all(_level_read(level, ".") == level for level in known):
            continue
        unknown = [text for text in column.dropna().unique() if text not in known]
        read = {text: level for text in unknown if (level := _level_read(text, decimal)) in known}
        if read:
            frame[name] = column.where(~column.isin(list(read)), column.map(read))


def _level_read(text: str, decimal: str) -> str:
    """The level of a text that pandas would read as a number or a boolean; "" for another."""
    if text.lower() in ("true", "false"):
        return level_of(text.lower() == "true")
    for kind in (int, float):
        try:
            return level_of(kind(text.replace(decimal, "."))) if "_" not in text else ""
        except ValueError:
            pass
    return ""


def csv_options(dialect: Dialect, texts: Texts) -> dict[str, Any]:
    """The arguments of `pandas.read_csv` for UTF-8 text of this dialect. A known level of `texts` is never missing ("NA", "None")."""
    levels = {name: own for name, known in texts.items() if (own := NA_STRINGS.intersection(known))}
    missing = (
        {name: sorted(({""} | NA_STRINGS) - levels.get(name, frozenset())) for name in dialect.header}
        if levels
        else None
    )
    return {
        "na_values": missing,
        "keep_default_na": missing is None,
        "sep": dialect.sep,
        "decimal": dialect.decimal,
        "skipinitialspace": dialect.padded,
        "index_col": None if dialect.extra == "names" else False,
        "engine": "c",
        "encoding": "utf-8",
        "low_memory": False,
    }


@contextmanager
def parsing(name: str, dialect: Dialect) -> Iterator[None]:
    """pandas' errors as ours; RaggedError where the text could not be split into records."""
    import pandas as pd

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            if dialect.extra == "trailing":
                warnings.filterwarnings("ignore", message="Length of header or names", category=pd.errors.ParserWarning)
            yield
    except pd.errors.EmptyDataError:
        raise DataError(f"{name} holds no columns") from None
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        raise RaggedError(str(error).strip()) from None
    except AutoMLError:
        raise
    except (ValueError, OverflowError) as error:
        raise DataError(f"{name} cannot be read as CSV: {error}") from None
    except MemoryError:
        raise ResourceError(f"{name} does not fit in memory") from None


def check_header(name: str, dialect: Dialect) -> None:
    seen: dict[str, int] = {}
    for place, column in enumerate(dialect.header, 1):
        if column.strip() and column in seen:
            raise DataError(
                f"{name}, line 1: the column name {shown(column)} stands twice (columns {seen[column]} and {place}): rename one"
            )
        seen[column] = place


def refuse_wrong(source: Source, dialect: Dialect, *, skippable: bool = True) -> None:
    """Raises DataError naming the line of the first record with too many or too few fields, if there is one; `skippable` where such
    rows may be left out.
    """
    for wrong in wrong_records(source.rewind(), dialect, most=1):
        where = f"{source.name}, line {wrong.line}"
        skip = "repair it" + (', or leave such rows out with --bad-rows skip (bad_rows="skip")' if skippable else "")
        if not wrong.fields:
            raise DataError(f"{where}: a quote is opened and never closed; {skip}")
        raise DataError(f"{where}: {wrong.fields} fields where the header has {len(dialect.header)}; {skip}")


def without_wrong(source: Source, dialect: Dialect, clean: IO[Any]) -> list[str]:
    """Copies the text without its wrong records; returns the note that counts them."""
    stream = source.rewind()
    wrong = wrong_records(stream, dialect)
    place = source.start
    stream.seek(place)
    for record in [*wrong, None]:
        left = None if record is None else record.start - place
        while left is None or left > 0:
            block = stream.read(1 << 20 if left is None else min(1 << 20, left))
            if not block:
                break
            clean.write(block)
            left = None if left is None else left - len(block)
        if record is not None:
            place = record.end
            stream.seek(place)
    clean.seek(0)
    if not wrong:
        return []
    return [
        f"{len(wrong):,} row{'s' * (len(wrong) > 1)} of {source.name} with the wrong number of fields left out (the first: line {wrong[0].line})."
    ]
