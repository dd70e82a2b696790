"""What is seen of a running fit."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Iterator

import pytest

from automl.progress import Notes, Plain, line, watch
from automl.search.setting import Progress


def event(elapsed: float, stage: str = "search", completed: int = 3) -> Progress:
    front = [("lightgbm", 0.07, 3.1e-05, 4.2e5), ("linear", 0.08, 8e-06, 3e4)] if completed else []
    return Progress(elapsed, 60.0, stage, {"completed": completed, "timeout": 1, "crashed": 0}, front)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    logger = logging.getLogger("automl")
    before = logger.level
    yield logger
    assert logger.level == before
    assert not any(isinstance(handler, Notes) for handler in logger.handlers)


def test_a_line_says_the_time_the_trials_and_the_front() -> None:
    assert (
        line(event(12.0))
        == "12 s of 60 s, search: 3 completed, 1 timeout, front of 2, best error 0.07, fastest 8 us a row"
    )
    assert "no trial has ended" not in line(event(1.0, completed=0))


def test_without_a_wall_budget_no_total_is_shown() -> None:
    assert line(Progress(2.0, math.inf, "search", {}, [])) == "2 s, search: no trial has ended yet"


def test_plain_lines_come_at_a_new_stage_or_after_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 2.0, 13.0])
    monkeypatch.setattr("automl.progress.time.monotonic", lambda: next(clock))
    stream = io.StringIO()
    view = Plain(stream)
    for progress in (event(0.0), event(1.0), event(2.0, "finish"), event(13.0, "finish")):
        view(progress)
    assert [text.split(",")[0] for text in stream.getvalue().splitlines()] == [
        "0 ns of 60 s",
        "2 s of 60 s",
        "13 s of 60 s",
    ]


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({}, ["a note", "warning: a warning"]),
        ({"quiet": True}, ["warning: a warning"]),
        ({"verbose": True}, ["a detail", "a note", "warning: a warning"]),
    ],
)
def test_notes_are_shown_as_loudly_as_asked(options: dict[str, bool], shown: list[str], log: logging.Logger) -> None:
    stream = io.StringIO()
    with watch(stream=stream, **options):
        log.debug("a detail")
        log.info("a note")
        log.warning("a warning")
    assert stream.getvalue().splitlines() == shown


def test_quiet_shows_no_progress(log: logging.Logger) -> None:
    stream = io.StringIO()
    with watch(quiet=True, stream=stream) as view:
        view(event(1.0))
    assert stream.getvalue() == ""


def test_on_a_terminal_the_front_is_drawn_and_notes_stand_above_it(log: logging.Logger) -> None:
    stream = Terminal()
    with watch(stream=stream) as view:
        view(event(12.0))
        log.info("dropped [id]: it is constant")
        view(event(13.0))
    text = stream.getvalue()
    assert "48 s left of 60 s" in text
    assert "lightgbm" in text
    assert "420 kB" in text
    assert "dropped [id]: it is constant" in text


def test_a_message_that_cannot_be_formatted_does_not_end_the_fit(
    log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    with watch(stream=io.StringIO()) as view:
        Notes(view).handle(logging.LogRecord("automl", logging.INFO, "x.py", 1, "%d", ("not a number",), None))
    assert "TypeError" in capsys.readouterr().err
