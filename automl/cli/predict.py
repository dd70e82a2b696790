"""`automl predict`: the rows of a file, however many, through a model of a run or an artifact."""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    help="CSV to write, whole or not at all; or a pipe or device.  [default: stdout]",
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
    overwrite: bool,
    quiet: bool,
    **options: Any,
) -> None:
    written = _place_of(out, overwrite)
    if background is not None and not explain:
        raise click.UsageError("--background is for --explain; leave it out, or add that.")
    from automl.estimators.runtime import load, shown

    from ..stream import check_cells, open_chunks, text_columns

    place = artifact_of(run, name)
    model = load(place)
    if proba and model.classes_ is None:
        raise click.UsageError("--proba is for classifiers, and this model does regression; leave it out.")
    explainer = _explainer(place, model) if explain else None
    spelled = {} if as_json or model.classes_ is None else _spelled(model.classes_.tolist())
    for label, text in spelled.items():
        click.echo(
            f"warning: in CSV the label {shown(label)} stands as {shown(text)}; --json has it as it is", err=True
        )
    opened = partial(open_chunks, used=model.used, texts=text_columns(model.encoder))
    with opened(data, sep=sep, decimal=decimal, encoding=encoding) as chunks:
        _tell(() if quiet else chunks.notes)
        check_cells(model, chunks)
        if explainer is not None and background is None:
            _learn(explainer, model, chunks)
        elif explainer is not None and background is not None:
            with opened(background, sep=sep, decimal=decimal, encoding=encoding) as others:
                _tell(() if quiet else [note for note in others.notes if note not in chunks.notes])
                check_cells(model, others)
                _learn(explainer, model, others)
        parts = (columns_of(model, frame, proba, explainer) for frame in chunks)
        with target(written) as file:
            _write_json(parts, file) if as_json else _write_csv(parts, file, spelled)


def columns_of(
    model: runtime.Model, frame: pd.DataFrame, proba: bool, explainer: Explainer | None = None
) -> dict[str, list[Any]]:
    """Named columns: the prediction, then with `proba` one a class, then with an explainer the parts of the raw score."""
    columns: dict[str, list[Any]] = {"prediction": model.predict(frame).tolist()}
    labels = model.classes_
    probabilities = model.predict_proba(frame) if labels is not None and (proba or explainer) else None
    if proba and labels is not None and probabilities is not None:
        names = names_of(labels.tolist())
        columns |= {f"probability_{name}": probabilities[:, k].tolist() for k, name in enumerate(names)}
    if explainer is not None:
        encoded = model.encoder.transform(frame)
        explainer.check(encoded, columns["prediction"] if probabilities is None else probabilities)
        columns |= explainer.columns(encoded)
    return columns


def names_of(labels: Sequence[Any], inert: bool = False) -> list[str]:
    """The text of each label, if it is to be `inert` with ' before a formula; Python's notation where two have the same (1 and "1")."""
    texts = ["'" + text if inert and FORMULA.match(text) else text for text in map(str, labels)]
    return texts if len(set(texts)) == len(texts) else [repr(label) for label in labels]


def _spelled(labels: Sequence[Any]) -> dict[Any, str]:
    """The labels that a CSV does not hold as they are, and what stands for them."""
    return {label: text for label, text in zip(labels, names_of(labels, True), strict=True) if text != str(label)}


def _tell(notes: Iterable[str]) -> None:
    for note in notes:
        click.echo(f"note: {note}", err=True)


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


def _write_csv(parts: Iterator[dict[str, list[Any]]], file: Any, spelled: Mapping[Any, str]) -> None:
    """A line a row. `spelled` are the labels that are not written as they are."""
    import csv
    import io

    writer: Any = None
    for columns in parts:
        text = io.StringIO()
        if spelled:
            columns["prediction"] = [spelled.get(label, label) for label in columns["prediction"]]
        if writer is None:
            csv.writer(text, lineterminator="\n").writerow(columns)
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows(zip(*columns.values(), strict=True))
        file.write(text.getvalue())


def _write_json(parts: Iterator[dict[str, list[Any]]], file: Any) -> None:
    """One object of columns, which stand one after another: each one's part of each chunk waits in a temporary file."""
    import struct
    import tempfile

    with tempfile.TemporaryFile() as waiting, tempfile.TemporaryFile() as ends:
        names: list[str] = []
        chunks = 0
        ends.write(struct.pack("q", 0))
        for columns in parts:
            names = list(columns)
            chunks += 1
            for values in columns.values():
                waiting.write(show.json_text(values)[1:-1].rstrip().encode())
                ends.write(struct.pack("q", waiting.tell()))

        def part(place: int) -> str:
            ends.seek(8 * place)
            start, end = struct.unpack("qq", ends.read(16))
            waiting.seek(start)
            return waiting.read(end - start).decode()

        file.write("{")
        for i, name in enumerate(names):
            file.write(f"{',' if i else ''}\n {show.json_text(name)}: [")
            for chunk in range(chunks):
                file.write(("," if chunk else "") + part(chunk * len(names) + i))
            file.write("]")
        file.write("\n}\n")


def _place_of(out: Path | None, overwrite: bool) -> Path | None:
    """Where -o writes: the file that links lead to, or a pipe or device itself; None for stdout."""
    if out is None:
        return None
    try:
        found = out.stat()
    except FileNotFoundError:
        found = None
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise
        raise click.UsageError(f"-o {out}: {error.strerror}.") from None
    if found is not None and not stat.S_ISREG(found.st_mode):
        if not _is_stream(found):
            raise click.UsageError(f"-o {out} is no file, pipe or terminal: choose another.")
        return out
    if found is not None and _is_stdout(found):  # /dev/stdout
        return None
    if found is not None and not overwrite:
        raise click.UsageError(f"{out} exists: choose another -o, or pass --overwrite.")
    place = Path(os.path.realpath(out))
    if not place.parent.is_dir():
        raise click.UsageError(f"-o {out}: there is no folder {place.parent}; make it, or choose another.")
    return place


def _is_stream(found: os.stat_result) -> bool:
    return stat.S_ISFIFO(found.st_mode) or stat.S_ISCHR(found.st_mode)


def _is_stdout(found: os.stat_result) -> bool:
    try:
        return os.path.samestat(found, os.fstat(1))
    except OSError:  # it is closed
        return False


@contextmanager
def target(place: Path | None) -> Iterator[Any]:
    """stdout, a pipe or device, or a file that is there whole or not at all."""
    if place is None:
        yield sys.stdout
        return
    if place.exists() and _is_stream(place.stat()):
        with place.open("w", encoding="utf-8", newline="") as file:
            yield file
        return
    import tempfile

    handle, scratch = tempfile.mkstemp(dir=place.parent, prefix=".predict-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(scratch, 0o666 & ~_umask())
        os.replace(scratch, place)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise


def _umask() -> int:
    before = os.umask(0)
    os.umask(before)
    return before
