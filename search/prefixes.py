"""Models that cost no fit: the first trees of a trial's model, scored on its rows, with what they are expected to cost."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from automl.estimators.errors import DataError
from automl.estimators.pipeline import Pipeline
from automl.estimators.prefix import count, fit_rescale, link
from automl.estimators.runtime import RowEncoder
from automl.estimators.table import Table

from .metric import Metric
from .trial import Measurement

log = logging.getLogger("automl")

CALL_SECONDS = 3e-6
"""What a call takes beside the encoding of its row and the trees, measured on a Xeon of 2.3 GHz."""
LOAD_SECONDS = 1e-3
"""What loading takes beside the trees, measured there as well."""
GRAPH_BYTES = 500
"""What a graph takes beside the trees."""
ENCODED = 20
MOST_SCORES = 20_000_000
"""So many scores are kept of a trial's prefixes at most (160 MB): of very many classes only the longest prefixes are."""

Floats = NDArray[np.float64]


class Prefixes:
    """The prefixes of a trial's models: what they say of the rows scored, gathered fit by fit.

    The shares are those of the first fit's model, so that each is of all rows.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.shares: tuple[float, ...] | None = None
        self.scores: list[Floats] = []
        self.center: Floats | None = None

    def predict(self, pipeline: Pipeline, table: Table, rows: NDArray[np.int64], places: slice) -> Floats:
        """The whole model's prediction for `rows` of the table; what its prefixes say of them is kept at `places`."""
        first = self.shares is None
        if self.shares is None:
            most = MOST_SCORES // (self.rows * max(1, len(pipeline.task.classes)))
            shares = tuple(pipeline.prefixes())[:most]
        else:
            shares = self.shares
        prediction, staged = pipeline.predict_staged(table, rows, shares)
        center = pipeline.model.center if shares else None
        if first:
            self.shares = shares
            self.scores = [np.zeros((self.rows, scores.shape[1])) for scores in staged]
            self.center = None if center is None else np.zeros((self.rows, len(center)))
        for kept, scores in zip(self.scores, staged, strict=True):
            kept[places] = scores
        if self.center is not None:
            self.center[places] = center
        return prediction

    def candidates(
        self, task: str, metric: Metric, y: NDArray[Any], weights: Floats | None, cut: int, every: bool = False
    ) -> Iterator[tuple[float, float, Floats]]:
        """(share, factor, prediction of all rows) of the prefixes that no shorter one is as good as, or of `every` one, the shortest
        first.

        The factor is fitted on the first `cut` rows, which steer the search; the others, the holdout, have no say in it.
        """
        best = np.inf
        steering = None if weights is None else weights[:cut]
        for share, scores in sorted(zip(self.shares or (), self.scores, strict=True), key=lambda pair: pair[0]):
            if self.center is None:
                factor, prediction = 1.0, scores[:, 0] if task == "regression" else scores
            else:
                factor = fit_rescale(task, y[:cut], self.center[:cut], scores[:cut], steering)
                prediction = link(task, self.center + factor * scores)
            try:
                error = metric.error(y[:cut], prediction[:cut], steering)
            except DataError as problem:
                log.info("the first %.2g of the trees are not scored: %s", share, problem)
                continue
            if error < best or every:
                best = min(best, error)
                yield share, factor, prediction


def expected(
    whole: Measurement, share: float, pipeline: Pipeline, rows: Sequence[Mapping[str, Any]], manifest_bytes: int
) -> Measurement:
    """What a prefix is expected to cost, from what was measured of the `whole` model: the trees' part by their number.

    The finish measures it as deployed, like every model. What its training would take alone, the study reckons.
    """
    part = count(share, pipeline.model.length) / pipeline.model.length

    def reduced(value: float | None, fixed: float) -> float | None:
        return None if value is None else min(value, fixed) + part * max(0.0, value - fixed)

    size = reduced(whole.size_bytes, manifest_bytes + GRAPH_BYTES)
    return replace(
        whole,
        size_bytes=None if size is None else round(size),
        model_memory_bytes=reduced(whole.model_memory_bytes, 0.0),
        latency_p50_seconds=reduced(whole.latency_p50_seconds, CALL_SECONDS + encoding_seconds(pipeline, rows)),
        load_seconds=reduced(whole.load_seconds, LOAD_SECONDS),
    )


def encoding_seconds(pipeline: Pipeline, rows: Sequence[Mapping[str, Any]]) -> float:
    """Seconds of encoding one row, the median of twenty."""
    encoder, times = RowEncoder(pipeline.deployed.tables), []
    for row in [*rows] * (1 + ENCODED // max(1, len(rows))):
        start = time.perf_counter()
        encoder.transform_row(row)
        times.append(time.perf_counter() - start)
        if len(times) == ENCODED:
            break
    return statistics.median(times)
