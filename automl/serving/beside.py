"""The runtime that predicts: the package's, or `runtime.py` where that file lies beside this folder without the package."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from automl.estimators import runtime
    from automl.estimators.errors import ArtifactError, DataError, DataTypeError, ResourceError, UsageError
else:
    try:
        from automl.estimators import runtime
    except ImportError:
        import runtime
    ArtifactError, DataError, DataTypeError, ResourceError, UsageError = (
        getattr(runtime, name)
        for name in ("ArtifactError", "DataError", "DataTypeError", "ResourceError", "UsageError")
    )

__all__ = ["ArtifactError", "DataError", "DataTypeError", "ResourceError", "UsageError", "runtime"]
