"""Several artifacts blended into one: their encoders' tables merged, their graphs side by side in one graph, the outputs averaged.

What is averaged are probabilities, or values: the simplest rule by which ensembles predict (Caruana et al. 2004).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import runtime
from .encoder import Encoder
from .errors import ArtifactError
from .pipeline import Proof, proof_blocks, relative

if TYPE_CHECKING:
    from .table import Table

Places = NDArray[np.int64]
MOST_DIFFERENCE = 1e-5
"""Relative to max(1, |value|), of a regression to the target's spread: as for every exported graph."""


def blend(
    folder: Path, members: Sequence[tuple[Path, int]], table: Table, rows: NDArray[np.int64], seed: int
) -> tuple[int, Proof, int]:
    """Writes the artifact that predicts the mean of the `members`' predictions; each is an artifact's folder and a weight.

    Returns (bytes, proof, input columns that it needs). The proof compares it with the mean of the members' own graphs, on
    at least 1,000 of these rows of the table, with missing and unseen values among them. Raises ArtifactError where that
    differs, or the members are not of one task and table.
    """
    parts = [runtime.read_members(place) for place, _ in members]
    manifests = [runtime.check_members(part) for part in parts]
    weights = [weight for _, weight in members]
    first = manifests[0]
    if any((m["task"], m["classes"]) != (first["task"], first["classes"]) for m in manifests):
        raise ArtifactError("the models to blend predict different things: only those of one target can be averaged")
    tables, places = merge_tables([m["encoder"] for m in manifests])
    graphs = [part[runtime.GRAPH] for part in parts]
    model = merge_graphs(graphs, weights, places, Encoder(tables).width)
    spread = float(np.std(table.y)) if first["task"] == "regression" else 1.0
    own = [Encoder(m["encoder"]) for m in manifests]
    proof = _prove(model, Encoder(tables), list(zip(graphs, own, weights, strict=True)), table, rows, seed, spread)
    from .artifact import save

    size = save(folder, tables=tables, model=model, task=first["task"], classes=first["classes"])
    return size, proof, len({entry["column"] for entry in tables["encode"]})


def merge_tables(tables: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[Places]]:
    """(the tables of one encoder, for each given one the places of its outputs among the merged).

    Equal entries become one: members that were fitted with one view on the same rows are encoded once.
    """
    if any(each["schema"] != tables[0]["schema"] for each in tables):
        raise ArtifactError(
            "the models to blend were fitted on tables of different columns: they cannot share an encoder"
        )
    keys = [[json.dumps(entry, sort_keys=True) for entry in each["encode"]] for each in tables]
    entries = {
        key: e for own, each in zip(keys, tables, strict=True) for key, e in zip(own, each["encode"], strict=True)
    }
    order = list(runtime.KINDS)
    entries = dict(sorted(entries.items(), key=lambda item: order.index(item[1]["as"])))
    merged = {"schema": tables[0]["schema"], "encode": list(entries.values())}
    encoder = runtime.RowEncoder(merged)
    runs = {
        key: np.arange(start, start + entry.width)
        for key, entry, start in zip(entries, encoder.entries, encoder.starts, strict=False)
    }
    none = np.empty(0, np.int64)
    return merged, [np.concatenate([none, *(runs[key] for key in own)]) for own in keys]


def merge_graphs(models: Sequence[bytes], weights: Sequence[int], places: Sequence[Places], width: int) -> bytes:
    """One graph: each model reads its `places` of the matrix (none is moved where that is all of it), and the outputs'
    weighted mean is "y". The weights are whole numbers, so that no rounding takes a probability beyond 1.
    """
    from onnx import load_model_from_string

    from .graph import Graph, written
    from .trees import of_one_version

    graph = Graph(width)
    inputs = {tuple(range(width)): graph.x}
    total = ""
    protos = [load_model_from_string(model) for model in models]
    of_one_version(protos)
    for proto, weight, where in zip(protos, weights, places, strict=True):
        key = tuple(where.tolist())
        if key not in inputs:
            inputs[key] = graph.node("Gather", graph.x, graph.constant(where), axis=1)
        y = graph.add(proto, inputs[key])
        if weight != 1:
            y = graph.node("Mul", y, graph.constant(float(weight)))
        total = graph.node("Add", total, y) if total else y
    mean = graph.node("Div", total, graph.constant(float(sum(weights))))
    return written(graph.model(mean))


def _prove(
    model: bytes,
    encoder: Encoder,
    members: Sequence[tuple[bytes, Encoder, int]],
    table: Table,
    rows: NDArray[np.int64],
    seed: int,
    spread: float,
) -> Proof:
    """Raises ArtifactError if the merged graph differs from the mean of the members', each with its own encoder."""

    def run(runner: Callable[[NDArray[np.float32]], Any], own: Encoder) -> NDArray[np.float64]:
        parts = [runner(part) for part in proof_blocks(own, table, rows, seed)]
        return np.concatenate(parts).astype(np.float64)

    found = run(_onnx(model), encoder)
    total = sum(weight * run(_quickest(graph), own) for graph, own, weight in members)
    mean = np.asarray(total) / sum(weight for _, _, weight in members)
    worst = float(np.nan_to_num(relative(found, mean, spread), nan=np.inf).max())
    if not worst <= MOST_DIFFERENCE:
        raise ArtifactError(
            f"the blended graph differs from the mean of its {len(members)} models by {worst:.2g}, "
            f"allowed is {MOST_DIFFERENCE:g} (relative to the spread of the target, or 1): refused"
        )
    return Proof(len(found), worst, 0)


def _onnx(graph: bytes) -> Callable[[NDArray[np.float32]], Any]:
    from .graph import session

    opened = session(graph)
    return lambda X: opened.run(None, {"x": X})[0]


def _quickest(graph: bytes) -> Callable[[NDArray[np.float32]], Any]:
    """A member's graph on the compiled engine, where it is at hand: it opens and runs thousands of trees sooner than onnxruntime."""
    from . import native
    from .compiled import Engine
    from .compiled_trees import NotLoweredError

    if not native.ready():
        return _onnx(graph)
    try:
        engine = Engine(graph)
    except (NotLoweredError, native.NoLibraryError):
        return _onnx(graph)

    def run(X: NDArray[np.float32]) -> NDArray[np.float32]:
        out = np.empty((len(X), engine.outputs), np.float32)
        engine.run(X, out)
        return out

    return run
