"""`automl scale`: what more rows do to the models of a run, and how good such forecasts are."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from automl.search.units import show_seconds

from . import show
from .options import BYTES, ROWS, SECONDS, Existing, common

if TYPE_CHECKING:
    from automl.search.scaling import Backtest

SCALE_HELP = """Forecast the models of a run at --rows training rows: error, training time and memory with 90 % intervals, where two
models change their order, and the most rows that fit a given time or memory.

\b
Examples:
  automl scale train-run --rows 10M
  automl scale train-run --rows 10M --max-training-time 1h --max-training-memory 16GB
  automl scale train-run --backtest     how good such forecasts are: fits the models again on fewer rows
"""


@click.command("scale", help=SCALE_HELP, short_help="Forecast the models at more rows; check such forecasts.")
@click.argument("run", type=Existing())
@click.option("--rows", type=ROWS, metavar="N", help="Training rows to forecast, such as 10M.")
@click.option("--max-training-time", type=SECONDS, metavar="T", help="Print the most rows that train in this time.")
@click.option("--max-training-memory", type=BYTES, metavar="SIZE", help="... and in this memory.")
@click.option("--backtest", is_flag=True, help="Hold out the most rows, forecast them from fewer, and compare.")
@common
def scale(
    run: Path,
    *,
    rows: int | None,
    max_training_time: float | None,
    max_training_memory: int | None,
    backtest: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    if backtest == (rows is not None):
        raise click.UsageError("Give either --rows N or --backtest.")
    if backtest and (max_training_time, max_training_memory) != (None, None):
        raise click.UsageError("--max-training-time and --max-training-memory go with --rows N, not with --backtest.")
    if backtest:
        _backtest(run, as_json=as_json, quiet=quiet)
        return
    assert rows is not None
    limits = {"training_seconds": max_training_time, "training_memory_bytes": max_training_memory}
    _forecast(run, rows, {k: float(v) for k, v in limits.items() if v is not None}, as_json=as_json)


def _forecast(run: Path, rows: int, limits: dict[str, float], *, as_json: bool) -> None:
    from ..front import open_run
    from ..scale import crossings, largest_rows, outlooks, sentences, show_rows

    front = open_run(run)
    at, found = front.at(rows), front.as_dict()
    orders = crossings(found, rows)
    most = {o.entry["id"]: largest_rows(o, limits) for o in outlooks(found)}
    if as_json:
        show.as_json(at.as_dict() | {"crossings": orders, "largest_rows": most})
        return
    show.table(at.table())
    for o in outlooks(found):
        print(f"\n{o.entry['id']} {o.entry['family']}")
        for line in sentences(o):
            print(f"  {line}")
        for quantity, limit in most[o.entry["id"]].items():
            what = "training time" if quantity == "training_seconds" else "training memory"
            print(f"  rows within the {what}: " + ("no law" if limit is None else show_rows(limit)))
    threads = found.get("threads")
    if threads:
        most_threads = threads["threads"][-1]
        print(
            f"\n{threads['family']} trained {threads['speedup']:.2f} times as fast on {most_threads} threads as on one "
            f"({threads['rows']:,} rows): {threads['parallel']:.0%} of it is parallel by Amdahl's law"
        )
    if orders:
        print()
    for pair in orders:
        sure = "" if pair["sure"] else " (their intervals overlap: this may not happen)"
        print(f"{pair['better_beyond']} overtakes {pair['worse_beyond']} at {show_rows(pair['rows'])} rows{sure}")


def _backtest(run: Path, *, as_json: bool, quiet: bool) -> None:
    from ..backtest import backtest

    def say(line: str) -> None:
        if not quiet:
            click.echo(line, err=True)

    found = backtest(run, say)
    if as_json:
        show.as_json({**asdict(found), "results": [asdict(r) for r in found.results]})
        return
    show.table([HEADER, *(_cells(result) for result in found.results)])
    say(f"{found.fits} fits took {show_seconds(found.seconds)}")
    for line in found.failed:
        click.echo(f"left out: {line}", err=True)


HEADER = ("quantity", "horizon", "models", "MAPE", "median", "bias", "coverage", "rank tau", "error / last value")


def _cells(result: Backtest) -> tuple[str, ...]:
    return (
        result.quantity,
        f"{result.horizon}x",
        str(result.models),
        f"{result.mape:.0%}",
        f"{result.median_ape:.0%}",
        f"{result.bias:+.2f}",
        f"{result.coverage:.0%}",
        "" if result.rank is None else f"{result.rank:.2f}",
        f"{result.ratio_to_last:.2f}",
    )
