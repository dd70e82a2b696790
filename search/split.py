"""Which rows train, which steer the search, and which are kept untouched for the reported score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from automl.estimators.errors import DataError, UsageError, UsageTypeError
from automl.estimators.table import nested_order

CV_BELOW = 5000
"""Under this many rows every trial is cross-validated (as AutoGluon and FLAML do on small tables)."""
FOLDS = 5
ETA = 4
"""Rows grow by this factor from rung to rung (Hyperband's usual 3 or 4)."""
SMALLEST_RUNG = 2000
LEAST_LAW_ROWS, LEAST_EIGHTH = 30, 500
"""From fewer rows than the first nothing is learned about how a model grows; an eighth of the rows, of the second number or more, tells
as much as half of them (`python benchmarks/laws.py DATA --steps 8 4 1`, and `4 2 1`).
"""
LEAST_HOLDOUT = 500
"""A holdout of fewer rows says too little: its rows validate instead."""
LEAST_GROUPS = 5
"""With `groups` each part that is scored holds so many of them: the scatter of their means is all that tells how sure a score is."""
LEAST_MINORITY, FEW_MINORITY, CV_RARE_BELOW = 20, 500, 20_000
"""With fewer rows than the first in its second class a table is cross-validated however long it is, with fewer than the second
under the third number of rows: a tenth of them says little of a model, and nothing of its standard error.
"""
MOST_SCORED, RARE, MOST_RARE = 10_000, 2_000, 50_000
"""Validation and holdout have at most so many rows, or as many as hold the second number of the second class, under the third.

Of a rare class it is its rows that a score is made of: with 5 % of them 10,000 rows leave the area under the ROC curve a
standard error of 0.012, and the choice among models is luck.
"""
FEWEST = 10
"""Under this many rows nothing can be measured; from it on a target whose every class has a single row is refused."""

Rows = NDArray[np.int64]
EMPTY: Rows = np.empty(0, np.int64)


@dataclass(frozen=True)
class Split:
    """Row numbers. `train` is in nested, stratified order: every prefix is a rung.

    With cross-validation `folds` holds the (training, validation) rows of every fit, no row validated twice, `train` all
    rows, and `validation` and `holdout` are empty; otherwise `validation` steers the search and `holdout` gives the
    reported score. `notes` are sentences on what had to be done to the rows. `clusters` are the codes of the groups of the
    `scored` rows, in that order, none where rows have no groups.
    """

    train: Rows
    validation: Rows
    holdout: Rows
    folds: tuple[tuple[Rows, Rows], ...] = ()
    notes: tuple[str, ...] = ()
    clusters: Rows = field(default_factory=lambda: EMPTY)

    @property
    def cross_validated(self) -> bool:
        return bool(self.folds)

    @property
    def even(self) -> bool:
        """Whether all folds train on about as many rows: those of a time series do not."""
        counts = [len(train) for train, _ in self.folds]
        return not counts or max(counts) <= 1.5 * min(counts)

    @property
    def score_from(self) -> str:
        """Whose rows give the reported score: "holdout", "cross-validation", or "validation", which steered the search."""
        if len(self.folds) > 1:
            return "cross-validation"
        return "holdout" if len(self.holdout) else "validation"

    @property
    def scored(self) -> Rows:
        """The rows whose losses a trial keeps, in that order: validation, then holdout; or those of the folds in turn."""
        if self.folds:
            return np.concatenate([validation for _, validation in self.folds])
        return np.concatenate([self.validation, self.holdout])

    def fits(self) -> int:
        """How many fits a trial makes."""
        return max(1, len(self.folds))

    def rungs(self) -> list[int]:
        """Nested row counts, the full one last; tables under 20,000 rows and cross-validated ones have a single rung."""
        if self.folds:
            return [int(np.mean([len(train) for train, _ in self.folds]))]
        rungs = [len(self.train)]
        while len(self.train) >= 20_000 and rungs[0] // ETA >= SMALLEST_RUNG and len(rungs) < 5:
            rungs.insert(0, rungs[0] // ETA)
        return rungs

    def law_rows(self, rows: int) -> list[int]:
        """The row counts that the law of a model fitted on so many rows needs beside them: an eighth and a quarter, or of few rows a
        quarter and half of them, as far as they are enough.
        """
        return [n for n in (rows // part for part in law_parts(rows)) if n >= LEAST_LAW_ROWS]

    def save(self, path: Path) -> None:
        parts: dict[str, Any] = {
            f"{side}{k}": rows for k, fold in enumerate(self.folds) for side, rows in zip("tv", fold, strict=True)
        }
        notes = np.array(self.notes, np.str_)
        parts |= {"train": self.train, "validation": self.validation, "holdout": self.holdout}
        np.savez(path, notes=notes, clusters=self.clusters, **parts)

    @classmethod
    def open(cls, path: Path) -> Split:
        with np.load(path, allow_pickle=False) as stored:
            count = sum(name[1:].isdigit() for name in stored.files) // 2
            folds = tuple((stored[f"t{k}"], stored[f"v{k}"]) for k in range(count))
            notes = tuple(str(note) for note in stored["notes"])
            return cls(stored["train"], stored["validation"], stored["holdout"], folds, notes, stored["clusters"])


def law_parts(rows: int) -> tuple[int, int]:
    """The two parts of so many rows that a law is fitted on beside them: an eighth and a quarter, of few rows a quarter and half."""
    return (8, 4) if rows // 8 >= LEAST_EIGHTH else (4, 2)


def make_split(
    y: NDArray[Any],
    task: str,
    seed: int,
    *,
    groups: NDArray[Any] | None = None,
    time: NDArray[Any] | None = None,
    validation: Rows | None = None,
    splitter: Any = None,
    classes: Sequence[Any] = (),
) -> Split:
    """The split by size: 5-fold cross-validation under 5,000 rows, else validation and an untouched holdout.

    `groups` never stand on both sides; with `time` the validation and holdout rows are the latest; `validation` are rows
    that the user gave for it (X_val); `splitter` is any scikit-learn splitter, whose first five folds are used, a row
    that several of them validate in the first alone. `classes` are the labels, for messages.

    Every class has rows in every fit, and what is validated has two classes at least. Raises DataError where the rows
    do not allow that, UsageError for ways of splitting that exclude each other.
    """
    if time is not None and (groups is not None or splitter is not None):
        raise UsageError("time is given with groups or a splitter: rows are split in one way, so give one of them")
    order = nested_order(y, task, seed)
    if validation is not None:
        split = _nested(_given(order, y, task, seed, validation), y, task, seed)
    elif splitter is not None:
        split = _nested(Split(order, EMPTY, EMPTY, *_splitter_folds(splitter, y, task, order, groups)), y, task, seed)
    elif time is not None:
        split = _by_time(y, task, seed, time)
    elif groups is not None:
        split = _nested(_by_groups(order, y, task, seed, groups), y, task, seed)
    elif len(y) < CV_BELOW or _lopsided(y, task):
        split = _nested(Split(order, EMPTY, EMPTY, *_folds(order, y, task, seed)), y, task, seed)
    else:  # one stratified permutation, cut in three: every part is stratified, and the rarest classes are trained on
        n_val, n_hold = _sizes(y, task)
        cut = len(y) - n_val - n_hold
        split = Split(order[:cut], order[cut : cut + n_val], order[cut + n_val :])
    split = _settled(split, y, task)
    _check(split, y, task, classes)
    if groups is None:
        return split
    return replace(split, clusters=np.unique(groups, return_inverse=True)[1][split.scored])


def _nested(split: Split, y: NDArray[Any], task: str, seed: int) -> Split:
    """The split with the rows of every fit in a nested order of their own: a part of the order of all has a class's first row
    where that happens to lie.
    """

    def nested(rows: Rows) -> Rows:
        return rows[nested_order(y[rows], task, seed)] if len(rows) else rows

    return replace(split, train=nested(split.train), folds=tuple((nested(train), val) for train, val in split.folds))


def _sizes(y: NDArray[Any], task: str) -> tuple[int, int]:
    """(validation, holdout) rows: 15 % and 10 %, at most 10,000 each (the standard error of an error rate of 0.2 is 0.004 there, and falls slowly), more where a class is rare."""
    n, most = len(y), MOST_SCORED
    if task != "regression":
        most = max(most, min(MOST_RARE, round(RARE * n / max(1, _second(y)))))
    return min(max(round(0.15 * n), min(1000, n // 5)), most), min(max(round(0.10 * n), min(500, n // 10)), most)


def _second(y: NDArray[Any]) -> int:
    """The rows of the second largest class."""
    return int(np.sort(np.bincount(y.astype(np.int64)))[-2:][0])


def _lopsided(y: NDArray[Any], task: str) -> bool:
    """Whether all classes but one have so few rows that a tenth of them says nothing."""
    return task != "regression" and _second(y) < (FEW_MINORITY if len(y) < CV_RARE_BELOW else LEAST_MINORITY)


def _several(y: NDArray[Any], task: str) -> bool:
    """Whether the rows hold two classes at least; of a regression any row will do."""
    return len(y) > 0 and (task == "regression" or bool((y != y[0]).any()))


def _knows_all(train: Rows, y: NDArray[Any], task: str) -> bool:
    """Whether every class has a row among `train`; of a regression any row will do."""
    if task == "regression":
        return len(train) > 0
    codes = y.astype(np.int64)
    return bool((np.bincount(codes[train], minlength=len(codes)) > 0)[np.unique(codes)].all())


def _settled(split: Split, y: NDArray[Any], task: str) -> Split:
    """A holdout that is too small, or of one class, joins the validation rows."""
    if split.folds or (len(split.holdout) >= LEAST_HOLDOUT and _several(y[split.holdout], task)):
        return split
    return replace(split, validation=np.concatenate([split.validation, split.holdout]), holdout=EMPTY)


def _check(split: Split, y: NDArray[Any], task: str, classes: Sequence[Any]) -> None:
    """Raises DataError where a class would have no row to train on, or the rows validated would be of one class."""
    for train, validation in split.folds or ((split.train, split.validation),):
        if not len(train) or not len(validation):
            part = "validate" if len(train) else "train on"
            raise DataError(f"this split of {len(y):,} rows leaves none to {part}: give more rows, or split otherwise")
        if not _knows_all(train, y, task):
            code = int(np.setdiff1d(y, y[train])[0])
            label = classes[code] if classes else code
            raise DataError(
                f"class {label!r} has no row to train on in this split: give it more rows, or split otherwise"
            )
    scored = y[split.scored if split.folds else split.validation]
    if not _several(scored, task):
        label = classes[int(scored[0])] if classes else int(scored[0])
        raise DataError(
            f"all {len(scored):,} rows to validate on are of class {label!r}, so no model could be told from another:"
            " give rows of another class, or split otherwise"
        )


def _given(order: Rows, y: NDArray[Any], task: str, seed: int, validation: Rows) -> Split:
    """The user's own validation rows; from 1,000 of them on half are the holdout."""
    inside = np.zeros(len(y), bool)
    inside[validation] = True
    rows = validation[nested_order(y[validation], task, seed)]
    cut = len(rows) // 2 if len(rows) >= 2 * LEAST_HOLDOUT else len(rows)
    return Split(order[~inside[order]], rows[:cut], rows[cut:])


def _by_time(y: NDArray[Any], task: str, seed: int, time: NDArray[Any]) -> Split:
    """The latest rows are the holdout, those before it validate; rows of one time stand on one side where that can be."""
    ranked = np.argsort(time, kind="stable").astype(np.int64)
    n_val, n_hold = _sizes(y, task)
    wanted, n = len(y) - max(1, n_val) - n_hold, len(y)
    apart = np.flatnonzero(time[ranked][1:] != time[ranked][:-1]) + 1
    notes: tuple[str, ...] = ()
    first = _nearest(apart, wanted, wanted // 2, n - max(1, n_val + n_hold) // 2)
    if first is None:
        first, second = wanted, n - n_hold
        notes = (
            "rows of one time are both trained on and scored: too many have the same time, and later ones may be harder.",
        )
    else:
        second = _nearest(apart, n - n_hold, first + max(1, n_val // 2), n - 1) or n
    train, validation, holdout = np.split(ranked, [first, second])
    return Split(train[nested_order(y[train], task, seed)], validation, holdout, notes=notes)


def _nearest(places: NDArray[np.int64], wanted: int, low: int, high: int) -> int | None:
    """That of `places` within [low, high] which is the nearest to the one `wanted`; None if there is none."""
    inside = places[(places >= low) & (places <= high)]
    return int(inside[np.argmin(np.abs(inside - wanted))]) if len(inside) else None


def _by_groups(order: Rows, y: NDArray[Any], task: str, seed: int, groups: NDArray[Any]) -> Split:
    """Whole groups; one that alone holds a class is always trained on. Folds where a cut in three cannot be made, or would leave a
    part with so few groups that their scatter says little; on a large table the two parts are one then.
    """
    names, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise DataError("groups has one distinct value: at least 2 are needed to keep groups apart")
    rng = np.random.default_rng(seed)
    pinned = _pinned(codes, len(names), y, task)
    if len(y) >= CV_BELOW and len(names) >= 3 and not _lopsided(y, task):
        dealt = _deal(sizes, pinned, _sizes(y, task), rng)
        part = dealt[codes][order]
        split = Split(order[part == 0], order[part == 1], order[part == 2])
        few = min(np.count_nonzero(dealt == k) for k in (1, 2)) < LEAST_GROUPS
        if few:
            split = Split(split.train, np.concatenate([split.validation, split.holdout]), EMPTY)
            few = np.count_nonzero(dealt) < LEAST_GROUPS
        dear = len(y) >= CV_RARE_BELOW  # to fit every trial once for each fold
        if (dear or not few) and _knows_all(split.train, y, task) and _several(y[split.validation], task):
            return split
    fold = (rng.permutation(len(names)) % min(FOLDS, len(names)))[codes]
    fold[pinned[codes]] = -1
    folds = tuple(pair for pair in _pairs(order, fold) if _knows_all(pair[0], y, task))
    if not folds:
        raise DataError("groups cannot be kept apart: leaving any of them out leaves a class without rows to train on")
    return Split(order, EMPTY, EMPTY, folds)


def _pinned(codes: NDArray[Any], count: int, y: NDArray[Any], task: str) -> NDArray[np.bool_]:
    """(count,) whether a group alone holds all rows of a class."""
    pinned = np.zeros(count, bool)
    if task != "regression":
        label, group = np.divmod(np.unique(y.astype(np.int64) * count + codes), count)
        pinned[group[(np.bincount(label) == 1)[label]]] = True
    return pinned


def _deal(
    sizes: NDArray[Any], pinned: NDArray[np.bool_], targets: Sequence[int], rng: np.random.Generator
) -> NDArray[np.int64]:
    """The part of each group: 0 train, 1 validation, 2 holdout. The largest trains; the others have a group each at least.

    Groups are dealt out in a random order until a part has its target, past which it goes by half at the most; where no
    group is small enough for that, the smallest is taken.
    """
    part = np.zeros(len(sizes), np.int64)
    largest = int(np.argmax(sizes))
    waiting = [int(g) for g in rng.permutation(len(sizes)) if g != largest and not pinned[g]]
    for k, target in enumerate(targets, 1):
        left, room = [], target
        for g in waiting:
            if room > 0 and sizes[g] <= room + target // 2:
                part[g], room = k, room - int(sizes[g])
            else:
                left.append(g)
        if room == target and left:
            left.sort(key=lambda g: int(sizes[g]))
            part[left.pop(0)] = k
        waiting = left
    return part


def _pairs(order: Rows, fold: NDArray[Any]) -> tuple[tuple[Rows, Rows], ...]:
    """(training, validation) rows of every fold that has rows, from the fold of every row (-1: never validated)."""
    return tuple((order[fold[order] != k], np.flatnonzero(fold == k)) for k in np.unique(fold[fold >= 0]))


def _folds(order: Rows, y: NDArray[Any], task: str, seed: int) -> tuple[tuple[tuple[Rows, Rows], ...], tuple[str, ...]]:
    """Stratified folds and notes: classes dealt out in turn; a class with one member is always trained on.

    Of a regression as many rows as there are folds, neighbours by their target, go each to another fold, at random: the
    nested order itself comes round to the same part of the target every 20 rows, which dealt out in turn would be folds.
    A lonely class is validated only where no two classes would be otherwise, and then by a model that was trained on it.
    """
    fold, count = np.empty(len(order), np.int64), max(2, min(FOLDS, len(order)))
    if task == "regression":
        blocks = np.tile(np.arange(count), (-(-len(order) // count), 1))
        dealt = np.random.default_rng(seed).permuted(blocks, axis=1).reshape(-1)
        fold[order[np.argsort(y[order], kind="stable")]] = dealt[: len(order)]
        return _pairs(order, fold), ()
    place = np.arange(len(order)) % count
    codes = y.astype(np.int64)
    fold[order[np.argsort(codes[order], kind="stable")]] = place
    lonely = np.bincount(codes)[codes] < 2
    fold[lonely] = -1
    folds = _pairs(order, fold)
    if not lonely.any() or _several(codes[~lonely], task):
        return folds, ()
    if lonely.all() and len(y) >= FEWEST:
        raise DataError(
            f"each of the {len(y)} rows is of a class of its own: nothing could be measured; give several rows of a class,"
            ' or, if the target is a number, say so with --task regression (task="regression")'
        )
    train, validation = folds[0] if folds else (order, EMPTY)
    first = (train, np.concatenate([validation, np.flatnonzero(lonely)]))
    note = (
        "classes with a single row are scored by models that were trained on it: the score is better than it will be."
    )
    return (first, *folds[1:]), (note,)


def _splitter_folds(
    splitter: Any, y: NDArray[Any], task: str, order: Rows, groups: NDArray[Any] | None
) -> tuple[tuple[tuple[Rows, Rows], ...], tuple[str, ...]]:
    """The splitter's own training and validation rows, and notes. Folds that leave a class untrained are left out."""
    name = type(splitter).__name__
    if not hasattr(splitter, "split"):
        raise UsageTypeError(f"splitter must have scikit-learn's split(X, y, groups); got {name}")
    try:
        given = [
            (_mask(train, len(y)), _mask(val, len(y)))
            for train, val in splitter.split(np.zeros((len(y), 1)), y, groups)
        ][:FOLDS]
    except (ValueError, IndexError) as error:
        raise DataError(f"the splitter {name} cannot split these {len(y):,} rows: {error}") from error
    fresh, folds = np.ones(len(y), bool), []
    for k, (train, validation) in enumerate(given):
        if (train & validation).any():
            raise DataError(
                f"fold {k} of the splitter {name} trains on {int((train & validation).sum()):,} rows it validates"
            )
        rows = order[train[order]]
        if (validation & fresh).any() and _knows_all(rows, y, task):
            folds.append((rows, np.flatnonzero(validation & fresh)))
            fresh &= ~validation
    if not folds:
        why = "no fold" if not given else "no fold with rows to validate and every class among its training rows"
        raise DataError(f"the splitter {name} gives {why} for these {len(y):,} rows")
    starved = sum(not _knows_all(np.flatnonzero(train), y, task) for train, _ in given)
    note = f"{starved} of {len(given)} folds of the splitter are left out: a class has no row to train on there."
    return tuple(folds), (note,) if starved else ()


def _mask(rows: Any, n: int) -> NDArray[np.bool_]:
    """(n,) whether a row is among `rows`, given as numbers or as a mask."""
    mask = np.zeros(n, bool)
    mask[np.asarray(rows)] = True
    return mask
