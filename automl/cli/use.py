"""`automl predict` and `automl export`: a model of a run, or an artifact, put to use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import show
from .options import DataFile, Existing, common

if TYPE_CHECKING:
    from automl.estimators import runtime

PREDICT_HELP = """Predict the rows of DATA with a model of a run (the most accurate one, or --model) or with an artifact.

\b
Examples:
  automl predict train-run new.csv -o predictions.csv
  automl predict train-run new.csv --model m03 --proba | head
  automl predict served/ new.csv
"""

EXPORT_HELP = """Write a model of a run (the most accurate one, or --model) or an artifact in a form that others load.

\b
Examples:
  automl export train-run --model m03 -o served/
  automl export train-run --model m03 -o served.zip
  automl export train-run --model m03 --format onnx -o model.onnx

\b
Formats:
  bundle   the artifact folder, or one .zip; automl.runtime.load reads both with numpy and onnxruntime
  onnx     one .onnx file that takes the encoded float32 matrix
  python   one .py file without dependencies, for models of up to about 2 MB of source
  c        a folder of C99 source without dependencies, with test vectors
"""


@click.command("predict", help=PREDICT_HELP, short_help="Predict the rows of a file.")
@click.argument("run", metavar="RUN|ARTIFACT", type=Existing())
@click.argument("data", type=DataFile())
@click.option("--model", "name", metavar="ID", help="The model of the run.  [default: the most accurate]")
@click.option("--proba", is_flag=True, help="Also a column of probability for each class.")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="CSV to write.  [default: stdout]",
)
@click.option("--overwrite", is_flag=True, help="Replace the file of -o.")
@click.option("--sep", metavar="C", help="CSV: the character between cells.  [default: guessed]")
@click.option("--encoding", metavar="E", help="CSV: such as utf-8 or cp1252.  [default: guessed]")
@common
def predict(
    run: Path, data: Path, *, name: str | None, proba: bool, out: Path | None, as_json: bool, **options: Any
) -> None:
    if out is not None and out.exists() and not options["overwrite"]:
        raise click.UsageError(f"{out} exists: choose another -o, or pass --overwrite.")
    import csv
    import io

    from automl.estimators.runtime import load

    from ..dataset import read_frame

    model = load(artifact_of(run, name))
    columns = predictions(
        model, read_frame(data, **{k: options[k] for k in ("sep", "encoding") if options[k]}), proba=proba
    )
    if as_json:
        show.as_json({key: list(values) for key, values in columns.items()})
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    write(text.getvalue(), out)


@click.command("export", help=EXPORT_HELP, short_help="Write a model in a form that others load.")
@click.argument("run", metavar="RUN|ARTIFACT", type=Existing())
@click.option("--model", "name", metavar="ID", help="The model of the run.  [default: the most accurate]")
@click.option(
    "--format", "form", default="bundle", show_default=True, metavar="FORMAT", help="One of the formats above."
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="PATH",
    help="What to write; it must not exist.",
)
@common
def export(run: Path, *, name: str | None, form: str, out: Path, as_json: bool, **options: Any) -> None:
    from ..exporters import by_name

    written = by_name(form).export(artifact_of(run, name), out)
    if as_json:
        show.as_json({"format": form, "path": str(written)})
    else:
        print(written)


def artifact_of(path: Path, name: str | None) -> Path:
    """The artifact at `path`: itself, or the one called `name` (the most accurate if None) of the run there."""
    if path.is_file() or (path / "manifest.json").exists():
        if name is not None:
            raise click.UsageError(f"{path} is one artifact, so --model {name} has no meaning; leave it out.")
        return path
    from ..front import open_run

    front = open_run(path)
    return (front[0] if name is None else front.get(name)).path


def predictions(model: runtime.Model, frame: Any, *, proba: bool) -> dict[str, Any]:
    """Named columns: the prediction, then with `proba` one a class."""
    columns = {"prediction": model.predict(frame).tolist()}
    if proba and model.classes_ is None:
        raise click.UsageError("--proba is for classifiers, and this model does regression; leave it out.")
    if proba and model.classes_ is not None:
        probabilities = model.predict_proba(frame)
        columns |= {f"probability_{label}": probabilities[:, k].tolist() for k, label in enumerate(model.classes_)}
    return columns


def write(text: str, out: Path | None) -> None:
    """The whole text to stdout, or to a file that is there whole or not at all."""
    import os
    import tempfile

    if out is None:
        print(text, end="")
        return
    with tempfile.NamedTemporaryFile("w", dir=out.parent, prefix=".predict-", delete=False) as scratch:
        scratch.write(text)
    os.replace(scratch.name, out)
