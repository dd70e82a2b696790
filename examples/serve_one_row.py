"""How do I serve one row at a time? With numpy and onnxruntime alone, wherever the exported folder is copied to.

python examples/serve_one_row.py [BUDGET]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from sklearn.datasets import load_wine

import automl
from automl import runtime


def export(budget: str, folder: Path) -> Path:
    """Where the model is made."""
    X, y = load_wine(return_X_y=True, as_frame=True)
    model = automl.fit(X, y, budget=budget)
    return model.front_.choose(prefer="cheapest_within", tolerance=0.1).export(folder / "served")


def serve(artifact: Path) -> None:
    """Where it is served."""
    model = runtime.load(artifact)
    wine = {"alcohol": 13.2, "malic_acid": 1.8, "ash": None, "colour": "red"}  # an unknown column is not read,
    wine |= {name: 1.0 for name in model.columns if name not in wine}  # a missing one would be an error that names it
    print("class:", model.predict_one(wine))
    print("probabilities:", dict(zip(model.classes_, model.predict_proba_one(wine).round(3), strict=True)))

    times = []
    for _ in range(2000):
        start = time.perf_counter()
        model.predict_proba_one(wine)
        times.append(time.perf_counter() - start)
    print(f"one row takes {sorted(times)[1000] * 1e6:.0f} us")


def main(budget: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        serve(export(budget, Path(folder)))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "30s")
