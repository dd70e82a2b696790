"""The errors that a user can meet, by their public name; they are defined in `automl.estimators.errors`."""

from __future__ import annotations

from automl.estimators.errors import (
    ArtifactError,
    AutoMLError,
    DataError,
    DataTypeError,
    InfeasibleError,
    ResourceError,
    UsageError,
    UsageTypeError,
)

__all__ = [
    "ArtifactError",
    "AutoMLError",
    "DataError",
    "DataTypeError",
    "InfeasibleError",
    "ResourceError",
    "UsageError",
    "UsageTypeError",
]
