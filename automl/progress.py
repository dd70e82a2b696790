"""What is seen of a running fit, on stderr: a live table on a terminal, now and then a line elsewhere, or nothing."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from automl.search.units import show_bytes, show_score, show_seconds

if TYPE_CHECKING:
    from automl.search.setting import Progress

PLAIN_SECONDS = 10.0
"""Off a terminal a line is written at most so often, but always at a new stage."""
SHOWN_MODELS = 12


class View(Protocol):
    """Takes the study's events; `note` shows one line of text beside them."""

    def __call__(self, progress: Progress) -> None: ...

    def note(self, text: str) -> None: ...


@contextmanager
def watch(*, quiet: bool = False, verbose: bool = False, stream: TextIO | None = None) -> Iterator[View]:
    """Shows progress and the notes of the `automl` logger on `stream` (stderr) until the block ends.

    `quiet` leaves only warnings; `verbose` adds a line for each trial.
    """
    out: TextIO = sys.stderr if stream is None else stream
    view: View
    if quiet:
        view = Quiet(out)
    elif out.isatty():
        view = Live(out)
    else:
        view = Plain(out)
    logger, handler = logging.getLogger("automl"), Notes(view)
    level = logger.level
    logger.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
    logger.addHandler(handler)
    try:
        if isinstance(view, Live):
            with view.live:
                yield view
        else:
            yield view
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class Notes(logging.Handler):
    """Hands the logger's messages to the view."""

    def __init__(self, view: View) -> None:
        super().__init__()
        self.view = view

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
            self.view.note(f"{record.levelname.lower()}: {text}" if record.levelno >= logging.WARNING else text)
        except Exception:  # as logging's own handlers do: a message that cannot be shown must not end the fit
            self.handleError(record)


class Quiet:
    """Shows notes only."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __call__(self, progress: Progress) -> None:
        return None

    def note(self, text: str) -> None:
        print(text, file=self.stream, flush=True)


class Plain(Quiet):
    """One line at each new stage, and every ten seconds."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._stage, self._time = "", -math.inf

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.stage == self._stage and now - self._time < PLAIN_SECONDS:
            return
        self._stage, self._time = progress.stage, now
        self.note(line(progress))


def line(progress: Progress) -> str:
    """The whole of a progress event in one line."""
    of = f" of {show_seconds(progress.budget)}" if math.isfinite(progress.budget) else ""
    parts = [f"{show_seconds(progress.elapsed)}{of}", f"{progress.stage}: {_statuses(progress)}"]
    if progress.front:
        fastest = min((model[2] for model in progress.front if math.isfinite(model[2])), default=math.nan)
        parts.append(
            f"front of {len(progress.front)}, best error {show_score(progress.front[0][1])}, fastest {show_seconds(fastest)} a row"
        )
    return ", ".join(parts)


def _statuses(progress: Progress) -> str:
    seen = [f"{count} {status.replace('_', ' ')}" for status, count in progress.statuses.items() if count]
    return ", ".join(seen) or "no trial has ended yet"


class Live:
    """A table that redraws itself: time left, trials by status, the front as it grows."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self.console = Console(file=stream)
        self.progress: Progress | None = None
        self.received = time.monotonic()
        self.live = RichLive(self, console=self.console, refresh_per_second=4, transient=True)

    def __call__(self, progress: Progress) -> None:
        self.progress, self.received = progress, time.monotonic()

    def note(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False)

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        progress = self.progress
        if progress is None:
            return Text("reading the data ...")
        elapsed = progress.elapsed + time.monotonic() - self.received
        if math.isfinite(progress.budget):
            clock = (
                f"{show_seconds(max(0.0, round(progress.budget - elapsed)))} left of {show_seconds(progress.budget)}"
            )
        else:
            clock = f"{show_seconds(round(elapsed))} so far"
        return Group(Text(f"{clock}   {progress.stage}: {_statuses(progress)}"), self._front(progress))

    def _front(self, progress: Progress) -> Any:
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("family")
        for head in ("error", "one row", "size"):
            table.add_column(head, justify="right")
        for family, error, latency, size in progress.front[:SHOWN_MODELS]:
            table.add_row(family, show_score(error), show_seconds(latency), show_bytes(size))
        if len(progress.front) > SHOWN_MODELS:
            table.add_row(f"and {len(progress.front) - SHOWN_MODELS} more", "", "", "")
        return table
