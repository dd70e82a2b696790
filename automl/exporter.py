"""What an exporter is: it writes one deployable model, an artifact folder, in the form that another tool loads.

A new format is one file in `exporters/` and one word in `exporters/__init__.py`.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar


class Exporter(ABC):
    """A format. `export` checks the artifact first, writes the whole result or nothing, and never overwrites."""

    name: ClassVar[str]
    """Its one word in `model.export(path, format=name)` and on the command line."""
    summary: ClassVar[str]
    """One line: what is written and who loads it."""

    options: ClassVar[Mapping[str, str]] = {}
    """What `export` takes beside the paths, by name: one line each."""

    @abstractmethod
    def export(self, artifact: Path, destination: Path, **options: Any) -> Path:
        """Writes the artifact in folder `artifact` (or its .zip) to `destination` and returns the path written.

        What is written is first proven to predict as the artifact does (`parity.py`), and `record.json` says so: in the
        folder that is written or in its `model/`, or as NAME.record.json beside a single file (`proof_of` reads it). Raises ArtifactError (a corrupt artifact, or one
        that this format cannot hold, with the reason), UsageError (the destination exists; an option that the format doesn't
        know) and ResourceError (a package that the format needs is not installed).
        """


def refuse_options(name: str, options: Mapping[str, Any], known: Iterable[str] = ()) -> None:
    """UsageError for options that the format doesn't have."""
    from automl.estimators.errors import UsageError

    strange, takes = sorted(set(options) - set(known)), ", ".join(known)
    if strange:
        has = f"knows the option {takes}" if takes else "takes no options"
        raise UsageError(f"format {name!r} {has}, but {', '.join(strange)} was given; leave it out")


def free(destination: Path) -> Path:
    """The destination; UsageError if something is there already (an empty folder is fine), or nothing can be."""
    from automl.estimators.errors import UsageError

    try:
        empty_folder = destination.is_dir() and not destination.suffix and not any(destination.iterdir())
        taken = (destination.exists() or destination.is_symlink()) and not empty_folder
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise UsageError(f"{destination} cannot be written: {error.strerror}") from None
    if taken:
        raise UsageError(f"{destination} exists already; name another path or remove it first")
    above = next(folder for folder in destination.absolute().parents if os.path.lexists(folder))
    if not above.is_dir():
        raise UsageError(f"{destination} cannot be written: {above} is no folder; name another path")
    return destination


def beside(destination: Path) -> Any:
    """A scratch folder that goes away, on the destination's disk; its parent folder is made."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=destination.parent, prefix=".export-")


def place_of(destination: Path, suffix: str, name: str) -> Path:
    """Where a format of one file writes: the destination where it ends in `suffix`, else `name` in that folder; free."""
    return free(destination if destination.suffix.lower() == suffix else destination / name)


def write_folder(destination: Path, files: Mapping[str, bytes]) -> Path:
    """Writes files, by their paths within it, into a new folder: it is there whole or not at all."""
    free(destination)
    with beside(destination) as scratch:
        whole = Path(scratch) / "whole"
        whole.mkdir()
        for name, content in files.items():
            path = whole / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if destination.is_dir():  # `free` lets an empty folder pass
            destination.rmdir()
        os.replace(whole, destination)
    return destination


def write_file(target: Path, content: bytes, proof: Mapping[str, Any]) -> Path:
    """Writes one file, whole or not at all, and before it what was proven of it as NAME.record.json."""
    said_at = free(target.with_name(target.name + ".record.json"))
    with beside(target) as scratch:
        whole, said = Path(scratch) / "whole", Path(scratch) / "record"
        whole.write_bytes(content)
        said.write_bytes(record(proof))
        os.replace(said, said_at)
        try:
            os.replace(whole, target)
        except OSError:
            said_at.unlink()
            raise
    return target


def record(proof: Mapping[str, Any]) -> bytes:
    """`record.json` of an export that isn't an artifact itself: under "export" what `parity.Reference.prove` returned."""
    return (json.dumps({"export": dict(proof)}, indent=1) + "\n").encode()


def proof_of(written: Path) -> dict[str, Any]:
    """The entry "export" of the record of what an exporter wrote: on how many rows it was proven, and how exactly."""
    from automl.estimators.artifact import read_record

    if written.is_file() and written.suffix.lower() == ".zip":
        return dict(read_record(written)["export"])
    places = [
        written.with_name(written.name + ".record.json"),
        written / "record.json",
        written / "model" / "record.json",
    ]
    text = next(place for place in places if place.is_file()).read_bytes()
    return dict(json.loads(text)["export"])
