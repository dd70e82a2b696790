"""Does every export of every model say what its artifact says? All families, tables and formats, and both engines.

    python benchmarks/parity.py [TABLE ...] [--tables FOLDER] [--rows 2000] > parity.md

Without `--tables`, which names a folder of tables with a `datasets.json` that lists them (name, file, target, task), the
tables are scikit-learn's own and generated ones. Every family's cheapest start is fitted on `--rows` rows of each table (every
class with as many as it has, up to its share) and written in every format. A format compares 1,000 rows with the artifact
before it writes (`automl/parity.py`); the figure is the largest difference, relative to max(1, |value|), and has to be 1e-5 at
most. What a format or an engine refuses is listed with its reason. `one row` counts the rows of 200 that are not the same
bits alone, as a dict and as a frame of one row, as in a batch of all.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
from cells import listed, read, write_own
from hypervolume import table

from automl import parity
from automl.errors import AutoMLError
from automl.estimators import runtime
from automl.estimators.artifact import with_engine
from automl.estimators.families import FAMILIES
from automl.estimators.family import Family
from automl.estimators.pipeline import Pipeline
from automl.exporter import proof_of
from automl.exporters import EXPORTERS
from automl.inputs import assemble

ALONE = 200


def some_rows(y: Any, task: str, rows: int) -> np.ndarray:
    """Numbers of at most so many rows: at random, and two of every class at the least."""
    order = np.random.default_rng(0).permutation(len(y))
    if task == "regression":
        return np.sort(order[:rows])
    labels = np.asarray(y)[order]
    few = np.concatenate([order[np.flatnonzero(labels == label)[:2]] for label in np.unique(labels)])
    return np.sort(np.unique(np.concatenate([few, order[:rows]])))


def artifacts(entry: dict[str, Any], data: Path, rows: int, folder: Path) -> Iterator[tuple[Family, Path | None, str]]:
    """(family, the artifact of its cheapest start or None, why there is none)."""
    frame, target, task = read(data / entry["file"]), entry["target"], entry["task"]
    frame = frame[frame[target].notna()]
    frame = frame.iloc[some_rows(frame[target], task, rows)].reset_index(drop=True)
    given = assemble(frame.drop(columns=target), frame[target], None, None, None, None, None, None, task)[0]
    facts, every = given.facts(), np.arange(given.rows)
    for family in FAMILIES:
        if not family.available() or facts.task not in family.tasks:
            continue
        place = folder / f"{entry['name']}-{family.name}"
        pipeline = Pipeline(family, family.starts(facts)[0], view=family.views(facts)[0])
        try:
            pipeline.fit(given, every).export(place, given, every)
        except (AutoMLError, MemoryError, ValueError) as problem:
            yield family, None, str(problem)
            continue
        yield family, place, ""


def differing(place: Path) -> int:
    """Of 200 rows made from what the artifact says of its columns, those not the same bits alone as in a batch."""
    import pandas as pd

    reference = parity.Reference.open(place)
    columns = {name: values[:ALONE] for name, values in reference.rows.items()}
    dicts = [{name: values[i] for name, values in columns.items()} for i in range(ALONE)]
    model = reference.model
    many, one = (
        (model.predict, model.predict_one)
        if model.task == "regression"
        else (model.predict_proba, model.predict_proba_one)
    )
    batch = np.asarray(many(pd.DataFrame(columns, dtype=object)))
    frame = pd.DataFrame(columns, dtype=object)
    return sum(
        not (
            np.array_equal(one(row), batch[i], equal_nan=True)
            and np.array_equal(many(frame[i : i + 1])[0], batch[i], equal_nan=True)
        )
        for i, row in enumerate(dicts)
    )


def checked(place: Path, folder: Path) -> tuple[dict[str, float], dict[str, int], dict[str, str]]:
    """Largest differences by format, differing rows by engine, and refusals with their reasons by format or engine."""
    differences, alone, refused = {}, {"onnx": differing(place)}, {}
    for exporter in EXPORTERS:
        try:
            written = exporter.export(place, folder / f"{place.name}.{exporter.name}")
        except AutoMLError as problem:
            refused[exporter.name] = str(problem)
        else:
            differences[exporter.name] = float(proof_of(written)["largest_difference"])
    compiled = folder / f"{place.name}-compiled"
    with_engine(place, compiled, "compiled")
    try:
        with runtime.load(place, engine="compiled"):
            pass
    except (runtime.ArtifactError, runtime.ResourceError) as problem:
        refused["compiled"] = str(problem)
    else:
        alone["compiled"] = differing(compiled)
        differences["compiled"] = float(
            parity.Reference.open(place).prove(_predict(compiled), "compiled")["largest_difference"]
        )
    return differences, alone, refused


def _predict(place: Path) -> Any:
    model = runtime.load(place)
    return model.predict if model.task == "regression" else model.predict_proba


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="TABLE")
    parser.add_argument("--tables", type=Path, metavar="FOLDER")
    parser.add_argument("--rows", type=int, default=2000)
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    worst: dict[tuple[str, str], float] = {}
    reasons: dict[tuple[str, str, str], list[str]] = {}
    checks, apart = 0, 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        entries = listed(given.tables, given.names) if given.tables else write_own(folder, given.names)
        for entry in entries:
            for family, place, why in artifacts(entry, given.tables or folder, given.rows, folder):
                print(f"{entry['name']} {family.name} {why}", file=sys.stderr, flush=True)
                if place is None:
                    reasons.setdefault((family.name, "the artifact itself", why), []).append(entry["name"])
                    continue
                differences, alone, refused = checked(place, folder)
                checks += len(differences)
                apart += sum(alone.values())
                for form, difference in differences.items():
                    worst[family.name, form] = max(worst.get((family.name, form), 0.0), difference)
                for form, reason in refused.items():
                    reasons.setdefault((family.name, form, reason.split(": ", 1)[-1]), []).append(entry["name"])
    forms = [*(exporter.name for exporter in EXPORTERS), "compiled"]
    names = [family.name for family in FAMILIES if any(name == family.name for name, _ in worst)]
    print(f"{checks} exports of {len(entries)} tables; rows not the same bits alone as in a batch: {apart}\n")
    rows = [[n, *(f"{worst[n, f]:.1e}" if (n, f) in worst else "" for f in forms)] for n in names]
    print(table(["family", *forms], rows, markdown=True))
    print("\nRefused:\n")
    for (name, form, reason), where in sorted(reasons.items()):
        print(f"* {name} as {form} ({', '.join(where)}): {reason}")
    return 0 if apart == 0 and all(value <= parity.MOST_DIFFERENCE for value in worst.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
