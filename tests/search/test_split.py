"""How rows are held apart: nothing is in two parts, every rung is stratified, groups and time are respected."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import KFold, PredefinedSplit, RepeatedKFold, ShuffleSplit, TimeSeriesSplit

from automl.estimators.errors import DataError, UsageError
from automl.search.split import Split, make_split


def parts(split: Split) -> list[set[int]]:
    return [set(split.train.tolist()), set(split.validation.tolist()), set(split.holdout.tolist())]


def test_large_table_is_cut_in_three_disjoint_stratified_parts() -> None:
    y = (np.arange(30_000) % 10 == 0).astype(np.int32)
    split = make_split(y, "binary", 0)
    train, validation, holdout = parts(split)
    assert not train & validation
    assert not train & holdout
    assert not validation & holdout
    assert len(train | validation | holdout) == len(y)
    for rows in (split.train, split.validation, split.holdout, split.train[: split.rungs()[0]]):
        assert y[rows].mean() == pytest.approx(0.1, abs=0.002)


def test_rungs_are_nested_prefixes_that_grow_by_four() -> None:
    split = make_split(np.arange(100_000) % 2, "binary", 0)
    rungs = split.rungs()
    assert rungs[-1] == len(split.train)
    assert all(b // 4 == a for a, b in itertools.pairwise(rungs))
    assert rungs[0] >= 2000


def test_small_table_is_cross_validated_and_every_row_has_a_fold() -> None:
    y = np.arange(500) % 3
    split = make_split(y, "multiclass", 0)
    assert split.score_from == "cross-validation"
    assert split.fits() == 5
    assert split.rungs() == [400]
    assert sorted(split.scored.tolist()) == list(range(500))
    for train, validation in split.folds:
        assert not set(train.tolist()) & set(validation.tolist())
        assert np.bincount(y[validation]).min() >= 33


@pytest.mark.parametrize("n", [60, 442, 900, 3000])
def test_folds_of_a_regression_have_the_same_target(n: int) -> None:
    y = np.random.default_rng(0).exponential(size=n)
    split = make_split(y, "regression", 0)
    means = [y[validation].mean() for _, validation in split.folds]
    assert np.std(means) < 0.6 * y.std() / np.sqrt(n / 5)  # rows drawn at random differ by the square root
    mean_of_the_others = np.concatenate([y[v] - y[t].mean() for t, v in split.folds])
    assert np.sqrt(np.mean(mean_of_the_others**2)) == pytest.approx(y.std(), rel=0.02)


def test_a_class_with_one_member_is_always_trained_on() -> None:
    y = np.array([0] * 20 + [1] * 20 + [2])
    split = make_split(y, "multiclass", 0)
    assert all(40 in train for train, _ in split.folds)
    assert 40 not in split.scored
    assert not split.notes


@pytest.mark.parametrize("n", [2, 3, 5, 10, 20, 50, 6000])
def test_one_positive_is_trained_on_and_scored_with_a_note(n: int) -> None:
    y = np.array([1] + [0] * (n - 1))
    split = make_split(y, "binary", 0)
    assert all(0 in train for train, _ in split.folds)
    assert len(set(y[split.scored].tolist())) == 2
    assert "better than it will be" in split.notes[0]


@pytest.mark.parametrize("n", [2, 3, 5])
def test_tiny_regression_has_rows_in_every_part(n: int) -> None:
    split = make_split(np.arange(float(n)), "regression", 0)
    assert all(len(train) and len(validation) for train, validation in split.folds)
    assert split.rungs()[0] >= 1


def test_ten_classes_of_one_row_are_refused() -> None:
    with pytest.raises(DataError, match="a class of its own"):
        make_split(np.arange(10), "multiclass", 0)


def test_few_positives_in_a_long_table_are_cross_validated() -> None:
    y = np.zeros(8000, int)
    y[[5, 6, 7, 8]] = 1
    assert make_split(y, "binary", 0).fits() == 5


@pytest.mark.parametrize("n", [300, 9000])
def test_groups_never_stand_on_both_sides(n: int) -> None:
    groups = np.arange(n) // 7
    split = make_split(np.arange(n) % 2, "binary", 0, groups=groups)
    sides = [*split.folds] or [
        (split.train, split.validation),
        (split.train, split.holdout),
        (split.validation, split.holdout),
    ]
    for a, b in sides:
        assert not set(groups[a].tolist()) & set(groups[b].tolist())
    assert split.score_from == ("cross-validation" if n == 300 else "holdout")


@pytest.mark.parametrize("n", [400, 9000])
def test_the_rows_scored_know_their_groups(n: int, tmp_path: Path) -> None:
    groups = np.array([f"g{i % 40:02d}" for i in range(n)])
    split = make_split(np.arange(n) % 2, "binary", 0, groups=groups)
    split.save(tmp_path / "split.npz")
    for one in (split, Split.open(tmp_path / "split.npz")):
        assert [f"g{code:02d}" for code in one.clusters] == groups[one.scored].tolist()
    assert not len(make_split(np.arange(n) % 2, "binary", 0).clusters)


def test_a_part_of_few_groups_says_little_so_that_all_are_scored() -> None:
    groups = np.repeat([0, 1, 2], [4000, 1000, 1000])
    for seed in range(5):
        split = make_split(np.arange(6000) % 2, "binary", seed, groups=groups)
        assert sorted(len(v) for _, v in split.folds) == [1000, 1000, 4000]


def test_many_small_groups_beside_one_that_is_large_validate() -> None:
    groups = np.concatenate([np.zeros(5000, int), 1 + np.arange(1000) // 10])
    split = make_split(np.arange(6000) % 2, "binary", 0, groups=groups)
    assert (len(split.train), len(split.validation) + len(split.holdout), split.folds) == (5000, 1000, ())


def test_few_groups_of_a_large_table_are_scored_together() -> None:
    groups = np.repeat([0, 1, 2], [20_000, 5000, 5000])
    for seed in range(5):
        split = make_split(np.arange(30_000) % 2, "binary", seed, groups=groups)
        assert [len(split.train), len(split.validation), len(split.holdout)] == [20_000, 10_000, 0]
        assert len(set(split.clusters.tolist())) == 2


@pytest.mark.parametrize("count", [20, 200])
def test_what_is_scored_of_many_groups_holds_several_of_them(count: int) -> None:
    groups = np.arange(9000) % count
    for seed in range(5):
        split = make_split(np.arange(9000) % 2, "binary", seed, groups=groups)
        for rows in [split.validation, split.holdout] if len(split.holdout) else [split.scored]:
            assert len(set(groups[rows].tolist())) >= 5


def test_two_groups_of_a_long_table_are_cross_validated() -> None:
    split = make_split(np.arange(6000) % 2, "binary", 0, groups=np.arange(6000) // 5000)
    assert sorted(len(v) for _, v in split.folds) == [1000, 5000]


@pytest.mark.parametrize("n", [60, 6000])
def test_a_group_that_alone_holds_a_class_is_trained_on(n: int) -> None:
    groups = np.arange(n) * 12 // n
    y = np.where(groups == 3, 2, np.arange(n) % 2)
    for seed in range(5):
        split = make_split(y, "multiclass", seed, groups=groups)
        for train in [train for train, _ in split.folds] or [split.train]:
            assert set(y[train].tolist()) == {0, 1, 2}


def test_groups_that_are_the_classes_are_refused() -> None:
    y = np.arange(100) % 2
    with pytest.raises(DataError, match="leaves a class without rows"):
        make_split(y, "binary", 0, groups=y)


def test_one_group_is_refused() -> None:
    with pytest.raises(DataError, match="at least 2"):
        make_split(np.arange(100) % 2, "binary", 0, groups=np.zeros(100))


def test_time_never_trains_on_the_future() -> None:
    time = np.random.default_rng(0).permutation(6000)
    split = make_split(np.arange(6000.0), "regression", 0, time=time)
    assert time[split.train].max() < time[split.validation].min()
    assert time[split.validation].max() < time[split.holdout].min()


def test_rows_of_one_time_stand_on_one_side() -> None:
    time = np.random.default_rng(0).permutation(np.repeat(np.arange(2000, 2024), 400))
    split = make_split(np.arange(9600) % 2, "binary", 0, time=time)
    parts = [set(time[rows].tolist()) for rows in (split.train, split.validation, split.holdout)]
    assert max(parts[0]) < min(parts[1]) <= max(parts[1]) < min(parts[2])
    assert not split.notes
    years = np.repeat(np.arange(4), 2000)  # the last year is a quarter: all of it validates
    split = make_split(np.arange(8000) % 2, "binary", 0, time=years)
    assert (set(years[split.train].tolist()), set(years[split.validation].tolist())) == ({0, 1, 2}, {3})
    assert not len(split.holdout)


@pytest.mark.parametrize(
    "counts",
    [[1] * 2000 + [5999, 1], [6995, 5, 1000], [3990, 3990, 20], [1000] * 8],
    ids=["last", "thin", "end", "even"],
)
def test_no_part_is_a_sliver_for_the_sake_of_its_times(counts: list[int]) -> None:
    time = np.repeat(np.arange(len(counts)), counts)
    split = make_split(np.arange(8000.0), "regression", 0, time=time)
    assert len(split.train) >= 3000
    assert len(split.validation) >= 600
    assert len(split.holdout) == 0 or len(split.holdout) >= 500


def test_where_most_rows_have_one_time_it_is_said() -> None:
    split = make_split(np.arange(8000) % 2, "binary", 0, time=np.arange(8000) > 500)
    assert (len(split.train), len(split.validation), len(split.holdout)) == (6000, 1200, 800)
    assert "rows of one time" in split.notes[0]


def test_a_small_holdout_validates() -> None:
    split = make_split(np.arange(400) % 2, "binary", 0, time=np.arange(400))
    assert (len(split.validation), len(split.holdout), split.score_from) == (120, 0, "validation")


def test_a_holdout_of_one_class_validates() -> None:
    y = np.arange(6000) % 2
    y[-900:] = 0
    split = make_split(y, "binary", 0, time=np.arange(6000))
    assert (len(split.validation), len(split.holdout)) == (1600, 0)


def test_a_class_of_the_latest_rows_alone_is_refused_by_name() -> None:
    y = np.arange(100) // 90
    with pytest.raises(DataError, match="'late' has no row to train on"):
        make_split(y, "binary", 0, time=np.arange(100), classes=("early", "late"))


def test_validation_rows_of_one_class_are_refused_by_name() -> None:
    y = np.arange(100) % 2
    with pytest.raises(DataError, match="of class 'no'"):
        make_split(y, "binary", 0, validation=np.arange(0, 40, 2), classes=("no", "yes"))


def test_time_excludes_other_ways_of_splitting() -> None:
    with pytest.raises(UsageError, match="give one of them"):
        make_split(np.arange(100) % 2, "binary", 0, time=np.arange(100), groups=np.arange(100))


@pytest.mark.parametrize(("given", "source"), [(100, "validation"), (1200, "holdout")])
def test_users_validation_rows_are_not_trained_on(given: int, source: str) -> None:
    rows = np.arange(3000 - given, 3000)
    split = make_split(np.arange(3000) % 2, "binary", 0, validation=rows)
    assert not set(split.train.tolist()) & set(rows.tolist())
    assert set(split.scored.tolist()) == set(rows.tolist())
    assert split.score_from == source


def test_a_rare_class_is_trained_on_from_the_first_rung_however_rows_are_held_out() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 200_000)
    y[rng.choice(len(y), 40, replace=False)] = 2
    missed = 0
    for seed in range(12):
        validation = np.sort(np.random.default_rng(seed).choice(len(y), 40_000, replace=False))
        for how in ({"validation": validation}, {"groups": rng.integers(0, 5_000, len(y))}):
            split = make_split(y, "multiclass", seed, classes=("a", "b", "c"), **how)
            missed += 2 not in y[split.train[: split.rungs()[0]]]
    assert not missed


def test_a_time_series_splitter_never_trains_on_the_future() -> None:
    split = make_split(np.arange(120.0), "regression", 0, splitter=TimeSeriesSplit(4))
    assert split.fits() == 4
    assert all(train.max() < validation.min() for train, validation in split.folds)
    assert split.rungs() == [int(np.median([len(t) for t, _ in split.folds]))]


@pytest.mark.parametrize(
    ("splitter", "fits", "scored"),
    [
        (KFold(3), 3, 100),
        (RepeatedKFold(n_splits=3, n_repeats=2, random_state=0), 3, 100),
        (ShuffleSplit(1, test_size=0.2, random_state=0), 1, 20),
        (PredefinedSplit([-1] * 70 + [0] * 30), 1, 30),
    ],
    ids=["kfold", "repeated", "shuffle", "predefined"],
)
def test_any_splitter_gives_the_folds(splitter: Any, fits: int, scored: int) -> None:
    split = make_split(np.arange(100) % 2, "binary", 0, splitter=splitter)
    assert split.fits() == fits
    assert len(split.scored) == len(set(split.scored.tolist())) == scored
    assert split.rungs()[0] >= 66
    assert split.score_from == ("cross-validation" if fits > 1 else "validation")


def test_folds_of_a_splitter_that_starve_a_class_are_left_out() -> None:
    y = np.repeat([0, 1], 50)
    with pytest.raises(DataError, match="KFold gives no fold"):
        make_split(y, "binary", 0, splitter=KFold(2))
    split = make_split(np.roll(y, 30), "binary", 0, splitter=TimeSeriesSplit(4))
    assert all(set(np.roll(y, 30)[train].tolist()) == {0, 1} for train, _ in split.folds)
    y[10:90] = np.arange(80) % 2
    assert "left out" not in "".join(make_split(y, "binary", 0, splitter=KFold(2)).notes)


class Odd:
    """A splitter that yields what it is given."""

    def __init__(self, *folds: tuple[list[int], list[int]]) -> None:
        self.folds = folds

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[tuple[list[int], list[int]]]:
        yield from self.folds


@pytest.mark.parametrize(
    ("splitter", "message"),
    [
        (Odd(), "no fold"),
        (Odd(([0, 1, 2], [2, 3])), "trains on 1 rows it validates"),
        (Odd(([0, 1, 2], [300])), "cannot split"),
        (KFold(50), "cannot split"),
    ],
    ids=["none", "overlapping", "outside", "too many"],
)
def test_splitters_that_do_not_split_are_refused(splitter: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_split(np.arange(20) % 2, "binary", 0, splitter=splitter)


def test_a_split_survives_its_file(tmp_path: Path) -> None:
    tables = [np.arange(200) % 2, np.arange(8000) % 2, np.array([1] + [0] * 20)]
    for y in tables:
        split = make_split(y, "binary", 1)
        split.save(tmp_path / "split.npz")
        again = Split.open(tmp_path / "split.npz")
        assert np.array_equal(split.train, again.train)
        assert np.array_equal(split.scored, again.scored)
        assert [t.tolist() for t, _ in split.folds] == [t.tolist() for t, _ in again.folds]
        assert split.rungs() == again.rungs()
        assert split.notes == again.notes
