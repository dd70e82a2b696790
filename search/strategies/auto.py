"""The default: known good points first, then Bayesian optimization.

The ladder of row counts with a law per plan (which promotes, freezes and weighs plans by their forecast) is the study's
business and a later one; this strategy answers only which plan is worth trying next.
"""

from __future__ import annotations

from ..space import Point, key
from .bayesian import Bayesian


class Auto(Bayesian):
    """The `starts` in the order given (cheapest first, as the caller sorts them), then TPE over all that was told."""

    name = "auto"

    def propose(self, index: int, attempt: int) -> Point:
        start = next((point for point in self.starts if key(point) not in self._seen), None)
        return super().propose(index, attempt) if start is None else dict(start)
