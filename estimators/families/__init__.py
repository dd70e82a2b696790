"""The model families, simplest first. A new family is one file here and one word in `FAMILIES`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from ..errors import ResourceError, UsageError
from ..family import Family
from .baseline import Baseline
from .catboost import CatBoost
from .ebm import EBM
from .extra_trees import ExtraTrees
from .forest import Forest
from .lightgbm import LightGBM
from .linear import Linear
from .neighbours import Neighbours
from .network import Network
from .tabm import TabM
from .tree import Tree
from .xgboost import XGBoost

FAMILIES: tuple[Family, ...] = (
    Baseline(),
    Linear(),
    Neighbours(),
    Tree(),
    Forest(),
    ExtraTrees(),
    LightGBM(),
    XGBoost(),
    CatBoost(),
    EBM(),
    Network(),
    TabM(),
)


def by_name(names: Sequence[str | Family] | None = None, exclude: Iterable[str] = ()) -> list[Family]:
    """The families of these names (all where None) but the excluded ones; a `Family` of the user's own stands for itself.

    Raises UsageError for a name that is not known, with the nearest one, and where nothing is left; ResourceError where an
    optional family is asked for by its name and what it needs is not installed.
    """
    known = {family.name: family for family in FAMILIES}
    wanted = (
        list(FAMILIES)
        if names is None
        else [name if isinstance(name, Family) else _find(name, known) for name in names]
    )
    for family in wanted if names is not None else ():
        if family.optional and not family.available():
            raise ResourceError(
                f"family {family.name!r} needs the package {family.needs}, which is not installed: "
                f'install it with pip install "automl-frontier[{family.needs}]", or leave the family out'
            )
    known.update({family.name: family for family in wanted})
    out = {_find(name, known).name for name in exclude}
    chosen = list({family.name: family for family in wanted if family.name not in out}.values())
    if not chosen:
        raise UsageError(f"no family is left to search: known are {', '.join(known)}")
    return chosen


def _find(name: str, known: dict[str, Family]) -> Family:
    if name in known:
        return known[name]
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UsageError(f"unknown family {name!r}{hint} Known are {', '.join(known)}.")
