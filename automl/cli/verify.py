"""`automl verify`: an artifact measured again on this machine, beside its record, for a job of continuous integration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from automl.estimators.errors import InfeasibleError
from automl.search.units import show_bytes, show_score, show_seconds

from . import show
from .options import MODEL, SECONDS, DataFile, Existing, common, csv, limits, within
from .use import artifact_of

if TYPE_CHECKING:
    from ..verify import Verified

VERIFY_HELP = """Measure a model of a run (the most accurate within its limits, or --model) or an artifact again on this machine, and compare with
what its record says. Exit 4, naming what was found and what is allowed, if a limit is broken; 6 if the artifact
is corrupt.

\b
Examples:
  automl verify served/ --max-latency-p99 5ms --max-memory 100MB
  automl verify train-run --model m03 --data new.csv
  automl verify served.zip --json

\b
Latency, throughput, memory, size and load are measured; limits on training and on the score are held against
the record. Without --data, the rows are made up from the artifact's schema.
"""


@click.command("verify", help=VERIFY_HELP, short_help="Measure a model again on this machine; check limits.")
@click.argument("run", metavar="RUN|ARTIFACT", type=Existing())
@click.option("--model", "name", metavar="ID", help=MODEL)
@click.option("--data", type=DataFile(), metavar="FILE", help="Rows to predict (CSV or Parquet).")
@click.option("--budget", type=SECONDS, default="5s", show_default=True, metavar="T", help="How long to measure.")
@csv
@limits
@common
def verify(
    run: Path, *, name: str | None, data: Path | None, budget: float, as_json: bool, quiet: bool, **options: Any
) -> None:
    from .. import verify as module

    place = artifact_of(run, name)
    reading = {option: options[option] for option in ("sep", "decimal", "encoding")}
    found = module.verify(place, within(options), budget, data, reading)
    if as_json:
        show.as_json(found.as_dict())
    else:
        show.table(_lines(found))
        if not quiet:
            for note in found.notes:
                click.echo(f"note: {note}", err=True)
    if found.broken:
        raise InfeasibleError(f"{place} breaks {found.told()}", found.nearest(str(place)))


def _lines(found: Verified) -> list[tuple[str, ...]]:
    """One line a quantity: recorded, now, their ratio, the limit and how it is held."""
    lines: list[tuple[str, ...]] = [("what", "recorded", "here", "ratio", "limit", "")]
    for each in found.quantities:
        ratio = "" if each.ratio is None else f"{each.ratio:.2f}"
        held = "" if each.allowed is None else "broken" if each.broken else "ok"
        cells = [_shown(each.unit, value) for value in (each.recorded, each.measured, each.allowed)]
        lines.append((each.label, cells[0], cells[1], ratio, cells[2], held))
    return lines


def _shown(unit: str, value: float | None) -> str:
    if value is None:
        return ""
    if unit == "seconds":
        return show_seconds(value)
    return show_bytes(value) if unit == "bytes" else f"{value:,.0f}" if unit == "rows" else show_score(value)
