"""A plan: one point of the joint space of family, hyperparameters, encoding, feature selection, reduction and hardware."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from automl.estimators.encoder import View
from automl.estimators.family import Facts, Family
from automl.estimators.hardware import Hardware
from automl.estimators.select import METHODS
from automl.estimators.space import Choice, Space, Value

from .space import Branch

ENSEMBLE = "ensemble"
"""The family of a plan that has members. It is none of the search's: it is put together from what that found."""
WHOLE = (1.0, "none", "float32")
"""The variant that is the model as it was fitted."""
RESERVED = ("view", "selection", "fraction", "reduction", "threads", "device")
FRACTIONS = (1.0, 0.75, 0.5, 0.25, 0.1)
RANKS = (0, 16, 64, 256)
LEAN = 20
"""From this many input columns on, what they cost has a say in which are kept."""
WIDE = 100
"""From this many input columns on, a truncated SVD in front of dense models is part of the search."""


@dataclass(frozen=True)
class Plan:
    """What to fit. Frozen, hashable, and plain data: `Plan.from_dict(plan.as_dict()) == plan`.

    `prefix` is the share of the fitted trees that is deployed, and `rescale`, which the trial learns, what they add is
    multiplied by. `calibration` is how the probabilities are moved, along the `curve` that the trial learns. A search proposes
    whole models as they were fitted, in float32; what else is made of them comes with them. `members` are those of an
    ensemble (of the family ENSEMBLE), each with its weight; the prediction is their weighted mean. `fold` is that of a member
    of a bag: the model that was fitted on the training rows of this fold of the cross-validation.
    """

    family: str
    params: tuple[tuple[str, Value], ...] = ()
    view: View = field(default_factory=View)
    selection: str = "none"
    fraction: float = 1.0
    reduction: int = 0
    hardware: Hardware = field(default_factory=Hardware)
    prefix: float = 1.0
    rescale: float = 1.0
    calibration: str = "none"
    curve: tuple[float, ...] = ()
    members: tuple[tuple[Plan, int], ...] = ()
    fold: int | None = None

    def as_dict(self) -> dict[str, Any]:
        fold = {} if self.fold is None else {"fold": self.fold}
        return {
            "family": self.family,
            "params": dict(self.params),
            "view": asdict(self.view),
            "selection": self.selection,
            "fraction": self.fraction,
            "reduction": self.reduction,
            "hardware": self.hardware.as_dict(),
            "prefix": self.prefix,
            "rescale": self.rescale,
            "calibration": self.calibration,
            "curve": list(self.curve),
            "members": [{"weight": weight, "plan": plan.as_dict()} for plan, weight in self.members],
            **fold,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        return cls(
            family=data["family"],
            params=tuple(sorted(data["params"].items())),
            view=View(**data["view"]),
            selection=data["selection"],
            fraction=data["fraction"],
            reduction=data["reduction"],
            hardware=Hardware(**data["hardware"]),
            prefix=data.get("prefix", 1.0),
            rescale=data.get("rescale", 1.0),
            calibration=data.get("calibration", "none"),
            curve=tuple(data.get("curve", ())),
            members=tuple((cls.from_dict(m["plan"]), m["weight"]) for m in data.get("members", ())),
            fold=data.get("fold"),
        )

    @property
    def whole(self) -> Plan:
        """The plan of the model as it was fitted: all the trees, as they are; itself if it is that."""
        if self.variant == WHOLE and self.rescale == 1.0:
            return self
        return replace(
            self,
            prefix=1.0,
            rescale=1.0,
            calibration="none",
            curve=(),
            hardware=replace(self.hardware, dtype="float32"),
        )

    @property
    def variant(self) -> tuple[float, str, str]:
        """What is made of the fitted model: the share of its trees, the calibration and the dtype of its weights."""
        return self.prefix, self.calibration, self.hardware.dtype

    @cached_property
    def id(self) -> str:
        """Twelve hexadecimal digits of what the plan chooses: equal plans have equal ids."""
        content = self.as_dict()
        del content["rescale"], content["curve"]  # learned, not chosen: the same prefix on other rows has another
        if self.prefix == 1.0:  # a whole model's is what it was before there were prefixes
            del content["prefix"]
        if self.calibration == "none":
            del content["calibration"]
        if not self.members:
            del content["members"]
        if self.hardware.engine == "onnx":  # likewise, before there were engines
            del content["hardware"]["engine"]
        if self.hardware.serving_threads == 1:
            del content["hardware"]["serving_threads"]
        if self.view.dates == "parts":
            del content["view"]["dates"]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def bag_of(plan: Plan, folds: int) -> Plan:
    """The mean of the models that a plan gives on the folds of a cross-validation: a bag."""
    return Plan(ENSEMBLE, members=tuple((replace(plan, fold=fold), 1) for fold in range(folds)))


def single_of(plan: Plan) -> Plan:
    """The plan that a bag is of; one that is no bag is its own."""
    bag = plan.members and all(member.fold is not None for member, _ in plan.members)
    return replace(plan.members[0][0], fold=None) if bag else plan


def branches(
    families: Sequence[Family], facts: Facts, threads: Sequence[int], devices: Mapping[str, Sequence[str]] | None = None
) -> tuple[Branch, ...]:
    """The joint space: one branch a family, its own ranges beside those of encoding, selection, reduction, threads and device.

    `devices` are those that a family may train on, its usual one first, by its name; the others train on the CPU.
    """
    joint = []
    for family in families:
        space: Space = dict(family.space(facts))
        clash = [name for name in space if name in RESERVED]
        if clash:
            raise ValueError(
                f"family {family.name!r} names a hyperparameter {clash[0]!r}, which is the plan's own word: rename it"
            )
        views = family.views(facts)
        if len(views) > 1:
            space["view"] = Choice(tuple(range(len(views))))
        if facts.columns >= 4 and not facts.sparse and family.name != "baseline":
            space["selection"] = Choice(METHODS if facts.columns >= LEAN else tuple(m for m in METHODS if m != "value"))
            space["fraction"] = Choice(FRACTIONS)
        if family.reduces and facts.columns >= WIDE:
            space["reduction"] = Choice(tuple(r for r in RANKS if r < facts.columns))
        if family.parallel and len(threads) > 1:
            space["threads"] = Choice(tuple(threads))
        if len(own := (devices or {}).get(family.name, ())) > 1:
            space["device"] = Choice(tuple(own))
        joint.append(Branch(family.name, space))
    return tuple(joint)


def from_point(point: Mapping[str, Value], family: Family, facts: Facts, threads: int, device: str = "cpu") -> Plan:
    """The plan of a point that a strategy proposed. Axes left out take their default."""
    views = family.views(facts)
    selection, fraction = str(point.get("selection", "none")), float(point.get("fraction", 1.0))
    if selection == "none" or fraction >= 1.0:
        selection, fraction = "none", 1.0
    return Plan(
        family=family.name,
        params=tuple(sorted((k, v) for k, v in point.items() if k not in RESERVED and k != "family")),
        view=views[int(point.get("view", 0))],
        selection=selection,
        fraction=fraction,
        reduction=int(point.get("reduction", 0)),
        hardware=Hardware(
            threads=int(point.get("threads", threads)) if family.parallel else 1,
            device=str(point.get("device", device)),
        ),
    )
