"""How long a plan will take: the family's own cost terms times what this run has measured of it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TypeAlias

from automl.estimators.family import Facts, Family
from automl.estimators.hardware import CUDA_SHARE, CUDA_START
from automl.estimators.space import Value

from .plan import Plan

OVERHEAD = 0.1
"""Seconds of a trial beside its fits, before any was measured: the fork, the predictions, the export, the quick look."""
ENCODE, EXPORT = 1.2e-5, 4e-5
"""Seconds an input column, of a fit for its encoding, and of a trial beside its fits before any was measured.

With 20,000 numeric columns of 80 rows an encoding took 0.24 s; opening the table, the export and the quick look 0.8 s.
"""
PRIOR_SD = 0.6
"""Standard deviation of the logarithm of (seconds / prior) before anything was measured of a family."""
PRIOR_WEIGHT = 1.0
MACHINE, TELLING = 1.0, 0.2
"""The priors are off by at most the first's exponential on another machine; further away is the family's own matter. Only fits of
more seconds than the second say anything of a machine: shorter ones are mostly overhead.
"""
Z90 = 1.2816
RECENT = 20
Where: TypeAlias = tuple[str, str]
"""A family's name and a device: seconds on a GPU say nothing of those on the CPU, nor of the machine's speed there."""


def threads_share(family: Family, threads: int) -> float:
    """What threads leave of a fit's seconds: Amdahl's law with a serial tenth, until the threads law of the run says better."""
    return 0.1 + 0.9 / (threads if family.parallel else 1)


def devices_of(family: Family, facts: Facts, devices: Sequence[str], threads: int) -> tuple[str, ...]:
    """Those of `devices` that a family can train on, first the one that takes its first start at all rows the less time by the
    priors; the CPU for a family that can train on none of them.
    """
    some = [device for device in devices if device in family.devices] or ["cpu"]
    start = dict(next(iter(family.starts(facts)), {}))
    seconds = family.seconds_per_unit * sum(family.cost(start, facts.rows, facts.columns, facts.classes).values())
    return tuple(sorted(some, key=lambda device: on_device(seconds * threads_share(family, threads), seconds, device)))


def on_device(here: float, one: float, device: str) -> float:
    """Seconds of a fit on a device, which takes `here` on the CPU and `one` on one of its cores."""
    return here if device == "cpu" else CUDA_START + CUDA_SHARE * one


@dataclass
class CostModel:
    """Wall seconds of a fit as lognormal: log(seconds / prior units), a running mean per family, shrunk to the machine's.

    What a trial does beside its fits (predicting, exporting) is a running mean of its own per family. The error of a
    prediction is never taken below 15 % (what repeated fits of one plan differ by on a busy machine).
    """

    facts: Facts
    ratios: dict[Where, list[float]] = field(default_factory=lambda: defaultdict(list))
    beside: dict[Where, list[float]] = field(default_factory=lambda: defaultdict(list))
    telling: set[Where] = field(default_factory=set)

    def units(self, family: Family, params: Mapping[str, Value], plan: Plan, rows: int) -> float:
        """The prior in seconds: the summed cost terms at `rows`, by the family's seconds per unit, and the encoding; of a prefix
        as fitted alone.
        """
        share = plan.fraction * (self.facts.density if family.sparse else 1.0)
        columns = plan.reduction or max(1, round(self.facts.columns * share))
        params = params if plan.prefix == 1.0 else family.shortened(params, plan.prefix)
        total = sum(family.cost(params, rows, columns, self.facts.classes).values())
        encoding = ENCODE * self.facts.columns if family.reads and not self.facts.sparse else 0.0
        one = total * family.seconds_per_unit
        here = one * threads_share(family, plan.hardware.threads)
        return max(1e-4, on_device(here, one, plan.hardware.device)) + encoding

    def observe(self, family: Family, plan: Plan, rows: int, fit_seconds: float, beside: float | None) -> None:
        """A fit's wall seconds, and what the trial took beside its fits (None where it did not end).

        Those of a family that doesn't read the inputs are all overhead, and say nothing of the machine's speed.
        """
        where = family.name, plan.hardware.device
        if family.reads:
            units = self.units(family, dict(plan.params), plan, rows)
            self.ratios[where].append(math.log(max(1e-3, fit_seconds) / units))
            if fit_seconds > TELLING:
                self.telling.add(where)
        if beside is not None:
            self.beside[where].append(max(0.0, beside))

    def ratio(self, family: Family, device: str = "cpu") -> float:
        """The logarithm of how many times as long as by the prior a fit of this family takes."""
        told = [r[-RECENT:] for where, r in self.ratios.items() if where in self.telling and where[1] == "cpu"]
        means = [sum(seen) / len(seen) for seen in told]
        machine = max(-MACHINE, min(MACHINE, median(means))) if means else 0.0
        seen = self.ratios[family.name, device][-RECENT:]
        return (PRIOR_WEIGHT * machine + sum(seen)) / (PRIOR_WEIGHT + len(seen))

    def predict(self, family: Family, plan: Plan, rows: int, fits: int = 1) -> tuple[float, float]:
        """(median, 90 % quantile) of the wall seconds of a trial that makes `fits` fits."""
        device = plan.hardware.device
        mean, seen = self.ratio(family, device), self.ratios[family.name, device][-RECENT:]
        spread = sum((r - mean) ** 2 for r in seen) + PRIOR_WEIGHT * PRIOR_SD**2
        sd = max(0.15, math.sqrt(spread / (len(seen) + PRIOR_WEIGHT)))
        base = self.units(family, dict(plan.params), plan, rows) * fits
        besides = self.beside[family.name, device][-RECENT:]
        beside = sum(besides) / len(besides) if besides else max(OVERHEAD, EXPORT * self.facts.columns)
        return beside + base * math.exp(mean), 1.2 * beside + base * math.exp(mean + Z90 * sd)
