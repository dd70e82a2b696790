"""Reading a forest from its graph, for explanations."""

from __future__ import annotations

import numpy as np

from automl.treeshap import Forest, _sets


def test_a_set_with_the_code_of_a_missing_level_has_no_unknown_ones() -> None:
    sets, members = _sets({0: [-1, 2], 1: [0]}, 2)
    none = np.zeros(2, np.bool_)
    splits = (np.zeros(2, np.int64), np.zeros(2, np.float32), none, sets, members)
    forest = Forest(np.array([0]), *splits, np.array([2, 2]), np.array([3, 3]), np.zeros((2, 1)))
    x = np.array([[-1.0], [0.0], [1.0], [2.0], [3.0], [7.0], [np.nan]], np.float32)
    found = [forest._goes_left(x, np.arange(7)[:, None], np.array([node]))[:, 0].tolist() for node in (0, 1)]
    assert found[0] == [True, False, False, True, False, False, False]
    assert found[1] == [False, True, False, False, False, False, False]
