"""A model in one file: raw rows to predictions with Python 3.9 or newer and its standard library, nothing else.

    predict({"age": 41, "job": "nurse", ...})        the label, or the value
    predict_proba({"age": 41, "job": "nurse", ...})  the probabilities, in the order of CLASSES
    python THIS_FILE [--proba] < rows.csv            a CSV of predictions, one for each row of the table

A row is a dict of COLUMNS; others in it are passed over. A cell may be what a CSV file holds (text) or a Python value;
None, NaN, "" and the usual words for "missing" are missing. ValueError names the column that is absent or not readable.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from array import array
from collections.abc import Callable, Mapping, Sequence
from operator import mul
from typing import Any

from .standalone_row import Encoder

# --- the model: steps from the encoded row to the prediction ----------------------------------------------------------

Vector = Sequence[float]
SELU = 1.67326319217681884765625, 1.05070102214813232421875


def sigmoid(x: float) -> float:
    if x >= 0.0:
        return 1.0 / (1.0 + math.exp(-x))
    grown = math.exp(max(x, -745.0))
    return grown / (1.0 + grown)


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def elu(x: float, alpha: float, gamma: float) -> float:
    return gamma * (x if x > 0.0 else alpha * math.expm1(max(x, -745.0)))


UNARY: dict[str, Callable[[float], float]] = {
    "Relu": lambda x: x if x > 0.0 or x != x else 0.0,
    "Sigmoid": sigmoid,
    "Tanh": math.tanh,
    "Neg": lambda x: -x,
    "Exp": lambda x: math.exp(min(x, 709.0)),
    "Log": lambda x: math.log(x) if x > 0.0 else -math.inf if x == 0.0 else math.nan,
    "Abs": abs,
    "Sqrt": lambda x: math.sqrt(x) if x >= 0.0 else math.nan,
    "Reciprocal": lambda x: 1.0 / x if x else math.inf,
    "Softplus": softplus,
    "Erf": math.erf,
}
BINARY: dict[str, Callable[[float, float], float]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": lambda a, b: a / b if b else math.copysign(math.inf, a) if a else math.nan,
    "Max": max,
    "Min": min,
    "Pow": math.pow,
}
REDUCE: dict[str, Callable[[Vector], float]] = {
    "ReduceSum": math.fsum,
    "ReduceMean": lambda part: math.fsum(part) / len(part),
    "ReduceMax": max,
    "ReduceMin": min,
    "ReduceSumSquare": lambda part: math.fsum(x * x for x in part),
}


def unary(call: str, alpha: float, gamma: float) -> Callable[[Vector], Vector]:
    if call in ("Selu", "Elu"):
        return lambda x: [elu(each, alpha, gamma) for each in x]
    function = UNARY[call]
    return lambda x: [function(each) for each in x]


def binary(call: str, size: int, first: Sequence[int], second: Sequence[int]) -> Callable[[Vector, Vector], Vector]:
    function = BINARY[call]
    left, right = ([i // over % times for i in range(size)] for times, over in (first, second))
    return lambda a, b: [function(a[i], b[j]) for i, j in zip(left, right)]


def dense(weights: Sequence[float], bias: Sequence[float]) -> Callable[[Vector], Vector]:
    """Every so many numbers as there are inputs to the outputs; `weights` hold one output's after another's."""
    inputs = len(weights) // len(bias)
    rows = [(weights[i * inputs : (i + 1) * inputs], start) for i, start in enumerate(bias)]
    return lambda x: [
        sum(map(mul, part, row), start)
        for part in (x[i : i + inputs] for i in range(0, len(x), inputs))
        for row, start in rows
    ]


def softmax(length: int) -> Callable[[Vector], Vector]:
    """Of every `length` numbers."""

    def run(x: Vector) -> Vector:
        out: list[float] = []
        for i in range(0, len(x), length):
            most = max(x[i : i + length])
            grown = [math.exp(each - most) for each in x[i : i + length]]
            total = math.fsum(grown)
            out += [each / total for each in grown]
        return out

    return run


def reduce(call: str, length: int) -> Callable[[Vector], Vector]:
    function = REDUCE[call]
    return lambda x: [function(x[i : i + length]) for i in range(0, len(x), length)]


def nearest(x: Vector, k: int) -> list[int]:
    """The places of the k smallest numbers, equal ones by place."""
    return sorted(range(len(x)), key=x.__getitem__)[:k]


def rows(table: Sequence[float], length: int) -> Callable[[Vector], Vector]:
    return lambda places: [number for i in places for number in table[int(i) * length : (int(i) + 1) * length]]


def trees(tables: Mapping[str, Any]) -> Callable[[Vector], Vector]:
    """The sum of the leaves that a row reaches; a split's child is a split from 0 on, or -1 - the number of a leaf."""
    column, left, right = tables["column"], tables["left"], tables["right"]
    split, value = array("f", tables["split"]).tolist(), array("f", tables["value"]).tolist()
    missing_left = frozenset(tables["missing_left"])
    members = {node: frozenset(codes) for node, codes in tables["members"].items()}
    base, roots = array("f", tables["base"]).tolist(), tables["roots"]
    entry, target = tables["entry"], tables["target"] or [0] * len(value)

    def run(x: Vector) -> Vector:
        out = list(base)
        for node in roots:
            while node >= 0:
                number = x[column[node]]
                if number != number:
                    goes_left = node in missing_left
                elif node in members:
                    goes_left = number in members[node]
                else:
                    goes_left = number <= split[node]
                node = left[node] if goes_left else right[node]
            leaf = -1 - node
            if entry is None:
                out[target[leaf]] += value[leaf]
            else:
                for i in range(entry[leaf], entry[leaf + 1]):
                    out[target[i]] += value[i]
        return out

    return run


def made(op: str, size: int, data: Mapping[str, Any]) -> Callable[..., Vector]:
    """The function of one step."""
    numbers_of: Callable[[str], Sequence[float]] = lambda key: array("f", data[key]).tolist()  # noqa: E731
    if op == "pick":
        return lambda x: [x[i] for i in data["index"]]
    if op == "join":
        return lambda *parts: [number for part in parts for number in part]
    if op == "dense":
        return dense(numbers_of("weights"), numbers_of("bias"))
    if op == "unary":
        return unary(data["call"], data.get("alpha", SELU[0]), data.get("gamma", SELU[1]))
    if op == "binary":
        return binary(data["call"], size, *data["index"])
    if op == "softmax":
        return softmax(data["length"])
    if op == "reduce":
        return reduce(data["call"], data["length"])
    if op == "smallest":
        return lambda x: [x[i] for i in nearest(x, size)]
    if op == "places":
        return lambda x: nearest(x, size)
    if op == "rows":
        return rows(numbers_of("table"), data["length"])
    if op == "trees":
        return trees(data)
    raise ValueError(f"{op!r} is no step that this file knows")


class Model:
    """Raw rows to predictions. `columns` are those that it needs, `classes` the labels in the order of the probabilities."""

    def __init__(self, tables: Mapping[str, Any]) -> None:
        self.task, self.classes = tables["task"], list(tables["classes"])
        self.encode = Encoder(tables["encoder"])
        self.columns = self.encode.columns
        self.steps = [(made(op, size, data), inputs) for op, inputs, size, data in tables["steps"]]
        self.y = tables["y"]

    def output(self, row: Mapping[str, Any]) -> Vector:
        found: list[Vector] = [self.encode(row)]
        for run, inputs in self.steps:
            found.append(run(*(found[each] if isinstance(each, int) else each for each in inputs)))
        return found[self.y] if isinstance(self.y, int) else self.y

    def predict_proba(self, row: Mapping[str, Any]) -> list[float]:
        """The probabilities of one row. ValueError for a regression."""
        if self.task == "regression":
            raise ValueError("a regression model has no probabilities: use predict")
        out = self.output(row)
        return [1.0 - out[0], out[0]] if self.task == "binary" else list(out)

    def predict(self, row: Mapping[str, Any]) -> Any:
        """The label of one row in its original type, or its value as a float."""
        out = self.output(row)
        if self.task == "regression":
            return out[0]
        place = int(out[0] > 0.5) if self.task == "binary" else max(range(len(out)), key=out.__getitem__)
        return self.classes[place]


def main(model: Model, arguments: Sequence[str] | None = None) -> int:
    """CSV rows with a header from stdin, predictions as CSV to stdout; 2 and one line on stderr where a row is wrong."""
    parser = argparse.ArgumentParser(description="Predicts the rows of a CSV file, read from stdin.")
    parser.add_argument("--proba", action="store_true", help="the probability of every class, not the label")
    parser.add_argument("--sep", default=",", help="what separates the columns of the input")
    options = parser.parse_args(arguments)
    csv.field_size_limit(2**31 - 1)
    number = 0
    with open(0, encoding="utf-8-sig", newline="", closefd=False) as rows:
        with open(1, "w", encoding="utf-8", newline="", closefd=False) as results:
            out = csv.writer(results, lineterminator="\n")
            try:
                if options.proba and model.task == "regression":
                    raise ValueError("a regression model has no probabilities: leave --proba out")
                out.writerow(model.classes if options.proba else ["prediction"])
                sep = str({"tab": "\t", "\\t": "\t"}.get(options.sep, options.sep))
                if len(sep) != 1:
                    raise ValueError(f"--sep is one character, found {sep!r}")
                for row in csv.DictReader(rows, delimiter=sep):
                    number += 1
                    out.writerow(model.predict_proba(row) if options.proba else [model.predict(row)])
            except (ValueError, csv.Error) as error:
                print(f"error: row {number}: {error}" if number else f"error: {error}", file=sys.stderr)
                return 2
    return 0
