"""Load and serve an artifact with numpy and onnxruntime alone: `automl.runtime.load(path).predict_one({...})`.

The whole of it is `automl.estimators.runtime`, one file that also works when it is copied next to an artifact.
"""

from __future__ import annotations

from automl.estimators.runtime import Model, check, load

__all__ = ["Model", "check", "load"]
