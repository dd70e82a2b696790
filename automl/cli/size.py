"""`automl size`: cores, memory, machines and money for a run's models at a rate of requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from automl.estimators.errors import InfeasibleError
from automl.search.units import show_bytes, show_score, show_seconds

from . import show
from .options import ROWS, SECONDS, DataFile, Existing, common

SIZE_HELP = """What it takes to serve each model of a run at --qps requests of one row a second, 99 % of them within --p99:
cores (one worker each), memory, the cheapest machines that hold them, and what predictions and a retraining cost.

\b
Examples:
  automl size train-run --qps 2000 --p99 10ms
  automl size train-run --qps 2000 --p99 10ms --rows 10M --prices prices.csv
  automl size train-run --print-prices > prices.csv     the table that is used, to be edited

\b
The queue is M/G/c: Erlang's C, Allen and Cunneen's mean wait, an exponential tail; the service time is log-normal
from the measured p50 and p99, plus --overhead for HTTP; no core is busy for more than 80 %. A vCPU that is half a core serves less than it says, and
the machine that measured is not the one you rent: `automl verify` there. The shipped prices are dated examples.
"""


@click.command("size", help=SIZE_HELP, short_help="Cores, memory and money to serve the models.")
@click.argument("run", type=Existing())
@click.option("--qps", type=click.FloatRange(0, min_open=True), metavar="N", help="Requests of one row a second.")
@click.option("--p99", type=SECONDS, metavar="T", help="99 % are answered within this time.")
@click.option("--rows", type=ROWS, metavar="N", help="Training rows.  [default: the run's target rows]")
@click.option("--prices", type=DataFile(), metavar="FILE", help="CSV of machines.  [default: the examples shipped]")
@click.option("--overhead", type=SECONDS, metavar="T", help="HTTP's part of a request.  [default: 35us]")
@click.option("--print-prices", is_flag=True, help="Print the price table and end.")
@common
def size(
    run: Path,
    *,
    qps: float | None,
    p99: float | None,
    rows: int | None,
    prices: Path | None,
    overhead: float | None,
    print_prices: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    from .. import size as module
    from ..front import open_run

    table = prices or module.PRICES
    if print_prices:
        print(table.read_text(), end="")
        return
    if qps is None or p99 is None:
        raise click.UsageError("Give --qps N and --p99 T, such as --qps 2000 --p99 10ms.")
    overhead = module.OVERHEAD_SECONDS if overhead is None else overhead
    machines, front = module.read_prices(table), open_run(run)
    wanted = rows or front.found.get("target_rows") or front.found["rows"]
    measured = {m.id: m.entry for m in front}
    there = front if wanted == front.found["rows"] else front.at(wanted)
    sizes = [module.size(m.entry, measured[m.id], qps, p99, machines, overhead) for m in there]
    if as_json:
        dates = sorted({m.as_of for m in machines})
        about = {"qps": qps, "p99_seconds": p99, "rows": wanted, "overhead_seconds": overhead, "prices": str(table)}
        show.as_json({**about, "prices_as_of": dates, "models": [s.as_dict() for s in sizes]})
    else:
        show.table([HEADER, *map(_cells, sizes)])
    if not quiet:
        dated = ", ".join(sorted({m.as_of for m in machines if m.as_of})) or "no date"
        examples = "" if prices else ": examples, edit them (--print-prices, --prices)"
        click.echo(f"note: prices as of {dated}{examples}", err=True)
    if all(s.cores is None for s in sizes):
        raise InfeasibleError(f"no model answers 99 % of the requests within {show_seconds(p99)}: {sizes[-1].reason}")


HEADER = (
    "id",
    "family",
    "score",
    "cores",
    "busy",
    "p99",
    "memory",
    "machines",
    "USD/h",
    "USD/million",
    "training",
    "USD",
    "",
)


def _cells(s: Any) -> tuple[str, ...]:
    def money(value: float | None) -> str:
        return "" if value is None else f"{value:.3g}"

    return (
        s.id,
        s.family,
        "" if s.score is None else show_score(s.score),
        "" if s.cores is None else str(s.cores),
        "" if s.utilisation is None else f"{s.utilisation:.0%}",
        "" if s.p99_seconds is None else show_seconds(s.p99_seconds),
        "" if s.memory_bytes is None else show_bytes(s.memory_bytes),
        "" if s.machine is None else f"{s.machines} x {s.machine}",
        money(s.usd_per_hour),
        money(s.usd_per_million),
        show_seconds(s.training_seconds),
        money(s.usd_per_training),
        s.reason,
    )
