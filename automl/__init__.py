"""Tabular AutoML that returns a Pareto front: deployable models, each measured as it is deployed.

    model = automl.fit("train.csv", target="income", budget="5m")
    fast = model.front_.choose(max_latency="100us")

The names below are imported when they are first used, so `import automl` loads no machine-learning library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import errors as errors
    from . import runtime as runtime
    from .api import AutoMLClassifier as AutoMLClassifier
    from .api import AutoMLRegressor as AutoMLRegressor
    from .api import Budget as Budget
    from .api import fit as fit
    from .api import load as load
    from .api import open_run as open_run
    from .api import resume as resume

__version__ = "0.1.0"
__all__ = [
    "AutoMLClassifier",
    "AutoMLRegressor",
    "Budget",
    "__version__",
    "errors",
    "fit",
    "load",
    "open_run",
    "resume",
    "runtime",
]

_API = ("fit", "load", "open_run", "resume", "AutoMLClassifier", "AutoMLRegressor", "Budget")
_MODULES = ("errors", "runtime")


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name in _API:
        value = getattr(import_module(f"{__name__}.api"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
