"""Finished models offered in other ways: on the compiled engine, or with more threads for the rows of a batch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from automl.estimators import native
from automl.estimators.artifact import with_engine

from .refits import Finalist

log = logging.getLogger("automl")


def compiled_twins(models: Sequence[Finalist], most: int) -> list[Finalist]:
    """The same models for the compiled engine, the most accurate first, as far as there is time to measure `most` of them.

    None where this machine has no compiled engine. Whether an engine can run a graph is found when it is loaded.
    """
    if most <= 0 or native.missing() is not None:
        return []
    try:
        native.library()
    except native.NoLibraryError as error:
        log.info("no model is on the compiled engine: %s", error)
        return []
    return [_as_served(model, "compiled", engine="compiled") for model in _most_accurate(models, most)]


def threaded_twins(models: Sequence[Finalist], most: int, threads: int) -> list[Finalist]:
    """The same models with more threads for the rows of a batch, the most accurate first, as far as there is time for `most`."""
    if most <= 0 or threads == 1:
        return []
    return [_as_served(model, str(threads), serving_threads=threads) for model in _most_accurate(models, most)]


def _most_accurate(models: Sequence[Finalist], most: int) -> list[Finalist]:
    return sorted(models, key=lambda m: m.trial.measurement.error or 0.0)[:most]


def _as_served(model: Finalist, suffix: str, **changed: Any) -> Finalist:
    """The model with its hardware `changed`: the same graph, in a folder whose name ends with the suffix."""
    hardware, folder = (
        replace(model.plan.hardware, **changed),
        model.artifact.with_name(f"{model.artifact.name}-{suffix}"),
    )
    size = with_engine(model.artifact, folder, hardware.engine, hardware.serving_threads)
    measured = replace(model.measurement, size_bytes=float(size))
    return replace(model, plan=replace(model.plan, hardware=hardware), artifact=folder, measurement=measured)
