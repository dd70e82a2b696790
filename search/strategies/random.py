"""Random search: every family as likely as the others, its parameters uniform (or in the logarithm, as ranges say).

Bergstra and Bengio, Random Search for Hyper-Parameter Optimization, JMLR 13 (2012).
"""

from __future__ import annotations

from ..space import Point, sample
from ..strategy import Strategy


class Random(Strategy):
    """Independent uniform draws; proposal i depends on the seed and on i only."""

    name = "random"

    def propose(self, index: int, attempt: int) -> Point:
        return sample(self.branches, self.random(index, attempt))
