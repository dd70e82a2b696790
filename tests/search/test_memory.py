"""Training memory beyond the measured rows: what is hidden under a floor grows, and what a model's limits cap does not."""

from __future__ import annotations

import pytest

from automl.estimators.families.tabm import TabM
from automl.search.memory import MemoryLaw
from automl.search.scaling import RefusalError

COUNTS = (500.0, 1000.0, 2000.0)
FLOOR = 3.5e6


def test_a_peak_that_did_not_move_yet_grows_with_the_data() -> None:
    law = MemoryLaw(14, lambda rows: 8.0, COUNTS, [FLOOR] * 3)
    assert law.at(2000).value == pytest.approx(FLOOR, rel=0.05)
    # the copies of 14 float64 columns that a tree of benchmarks/laws.py took there: 3.7 MB for 36,632 rows
    assert law.at(32 * 2000).value == pytest.approx(FLOOR + 32 * 2000 / 36632 * 3.7e6, rel=0.3)
    assert law.at(32 * 2000).high > FLOOR + 14 * 8 * 32 * 2000


def test_measured_growth_counts_more_than_the_prior() -> None:
    for copies in (0.3, 5.0):
        values = [FLOOR + copies * 8 * 24 * n for n in (20_000, 40_000, 80_000)]
        law = MemoryLaw(20, lambda rows: 1.0, (20_000, 40_000, 80_000), values)
        assert law.at(320_000).value == pytest.approx(FLOOR + copies * 8 * 24 * 320_000, rel=0.15)


def test_what_a_model_may_not_exceed_stops_growing() -> None:
    def kept(rows: float) -> float:
        return min(rows, 1500.0)

    values = [FLOOR + 8 * 9 * n + 4000 * kept(n) for n in COUNTS]
    law = MemoryLaw(5, kept, COUNTS, values)
    assert law.at(16_000).value == pytest.approx(FLOOR + 8 * 9 * 16_000 + 4000 * 1500, rel=0.15)
    half = MemoryLaw(5, lambda rows: min(rows, 20_000.0), COUNTS, [FLOOR + 4000 * n for n in COUNTS])
    sparse = MemoryLaw(
        5, lambda rows: min(rows, 20_000.0), COUNTS, [FLOOR + 4000 * n for n in COUNTS], filled=(1.0, 0.1)
    )
    assert sparse.at(64_000).value > 1.2 * half.at(64_000).value  # fewer leaves than rows: its limit is far yet
    assert sparse.deviation(64_000) > half.deviation(64_000)


def test_what_is_no_memory_is_refused() -> None:
    with pytest.raises(RefusalError, match="not measured"):
        MemoryLaw(5, lambda rows: 1.0, [], [])
    with pytest.raises(RefusalError, match="positive"):
        MemoryLaw(5, lambda rows: 1.0, COUNTS, [1e6, 0.0, 1e6])
    with pytest.raises(RefusalError, match="times off"):
        MemoryLaw(5, lambda rows: 1.0, COUNTS, [1e6, 1e10, 1e6])


def test_what_few_rows_do_not_show_grows_by_its_prior() -> None:
    def activations(rows: float) -> float:
        return max(32.0, rows / 128) * 10_000

    counts = (1000.0, 2000.0, 4000.0)  # the batch has its least size at all of them
    values = [FLOOR + 40 * activations(n) for n in counts]
    blind = MemoryLaw(5, activations, counts, values)
    told = MemoryLaw(5, activations, counts, values, built_bytes=40.0)
    truth = FLOOR + 40 * activations(64_000)
    assert told.at(64_000).value == pytest.approx(truth, rel=0.2)
    assert blind.at(64_000).value < 0.5 * truth
    other = [
        FLOOR + 20 * activations(n) for n in (8_000, 16_000, 32_000)
    ]  # what was measured counts more than the prior
    known = MemoryLaw(5, activations, (8_000, 16_000, 32_000), other, built_bytes=40.0)
    assert known.at(128_000).value == pytest.approx(FLOOR + 20 * activations(128_000), rel=0.15)


def test_the_activations_of_tabm_grow_with_its_batches() -> None:
    family = TabM()
    point = {"k": 8, "d_block": 64, "n_blocks": 2, "d_embedding": 8, "n_bins": 16}
    few, more, most = (family.built(point, rows, 10) for rows in (1000, 64_000, 10_000_000))
    assert few == 32 * 8 * (80 + 128)
    assert more == 500 * 8 * (80 + 128)
    assert most == 4096 * 8 * (80 + 128)
