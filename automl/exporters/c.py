"""The model as C99 source: a struct of raw cells in, probabilities or values out; nothing needed but a compiler and libm."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from automl.estimators.errors import ArtifactError

from ..exporter import Exporter, free, record, refuse_options, write_folder

FLAGS = ("-std=c99", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror")
"""With these the proof compiles; optimised only as far as it pays for one run of the test rows."""
SECONDS = 300
"""The compiler may take so long, and the test program as well."""
MOST_BYTES = 40_000_000
"""Of the source: compilers take about 300 MB of memory and several seconds for 10 MB of tables."""
MOST_STACK = 512 * 1024
"""Bytes: threads have stacks of 512 kB on some systems by default."""
VECTOR_CELLS = 100_000
"""The file of test vectors holds at most about so many cells."""


class C(Exporter):
    """Writes a folder: model.c and model.h, CMakeLists.txt, test_model.c with test_vectors.txt, and record.json.

    Comparisons decide as the artifact's do, in float32; sums differ in their last digits.
    """

    name = "c"
    summary = (
        "a folder of C99 source without dependencies: a struct of one row in, predictions out; test vectors beside it"
    )

    def export(self, artifact: Path, destination: Path, **options: Any) -> Path:
        from ..codegen.c_source import source_files
        from ..parity import Reference, predictions

        refuse_options(self.name, options)
        reference = Reference.open(artifact)
        free(destination)
        found = source_files(reference.manifest, reference.members["model.onnx"])
        size = sum(map(len, found.files.values()))
        if size > MOST_BYTES or found.stack > MOST_STACK:
            limit = f"{size / 1e6:.0f} MB of source, at most {MOST_BYTES / 1e6:g} MB are written"
            if size <= MOST_BYTES:
                limit = f"{found.stack / 1024:.0f} kB of stack for a row, at most {MOST_STACK / 1024:g} kB are used"
            raise found.refused(f"it would need {limit}; use format 'onnx' or 'bundle'")
        wanted = predictions(reference.model, reference.rows)
        test = Vectors(reference.model.encoder, found.kinds, reference.rows, wanted)
        proof = prove(reference, found.files, test, self.name)
        files = {**found.files, "test_vectors.txt": test.text(test.few), "record.json": record(proof)}
        return write_folder(destination, files)


class Vectors:
    """Rows as lines that test_model.c reads, with what the artifact's own runtime predicts of them."""

    def __init__(
        self, encoder: Any, kinds: Mapping[str, str], columns: Mapping[str, Sequence[Any]], wanted: Any
    ) -> None:
        self.wanted = wanted if wanted.ndim > 1 else wanted[:, None]
        self.scale = 1.0 if wanted.ndim > 1 or not len(wanted) else float(np.std(wanted))
        reads: dict[str, Any] = {}
        for entry in encoder.entries:
            for name in getattr(entry, "names", [entry.name]):
                reads.setdefault(name, entry.read)
        self.lines = [
            [_text(cell) if kind == "category" else f"n {reads[name](cell)!r}" for cell in columns[name]]
            for name, kind in kinds.items()
        ]
        self.rows = len(self.wanted)
        self.few = max(20, min(self.rows, VECTOR_CELLS // max(1, len(self.lines))))

    def text(self, rows: int) -> bytes:
        """The file of the first so many rows."""
        rows = min(rows, self.rows)
        lines = [f"rows {rows} outputs {self.wanted.shape[1]} scale {self.scale!r}"]
        for i in range(rows):
            lines += [column[i] for column in self.lines]
            lines.append("= " + " ".join(repr(value) for value in self.wanted[i].tolist()))
        return ("\n".join(lines) + "\n").encode("ascii")


def _text(cell: Any) -> str:
    from automl.estimators.runtime import is_missing, level_of

    if cell is None or (is_missing(cell) and not isinstance(cell, str)):
        return "-"
    data = level_of(cell).encode("utf-8", "surrogatepass")
    plain = (chr(byte) if chr(byte).isalnum() and byte < 128 else f"%{byte:02X}" for byte in data)
    return "s " + "".join(plain)


def compiler() -> list[str] | None:
    """The command of the system's C compiler: $CC, or the first of cc, gcc and clang."""
    named = shlex.split(os.environ.get("CC", ""))
    return next((words for words in (named, ["cc"], ["gcc"], ["clang"]) if words and shutil.which(words[0])), None)


def prove(reference: Any, files: Mapping[str, bytes], test: Vectors, form: str) -> dict[str, Any]:
    """Compiles the source and compares its predictions of all test rows; where there is no compiler, says so."""
    found = compiler()
    if found is None:
        return {"format": form, "rows": 0, "compiler": None, "note": "not run: no C compiler (cc, gcc, clang or $CC)"}
    with tempfile.TemporaryDirectory(prefix="export-") as scratch:
        folder = Path(scratch)
        for name, content in {**files, "all_vectors.txt": test.text(test.rows)}.items():
            (folder / name).write_bytes(content)
        program = build(found, folder)
        proof: dict[str, Any] = reference.prove(lambda columns: run(program, folder / "all_vectors.txt", test), form)
    return {**proof, "compiler": " ".join([*found, *FLAGS])}


def build(compiler: Sequence[str], folder: Path) -> Path:
    """Compiles the test program in the folder, warnings as errors. ArtifactError where the compiler refuses."""
    program = folder / "test_model"
    done = _ran([*compiler, *FLAGS, "model.c", "test_model.c", "-o", str(program), "-lm"], folder)
    if done.returncode:
        raise ArtifactError(
            f"format 'c' is refused for this model: {compiler[0]} does not take its source: {done.stderr.strip()[:300]}"
        )
    return program


def run(program: Path, vectors: Path, test: Vectors) -> Any:
    """The test program's predictions, (n, K) or (n,)."""
    done = _ran([str(program), str(vectors), "--print"], vectors.parent)
    found = np.array(done.stdout.split(), np.float64)
    if done.returncode not in (0, 1) or found.size != test.wanted.size:
        raise ArtifactError(
            f"format 'c' is refused for this model: its program ends with {done.returncode} {done.stderr.strip()[-200:]}"
        )
    shaped = found.reshape(test.wanted.shape)
    return shaped if test.wanted.shape[1] > 1 else shaped[:, 0]


def _ran(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise ArtifactError(
            f"format 'c' is refused for this model: {Path(command[0]).name} took more than {SECONDS} s"
        ) from None
