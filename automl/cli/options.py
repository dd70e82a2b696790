"""What the commands share: option types that read units, and the options that several commands have."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

import automl
from automl.estimators.errors import AutoMLError
from automl.search import units

if TYPE_CHECKING:
    Type = click.ParamType[Any]
else:
    Type = click.ParamType  # no generic before click 8.4

Command = TypeVar("Command", bound=Callable[..., Any])

LONGEST_START = 10.0
"""Seconds; a process that is older when this is read did something else before, or was replaced by this one."""


def process_start() -> float:
    """When this process began, by `time.monotonic()`: its interpreter and imports are part of what a command takes.

    Where the system doesn't tell (it is Linux that does), or the process is old: now.
    """
    now = time.monotonic()
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return now
    return now - age if 0.0 <= age < LONGEST_START else now


STARTED = process_start()
"""When the command began: its budget counts from here."""
MODEL = "The model of the run.  [default: the most accurate within the run's limits]"
VERSION = click.version_option(automl.__version__, "--version", prog_name="automl")


class Quantity(Type):
    """A number with a unit, read by one of the functions of `units`."""

    def __init__(self, name: str, read: Callable[[object, str], float]) -> None:
        self.name = name
        self.read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return self.read(value, param.opts[0] if param else self.name)
        except AutoMLError as error:
            raise click.UsageError(f"{error}.", ctx) from error


SECONDS = Quantity("time", units.seconds)
BYTES = Quantity("size", units.size)
ROWS = Quantity("rows", units.count)


class Names(Type):
    """Names with commas between them."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        if isinstance(value, list):
            return value
        found = [part.strip() for part in str(value).split(",") if part.strip()]
        return found or self.fail("is empty; write names with commas between them", param, ctx)


NAMES = Names()


class DataFile(Type):
    """A regular file that exists; with `stdin` also "-"."""

    name = "file"

    def __init__(self, stdin: bool = False) -> None:
        self.stdin = stdin

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(value)
        if self.stdin and str(path) == "-":
            return path
        try:
            mode = path.stat().st_mode
        except OSError as error:
            reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
            raise click.UsageError(f"{path}: {reason}{_near(path)}.", ctx) from error
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
            raise click.UsageError(f"{path} is {what}; give a CSV or Parquet file.", ctx)
        return path


class Existing(Type):
    """A run folder or an artifact: a path that exists."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(value)
        if not path.exists():
            raise click.UsageError(f"{path}: no such folder or file{_near(path)}.", ctx)
        return path


def _near(path: Path) -> str:
    """ ", did you mean X?" for a name in the same folder that looks like it."""
    from difflib import get_close_matches

    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:  # the folder is not there either, or not ours to read
        return ""
    near = get_close_matches(path.name, names, n=1)
    return f", did you mean {path.parent / near[0]}?" if near else ""


def common(command: Command) -> Command:
    """--json, --quiet, --debug and --version."""
    for option in (
        VERSION,
        click.option("--debug", is_flag=True, help="On an unexpected error show its traceback."),
        click.option("-q", "--quiet", is_flag=True, help="No progress and no notes on stderr, only warnings."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout."),
    ):
        command = option(command)
    return command


def _separator(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    return "\t" if value in ("\\t", "tab") else value


def csv(command: Command) -> Command:
    """--sep, --decimal and --encoding: how a CSV is read where the guess is wrong."""
    for option in (
        click.option("--encoding", metavar="E", help="CSV: such as utf-8 or cp1252.  [default: guessed]"),
        click.option("--decimal", metavar="C", help="CSV: the decimal character.  [default: guessed]"),
        click.option(
            "--sep",
            metavar="C",
            callback=_separator,
            help="CSV: the character between cells; `\\t` for a tab.  [default: guessed]",
        ),
    ):
        command = option(command)
    return command


def limits(command: Command) -> Command:
    """The limits of `choose`: no model outside them is ever given."""
    for option in (
        click.option(
            "--min-score", type=float, metavar="X", help="The metric, at least (at most, where lower is better)."
        ),
        click.option("--max-training-memory", type=BYTES, metavar="SIZE", help="Peak memory of the fit on all rows."),
        click.option("--max-training-time", type=SECONDS, metavar="T", help="Wall time of the fit on all rows."),
        click.option("--max-size", type=BYTES, metavar="SIZE", help="Bytes of the artifact, such as 10MB."),
        click.option("--max-memory", type=BYTES, metavar="SIZE", help="Serving memory above a bare interpreter."),
        click.option("--max-latency-p99", type=SECONDS, metavar="T", help="One row, 99th percentile."),
        click.option("--max-latency", type=SECONDS, metavar="T", help="One row, median, such as 1ms or 100us."),
    ):
        command = option(command)
    return command


LIMITS = (
    "max_latency",
    "max_latency_p99",
    "max_memory",
    "max_size",
    "max_training_time",
    "max_training_memory",
    "min_score",
)


def within(options: dict[str, Any]) -> dict[str, Any]:
    """The limits that were given."""
    return {name: options[name] for name in LIMITS if options.get(name) is not None}
