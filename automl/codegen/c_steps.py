"""The steps of a row's graph as C statements; each writes its numbers into an array of its own, on the stack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from automl.estimators.program_trees import LEQ, Trees

from .c_source import Source, refused
from .c_text import array, floats
from .rowgraph import RowGraph, Step, Vector, members

_CALLS = {
    "Relu": ("relu({})", "relu"),
    "Sigmoid": ("sigmoid({})", "sigmoid"),
    "Softplus": ("softplus({})", "softplus"),
    "Tanh": ("tanhf({})", ""),
    "Neg": ("-{}", ""),
    "Exp": ("expf({})", ""),
    "Log": ("logf({})", ""),
    "Abs": ("fabsf({})", ""),
    "Sqrt": ("sqrtf({})", ""),
    "Reciprocal": ("1.0f / {}", ""),
    "Erf": ("erff({})", ""),
}
"""Of an operator of one input: the expression, and the block of the template that it calls."""
_SIGNS = {"Add": "{} + {}", "Sub": "{} - {}", "Mul": "{} * {}", "Div": "{} / {}", "Pow": "powf({}, {})"}
_LARGER = {"Max": "{0} > {1} ? {0} : {1}", "Min": "{0} < {1} ? {0} : {1}"}
_REDUCE = {
    "ReduceSum": "sum += (double){0};",
    "ReduceMean": "sum += (double){0};",
    "ReduceSumSquare": "sum += (double){0} * (double){0};",
    "ReduceMax": "sum = j == 0 || (double){0} > sum ? (double){0} : sum;",
    "ReduceMin": "sum = j == 0 || (double){0} < sum ? (double){0} : sum;",
}
MOST_COLUMNS = 2**29
"""A node of a tree keeps its column in 29 bits."""


def predict(source: Source, graph: RowGraph) -> str:
    """The lines of `scores(row, y)`."""
    if any(step.op == "trees" and (step.data["trees"].mode != LEQ).any() for step in graph.steps):
        source.blocks.add("sets")
    writer, read = _Steps(source), graph.read_steps
    for number, step in enumerate(graph.steps, 1):
        if number in read:
            writer.write(number, step)
    if isinstance(graph.y, Vector):
        lines = [f"float x[{max(1, graph.width)}];", *writer.declared, "encode(row, x);", *writer.lines]
        lines.append(f"memcpy(y, {writer.name(graph.y)}, {graph.y.size} * sizeof *y);")
    else:
        values = np.asarray(graph.y, np.float32).reshape(-1)
        source.table("float constant", floats(values))
        lines = ["(void)row;", f"memcpy(y, constant, {len(values)} * sizeof *y);"]
    return "\n".join(f"    {line}" for line in lines)


class _Steps:
    """Statements (`lines`) and the arrays that they write (`declared`)."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.declared: list[str] = []
        self.lines: list[str] = []
        self.places: dict[int, str] = {}
        """Of a vector whose smallest numbers are sought: the array of their places."""

    def name(self, value: Vector) -> str:
        return f"v{value.step}" if value.step else "x"

    def vector(self, name: str, size: int, kind: str = "float") -> str:
        self.declared.append(f"{kind} {name}[{size}];")
        self.source.floats += size * (2 if kind == "double" else 1)
        return name

    def loop(self, size: int, *body: str) -> None:
        """A statement for every i."""
        self.declared = ["int i;", *self.declared] if "int i;" not in self.declared else self.declared
        self.lines += [f"for (i = 0; i < {size}; i++) {{", *(f"    {line}" for line in body), "}"]

    def write(self, number: int, step: Step) -> None:
        getattr(self, f"_{step.op}")(number, step, step.data)

    def _pick(self, n: int, step: Step, data: Mapping[str, Any]) -> None:
        index, x, y = data["index"], self.name(step.inputs[0]), self.vector(f"v{n}", step.size)
        if np.array_equal(index, np.arange(index[0], index[0] + len(index))):
            self.lines.append(f"memcpy({y}, &{x}[{index[0]}], {step.size} * sizeof *{y});")
        else:
            self.source.table(f"int index_{n}", [str(i) for i in index.tolist()])
            self.loop(step.size, f"{y}[i] = {x}[index_{n}[i]];")

    def _join(self, n: int, step: Step, data: Mapping[str, Any]) -> None:
        y, at = self.vector(f"v{n}", step.size), 0
        for value in step.inputs:
            self.lines.append(f"memcpy(&{y}[{at}], {self.name(value)}, {value.size} * sizeof *{y});")
            at += value.size

    def _dense(self, n: int, step: Step, data: Mapping[str, Any]) -> None:
        self.source.blocks.add("dense")
        weights, bias = data["weights"], data["bias"]
        self.source.table(f"float weights_{n}", floats(weights))
        self.source.table(f"float bias_{n}", floats(bias))
        x, y = self.name(step.inputs[0]), self.vector(f"v{n}", step.size)
        d, m = weights.shape
        if step.size == m:
            self.lines.append(f"dense({x}, {d}, weights_{n}, bias_{n}, {m}, {y});")
        else:
            self.loop(step.size // m, f"dense(&{x}[i * {d}], {d}, weights_{n}, bias_{n}, {m}, &{y}[i * {m}]);")

    def _unary(self, n: int, step: Step, data: Mapping[str, Any]) -> None:
        call, x = data["call"], f"{self.name(step.inputs[0])}[i]"
        if call in ("Selu", "Elu"):
            alpha, gamma = data.get("alpha", 1.67326319 if call == "Selu" else 1.0), data.get("gamma", 1.05070102)
            alpha, gamma = floats([alpha, gamma if call == "Selu" else 1.0])
            expression, block = f"elu({x}, {alpha}, {gamma})", "elu"
        else:
            expression, block = _CALLS[call][0].format(x), _CALLS[call][1]
        if block:
            self.source.blocks.add(block)
        self.loop(step.size, f"{self.vector(f'v{n}', step.size)}[i] = {expression};")

    def _binary(self, n: int, step: Step, data: Mapping[str, Any]) -> None:
        operands = []
        for side, (value, (times, over)) in enumerate(zip(step.inputs, data["index"], strict=True)):
            if isinstance(value, Vector):
                name = self.name(value)
            elif times == 1:
                operands.append(floats(value)[0])
                continue
            else:
                name = f"operand_{n}_{side}"
                self.source.table(f"float {name}", floats(value))
            place = "i" if over == 1 else f"i / {over}"
            place = "0" if times == 1 else place if times * over >= step.size else f"{place} % {times}"
            operands.append(f"{name}[{place}]")
        form = _SIGNS.get(data["call"]) or _LARGER[data["call"]]
        self.loop(step.size, f"{self.vector(f'v{n}', step.size)}[i] = {form.format(*operands)};")

    def _softmax(self, n: int, step: Step, data: Mapping[str, Any]) -> None:
        self.source.blocks.add("softmax")
        x, y, length = self.name(step.inputs[0]), self.vector(f"v{n}", step.size), data["length"]
        if step.size == length:
            self.lines.append(f"softmax({x}, {length}, {y});")
        else:
            self.loop(step.size // length, f"softmax(&{x}[i * {length}], {length}, &{y}[i * {length}]);")

    def _reduce(self, n: int, step: Step, data: Mapping[str, Any]) -> None:
        x, y, length = self.name(step.inputs[0]), self.vector(f"v{n}", step.size), data["length"]
        mean = f" / {length}.0" if data["call"] == "ReduceMean" else ""
        self.loop(
            step.size,
            "double sum = 0.0;",
            "int j;",
            f"for (j = 0; j < {length}; j++) {{",
            "    " + _REDUCE[data["call"]].format(f"{x}[i * {length} + j]"),
            "}",
            f"{y}[i] = (float)(sum{mean});",
        )

    def _found(self, x: Vector, k: int) -> str:
        """The array of the places of the k smallest numbers, sought once."""
        if x.step not in self.places:
            self.source.blocks.add("nearest")
            self.places[x.step] = self.vector(f"places_{x.step}", k, "int")
            self.lines.append(f"nearest({self.name(x)}, {x.size}, {k}, places_{x.step});")
        return self.places[x.step]

    def _smallest(self, n: int, step: Step, data: Mapping[str, Any]) -> None:
        x, y = step.inputs[0], self.vector(f"v{n}", step.size)
        places = self._found(x, step.size)
        self.loop(step.size, f"{y}[i] = {self.name(x)}[{places}[i]];")

    def _places(self, n: int, step: Step, data: Mapping[str, Any]) -> None:
        self.places[-n] = self._found(step.inputs[0], step.size)

    def _rows(self, n: int, step: Step, data: Mapping[str, Any]) -> None:
        places, table = self.places.get(-step.inputs[0].step), data["table"]
        if places is None:
            raise refused("its graph looks rows up at places that are no nearest ones")
        self.source.table(f"float rows_{n}", floats(table))
        y, length = self.vector(f"v{n}", step.size), table.shape[1]
        if length == 1:
            self.loop(step.size, f"{y}[i] = rows_{n}[{places}[i]];")
        else:
            copied = f"memcpy(&{y}[i * {length}], &rows_{n}[{places}[i] * {length}], {length} * sizeof *{y});"
            self.loop(step.size // length, copied)

    def _trees(self, n: int, step: Step, data: Mapping[str, Any]) -> None:
        trees: Trees = data["trees"]
        self.source.blocks.add("trees")
        self.source.tables += forest(n, trees, self.source.blocks)
        x, y = self.name(step.inputs[0]), self.vector(f"v{n}", step.size)
        base = trees.base
        total = self.vector(f"sum_{n}", step.size, "double")
        self.loop(step.size, f"{total}[i] = 0.0;")
        self.lines.append(f"add_trees(&forest_{n}, {x}, {total});")
        if base.any():
            self.source.table(f"float base_{n}", floats(base))
        self.loop(step.size, f"{y}[i] = (float){total}[i]{f' + base_{n}[i]' if base.any() else ''};")


def forest(n: int, trees: Trees, blocks: set[str]) -> list[str]:
    """The tables of one ensemble. A split of a set of categories has the number of its set for its threshold."""
    if trees.feature.max(initial=0) >= MOST_COLUMNS:
        raise refused("its trees read more columns than a node can name")
    chosen = np.flatnonzero(trees.mode != LEQ)
    splits, is_set = trees.threshold.copy(), trees.mode != LEQ
    if len(chosen) >= 2**24:
        raise refused("its trees have more sets of categories than float32 has whole numbers")
    splits[chosen] = np.arange(len(chosen))
    parts = (trees.true, trees.false, trees.feature, trees.missing.astype(int), is_set.astype(int))
    rows = zip(floats(splits), *(part.tolist() for part in parts), strict=True)
    tables = {
        f"node nodes_{n}": [f"{{{split}, {', '.join(map(str, rest))}}}" for split, *rest in rows],
        f"int roots_{n}": [str(root) for root in trees.roots.tolist()],
        f"float values_{n}": floats(trees.value),
    }
    names = [f"nodes_{n}" if trees.splits else "NULL", f"roots_{n}", str(len(trees.roots)), f"values_{n}"]
    for name, array_of, needed in (
        ("targets", trees.target, trees.target.any()),
        ("entries", trees.entry, not np.array_equal(trees.entry, np.arange(trees.leaves + 1))),
    ):
        if needed:
            tables[f"int {name}_{n}"] = [str(value) for value in array_of.tolist()]
        names.append(f"{name}_{n}" if needed else "NULL")
    if len(chosen):
        tables |= _sets(n, trees, chosen)
    if "sets" in blocks:
        names.append(f"sets_{n}, members_{n}" if len(chosen) else "NULL, NULL")
    defined = [array(declared, items) for declared, items in tables.items() if items]
    return [*defined, f"static const forest forest_{n} = {{{', '.join(names)}}};\n"]


def _sets(n: int, trees: Trees, chosen: Any) -> dict[str, list[str]]:
    sets: list[str] = []
    codes: list[str] = []
    for split in chosen.tolist():
        found = members(trees, split)
        sets.append(f"{{{len(codes)}, {len(found)}}}")
        codes += floats(found)
    return {f"set sets_{n}": sets, f"float members_{n}": codes}
