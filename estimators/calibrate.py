"""Calibration: probabilities moved to what they turn out to be, on rows that the model has not seen.

Several classes: a temperature (Guo et al. 2017), that is a power of the probabilities, which are no smaller than a floor
before. Two classes: Platt's logistic curve (1999) of the log-odds, or isotonic regression (Zadrozny and Elkan 2002) on at
most 64 groups of rows; both become a line through a few points, which is three cheap operators in a graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .prefix import fit_rescale

if TYPE_CHECKING:
    from .graph import Graph

METHODS = ("none", "temperature", "platt", "isotonic")
ISOTONIC_ROWS = 1000
"""A free curve is fitted on at least so many rows (scikit-learn's advice)."""
GROUPS = 64
POINTS = 24
"""Of Platt's curve, evenly spaced in log-odds."""
FLOORS = (0.0, 1e-3, 1e-2)
"""A forest's or neighbours' 0 means "none of the few seen": a floor makes it a small probability."""
CURVE_FLOORS = (1e-4, 1e-3, 1e-2)
STRONGEST = 8.0
"""A power beyond this or its reciprocal is none of calibration."""
STEEPEST = 10.0
"""Of a curve's slope times its place: float32 rounds a probability by 6e-8 of it, and the graph must stay within 1e-5."""
MOST_CELLS, MOST_ROWS = 30_000, 3000
"""A curve of one or two numbers is fitted on so many rows at the most, and probabilities, where there are many classes."""

Floats = NDArray[np.float64]


def methods(task: str, rows: int) -> tuple[str, ...]:
    """The methods for a task and so many rows to fit on."""
    if task == "regression" or rows < 20:
        return ()
    if task == "multiclass":
        return ("temperature",)
    return ("platt", "isotonic") if rows >= ISOTONIC_ROWS else ("platt",)


def fit(
    method: str, y: NDArray[Any], p: Floats, weights: Floats | None = None, like: tuple[float, ...] | None = None
) -> tuple[float, ...] | None:
    """The curve of a method for class codes y (n,) and probabilities p (n, K); None where there is none to be had.

    With a temperature `like` that was fitted on more rows the floor is that one's.
    """
    most = len(y) if method == "isotonic" else max(500, min(MOST_ROWS, MOST_CELLS // p.shape[1]))
    some: Any = slice(None)
    if len(y) > most:  # drawn: rows in turn may be classes in turn
        some = np.sort(np.random.default_rng(0).choice(len(y), most, replace=False))
    y, p = np.asarray(y[some], np.int64), np.asarray(p[some], np.float64)
    w = np.ones(len(y)) if weights is None else np.asarray(weights[some], np.float64)
    if method == "temperature":
        return _temperature(y, p, w, FLOORS if like is None else like[:1])
    found = {"platt": _platt, "isotonic": _isotonic}[method](y, p, w)
    return found if found is not None and _gentle(found) else None


def apply(method: str, curve: tuple[float, ...], p: Floats) -> Floats:
    """(n, K) calibrated probabilities of (n, K)."""
    if method == "temperature":
        floor, power = curve
        grown = np.maximum(np.asarray(p, np.float64), floor) ** power
        return np.asarray(grown / grown.sum(axis=1, keepdims=True))
    at, to = _points(curve)
    second = np.interp(np.asarray(p[:, 1], np.float64), at, to)
    return np.column_stack([1.0 - second, second])


def to_onnx(method: str, curve: tuple[float, ...], graph: Graph, y: str, classes: int) -> str:
    """Writes the calibration of the output `y`: (n, K) probabilities, or (n, 1) of the second class."""
    if method == "temperature":
        floor, power = curve
        softmax = graph.made(y, "Softmax")
        if floor == 0.0 and softmax is not None:  # a power of it is a multiple of the scores
            scaled = graph.node("Mul", softmax.input[0], graph.constant(power))
            return graph.node("Softmax", scaled, axis=1)
        raised = graph.node("Pow", graph.node("Max", y, graph.constant(floor)) if floor else y, graph.constant(power))
        ones = graph.constant(np.ones((classes, 1), np.float32))
        return graph.node("Div", raised, graph.node("MatMul", raised, ones))
    at, to = _points(curve)
    width = np.diff(at)
    along = graph.node("Gemm", y, graph.constant((1.0 / width)[None, :]), graph.constant(-at[:-1] / width))
    clipped = graph.node("Clip", along, graph.constant(0.0), graph.constant(1.0))
    return graph.node("Gemm", clipped, graph.constant(np.diff(to)[:, None]), graph.constant(to[:1]))


def _points(curve: tuple[float, ...]) -> tuple[Floats, Floats]:
    """(where, what): the line through these points, flat beyond the first and the last."""
    at, to = np.asarray(curve, np.float64).reshape(2, -1)
    return at, to


def _gentle(curve: tuple[float, ...]) -> bool:
    at, to = _points(curve)
    return len(at) >= 2 and bool((np.diff(to) / np.diff(at) * at[1:]).max() <= STEEPEST)


def _temperature(y: NDArray[np.int64], p: Floats, w: Floats, floors: tuple[float, ...]) -> tuple[float, ...] | None:
    best, found = np.inf, None
    for floor in floors:
        scores = np.log(np.maximum(p, max(floor, 1e-12)))
        power = fit_rescale("multiclass", y, np.zeros(p.shape[1]), scores, w)
        if not 1.0 / STRONGEST <= power <= STRONGEST:
            continue
        moved = apply("temperature", (floor, power), p)
        loss = _loss(moved[np.arange(len(y)), y], w)
        if loss < best - 1e-3 * abs(best if np.isfinite(best) else 0.0):
            best, found = loss, (floor, float(power))
    return found


def _loss(reached: Floats, w: Floats) -> float:
    return -float(np.average(np.log(np.maximum(reached, 1.2e-7)), weights=w))


def _platt(y: NDArray[np.int64], p: Floats, w: Floats) -> tuple[float, ...] | None:
    best, found = np.inf, None
    for floor in CURVE_FLOORS:
        edge = float(np.log((1.0 - floor) / floor))
        clipped = np.clip(p[:, 1], floor, 1.0 - floor)
        line = _logistic(np.log(clipped / (1.0 - clipped)), y, w)
        if line is None or not 1.0 / STRONGEST <= line[0] <= STRONGEST:
            continue
        odds = np.linspace(-edge, edge, POINTS)
        curve = (*_logistic_of(odds).tolist(), *_logistic_of(line[0] * odds + line[1]).tolist())
        if not _gentle(curve):
            continue
        moved = apply("platt", curve, p)
        loss = _loss(moved[np.arange(len(y)), y], w)
        if loss < best:
            best, found = loss, curve
    return found


def _logistic(z: Floats, y: NDArray[np.int64], w: Floats) -> tuple[float, float] | None:
    """(slope, offset) of the logistic regression of y on z, by Newton's method; Platt's own targets keep it finite."""
    many, few = w[y == 1].sum(), w[y == 0].sum()
    target = np.where(y == 1, (many + 1.0) / (many + 2.0), 1.0 / (few + 2.0))
    slope, offset = 1.0, 0.0
    for _ in range(25):
        q = _logistic_of(slope * z + offset)
        off, bend = w * (q - target), w * q * (1.0 - q) + 1e-12
        a, b, c = float((bend * z * z).sum()), float((bend * z).sum()), float(bend.sum())
        g, h = float((off * z).sum()), float(off.sum())
        area = a * c - b * b
        if not area > 1e-12 * a * c:
            return None
        down, aside = (c * g - b * h) / area, (a * h - b * g) / area
        slope, offset = slope - float(np.clip(down, -1, 1)), offset - float(np.clip(aside, -2, 2))
        if abs(down) + abs(aside) < 1e-6:
            break
    return (slope, offset) if np.isfinite([slope, offset]).all() else None


def _logistic_of(z: Floats) -> Floats:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * z)))


def _isotonic(y: NDArray[np.int64], p: Floats, w: Floats) -> tuple[float, ...] | None:
    """Pool adjacent violators over groups of rows by their probabilities, each group a point at its means."""
    order = np.argsort(p[:, 1], kind="stable")
    edges = np.unique(np.searchsorted(p[order, 1], p[order, 1][:: max(1, len(y) // GROUPS)], side="left"))
    sums = [np.add.reduceat(part[order], edges) for part in (w, w * p[:, 1], w * y)]
    stack: list[list[float]] = []
    for weight, at, to in zip(*sums, strict=True):
        stack.append([float(weight), float(at), float(to)])
        while len(stack) > 1 and _pooled(*stack[-2:]):
            last = stack.pop()
            stack[-1] = [a + b for a, b in zip(stack[-1], last, strict=True)]
    at, to = (np.array([group[k] / group[0] for group in stack]) for k in (1, 2))
    size = np.array([group[0] for group in stack]) * len(y) / w.sum()
    to = (to * size + 0.5) / (size + 1.0)  # none of a group of n is 1 / (2 n + 2), not 0
    return (*at.tolist(), *np.maximum.accumulate(to).tolist()) if len(at) >= 2 else None


def _pooled(before: list[float], after: list[float]) -> bool:
    """Whether two neighbouring groups, as sums of (weight, probability, class), are one: they fall, or rise too steeply."""
    (at, to), (further, higher) = ((p / w, c / w) for w, p, c in (before, after))
    return higher <= to or (higher - to) * further > 0.9 * STEEPEST * (further - at)
