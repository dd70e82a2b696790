"""Where does the demo's table come from? From scikit-learn: 1,797 handwritten digits, written as CSV files to train and test on.

python examples/demo_table.py build/demo
"""

from __future__ import annotations

import sys
from pathlib import Path

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


def write(folder: Path) -> tuple[Path, Path]:
    """Writes train.csv and test.csv (a fifth of the rows), 64 pixels and the target column `digit`, and returns their paths."""
    table = load_digits(as_frame=True).frame.rename(columns={"target": "digit"})
    table["digit"] = [f"digit {label}" for label in table["digit"]]
    train, test = train_test_split(table, test_size=0.2, random_state=0, stratify=table["digit"])
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "train.csv", folder / "test.csv"
    train.to_csv(paths[0], index=False)
    test.to_csv(paths[1], index=False)
    return paths


if __name__ == "__main__":
    for path in write(Path(sys.argv[1] if len(sys.argv) > 1 else "build/demo")):
        print(path)
