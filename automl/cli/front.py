"""`automl front` and `automl choose`: what a run found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import show
from .options import ROWS, Existing, common, limits, within

FRONT_HELP = """Show the models of a run, the most accurate first, as they were measured.

\b
Examples:
  automl front train-run
  automl front train-run --at-rows 10M
  automl front train-run --csv > front.csv
  automl front train-run --json | python -m json.tool
"""

CHOOSE_HELP = """Print the model of a run that is best within limits; exit 4, naming the limit to lift, if there is none. Limits that the run
was given hold as well, unless another value is given.

\b
Examples:
  automl choose train-run --max-latency 100us --max-memory 60MB
  automl choose train-run --prefer knee
  automl choose train-run --prefer cheapest_within --tolerance 0.02 --cost size
"""


@click.command("front", help=FRONT_HELP, short_help="Show the models of a run as they were measured.")
@click.argument("run", type=Existing())
@click.option("--at-rows", type=ROWS, metavar="N", help="As the laws forecast them at N training rows, such as 10M.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, with the unit in each column's name.")
@common
def front(run: Path, *, at_rows: int | None, as_csv: bool, as_json: bool, **options: Any) -> None:
    from ..front import open_run

    found = open_run(run) if at_rows is None else open_run(run).at(at_rows)
    if as_json:
        show.as_json(found.as_dict())
    elif as_csv:
        print(found.leaderboard().to_csv(index=False), end="")
    else:
        show.table(found.table())


@click.command("choose", help=CHOOSE_HELP, short_help="Print the best model within limits.")
@click.argument("run", type=Existing())
@limits
@click.option(
    "--at-rows",
    type=ROWS,
    metavar="N",
    help="Hold the limits against the forecast at N training rows.  [default: the run's target rows]",
)
@click.option(
    "--prefer",
    type=click.Choice(["accuracy", "knee", "cheapest_within"]),
    default="accuracy",
    show_default=True,
    help="Which of the models within the limits.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=0.01,
    show_default=True,
    help="cheapest_within: share of the best error.",
)
@click.option(
    "--cost", default="latency", show_default=True, metavar="NAME", help="cheapest_within: the objective to minimise."
)
@common
def choose(
    run: Path, *, prefer: str, tolerance: float, cost: str, at_rows: int | None, as_json: bool, **options: Any
) -> None:
    from ..front import open_run

    found = open_run(run) if at_rows is None else open_run(run).at(at_rows)
    model = found.choose(**within(options), prefer=prefer, tolerance=tolerance, cost=cost)
    if as_json:
        show.as_json({**model.as_dict(), "path": str(model.path)})
        return
    head, *body = found.table()
    show.table([head, next(line for line in body if line[0] == model.id)])
    if not options["quiet"]:
        click.echo(f"its artifact: {model.path}", err=True)
