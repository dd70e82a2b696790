"""What will ten or a hundred times the rows do to each model?

    python examples/more_rows.py

Fits scikit-learn's diabetes table, prints the laws that were measured, and the front as they forecast it.
"""

from __future__ import annotations

from sklearn.datasets import load_diabetes

import automl
from automl.errors import InfeasibleError


def main() -> None:
    X, y = load_diabetes(return_X_y=True, as_frame=True)
    model = automl.fit(X, y, budget=automl.Budget(trials=6), families=["linear", "tree", "lightgbm"])
    for one in model.front_:
        law = one.laws["training_seconds"]
        print(f"{one.id} {one.family}: {law.get('text') or law['refused']}")

    for times in (10, 100):
        print(f"\n{times} times the rows:\n{model.front_.at(rows=times * len(X))}")

    far = model.front_.at(rows=100 * len(X))
    try:
        print(f"\nwithin a second: {far.choose(max_training_time='1s').id}")
    except InfeasibleError as error:  # the limit is held against the worse end of the interval
        print(f"\n{error}")


if __name__ == "__main__":
    main()
