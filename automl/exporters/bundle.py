"""The artifact itself, as a folder or as one .zip: what `automl.runtime.load` reads."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from ..exporter import Exporter, free, refuse_options


class Bundle(Exporter):
    """Copies the folder, or packs it into one file where the destination ends in .zip."""

    name = "bundle"
    summary = "the artifact folder, or one .zip file; automl.runtime.load reads both with numpy and onnxruntime"

    def export(self, artifact: Path, destination: Path, **options: Any) -> Path:
        from automl.estimators.artifact import pack
        from automl.estimators.runtime import check_members, read_members

        refuse_options(self.name, options)
        members = read_members(artifact)
        check_members(members)
        free(destination)
        with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".export-") as scratch:
            whole = Path(scratch) / "artifact"
            whole.mkdir()
            for name, content in members.items():
                (whole / name).write_bytes(content)
            if destination.suffix.lower() == ".zip":
                return pack(whole, destination)
            if destination.is_dir():  # `free` lets an empty folder pass
                destination.rmdir()
            os.replace(whole, destination)
        return destination
