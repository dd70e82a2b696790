"""Rows to test a deployed model on, made from what its artifact says of its columns, and the proof of an export on them.

An artifact holds no data. Its encoder's tables and its graph say enough: the levels, centers and scales, and the
thresholds of its trees. A row made of numbers at and beside these thresholds, of known, unseen and missing levels, finds
a wrong comparison sooner than a row of the data does.
"""

from __future__ import annotations

import datetime
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from automl.estimators.errors import ArtifactError
from automl.estimators.runtime import FLOAT_MAX

if TYPE_CHECKING:
    from automl.estimators.runtime import Model, RowEncoder

    Values = NDArray[np.float64]

ROWS = 1_000
MOST_DIFFERENCE = 1e-5
"""Relative to 1; of a regression to the larger of |value| and the predictions' standard deviation."""
SPOILED = 8
"""One cell of so many is missing, and one of so many is unseen (a level) or far out (a number)."""
MISSING_CELLS = (None, None, "", "NA", " ")
UNSEEN_LEVELS = ("never seen", "?!", "ünseen ☃")
_FIRST, _LAST = -62_135_596_800, 253_402_300_799  # seconds of the years 1 to 9999, which `datetime` holds


@dataclass(frozen=True)
class Reference:
    """An artifact that is to be exported: what it holds, the model that its runtime makes of it, and rows to compare on."""

    members: Mapping[str, bytes]
    manifest: Mapping[str, Any]
    model: Model
    rows: Mapping[str, list[Any]]

    @classmethod
    def open(cls, artifact: Path) -> Reference:
        """Of a folder or a .zip. Raises ArtifactError for a corrupt one, UsageError for no such path."""
        from automl.estimators.runtime import GRAPH, check_members, load, read_members

        members = read_members(artifact)
        manifest = check_members(members)
        return cls(members, manifest, load(artifact), sample_rows(manifest, members[GRAPH]))

    def prove(self, predict: Callable[[Any], Any], form: str) -> dict[str, Any]:
        """`prove` of this model on these rows, and which artifact that was: the entry "export" of a `record.json`."""
        manifest = hashlib.sha256(self.members["manifest.json"]).hexdigest()
        return {**prove(self.model, self.rows, predict, form), "artifact": manifest}


def sample_rows(manifest: Mapping[str, Any], graph: bytes, count: int = ROWS, seed: int = 0) -> dict[str, list[Any]]:
    """Rows for the model of an artifact (`runtime.check_members`, its graph's bytes), the same for the same seed.

    Columns by name, `used` ones only, of plain Python values: numbers are floats, dates are naive `datetime` in UTC, levels
    and texts are strings, missing cells are None, "" or another text that means it.
    """
    from automl.estimators.runtime import RowEncoder

    encoder = RowEncoder(manifest["encoder"])
    rng = np.random.default_rng(seed)
    columns: dict[str, list[Any]] = {}
    for name, makers in _makers(encoder, _thresholds(graph, encoder.width)).items():
        pick = rng.integers(0, len(makers), count)
        drawn = [maker(rng, count) for maker in makers]
        columns[name] = [drawn[choice][i] for i, choice in enumerate(pick.tolist())]
    return columns


def dict_rows(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """The rows of `sample_rows`, each as a dict for `predict_one`."""
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def prove(
    model: Model, columns: Mapping[str, Sequence[Any]], predict: Callable[[Any], Any], form: str
) -> dict[str, Any]:
    """Compares an export with the artifact's own runtime: `predict` gets `columns` and returns (n, K) probabilities or (n,) values.

    Returns what `record.json` says of it. Raises ArtifactError beyond `MOST_DIFFERENCE`.
    """
    wanted = predictions(model, columns)
    found = np.asarray(predict(columns), np.float64)
    if found.shape != wanted.shape:
        raise ArtifactError(
            f"format {form!r} cannot hold this model: it gives {found.shape}, not {wanted.shape} numbers"
        )
    scale = float(np.std(wanted)) if model.task == "regression" else 1.0
    with np.errstate(invalid="ignore", divide="ignore"):
        off = np.abs(found - wanted) / np.maximum(scale, np.abs(wanted))
    off[found == wanted] = 0.0
    worst = float(np.nan_to_num(off, nan=np.inf).max(initial=0.0))
    if not worst <= MOST_DIFFERENCE:
        row = int(np.argmax(off.max(axis=1) if off.ndim == 2 else off))
        raise ArtifactError(
            f"format {form!r} is refused for this model: its predictions differ by {worst:.2g}, allowed is "
            f"{MOST_DIFFERENCE:g} (relative to {'|value|' if model.task == 'regression' else 1}; first seen in row {row} of the {len(wanted)} test rows)"
        )
    return {"format": form, "rows": len(wanted), "largest_difference": worst, "allowed": MOST_DIFFERENCE}


def predictions(model: Model, columns: Mapping[str, Sequence[Any]]) -> Values:
    """(n, K) probabilities or (n,) values of the rows by the runtime, as float64."""
    found = model.predict(columns) if model.task == "regression" else model.predict_proba(columns)
    return np.asarray(found, np.float64)


# -- what cells a column may have ----------------------------------------------------------------------------------------

_Maker = Callable[[np.random.Generator, int], list[Any]]


def _makers(encoder: RowEncoder, thresholds: Mapping[int, Values]) -> dict[str, list[_Maker]]:
    """For every input column one way to make cells for each entry that reads it."""
    from automl.estimators import runtime

    makers: dict[str, list[_Maker]] = {}
    for entry, start in zip(encoder.entries, encoder.starts, strict=False):
        splits = thresholds.get(start, np.empty(0))
        if isinstance(entry, runtime.Block):
            for name in entry.names:
                makers.setdefault(name, []).append(_sparse)
            continue
        makers.setdefault(entry.name, []).append(_maker(entry, splits))
    return {name: makers[name] for name in encoder.used}


def _maker(entry: Any, splits: Values) -> _Maker:
    from automl.estimators import runtime

    if entry.finite:
        return _spoiled(_number_maker(entry, splits))
    if isinstance(entry, runtime.Date):
        days = entry.parts.index("days") if "days" in entry.parts else None
        center = entry.centers[days] if days is not None else 0.0
        spread = 1_000.0 if entry.scales is None or days is None else entry.scales[days]
        return lambda rng, count: _dates(rng, count, center, spread, splits)
    if isinstance(entry, runtime.Hashed):
        return lambda rng, count: _levels(rng, count, [*entry.levels, *(f"level {i}" for i in range(50))])
    if isinstance(entry, runtime.Category):
        return lambda rng, count: _levels(rng, count, list(entry.codes))
    if isinstance(entry, runtime.Text):
        return lambda rng, count: _texts(rng, count, entry.places)
    return _number_maker(entry, splits)


def _spoiled(maker: _Maker) -> _Maker:
    """With infinities, for a column that takes them as missing."""

    def make(rng: np.random.Generator, count: int) -> list[Any]:
        kind = rng.integers(0, 2 * SPOILED, count).tolist()
        return [{0: math.inf, 1: -math.inf}.get(k, cell) for k, cell in zip(kind, maker(rng, count), strict=True)]

    return make


def _number_maker(entry: Any, splits: Values) -> _Maker:
    from automl.estimators import runtime

    if isinstance(entry, runtime.Scaled):
        return lambda rng, count: _numbers(rng, count, entry.center, entry.scale, splits, 1e6)
    if isinstance(entry, runtime.Shifted):
        return lambda rng, count: _numbers(rng, count, entry.shift, 100.0, splits + entry.shift, 1e15)
    return lambda rng, count: _numbers(rng, count, 0.0, 10.0, splits, 1e30)


def _numbers(
    rng: np.random.Generator, count: int, center: float, spread: float, splits: Values, far: float
) -> list[Any]:
    """Numbers around the center, and on, just beside and between the splits; a few far out, missing ones NaN or None."""
    numbers = center + spread * rng.normal(size=count)
    if len(splits):
        nearest = rng.choice(splits, count).astype(np.float32)
        side = rng.integers(0, 6, count)
        numbers = np.where(side == 0, nearest, numbers)
        for way, toward in ((1, np.inf), (2, -np.inf)):
            numbers = np.where(side == way, np.nextafter(nearest, np.float32(toward)), numbers)
        low, high = np.clip([splits.min(), splits.max()], -1e30, 1e30).tolist()
        reach = 0.1 * (high - low) or max(1.0, abs(low))
        numbers = np.where(side >= 3, rng.uniform(low - reach, high + reach, count), numbers)
    kind = rng.integers(0, SPOILED, count)
    numbers = np.where(kind == 1, rng.choice(np.array([0.0, -far, far, center]), count), numbers)
    numbers = np.clip(np.where(kind == 2, np.round(numbers), numbers), -FLOAT_MAX, FLOAT_MAX)
    missing = [(None, math.nan)[way] for way in rng.integers(0, 2, count).tolist()]
    return [missing[i] if k == 0 else v for i, (k, v) in enumerate(zip(kind.tolist(), numbers.tolist(), strict=True))]


def _levels(rng: np.random.Generator, count: int, levels: list[str]) -> list[Any]:
    known = set(levels)
    unseen = [level for level in UNSEEN_LEVELS if level not in known]
    missing = [cell for cell in MISSING_CELLS if cell not in known]
    kind = rng.integers(0, SPOILED, count).tolist()
    pick = rng.integers(0, 2**31, count).tolist()
    pools: dict[int, list[Any]] = {0: missing, 1: list(unseen)}
    rest: list[Any] = [*(levels or unseen)]
    cells = [pools.get(k, rest) for k in kind]
    return [pool[p % len(pool)] for pool, p in zip(cells, pick, strict=True)]


def _texts(rng: np.random.Generator, count: int, buckets: Mapping[int, int]) -> list[Any]:
    """Texts of words most of which fall into buckets that the model reads."""
    from automl.estimators.runtime import text_buckets

    words = [word for word in (f"w{i}" for i in range(5_000)) if text_buckets(word)[0] in buckets]
    words = [*words[:200], "other"]
    lengths, kind = rng.integers(1, 12, count).tolist(), rng.integers(0, SPOILED, count).tolist()
    texts = [" ".join(rng.choice(words, length).tolist()) for length in lengths]
    return [None if k == 0 else text for k, text in zip(kind, texts, strict=True)]


def _dates(rng: np.random.Generator, count: int, center: float, spread: float, splits: Values) -> list[Any]:
    days = center + spread * rng.normal(size=count)
    if len(splits):  # of a tree: its thresholds are days beyond the center
        days = np.where(
            rng.integers(0, 2, count) == 0, center + rng.choice(splits, count) + rng.normal(size=count), days
        )
    seconds = np.clip(np.round(days * 86_400.0), _FIRST, _LAST)
    kind, start = rng.integers(0, SPOILED, count).tolist(), datetime.datetime(1970, 1, 1)
    moments = [start + datetime.timedelta(seconds=s) for s in seconds.tolist()]
    return [None if k == 0 else moment for k, moment in zip(kind, moments, strict=True)]


def _sparse(rng: np.random.Generator, count: int) -> list[Any]:
    return np.where(rng.random(count) < 0.8, 0.0, np.round(rng.normal(size=count) * 3.0, 2)).tolist()  # type: ignore[no-any-return]


# -- the thresholds of a graph's trees ---------------------------------------------------------------------------------


def _thresholds(graph: bytes, width: int) -> dict[int, Values]:
    """The distinct thresholds on every column of the encoded matrix, of the trees that read it, whole or a part of it."""
    from onnx import helper, load_model_from_string, numpy_helper

    body = load_model_from_string(graph).graph
    constants = {tensor.name: tensor for tensor in body.initializer}
    columns = {"x": np.arange(width)}
    found: dict[int, list[Values]] = {}
    for node in body.node:
        if node.op_type == "Gather" and node.input[0] == "x":
            columns[node.output[0]] = numpy_helper.to_array(constants[node.input[1]]).reshape(-1)
        if node.op_type not in ("TreeEnsemble", "TreeEnsembleRegressor") or node.input[0] not in columns:
            continue
        read = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        features = columns[node.input[0]][np.asarray(read["nodes_featureids"], np.int64)]
        if node.op_type == "TreeEnsemble":
            splits, ordered = (
                numpy_helper.to_array(read["nodes_splits"]),
                numpy_helper.to_array(read["nodes_modes"]) == 0,
            )
        else:
            splits, ordered = np.asarray(read["nodes_values"]), np.asarray(read["nodes_modes"]) == b"BRANCH_LEQ"
        for feature in np.unique(features[ordered]).tolist():
            found.setdefault(feature, []).append(splits[ordered & (features == feature)].astype(np.float64))
    return {feature: np.unique(np.concatenate(parts)) for feature, parts in found.items()}
