"""The pictures of RESULTS.md, drawn from its own tables.

    python benchmarks/plots.py [--out benchmarks/plots]

Needs matplotlib. `beside.svg`: error and one-row latency, ours beside AutoGluon's; `search.svg`: hypervolume over the budget, for each table and in
the mean; `laws.svg`: how far off the laws are, and how often within their intervals.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("RESULTS.md")
OURS, OTHER, THIRD = "#1b6ca8", "#c0542b", "#7a7a7a"
NUMBER = re.compile(r"-?[\d,]*\.?\d+")


def tables(text: str) -> list[tuple[list[str], list[list[str]]]]:
    """(the head, the rows) of each table of a Markdown text, in their order."""
    found: list[tuple[list[str], list[list[str]]]] = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, _, *rows = ([cell.strip() for cell in line.strip().strip("|").split("|")] for line in block.splitlines())
        found.append((head, rows))
    return found


def with_head(found: Sequence[tuple[list[str], list[list[str]]]], *names: str) -> list[list[str]]:
    """The rows of the first table whose head has all these names. Raises LookupError if none has."""
    for head, rows in found:
        if all(name in head for name in names):
            return rows
    raise LookupError(f"no table of {RESULTS.name} has the columns {', '.join(names)}")


def numbers(cell: str) -> list[float]:
    """The numbers of a cell: "0.557, 0.650", "36, 68,905" (a comma without a space stands between thousands)."""
    return [float(NUMBER.findall(part)[0].replace(",", "")) for part in cell.split(", ")]


def beside(found: Sequence[tuple[list[str], list[list[str]]]], figure: Any) -> None:
    """One panel a budget: a line for each table, from AutoGluon's model to ours."""
    latency = "one row, us: ours, AutoGluon"
    short = with_head(found, "FLAML", latency, "seconds: ours, AutoGluon")
    long = with_head(found, "AutoGluon best quality", latency)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, rows, title in zip(panels, (short, long), ("60 s, two cores", "300 s, one core"), strict=True):
        for row in rows:
            errors, (here, there) = [numbers(row[k])[0] for k in (1, 2)], numbers(row[5])
            above = [100 * (error / min(errors) - 1) for error in errors]
            axes.plot([here, there], above, color="#cccccc", zorder=1)
            ours = axes.scatter([here], above[:1], color=OURS, zorder=2)
            theirs = axes.scatter([there], above[1:], color=OTHER, zorder=2)
        axes.set(xscale="log", xlabel="one row, us", title=title)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("error above the better of both, %")
    panels[1].legend([ours, theirs], ["ours", "AutoGluon"], loc="upper left")


def search(found: Sequence[tuple[list[str], list[list[str]]]], figure: Any) -> None:
    """Thin lines are tables, thick ones their mean."""
    rows = with_head(found, "auto 15, 60, 300 s")
    axes = figure.subplots()
    for place, (name, budgets, color) in enumerate(
        (("auto", (15, 60, 300), OURS), ("random", (60, 300), OTHER), ("TPE", (60, 300), THIRD)), 1
    ):
        curves = [numbers(row[place]) for row in rows]
        for curve in curves:
            axes.plot(budgets, curve, color=color, alpha=0.2, linewidth=1)
        mean = [sum(values) / len(values) for values in zip(*curves, strict=True)]
        axes.plot(budgets, mean, color=color, linewidth=2.5, marker="o", label=name)
    axes.set(xscale="log", xlabel="budget, s", ylabel="hypervolume")
    axes.set_xticks([15, 60, 300], labels=["15", "60", "300"])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()


def laws(found: Sequence[tuple[list[str], list[list[str]]]], figure: Any) -> None:
    """Left the median error, right the share inside the 90 % interval, by how many times the rows."""
    rows = with_head(found, "quantity", "times the rows", "inside the 90 % interval", "to last")
    left, right = figure.subplots(1, 2)
    for quantity in dict.fromkeys(row[0] for row in rows):
        own = [row for row in rows if row[0] == quantity]
        times = [numbers(row[1])[0] for row in own]
        left.plot(times, [numbers(row[3])[0] for row in own], marker="o", label=quantity)
        right.plot(times, [numbers(row[6])[0] for row in own], marker="o", label=quantity)
    right.axhspan(85, 95, color=OURS, alpha=0.1)
    left.set_ylabel("median error, %")
    right.set_ylabel("inside the 90 % interval, %")
    for axes in (left, right):
        axes.set(xscale="log", xlabel="times the rows")
        axes.set_xticks([2, 4, 16], labels=["2", "4", "16"])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    left.legend(fontsize="small")


def main() -> None:
    import matplotlib
    from matplotlib.figure import Figure

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS.with_name("plots"), metavar="FOLDER")
    folder = parser.parse_args().out
    folder.mkdir(exist_ok=True)
    matplotlib.rcParams["svg.hashsalt"] = "automl"  # the same bytes every time
    found = tables(RESULTS.read_text(encoding="utf-8"))
    for draw, width in ((beside, 9), (search, 5), (laws, 9)):
        figure = Figure(figsize=(width, 3.8), layout="constrained")
        draw(found, figure)
        figure.savefig(folder / f"{draw.__name__}.svg", metadata={"Date": None})
        print(folder / f"{draw.__name__}.svg")


if __name__ == "__main__":
    main()
