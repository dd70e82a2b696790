"""Grid search: the Cartesian product of a few steps per range, from cheap to expensive."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from automl.estimators.space import Value

from ..space import JointSpace, Point, grid, key
from ..strategy import Strategy


class Grid(Strategy):
    """The points of `space.grid` in its order, sorted by `cost` where that is given; then it is exhausted.

    `step_count` values per range, at most `limit` points per family.
    """

    name = "grid"

    def __init__(
        self,
        branches: JointSpace,
        seed: int = 0,
        objectives: int = 1,
        *,
        starts: Sequence[Mapping[str, Value]] = (),
        cost: Callable[[Point], float] | None = None,
        step_count: int = 3,
        limit: int = 256,
    ) -> None:
        super().__init__(branches, seed, objectives, starts=starts, cost=cost)
        self._points = list(grid(branches, step_count, limit, cost))
        self._next = 0

    def propose(self, index: int, attempt: int) -> Point | None:
        """The first point of the order that was not given yet; neither number matters."""
        while self._next < len(self._points) and key(self._points[self._next]) in self._seen:
            self._next += 1
        return dict(self._points[self._next]) if self._next < len(self._points) else None

    @property
    def exhausted(self) -> bool:
        """Whether every point of the grid was given."""
        return self.propose(0, 0) is None
