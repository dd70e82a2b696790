"""How good the scaling laws are: families' usual points fitted at many row counts of real tables, the most rows held out.

    python benchmarks/laws.py DATA [NAME ...] [--out CURVES.jsonl] [--least-rows 20000] [--steps 8 4 1]

DATA holds tables and a `datasets.json` that lists them (name, file, task, target). Every table with enough training rows
counts; each of its points is fitted at the full training rows and at 1/2 to 1/64 of them, one at a time on one thread. A
law is fitted at n/8, n/4 and n as a run's are (of few rows at n/4, n/2 and n; or at n divided by --steps, where the curve has these) and
read at 2n, 4n and 16n. Curves are kept in --out: a point that is there is not fitted again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

MOST_POINTS = 6


def points(facts: Any) -> list[Any]:
    """All starts of LightGBM and the first and the last of the other families, as plans on one thread."""
    from automl.estimators.families import FAMILIES
    from automl.search.plan import from_point

    plans = []
    for family in FAMILIES:
        if family.name in ("baseline", "network") or not family.available():
            continue
        starts = list(family.starts(facts))
        some = starts[:MOST_POINTS] if family.name == "lightgbm" else [starts[0], *starts[1:][-1:]]
        plans += [from_point({"family": family.name, **start}, family, facts, 1) for start in some]
    return plans


def measure(entry: dict[str, Any], data: Path, least: int, known: set[tuple[str, str]], out: Path) -> None:
    """Adds the curves of a table that are not in `out` yet."""
    from automl.backtest import looked_at, measured_curve
    from automl.dataset import read_table
    from automl.run import write_data
    from automl.search.metric import Metric
    from automl.search.split import make_split
    from automl.search.worker import start_server

    table = read_table(data / entry["file"], entry["target"], task=entry["task"])
    split = make_split(np.asarray(table.y), table.task.kind, 0, classes=table.task.classes)
    full, facts = split.rungs()[-1], table.facts(budget=60.0)
    if table.rows < least:
        print(f"{entry['name']}: {table.rows:,} rows are under --least-rows", file=sys.stderr)
        return
    start_server("core")
    with tempfile.TemporaryDirectory() as scratch:
        write_data(Path(scratch), table, split)
        for plan in points(facts):
            if (entry["name"], plan.id) in known:
                continue
            curve, why = measured_curve(plan, looked_at(full)[1], Path(scratch), Metric.resolve(None, table.task), 0)
            if why:
                print(f"{entry['name']} {plan.family}: {why}", file=sys.stderr)
            line = {
                "table": entry["name"],
                "id": plan.id,
                "columns": facts.columns,
                "classes": facts.classes,
                "full": full,
            }
            with out.open("a") as file:
                file.write(json.dumps({**line, "trials": [trial.as_dict() for trial in curve]}) + "\n")
    print(f"{entry['name']}: done", file=sys.stderr)


def report(lines: list[dict[str, Any]], given: Sequence[int] | None) -> None:
    """Each quantity at each horizon: over all tables, then the coverage by table."""
    from automl.backtest import held_out, looked_at
    from automl.search.forecast import COSTS
    from automl.search.split import law_parts
    from automl.search.trial import Trial

    print(f"{'quantity':22} horizon curves  median   mean   bias coverage error/last")
    for quantity in ("error", *COSTS):
        for horizon in (2, 4, 16):
            parts, where = [], defaultdict(list)
            for line in lines:
                trials = [Trial.from_dict(t) for t in line["trials"]]
                if trials and horizon in looked_at(line["full"])[0]:
                    curve = [(trials[0].plan, trials)]
                    steps = given or (*law_parts(line["full"] // horizon), 1)
                    if not {line["full"] // horizon // step for step in steps} <= {t.rows for t in trials}:
                        continue
                    found = held_out(quantity, horizon, line["full"], curve, line["columns"], line["classes"], steps)
                    if found is not None:
                        parts.append(found)
                        where[line["table"]].append(found.coverage)
            if parts:
                ape, last = [p.mape for p in parts], [p.mape / max(1e-9, p.ratio_to_last) for p in parts]
                print(
                    f"{quantity:22} {horizon:6}x {len(parts):6} {np.median(ape):7.1%} {np.mean(ape):6.1%} "
                    f"{np.mean([p.bias for p in parts]):+6.2f} {np.mean([p.coverage for p in parts]):8.1%} "
                    f"{np.mean(ape) / np.mean(last):10.2f}   "
                    + " ".join(f"{name} {np.mean(held):.0%}" for name, held in where.items())
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path("laws.jsonl"))
    parser.add_argument("--least-rows", type=int, default=20_000)
    parser.add_argument(
        "--steps", type=int, nargs=3, metavar="N", help="such as 4 2 1; by default those of a run's laws"
    )
    given = parser.parse_args()
    lines = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.exists() else []
    known = {(line["table"], line["id"]) for line in lines}
    for entry in json.loads((given.data / "datasets.json").read_text()):
        if not given.names or entry["name"] in given.names:
            measure(entry, given.data, given.least_rows, known, given.out)
    report([json.loads(line) for line in given.out.read_text().splitlines()], given.steps)


if __name__ == "__main__":
    main()
