"""Models that cost no fit beside prefixes: a trial's model calibrated, and with its weights stored narrowly."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from automl.estimators import calibrate
from automl.estimators.errors import DataError
from automl.estimators.narrow import BYTES, DTYPES
from automl.estimators.pipeline import Pipeline
from automl.estimators.table import Table

from .metric import Metric
from .trial import Measurement

log = logging.getLogger("automl")

RANKS = ("roc_auc", "average_precision")
"""Metrics of the order of the probabilities alone begin so: no calibration changes it."""
PARTS = 2
"""What steers the search is calibrated a part at a time, by curves that were fitted on the others."""
CALIBRATED_SECONDS = 2e-6
"""What a calibration adds to a call, measured on a Xeon of 2.3 GHz."""
CALIBRATED_BYTES = 600
MOST_PRODUCTS = 1e9
"""Predictions with narrow weights are made where they take at most so many multiplications: about a tenth of a second."""

Floats = NDArray[np.float64]


def calibrated(
    task: str,
    metric: Metric,
    y: NDArray[Any],
    prediction: Floats,
    weights: Floats | None,
    cut: int,
    clusters: NDArray[np.int64],
) -> Iterator[tuple[str, tuple[float, ...], Floats]]:
    """(method, curve, prediction of all rows) of the calibrations that are better than none by a standard error of that.

    The curve is fitted on the first `cut` rows, which steer the search, and moves the predictions of the others. Of those
    rows each is moved by a curve that neither it nor its group (`clusters` are their codes, if there are any) had a part in, so
    that none seems better than it is on new ones. Nothing is calibrated for metrics that don't read probabilities, or only their
    order.
    """
    if not metric.needs_proba or metric.name.startswith(RANKS):
        return
    known, w, groups = y[:cut], None if weights is None else weights[:cut], clusters[:cut]
    part = halves(cut, groups)
    if len(np.unique(part)) < PARTS:  # all rows are of one group: there are no others to fit a curve on
        return
    best = prediction
    for method in calibrate.methods(task, cut * (PARTS - 1) // PARTS):
        curve = calibrate.fit(method, known, prediction[:cut], w)
        if curve is None:
            continue
        moved = calibrate.apply(method, curve, prediction)
        try:
            if not _better(metric, known, moved[:cut], prediction[:cut], w, groups):  # not even where it was fitted
                continue
            for k in range(PARTS):
                others, own = part != k, np.flatnonzero(part == k)
                part_w = None if w is None else w[others]
                apart = calibrate.fit(method, known[others], prediction[:cut][others], part_w, like=curve)
                moved[own] = prediction[own] if apart is None else calibrate.apply(method, apart, prediction[own])
            if _better(metric, known, moved[:cut], best[:cut], w, groups):
                best = moved
                yield method, curve, moved
        except DataError as problem:
            log.info("a calibration by %s is not scored: %s", method, problem)


def halves(rows: int, clusters: NDArray[np.int64]) -> NDArray[np.int64]:
    """(rows,) which of PARTS parts a row is in: whole groups, where `clusters` has their codes, at random."""
    unit = np.unique(clusters, return_inverse=True)[1] if len(clusters) else np.arange(rows)
    part = np.random.default_rng(0).permutation(int(unit.max()) + 1) % PARTS  # rows in turn may be classes in turn
    return np.asarray(part[unit], np.int64)


def _better(
    metric: Metric,
    y: NDArray[Any],
    one: Floats,
    other: Floats,
    weights: Floats | None,
    clusters: NDArray[np.int64],
) -> bool:
    """Whether the one prediction's error is smaller by more than the standard error of the difference."""
    if metric.error(y, one, weights) >= metric.error(y, other, weights):
        return False
    gain = metric.influence(y, other, weights, clusters) - metric.influence(y, one, weights, clusters)
    return bool(gain.mean() > gain.std() / math.sqrt(len(gain)))


def with_calibration(costs: Measurement) -> Measurement:
    """What a calibrated model is expected to cost."""
    latency, size = costs.latency_p50_seconds, costs.size_bytes
    return replace(
        costs,
        latency_p50_seconds=None if latency is None else latency + CALIBRATED_SECONDS,
        size_bytes=None if size is None else size + CALIBRATED_BYTES,
    )


def with_dtype(costs: Measurement, pipeline: Pipeline, dtype: str) -> Measurement:
    """What a model with narrow weights is expected to cost: its graph is smaller, and the same once it is loaded."""
    narrow, size = pipeline.narrowed(dtype), costs.size_bytes
    if narrow is None or size is None:
        return costs
    return replace(costs, size_bytes=size - len(pipeline.graph()[0]) + len(narrow.graph()[0]))


class Narrowed:
    """What a trial's models predict with narrow weights, gathered fit by fit."""

    def __init__(self, wanted: bool) -> None:
        self.predictions: dict[str, Floats] = {}
        self._dtypes: tuple[str, ...] = DTYPES if wanted else ()

    def predict(self, pipeline: Pipeline, table: Table, rows: NDArray[np.int64], places: slice, whole: Floats) -> None:
        """Predicts `rows` of the table, as it was done for `whole`, which is as long as all rows that are scored.

        A dtype that a fit's weights are too large for, or that would take too long, is left out from then on.
        """
        for dtype in self._dtypes:
            try:
                narrow = pipeline.narrowed(dtype)
            except OverflowError as problem:
                log.info("no %s: %s", dtype, problem)
                narrow = None
            if narrow is None or len(rows) * len(narrow.graph()[0]) / BYTES[dtype] > MOST_PRODUCTS:
                self._dtypes = tuple(known for known in self._dtypes if known != dtype)
                self.predictions.pop(dtype, None)
                continue
            self.predictions.setdefault(dtype, np.empty_like(whole))[places] = narrow.predict(table, rows)
