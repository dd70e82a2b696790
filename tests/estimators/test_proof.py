"""What an exported graph may differ from its model by."""

from __future__ import annotations

import numpy as np

from automl.estimators.pipeline import relative


def test_a_difference_is_seen_where_the_values_are_far_from_zero_too() -> None:
    assert relative(np.array([5.00001]), np.array([5.0]), 10.0)[0] < 2e-6  # within the spread: relative to it
    assert abs(relative(np.array([50.005]), np.array([50.0]), 1.0)[0] - 1e-4) < 1e-9  # beyond: relative to the value
    seconds = 1.7e9 + np.arange(5.0)  # a spread of 1: as float32 they are all the same
    assert relative(seconds.astype(np.float32).astype(float), seconds, 1.0).max() > 1e-2
