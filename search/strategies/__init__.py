"""The strategies, the default first."""

from __future__ import annotations

import difflib

from automl.estimators.errors import UsageError

from ..strategy import Strategy
from .auto import Auto
from .bayesian import Bayesian
from .grid import Grid
from .nsga2 import NSGA2
from .random import Random

STRATEGIES: tuple[type[Strategy], ...] = (Auto, Random, Grid, Bayesian, NSGA2)


def by_name(name: str) -> type[Strategy]:
    """The strategy of that name. Raises UsageError with what is known."""
    known = {strategy.name: strategy for strategy in STRATEGIES}
    if name not in known:
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UsageError(f"unknown strategy {name!r}; {hint}Known: {', '.join(known)}")
    return known[name]
