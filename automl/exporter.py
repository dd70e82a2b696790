"""What an exporter is: it writes one deployable model, an artifact folder, in the form that another tool loads.

A new format is one file in `exporters/` and one word in `exporters/__init__.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar


class Exporter(ABC):
    """A format. `export` checks the artifact first, writes the whole result or nothing, and never overwrites."""

    name: ClassVar[str]
    """Its one word in `model.export(path, format=name)` and on the command line."""
    summary: ClassVar[str]
    """One line: what is written and who loads it."""

    @abstractmethod
    def export(self, artifact: Path, destination: Path, **options: Any) -> Path:
        """Writes the artifact in folder `artifact` (or its .zip) to `destination` and returns the path written.

        Raises ArtifactError (a corrupt artifact, or one that this format cannot hold, with the reason) and UsageError
        (the destination exists; an option that the format doesn't know).
        """


def refuse_options(name: str, options: dict[str, Any]) -> None:
    """UsageError for options of a format that has none."""
    from automl.estimators.errors import UsageError

    if options:
        raise UsageError(f"format {name!r} takes no options, but {', '.join(sorted(options))} was given; leave it out")


def free(destination: Path) -> Path:
    """The destination, its parent folder made; UsageError if something is there already (an empty folder is fine)."""
    from automl.estimators.errors import UsageError

    empty_folder = destination.is_dir() and not destination.suffix and not any(destination.iterdir())
    if (destination.exists() or destination.is_symlink()) and not empty_folder:
        raise UsageError(f"{destination} exists already; name another path or remove it first")
    destination.parent.mkdir(parents=True, exist_ok=True)
    return destination
