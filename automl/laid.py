"""What exports of whole folders have in common: the proven artifact, and the runtime laid beside it as a package.

The package `automl_runtime` is copies of this package's own files: it needs numpy and onnxruntime, and no other file of ours.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .exporter import free, write_folder
from .parity import Reference, predictions

PACKAGE = "automl_runtime"
FACE = '''"""The deployed prediction path: `load(path).predict_one({...})`. Needs numpy and onnxruntime."""

from .runtime import Model, check, load

__all__ = ["Model", "check", "load"]
'''


def artifact_files(reference: Reference, form: str) -> dict[str, bytes]:
    """The artifact's files, proven as they will be read, with the proof in their record.json."""
    from automl.estimators.artifact import read_record, write_record
    from automl.estimators.runtime import RECORD, load

    with tempfile.TemporaryDirectory() as scratch:
        folder = write_folder(Path(scratch) / "model", reference.members)
        with load(folder) as copy:
            proof = reference.prove(lambda rows: predictions(copy, rows), form)
        said = read_record(folder) if RECORD in reference.members else {}
        write_record(folder, {**said, "export": proof})
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def runtime_files() -> dict[str, bytes]:
    """The package `automl_runtime`, by path: the runtime, and the files of the compiled engine where this version has one."""
    from automl.estimators import runtime

    home = Path(runtime.__file__).parent
    names = ["runtime.py", "errors.py", *(f"{name}.py" for name in runtime.BESIDE), *runtime.BESIDE_SOURCES]
    found = {f"{PACKAGE}/{name}": (home / name).read_bytes() for name in names if (home / name).exists()}
    return {f"{PACKAGE}/__init__.py": FACE.encode(), **found}


def requirements(*packages: str) -> str:
    """Lines of a requirements.txt that pin these packages to the versions that are installed here."""
    from importlib.metadata import version

    return "".join(f"{name}=={version(name)}\n" for name in packages)


def under(folder: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files, within a folder ("": where they are)."""
    return {f"{folder}/{name}" if folder else name: content for name, content in files.items()}


@contextmanager
def imported(home: Path, package: str) -> Iterator[Any]:
    """The package at `home / package`, imported for as long as it is proven; its bytecode is not written beside it."""
    alias, keep = "_automl_laid", sys.dont_write_bytecode
    place = home / package
    spec = importlib.util.spec_from_file_location(alias, place / "__init__.py", submodule_search_locations=[str(place)])
    if spec is None or spec.loader is None:
        raise ImportError(f"no package {place}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[alias], sys.dont_write_bytecode = module, True
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.dont_write_bytecode = keep
        for name in [name for name in sys.modules if name == alias or name.startswith(alias + ".")]:
            del sys.modules[name]


def proven_folder(
    reference: Reference,
    form: str,
    files: Mapping[str, bytes],
    destination: Path,
    *,
    code: str = "",
    predict: Callable[[Any, Path, Any], Any] | None = None,
) -> Path:
    """Writes a folder of `model/` (the artifact), the package `automl_runtime` (in the folder `code`) and `files`.

    It is proven before it is moved to the destination: `predict(package, model, rows)` does what a user of the folder does.
    """
    free(destination)
    whole = {**under("model", artifact_files(reference, form)), **under(code, runtime_files()), **files}
    with tempfile.TemporaryDirectory() as scratch:
        home = write_folder(Path(scratch) / "home", whole)
        with imported(home / code, PACKAGE) as package:
            reference.prove(lambda rows: (predict or _loaded)(package, home / "model", rows), form)
    return write_folder(destination, whole)


def _loaded(package: Any, model: Path, rows: Any) -> Any:
    with package.load(model) as loaded:
        return predictions(loaded, rows)
