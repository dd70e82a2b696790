"""Columns to a float32 matrix, fitted on training rows, and the plain tables by which the runtime does the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import runtime
from .runtime import Block, Hashed, Numeric, OneHot, RowEncoder, Target, Text
from .table import UNUSED

if TYPE_CHECKING:
    from .table import Column, Table

SAMPLE_ROWS = 100_000
"""Medians, quartiles and distinct values are read off a strided sample of at most so many training rows."""
SHORT = 1_000
"""Rows of numbers up to this length are sorted for their quartiles, longer ones partitioned."""
MOST_TARGET_CLASSES = 10
HASH_BUCKETS = 256
RARE_COUNT = 5
"""One-hot levels with fewer training rows share one column, if there are at least two of them."""
FOLDS = 5
MERGED = 0.02
"""A column is shifted, then split in two, if float32 would merge more than this share of its distinct values."""
SPARSE_WIDTH, SPARSE_DENSITY = 256, 0.2


@dataclass(frozen=True)
class View:
    """How columns become numbers: a point of the search space.

    numeric: "raw" (missing stays NaN) or "scaled" (imputed by the median with an indicator, robustly scaled, squashed).
    categories: "ordinal" (level codes; missing and unseen are -1), "onehot" (up to `max_onehot` levels, above it target
    means), "target" (smoothed target means) or "hash" (one-hot, above `max_onehot` levels in hash buckets).
    text: how many hash buckets of a text column are kept, the most frequent first.
    dates: "parts" (days since 1970, year, month, ... as numbers) or "days" (each day a category as well).
    """

    numeric: str = "raw"
    categories: str = "ordinal"
    max_onehot: int = 32
    text: int = 64
    dates: str = "parts"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Encoder:
    """Fitted by `Encoder.fit`; `tables` is all that it learned, as plain data for `runtime.RowEncoder`.

    `width` is the number of outputs, `sources` the table column behind each, `categorical` the positions that hold codes
    of levels. `sparse` says whether `transform` returns CSR.
    """

    def __init__(self, tables: dict[str, Any]) -> None:
        self.tables = tables
        self.rows = RowEncoder(tables)
        self.width = self.rows.width
        known = [i for i, described in enumerate(tables["schema"]) if described[1] != UNUSED]
        self._table_column = {position: index for index, position in enumerate(known)}
        entries, kinds = self.rows.entries, [type(entry) for entry in self.rows.entries]
        self.sources = [self._table_column[entry.index] for entry in entries for _ in range(entry.width)]
        self.categorical = [
            start + place
            for entry, start in zip(entries, self.rows.starts, strict=False)
            for place in _code_places(entry)
        ]
        wide = [entry for entry, kind in zip(entries, kinds, strict=True) if kind in (OneHot, Hashed, Text, Block)]
        filled = self.width - sum(entry.width for entry in wide)
        filled += sum(1 if isinstance(entry, (OneHot, Hashed)) else 8 for entry in wide)
        self.sparse = Block in kinds or (self.width > SPARSE_WIDTH and filled < SPARSE_DENSITY * self.width)

    @cached_property
    def feature_names(self) -> list[str]:
        """The outputs' names."""
        return [name for entry in self.rows.entries for name in _output_names(entry)]

    def __reduce__(self) -> tuple[Any, ...]:
        return Encoder, (self.tables,)

    @classmethod
    def fit(
        cls,
        table: Table,
        rows: NDArray[np.int64],
        view: View,
        *,
        columns: Sequence[int] | None = None,
        seed: int = 0,
        weights: NDArray[np.float64] | None = None,
    ) -> tuple[Encoder, Any]:
        """Learns the tables from the training `rows` of `table` alone, and encodes these rows.

        `columns` are the indices of the input columns to keep (None: all), `weights` (len(rows),) those of the target means
        (None: the table's). Returns (encoder, X): X as of `transform`, but with out-of-fold target means, so that a model
        does not learn from a row's own target.
        """
        rows = np.asarray(rows)
        kept = range(len(table.columns)) if columns is None else columns
        fold = _Folds(table, rows, seed, weights)
        entries = _fit_numbers(table, [i for i in kept if table.columns[i].kind == "numeric"], rows, view)
        for index in kept:
            if table.columns[index].kind != "numeric":
                entries += _fit_column(table, index, rows, view, fold)
        order = {kind: place for place, kind in enumerate(runtime.KINDS)}
        entries.sort(key=lambda entry: order[entry["as"]])
        schema, positions = table.schema
        entries = [{**entry, "column": positions[entry["column"]]} for entry in entries]
        encoder = cls({"schema": schema, "encode": entries})
        return encoder, encoder._encode(table, rows, fold)

    def transform(self, table: Table, rows: NDArray[np.int64]) -> Any:
        """(len(rows), width) float32: an array in C order, or CSR if `sparse`."""
        return self._encode(table, np.asarray(rows), None)

    def _encode(self, table: Table, rows: NDArray[np.int64], fold: _Folds | None) -> Any:
        if self.sparse:
            return self._encode_sparse(table, rows, fold)
        out = np.empty((len(rows), self.width), np.float32)
        for run, place in self.rows.runs(len(rows)):
            self._fill(out[:, place], run, table, rows, fold)
        return out

    def _encode_sparse(self, table: Table, rows: NDArray[np.int64], fold: _Folds | None) -> Any:
        from scipy import sparse

        parts = []
        for run, place in self.rows.runs(len(rows)):
            entry = self.rows.entries[run.start]
            if isinstance(entry, Block):
                block = table.data[self._table_column[entry.index]][rows][:, entry.kept].astype(np.float64)
                block.data = np.nan_to_num(block.data, nan=0.0)
                scaled = block if entry.scale is None else block.multiply(np.asarray(entry.scale)[None, :]).tocsr()
                scaled.data = np.clip(scaled.data, -runtime.FLOAT_MAX, runtime.FLOAT_MAX)
                parts.append(sparse.csr_matrix(scaled.astype(np.float32)))
            elif isinstance(entry, (OneHot, Hashed)):
                places = entry.places(self._parsed(entry, table, rows))
                known = np.flatnonzero(places >= 0)
                indptr = np.concatenate([[0], np.cumsum(places >= 0)])
                ones = np.ones(len(known), np.float32)
                parts.append(sparse.csr_matrix((ones, places[known], indptr), shape=(len(rows), entry.width)))
            else:
                dense = np.empty((len(rows), place.stop - place.start), np.float32)
                self._fill(dense, run, table, rows, fold)
                parts.append(sparse.csr_matrix(dense))
        found: Any = (
            sparse.hstack(parts, format="csr", dtype=np.float32) if parts else sparse.csr_matrix((len(rows), 0))
        )
        found.eliminate_zeros()
        found.sort_indices()
        return found

    def _fill(self, out: Any, run: range, table: Table, rows: NDArray[np.int64], fold: _Folds | None) -> None:
        entries = self.rows.entries[run.start : run.stop]
        if fold is not None and isinstance(entries[0], Target):
            out[:] = fold.means[self._table_column[entries[0].index]]
        elif isinstance(entries[0], Numeric):
            place, data = self._table_column, table.data
            self.rows.fill(run, out, [data[place[entry.index]].take(rows) for entry in entries])
        else:
            self.rows.fill(run, out, [self._parsed(entries[0], table, rows)])

    def _parsed(self, entry: Any, table: Table, rows: NDArray[np.int64]) -> Any:
        """What `entry.parse` would make of the rows' raw cells, from the table's own coding."""
        index = self._table_column[entry.index]
        data, column = table.data[index], table.columns[index]
        if column.kind == "categorical":
            return entry.translate(column.levels)[np.asarray(data[rows])]
        if column.kind == "text":
            part = data[rows]
            return runtime.Counts(part.indptr, part.indices, part.data)
        if column.kind == "sparse":
            return data[rows][:, entry.kept].toarray().astype(np.float64)
        return data.take(rows)


def _code_places(entry: Any) -> Sequence[int]:
    """Which of an entry's outputs are codes of levels."""
    if isinstance(entry, runtime.Ordinal):
        return (0,)
    return [i for i, part in enumerate(entry.parts) if part == "day"] if isinstance(entry, runtime.Date) else ()


def _output_names(entry: Any) -> list[str]:
    name = entry.name
    if isinstance(entry, runtime.Absent):
        return [f"{name} is missing"]
    if isinstance(entry, runtime.Date):
        return [f"{name} {part}" for part in [*entry.parts, *(["is missing"] if entry.absent else [])]]
    if isinstance(entry, OneHot):
        names = [f"{name}={level}" for level in entry.levels] + ([f"{name} is rare"] if entry.rare else [])
        return names + ([f"{name} is missing"] if entry.width > len(names) else [])
    if isinstance(entry, Block):
        return list(entry.names)
    return [name] if entry.width == 1 else [f"{name} {i}" for i in range(entry.width)]


# --- fitting columns of numbers --------------------------------------------------------------------------------------


def _fit_numbers(table: Table, columns: Sequence[int], rows: NDArray[np.int64], view: View) -> list[dict[str, Any]]:
    """The entries of numeric columns, fitted as many at a time as `TOGETHER_CELLS` allows."""
    entries: list[dict[str, Any]] = []
    step = max(1, runtime.TOGETHER_CELLS // max(1, len(rows)))
    for first in range(0, len(columns), step):
        part = columns[first : first + step]
        cells = np.concatenate([table.data[i].take(rows) for i in part]).reshape(len(part), len(rows))
        parses = [table.columns[i].parse for i in part]
        bases = [
            {"column": i, "parse": dict(parse)} if parse else {"column": i}
            for i, parse in zip(part, parses, strict=True)
        ]
        sample = cells[:, :: _stride(len(rows))]
        if view.numeric == "scaled":
            absent = np.asarray(np.isnan(cells).any(axis=1))
            centers, scales = (found.tolist() for found in _centers_scales(sample))
            for base, flag, center, scale in zip(bases, absent, centers, scales, strict=True):
                entries.append({"as": "scaled", **base, "center": center, "scale": scale})
                entries += [{"as": "absent", **base}] if flag else []
        else:
            merging = _merging(sample)
            entries += [
                {"as": "shifted", **base, **_shift(known)} if merged else {"as": "number", **base}
                for base, merged, known in zip(bases, merging, sample, strict=True)
            ]
    return entries


def _stride(rows: int) -> int:
    """Of so many training rows every how-manieth is in the sample."""
    return max(1, -(-rows // SAMPLE_ROWS))


def _centers_scales(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Median and interquartile range of each row of (columns, n); where that is 0 the standard deviation, else 1.

    NaN is missing; without a value: 0 and 1. The figures are those of `np.quantile` and `np.std` of the present values.
    """
    centers, scales = np.zeros(len(values)), np.ones(len(values))
    missing = np.isnan(values)
    count = values.shape[1] - missing.sum(axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        for present in np.unique(count[count > 0]):
            some = np.flatnonzero(count == present)
            known = values[some]
            if present < values.shape[1]:
                known = known[~missing[some]].reshape(len(some), present)
            low, centers[some], high = _quartiles(known)
            spread = high - low
            poor = ~((spread > 0.0) & np.isfinite(spread))
            spread[poor] = np.std(known[poor], axis=1)
            scales[some] = np.where((spread > 0.0) & np.isfinite(spread), spread, 1.0)
    return (
        centers + 0.0,
        scales,
    )  # a center of -0.0 becomes 0.0: which of the two zeros is in the middle hangs on the sort


def _quartiles(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, columns): the quartiles of each row of (columns, n) without NaN, interpolated as `np.quantile` does it.

    Short rows are sorted together: `np.quantile` takes ten times as long for many of them.
    """
    place = (values.shape[1] - 1) * np.array([0.25, 0.5, 0.75])
    before = np.floor(place).astype(np.int64)
    after, part = np.minimum(before + 1, values.shape[1] - 1), place - before
    if values.shape[1] <= SHORT:
        ordered = np.sort(values, axis=1)
    else:
        ordered = np.partition(values, np.unique([before, after]), axis=1)
    low, high = ordered[:, before], ordered[:, after]
    rise = high - low
    return np.asarray(np.where(part >= 0.5, high - rise * (1.0 - part), low + rise * part).T)


def _merging(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether float32 merges more than `MERGED` of the distinct values of each row of (columns, n); NaN is missing."""
    found = np.asarray(((runtime.to_float32(values) != values) & ~np.isnan(values)).any(axis=1))
    if found.any():
        ordered = np.sort(values[found], axis=1)  # NaN last
        rounded = runtime.to_float32(ordered)  # rounding keeps the order: equal ones stand together
        # a missing value differs from its neighbour, be that missing as well: each of them counts once
        distinct, left = (
            1 + np.count_nonzero(part[:, 1:] != part[:, :-1], axis=1) - np.isnan(part).sum(axis=1)
            for part in (ordered, rounded)
        )
        found[found] = left < (1.0 - MERGED) * distinct
    return found


def _shift(values: NDArray[np.float64]) -> dict[str, Any]:
    """How a column that float32 would merge is moved: by its median, and split in two where that isn't enough."""
    known = values[~np.isnan(values)]
    shift = float(np.median(known))
    return {"shift": shift, **({"split": True} if _merging((known - shift)[None])[0] else {})}


# --- fitting one column -----------------------------------------------------------------------------------------------


def _fit_column(table: Table, index: int, rows: NDArray[np.int64], view: View, fold: _Folds) -> list[dict[str, Any]]:
    column, data = table.columns[index], table.data[index]
    if column.kind == "categorical":
        return _fit_categories(column, index, np.asarray(data[rows]), view, fold)
    if column.kind == "text":
        return _fit_text(index, data[rows], view)
    if column.kind == "sparse":
        return _fit_block(index, data[rows], view, column.parse)
    values = np.asarray(data[rows[:: _stride(len(rows))]], np.float64)
    absent = bool(np.isnan(np.asarray(data[rows], np.float64)).any()) and view.numeric == "scaled"
    return [_fit_date(column, index, values[~np.isnan(values)], view, absent)]


def _fit_date(column: Column, index: int, values: NDArray[np.float64], view: View, absent: bool) -> dict[str, Any]:
    """The parts that vary among the training rows (days always); with the view "days" each day, counted from the first one."""
    names = runtime.DATE_PARTS if view.dates == "days" else runtime.DATE_PARTS[:-1]
    parts = runtime.date_parts(values, names)
    vary = [i for i, name in enumerate(names) if name == "days" or len(np.unique(parts[:, i])) > 1]
    entry: dict[str, Any] = {"as": "date", "column": index, "parts": [names[i] for i in vary]}
    if column.parse:
        entry["parse"] = dict(column.parse)
    if view.numeric == "scaled":
        centers, scales = _centers_scales(np.ascontiguousarray(parts[:, vary].T))
        entry |= {"center": centers.tolist(), "scale": scales.tolist(), "absent": absent}
    else:
        days = float(np.floor(np.median(parts[:, 0]))) if len(values) else 0.0
        first = float(np.floor(parts[:, 0].min())) if len(values) else 0.0
        entry["center"] = [{"days": days, "day": first}.get(names[i], 0.0) for i in vary]
    return entry


def _fit_text(index: int, counts: Any, view: View) -> list[dict[str, Any]]:
    """The most frequent buckets, by the number of training rows that have them; those in one row only are left out."""
    rows = np.bincount(counts.indices, minlength=runtime.TEXT_BUCKETS)
    order = np.argsort(-rows, kind="stable")[: view.text]
    kept = sorted(int(bucket) for bucket in order if rows[bucket] >= 2)
    return [{"as": "text", "column": index, "kept": kept}] if kept else []


def _fit_block(index: int, block: Any, view: View, parse: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The columns of a sparse block that are not empty; "scaled" divides by the largest magnitude where these differ."""
    magnitude = abs(block)
    magnitude.data = np.nan_to_num(magnitude.data, nan=0.0)
    largest = np.asarray(magnitude.max(axis=0).toarray(), np.float64).reshape(-1)
    kept = np.flatnonzero(largest > 0)
    if not len(kept):
        return []
    entry: dict[str, Any] = {"as": "sparse", "column": index}
    if parse:
        entry["parse"] = dict(parse)
    if len(kept) < len(largest):
        entry["kept"] = kept.tolist()
    largest = largest[kept]
    if view.numeric == "scaled" and largest.max() > 10.0 * largest.min():
        entry["scale"] = (1.0 / largest).tolist()
    return [entry]


def _fit_categories(
    column: Column, index: int, codes: NDArray[np.int32], view: View, fold: _Folds
) -> list[dict[str, Any]]:
    counts = np.bincount(codes[codes >= 0], minlength=len(column.levels))
    seen = np.flatnonzero(counts)
    missing = bool((codes < 0).any())
    if not len(seen) and not missing:
        return []
    if view.categories == "ordinal":
        return [{"as": "ordinal", "column": index, "levels": [column.levels[i] for i in seen]}]
    few = len(seen) <= view.max_onehot
    if view.categories == "hash" and not few:
        odd = [level for level in column.levels if runtime.is_missing(level)]
        entry: dict[str, Any] = {"as": "hashed", "column": index, "buckets": HASH_BUCKETS}
        return [{**entry, **({"missing": True} if missing else {}), **({"levels": odd} if odd else {})}]
    if view.categories == "target" or not few:
        return [fold.target_entry(column, index, codes, seen, view)]
    rare = [i for i in seen if counts[i] < RARE_COUNT]
    rare = rare if len(rare) > 1 and len(rare) < len(seen) else []
    entry = {"as": "onehot", "column": index}
    entry["levels"] = [column.levels[i] for i in seen if i not in set(rare)]
    if rare:
        entry["rare"] = [column.levels[i] for i in rare]
    return [{**entry, **({"missing": True} if missing else {})}]


# --- target means -----------------------------------------------------------------------------------------------------


class _Folds:
    """The target of the training rows as `outputs` columns, and the fold of each row, both made when first needed."""

    def __init__(self, table: Table, rows: NDArray[np.int64], seed: int, weights: NDArray[np.float64] | None) -> None:
        self.table, self.rows, self.seed = table, rows, seed
        self.weights = np.asarray(table.weights[rows]) if weights is None and table.weights is not None else weights
        self.means: dict[int, NDArray[np.float32]] = {}
        self._folds: NDArray[np.int64] | None = None

    @property
    def folds(self) -> NDArray[np.int64]:
        if self._folds is None:
            self._folds = np.random.default_rng(self.seed).permutation(len(self.rows)) % FOLDS
        return self._folds

    def targets(self) -> list[NDArray[np.float64]]:
        """The target as columns: itself, or an indicator a class (of hashed classes if there are more than ten)."""
        y, task = np.asarray(self.table.y[self.rows]), self.table.task
        if task.kind != "multiclass":
            return [y.astype(np.float64)]
        count = len(task.classes)
        if count > MOST_TARGET_CLASSES:
            y, count = (y.astype(np.int64) * 2_654_435_761 % 2**32) * MOST_TARGET_CLASSES // 2**32, MOST_TARGET_CLASSES
        return [(y == code).astype(np.float64) for code in range(count)]

    def target_entry(
        self, column: Column, index: int, codes: NDArray[np.int32], seen: NDArray[np.int64], view: View
    ) -> dict[str, Any]:
        """The table of smoothed means of every level, and out-of-fold ones for the training rows (`means`).

        Smoothing is empirical Bayes, scikit-learn's TargetEncoder(smooth="auto") after Micci-Barreca (2001): the level's
        mean and the overall one weighted by n var(y) and the variance within the level.
        """
        translate = np.full(len(column.levels) + 1, len(seen), np.int64)
        translate[seen] = np.arange(len(seen))  # missing is a level of its own, the last
        level = translate[codes]
        found = [_smoothed(level, self.folds, y, self.weights, len(seen) + 1) for y in self.targets()]
        full, other = np.stack([f[0] for f in found], 1), np.asarray([f[1] for f in found])
        rows = np.stack([f[2] for f in found], 1)
        if view.numeric == "scaled":
            center, spread = rows.mean(axis=0), rows.std(axis=0)
            spread[~(spread > 1e-12)] = 1.0
            full, other, rows = ((part - center) / spread for part in (full, other, rows))
        self.means[index] = runtime.to_float32(rows)
        return {
            "as": "target",
            "column": index,
            "levels": [column.levels[i] for i in seen],
            "values": [_short(row) for row in full[:-1]],
            "missing": _short(full[-1] if (level == len(seen)).any() else other),
            "other": _short(other),
        }


def _short(values: NDArray[np.float64]) -> list[float]:
    """Numbers rounded to float32, as the shortest decimals that read back as the same float32."""
    return [float(str(value)) for value in runtime.to_float32(values)]


def _smoothed(
    level: NDArray[np.int64],
    folds: NDArray[np.int64],
    y: NDArray[np.float64],
    weights: NDArray[np.float64] | None,
    levels: int,
) -> tuple[NDArray[np.float64], float, NDArray[np.float64]]:
    """(means (levels,), overall mean, out-of-fold mean of each row (n,)): smoothed means of y by level."""
    shift = float(y.mean())
    centred = y - shift
    cell, size = level * FOLDS + folds, levels * FOLDS
    w = np.ones(len(y)) if weights is None else weights
    sums = [np.bincount(cell, v, size).reshape(levels, FOLDS) for v in (w, w * centred, w * centred * centred)]
    whole, overall = _bayes(*(part.sum(axis=1, keepdims=True) for part in sums))
    outside, _ = _bayes(*(part.sum(axis=1, keepdims=True) - part for part in sums))
    return whole[:, 0] + shift, float(overall[0]) + shift, outside[level, folds] + shift


def _bayes(
    count: NDArray[np.float64], total: NDArray[np.float64], squares: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Smoothed means (levels, sets) and overall means (sets,) from sums of weights, w y and w y^2."""
    everything = np.maximum(count.sum(axis=0), 1e-300)
    mean = total.sum(axis=0) / everything
    variance = np.maximum(squares.sum(axis=0) / everything - mean**2, 0.0)
    safe = np.maximum(count, 1e-300)
    own = total / safe
    within = np.maximum(squares / safe - own**2, 0.0)
    trust = variance * count
    share = np.where(trust + within > 0.0, trust / np.maximum(trust + within, 1e-300), 1.0)
    share = np.where(count > 1e-9, share, 0.0)
    return share * own + (1.0 - share) * mean, mean
