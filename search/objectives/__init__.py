"""The objectives; the first four are the default."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from automl.estimators.errors import UsageError

from ..objective import Objective
from .columns import Columns
from .error import Error
from .latency import Latency
from .load_time import LoadTime
from .memory import Memory
from .size import Size
from .throughput import Throughput
from .training_memory import TrainingMemory
from .training_time import TrainingTime

OBJECTIVES: tuple[Objective, ...] = (
    Error(),
    TrainingTime(),
    Latency(),
    Memory(),
    TrainingMemory(),
    Size(),
    Throughput(),
    LoadTime(),
    Columns(),
)
DEFAULT: tuple[Objective, ...] = OBJECTIVES[:4]


def by_name(names: Sequence[str | Objective] | None = None) -> tuple[Objective, ...]:
    """The objectives of those names, in their order; an `Objective` stands for itself, None for the default four.

    Raises UsageError for an unknown name (with what is known), a repeated one, or none at all.
    """
    if names is None:
        return DEFAULT
    known = {objective.name: objective for objective in OBJECTIVES}
    chosen: list[Objective] = []
    for name in names:
        if isinstance(name, Objective):
            chosen.append(name)
        elif name in known:
            chosen.append(known[name])
        else:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise UsageError(f"unknown objective {name!r}; {hint}Known: {', '.join(known)}")
    repeated = {o.name for o in chosen if sum(other.name == o.name for other in chosen) > 1}
    if not chosen or repeated:
        found = f"{', '.join(sorted(repeated))} twice" if repeated else "none"
        raise UsageError(f"objectives must be at least one and each once, found {found}")
    return tuple(chosen)
