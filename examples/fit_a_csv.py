"""How do I get from a CSV to predictions?

python examples/fit_a_csv.py [BUDGET]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pandas as pd
from demo_table import write

import automl


def main(budget: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        train, test = write(Path(folder))
        model = automl.fit(train, target="digit", budget=budget)
        print(model.front_)

        rows = pd.read_csv(test)
        predicted = model.predict(rows)  # the column to predict may be there: it isn't read
        print(f"{(predicted == rows['digit']).mean():.1%} of {len(rows)} digits are right, the first: {predicted[0]}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "30s")
