"""`automl export`: a model of a run, or an artifact, in a form that others load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import show
from .options import MODEL, Existing, common

EXPORT_HELP = """Write a model of a run (the most accurate within its limits, or --model) or an artifact in a form that others load.

\b
Examples:
  automl export train-run --model m03 -o served/
  automl export train-run --model m03 -o served.zip
  automl export train-run --model m03 -o app/ --with-runtime
  automl export train-run --model m03 --format onnx -o model.onnx

\b
Formats:
  bundle     the artifact folder, or one .zip; automl.runtime.load reads both with numpy and onnxruntime
  onnx       one .onnx file, raw named columns in, for onnxruntime in any language
  sklearn    an equal scikit-learn Pipeline in one .skops file (needs the extra skops)
  mlflow     an MLflow model folder (pyfunc, no pickle) with signature and input example
  python     one .py file without dependencies, for models of up to about 2 MB of source
  c          a folder of C99 source without dependencies, with test vectors
  container  a folder with Dockerfile, pinned requirements, the artifact and the HTTP server

Each export is compared with the model on 1,000 rows with missing and unseen values before it is written; record.json says how
it went. A format that cannot hold a model refuses it, with the reason (exit code 6).
"""


@click.command("export", help=EXPORT_HELP, short_help="Write a model in a form that others load.")
@click.argument("run", metavar="RUN|ARTIFACT", type=Existing())
@click.option("--model", "name", metavar="ID", help=MODEL)
@click.option(
    "--format", "form", default="bundle", show_default=True, metavar="FORMAT", help="One of the formats above."
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="PATH",
    help="What to write; it must not exist.",
)
@click.option(
    "--with-runtime", is_flag=True, help="bundle: lay the runtime beside it; needs only numpy and onnxruntime."
)
@common
def export(
    run: Path, *, name: str | None, form: str, out: Path, as_json: bool, with_runtime: bool, **options: Any
) -> None:
    from ..exporter import proof_of
    from ..exporters import by_name

    written = by_name(form).export(artifact_of(run, name), out, **({"with_runtime": True} if with_runtime else {}))
    proof = proof_of(written)
    if as_json:
        show.as_json({"format": form, "path": str(written), "proof": proof})
        return
    print(written)
    if not options["quiet"]:
        said = f"compared on {proof['rows']:,} rows: differs by at most {proof.get('largest_difference', 0.0):.1g}"
        said = proof.get("note", said)
        trusted = f"; load it with trusted={proof['trusted']}" if "trusted" in proof else ""
        click.echo(said + trusted, err=True)


def artifact_of(path: Path, name: str | None) -> Path:
    """The artifact at `path`: itself, or the one called `name` of the run there; if None the most accurate within the run's limits.

    Raises InfeasibleError where no model meets these.
    """
    if path.is_file() or (path / "manifest.json").exists():
        if name is not None:
            raise click.UsageError(f"{path} is one artifact, so --model {name} has no meaning; leave it out.")
        return path
    from ..front import open_run

    front = open_run(path)
    return (front.choose() if name is None else front.get(name)).path
