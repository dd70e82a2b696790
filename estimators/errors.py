"""The errors a user can meet. Each says what is wrong, what was found and what to do, and carries the CLI's exit code."""

from __future__ import annotations


class AutoMLError(Exception):
    """Base of every error of this package; `exit_code` is what the command line returns."""

    exit_code = 1


class UsageError(AutoMLError, ValueError):
    """An argument, option, name or path is wrong."""

    exit_code = 2


class UsageTypeError(AutoMLError, TypeError):
    """An argument has a type that is not understood, or a keyword of another library was given."""

    exit_code = 2


class DataError(AutoMLError, ValueError):
    """The content of a table is wrong: names the file, column and row."""

    exit_code = 3


class DataTypeError(AutoMLError, TypeError):
    """A table, column or row has a type that is not understood."""

    exit_code = 3


class InfeasibleError(AutoMLError, ValueError):
    """No model meets the limits or the budget. `nearest` holds (model, limit, found, allowed) tuples."""

    exit_code = 4

    def __init__(self, message: str, nearest: tuple[tuple[object, str, float, float], ...] = ()) -> None:
        super().__init__(message)
        self.nearest = nearest


class ResourceError(AutoMLError, ValueError):
    """Memory, disk, time or a missing optional package stopped the work."""

    exit_code = 5


class ArtifactError(AutoMLError, ValueError):
    """An artifact is corrupt, of an unknown format, or refused at export."""

    exit_code = 6
