"""Encoder, feature selection, reduction and model, fitted together on rows of a table and exported as one artifact."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import calibrate, select
from .encoder import Encoder, View
from .errors import ArtifactError, DataError
from .hardware import Hardware
from .narrow import rounded
from .prefix import count, link
from .space import Value
from .table import merge_duplicates

if TYPE_CHECKING:
    from .family import Family
    from .reduce import Reduction
    from .table import Table

RANKING_ROWS = 5000
"""Feature rankings are made on at most this many training rows."""
PROOF_ROWS = 1000
PROOF_CELLS = 5_000_000
"""So many encoded cells are proved at a time."""
DENSE_CELLS = 50_000_000
"""A sparse encoding is made dense, for families that need it, up to this many cells."""


@dataclass(frozen=True)
class Proof:
    """How far the exported graph is from the fitted model, on `rows` rows with missing and unseen values."""

    rows: int
    largest_difference: float
    ties: int

    def as_dict(self) -> dict[str, float]:
        return {"rows": self.rows, "largest_difference": self.largest_difference, "ties": self.ties}


class Pipeline:
    """A plan made real. `fit` learns every step on the training rows alone.

    Parameters are those of a plan: the family and its hyperparameters, the encoder's view, the selection method and the
    fraction of input columns kept, the rank of the reduction (0: none), and the hardware.
    """

    encoder: Encoder
    reduction: Reduction | None
    model: Any

    def __init__(
        self,
        family: Family,
        params: Mapping[str, Value],
        *,
        view: View,
        selection: str = "none",
        fraction: float = 1.0,
        rank: int = 0,
        hardware: Hardware | None = None,
        seed: int = 0,
    ) -> None:
        self.family = family
        self.params = dict(params)
        self.view = view
        self.selection = selection
        self.fraction = fraction
        self.rank = rank
        self.hardware = hardware or Hardware()
        self.seed = seed
        self.dtype = "float32"
        self.calibration: tuple[str, tuple[float, ...]] = ("none", ())

    def fit(self, table: Table, rows: NDArray[np.int64], *, merge: bool = False) -> Pipeline:
        """Fits on `rows` of the table, with the table's weights.

        With `merge`, identical rows become one with their summed weight, for families whose fit is unchanged by it.
        """
        task = table.task.kind
        check_classes(table, rows)
        weights = None if table.weights is None else np.asarray(table.weights[rows])
        if merge and self.family.merges_duplicates:
            rows, weights = merge_duplicates(table, rows)
        keep = self._select(table, rows, task, weights)
        self.encoder, X = Encoder.fit(table, rows, self.view, columns=keep, seed=self.seed, weights=weights)
        self.reduction = None
        if self.rank and self.rank < X.shape[1]:
            from .reduce import Reduction

            self.reduction = Reduction().fit(X, self.rank, self.seed)
        X = self._prepare(X)
        categorical = [] if self.reduction is not None else self.encoder.categorical
        self.model = self.family.build(self.params, task, self.hardware, self.seed, categorical)
        self.model.fit(X, np.asarray(table.y[rows]), sample_weight=weights)
        self.task = table.task
        return self

    def _select(
        self, table: Table, rows: NDArray[np.int64], task: str, weights: NDArray[np.float64] | None
    ) -> list[int] | None:
        """The input columns kept, best first by the ranking; None keeps all."""
        if not self.family.reads:
            return [0]
        if self.selection == "none" or self.fraction >= 1.0 or len(table.columns) < 2:
            return None
        some, weights = rows[:RANKING_ROWS], None if weights is None else weights[:RANKING_ROWS]
        ranking, X = Encoder.fit(table, some, View(), seed=self.seed, weights=weights)
        costs = {i: select.COSTS.get(column.kind, 1e-6) for i, column in enumerate(table.columns)}
        y, sources = np.asarray(table.y[some]), ranking.sources
        order = select.rank(X, y, task, self.selection, sources, self.seed, costs, weights)
        return sorted(select.keep(order, self.fraction))

    def _prepare(self, X: Any) -> Any:
        """The matrix as the model takes it: reduced, and dense where the family has no sparse fit."""
        if self.reduction is not None:
            return self.reduction.transform(X)
        if not self.family.sparse and not isinstance(X, np.ndarray):
            if X.shape[0] * X.shape[1] > DENSE_CELLS:
                raise MemoryError(
                    f"{X.shape[0]:,} x {X.shape[1]:,} sparse cells are too many to make dense for {self.family.name}: add a reduction"
                )
            return X.toarray()
        return X

    def _native(self, X: Any) -> NDArray[Any]:
        """Predictions of the fitted model itself: (n, K) probabilities or (n,) values."""
        if self.task.kind == "regression":
            return np.asarray(self.model.predict(X)).reshape(-1)
        found = np.asarray(self.model.predict_proba(X))
        method, curve = self.calibration
        return found if method == "none" else calibrate.apply(method, curve, found)

    def predict(self, table: Table, rows: NDArray[np.int64], block: int = 50_000) -> NDArray[np.float64]:
        """(n, K) class probabilities or (n,) values for rows of the table, block by block so that memory stays bounded."""
        return self.predict_staged(table, rows, (), block)[0]

    def predict_staged(
        self, table: Table, rows: NDArray[np.int64], shares: Sequence[float], block: int = 50_000
    ) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
        """`predict`, and for each of these `shares` of the trees, the largest first, what `Staged.staged` says of the prefix."""
        counts = [count(share, self.model.length) for share in shares]
        center = (
            self.model.center
            if counts and self.calibration[0] == "none" and getattr(self.model, "rescale", 1.0) == 1.0
            else None
        )
        ascending = sorted({*counts, *([] if center is None else [self.model.length])})
        parts: list[NDArray[Any]] = []
        staged: list[list[NDArray[np.float64]]] = [[] for _ in shares]
        for i in range(0, len(rows), block):
            X = self._prepare(self.encoder.transform(table, rows[i : i + block]))
            found = dict(zip(ascending, self.model.staged(X, ascending), strict=True)) if counts else {}
            for kept, number in zip(staged, counts, strict=True):
                kept.append(found[number])
            if center is None:
                parts.append(self._native(X))
            else:  # a boosted model's whole follows from its last prefix: each tree is walked once
                parts.append(link(self.task.kind, center + found[self.model.length]))
        if not parts:
            shape = (0,) if self.task.kind == "regression" else (0, len(self.task.classes))
            return np.empty(shape), [np.empty((0, 1)) for _ in shares]
        return np.concatenate(parts).astype(np.float64), [np.concatenate(kept) for kept in staged]

    def prefixes(self) -> Sequence[float]:
        """The shares of the fitted model's trees that are worth deploying alone."""
        return self.family.prefixes(self.model)

    def first(self, share: float, rescale: float) -> Pipeline:
        """The fitted pipeline with this share of its model's trees, rescaled; it shares the rest with the whole."""
        shorter = copy.copy(self)
        shorter.model = self.model.first(count(share, self.model.length), rescale)
        return shorter

    def calibrated(self, method: str, curve: tuple[float, ...]) -> Pipeline:
        """The fitted pipeline with its probabilities moved by a curve of `calibrate.fit`; it shares the rest."""
        moved = copy.copy(self)
        moved.calibration = (method, curve)
        return moved

    def narrowed(self, dtype: str) -> Pipeline | None:
        """The fitted pipeline with the weights of its dense model rounded to `dtype`; None where there is little to round.

        Raises OverflowError where they are beyond its range.
        """
        model = self.family.narrowed(self.model, dtype)
        if model is None:
            return None
        narrow = copy.copy(self)
        narrow.model, narrow.dtype = model, dtype
        if self.reduction is not None:
            narrow.reduction = copy.copy(self.reduction)
            narrow.reduction.components = rounded(self.reduction.components, dtype)
        return narrow

    def refit_params(self, rows_ratio: float) -> dict[str, Value]:
        return self.family.refit_params(self.params, self.model, rows_ratio)

    @property
    def deployed(self) -> Encoder:
        """The encoder of the artifact: once exported, without what the model turned out not to look at."""
        return getattr(self, "_deployed", self.encoder)

    @property
    def columns(self) -> int:
        """How many input columns it needs."""
        return len(set(self.deployed.sources))

    def export(self, folder: Path, table: Table, rows: NDArray[np.int64]) -> tuple[int, Proof]:
        """Writes the artifact, proves it on `rows`, and returns its size in bytes and the proof.

        Raises ArtifactError if the graph differs from the model by more than 1e-5 by `relative`, with a spread of 1 for probabilities.
        """
        from .artifact import save

        model, tables, places = self.graph()
        proof = self._prove(model, table, rows, places)
        size = save(folder, tables=tables, model=model, task=self.task.kind, classes=self.task.classes)
        if places is not None:
            self._deployed = Encoder(tables)
        return size, proof

    def graph(self) -> tuple[bytes, dict[str, Any], NDArray[np.int64] | None]:
        """(the graph, the encoder's tables without what the graph does not read, the places of the rest among all outputs)."""
        from .graph import Graph, written
        from .lean import prune

        graph = Graph(self.encoder.width, self.dtype)
        x = graph.x if self.reduction is None else self.reduction.to_onnx(graph, graph.x)
        y = self.family.to_onnx(self.model, graph, x)
        method, curve = self.calibration
        if method != "none":
            y = calibrate.to_onnx(method, curve, graph, y, len(self.task.classes))
        model = graph.model(y)
        tables, places = prune(model, self.encoder.tables, self.encoder.rows.starts)
        return written(model), tables, places

    def _prove(
        self, model: bytes, table: Table, rows: NDArray[np.int64], places: NDArray[np.int64] | None = None
    ) -> Proof:
        from .graph import session

        run, count = session(model), 0
        worst, ties, scale = 0.0, 0, float(np.std(table.y)) if self.task.kind == "regression" else 1.0
        for part in proof_blocks(self.encoder, table, rows, self.seed):
            count += len(part)
            native = self._native(self._prepare_dense(part))
            read = part if places is None else np.ascontiguousarray(part[:, places])
            found = np.asarray(run.run(None, {"x": read})[0])
            if self.task.kind == "binary":
                found = np.column_stack([1.0 - found[:, 0].astype(np.float64), found[:, 0]])
            elif self.task.kind == "regression":
                found = found[:, 0]
            difference = relative(found, native, scale)
            difference = difference if difference.ndim == 1 else difference.max(axis=1)
            if hasattr(self.model, "tied"):
                tied = self.model.tied(self._prepare_dense(part))
                ties += int(tied.sum())
                difference = difference[~tied]
            if len(difference):
                worst = max(worst, float(np.nan_to_num(difference, nan=np.inf).max()))
        if not worst <= 1e-5:
            to = "to |value| and the target's spread" if self.task.kind == "regression" else "to 1"
            raise ArtifactError(
                f"the exported graph of {self.family.name} differs from the model by {worst:.2g}, allowed is 1e-05 (relative {to}): refused"
            )
        return Proof(count, worst, ties)

    def _prepare_dense(self, X: NDArray[np.float32]) -> Any:
        return X if self.reduction is None else self.reduction.transform(X)


def relative(found: NDArray[Any], value: NDArray[Any], spread: float) -> NDArray[np.float64]:
    """|found - value| relative to max(spread, |value|), but to no more than 100 spreads.

    Far from zero a float32 is still near in proportion to the value where it has lost what tells two values apart.
    """
    return np.asarray(np.abs(found - value) / np.minimum(np.maximum(spread, np.abs(value)), 100.0 * spread))


def proof_blocks(encoder: Encoder, table: Table, rows: NDArray[np.int64], seed: int) -> Iterator[NDArray[np.float32]]:
    """At least 1,000 encoded rows, `PROOF_CELLS` at a time; in one cell of eight the column is missing, in another unseen.

    Which rows and cells is the seed's doing alone: of several encoders they are the same.
    """
    rng = np.random.default_rng(seed)
    some = np.sort(rows[:PROOF_ROWS] if len(rows) >= PROOF_ROWS else rng.choice(rows, PROOF_ROWS))
    draws = rng.integers(0, 8, (len(some), len(table.columns)), np.uint8)
    sources = np.asarray(encoder.sources, np.int64)
    missing, unseen = _corrupt_rows(encoder, table)
    step = max(1, PROOF_CELLS // max(1, encoder.width))
    for first in range(0, len(some), step):
        distinct, place = np.unique(some[first : first + step], return_inverse=True)
        X = encoder.transform(table, distinct)
        dense = (X if isinstance(X, np.ndarray) else X.toarray())[place]
        draw = draws[first : first + step][:, sources]
        np.copyto(dense, missing, where=draw == 0)
        np.copyto(dense, unseen, where=draw == 7)
        yield dense


def _corrupt_rows(encoder: Encoder, table: Table) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(1, width) encodings of a row whose every cell is missing, and of one whose every category is unseen."""
    odd = {"categorical": "\x00 unseen", "text": "\x00 unseen", "numeric": -1e30, "date": "9999-12-31"}
    used = [table.columns[i] for i in set(encoder.sources)]
    rows = [{c.name: None for c in used}, {c.name: odd.get(c.kind) for c in used}]
    missing, unseen = (np.array(encoder.rows.transform_row(row), np.float32).reshape(1, -1) for row in rows)
    return missing, unseen


def check_classes(table: Table, rows: NDArray[np.int64]) -> None:
    """Raises DataError if a class has no row among `rows`: a model of them could not know it."""
    if table.task.kind == "regression":
        return
    counts = np.bincount(np.asarray(table.y[rows], np.int64), minlength=len(table.task.classes))
    if (counts == 0).any():
        label = table.task.classes[int(np.argmin(counts))]
        raise DataError(f"class {label!r} has no row to train on in this split: give it more rows, or split otherwise")
