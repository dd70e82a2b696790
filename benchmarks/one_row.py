"""One row, a dict, to its probabilities: a 100-tree LightGBM as deployed beside the same model as a scikit-learn pipeline.

    python benchmarks/one_row.py adult.csv --target income [--rounds 20]

Both are fitted on the same table and timed in this process in alternating blocks of 200 (ours) and 10 (the pipeline's)
calls over 400 rows in turn; the figures are the smallest block median of each, the spread of the block medians, and the
ratio of the two.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))


def ours(table: Any, folder: Path) -> Callable[[Any], Any]:
    from automl.estimators.encoder import View
    from automl.estimators.families.lightgbm import LightGBM
    from automl.estimators.pipeline import Pipeline
    from automl.estimators.runtime import load

    family = LightGBM()
    params = {"n_estimators": 100, "learning_rate": 0.1, "num_leaves": 31}
    rows = np.arange(table.rows)
    pipeline = Pipeline(family, params, view=View()).fit(table, rows)
    pipeline.export(folder, table, rows)
    return load(folder).predict_proba_one


def theirs(frame: Any, target: str) -> Callable[[Any], Any]:
    import lightgbm
    from sklearn.compose import make_column_selector, make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder

    X, y = frame.drop(columns=[target]), frame[target]
    ordinal = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2)
    columns = make_column_transformer(
        (SimpleImputer(), make_column_selector(dtype_include="number")),
        (ordinal, make_column_selector(dtype_exclude="number")),
    )
    pipeline = make_pipeline(columns, lightgbm.LGBMClassifier(n_estimators=100, num_leaves=31, verbosity=-1, n_jobs=1))
    return pipeline.fit(X, y).predict_proba


def block(call: Callable[[Any], Any], rows: list[Any], start: int, calls: int) -> float:
    times = []
    for i in range(calls):
        row = rows[(start + i) % len(rows)]
        before = time.perf_counter()
        call(row)
        times.append(time.perf_counter() - before)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--target", required=True)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    import warnings

    import pandas as pd

    from automl.dataset import read_table

    warnings.filterwarnings("ignore", message="X does not have valid feature names")
    frame = pd.read_csv(arguments.table)
    table = read_table(arguments.table, arguments.target)
    with tempfile.TemporaryDirectory() as folder:
        mine, pipeline = ours(table, Path(folder) / "m"), theirs(frame, arguments.target)
        some = frame.drop(columns=[arguments.target]).sample(400, random_state=0)
        dicts = [{k: None if pd.isna(v) else v for k, v in row.items()} for row in some.to_dict("records")]
        frames = [some.iloc[i : i + 1] for i in range(len(some))]
        fast, slow = [], []
        for k in range(arguments.rounds):
            fast.append(block(mine, dicts, 200 * k, 200))
            slow.append(block(pipeline, frames, 10 * k, 10))
    print(f"ours:     {1e6 * min(fast):8.1f} us  (block medians {1e6 * min(fast):.1f} to {1e6 * max(fast):.1f})")
    print(f"pipeline: {1e6 * min(slow):8.1f} us  (block medians {1e6 * min(slow):.1f} to {1e6 * max(slow):.1f})")
    print(f"ratio:    {min(slow) / min(fast):8.0f}")


if __name__ == "__main__":
    main()
