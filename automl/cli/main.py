"""The group of commands, and how each way of ending becomes one line on stderr and an exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

import click

from automl.estimators.errors import AutoMLError

from .about import families, machine
from .fit import fit, resume
from .front import choose, front
from .options import VERSION
from .predict import predict
from .scale import scale
from .serve import serve
from .size import size
from .use import export
from .verify import verify

HELP = """Tabular AutoML that returns the whole Pareto front: deployable models, each measured as it is deployed.

\b
Examples:
  automl fit train.csv --target income --budget 5m      search, and write ./train-run
  automl front train-run                                the models, the most accurate first
  automl choose train-run --max-latency 100us           the best model within a limit
  automl scale train-run --rows 10M                     what they become on more rows
  automl predict train-run new.csv -o predictions.csv
  automl export train-run --model m03 --format onnx -o model.onnx
  automl verify train-run --max-latency-p99 5ms         measured again on this machine, against limits
  automl serve train-run --model m03                    over HTTP, with checks, metrics and hot swap

\b
Exit codes: 0 done, 1 a bug, 2 usage, 3 input data, 4 no model meets the limits or the budget,
5 resources (memory, disk, time), 6 artifact refused, 130 interrupted, 143 terminated.
"""

RESOURCES = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EIO", "EROFS", "EACCES", "EPERM", "EMFILE", "ENFILE", "ENOMEM", "EAGAIN")
    if hasattr(errno, name)
}

OTHER_WORDS = {
    "--time-limit": "--budget",
    "--time-budget": "--budget",
    "--timeout": "--budget",
    "--max-runtime-secs": "--budget",
    "--label": "--target",
    "--force": "--overwrite",
    "--output": "--out",
    "--memory": "--memory-limit",
    "--n-jobs": "--jobs",
    "--random-state": "--seed",
}
"""What other tools call it."""


@click.group(help=HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@VERSION
def cli() -> None:
    return None


for _command in (fit, front, choose, scale, predict, serve, verify, size, export, resume, families, machine):
    cli.add_command(_command)


class Signals:
    """The first SIGINT, SIGTERM or SIGHUP becomes a KeyboardInterrupt, which a fit answers with the front so far.

    The second ends the process at once; trial processes end with it.
    """

    def __init__(self) -> None:
        self.received: int | None = None

    def install(self) -> None:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is None or (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):  # nohup
                continue
            signal.signal(number, self.receive)

    def receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            os._exit(self.code)
        self.received = number
        raise KeyboardInterrupt

    @property
    def code(self) -> int:
        """130 after SIGINT, 143 after SIGTERM or SIGHUP, 0 after none."""
        if self.received is None:
            return 0
        return 130 if self.received == signal.SIGINT else 143


def main() -> NoReturn:
    """The console script."""
    signals = Signals()
    signals.install()
    code = run(sys.argv[1:])
    sys.exit(signals.code or code)


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit code; nothing escapes."""
    try:
        try:
            _invoke(list(arguments))
        finally:
            sys.stdout.flush()
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.exceptions.NoArgsIsHelpError as nothing:
        print(nothing.format_message(), file=sys.stderr)
        return 2
    except click.ClickException as error:
        return _say(_usage(error), error.exit_code)
    except KeyboardInterrupt:
        return _say("interrupted", 130)
    except AutoMLError as error:
        return _say(str(error), error.exit_code)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        _silence()
        return 0
    except MemoryError as error:
        return _say(f"out of memory ({error}): use fewer rows, or a machine with more", 5)
    except OSError as error:
        if error.errno not in RESOURCES:
            return _bug(error, "--debug" in arguments)
        _silence()
        return _say(f"{error.filename or 'output'}: {error.strerror}", 5)
    except Exception as error:  # the last resort: whatever it is, the user gets one line and the log's path
        return _bug(error, "--debug" in arguments)
    return 0


def _invoke(arguments: list[str]) -> Any:
    if "_AUTOML_COMPLETE" in os.environ:  # the shell asks for completions
        return cli.main(arguments, "automl")
    with cli.make_context("automl", arguments) as context:
        return cli.invoke(context)


def _usage(error: click.ClickException) -> str:
    """The error in one line, with what to do."""
    message = error.format_message()
    if isinstance(error, click.NoSuchOption) and error.option_name in OTHER_WORDS:
        message = f"No such option: {error.option_name}. It is called {OTHER_WORDS[error.option_name]} here."
    context = getattr(error, "ctx", None)
    if isinstance(error, click.UsageError) and context is not None:
        message += f" See `{context.command_path} --help`."
    return message


def _say(message: str, code: int) -> int:
    try:
        print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    except OSError:
        _silence()
    return code


def _silence() -> None:
    """Points stdout at nothing, so that the interpreter's last flush cannot fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _bug(error: BaseException, debug: bool) -> int:
    """An unexpected exception: its traceback on stderr with --debug, else in a log file. Returns 1."""
    import tempfile
    import traceback

    text = "".join(traceback.format_exception(error))
    if debug:
        print(text, file=sys.stderr)
        return 1
    with tempfile.NamedTemporaryFile("w", prefix="automl-bug-", suffix=".log", delete=False) as log:
        log.write(text)
    return _say(f"unexpected {type(error).__name__}: {error}. This is a bug; its traceback is in {log.name}", 1)
