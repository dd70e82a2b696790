"""What a model family is: its tasks, its search space, its cost as a function of the data's size, how it is fitted and exported.

A new family is one file in `families/` and one word in `families/__init__.py`. A user's own family is a subclass of
`Family`, passed to `automl.fit(..., families=["linear", MyFamily()])` in the same list as ours.
"""

from __future__ import annotations

import importlib.util
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from .encoder import View
from .hardware import Hardware
from .space import Space, Value, nearest

if TYPE_CHECKING:
    from .graph import Graph

Params = Mapping[str, Value]


@dataclass(frozen=True)
class Facts:
    """What a family may know of the data before it is fitted.

    `task` is "binary", "multiclass" or "regression"; `rows` are the training rows at the full rung; `columns` the input
    columns of the table; `classes` the number of classes (0 for regression); `categorical` how many columns are
    categorical; `sparse` whether the inputs are a sparse matrix; `budget_seconds` the wall budget (inf when counted in trials);
    `density` the share of the cells that are stored, 1 where none is sparse; `days` in how many date columns a day has many
    rows, so that it may be a category: 0 where rows to come are of later days (`time=`).
    """

    task: str
    rows: int
    columns: int
    classes: int = 0
    categorical: int = 0
    sparse: bool = False
    budget_seconds: float = float("inf")
    density: float = 1.0
    days: int = 0


class Estimator(Protocol):
    """What `Family.build` returns: scikit-learn's fit and predict on float32 matrices (dense, or CSR where the family says so).

    `fit(X, y, sample_weight=None)`: X (n, d) float32, y (n,) int codes 0..K-1 for a classifier, float64 for a regressor.
    A classifier has `predict_proba(X) -> (n, K)`, a regressor `predict(X) -> (n,)`.
    """

    def fit(self, X: Any, y: NDArray[Any], sample_weight: NDArray[np.float64] | None = None) -> Any: ...


class Family(ABC):
    """A model family. Subclasses set the class attributes and write `space`, `cost`, `build` and `to_onnx`."""

    name: ClassVar[str]
    """Its one word in lists and on the command line."""
    tasks: ClassVar[frozenset[str]] = frozenset({"binary", "multiclass", "regression"})
    needs: ClassVar[str | None] = None
    """The module that must be importable ("torch"), if the family needs an extra; the extra has the same name."""
    optional: ClassVar[bool] = False
    """Whether it is searched only where what it needs happens to be installed, and a run without it says nothing."""
    sparse: ClassVar[bool] = True
    """Whether `fit` takes CSR matrices; otherwise a sparse table is reduced (SVD) or made dense before it."""
    merges_duplicates: ClassVar[bool] = False
    """Whether a fit on merged duplicate rows with summed weights is the same fit."""
    reduces: ClassVar[bool] = False
    """Whether a truncated SVD in front of it is part of the search (linear, neighbours, network)."""
    parallel: ClassVar[bool] = False
    """Whether training uses more than one thread."""
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    """Where it can train: its estimators heed `hardware.device`, "cpu" or "cuda"."""
    reads: ClassVar[bool] = True
    """Whether it looks at the inputs at all; one that doesn't is given a single column, so that width costs it nothing."""
    bagged: ClassVar[bool] = True
    """Whether the mean of its fits on other rows is worth judging: not where they are too alike to gain (Breiman 1996), and not
    where early stopping on fewer rows makes each worse than the single fit by more than the mean gains.
    """
    order: ClassVar[int] = 100
    """Simplest first: the search tries families in this order."""
    iterations: ClassVar[str | None] = None
    """The hyperparameter that counts its trees or epochs, if it has one: what a short budget cuts."""

    def available(self) -> bool:
        """Whether the optional package that it needs is installed (found, not imported)."""
        return self.needs is None or importlib.util.find_spec(self.needs) is not None

    def views(self, facts: Facts) -> Sequence[View]:
        """The encodings worth trying, the default first."""
        return (View(),)

    @abstractmethod
    def space(self, facts: Facts) -> Space:
        """The ranges of its own hyperparameters, regularization among them."""

    def starts(self, facts: Facts) -> Sequence[dict[str, Value]]:
        """A few known good points, cheapest first: complete assignments of `space` names (names left out take their default)."""
        return ({},)

    def adapted(self, point: Params, facts: Facts) -> dict[str, Value]:
        """A point known from other tables as this one takes it: only names of its space, and numbers within their ranges.

        It has no more iterations than a tenth of the budget affords by the prior of its cost, yet a sixth of its own at least.
        """
        space = self.space(facts)
        found = {name: nearest(space[name], value) for name, value in point.items() if name in space}
        if self.iterations in found and math.isfinite(facts.budget_seconds):
            count = float(found[self.iterations])
            cut = min(count, max(count / 6, self.affordable(found, facts)))
            found[self.iterations] = nearest(space[self.iterations], cut)
        return found

    def affordable(self, params: Params, facts: Facts) -> float:
        """How many `iterations` of a model with these hyperparameters a tenth of the budget affords, by the prior of its cost."""
        one, more = (
            sum(self.cost({**params, str(self.iterations): n}, facts.rows, facts.columns, facts.classes).values())
            for n in (1, 101)
        )
        return facts.budget_seconds / 10 / (self.seconds_per_unit * (more - one) / 100)

    def reference(self, facts: Facts) -> dict[str, Value] | None:
        """The point that a user would take without a search, if the family is a usual first choice; None otherwise.

        It stays on the front unless a model is sure to be better: tuning on few rows often loses to it on new ones
        (Schneider, Bischl and Feurer 2025, overtuning).
        """
        return None

    def larger(self, point: Params) -> Sequence[dict[str, Value]]:
        """Points of more capacity than this one, to be tried in this order where the last iterations still paid: twice as many."""
        if self.iterations is None or point.get("early_stopping"):  # those have as many as they wanted
            return ()
        return ({**point, self.iterations: 2 * int(point[self.iterations])},)

    def strong(self, facts: Facts, speed: float = 1.0) -> Sequence[dict[str, Value]]:
        """Points of much capacity that are known to be accurate on large tables, cut to what the budget affords.

        They are tried right after the reference, and all of these go on to all rows whatever they cost for their gain. `speed`:
        how many times as long as by the prior of its cost a fit takes.
        """
        return ()

    @abstractmethod
    def cost(self, params: Params, rows: int, columns: int, classes: int) -> dict[str, float]:
        """Terms of the training cost in multiply-adds or visited cells (its Big-O with the hyperparameters filled in).

        The sum is the prior of the time law; each term's coefficient is fitted by `search.cost`. Example: `{"1": T, "n d": T*n*d}`.
        """

    def capacity(self, params: Params, rows: int) -> float:
        """How large the model fitted on `rows` rows is, in leaves, kept rows or the like: what its bytes grow with.

        1 where its size doesn't depend on the rows.
        """
        return 1.0

    def built(self, params: Params, rows: int, columns: int) -> float:
        """What a fit on `rows` rows holds beside its data, in leaves, kept rows, numbers of a step or the like: what its memory grows
        with. By default what the model's size grows with.
        """
        return self.capacity(params, rows)

    built_bytes: ClassVar[float | None] = None
    """Prior bytes for each unit that is `built`, where fits on few rows do not show them."""
    filled: ClassVar[tuple[float, ...]] = (1.0,)
    """What share of the rows that `capacity` counts with may fill a model, where it depends on how hard the table is."""
    copies: ClassVar[float] = 1.0
    """How many float64 copies of its data a fit holds at a time, about: the prior of the law of its memory."""
    seconds_per_unit: ClassVar[float] = 1e-8
    """Prior CPU seconds per unit of the summed `cost` terms, replaced by what the run measures."""

    @abstractmethod
    def build(
        self, params: Params, task: str, hardware: Hardware, seed: int, categorical: Sequence[int] = ()
    ) -> Estimator:
        """An unfitted estimator. `categorical` are the positions of integer category codes in X (view "ordinal")."""

    def refit_params(self, params: Params, model: Any, rows_ratio: float) -> dict[str, Value]:
        """The parameters for a fit on `rows_ratio` times the rows, without an inner slice for early stopping.

        Families that stop early return the number of iterations found, times rows_ratio**0.3 (a rule of thumb: more rows carry some more iterations).
        """
        return dict(params)

    def prefixes(self, model: Any) -> Sequence[float]:
        """The shares of the fitted model's trees that are worth deploying as models of their own, the largest first.

        A family that has any builds estimators that are `prefix.Staged`, and has `shortened`.
        """
        return ()

    def shortened(self, params: Params, share: float) -> dict[str, Value]:
        """The parameters of a fit that ends with this share of the trees, which are the first trees of the whole fit."""
        raise NotImplementedError(f"the family {self.name} has prefixes, but does not say how to fit one alone")

    def narrowed(self, model: Any, dtype: str) -> Any:
        """The fitted estimator with its weights rounded to what `dtype` holds (see `narrow`); None where that saves nothing.

        Raises OverflowError where they are beyond its range.
        """
        return None

    @abstractmethod
    def to_onnx(self, model: Any, graph: Graph, x: str) -> str:
        """Writes the fitted estimator into `graph`, reading the float32 matrix `x` (n, d).

        Returns the output's name: (n, 1) values for regression, (n, 1) P(second class) for binary, (n, K) probabilities
        for multiclass; float32.
        """
