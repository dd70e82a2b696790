"""An equal scikit-learn Pipeline as one skops file: nothing of ours is needed to load it, and nothing is unpickled."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..exporter import Exporter, place_of, refuse_options, write_file

TRUSTED = ("numpy.dtype", "sklearn.tree._tree.Tree", "sklearn.utils._bunch.Bunch")
"""The types beside skops' own that a reader has to trust: `skops.io.load(path, trusted=[...])`. No file needs others."""


class Sklearn(Exporter):
    """Rebuilds the model as a Pipeline of scikit-learn's own classes: a ColumnTransformer, and a linear model, perceptron,
    tree, forest, or a forest of boosted trees with a logistic regression stacked on it. It predicts frames whose numbers are
    floats (NaN where missing) and whose categories are strings (None, NaN or "" where missing). Infinities, and numbers beyond
    float32 in front of trees, are errors there. `record.json` beside it names the types to trust and scikit-learn's version.
    """

    name = "sklearn"
    summary = "an equal scikit-learn Pipeline in one .skops file (needs the extra skops)"

    def export(self, artifact: Path, destination: Path, **options: Any) -> Path:
        from automl.estimators.errors import ArtifactError, ResourceError
        from automl.estimators.runtime import GRAPH

        from ..parity import Reference
        from ..rebuild import pipeline

        refuse_options(self.name, options)
        try:
            import skops.io as skops
        except ImportError:
            raise ResourceError(
                "format 'sklearn' needs the package skops: install it with pip install \"automl-frontier[skops]\""
            ) from None
        reference = Reference.open(artifact)
        target = place_of(destination, ".skops", "model.skops")
        content = settled(skops.dumps(pipeline(reference.manifest, reference.members[GRAPH])))
        strange = set(skops.get_untrusted_types(data=content)) - set(TRUSTED)
        if strange:
            raise ArtifactError(
                f"format 'sklearn' would need its readers to trust {', '.join(sorted(strange))}: refused"
            )
        loaded = skops.loads(content, trusted=list(TRUSTED))
        proof = reference.prove(lambda rows: predicted(loaded, reference.model.encoder, rows), self.name)
        return write_file(target, content, {**proof, "trusted": list(TRUSTED), **versions()})


def predicted(loaded: Any, encoder: Any, rows: Mapping[str, Any]) -> Any:
    import warnings

    X = frame(encoder, rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a pipeline that warns its user is none to ship
        return loaded.predict_proba(X) if hasattr(loaded, "predict_proba") else loaded.predict(X)


def frame(encoder: Any, rows: Mapping[str, Any]) -> Any:
    """The rows as a user of scikit-learn has them: numbers as floats, categories as strings."""
    import numpy as np
    import pandas as pd

    from automl.estimators.runtime import Category, read_numbers

    levels = {entry.name for entry in encoder.entries if isinstance(entry, Category)}
    return pd.DataFrame(
        {name: np.array(cells, object) if name in levels else read_numbers(cells, {}) for name, cells in rows.items()}
    )


def versions() -> dict[str, str]:
    """scikit-learn promises to read a tree in the version that wrote it, and says so otherwise."""
    from importlib.metadata import version

    return {name: version(name) for name in ("scikit-learn", "skops", "numpy")}


def settled(content: bytes) -> bytes:
    """The same file with numbers in the place of memory addresses and times, so that one model gives one file; deflated."""
    packed = zipfile.ZipFile(io.BytesIO(content))
    schema = packed.read("schema.json").decode()
    numbers: dict[str, str] = {}

    def numbered(match: re.Match[str]) -> str:
        return match[1] + numbers.setdefault(match[2], str(len(numbers))) + match[3]

    schema = re.sub(r'("__id__": )(\d+)()', numbered, schema)
    names = {
        name: f"{numbers.get(Path(name).stem, Path(name).stem)}.npy"
        for name in packed.namelist()
        if name.endswith(".npy")
    }
    schema = re.sub(r'("file": ")([^"]+)(")', lambda match: match[1] + names.get(match[2], match[2]) + match[3], schema)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as whole:
        for name in packed.namelist():
            data = schema.encode() if name == "schema.json" else packed.read(name)
            whole.writestr(zipfile.ZipInfo(names.get(name, name), (1980, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
    return out.getvalue()
