"""Narrow storage: weights as float16, or as int8 with one scale a column, which are float32 again once a graph is loaded.

A model is narrowed by rounding its weights (`rounded`), is measured so, and its graph then stores them as narrow numbers
without any further loss (`narrowed`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BYTES = {"float16": 2, "int8": 1}
DTYPES = tuple(BYTES)
LEAST = 512
"""Constants of fewer numbers stay as they are: what widens one again takes about a hundred bytes."""


def rounded(array: NDArray[np.float32], dtype: str) -> NDArray[np.float32]:
    """A matrix as that dtype holds it: float16, or int8 of each column's largest magnitude. Raises OverflowError."""
    if dtype == "float16":
        with np.errstate(over="ignore"):
            found = array.astype(np.float16).astype(np.float32)
        if not np.isfinite(found).all():
            raise OverflowError(f"float16 holds magnitudes up to 65,504; found {np.abs(array).max():.3g}")
        return found
    scales = _scales(np.abs(array).max(axis=0))
    return np.asarray(np.rint(array / scales).astype(np.float32) * scales, np.float32)


def _scales(largest: NDArray[np.float32]) -> NDArray[np.float32]:
    """A 127th of each, rounded up to 10 binary digits: products with whole numbers to 127 are exact, and the largest is 127."""
    mantissa, exponent = np.frexp(np.asarray(largest, np.float64) / 127.0)
    found = np.ldexp(np.ceil(mantissa * 1024.0) / 1024.0, exponent).astype(np.float32)
    return np.where(found > 0.0, found, np.float32(1.0))


def narrowed(array: NDArray[Any], dtype: str) -> tuple[NDArray[Any], NDArray[np.float32] | None] | None:
    """(narrow cells, scales or None) whose product is exactly the array; None where that dtype does not hold it so."""
    if dtype == "float32" or array.dtype.kind != "f" or array.size < LEAST:
        return None
    wide = array.astype(np.float32)
    with np.errstate(over="ignore"):
        half = wide.astype(np.float16)
    if dtype == "float16" or wide.ndim != 2:
        return (half, None) if np.array_equal(half.astype(np.float32), wide) else None
    scales = _scales(np.abs(wide).max(axis=0))  # those of rounded columns are found again
    cells = np.rint(wide / scales)
    if np.abs(cells).max() <= 127 and np.array_equal((cells.astype(np.float32) * scales), wide):
        return cells.astype(np.int8), scales
    return None
