"""A table: typed columns with a target. Read once from whatever holds the data, kept as plain arrays, memory-mapped from a folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .columns import SMALLEST_IDENTIFIER, Column, Reading, read_column
from .errors import DataError, UsageError
from .inputs import open_inputs
from .rows import merge_duplicates, nested_order
from .runtime import shown
from .target import Target, Task, held, infer_task, read_target

if TYPE_CHECKING:
    from .family import Facts

__all__ = ["Column", "Table", "Task", "from_frame", "infer_task", "merge_duplicates", "nested_order"]

FORMAT = 1
"""Of a saved table. A run's tables live as long as the run: a change of this number makes `open` refuse older ones."""
SAMPLE_ROWS = 2000
"""Raw text is kept of so many rows, for the records that latency is measured on."""
ROWS_OF_A_DAY = 10
"""From so many rows a day on, in the mean, each day may be a category of its own."""
UNUSED = "unused"
"""The kind, in a schema, of an input that the table dropped: it only takes its place in rows given by position."""
_ID_NAME = re.compile(
    r"(?i:^unnamed: ?\d+$|^index$|^row[ _.-]?(id|no|nr|num|number|index)?$|(^|[ _.-])(id|uuid|guid)$)|[a-z]I[dD]$"
)
_EPOCH = datetime(1970, 1, 1)


class Table:
    """Typed columns with a target; rows without a target or of weight zero are not in it.

    `data[i]` belongs to `columns[i]`: float64 (n,) with NaN for missing (numeric, and dates as epoch seconds), int32 (n,)
    level codes with -1 for missing (categorical), float32 CSR (n, d) (text as hashed counts, sparse). `y` holds int32
    class codes or float64 values, `weights` float64 or None. `notes` say what was decided, one sentence each.
    `inputs` are the names of all columns given, dropped ones included; `kept` the positions of the table's rows among
    the rows given. `sample_rows` are the rows of which `records` knows the raw text.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        data: Sequence[Any],
        y: NDArray[Any],
        task: Task,
        *,
        weights: NDArray[np.float64] | None = None,
        notes: Sequence[str] = (),
        source: str | None = None,
        inputs: Sequence[str] | None = None,
        kept: NDArray[np.int64] | None = None,
        sample_rows: NDArray[np.int64] | None = None,
        texts: Mapping[int, list[str | None]] | None = None,
    ) -> None:
        self.columns = tuple(columns)
        self.data = list(data)
        self.y = y
        self.task = task
        self.weights = weights
        self.notes = tuple(notes)
        self.source = source
        self.inputs = tuple(inputs) if inputs is not None else tuple(c.name for c in self.columns)
        self.kept = np.arange(len(y)) if kept is None else kept
        self.sample_rows = _sample_rows(len(y)) if sample_rows is None else sample_rows
        self._texts = dict(texts or {})

    @property
    def rows(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        return f"<Table {self.rows:,} rows, {len(self.columns)} columns, {self.task.kind}>"

    def save(self, folder: Path | str) -> None:
        """Writes the table as .npy files and meta.json into `folder`, made if it is not there. OSError where it cannot be written."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        dense = {"float64": [i for i, c in enumerate(self.columns) if c.kind in ("numeric", "date")]}
        dense["int32"] = [i for i, c in enumerate(self.columns) if c.kind == "categorical"]
        for dtype, places in dense.items():
            _save_stack(folder / f"{dtype}.npy", dtype, [self.data[i] for i in places], self.rows)
        for i, column in enumerate(self.columns):
            if column.kind in ("text", "sparse"):
                for part in ("indptr", "indices", "data"):
                    np.save(folder / f"{i}.{part}.npy", getattr(self.data[i], part))
        np.save(folder / "y.npy", self.y)
        np.save(folder / "sample_rows.npy", self.sample_rows)
        np.save(folder / "kept.npy", self.kept)
        if self.weights is not None:
            np.save(folder / "weights.npy", self.weights)
        meta = {
            "format": FORMAT,
            "rows": self.rows,
            "columns": [c.as_dict() for c in self.columns],
            "widths": [
                d.shape[1] if c.kind in ("text", "sparse") else 1 for c, d in zip(self.columns, self.data, strict=True)
            ],
            "task": self.task.kind,
            "classes": [_plain(c) for c in self.task.classes],
            "notes": self.notes,
            "source": self.source,
            "inputs": self.inputs,
            "texts": {str(i): cells for i, cells in self._texts.items()},
        }
        (folder / "meta.json").write_text(json.dumps(meta, separators=(",", ":")), encoding="utf-8")

    @classmethod
    def open(cls, folder: Path | str) -> Table:
        """The table that `save` wrote, its arrays memory-mapped, read-only. Raises DataError where it is not whole."""
        folder = Path(folder)
        try:
            meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            if meta.get("format") != FORMAT:
                raise DataError(
                    f"{folder} holds a table of format {meta.get('format')}, this version reads {FORMAT}: start the run again"
                )
            columns = [Column.from_dict(c) for c in meta["columns"]]
            stacks = {dtype: iter(_load(folder / f"{dtype}.npy")) for dtype in ("float64", "int32")}
            data = [
                _open_column(folder, i, c, w, meta["rows"], stacks)
                for i, (c, w) in enumerate(zip(columns, meta["widths"], strict=True))
            ]
            weights = _load(folder / "weights.npy") if (folder / "weights.npy").exists() else None
            return cls(
                columns,
                data,
                _load(folder / "y.npy"),
                Task(meta["task"], tuple(meta["classes"])),
                weights=weights,
                notes=meta["notes"],
                source=meta["source"],
                inputs=meta["inputs"],
                kept=_load(folder / "kept.npy"),
                sample_rows=_load(folder / "sample_rows.npy"),
                texts={int(i): cells for i, cells in meta["texts"].items()},
            )
        except (OSError, KeyError, StopIteration, json.JSONDecodeError) as error:
            raise DataError(f"{folder} is not a whole saved table: {error}") from None

    def fingerprint(self) -> str:
        """32 hex digits that change with any value, name, level, label or weight; the same after save and open."""
        digest = hashlib.blake2b(digest_size=16)
        described = {
            "task": self.task.kind,
            "classes": [_plain(c) for c in self.task.classes],
            "columns": [c.as_dict() for c in self.columns],
        }
        digest.update(json.dumps(described, sort_keys=True).encode())
        for array in _arrays(self.data):
            digest.update(array)
        digest.update(_bytes_of(self.y))
        if self.weights is not None:
            digest.update(_bytes_of(self.weights))
        return digest.hexdigest()

    @cached_property
    def schema(self) -> tuple[list[list[Any]], list[int]]:
        """All inputs in the order given, [name, kind] (and the names of a sparse block), and where each column is among them."""
        by_name = {column.name: column for column in self.columns}
        inside = {name for column in self.columns if column.kind == "sparse" for name in column.names}
        given = [name for name in self.inputs if name in by_name or name not in inside]
        names = list(dict.fromkeys([*given, *by_name]))
        places = {name: i for i, name in enumerate(names)}
        schema: list[list[Any]] = []
        for name in names:
            column = by_name.get(name)
            block = [list(column.names)] if column is not None and column.kind == "sparse" else []
            schema.append([name, UNUSED if column is None else column.kind, *block])
        return schema, [places[column.name] for column in self.columns]

    def facts(self, rows: int | None = None, budget: float = math.inf, *, later: bool = False) -> Facts:
        """What a family may know before fitting; `rows` where fewer than all are trained on, `later` where rows to come are later."""
        from .family import Facts

        widths = [len(c.names) if c.kind == "sparse" else 1 for c in self.columns]
        stored = sum(d.nnz if c.kind == "sparse" else self.rows for c, d in zip(self.columns, self.data, strict=True))
        return Facts(
            task=self.task.kind,
            rows=self.rows if rows is None else rows,
            columns=sum(widths),
            classes=len(self.task.classes),
            categorical=sum(c.kind == "categorical" for c in self.columns),
            sparse=any(c.kind == "sparse" for c in self.columns),
            budget_seconds=budget,
            density=stored / (self.rows * sum(widths)),
            days=0 if later else self._days,
        )

    @cached_property
    def _days(self) -> int:
        return sum(map(_repeats_days, self.columns, self.data))

    def records(self, rows: NDArray[np.int64] | Sequence[int]) -> list[dict[str, Any]]:
        """Rows as a user would give them to `predict_one`: floats, level strings, ISO dates, text; None for missing.

        With text columns only rows among `sample_rows` are known; others raise DataError.
        """
        rows = np.asarray(rows, np.int64)
        parts: list[tuple[str, list[Any]]] = []
        for i, column in enumerate(self.columns):
            if column.kind == "sparse":
                block = self.data[i][rows].toarray()
                parts += [(name, block[:, j].tolist()) for j, name in enumerate(column.names)]
            else:
                parts.append((column.name, self._cells(i, column, rows)))
        names = [name for name, _ in parts]
        return [dict(zip(names, cells, strict=True)) for cells in zip(*(cells for _, cells in parts), strict=True)]

    def _cells(self, i: int, column: Column, rows: NDArray[np.int64]) -> list[Any]:
        if column.kind == "text":
            place = {int(row): k for k, row in enumerate(self.sample_rows)}
            try:
                return [self._texts[i][place[int(row)]] for row in rows]
            except KeyError as error:
                raise DataError(f"the text of row {error} is not kept: only that of `sample_rows` is") from None
        values = np.asarray(self.data[i][rows]).tolist()
        if column.kind == "categorical":
            return [None if code < 0 else column.levels[code] for code in values]
        if column.kind == "date":
            return [_iso(seconds) for seconds in values]
        return [None if math.isnan(value) else value for value in values]


def _repeats_days(column: Column, seconds: Any) -> bool:
    """Whether it is a date of which a day has `ROWS_OF_A_DAY` rows in the mean."""
    if column.kind != "date":
        return False
    days = np.floor(seconds[~np.isnan(seconds)] / 86400.0)
    return len(days) >= ROWS_OF_A_DAY * max(2, len(np.unique(days)))


def _iso(seconds: float) -> str | float | None:
    """Epoch seconds as ISO 8601, or as they are outside the years 1 to 9999."""
    if math.isnan(seconds):
        return None
    try:
        return (_EPOCH + timedelta(seconds=seconds)).isoformat()
    except OverflowError:
        return seconds


def _plain(label: Any) -> Any:
    """A class label as JSON: its own type where JSON has it, else its text."""
    return label if isinstance(label, (bool, int, float, str)) else str(label)


def _save_stack(path: Path, dtype: str, arrays: Sequence[NDArray[Any]], rows: int) -> None:
    """Columns of one type as one (columns, rows) .npy file, written one column at a time."""
    with path.open("wb") as file:
        header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
            "fortran_order": False,
            "shape": (len(arrays), rows),
        }
        np.lib.format.write_array_header_1_0(file, header)
        for array in arrays:
            file.write(_bytes_of(np.asarray(array, dtype)))


def _load(path: Path) -> NDArray[Any]:
    """A saved array, memory-mapped where there is a byte to map. Raises DataError for a torn file."""
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (ValueError, EOFError):
        pass  # an empty array cannot be mapped: read instead, which tells it from a torn file
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise DataError(f"{path} is not a whole array: {error}") from None


def _open_column(
    folder: Path, i: int, column: Column, width: int, rows: int, stacks: Mapping[str, Iterator[Any]]
) -> Any:
    if column.kind not in ("text", "sparse"):
        return next(stacks["int32" if column.kind == "categorical" else "float64"])
    from scipy import sparse

    indptr, indices, data = (_load(folder / f"{i}.{part}.npy") for part in ("indptr", "indices", "data"))
    block: Any = sparse.csr_matrix(np.empty((0, width), np.float32))
    block.resize(rows, width)
    block.indptr, block.indices, block.data = indptr, indices, data  # the constructor would copy what is memory-mapped
    return block


def _bytes_of(array: Any) -> memoryview:
    """The bytes of an array without a copy where it lies in one piece."""
    flat: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return memoryview(flat)


def _arrays(data: Sequence[Any]) -> Iterator[memoryview]:
    for item in data:
        parts = (
            (item.indptr.astype(np.int64), item.indices.astype(np.int64), item.data)
            if hasattr(item, "indptr")
            else (item,)
        )
        yield from (_bytes_of(part) for part in parts)


def _sample_rows(rows: int) -> NDArray[np.int64]:
    if rows <= SAMPLE_ROWS:
        return np.arange(rows)
    return np.sort(np.random.default_rng(0).choice(rows, SAMPLE_ROWS, replace=False)).astype(np.int64)


# --- from what the caller holds --------------------------------------------------------------------------------------------


def from_frame(
    X: Any,
    y: Any,
    *,
    task: str | None = None,
    weights: Any = None,
    infinite: str = "error",
    names: Sequence[str] | None = None,
    target: str | None = None,
    source: str | None = None,
    decimal: str | None = None,
    first_row: int = 0,
) -> Table:
    """A table of inputs `X` and target `y`, with columns typed, useless ones dropped, and the task inferred if not given.

    `X` is a DataFrame (pandas, polars, Arrow, or anything with `to_pandas`), a numpy array (n, d), a scipy sparse matrix,
    a dict of arrays, or `Inputs` that read a column when it is needed; `y` (n,) labels or numbers; `weights` (n,) not negative,
    of which only the ratios count. `infinite` is "error" or "missing".
    `names` name the columns of an array ("x0", "x1", ... otherwise), `target` names y in messages, `decimal` settles
    what "1,234" means, `first_row` is the number that messages give to the first row.
    Raises DataError or DataTypeError naming the column and row, UsageError for an unknown option.
    """
    if infinite not in ("error", "missing"):
        raise UsageError(f'infinite {shown(infinite)} is not known: "error" or "missing"')
    inputs = open_inputs(X, names)
    rows = inputs.rows
    name = target if target is not None else str(getattr(y, "name", None) or "target")
    if hasattr(y, "__len__") and len(y) != rows:
        raise DataError(f"X has {rows:,} rows and y {len(y):,}: they must be as many")
    if rows == 0:
        raise DataError("the table has no rows")
    notes: list[str] = []
    weights = None if weights is None else normalised(weights, rows, first_row)
    kept = np.flatnonzero(weights) if weights is not None and not weights.all() else None
    if kept is not None:
        y = held(y)
        y = y.iloc[kept] if hasattr(y, "iloc") else y[kept] if isinstance(y, np.ndarray) else [y[i] for i in kept]
        notes.append(f"{rows - len(kept):,} rows have the weight 0 and are left out.")

    def row_of(row: int) -> str:
        return str(first_row + int(row if kept is None else kept[row]))

    found = read_target(y, task, name, row_of, decimal)
    if found.kept is not None:
        kept = found.kept if kept is None else kept[found.kept]
    notes += found.notes
    if kept is not None and weights is not None:
        weights = weights[kept]
        weights = weights / weights.mean()
    builder = _Builder(found, infinite, row_of, decimal, inputs.named)
    for position, column in enumerate(inputs.names):
        builder.add(column, inputs.read(position, kept))
    return builder.table(inputs.names, notes, weights, source, kept)


def normalised(weights: Any, rows: int, first_row: int = 0) -> NDArray[np.float64]:
    """(rows,) the sample weights over the mean of those that are not zero. Raises DataError for what can be no weight.

    Only their ratios count: penalties, smoothing and the least weight of a leaf take a row's weight as a number of rows.
    """
    try:
        values = np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError("the sample weights are not all numbers") from None
    if values.ndim != 1 or len(values) != rows:
        raise DataError(f"the sample weights have shape {values.shape}: one for each of the {rows:,} rows is needed")
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if len(bad):
        raise DataError(
            f"the sample weight of row {first_row + bad[0]} is {values[bad[0]]}: weights must be finite and not negative"
        )
    if not values.any():
        raise DataError("every sample weight is zero: no row is left to learn from")
    values = values / values.max()  # their sum is finite, and what is tiny beside the largest is not lost to the mean
    return np.asarray(values / values[values > 0].mean(), np.float64)


class _Builder:
    """Collects the columns of a table as they are read, leaves out the useless ones, and remembers what it did."""

    def __init__(
        self, target: Target, infinite: str, row_of: Callable[[int], str], decimal: str | None, named: bool
    ) -> None:
        self.target, self.infinite, self.row_of, self.decimal, self.named = target, infinite, row_of, decimal, named
        self.columns: list[Column] = []
        self.data: list[Any] = []
        self.notes: list[str] = []
        self.texts: dict[int, list[str | None]] = {}
        self.dropped: dict[str, list[str]] = {}
        self.leaks: list[str] = []
        self.twins: list[tuple[str, str]] = []
        self._seen: dict[bytes, str] = {}
        self._head = np.asarray(target.values[:1000])
        self._like = _first_alike(self._head) if target.task.kind != "regression" else None
        self._rows = _sample_rows(len(target.values))

    def add(self, name: str, values: Any) -> None:
        if isinstance(values, tuple):  # a sparse block and the names of its columns
            self._add_sparse(name, *values)
            return
        reading = read_column(name, values, self.decimal, self.row_of)
        if reading.column.kind in ("numeric", "date") and np.isinf(reading.data).any():
            reading.data = self._finite(name, reading.data)
            if reading.column.kind == "numeric":  # as the deployed model will read it
                parse = {**reading.column.parse, "infinite": "missing"}
                reading.column = dataclasses.replace(reading.column, parse=parse)
        reason = reading.dropped or self._row_number(name, reading)
        if reason:
            self.dropped.setdefault(reason, []).append(name)
            self.notes += reading.notes if reading.dropped == "identifier" else []  # what might have kept it
        if reason or self._duplicate(name, reading):
            return
        if self._gives_away(reading):
            self.leaks.append(name)
        self.notes += reading.notes
        if reading.codes is not None:
            chosen = reading.codes[self._rows].tolist()
            self.texts[len(self.columns)] = [None if code < 0 else reading.cells[code] for code in chosen]
        self.columns.append(reading.column)
        self.data.append(reading.data)

    def _add_sparse(self, name: str, block: Any, names: list[str]) -> None:
        bad = np.flatnonzero(np.isinf(block.data))
        if len(bad):
            if self.infinite == "error":
                row = int(np.searchsorted(block.indptr, bad[0], side="right")) - 1
                raise DataError(self._infinite_message(names[block.indices[bad[0]]], row))
            block = block.copy()
            block.data[bad] = np.nan
        parse = {"infinite": "missing"} if len(bad) else {}
        self.columns.append(Column(name, "sparse", parse=parse, names=tuple(names)))
        self.data.append(block.astype(np.float32))

    def _finite(self, name: str, data: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.infinite == "error":
            raise DataError(self._infinite_message(name, int(np.argmax(np.isinf(data)))))
        count = int(np.isinf(data).sum())
        self.notes.append(f"column {shown(name)} has {count:,} infinite values, taken as missing.")
        return np.where(np.isinf(data), np.nan, data)

    def _infinite_message(self, name: str, row: int) -> str:
        return (
            f"column {shown(name)} holds an infinite value (infinity) in row {self.row_of(row)}:"
            ' correct it, or take infinite values as missing (--infinite missing, infinite="missing")'
        )

    def _row_number(self, name: str, reading: Reading) -> str:
        """Whether a column of whole numbers only counts or names the rows.

        By its name with every value distinct; or as a counter from 0 or 1 in row order, in a table of at least 100 rows,
        where the target shows no order by row: then no counter of rows can help.
        """
        data = reading.data
        n = len(self.target.values)
        if not (self.named and reading.integers) or n < SMALLEST_IDENTIFIER:
            return ""
        if _ID_NAME.search(name.strip()):
            return "identifier" if len(np.unique(data)) == n else ""
        counts = n >= 100 and data[0] in (0.0, 1.0) and data[-1] == data[0] + n - 1 and bool((np.diff(data) == 1).all())
        return "identifier" if counts and not _follows_order(self.target.values) else ""

    def _duplicate(self, name: str, reading: Reading) -> bool:
        """Whether a column kept already holds the same cells."""
        if reading.column.kind in ("text", "sparse"):
            return False
        digest = hashlib.blake2b(_bytes_of(reading.data), digest_size=16)
        digest.update("\0".join([reading.column.kind, *reading.column.levels]).encode("utf-8", "surrogatepass"))
        first = self._seen.setdefault(digest.digest(), name)
        if first != name:
            self.twins.append((name, first))
        return first != name

    def _gives_away(self, reading: Reading) -> bool:
        """Whether the column equals the target: the same numbers, or one value for each class."""
        y, data = self.target.values, reading.data
        if reading.column.kind not in ("numeric", "categorical", "date") or len(y) < 10:
            return False
        if self.target.task.kind == "regression":
            return bool(np.array_equal(data[:1000], self._head) and np.array_equal(data, y))
        if reading.column.kind == "categorical" and len(reading.column.levels) != len(self.target.task.classes):
            return False
        head = data[:1000]
        return bool((head == head[self._like]).all()) and _paired(data, y)

    def table(
        self,
        inputs: Sequence[str],
        notes: list[str],
        weights: NDArray[np.float64] | None,
        source: str | None,
        kept: NDArray[np.int64] | None,
    ) -> Table:
        """The finished table. Raises DataError where no column is left."""
        for reason, names in self.dropped.items():
            notes.append(f"{_listed([shown(n) for n in names])} dropped: {reason}.")
        if self.twins:
            notes.append(
                f"{_listed([f'{shown(n)} (as {shown(first)})' for n, first in self.twins])} dropped: the same as another column."
            )
        if not self.columns:
            raise DataError(f"no input column is left: {' '.join(n for n in notes if 'dropped' in n)}")
        for name in self.leaks:
            notes.append(
                f"column {shown(name)} equals the target: if it is not known when predicting, leave it out (drop=)."
            )
        every = [c.names if c.kind == "sparse" else (c.name,) for c in self.columns]
        sparse_only = len(self.columns) == 1 and self.columns[0].kind == "sparse"
        return Table(
            self.columns,
            self.data,
            self.target.values,
            self.target.task,
            weights=weights,
            notes=[*notes, *self.notes],
            source=source,
            inputs=every[0] if sparse_only else inputs,
            kept=kept,
            sample_rows=self._rows,
            texts=self.texts,
        )


def _listed(names: Sequence[str]) -> str:
    """At most ten names, and how many more."""
    more = f" and {len(names) - 10:,} more" if len(names) > 10 else ""
    return ("column " if len(names) == 1 else f"{len(names):,} columns ") + ", ".join(names[:10]) + more


def _first_alike(codes: NDArray[Any]) -> NDArray[np.int64]:
    """For each row the first row of the same class."""
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    return np.asarray(first[inverse], np.int64)


def _paired(data: NDArray[Any], y: NDArray[Any]) -> bool:
    """Whether values and class codes determine each other."""
    if not np.array_equal(data, data):  # a missing value
        return False
    _, codes = np.unique(data, return_inverse=True)
    distinct = int(codes.max()) + 1
    pairs = len(np.unique(codes.astype(np.int64) * (int(y.max()) + 1) + y))
    return distinct == pairs == len(np.unique(y))


def _follows_order(y: NDArray[Any]) -> bool:
    """Whether neighbouring rows have more (or less) alike targets than chance gives (lag-1 rank correlation, 3 sigma)."""
    if len(y) < 3:
        return True
    ranks = (
        np.argsort(np.argsort(y, kind="stable"), kind="stable").astype(np.float64)
        if y.dtype.kind == "f"
        else y.astype(np.float64)
    )
    centred = ranks - ranks.mean()
    total = float(centred @ centred)
    return total == 0 or abs(float(centred[1:] @ centred[:-1]) / total) > 3 / math.sqrt(len(y))
