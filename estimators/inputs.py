"""What the caller holds, a frame, array, sparse matrix or dict of arrays, as names and columns that are read one at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DataError, DataTypeError
from .runtime import name_of, shown


@dataclass(frozen=True)
class Inputs:
    """The inputs of a table: how many `rows`, the columns' `names`, and `read(position, kept)` for one column's kept rows (None: all).

    `named` says whether the caller named the columns.
    """

    rows: int
    names: list[str]
    read: Callable[[int, NDArray[np.int64] | None], Any]
    named: bool


def open_inputs(X: Any, names: Sequence[str] | None) -> Inputs:
    """The inputs in `X`, which `names` name where it is an array. Raises DataError or DataTypeError for what is no table."""
    if isinstance(X, Inputs):
        return X
    if hasattr(X, "tocsr"):
        block = _sparse_block(X)
        given = _names(names, block.shape[1])
        return Inputs(
            block.shape[0],
            ["sparse"],
            lambda _, kept: (block if kept is None else block[kept], given),
            names is not None,
        )
    if isinstance(X, Mapping):
        return _from_mapping(X)
    if not isinstance(X, np.ndarray) and not _is_pandas(X):
        X = _to_pandas(X)
    if isinstance(X, np.ndarray):
        array = X
        if array.ndim != 2:
            raise DataError(
                f"X has {array.ndim} dimensions, it must have 2 (rows and columns); reshape a single column with X.reshape(-1, 1)"
            )
        if array.dtype.kind == "c":
            raise DataTypeError("X holds complex numbers: give the real and the imaginary parts as separate columns")
        if array.dtype.kind == "V":
            raise DataTypeError("X is a structured array: give a DataFrame (pandas.DataFrame(X)) instead")
        listed = _names(names, array.shape[1])
        return Inputs(
            len(array), listed, lambda i, kept: array[:, i] if kept is None else array[kept, i], names is not None
        )
    frame = X
    listed = _unique([name_of(c) for c in frame.columns])
    return Inputs(
        len(frame), listed, lambda i, kept: frame.iloc[:, i] if kept is None else frame.iloc[:, i].iloc[kept], True
    )


def _from_mapping(X: Mapping[Any, Any]) -> Inputs:
    import pandas as pd

    listed = _unique([name_of(c) for c in X])
    values = [v if isinstance(v, (np.ndarray, pd.Series)) else pd.Series(v) for v in X.values()]
    lengths = {name: len(v) for name, v in zip(listed, values, strict=True)}
    if not lengths:
        raise DataError("the table has no columns")
    first = next(iter(lengths.values()))
    for name, length in lengths.items():
        if length != first:
            raise DataError(f"column {shown(name)} has {length:,} rows, column {shown(listed[0])} has {first:,}")
    return Inputs(first, listed, lambda i, kept: values[i] if kept is None else pd.Series(values[i]).iloc[kept], True)


def _is_pandas(X: Any) -> bool:
    return hasattr(X, "iloc") and hasattr(X, "columns")


def _to_pandas(X: Any) -> Any:
    """Other frames as pandas; sequences of rows as an array. Raises DataTypeError for what is no table."""
    if hasattr(X, "to_pandas"):
        try:
            return X.to_pandas()
        except ImportError:
            if hasattr(X, "get_column") and hasattr(X, "columns"):  # polars without pyarrow
                import pandas as pd

                return pd.DataFrame({name: X.get_column(name).to_list() for name in X.columns})
            raise
    if hasattr(X, "__dataframe__"):
        from pandas.api.interchange import from_dataframe

        return from_dataframe(X)
    if isinstance(X, (list, tuple)) or hasattr(X, "__array__"):
        return _array(X)
    raise DataTypeError(
        f"X is a {type(X).__name__}: give a DataFrame, a two-dimensional array, a sparse matrix or a dict of arrays"
    )


def _array(X: Any) -> NDArray[Any]:
    try:
        array = np.asarray(X)
        if array.dtype.kind in "US" and isinstance(X, (list, tuple)):  # numbers beside text keep their own type
            array = np.asarray(X, dtype=object)
    except ValueError:
        raise DataError("X has rows of different lengths") from None
    return array


def _sparse_block(X: Any) -> Any:
    if X.ndim != 2:
        raise DataError(f"X has {X.ndim} dimensions, it must have 2 (rows and columns)")
    if X.dtype.kind not in "fiub":
        raise DataTypeError(f"X is a sparse matrix of {X.dtype}: it must hold real numbers")
    from scipy import sparse

    block = sparse.csr_matrix(X)
    if not block.has_canonical_format:
        block = block.copy()
        block.sum_duplicates()
    return block


def _names(names: Sequence[str] | None, count: int) -> list[str]:
    if count == 0:
        raise DataError("the table has no columns: 0 feature(s) while a minimum of 1 is required")
    if names is None:
        return [f"x{i}" for i in range(count)]
    if len(names) != count:
        raise DataError(f"{len(names)} names are given for {count} columns")
    return _unique([name_of(n) for n in names])


def _unique(names: list[str]) -> list[str]:
    if not names:
        raise DataError("the table has no columns: 0 feature(s) while a minimum of 1 is required")
    seen: dict[str, int] = {}
    for position, name in enumerate(names):
        if name in seen:
            raise DataError(
                f"the column name {shown(name)} stands twice (columns {seen[name] + 1} and {position + 1}): rename one"
            )
        seen[name] = position
    return names
