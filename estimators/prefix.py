"""Prefixes: the first trees of a fitted ensemble as models of their own, which cost no fit.

A forest's first trees are a smaller forest. A boosted model's are too timid: trees still to come would have moved their
scores further from the start. One factor, fitted on rows that the model has not seen, makes up for most of it (as
temperature scaling, Guo et al. 2017, does for networks that are too bold). It is one number for thousands of rows, so
that it cannot overfit to speak of.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

FEWEST = 5
"""A prefix of fewer trees than this is no candidate: the starts of the families have models as small."""
MOST = 6
BOUND = 64.0
"""The factor is between this and its reciprocal: scores that separate the classes would have it grow for ever."""
EXACT = 1e-3
"""A factor this close to 1 is 1."""


class Staged(Protocol):
    """A fitted model that predicts and is exported with its first trees alone.

    `length` is how many there are (rounds, of a boosted model); `center` (k,) is where the scores start from, None for
    plain averages, which need no factor.
    """

    @property
    def length(self) -> int: ...

    @property
    def center(self) -> NDArray[np.float64] | None: ...

    def staged(self, X: Any, counts: Sequence[int]) -> Iterator[NDArray[np.float64]]:
        """For each of the ascending `counts`, in one pass over the trees: what the first so many add to the center,
        (n, k) log-odds (k = 1), logarithms of probabilities up to a constant (k classes) or values (k = 1); where there
        is no center, the prediction itself as (n, k) probabilities or (n, 1) values.
        """
        ...

    def first(self, count: int, rescale: float) -> Staged:
        """The model of the first `count` trees, what they add to the center times `rescale`."""
        ...


def halves(length: int) -> tuple[float, ...]:
    """The shares 1/2, 1/4, ... of `length` trees, at most 6 and none of fewer than 5 trees."""
    shares = (0.5**k for k in range(1, MOST + 1))
    return tuple(share for share in shares if count(share, length) >= FEWEST)


def count(share: float, length: int) -> int:
    """How many of `length` trees a share of them is, one at the least."""
    return max(1, round(share * length))


def link(task: str, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, K) probabilities, or (n,) values, of (n, k) scores: the logistic function, the softmax, or as they are."""
    if task == "regression":
        return scores[:, 0]
    if task == "binary":
        second = 0.5 * (1.0 + np.tanh(0.5 * scores[:, 0]))  # the logistic function, which overflows nowhere
        return np.column_stack([1.0 - second, second])
    grown = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(grown / grown.sum(axis=1, keepdims=True), np.float64)


def fit_rescale(
    task: str,
    y: NDArray[Any],
    center: NDArray[np.float64],
    added: NDArray[np.float64],
    weights: NDArray[np.float64] | None = None,
) -> float:
    """The factor of `added` (n, k) with which `center` + factor x `added` fits y best: least squares, or log loss.

    y (n,) are values or class codes; `center` (k,) or (n, k). Both losses are convex in the factor, so that the best one
    between 1/64 and 64 is never worse than 1 on these rows.
    """
    if task == "regression":
        w = np.ones(len(y)) if weights is None else weights
        square = float((w * added[:, 0] ** 2).sum())
        if square <= 0.0:
            return 1.0
        start = np.broadcast_to(center, added.shape)[:, 0]
        best = float((w * added[:, 0] * (np.asarray(y, np.float64) - start)).sum()) / square
        best = min(BOUND, max(1.0 / BOUND, best))
    else:
        best = _newton(np.asarray(y, np.int64), center, added, weights)
    return 1.0 if abs(best - 1.0) <= EXACT else best


def _newton(
    y: NDArray[np.int64],
    center: NDArray[np.float64],
    added: NDArray[np.float64],
    weights: NDArray[np.float64] | None,
) -> float:
    """Newton's method for the log loss, within a bracket that shrinks with every slope seen."""
    start = np.broadcast_to(center, added.shape)
    if added.shape[1] == 1:  # log-odds: the first class has the score 0
        start, added = (np.column_stack([np.zeros(len(y)), part[:, 0]]) for part in (start, added))
    w = np.full(len(y), 1.0 / len(y)) if weights is None else weights / weights.sum()
    reached = added[np.arange(len(y)), y]
    low, high, factor = 1.0 / BOUND, BOUND, 1.0
    for _ in range(30):
        p = link("multiclass", start + factor * added)
        mean = (p * added).sum(axis=1)
        slope = float((w * (mean - reached)).sum())
        bend = float((w * ((p * added**2).sum(axis=1) - mean**2)).sum())
        low, high = (low, factor) if slope > 0 else (factor, high)
        step = factor - slope / bend if bend > 0 else math.inf
        step = step if low < step < high else math.sqrt(low * high)
        if slope == 0.0 or abs(step - factor) <= 1e-4 * factor:
            return factor
        factor = step
    return factor
