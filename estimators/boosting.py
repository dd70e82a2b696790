"""What boosted models of several libraries share: early stopping on an inner slice, how many rounds, where they begin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .space import Value
from .trees import Trees, steadied, write

if TYPE_CHECKING:
    from .family import Facts, Family, Params
    from .graph import Graph

SLICE, SMALLEST_SLICE = 0.1, 50
"""Early stopping watches this share of the training rows, but at least this many, and none of fewer than 4 times as many."""
RAREST = 1e-6
"""The least share of a class that a model begins with: one without a row would begin at minus infinity."""


def patience(rows: int, iterations: int) -> int:
    """Rounds without improvement before boosting stops: AutoGluon's rule, in proportion where fewer than 1,000 are allowed."""
    rounds = 300.0 if rows <= 10_000 else max(20.0, 300.0 * 10_000 / rows)
    return max(10, round(rounds * min(1.0, iterations / 1000)))


def inner_slice(y: NDArray[np.generic], task: str, seed: int) -> NDArray[np.bool_] | None:
    """Which rows early stopping watches: stratified, every class keeping a row to learn from; None where there are too few."""
    count = max(SMALLEST_SLICE, round(SLICE * len(y)))
    if len(y) < 4 * count:
        return None
    order = np.random.default_rng(seed).permutation(len(y))
    held = np.zeros(len(y), np.bool_)
    if task == "regression":
        held[order[:count]] = True
        return held
    for code in np.unique(y):
        rows = order[y[order] == code]
        held[rows[: min(len(rows) - 1, round(len(rows) * count / len(y)))]] = True
    return held if held.any() else None


def affordable_rounds(family: Family, facts: Facts, params: Params, fewest: int, most: int) -> int:
    """The rounds of `params` that a tenth of the budget affords, between the two; fewer where each is a tree for many classes."""
    return int(max(fewest, min(most, most * 4 / max(4, facts.classes), family.affordable(params, facts))))


def refit_rounds(params: Params, stops: bool, iterations: int, rows_ratio: float) -> dict[str, Value]:
    """`Family.refit_params` of a model that kept `iterations` rounds; `stops` says whether it stopped early."""
    if not stops:
        return dict(params)
    return {**params, "n_estimators": max(1, round(iterations * rows_ratio**0.3)), "early_stopping": False}


def intercepts(
    y: NDArray[np.generic], task: str, classes: int, weights: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """What boosting begins from: [the log-odds of class 1], or the logarithm of every class's share; [0.0] for a regression.

    A regression's y is standardised, so that its mean is 0.
    """
    if task == "regression":
        return np.zeros(1)
    share = np.bincount(y.astype(np.int64), weights, classes)
    share = np.clip(share / share.sum(), RAREST, 1.0 - RAREST)
    return np.array([np.log(share[1] / share[0])]) if task == "binary" else np.asarray(np.log(share))


def probabilities(margins: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, classes) probabilities of (n, 1) log-odds of the second class, or of (n, classes) unnormalised logarithms."""
    if margins.shape[1] == 1:
        margins = np.hstack([np.zeros_like(margins), margins])
    shares = np.exp(margins - margins.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def write_boosted(graph: Graph, x: str, trees: Trees, constants: NDArray[np.float64], task: str) -> str:
    """Writes the trees, the constants (width,) and what turns their sums into the prediction; returns the name of the output."""
    if task != "regression":
        trees, constants = steadied(trees, constants)
    margins = write(graph, x, trees, len(constants), constants)
    if task == "binary":
        return graph.node("Sigmoid", margins)
    return margins if task == "regression" else graph.node("Softmax", margins, axis=1)
