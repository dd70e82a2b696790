"""Splits a table file in two by one fixed rule, so that figures of different tools and days can be compared.

    python benchmarks/split.py adult.csv --target income --task binary --out data/

writes data/train.csv and data/test.csv (or .parquet, as the input is): 20 % for test, seed 0, stratified by the target
unless the task is regression. The cells of a CSV are copied as text, unchanged.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from sklearn.model_selection import train_test_split


def split(source: Path, target: str, task: str | None, out: Path, seed: int = 0) -> tuple[Path, Path]:
    """Writes both parts and returns their paths. Raises SystemExit where the file has no such target."""
    parquet = source.suffix in (".parquet", ".pq")
    frame = pd.read_parquet(source) if parquet else pd.read_csv(source, dtype=str, keep_default_na=False)
    if target not in frame.columns:
        raise SystemExit(f"{source} has no column {target!r}; it has {', '.join(map(str, frame.columns))}")
    stratify = None if (task or guess(frame[target])) == "regression" else frame[target]
    out.mkdir(parents=True, exist_ok=True)
    paths = tuple(out / f"{name}{'.parquet' if parquet else '.csv'}" for name in ("train", "test"))
    for path, part in zip(
        paths, train_test_split(frame, test_size=0.2, random_state=seed, stratify=stratify), strict=True
    ):
        if parquet:
            part.to_parquet(path, index=False)
        else:
            part.to_csv(path, index=False)
    return paths[0], paths[1]


def guess(values: pd.Series) -> str:
    """ "regression" for numbers with more than 20 distinct values, else "classification"."""
    numbers = pd.to_numeric(values, errors="coerce")
    return "regression" if numbers.notna().mean() > 0.99 and numbers.nunique() > 20 else "classification"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a CSV (also .gz) or Parquet file")
    parser.add_argument("--target", required=True)
    parser.add_argument("--task", choices=["binary", "multiclass", "regression"], help="guessed where it is not given")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write train and test to")
    options = parser.parse_args()
    for path in split(options.source, options.target, options.task, options.out):
        print(path)


if __name__ == "__main__":
    main()
