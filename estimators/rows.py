"""Rows of a table: identical ones merged into weights, and nested stratified orders for rungs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .target import Task

if TYPE_CHECKING:
    from .table import Table

_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))

NARROWED = frozenset(2**power for power in range(4, 32))
"""After so many columns the rows that already differ from all others are left out of the comparison."""


def _mixed(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014): every input bit moves every output bit."""
    bits = bits + _MIX[0]
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX[1]
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX[2]
    return np.asarray(bits ^ (bits >> np.uint64(31)))


def _bits(values: NDArray[Any]) -> NDArray[np.uint64]:
    """Equal values as equal 64 bits: -0.0 as 0.0, every NaN as one."""
    if values.dtype.kind == "f":
        wide = values.astype(np.float64) + 0.0
        wide[np.isnan(wide)] = np.nan
        return wide.view(np.uint64)
    return np.asarray(values.astype(np.int64).view(np.uint64))


def _row_hashes(block: Any) -> NDArray[np.uint64]:
    """One hash a row of a CSR matrix, whatever the order of its entries; stored zeros count as absent."""
    entries = _mixed(_mixed(block.indices.astype(np.uint64)) ^ _bits(block.data))
    entries[block.data == 0] = 0
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(entries, dtype=np.uint64)])
    return np.asarray(sums[block.indptr[1:]] - sums[block.indptr[:-1]])


def merge_duplicates(table: Table, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rows with identical inputs and target as one: (the first of each, in the given order, their summed weights).

    Rows are compared by a 64-bit hash: two different ones meet with a chance of n^2 / 2^65.
    """
    rows = np.asarray(rows, np.int64)
    key = keys = _mixed(_bits(np.asarray(table.y[rows])))
    place, some = np.arange(len(rows)), rows  # of the rows that may have a twin; `key` are theirs
    for count, (column, data) in enumerate(zip(table.columns, table.data, strict=True), 1):
        part = data[some]
        bits = _row_hashes(part) if column.kind in ("text", "sparse") else _bits(np.asarray(part))
        key = _mixed(key ^ _mixed(bits)) + _MIX[0]
        if count in NARROWED:
            keys[place] = key
            _, inverse, alike = np.unique(key, return_inverse=True, return_counts=True)
            place = place[alike[inverse] > 1]
            if not len(place):
                break
            key, some = keys[place], rows[place]
    else:
        keys[place] = key
    weights = np.ones(len(rows)) if table.weights is None else np.array(table.weights[rows], np.float64)
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    if len(first) == len(rows):
        return rows, weights
    summed = np.asarray(np.bincount(inverse, weights=weights, minlength=len(first)), np.float64)
    order = np.argsort(first)
    return rows[first[order]], summed[order]


def nested_order(y: NDArray[Any], task: str | Task, seed: int) -> NDArray[np.int64]:
    """A seeded permutation of the rows whose every prefix is stratified: by class, or by up to 20 quantiles of the target.

    A prefix of m rows holds m * (share of the class) of each class, up to rounding; every class has its first row
    in the first K rows, so a class of one row is in every rung.
    """
    y = np.asarray(y)
    n = len(y)
    rng = np.random.default_rng(seed)
    kind = task if isinstance(task, str) else task.kind
    if n == 0:
        return np.empty(0, np.int64)
    if kind == "regression":
        bins = max(1, min(20, n // 10))
        strata = np.empty(n, np.int32)
        strata[np.argsort(y, kind="stable")] = np.arange(n) * bins // n
    else:
        strata = y.astype(np.int32)
    order = rng.permutation(n).astype(np.int32)
    order = order[np.argsort(strata[order], kind="stable")]  # stratum by stratum, shuffled inside
    group = strata[order]
    counts = np.bincount(strata)
    rank = np.arange(n, dtype=np.int32) - (np.cumsum(counts) - counts).astype(np.int32)[group]
    key = rng.random(len(counts))[group]
    key += rank
    key /= counts[group]
    key[rank == 0] -= 1.0
    return order[np.argsort(key, kind="stable")].astype(np.int64)
