"""Evolution by NSGA-II: non-dominated sorting and crowding distance over generations.

Deb et al., A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II, IEEE TEC 6 (2002). The engine is Optuna's
`NSGAIISampler`, with a population of 20; it needs some hundred trials to be better than random search.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from ..space import Point
from ..strategy import Strategy

if TYPE_CHECKING:
    from ..optuna_proposer import Proposer


class NSGA2(Strategy):
    """NSGA-II over the completed trials: trial i (in the order of their numbers) belongs to generation i // 20."""

    name = "nsga2"

    @cached_property
    def _proposer(self) -> Proposer:
        from ..optuna_proposer import Proposer  # Optuna is loaded only where it proposes

        return Proposer("nsga2", self.branches, self.seed, self.objectives)

    def propose(self, index: int, attempt: int) -> Point:
        return self._proposer.propose(self.told, list(self.pending.values()), index, attempt)
