"""What people type and read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automl.errors import UsageError, UsageTypeError
from automl.search import units


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (300, 300.0),
        ("300", 300.0),
        ("90s", 90.0),
        ("5m", 300.0),
        ("10 min", 600.0),
        ("1h", 3600.0),
        ("1h30m", 5400.0),
        ("100us", 1e-4),
        ("100 µs", 1e-4),
        ("1ms", 1e-3),
        (".5s", 0.5),
        (np.float32(2), 2.0),
        (np.int64(7), 7.0),
    ],
)
def test_a_time_is_a_number_or_a_number_with_a_unit(text: object, found: float) -> None:
    assert units.seconds(text, "budget") == pytest.approx(found)


@pytest.mark.parametrize(("text", "found"), [("200MB", 200_000_000), ("4 GB", 4_000_000_000), ("1GiB", 2**30), (5, 5)])
def test_a_size(text: object, found: int) -> None:
    assert units.size(text, "max_memory") == found


@pytest.mark.parametrize(
    ("text", "found"), [("10M", 10_000_000), ("1e6", 1_000_000), ("500k", 500_000), ("1_000", 1000)]
)
def test_a_count(text: object, found: int) -> None:
    assert units.count(text, "target_rows") == found


@pytest.mark.parametrize(
    "text", ["abc", "", "0", 0, -5, "-5", "-5m", "5 parsecs", "5m 3", "nan", "inf", float("nan"), "1h-5m"]
)
def test_what_is_not_a_time_says_the_name_the_value_and_what_to_write(text: object) -> None:
    with pytest.raises(UsageError, match=r"budget is .*; write seconds \(300\)"):
        units.seconds(text, "budget")


@pytest.mark.parametrize("value", [None, True, [5], object()])
def test_another_type_is_a_type_error(value: object) -> None:
    with pytest.raises(UsageTypeError, match="budget is a"):
        units.seconds(value, "budget")


def test_half_a_row_is_refused() -> None:
    with pytest.raises(UsageError, match="not a whole number"):
        units.count("1.5", "target_rows")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.1e-05, "31 us"),
        (2.1, "2.1 s"),
        (0.00099999, "1 ms"),
        (720, "12 min"),
        (7200, "2 h"),
        (None, "-"),
        (5e-9, "5 ns"),
    ],
)
def test_a_time_reads_in_its_best_unit(value: float | None, text: str) -> None:
    assert units.show_seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(420000, "420 kB"), (999_999, "1 MB"), (17, "17 B"), (None, "-"), (4.1e7, "41 MB")]
)
def test_a_size_reads_in_its_best_unit(value: float | None, text: str) -> None:
    assert units.show_bytes(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.916579, "0.91658"),
        (524.912, "524.91"),
        (42791.6, "42,792"),
        (1234567.8, "1,234,568"),
        (-2e4, "-20,000"),
        (1e20, "1e+20"),
    ],
)
def test_a_score_reads_without_an_exponent(value: float, text: str) -> None:
    assert units.show_score(value) == text


@settings(deadline=None, max_examples=100)
@given(st.floats(1e-8, 1e5))
def test_what_is_shown_reads_back_within_three_digits(value: float) -> None:
    assert units.seconds(units.show_seconds(value), "time") == pytest.approx(value, rel=0.006)


@settings(deadline=None, max_examples=100)
@given(st.floats(1e-9, 1e5))
def test_enough_reads_back_as_no_less_and_hardly_more(value: float) -> None:
    text = units.enough(value, units.show_seconds, units.seconds)
    assert value <= units.seconds(text, "time") <= 1.03 * value


def test_a_unit_is_exact() -> None:
    assert units.seconds("60us", "time") == 6e-5
    assert units.seconds("0.1ms", "time") == 1e-4


def test_a_score_that_is_not_known_is_a_dash() -> None:
    assert [units.show_score(value) for value in (None, 0.9165812, 42792.4)] == ["-", "0.91658", "42,792"]
