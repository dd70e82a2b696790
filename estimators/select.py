"""Which input columns matter: rankings by gain, by an L1 path and by mutual information, on a few thousand rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import UsageError

METHODS = ("none", "gain", "l1", "mutual_info", "value")
"""All but "none" rank the columns; "value" by what they gain for what it costs to encode them."""
COSTS = {"numeric": 0.2e-6, "categorical": 0.25e-6, "date": 4e-6, "text": 7e-6, "sparse": 1e-6}
"""Seconds of one cell of a column of a kind in one row, with 0.1 us for whoever hands it over; measured on a Xeon of 2.3 GHz."""
ROWS = 5_000
SHADOW_COLUMNS = 200
"""Up to this many columns three shuffled copies of each are added, to subtract the gain that pure noise would get."""
PATH_COLUMNS = 1_000
"""The L1 path is walked on at most this many columns, the most correlated ones; the others follow by correlation."""
PATH_STEPS = 40
BINS = 16


def rank(
    X: Any,
    y: NDArray[Any],
    task: str,
    method: str,
    sources: Sequence[int],
    seed: int = 0,
    costs: Mapping[int, float] | None = None,
    weights: NDArray[np.float64] | None = None,
) -> NDArray[np.int64]:
    """The input columns, best first, each once.

    X (n, d): float32 matrix, dense with NaN for missing or CSR; y (n,): class codes or values; `weights` (n,): of the rows;
    `sources` (d,): the input column that each matrix column came from. An input column counts by the sum of its columns' gains ("value": over its
    cost, 1 where `costs` has none, as a greedy knapsack takes them), or by its best column for the other methods. Raises UsageError for an unknown method.
    """
    if method not in METHODS:
        raise UsageError(f"unknown selection method {method!r}: known are {', '.join(METHODS)}")
    origin = np.asarray(sources, np.int64)
    columns = np.unique(origin)
    if method == "none" or X.shape[0] == 0:
        return columns
    if X.shape[0] > ROWS:
        some = np.sort(np.random.default_rng(seed).choice(X.shape[0], ROWS, replace=False))
        X, y, weights = X[some], y[some], None if weights is None else weights[some]
    relative = np.ones(X.shape[0]) if weights is None else weights / weights.mean()
    scores = {"gain": gain, "value": gain, "l1": l1_path, "mutual_info": mutual_information}[method](
        X, np.asarray(y), task, seed, relative
    )
    position = np.searchsorted(columns, origin)
    if method in ("gain", "value"):
        total = np.bincount(position, weights=scores, minlength=len(columns))
        if method == "value" and costs is not None:
            paid = np.array([costs.get(int(column), 1.0) for column in columns])
            total = np.where(total > 0.0, total / paid, total)  # what is worse than noise is no better for being cheap
    else:
        total = np.full(len(columns), -np.inf)
        np.maximum.at(total, position, scores)
    return np.asarray(columns[np.argsort(-total, kind="stable")], np.int64)


def keep(order: Sequence[int] | NDArray[np.int64], fraction: float) -> list[int]:
    """The best `fraction` of a ranking, rounded up, at least one column."""
    if not 0.0 < fraction <= 1.0:
        raise UsageError(f"the fraction of columns kept must lie in (0, 1], found {fraction:g}")
    # the smallest float noise must not add a column: 0.1 * 30 is 3.0000000000000004
    return [int(c) for c in order[: max(1, math.ceil(fraction * len(order) - 1e-9))]]


def gain(X: Any, y: NDArray[Any], task: str, seed: int, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Total gain of each column's splits in 50 small LightGBM trees, less the mean gain of its shuffled copies."""
    import lightgbm

    width = X.shape[1]
    copies = 3 if isinstance(X, np.ndarray) and width <= SHADOW_COLUMNS else 0
    matrix = X
    if copies:
        rng = np.random.default_rng(seed)
        matrix = np.hstack([X, *(rng.permuted(X, axis=0) for _ in range(copies))])
    params: dict[str, Any] = {
        "objective": {"binary": "binary", "multiclass": "multiclass"}.get(task, "regression"),
        "num_leaves": 15,
        "learning_rate": 0.2,
        "max_bin": 63,
        "min_data_in_leaf": max(1, min(20, len(y) // 20)),
        "feature_fraction": 0.5 if copies else 1.0,
        "num_threads": 1,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    trees = 50
    if task == "multiclass":
        params["num_class"] = int(y.max()) + 1
        trees = max(5, 50 // params["num_class"])
    data = lightgbm.Dataset(matrix, label=y, weight=weights, params={"verbosity": -1})
    booster = lightgbm.train(params, data, num_boost_round=trees)
    found = np.asarray(booster.feature_importance("gain"), np.float64)
    noise = found[width:].reshape(copies, width).mean(axis=0) if copies else 0.0
    return np.asarray(found[:width] - noise, np.float64)


def mutual_information(
    X: Any, y: NDArray[Any], task: str, seed: int, weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mutual information in nats of each column with the target, over quantile bins (missing is a bin of its own).

    Less the bias of the plug-in estimate, (bins - 1)(classes - 1) / 2n (Miller, 1955).
    """
    rows, width = X.shape
    codes = y.astype(np.int64) if task != "regression" else quantile_codes(y.astype(np.float64)[:, None], 10)[:, 0]
    classes = np.unique(codes, return_inverse=True)[1]
    target = (np.eye(int(classes.max()) + 1)[classes] * weights[:, None]).astype(np.float32)
    share = target.mean(axis=0, dtype=np.float64)
    result = np.empty(width)
    for i in range(0, width, 256):
        part = X[:, i : i + 256]
        binned = quantile_codes(np.asarray(part if isinstance(part, np.ndarray) else part.toarray()), BINS)
        information, used = np.zeros(binned.shape[1]), np.zeros(binned.shape[1])
        for b in range(BINS + 1):
            joint = (binned == b).T.astype(np.float32) @ target / rows
            mass = joint.sum(axis=1, dtype=np.float64)
            ratio = joint / np.maximum(mass[:, None] * share, 1e-300)
            information += np.sum(joint * np.log(np.where(joint > 0, ratio, 1.0)), axis=1)
            used += mass > 0
        result[i : i + 256] = information - (used - 1) * (target.shape[1] - 1) / (2 * rows)
    return result


def quantile_codes(X: NDArray[Any], bins: int) -> NDArray[np.int64]:
    """Codes 0..bins-1 by each column's quantiles, `bins` for missing; equal values share a code."""
    codes = np.empty(X.shape, np.int64)
    levels = np.linspace(0, 1, bins + 1)[1:-1]
    ordered = np.sort(X, axis=0)  # NaN last
    present = np.count_nonzero(~np.isnan(X), axis=0)
    for j in range(X.shape[1]):
        if present[j] == 0:
            codes[:, j] = bins
            continue
        column = ordered[: present[j], j]
        cuts = column[np.minimum((levels * present[j]).astype(np.int64), present[j] - 1)]
        cuts = np.unique(cuts)
        if (
            cuts[0] == column[0] < column[-1]
        ):  # the smallest value (zero, say) fills more than a bin: it is one of its own
            cuts[0] = column[np.searchsorted(column, column[0], side="right")]
        codes[:, j] = np.where(np.isnan(X[:, j]), bins, np.searchsorted(cuts, X[:, j], side="right"))
    return codes


def l1_path(X: Any, y: NDArray[Any], task: str, seed: int, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The penalty at which each column enters a group-lasso path of the standardised target on the standardised columns.

    The target is 0/1 indicators of the classes (least squares); each column's coefficients for all outputs enter
    together (Yuan and Lin, 2006). Solved by warm-started accelerated proximal steps on the Gram matrix. Columns that
    never enter follow, by their correlation with the target; its scores are negative.
    """
    outputs = np.eye(int(y.max()) + 1)[y.astype(np.int64)] if task != "regression" else y.astype(np.float64)[:, None]
    outputs = outputs[:, 1:] if task == "binary" else outputs
    spread = outputs.std(axis=0)
    target = weights[:, None] * (outputs - outputs.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    rows, width = X.shape
    moment = np.empty((width, target.shape[1]))
    for i in range(0, width, 256):
        moment[i : i + 256] = standardised(X[:, i : i + 256]).T @ target / rows
    strength = np.sqrt((moment**2).sum(axis=1))
    score = strength - strength.max() - 1.0  # below every entry penalty
    chosen = np.sort(np.argsort(-strength, kind="stable")[:PATH_COLUMNS])
    block = standardised(X[:, chosen])
    entries = path_entries((block.T * weights) @ block / rows, moment[chosen], strength[chosen].max())
    entered = entries > 0
    score[chosen[entered]] = entries[entered]
    return np.asarray(score, np.float64)


def standardised(X: Any) -> NDArray[np.float64]:
    """Columns with mean 0 and variance 1 (0 where constant); missing cells get the column's median."""
    block = np.array(X if isinstance(X, np.ndarray) else X.toarray(), np.float64)
    missing = np.isnan(block)
    for j in np.flatnonzero(missing.any(axis=0)):
        present = block[~missing[:, j], j]
        block[missing[:, j], j] = np.median(present) if len(present) else 0.0
    block -= block.mean(axis=0)
    spread = block.std(axis=0)
    block /= np.where(spread > 1e-12, spread, np.inf)
    return block


def path_entries(gram: NDArray[np.float64], moment: NDArray[np.float64], top: float) -> NDArray[np.float64]:
    """The largest penalty on a geometric path from `top` to top / 1000 at which each row's coefficients are non-zero (0: never)."""
    entries = np.zeros(len(gram))
    if top <= 0.0:
        return entries
    vector = np.ones(len(gram))
    for _ in range(20):  # power iteration: the largest eigenvalue bounds the step
        vector = gram @ vector
        vector /= np.linalg.norm(vector) or 1.0
    step = 1.0 / max(1e-12, 1.05 * float(vector @ gram @ vector))
    weights = np.zeros_like(moment)
    for penalty in top * np.geomspace(0.999, 1e-3, PATH_STEPS):
        weights = proximal_steps(gram, moment, weights, step, penalty, 10)
        entered = np.abs(weights).sum(axis=1) > 0
        entries[entered & (entries == 0.0)] = penalty
    return entries


def proximal_steps(
    gram: NDArray[np.float64],
    moment: NDArray[np.float64],
    start: NDArray[np.float64],
    step: float,
    penalty: float,
    count: int,
) -> NDArray[np.float64]:
    """`count` steps of FISTA (Beck and Teboulle, 2009) on the group lasso from `start`."""
    weights = ahead = start
    momentum = 1.0
    for _ in range(count):
        moved = ahead - step * (gram @ ahead - moment)
        length = np.sqrt((moved**2).sum(axis=1, keepdims=True))
        after = moved * np.maximum(0.0, 1.0 - step * penalty / np.maximum(length, 1e-300))
        following = (1.0 + math.sqrt(1.0 + 4.0 * momentum**2)) / 2.0
        ahead = after + (momentum - 1.0) / following * (after - weights)
        weights, momentum = after, following
    return weights
