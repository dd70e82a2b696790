"""The target: which task it sets, its classes in their original type, and the codes or values that are fitted."""

from __future__ import annotations

import datetime
import decimal as decimals
import difflib
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .columns import blank_twins, number_parse, parse_notes
from .errors import DataError, DataTypeError, UsageError
from .runtime import NA_STRINGS, CellError, is_missing, level_of, number_reader, shown, text_of

MOST_OFFSET = 1e-4
"""The least spread of a regression's target, relative to its mean: below it rounding to float32 is 1/1,000 of the spread."""
TASKS = ("binary", "multiclass", "classification", "regression")
FEW_CLASSES = 20
"""Whole numbers with at most so many distinct values may be classes."""
MANY_CLASSES = 1000
"""Text with more distinct values than this (or with over half its rows distinct) needs the task to be said."""


@dataclass(frozen=True)
class Task:
    """`kind` is "binary", "multiclass" or "regression"; `classes` are the sorted labels in their original type, () for regression."""

    kind: str
    classes: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Target:
    """The target of the rows that have one: `values` int32 codes or float64, `kept` their positions (None: all)."""

    values: NDArray[Any]
    task: Task
    kept: NDArray[np.int64] | None
    notes: tuple[str, ...]


def infer_task(y: Any) -> Task:
    """The task that the target's values set, with its classes. Raises DataError where none can be told."""
    return read_target(y).task


def read_target(
    y: Any,
    task: str | None = None,
    name: str = "target",
    row_of: Callable[[int], str] = str,
    decimal: str | None = None,
) -> Target:
    """Reads the target, infers the task if it is not given, and leaves out rows without a target.

    Strings and booleans are classes; numbers with a fraction a regression; whole numbers are classes when they are few
    (two, or at most 20 with enough rows each). `row_of` words a row's position in messages, `decimal` settles what "1,234" means. Raises DataError for a
    target without two values, with infinite values, or with too many classes to be sure; UsageError for an unknown task.
    """
    if task is not None and task not in TASKS:
        near = difflib.get_close_matches(str(task), TASKS, 1)
        raise UsageError(
            f"task {shown(task)} is not known{f': did you mean {near[0]!r}?' if near else ''} (known: {', '.join(TASKS)})"
        )
    column = _column(y, name)
    codes, cells = _distinct(column, name)
    if not cells:
        raise DataError(f"the target {shown(name)} has no value in any of the {len(codes):,} rows")
    every = codes
    kept = np.flatnonzero(codes >= 0) if codes.min() < 0 else None
    notes: list[str] = []
    if kept is not None:
        notes.append(
            f"{len(codes) - len(kept):,} of {len(codes):,} rows have no target {shown(name)} and are left out."
        )
        codes = codes[kept]
    if any(isinstance(c, (datetime.date, datetime.timedelta, np.datetime64, np.timedelta64)) for c in cells):
        raise DataTypeError(
            f"the target {shown(name)} holds dates or durations: give it as a number, for example in seconds"
        )
    values, said = _numbers_of(
        cells, task, name, codes, row_of if kept is None else lambda i: row_of(int(kept[i])), decimal
    )
    kind = _kind(cells, values, len(codes), task, name)
    if kind != "regression":
        _refuse_twins(column, every, cells, name)
    if task is None:
        how = 'task="regression"' if kind != "regression" else 'task="multiclass"'
        notes.append(
            f"the task is {kind}: the target {shown(name)} has {len(cells):,} distinct values (to override: --task, {how})."
        )
    if len(cells) < 2:
        what = "only one class" if kind != "regression" else "the same value everywhere"
        raise DataError(f"the target {shown(name)} has {what} ({shown(cells[0])}): nothing can be learned from it")
    if len(codes) < 10:
        notes.append(f"only {len(codes)} rows have a target: whatever is measured on them is hardly more than chance.")
    if kind == "regression":
        assert values is not None
        _refuse_offset(values[codes], name)
        return Target(values[codes], Task(kind), kept, (*notes, *said))
    return _classes(codes, cells, kind, name, kept, notes)


def _refuse_offset(y: NDArray[np.float64], name: str) -> None:
    """Raises DataError for values so far from zero that float32, in which deployed models compute, loses their differences."""
    center = float(y.mean())
    spread = float((y - center).std())
    if spread < MOST_OFFSET * abs(center):
        raise DataError(
            f"the target {shown(name)} varies by {spread:.3g} (standard deviation) around {center:.10g}: deployed models compute in"
            f" float32, which has seven digits, so subtract a constant near {center:.3g} from it, and add it to predictions"
        )


def known_target(
    y: Any, kind: str, name: str, row_of: Callable[[int], str], decimal: str | None = None
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """(values or labels of the rows that have a target, their positions) of rows to score a model of a task of this `kind` on.

    Raises DataError where no row has one, or a regression's is no number.
    """
    codes, cells = _distinct(_column(y, name), name)
    kept = np.flatnonzero(codes >= 0)
    if not len(kept):
        raise DataError(f"the target {shown(name)} has no value in any of the {len(codes):,} rows")
    if kind != "regression":
        return np.array([*cells, None], object)[codes[kept]], kept
    values, _ = _numbers_of(cells, kind, name, codes[kept], lambda i: row_of(int(kept[i])), decimal)
    assert values is not None  # for a regression they are, or an error is raised
    return values[codes[kept]], kept


def held(y: Any) -> Any:
    """The target as pandas, an array or a list: what other libraries hold is converted."""
    import pandas as pd

    if hasattr(y, "to_pandas"):
        y = y.to_pandas()
    if isinstance(y, (pd.Series, pd.DataFrame, np.ndarray)):
        return y
    return y.to_numpy() if hasattr(y, "to_numpy") else list(y)


def _column(y: Any, name: str) -> Any:
    """The target as one pandas Series or array. Raises DataError for more than one column, DataTypeError for complex numbers."""
    import pandas as pd

    y = held(y)
    if getattr(y, "ndim", 1) == 2:
        if y.shape[1] != 1:
            raise DataError(
                f"the target has {y.shape[1]} columns: one is needed, several outputs at once are not supported"
            )
        y = y.iloc[:, 0] if isinstance(y, pd.DataFrame) else y[:, 0]
    elif getattr(y, "ndim", 1) != 1:
        raise DataError(f"the target has shape {y.shape}: it must have one value a row")
    if isinstance(y, list):
        y = pd.Series(y, dtype=None if y else object)
    if getattr(y.dtype, "kind", "O") == "c":
        raise DataTypeError(f"the target {shown(name)} holds complex numbers")
    return y.astype(object) if getattr(y.dtype, "kind", "O") == "S" else y


def _distinct(y: Any, name: str) -> tuple[NDArray[np.int64], list[Any]]:
    """(codes with -1 for missing, the distinct values as Python objects)."""
    import pandas as pd

    try:
        codes, uniques = pd.factorize(y)
    except TypeError:
        raise DataTypeError(
            f"the target {shown(name)} holds cells that are no plain values: {shown(y[0] if len(y) else None)}"
        ) from None
    cells = uniques.tolist() if hasattr(uniques, "tolist") else list(uniques)
    cells = [text_of(c) if isinstance(c, bytes) else c for c in cells]
    absent = np.fromiter(
        (not c or c.isspace() if isinstance(c, str) else is_missing(c) for c in cells), bool, len(cells)
    )
    codes = np.asarray(codes, np.int64)
    if absent.any():
        codes = np.append(np.where(absent, -1, np.cumsum(~absent) - 1), -1)[codes]
        cells = [c for c, gone in zip(cells, absent, strict=True) if not gone]
    return codes, cells


def _numbers_of(
    cells: Sequence[Any],
    task: str | None,
    name: str,
    codes: NDArray[Any],
    row_of: Callable[[int], str],
    decimal: str | None,
) -> tuple[NDArray[np.float64] | None, list[str]]:
    """(the distinct values as numbers where the target may be a regression, else None; how texts were read). Refuses infinite ones."""
    texts = [c for c in cells if isinstance(c, str)]
    if texts and task != "regression" and (len(cells) <= FEW_CLASSES or len(texts) < len(cells)):
        return None, []
    found = number_parse([t for t in texts if t not in NA_STRINGS], decimal) if texts else None
    read = number_reader(found[0] if found else {})
    values = np.empty(len(cells))
    for i, cell in enumerate(cells):
        try:
            values[i] = read(cell)
            if np.isnan(values[i]):
                raise CellError(cell, "a number")
        except CellError:
            if task != "regression":
                return None, []
            row = row_of(int(np.argmax(codes == i)))
            raise DataError(
                f"the target {shown(name)} holds {shown(cell)} (row {row}): a regression needs numbers"
            ) from None
        if np.isinf(values[i]):
            raise DataError(
                f"the target {shown(name)} is infinite in row {row_of(int(np.argmax(codes == i)))}: remove that row or correct it"
            )
    return values, parse_notes(name, *found) if found else []


def _kind(cells: Sequence[Any], values: NDArray[np.float64] | None, rows: int, task: str | None, name: str) -> str:
    """The task's kind, as given or as the distinct values set it."""
    distinct = len(cells)
    if task == "regression":
        return "regression"
    if task == "binary" and distinct > 2:
        raise DataError(
            f"the target {shown(name)} has {distinct:,} distinct values, a binary task has two: pass another task (--task, task=)"
        )
    classes = "multiclass" if distinct > 2 else "binary"
    if task is not None:
        return classes
    if values is None:
        if distinct > MANY_CLASSES or (distinct > 50 and distinct > 0.5 * rows):
            raise DataError(
                f"the target {shown(name)} has {distinct:,} distinct text values in {rows:,} rows: too many to take them for classes;"
                ' if they are, say so with --task multiclass (task="multiclass")'
            )
        return classes
    if any(isinstance(c, (bool, np.bool_)) for c in cells):
        return classes
    if isinstance(cells[0], str) or not all(float(v).is_integer() for v in values):
        return "regression"
    enough = distinct * (5 if distinct <= 5 else FEW_CLASSES) <= rows
    return classes if distinct <= 2 or (distinct <= FEW_CLASSES and enough) else "regression"


def _refuse_twins(y: Any, codes: NDArray[Any], cells: Sequence[Any], name: str) -> None:
    """Raises DataError for labels of two types that are equal (True and 1) or written alike (1 and "1"): no prediction tells them apart."""
    seen: dict[str, Any] = {}
    twins = None
    for code, cell in enumerate(cells):
        level = level_of(cell)
        if level in seen:
            twins = seen[level], cell
            break
        seen[level] = cell
        if y.dtype == object and not isinstance(cell, str) and cell in (0, 1):
            alike = np.asarray(y)[codes == code].tolist()
            twins = next(((cell, c) for c in alike if level_of(c) != level), None)
            if twins:
                break
    if twins:
        first, second = (f"{shown(c)} ({type(c).__name__})" for c in twins)
        raise DataError(
            f"the target {shown(name)} has the labels {first} and {second}, which predictions could not tell apart:"
            " write them alike if they are one class, or rename one of them"
        )


def _classes(
    codes: NDArray[Any], cells: list[Any], kind: str, name: str, kept: NDArray[np.int64] | None, notes: list[str]
) -> Target:
    """Codes into the sorted labels, and a warning for classes of one row and labels that differ only as text."""
    try:
        order = sorted(range(len(cells)), key=lambda i: cells[i])
    except TypeError:
        order = sorted(
            range(len(cells)), key=lambda i: (not isinstance(cells[i], (numbers.Real, decimals.Decimal)), str(cells[i]))
        )
        notes.append(
            f"the target {shown(name)} mixes types, for example {shown(cells[0])} and {shown(_other(cells))}: each is its own class."
        )
    rank = np.empty(len(cells), np.int32)
    rank[order] = np.arange(len(cells), dtype=np.int32)
    values = rank[codes]
    labels = tuple(cells[i] for i in order)
    counts = np.bincount(values, minlength=len(labels))
    rare = [labels[i] for i in np.flatnonzero(counts == 1)]
    if rare:
        few = ", ".join(shown(c) for c in rare[:5]) + (f" and {len(rare) - 5:,} more" if len(rare) > 5 else "")
        notes.append(
            f"the target {shown(name)} has {len(rare):,} classes with a single row ({few}): kept for training, but not to be measured."
        )
    alike = blank_twins([c for c in labels if isinstance(c, str)])
    if alike:
        notes.append(
            f"the target {shown(name)} has the labels {shown(alike[0])} and {shown(alike[1])}, which differ in blanks alone: they are kept "
            "as two classes."
        )
    twins = _twins([c for c in labels if isinstance(c, str)])
    if twins:
        notes.append(
            f"the target {shown(name)} has the labels {shown(twins[0])} and {shown(twins[1])}, the same number: they are kept as two classes."
        )
    return Target(values, Task(kind, labels), kept, tuple(notes))


def _other(cells: Sequence[Any]) -> Any:
    return next((c for c in cells if type(c) is not type(cells[0])), cells[-1])


def _twins(labels: Sequence[str]) -> tuple[str, str] | None:
    """Two labels that are the same number written differently, like "1" and "1.0"."""
    if len(labels) > MANY_CLASSES:
        return None
    seen: dict[float, str] = {}
    for label in labels:
        try:
            number = float(label)
        except ValueError:
            continue
        if number in seen:
            return seen[number], label
        seen[number] = label
    return None
