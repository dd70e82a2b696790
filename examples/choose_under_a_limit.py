"""Which model fits my latency and memory, and what if none does?

python examples/choose_under_a_limit.py [BUDGET]
"""

from __future__ import annotations

import sys

from sklearn.datasets import load_digits

import automl
from automl.errors import InfeasibleError


def main(budget: str) -> None:
    X, y = load_digits(return_X_y=True, as_frame=True)
    front = automl.fit(X, y, budget=budget).front_
    print(front.leaderboard().to_string(index=False))

    best, knee = front[0], front.choose(prefer="knee")
    print("most accurate:", best)
    print("best trade:   ", knee)

    # Limits are text with a unit, or seconds and bytes.
    quick = front.choose(max_latency=max(m.latency_p50_seconds for m in front), max_memory="2GB")
    print("within both:  ", quick)

    # A limit is never relaxed: the error names the nearest models and the limit to lift.
    try:
        front.choose(max_latency="1ns")
    except InfeasibleError as error:
        print("none:", error)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "30s")
