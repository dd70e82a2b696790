"""`automl serve`: a model of a run, or an artifact, over HTTP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from automl.estimators.errors import ResourceError

from . import show
from .options import BYTES, MODEL, Existing, common

if TYPE_CHECKING:
    from ..serving.model import Served

SERVE_HELP = """Serve a model of a run (the most accurate within its limits, or --model) or an artifact over HTTP until SIGTERM or Ctrl-C.

\b
Examples:
  automl serve served/
  automl serve train-run --model m03 --port 9000
  AUTOML_TOKEN=... automl serve served/ --host 0.0.0.0 --workers 4
  curl -H 'Content-Type: application/json' -d '{"age": 41, "job": "nurse"}' http://127.0.0.1:8080/predict

\b
Paths:
  POST /predict                  one row (an object of columns and values) or a list of rows
  POST /v2/models/NAME/infer     Open Inference Protocol v2, with its health and metadata paths
  GET  /docs /openapi.json       what the model takes, from its schema
  GET  /healthz /readyz          is it there, does it answer
  GET  /metrics                  for Prometheus

\b
A row that does not fit is a 422 that names its column; too many bytes or rows are a 413, too many requests at
a time a 503. Replace the artifact (by a rename, or a link) and the new one takes over within a second, or at
once on SIGHUP, without a lost request; one that is corrupt or needs other columns does not, and the log says so.
Needs: pip install "automl-frontier[serve]"
"""


@click.command("serve", help=SERVE_HELP, short_help="Serve a model over HTTP.")
@click.argument("run", metavar="RUN|ARTIFACT", type=Existing())
@click.option("--model", "model", metavar="ID", help=MODEL)
@click.option("--name", default="", metavar="NAME", help="The model's name in the URL.  [default: the artifact's]")
@click.option("--host", default="127.0.0.1", show_default=True, help="Another one than this machine's needs a token.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: any that is free.")
@click.option(
    "--workers", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes, such as one a core."
)
@click.option(
    "--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="Of a worker, for many rows."
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Ask for `Authorization: Bearer TOKEN` with the token in FILE.  [default: AUTOML_TOKEN, if it is set]",
)
@click.option("--no-token", is_flag=True, help="Serve other hosts without one: something else guards the server.")
@click.option("--max-body", type=BYTES, default="16MB", show_default=True, metavar="SIZE", help="Of one request.")
@click.option("--max-rows", type=click.IntRange(1), default=10_000, show_default=True, help="Of one request.")
@click.option("--max-concurrency", type=click.IntRange(1), default=512, show_default=True, help="Requests at a time.")
@click.option("-v", "--verbose", is_flag=True, help="A line on stderr for each request.")
@common
def serve(
    run: Path,
    *,
    model: str | None,
    name: str,
    host: str,
    port: int,
    workers: int,
    threads: int,
    token_file: Path | None,
    no_token: bool,
    max_body: float,
    max_rows: int,
    max_concurrency: int,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> None:
    try:
        from ..serving import process
        from ..serving.app import Limits
    except ImportError as error:
        raise ResourceError(f'serving needs {error.name}; to get it: pip install "automl-frontier[serve]"') from None
    import logging

    from .use import artifact_of

    level = logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s")
    setting = process.Setting(
        artifact_of(run, model),
        name=name,
        host=host,
        port=port,
        workers=workers,
        threads=threads,
        token=_token(token_file),
        open=no_token,
        limits=Limits(int(max_body), max_rows, max_concurrency),
        access_log=verbose,
    )

    def ready(address: str, served: Served) -> None:
        if as_json:
            show.as_json({"url": address, "name": served.name, "version": served.version, "pid": os.getpid()})
        elif not quiet:
            click.echo(f"serving {served.name} (version {served.version}) at {address}, see {address}/docs", err=True)

    code = process.serve(setting, ready)
    if code:
        raise click.exceptions.Exit(code)


def _token(path: Path | None) -> str | None:
    """From the file, else from AUTOML_TOKEN; never from the command line, which other users can read."""
    if path is None:
        return os.environ.get("AUTOML_TOKEN") or None
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{path}: {getattr(error, 'strerror', None) or error}.") from None
