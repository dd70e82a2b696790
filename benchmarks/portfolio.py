"""Learns the portfolio that a search begins with, from runs on tables, and says how much it gains on tables held out.

    python benchmarks/portfolio.py [--tables FOLDER] [--rows 1500] [--seconds 1500] [--cells CELLS.jsonl] [--out FILE]

Every point of a pool (the families' starts, the published ones of `portfolio_pool.json`, random draws) is fitted on every
table, one thread and one isolated process each: error on held-out rows, CPU seconds, one-row latency, bytes. The tables are
scikit-learn's own, generated ones, and those of FOLDER: its `datasets.json` lists them (name, file, task, target), or else
each CSV's last column is its target. What is measured goes to CELLS line by line, and a later call goes on from there.

The order is learned greedily: next comes the point that adds most to the front for a CPU second, averaged over the tables:
half by its hypervolume, half by its best error ("accuracy": how far from the baseline's error to the best known). It is
judged on the tables of one origin at a time, learned from all the others, beside the families' starts in order of their
predicted cost and beside the pool in random order: what is reached after fixed CPU seconds, with the paired bootstrap
interval over tables. `--out` writes the file that the package ships (`search/portfolio.json`).
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from automl.estimators.families import FAMILIES
from automl.estimators.family import Facts, Family
from automl.estimators.space import Space
from automl.search.portfolio import Entry, cheapest_first, starting_points
from automl.search.space import key

POOL = Path(__file__).with_name("portfolio_pool.json")
KINDS = {"classification": ("binary", "multiclass"), "regression": ("regression",)}
OBJECTIVES = ("error", "training_time", "latency", "size")
BUDGET = 60.0
"""The wall seconds of the run that points are adapted to, and that the hypervolume's box of training times ends at."""
CELL = 60.0
"""Wall seconds after which a fit is given up."""
DRAWS = 3
"""Random points a family."""
SAMPLES = 4096
"""Random points of the unit box by which hypervolumes are compared: its share of them that a front dominates."""
LEAST = 1e-4
"""The portfolio ends where the next point would add less than this, or at `MOST` points."""
MOST = 60
AFTER = (1, 2, 4, 8, 16, 32)
"""CPU seconds after the first plans at which orders are compared."""
SHUFFLES = 20
"""Random ways to go on after an order has ended."""


# -- the tables --------------------------------------------------------------------------------------------------------


@dataclass
class Source:
    """A table to learn from. Tables of one `origin` are held out together; `load` gives its frame and the target's name."""

    name: str
    origin: str
    load: Callable[[], tuple[Any, str]]
    task: str | None = None


def bundled() -> list[Source]:
    """scikit-learn's own tables and generated ones."""
    sources = [
        Source(name, name, lambda name=name: toy(name)) for name in ("iris", "wine", "breast_cancer", "diabetes")
    ]
    made = {
        "linear": {"n_samples": 600, "n_features": 12, "n_informative": 4, "flip_y": 0.1, "class_sep": 0.7},
        "clusters": {
            "n_samples": 4000,
            "n_features": 25,
            "n_informative": 8,
            "n_clusters_per_class": 4,
            "flip_y": 0.03,
        },
        "classes": {"n_samples": 3000, "n_features": 20, "n_informative": 8, "n_classes": 5, "flip_y": 0.05},
    }
    sources += [Source(name, name, lambda options=options: classified(**options)) for name, options in made.items()]
    sources += [
        Source(f"friedman{which}_{rows}", f"friedman{which}", lambda which=which, rows=rows: friedman(which, rows))
        for which, rows in ((1, 600), (1, 4000), (2, 2000))
    ]
    sources += [Source(f"levels_{task}", "levels", lambda task=task: levels(task)) for task in ("binary", "regression")]
    return [*sources, Source("digits", "digits", lambda: toy("digits"))]


def toy(name: str) -> tuple[Any, str]:
    from sklearn import datasets

    return getattr(datasets, f"load_{name}")(as_frame=True).frame, "target"


def classified(**options: Any) -> tuple[Any, str]:
    import pandas as pd
    from sklearn.datasets import make_classification

    X, y = make_classification(**options, random_state=0)
    return pd.DataFrame(X).add_prefix("x").assign(target=y.astype(str)), "target"


def friedman(which: int, rows: int) -> tuple[Any, str]:
    import pandas as pd
    from sklearn import datasets

    X, y = getattr(datasets, f"make_friedman{which}")(n_samples=rows, random_state=0)
    noise = np.random.default_rng(0).normal(scale=0.3 * y.std(), size=rows)
    return pd.DataFrame(X).add_prefix("x").assign(target=y + noise), "target"


def levels(task: str, rows: int = 3000) -> tuple[Any, str]:
    """Categories of 4, 30 and 200 levels, each with an effect of its own, and five numbers, a tenth of them missing."""
    import pandas as pd

    rng = np.random.default_rng(1)
    numbers = rng.normal(size=(rows, 5))
    codes = [rng.integers(0, count, rows) for count in (4, 30, 200)]
    score = numbers[:, 0] * numbers[:, 1] + np.abs(numbers[:, 2]) + rng.normal(size=rows)
    score = score + sum(rng.normal(size=count)[code] for count, code in zip((4, 30, 200), codes, strict=True))
    numbers[rng.random(numbers.shape) < 0.1] = np.nan
    frame = pd.DataFrame(numbers).add_prefix("x")
    for i, code in enumerate(codes):
        frame[f"c{i}"] = [f"level {c}" for c in code]
    frame["target"] = score if task == "regression" else np.where(score > np.median(score), "yes", "no")
    return frame, "target"


def in_folder(folder: Path) -> list[Source]:
    """The tables that the folder's `datasets.json` lists, or its CSV files. Raises SystemExit if there is none."""
    listed = folder / "datasets.json"
    if listed.exists():
        entries = json.loads(listed.read_text())
    else:
        entries = [{"name": path.stem, "file": path.name} for path in sorted(folder.glob("*.csv*"))]
    if not entries:
        raise SystemExit(f"{folder} holds no datasets.json and no CSV file")
    return [
        Source(e["name"], e["name"], lambda e=e: from_file(folder / e["file"], e.get("target")), e.get("task"))
        for e in entries
    ]


def from_file(path: Path, target: str | None) -> tuple[Any, str]:
    from automl.dataset import read_frame

    frame = read_frame(path)
    return frame, target or str(frame.columns[-1])


# -- the pool ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """A point of the pool, as it is before a table adapts it."""

    family: Family
    point: dict[str, Any]
    source: str


def pool(kind: str, given: Path | None = None) -> list[Candidate]:
    """The families' starts (theirs in order), the published points, random draws, each once; or only the points of `given`,
    beside those that every search begins with. They are those for a table of 100 columns with categories and time for
    everything: `Family.adapted` does the rest.
    """
    task = KINDS[kind][-1]
    facts = Facts(task, 10_000, 100, 0 if task == "regression" else 4, 1)
    named = {family.name: family for family in FAMILIES if family.available()}
    found = []
    for family in named.values():
        ahead = family.reference(facts) or (family.starts(facts)[0] if family.name in ("baseline", "linear") else None)
        starts = family.starts(facts) if given is None else [ahead] if ahead is not None else []
        found += [Candidate(family, named_root(dict(start)), f"starts of {family.name}") for start in starts]
    found += [
        Candidate(named[e["family"]], known_names(e["point"], named[e["family"]].space(facts)), e["source"])
        for e in json.loads((given or POOL).read_text())
        if set(KINDS[kind]) <= set(e["tasks"]) and e["family"] in named
    ]
    if given is None:
        found += draws(list(named.values()), facts)
    return list({key({"family": c.family.name, **c.point}): c for c in reversed(found)}.values())[::-1]


def draws(families: Sequence[Family], facts: Facts) -> list[Candidate]:
    """Random points of each family's space, their numbers rounded."""
    from automl.search.space import Branch, sample_branch

    rng, found = np.random.default_rng(0), []
    for family in families:
        branch = Branch(family.name, family.space(facts))
        for _ in range(DRAWS if branch.space else 0):
            point = {k: rounded(v) for k, v in sample_branch(branch, rng).items() if k != "family"}
            found.append(Candidate(family, point, f"random draw, seed 0, {family.name}"))
    return found


def known_names(point: dict[str, Any], space: Space) -> dict[str, Any]:
    """The point without what a space for other tasks has."""
    return {name: value for name, value in point.items() if name in space}


def named_root(point: dict[str, Any]) -> dict[str, Any]:
    """The point with the root of the pool's 100 columns by its name, which holds for any width."""
    return {k: "sqrt" if k == "max_features" and v == 0.1 else v for k, v in point.items()}


def rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


# -- the cells ---------------------------------------------------------------------------------------------------------


@dataclass
class Evaluated:
    """A table with what every candidate does on it. `adapted` are the candidates' points here."""

    name: str
    origin: str
    facts: Facts
    fits: int
    fingerprint: str
    candidates: list[Candidate]
    cells: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return next(kind for kind, tasks in KINDS.items() if self.facts.task in tasks)

    @cached_property
    def adapted(self) -> list[dict[str, Any]]:
        return [{"family": c.family.name, **c.family.adapted(c.point, self.facts)} for c in self.candidates]

    @cached_property
    def first(self) -> list[int]:
        """The candidates that every search fits ahead: the two simplest families' first starts, and LightGBM's defaults."""
        from automl.search.agenda import first_plans

        families = [family for family in FAMILIES if family.available()]
        ahead = [key(point) for point in first_plans(families, self.facts, self.seconds)[0]]
        return [i for i, point in enumerate(self.adapted) if key(point) in ahead]

    def seconds(self, point: dict[str, Any]) -> float:
        """What the search's cost model, before any trial, predicts a point to take."""
        from automl.search.cost import CostModel
        from automl.search.plan import from_point

        family = next(family for family in FAMILIES if family.name == point["family"])
        plan = from_point(point, family, self.facts, 1)
        return CostModel(self.facts).predict(family, plan, self.facts.rows, self.fits)[0]

    @cached_property
    def spent(self) -> np.ndarray:
        """(candidates,) CPU seconds of each one's trial."""
        return np.array([self.cells[key(point)]["cpu_seconds"] for point in self.adapted])

    @cached_property
    def dominated(self) -> np.ndarray:
        """(candidates, samples) which random points of the unit box each candidate dominates; a failed one none.

        The first half has all objectives; their share is the hypervolume. In the second half only the error counts: the
        hypervolume of four objectives hardly knows the accurate and costly end of a front, which most users take.
        """
        from automl.search.front import normalise
        from automl.search.objectives import by_name

        cells = [self.cells[key(point)] for point in self.adapted]
        values = np.array([[c[o] if c[o] is not None else np.inf for o in OBJECTIVES] for c in cells], float)
        baseline = next(c["error"] for c in cells if c["family"] == "baseline")
        finite = values[np.isfinite(values[:, 0]), 0]
        where = normalise(values, by_name(OBJECTIVES), baseline, float(finite.min()), BUDGET)
        where[~np.isfinite(values).all(axis=1)] = 1.0
        samples = np.random.default_rng(0).random((2 * SAMPLES, len(OBJECTIVES)))
        samples[SAMPLES:, 1:] = 1.0  # here only the error counts
        return np.asarray((where[:, None, :] <= samples[None]).all(axis=2))


def evaluate(
    source: Source, rows: int, given: Path | None, store: Path | None, known: dict[tuple[str, str], Any], left: float
) -> tuple[Evaluated | None, float]:
    """(the table with all of its cells, CPU seconds spent); None in its place where the time left did not suffice.

    Cells in `known` (by the table's fingerprint and the point) are not measured again; new ones are added to it and to `store`.
    """
    from automl.estimators.table import from_frame
    from automl.run import write_data
    from automl.search.metric import Metric

    frame, target = source.load()
    frame = frame.sample(min(rows, len(frame)), random_state=0).reset_index(drop=True)
    table = from_frame(frame.drop(columns=[target]), frame[target], task=source.task)
    split = splitted(np.asarray(table.y), table.task.kind, table.task.classes)
    facts = table.facts(budget=BUDGET)
    kind = next(kind for kind, tasks in KINDS.items() if facts.task in tasks)
    evaluated = Evaluated(source.name, source.origin, facts, split.fits(), table.fingerprint(), pool(kind, given))
    spent = 0.0
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        write_data(data, table, split)
        for candidate, point in zip(evaluated.candidates, evaluated.adapted, strict=True):
            at = (evaluated.fingerprint, key(point))
            if at not in known:
                if spent > left:
                    return None, spent
                known[at] = cell(
                    candidate.family, point, facts, data, split.rungs()[-1], Metric.resolve(None, table.task)
                )
                spent += known[at]["cpu_seconds"]
                if store is not None:
                    with store.open("a") as file:
                        line = {"table": source.name, "fingerprint": at[0], "point": point, **known[at]}
                        file.write(json.dumps(line) + "\n")
            evaluated.cells[at[1]] = known[at]
    return evaluated, spent


def splitted(y: Any, task: str, classes: Sequence[Any]) -> Any:
    """The search's own five folds below 500 rows, else a third of the rows to validate on."""
    from sklearn.model_selection import ShuffleSplit, StratifiedShuffleSplit

    from automl.search.split import make_split

    third = (ShuffleSplit if task == "regression" else StratifiedShuffleSplit)(1, test_size=1 / 3, random_state=0)
    return make_split(y, task, 0, splitter=None if len(y) < 500 else third, classes=classes)


def cell(family: Family, point: dict[str, Any], facts: Facts, data: Path, rows: int, metric: Any) -> dict[str, Any]:
    """What the search would measure of the point: a trial in a process of its own, one thread."""
    from automl.search.fitting import Job, supervise
    from automl.search.plan import from_point

    job = Job(from_point(point, family, facts, 1), family, metric, data, data / "artifact", rows, 0)
    outcome = supervise(job, CELL, None, "torch" if family.needs == "torch" else "core")
    measured = outcome.value.measurement if outcome.status == "completed" else None
    return {
        "family": family.name,
        "status": outcome.status,
        "reason": outcome.reason,
        "cpu_seconds": outcome.cpu_seconds,
        "error": measured and measured.error,
        "training_time": measured and measured.training_cpu_seconds,
        "latency": measured and measured.latency_p50_seconds,
        "size": measured and measured.size_bytes,
    }


def stored(path: Path | None) -> dict[tuple[str, str], Any]:
    """The cells measured before, by the table's fingerprint and the point."""
    if path is None or not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {(line["fingerprint"], key(line["point"])): line for line in lines}


# -- learning the order ------------------------------------------------------------------------------------------------


def learn(tables: Sequence[Evaluated]) -> list[Entry]:
    """The pool's points in greedy order, each with what it adds to those before it; every family has one at least."""
    candidates, kind = tables[0].candidates, tables[0].kind
    seconds = np.mean([table.spent for table in tables], axis=0)
    covered = [table.dominated[table.first].any(axis=0) for table in tables]
    families = np.array([candidate.family.name for candidate in candidates])
    open_ = np.array([i not in tables[0].first and families[i] != "baseline" for i in range(len(candidates))])
    chosen: list[Entry] = []

    def gains() -> np.ndarray:
        return np.mean([(t.dominated & ~c).mean(axis=1) for t, c in zip(tables, covered, strict=True)], axis=0)

    while open_.any():
        added = gains()
        have = {entry.family for entry in chosen}
        may = open_ & ((added >= LEAST) & (len(chosen) < MOST) | ~np.isin(families, list(have)))
        other = may & (families != (chosen[-1].family if chosen else ""))
        if not may.any():
            break
        i = int(np.argmax(np.where(other if other.any() else may, added / seconds, -1.0)))
        open_[i] = False
        for table, cover in zip(tables, covered, strict=True):
            cover |= table.dominated[i]
        candidate = candidates[i]
        rate = float(f"{added[i] / seconds[i]:.4g}")
        chosen.append(Entry(candidate.family.name, candidate.point, KINDS[kind], candidate.source, rate))
    return chosen


def orders(table: Evaluated, learned: Sequence[Entry]) -> dict[str, list[int]]:
    """The candidates' numbers in the order of the portfolio, and of the families' starts by their predicted cost."""
    families = [family for family in FAMILIES if family.available()]
    place = {key(point): i for i, point in reversed(list(enumerate(table.adapted)))}
    points = starting_points(families, table.facts, table.seconds, learned)
    ahead = [key(table.adapted[i]) for i in table.first]
    own = [{"family": f.name, **start} for f in families for start in f.starts(table.facts)]
    starts = cheapest_first([point for point in own if key(point) not in ahead], table.seconds)
    return {
        "portfolio": [place[key(point)] for point in points if key(point) in place],
        "starts": [place[key(point)] for point in starts if key(point) in place],
        "random": [],
    }


def curve(table: Evaluated, order: Sequence[int]) -> np.ndarray:
    """(2, times) hypervolume, and how far the best error is from the baseline's to the best known, after each of `AFTER`

    CPU seconds of an order that goes on at random, averaged over ways to go on.
    """
    found = np.zeros((2, len(AFTER)))
    for seed in range(SHUFFLES):
        rest = np.random.default_rng(seed).permutation(len(table.candidates))
        whole = [i for i in dict.fromkeys([*order, *rest.tolist()]) if i not in table.first]
        clock = np.cumsum(table.spent[whole])
        for k, bound in enumerate(AFTER):
            done = [*table.first, *np.array(whole)[clock <= bound].tolist()]
            found[:, k] += table.dominated[done].any(axis=0).reshape(2, -1).mean(axis=1) / SHUFFLES
    return found


def held_out(tables: Sequence[Evaluated]) -> dict[str, Any]:
    """What `curve` says of each order on tables that the portfolio was not learned from, and its gains with 95 % intervals."""
    curves: dict[str, list[np.ndarray]] = {"portfolio": [], "starts": [], "random": []}
    judged = []
    for table in tables:
        others = [t for t in tables if t.kind == table.kind and t.origin != table.origin]
        if others:
            judged.append(table.name)
            for name, order in orders(table, learn(others)).items():
                curves[name].append(curve(table, order))
    if not judged:
        return {}
    found: dict[str, Any] = {"tables": judged, "cpu_seconds": list(AFTER)}
    rows = np.random.default_rng(0).integers(0, len(judged), (2000, len(judged)))
    for m, measure in enumerate(("hypervolume", "accuracy")):
        values = {name: np.array(found)[:, m] for name, found in curves.items()}
        found[measure] = {name: [round(v, 4) for v in those.mean(axis=0).tolist()] for name, those in values.items()}
        for name in ("starts", "random"):
            gap = values["portfolio"] - values[name]
            low, high = np.quantile(gap[rows].mean(axis=1), (0.025, 0.975), axis=0)
            found[measure][f"gain_over_{name}"] = [
                [round(float(v), 4) for v in triple] for triple in zip(gap.mean(axis=0), low, high, strict=True)
            ]
    return found


# -- the command -------------------------------------------------------------------------------------------------------


def write(path: Path, entries: Sequence[Entry], provenance: dict[str, Any]) -> None:
    """The data file, an entry a line."""
    facts = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in provenance.items())
    lines = ",\n".join("  " + json.dumps(vars(entry)) for entry in entries)
    path.write_text(f'{{\n "provenance": {{\n{facts}\n }},\n "entries": [\n{lines}\n ]\n}}\n')


def provenance(tables: Sequence[Evaluated], rows: int, judged: dict[str, Any]) -> dict[str, Any]:
    from importlib.metadata import version

    names = ("numpy", "scikit-learn", "lightgbm", "onnxruntime")
    return {
        "command": "python benchmarks/portfolio.py " + " ".join(a for a in ("--tables FOLDER", f"--rows {rows}")),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {name: version(name) for name in names},
        "seed": 0,
        "tables": {t.name: [t.facts.task, t.facts.rows, t.facts.columns] for t in tables},
        "cells": sum(len(t.cells) for t in tables),
        "cpu_seconds": round(sum(c["cpu_seconds"] for t in tables for c in t.cells.values())),
        "held_out": judged,
    }


def shown(judged: dict[str, Any]) -> Iterator[str]:
    """The held-out figures as a table of text."""
    for measure in ("hypervolume", "accuracy"):
        yield f"{measure} on {len(judged['tables'])} tables held out, after so many CPU seconds; gain with 95 % interval"
        yield f"{'s':>4} {'portfolio':>10} {'starts':>8} {'random':>8}   over starts                  over random"
        those = judged[measure]
        for k, bound in enumerate(judged["cpu_seconds"]):
            means = f"{those['portfolio'][k]:>10.4f} {those['starts'][k]:>8.4f} {those['random'][k]:>8.4f}"
            gains = [
                "{:+.4f} [{:+.4f}, {:+.4f}]".format(*those[f"gain_over_{name}"][k]) for name in ("starts", "random")
            ]
            yield f"{bound:>4} {means}   {gains[0]}   {gains[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="only these tables")
    parser.add_argument("--tables", type=Path, help="a folder of tables beside scikit-learn's and generated ones")
    parser.add_argument("--pool", type=Path, help="choose among these points only, a list as in portfolio_pool.json")
    parser.add_argument("--rows", type=int, default=1500, help="draw so many rows of a table at most")
    parser.add_argument(
        "--seconds", type=float, default=1500, help="CPU seconds for new cells; tables not done are left out"
    )
    parser.add_argument("--cells", type=Path, help="keep what is measured here, and go on from it")
    parser.add_argument("--out", type=Path, help="write the portfolio here")
    arguments = parser.parse_args()
    sources = bundled() + (in_folder(arguments.tables) if arguments.tables else [])
    known, left, tables = stored(arguments.cells), arguments.seconds, list[Evaluated]()
    for source in sources:
        if arguments.names and source.name not in arguments.names:
            continue
        table, spent = evaluate(source, arguments.rows, arguments.pool, arguments.cells, known, left)
        left -= spent
        print(
            f"{source.name}: {spent:.0f} CPU s{'' if table else ', not done: out of time'}", file=sys.stderr, flush=True
        )
        if table:
            tables.append(table)
    if not tables:
        raise SystemExit("no table is done: give more --seconds, or other names")
    entries = [entry for kind in KINDS for entry in learned_for(kind, tables)]
    judged = held_out(tables)
    if judged:
        print("\n".join(shown(judged)))
    if arguments.out:
        write(arguments.out, entries, provenance(tables, arguments.rows, judged))
    print(f"{len(entries)} points from {len(tables)} tables")


def learned_for(kind: str, tables: Sequence[Evaluated]) -> list[Entry]:
    own = [table for table in tables if table.kind == kind]
    return learn(own) if own else []


if __name__ == "__main__":
    main()
