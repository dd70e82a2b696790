"""`automl predict`: the rows of a file, however many, through a model of a run or an artifact."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import show
from .options import MODEL, DataFile, Existing, common, csv
from .use import artifact_of

if TYPE_CHECKING:
    import pandas as pd

    from automl.estimators import runtime

    from ..explain import Explainer
    from ..stream import Chunks

PREDICT_HELP = """Predict the rows of DATA (CSV or Parquet; - is standard input) with a model of a run (the most accurate within its limits, or
--model) or with an artifact. Rows keep their order; memory stays the same however many there are.

\b
Examples:
  automl predict train-run new.csv -o predictions.csv
  automl predict train-run new.csv --model m03 --proba | head
  zcat new.csv.gz | automl predict served/ - > predictions.csv
  automl predict served/ new.csv --explain --background train.csv

\b
--explain adds the raw score (log-odds, or the value), the base value, and what each column adds to it; these sum
to the raw score. The base value is the mean raw score of the --background rows. Linear models: weight times the
distance from the background's mean (Lundberg and Lee, 2017); trees: path-dependent TreeSHAP with the background's
shares at each split (Lundberg, Erion and Lee, 2018), with a column, not its encoded parts, as the player. For
several classes the score explained is the predicted class's.

In CSV a label that a spreadsheet would run as a formula has ' in front; --json has it as it is.
"""

FORMULA = re.compile(r"\s*(=.|[+@-].*[(!|])", re.DOTALL)
"""Text that a spreadsheet runs: "=A1", "-SUM(A1)", "@SUM(A1)", "+cmd|' /C calc'!A1"; not "-", "+ve" or "@home"."""


@click.command("predict", help=PREDICT_HELP, short_help="Predict the rows of a file.")
@click.argument("run", metavar="RUN|ARTIFACT", type=Existing())
@click.argument("data", type=DataFile(stdin=True))
@click.option("--model", "name", metavar="ID", help=MODEL)
@click.option("--proba", is_flag=True, help="Also a column of probability for each class.")
@click.option("--explain", is_flag=True, help="Also what each column adds to the raw score (linear models and trees).")
@click.option(
    "--background",
    type=DataFile(),
    metavar="FILE",
    help="--explain: the rows to compare with, such as the training data.  [default: DATA's own]",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="CSV to write, whole or not at all (but for a pipe or device).  [default: stdout]",
)
@click.option("--overwrite", is_flag=True, help="Replace the file of -o.")
@csv
@common
def predict(
    run: Path,
    data: Path,
    *,
    name: str | None,
    proba: bool,
    explain: bool,
    background: Path | None,
    out: Path | None,
    as_json: bool,
    sep: str | None,
    decimal: str | None,
    encoding: str | None,
    **options: Any,
) -> None:
    opening = target(out, options["overwrite"])
    if background is not None and not explain:
        raise click.UsageError("--background is for --explain; leave it out, or add that.")
    from automl.estimators.runtime import load

    from ..stream import check_cells, open_chunks, text_columns

    place = artifact_of(run, name)
    model = load(place)
    if proba and model.classes_ is None:
        raise click.UsageError("--proba is for classifiers, and this model does regression; leave it out.")
    explainer = _explainer(place, model) if explain else None
    opened = partial(open_chunks, used=model.used, texts=text_columns(model.encoder))
    with opened(data, sep=sep, decimal=decimal, encoding=encoding) as chunks:
        said = () if options["quiet"] else chunks.notes
        for note in said:
            click.echo(f"note: {note}", err=True)
        check_cells(model, chunks)
        if explainer is not None and background is None:
            _learn(explainer, model, chunks)
        elif explainer is not None and background is not None:
            with opened(background, sep=sep, decimal=decimal, encoding=encoding) as others:
                check_cells(model, others)
                _learn(explainer, model, others)
        parts = (columns_of(model, frame, proba, explainer) for frame in chunks)
        with opening() as file:
            _write_json(parts, file) if as_json else _write_csv(parts, file, written_otherwise(labels_of(model)))


def columns_of(
    model: runtime.Model, frame: pd.DataFrame, proba: bool, explainer: Explainer | None = None
) -> dict[str, list[Any]]:
    """Named columns: the prediction, then with `proba` one a class, then with an explainer the parts of the raw score."""
    columns: dict[str, list[Any]] = {"prediction": model.predict(frame).tolist()}
    labels = model.classes_
    probabilities = model.predict_proba(frame) if labels is not None and (proba or explainer) else None
    if proba and labels is not None and probabilities is not None:
        columns |= {f"probability_{name}": probabilities[:, k].tolist() for k, name in enumerate(names_of(labels))}
    if explainer is not None:
        encoded = model.encoder.transform(frame)
        explainer.check(encoded, columns["prediction"] if probabilities is None else probabilities)
        columns |= explainer.columns(encoded)
    return columns


def names_of(labels: Sequence[Any]) -> list[str]:
    """The text of each label; as Python writes them where two have the same, such as 1 and "1"."""
    found = [str(label) for label in labels]
    return found if len(set(found)) == len(found) else [repr(label) for label in labels]


def _explainer(place: Path, model: runtime.Model) -> Explainer:
    from ..explain import explainer_of

    return explainer_of(place, model)


def _learn(explainer: Explainer, model: runtime.Model, chunks: Chunks) -> None:
    for frame in chunks:
        explainer.learn(model.encoder.transform(frame))
    if explainer.rows < 2:
        raise click.UsageError(
            "one row has nothing to be compared with: give --background FILE, such as the training data."
        )
    if explainer.rows < 30:
        click.echo(
            f"warning: the base value is the mean of {explainer.rows} rows only; --background takes more", err=True
        )


def _write_csv(parts: Iterator[dict[str, list[Any]]], file: Any) -> None:
    import csv
    import io

    writer: Any = None
    for columns in parts:
        text = io.StringIO()
        if writer is None:
            csv.writer(text, lineterminator="\n").writerow(columns)
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows(zip(*columns.values(), strict=True))
        file.write(text.getvalue())


def _write_json(parts: Iterator[dict[str, list[Any]]], file: Any) -> None:
    """One object of columns, which stand one after another: all but what is at hand waits in temporary files."""
    import shutil
    import tempfile
    from contextlib import ExitStack

    with ExitStack() as stack:
        waiting: dict[str, Any] = {}
        for columns in parts:
            for name, values in columns.items():
                if name not in waiting:
                    waiting[name] = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", newline=""))
                if values and waiting[name].tell():
                    waiting[name].write(",")
                waiting[name].write(show.json_text(values)[1:-1].rstrip())
        file.write("{")
        for i, (name, place) in enumerate(waiting.items()):
            file.write(f"{',' if i else ''}\n {show.json_text(name)}: [")
            place.seek(0)
            shutil.copyfileobj(place, file)
            file.write("]")
        file.write("\n}\n")


@contextmanager
def target(out: Path | None) -> Iterator[Any]:
    """stdout, or a file that is there whole or not at all."""
    if out is None:
        yield sys.stdout
        return
    import tempfile

    handle, scratch = tempfile.mkstemp(dir=out.parent, prefix=".predict-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(scratch, 0o666 & ~_umask())
        os.replace(scratch, out)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise


def _umask() -> int:
    before = os.umask(0)
    os.umask(before)
    return before
