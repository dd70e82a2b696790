"""What a study is given and never changes, and what it tells of itself while it runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from automl.estimators.family import Facts, Family
from automl.estimators.space import Value

from .metric import Metric
from .objective import Objective
from .plan import Plan, from_point
from .split import Split

NO_WALL = 20 * 86_400.0
"""Seconds, of a fit that no clock ends: twenty days, which every timer can hold (`poll` counts milliseconds in 31 bits)."""


@dataclass(frozen=True)
class Limits:
    """What the search may spend: `seconds` of wall time (inf: counted in trials), `trials`, bytes of memory a trial."""

    seconds: float = math.inf
    trials: int | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Setting:
    """Everything a study is given and never changes. `start` is the monotonic time at which the budget began; `bounds` are the
    user's limits on models, by name.
    """

    data: Path
    split: Split
    facts: Facts
    families: dict[str, Family]
    metric: Metric
    objectives: tuple[Objective, ...]
    limits: Limits
    slots: int
    """Trials at a time, in an executor its workers."""
    threads: int
    seed: int
    merge: bool
    start: float
    in_process: bool = False
    devices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What each family may train on, its usual one first; the CPU where nothing is said."""
    compiled: bool = True
    """Whether models are offered on the compiled engine as well."""
    target_rows: int | None = None
    ensembles: bool = False
    bounds: Mapping[str, float] = field(default_factory=dict)
    cores: int | None = None
    """Processes at a time of what is done on this machine; None: as many as trials."""
    undisturbed: int | None = None
    """Threads of a trial alone on the machine, where others keep some of its cores busy; None: all `threads`."""

    @property
    def here(self) -> int:
        """How many final fits, blends and the like run at a time: they are this machine's, wherever the trials run."""
        return self.slots if self.cores is None else min(self.slots, self.cores)

    def plan(self, point: Mapping[str, Value], family: Family) -> Plan:
        """The plan of a point on what trials have here: their threads, and the family's usual device."""
        device = self.devices.get(family.name, ("cpu",))[0]
        return from_point(point, family, self.facts, self.trial_threads, device)

    @property
    def trial_threads(self) -> int:
        """Threads of a trial: one where several run at a time, else all that others leave; the fits on all rows, alone, have those
        that are left then.
        """
        return 1 if self.slots > 1 else self.undisturbed or self.threads


@dataclass(frozen=True)
class Progress:
    """A look at a running study. `front` lists (family, error, one-row p50 seconds, artifact bytes), best error first."""

    elapsed: float
    budget: float
    stage: str
    statuses: dict[str, int]
    front: list[tuple[str, float, float, float]]
